"""A loss that explodes, and a memory that does not suffice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_medseg.errors import TrainingError
from nnunet_medseg.nnunet.rescue import (
    EXPLODED_BY,
    MAX_OVERFLOWS,
    MIN_CELLS,
    Rescue,
    has_finite_weights,
    is_out_of_memory,
    smaller_batch,
)


def make_network(value: float) -> torch.nn.Module:
    """Return a network, all of whose weights have a value."""
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.BatchNorm3d(2))
    fill(network, value)
    return network


def fill(network: torch.nn.Module, value: float) -> None:
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.fill_(value)


def values_of(network: torch.nn.Module) -> set[float]:
    tensors = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    return {float(value) for tensor in tensors for value in tensor.ravel()}


# --- a loss that explodes ----------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_loss_that_is_no_number_has_exploded(bad, place):
    losses = [1.0, 0.9, 0.8]
    losses[place] = bad

    assert Rescue().is_exploded(losses)


def test_the_first_epoch_is_in_order_however_high_its_losses():
    assert not Rescue().is_exploded([100.0, 99.0, 98.0])


def test_a_loss_that_falls_or_stays_is_in_order():
    rescue = Rescue()

    assert not any(rescue.is_exploded([loss, loss]) for loss in (1.0, 0.2, -0.6, -0.9, 1.0))


def test_an_epoch_far_above_the_first_loss_has_exploded():
    rescue = Rescue()
    rescue.is_exploded([1.0, 0.5])

    above = 1.0 + EXPLODED_BY + 0.1
    assert rescue.is_exploded([above, above])
    assert not rescue.is_exploded([above - 0.2, above - 0.2])


def test_a_single_high_loss_of_an_epoch_is_in_order():
    rescue = Rescue()
    rescue.is_exploded([1.0])

    assert not rescue.is_exploded([0.5] * 9 + [20.0])


def test_an_epoch_that_was_no_number_is_not_what_others_are_compared_with():
    rescue = Rescue()
    rescue.is_exploded([math.nan])
    rescue.is_exploded([1.0])

    assert rescue.is_exploded([1.0 + 2 * EXPLODED_BY])


def test_the_weights_of_the_last_good_epoch_come_back():
    rescue, network = Rescue(), make_network(1.0)
    rescue.remember(network)
    fill(network, 2.0)
    rescue.remember(network)
    fill(network, math.nan)

    rescue.restore(network)

    assert values_of(network) == {2.0}


def test_weights_come_back_as_often_as_they_are_needed():
    rescue, network = Rescue(), make_network(1.0)
    rescue.remember(network)

    for _ in range(2):
        fill(network, math.nan)
        rescue.restore(network)

        assert values_of(network) == {1.0}


def test_weights_that_are_numbers_are_in_order_however_large():
    assert has_finite_weights(make_network(3e38))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.weight", "1.running_var"])
def test_a_single_weight_or_statistic_that_is_no_number_is_found(name, bad):
    network = make_network(1.0)
    network.state_dict()[name].view(-1)[-1] = bad

    assert not has_finite_weights(network)


# --- a memory that does not suffice ------------------------------------------------------------


def take_too_much_with_torch() -> None:
    torch.empty(2**50)  # four pebibytes


def take_too_much_with_numpy() -> None:
    np.empty(2**50)


@pytest.mark.parametrize("take", [take_too_much_with_torch, take_too_much_with_numpy])
def test_what_a_cpu_raises_when_its_memory_is_used_up_is_recognised(take):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        take()

    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        # While it compiles, and from the libraries of CUDA.
        RuntimeError("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("FIND was unable to find an engine to execute this computation"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`"),
    ],
    ids=["torch", "compiling", "engines", "cuDNN", "cuBLAS"],
)
def test_what_a_gpu_raises_when_its_memory_is_used_up_is_recognised(error):
    assert is_out_of_memory(error)


def test_another_error_of_torch_is_not_taken_for_it():
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2, 3) @ torch.zeros(2, 3)

    assert not is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("workers are no longer alive"), ValueError("DefaultCPUAllocator"), OSError(12)],
    ids=["RuntimeError", "ValueError", "OSError"],
)
def test_other_errors_are_not_taken_for_it(error):
    assert not is_out_of_memory(error)


def left_out(losses: list[float]) -> list[bool]:
    rescue = Rescue()
    return [rescue.is_left_out(loss) for loss in losses]


def test_steps_that_overflow_now_and_then_are_left_out():
    assert left_out([0.5, math.inf, 0.4, math.nan]) == [False, True, False, True]


def test_steps_that_overflow_many_times_in_a_row_are_not():
    found = left_out([math.nan] * (MAX_OVERFLOWS + 2))

    assert found == [True] * MAX_OVERFLOWS + [False] * 2


def test_an_epoch_of_which_all_steps_were_left_out_has_not_exploded():
    assert not Rescue().is_exploded([])


def test_a_batch_is_halved_down_to_one_patch_before_the_patch_shrinks():
    seen = [(9, [32, 32])]
    while seen[-1][1] == [32, 32]:
        seen.append(smaller_batch(*seen[-1], [4, 4]))

    assert seen == [(9, [32, 32]), (4, [32, 32]), (2, [32, 32]), (1, [32, 32]), (1, [28, 32])]


def test_the_longest_side_of_a_patch_shrinks_first():
    assert smaller_batch(1, [16, 64, 80], [2, 8, 8]) == (1, [16, 64, 72])


def test_a_patch_is_left_as_it_was_given():
    patch = [32, 32, 32]

    smaller_batch(1, patch, [4, 4, 4])

    assert patch == [32, 32, 32]


def test_the_smallest_patch_is_an_error_that_says_what_to_do():
    with pytest.raises(TrainingError, match="does not suffice") as caught:
        smaller_batch(1, [16, 16, 16], [4, 4, 4])

    assert "memory" in caught.value.fix


@pytest.mark.parametrize(
    ("patch", "strides", "expected"),
    [([20, 256, 256], [4, 64, 64], [16, 256, 256]), ([64, 64, 40], [16, 16, 8], [64, 64, 32])],
    ids=["thick slices", "flat"],
)
def test_another_side_shrinks_when_the_longest_cannot(patch, strides, expected):
    assert smaller_batch(1, patch, strides) == (1, expected)


AXES = st.lists(
    st.tuples(st.sampled_from([1, 2, 4, 8, 16, 32]), st.integers(MIN_CELLS, 12)),
    min_size=2,
    max_size=3,
)


def shrink_to_the_end(
    batch: int, patch: list[int], strides: list[int]
) -> Iterator[tuple[int, list[int]]]:
    """Return batch and patch after each step, until nothing can be made smaller."""
    with suppress(TrainingError):
        while True:
            batch, patch = smaller_batch(batch, patch, strides)
            yield batch, patch


@given(st.integers(1, 64), AXES)
def test_each_step_takes_fewer_voxels_that_the_network_can_still_divide(batch, axes):
    strides = [stride for stride, _ in axes]
    patch = [stride * cells for stride, cells in axes]

    steps = [(batch, patch), *shrink_to_the_end(batch, patch, strides)]

    voxels = [count * math.prod(sides) for count, sides in steps]
    assert all(after < before for before, after in itertools.pairwise(voxels))
    for _, sides in steps:
        assert all(side % stride == 0 for side, stride in zip(sides, strides, strict=True))
        assert all(side // stride >= MIN_CELLS for side, stride in zip(sides, strides, strict=True))
    assert steps[-1][0] == 1
