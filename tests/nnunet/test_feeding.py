"""Which patches a training gets, and from how many processes."""

from __future__ import annotations

import errno
import math
import multiprocessing
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import wrap_step
from watched_training import ASKED_S, PATCH, limit_memory, make_trainer, train

from nnunet_medseg.budget.recipe import Recipe
from nnunet_medseg.errors import TrainingError
from nnunet_medseg.hardware import Device
from nnunet_medseg.nnunet import feeding
from nnunet_medseg.nnunet.feeding import enough_loaders, loader_count, weaken
from nnunet_medseg.nnunet.loading import PatchWorkers
from nnunet_medseg.nnunet.trainer import BudgetedTrainer

# --- how many processes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "cores", "loaders"),
    [
        ("cpu", 1, 1),
        ("cpu", 2, 1),
        ("cpu", 16, 4),
        ("cuda", 1, 1),
        ("cuda", 8, 7),
        ("cuda", 64, 12),
    ],
)
def test_loaders_leave_cores_for_training(monkeypatch, kind, cores, loaders):
    monkeypatch.setattr(feeding, "core_count", lambda: cores)

    assert loader_count(Device(kind, 0, "a device", has_fast_bf16=False)) == loaders


@pytest.mark.parametrize(
    ("cores", "count", "waited_share", "expected"),
    [
        (8, 2, 0.05, 2),
        (8, 2, 0.06, 4),
        (8, 4, 1.0, 8),
        (8, 7, 0.5, 8),
        (8, 8, 1.0, 8),
        (2, 1, 0.2, 2),
        (1, 1, 1.0, 1),
        # A container may be given fewer cores while it runs: nobody is sent away.
        (4, 7, 1.0, 7),
    ],
)
def test_loaders_double_while_steps_wait_for_them_up_to_one_for_each_core(
    monkeypatch, cores, count, waited_share, expected
):
    monkeypatch.setattr(feeding, "core_count", lambda: cores)

    assert enough_loaders(count, waited_share) == expected


# --- processes in a training -------------------------------------------------------------------


# A worker that ends while nnU-Net takes a batch from it leaves an error in a thread of nnU-Net.
WITH_WORKERS = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@WITH_WORKERS
def test_new_workers_cut_the_smaller_patches_and_end_with_the_training(training_folder):
    trainer = make_trainer(training_folder, has_workers=True)
    limit_memory(trainer, 14 * 16 * 16, MemoryError())

    witness = train(trainer)

    assert len(witness.troubles) == 2
    assert witness.shapes[2:] == [(1, 1, 14, 16, 16)] * ASKED_S
    assert multiprocessing.active_children() == []


@WITH_WORKERS
@pytest.mark.parametrize("error", [RuntimeError("sizes do not match"), KeyboardInterrupt()])
def test_workers_end_when_an_error_ends_the_training(training_folder, error):
    trainer = make_trainer(training_folder, has_workers=True)
    limit_memory(trainer, 0, error)

    with pytest.raises(type(error)):
        train(trainer)

    assert multiprocessing.active_children() == []


def kill_workers(trainer: BudgetedTrainer, times: int) -> None:
    """Let the processes that load patches be killed before some of the steps."""
    killed: list[int] = []

    def step(own: Callable[..., Any], batch: dict[str, Any]) -> Any:
        if trainer.progress.iterations and len(killed) < times:
            killed.append(trainer.progress.iterations)
            for process in trainer.dataloader_train._processes:
                process.kill()
                process.join()  # else it may be killed a second time, still dying of the first
        return own(batch)

    wrap_step(trainer, step)


@WITH_WORKERS
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_killed_workers_are_started_again(training_folder):
    trainer = make_trainer(training_folder, has_workers=True)
    kill_workers(trainer, 2)

    witness = train(trainer)

    assert [text.partition(";")[2] for text in witness.troubles] == [" going on with new ones"] * 2
    assert trainer.clock.used_s >= ASKED_S
    assert multiprocessing.active_children() == []


@WITH_WORKERS
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_workers_that_are_killed_again_and_again_end_the_training_with_the_fix(training_folder):
    trainer = make_trainer(training_folder, has_workers=True)
    kill_workers(trainer, 1000)

    with pytest.raises(TrainingError, match="4 times") as stopped:
        train(trainer)

    assert "memory" in stopped.value.fix


