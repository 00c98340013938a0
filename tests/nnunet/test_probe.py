"""How much work a plan is, and how long a step of it takes."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from page_faults import watch_memory
from tiny_model import CPU, DESCRIPTION
from tiny_training import CONFIGURATION, make_setup, make_training_plans

from nnunet_medseg.budget.recipe import Recipe
from nnunet_medseg.errors import TrainingError
from nnunet_medseg.nnunet import probe, trainer
from nnunet_medseg.nnunet.probe import (
    MAX_STEP_TO_COMPARE_S,
    count_flops,
    fastest_threads,
    fit_to_memory,
    in_faster_layout,
    measure_step,
)
from nnunet_medseg.nnunet.trainer import BudgetedTrainer, make_trainer


def make_sized(*, patch=(16, 16, 16), batch: int = 2, width: float = 1.0) -> dict:
    """Return plans of another size."""
    plans = make_training_plans()
    chosen = plans["configurations"][CONFIGURATION]
    chosen |= {"patch_size": list(patch), "batch_size": batch}
    network = chosen["architecture"]["arch_kwargs"]
    network["features_per_stage"] = [
        round(width * features) for features in network["features_per_stage"]
    ]
    return plans


def flops_of(**size) -> float:
    return count_flops(make_sized(**size), CONFIGURATION, DESCRIPTION)


def measure(folder, *, plans=None, until_s=math.inf, **chosen) -> float:
    plans = make_training_plans() if plans is None else plans
    return measure_step(plans, CONFIGURATION, DESCRIPTION, make_setup(folder, **chosen), until_s)


# --- work --------------------------------------------------------------------------------------


def test_half_the_width_is_less_than_half_the_work():
    own, half = flops_of(), flops_of(width=0.5)

    assert 0 < half < own / 2


def test_work_goes_with_the_number_of_voxels():
    own = flops_of()

    assert flops_of(batch=4) == pytest.approx(2 * own)
    assert flops_of(patch=(32, 16, 16)) == pytest.approx(2 * own)


def test_counting_takes_no_memory():
    # A batch of that would take 16 TB.
    flops = flops_of(patch=(2**14, 2**14, 2**13))

    assert flops == pytest.approx(2**29 * flops_of())


def test_counting_leaves_the_plans_as_they_are():
    plans = make_training_plans()

    count_flops(plans, CONFIGURATION, DESCRIPTION)

    assert plans == make_training_plans()


# --- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adamw"])
def test_a_step_takes_some_time(training_folder, optimizer):
    step_s = measure(training_folder, recipe=Recipe(optimizer=optimizer))

    assert 0 < step_s < math.inf


def test_measuring_leaves_plans_and_files_as_they_are(training_folder):
    plans = make_training_plans()

    measure(training_folder, plans=plans)

    assert plans == make_training_plans()
    assert not (training_folder / "checkpoint.pth").exists()
    assert not (training_folder / "history.jsonl").exists()


def turn_clock(monkeypatch, steps_s: list[float]) -> None:
    """Let steps do nothing but take the given seconds, one after the other."""
    clock, left = SimpleNamespace(now_s=0.0), list(steps_s)

    def step(*_) -> dict:
        clock.now_s += left.pop(0)
        return {"loss": np.float32(1.0)}

    monkeypatch.setattr(BudgetedTrainer, "train_step", step)
    monkeypatch.setattr(probe, "time", SimpleNamespace(monotonic=lambda: clock.now_s))


def test_the_fastest_of_three_steps_counts(training_folder, monkeypatch):
    turn_clock(monkeypatch, [5.0, 1.0, 2.0])

    assert measure(training_folder) == 1.0


def test_short_steps_are_repeated_until_one_runs_undisturbed(training_folder, monkeypatch):
    turn_clock(monkeypatch, [0.2] * 4 + [0.1] + [0.2] * 20)

    assert measure(training_folder) == pytest.approx(0.1)


def test_steps_are_measured_with_the_memory_of_the_steps_before(training_folder, monkeypatch):
    memory = watch_memory(monkeypatch)
    kept: list[bool] = []

    def step(*_) -> dict:
        kept.append(memory.is_kept)
        return {"loss": np.float32(1.0)}

    monkeypatch.setattr(BudgetedTrainer, "train_step", step)

    measure(training_folder)

    assert set(kept) == {True}
    assert not memory.is_kept


@pytest.mark.parametrize(
    ("steps_s", "expected_s"), [([40.0], 40.0), ([16.0], 16.0), ([12.0, 11.0], 11.0)]
)
def test_fewer_steps_are_done_where_they_take_long(
    training_folder, monkeypatch, steps_s, expected_s
):
    turn_clock(monkeypatch, steps_s)

    assert measure(training_folder, until_s=30.0) == expected_s


def test_one_step_is_done_when_the_time_for_measuring_is_over(training_folder, monkeypatch):
    turn_clock(monkeypatch, [0.2, 0.1])

    assert measure(training_folder, until_s=0.0) == 0.2


# --- threads -----------------------------------------------------------------------------------


def let_threads_take(monkeypatch, seconds: dict[int, float]) -> None:
    """Let a machine have as many cores as the most threads, and a step take these seconds.

    A measurement is three steps.
    """
    clock = SimpleNamespace(now_s=0.0)

    def measure_threads(*given) -> float:
        clock.now_s += 3 * seconds[given[3].threads]
        return seconds[given[3].threads]

    monkeypatch.setattr(probe, "core_count", lambda: max(seconds))
    monkeypatch.setattr(probe, "measure_step", measure_threads)
    monkeypatch.setattr(probe, "time", SimpleNamespace(monotonic=lambda: clock.now_s))


def threads_on(
    folder, step_s: float = 0.3, until_s: float = math.inf, **chosen
) -> tuple[int | None, float]:
    plans, setup = make_training_plans(), make_setup(folder, **chosen)
    return fastest_threads(plans, CONFIGURATION, DESCRIPTION, setup, step_s, until_s)


def test_as_many_threads_train_as_are_fastest(training_folder, monkeypatch):
    let_threads_take(monkeypatch, {16: 0.3, 8: 0.2, 4: 0.25})

    assert threads_on(training_folder) == (8, 0.2)


def test_a_thread_on_each_core_needs_no_number(training_folder, monkeypatch):
    let_threads_take(monkeypatch, {16: 0.3, 8: 0.4})

    # The machine that goes on with the run may have more.
    assert threads_on(training_folder) == (None, 0.3)


def test_threads_are_not_compared_where_a_step_takes_long(training_folder, monkeypatch):
    let_threads_take(monkeypatch, {16: 3.0, 8: 2.0})

    step_s = 2 * MAX_STEP_TO_COMPARE_S
    assert threads_on(training_folder, step_s=step_s) == (None, step_s)


def test_threads_are_not_compared_when_the_time_for_measuring_is_nearly_over(
    training_folder, monkeypatch
):
    let_threads_take(monkeypatch, {16: 0.3, 8: 0.2, 4: 0.1})

    assert threads_on(training_folder, until_s=1.0) == (None, 0.3)


def test_fewer_threads_are_compared_as_long_as_there_is_time(training_folder, monkeypatch):
    let_threads_take(monkeypatch, {16: 0.6, 8: 0.4, 4: 0.3, 2: 0.2})

    # 16 and 8 take 3 s, and 4 begin within the time.
    assert threads_on(training_folder, step_s=0.5, until_s=3.5) == (4, 0.3)


def test_on_a_gpu_threads_are_not_compared(training_folder):
    gpu = replace(CPU, kind="cuda")

    assert threads_on(training_folder, device=gpu) == (None, 0.3)


@pytest.mark.parametrize(("chosen", "expected"), [(1, 1), (None, 2), (1000, 2)])
def test_a_training_has_the_chosen_threads_and_at_most_one_a_core(
    training_folder, monkeypatch, chosen, expected
):
    monkeypatch.setattr(trainer, "core_count", lambda: 2)
    setup = make_setup(training_folder, threads=chosen)

    make_trainer(make_training_plans(), CONFIGURATION, DESCRIPTION, setup)

    assert torch.get_num_threads() == expected


def test_after_measuring_there_is_a_thread_on_each_core_again(training_folder, monkeypatch):
    monkeypatch.setattr(trainer, "core_count", lambda: 2)

    measure(training_folder, threads=1)

    assert torch.get_num_threads() == 2


# --- layout ------------------------------------------------------------------------------------


def layout_on(folder, *, first_s=0.3, last_s=0.2, until_s=math.inf, **chosen):
    """Return whether channels come last, and the seconds of a step, where both take these."""
    setup, step_s = in_faster_layout(
        make_setup(folder, **chosen),
        lambda setup: last_s if setup.channels_last else first_s,
        until_s,
    )
    return setup.channels_last, step_s


def test_channels_come_last_where_steps_are_faster_so(training_folder):
    assert layout_on(training_folder) == (True, 0.2)


def test_channels_come_first_where_steps_are_faster_so(training_folder):
    assert layout_on(training_folder, last_s=0.4) == (False, 0.3)


@pytest.mark.parametrize(("last_s", "expected"), [(0.2, (True, 0.2)), (0.4, (False, 0.3))])
def test_a_layout_that_was_chosen_is_compared_with_the_other(training_folder, last_s, expected):
    assert layout_on(training_folder, last_s=last_s, channels_last=True) == expected


NO_MEMORY = {"first_s": math.inf, "until_s": 1e9}


@pytest.mark.parametrize(
    "case",
    [{"device": replace(CPU, kind="cuda")}, {"until_s": 0.0}, NO_MEMORY],
    ids=["GPU", "no time", "no memory"],
)
def test_channels_come_first_where_the_layouts_are_not_compared(training_folder, case):
    assert layout_on(training_folder, **case) == (False, case.get("first_s", 0.3))


@pytest.mark.parametrize(
    "case", [{"device": replace(CPU, kind="cuda")}, {"until_s": 0.0}], ids=["GPU", "no time"]
)
def test_a_layout_that_was_chosen_stays_where_the_other_is_not_tried(training_folder, case):
    assert layout_on(training_folder, first_s=0.1, channels_last=True, **case) == (True, 0.2)


# --- memory ------------------------------------------------------------------------------------


def raise_in_step(monkeypatch, error: Exception) -> None:
    def step(*_) -> None:
        raise error

    monkeypatch.setattr(BudgetedTrainer, "train_step", step)


def test_a_plan_that_no_machine_holds_takes_for_ever(training_folder):
    huge = make_sized(patch=(2**15, 2**15, 2**15))

    assert measure(training_folder, plans=huge) == math.inf


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()],
    ids=["GPU", "CPU"],
)
def test_a_step_that_does_not_fit_the_memory_takes_for_ever(training_folder, monkeypatch, error):
    raise_in_step(monkeypatch, error)

    assert measure(training_folder) == math.inf


def bytes_of(**size) -> float:
    """Return what the features of a training step take."""
    plans = make_sized(**size)
    network, batch = probe._on_meta(plans, CONFIGURATION, DESCRIPTION)
    features = network.compute_conv_feature_map_size(tuple(batch.shape[2:])) * batch.shape[0]
    return features * probe.BYTES_A_FEATURE


@pytest.mark.parametrize(
    ("fitting", "batch", "patch"),
    [
        ({"batch": 4}, 4, (16, 16, 16)),
        ({"batch": 2}, 2, (16, 16, 16)),
        ({"batch": 1, "patch": (14, 16, 16)}, 1, (14, 16, 16)),
    ],
    ids=["enough", "half of the batch", "a smaller patch"],
)
def test_batch_then_patch_become_as_small_as_the_memory_asks_for(
    monkeypatch, fitting, batch, patch
):
    monkeypatch.setattr(probe, "free_memory_bytes", lambda: bytes_of(**fitting) + 1)

    fitted = fit_to_memory(make_sized(batch=4), CONFIGURATION, DESCRIPTION)

    assert fitted == make_sized(batch=batch, patch=patch)


def test_a_memory_that_holds_no_patch_is_told(monkeypatch):
    monkeypatch.setattr(probe, "free_memory_bytes", lambda: 1000)

    with pytest.raises(TrainingError, match="memory does not suffice for a single small patch"):
        fit_to_memory(make_sized(), CONFIGURATION, DESCRIPTION)


def test_any_other_error_of_a_step_is_not_hidden(training_folder, monkeypatch):
    raise_in_step(monkeypatch, RuntimeError("sizes do not match"))

    with pytest.raises(RuntimeError, match="sizes do not match"):
        measure(training_folder)


def test_no_step_that_is_measured_is_left_out_because_gradients_overflow(
    training_folder, monkeypatch
):
    scales: list[float] = []
    prepare = BudgetedTrainer.prepare_network

    def prepare_as_on_a_gpu(trainer: BudgetedTrainer) -> None:
        prepare(trainer)
        trainer.grad_scaler = torch.amp.GradScaler("cpu")

    def step(trainer: BudgetedTrainer, _: dict) -> dict:
        scales.append(trainer.grad_scaler.get_scale())
        return {"loss": np.float32(1.0)}

    monkeypatch.setattr(BudgetedTrainer, "prepare_network", prepare_as_on_a_gpu)
    monkeypatch.setattr(BudgetedTrainer, "train_step", step)

    measure_step(
        make_training_plans(), CONFIGURATION, DESCRIPTION, make_setup(training_folder), math.inf
    )

    assert set(scales) == {1.0}