def let_steps_wait(
    trainer: BudgetedTrainer, monkeypatch: pytest.MonkeyPatch, *, until: int = 1000
) -> list[int]:
    """Let steps wait a tenth of a second for their patches; return how many cut those of each."""
    counts: list[int] = []
    load = PatchWorkers.__next__

    def slowly(workers: PatchWorkers) -> Any:
        batch = load(workers)
        counts.append(len(workers._processes))
        return batch

    monkeypatch.setattr(PatchWorkers, "__next__", slowly)
    trainer.clock = type(trainer.clock)(
        ASKED_S, now=lambda: trainer.progress.iterations + min(len(counts), until) / 10
    )
    return counts


@WITH_WORKERS
def test_steps_that_wait_for_patches_get_more_processes_that_cut_them(training_folder, monkeypatch):
    monkeypatch.setattr(feeding, "core_count", lambda: 3)
    trainer = make_trainer(training_folder, has_workers=True)
    counts = let_steps_wait(trainer, monkeypatch)

    train(trainer)

    assert list(dict.fromkeys(counts)) == [1, 2, 3]
    assert trainer.supply.count == 3
    assert multiprocessing.active_children() == []


@WITH_WORKERS
def test_one_epoch_that_waited_brings_no_more_processes(training_folder, monkeypatch):
    monkeypatch.setattr(feeding, "core_count", lambda: 3)
    trainer = make_trainer(training_folder, has_workers=True)
    # The first two epochs, of which the first does not count.
    counts = let_steps_wait(trainer, monkeypatch, until=8)

    train(trainer)

    assert set(counts) == {1}


@WITH_WORKERS
def test_a_full_memory_brings_no_more_processes(training_folder, monkeypatch):
    monkeypatch.setattr(feeding, "core_count", lambda: 3)
    monkeypatch.setattr(feeding, "free_memory_bytes", lambda: 3e9)
    trainer = make_trainer(training_folder, has_workers=True)
    counts = let_steps_wait(trainer, monkeypatch)

    train(trainer)

    assert set(counts) == {1}


@WITH_WORKERS
def test_a_training_goes_on_when_the_system_refuses_one_more_process(training_folder, monkeypatch):
    monkeypatch.setattr(feeding, "core_count", lambda: 3)
    trainer = make_trainer(training_folder, has_workers=True)
    counts = let_steps_wait(trainer, monkeypatch)
    start, refused = multiprocessing.Process.start, []

    def refuse(process: Any) -> None:
        if len(counts) > 8 and not refused:
            refused.append(process)
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        start(process)

    monkeypatch.setattr(multiprocessing.Process, "start", refuse)

    (said,) = train(trainer).troubles

    assert said == (
        "a process that loads patches cannot be started (Cannot allocate memory); "
        "going on with new ones"
    )
    assert set(counts) == {1}
    assert trainer.clock.used_s >= ASKED_S


@WITH_WORKERS
def test_after_one_that_was_killed_there_are_no_more_processes_than_at_first(
    training_folder, monkeypatch
):
    monkeypatch.setattr(feeding, "core_count", lambda: 3)
    trainer = make_trainer(training_folder, has_workers=True)
    counts = let_steps_wait(trainer, monkeypatch)
    killed: list[int] = []

    def step(own: Callable[..., Any], batch: dict[str, Any]) -> Any:
        workers = trainer.dataloader_train
        if len(workers._processes) == 3 and not killed:
            killed.append(trainer.progress.iterations)
            workers._processes[-1].kill()
            workers._processes[-1].join()
        return own(batch)

    wrap_step(trainer, step)

    assert len(train(trainer).troubles) == 1
    assert [count for count, _ in groupby(counts)] == [1, 2, 3, 1]


@WITH_WORKERS
def test_processes_that_cut_patches_hold_no_weights_no_gradients_and_no_state(
    training_folder, monkeypatch
):
    monkeypatch.setattr(feeding, "core_count", lambda: 2)
    started: list[dict[int, int]] = []

    def note(blocks: Iterable[tuple[int, int]]) -> Any:
        started.append(dict(blocks))
        return nullcontext()

    monkeypatch.setattr(feeding, "kept_from_forks", note)
    trainer = make_trainer(training_folder, has_workers=True, averaging=0.1)
    let_steps_wait(trainer, monkeypatch)

    train(trainer)

    at_first, added = started
    weights = list(trainer.network.parameters())
    assert at_first.keys() >= {weight.data_ptr() for weight in weights}
    # Average and last good weights of each, and momentum and gradient of those that are trained.
    trained = len(trainer.optimizer.state)
    assert len(trainer.state) == 2 * len(weights) + trained
    held = [*weights, *trainer.state]
    assert added.items() >= {(tensor.data_ptr(), tensor.nbytes) for tensor in held}
    assert len(added) == len(held) + trained


# --- patches that are centred on a label -------------------------------------------------------


def forced_patches(folder: Path, batch: int, share: float, steps: int) -> np.ndarray:
    """Return which patches are centred on a label, shape `(steps, batch)`."""
    trainer = make_trainer(folder, oversampling=share)
    trainer._resize(batch, PATCH)
    trainer._start_workers = lambda loader: loader
    loader, _ = trainer.get_dataloaders()
    np.random.seed(0)
    return np.array(
        [[loader.get_do_oversample(place) for place in range(batch)] for _ in range(steps)]
    )


@pytest.mark.parametrize(
    ("batch", "share"), [(1, 0.33), (1, 0.7), (2, 0.1), (2, 0.4), (2, 0.7), (5, 0.15)]
)
def test_as_many_patches_are_centred_on_a_label_as_was_asked_for(training_folder, batch, share):
    forced = forced_patches(training_folder, batch, share, steps=2000)

    # In each place of the batch: four standard deviations are 0.04 at most.
    assert forced.mean(axis=0) == pytest.approx([share] * batch, abs=0.045)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_patch_or_each_one_is_centred_on_a_label_when_that_was_asked_for(
    training_folder, batch, share
):
    assert np.all(forced_patches(training_folder, batch, share, steps=200) == share)


@pytest.mark.parametrize(("batch", "last"), [(2, 1), (3, 1), (5, 2)])
def test_without_a_wish_the_last_patches_of_a_batch_are_centred_on_a_label_as_in_nnunet(
    training_folder, batch, last
):
    forced = forced_patches(training_folder, batch, Recipe().oversampling, steps=5)

    assert (forced == [[False] * (batch - last) + [True] * last] * 5).all()


def test_a_batch_that_shrinks_to_one_patch_still_has_patches_centred_on_a_label(training_folder):
    trainer = make_trainer(training_folder)
    limit_memory(trainer, math.prod(PATCH), MemoryError())
    loaders: list[Any] = []
    start = trainer._start_workers

    def keep(loader: Any) -> Any:
        loaders.append(loader)
        return start(loader)

    trainer._start_workers = keep

    train(trainer)

    assert [loader.batch_size for loader in loaders] == [2, 1]
    assert any(loaders[-1].get_do_oversample(0) for _ in range(200))


# --- augmentation ------------------------------------------------------------------------------


def make_augmentation(*, is_flat: bool = False) -> Any:
    """Return nnU-Net's augmentation of patches of 16³ voxels, without mirroring."""
    return BudgetedTrainer.get_training_transforms(
        tuple(PATCH), (-0.5, 0.5), None, None, do_dummy_2d_data_aug=is_flat
    )


def probabilities_of(augmentation: Any) -> list[float]:
    names = ("apply_probability", "p_rotation", "p_scaling", "p_elastic_deform")
    return [
        float(getattr(transform, name))
        for transform in augmentation.transforms
        for name in names
        if hasattr(transform, name)
    ]


@pytest.mark.parametrize("is_flat", [False, True])
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0])
def test_weaker_augmentation_has_lower_probabilities(is_flat, factor):
    augmentation = make_augmentation(is_flat=is_flat)
    own = probabilities_of(augmentation)

    weaken(augmentation, factor)

    assert max(own) > 0
    assert probabilities_of(augmentation) == pytest.approx([factor * value for value in own])


@pytest.mark.parametrize("is_flat", [False, True])
def test_without_augmentation_a_patch_is_the_middle_of_what_was_cut(is_flat):
    augmentation = make_augmentation(is_flat=is_flat)
    # With flat patches only the plane is cut larger.
    depth = slice(None) if is_flat else slice(4, 20)
    image = torch.rand(1, 16 if is_flat else 24, 24, 24)
    weaken(augmentation, 0.0)

    for _ in range(10):
        found = augmentation(image=image.clone(), segmentation=(image > 0.5).to(torch.int16))

        assert torch.equal(found["image"], image[:, depth, 4:20, 4:20])
