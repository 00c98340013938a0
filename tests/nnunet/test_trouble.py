"""Trainings that get into trouble, and what else a tiny training shows.

The clock counts iterations, so that each takes a second: of 24 s the first epochs have 3, 5, 4
and 3 iterations.
"""

from __future__ import annotations

import errno
import math
import multiprocessing
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from page_faults import watch_memory
from tiny_training import make_setup, make_tiny_trainer, weights_of, wrap_step

from nnunet_medseg.budget.clock import TrainingClock
from nnunet_medseg.budget.recipe import Recipe
from nnunet_medseg.budget.schedule import learning_rate
from nnunet_medseg.errors import BudgetError, TrainingError
from nnunet_medseg.nnunet import environment
from nnunet_medseg.nnunet.history import Epoch, read_history
from nnunet_medseg.nnunet.loading import LoadingError, PatchWorkers
from nnunet_medseg.nnunet.trainer import BudgetedTrainer, weaken
from nnunet_medseg.nnunet.weights import read_checkpoint, write_checkpoint
from nnunet_medseg.report.tracker import Tracker

ASKED_S = 24
PATCH = [16, 16, 16]


@dataclass
class Witness:
    """What a training has said, and the shape of the data of each step that was tried."""

    epochs: list[Epoch] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def losses(self) -> list[float]:
        return [epoch.loss for epoch in self.epochs]


def make_trainer(folder: Path, *, has_workers: bool = False, **recipe: Any) -> BudgetedTrainer:
    setup = make_setup(folder, asked_s=ASKED_S, recipe=Recipe(**recipe))
    return make_tiny_trainer(setup, has_workers=has_workers)


def make_ready_trainer(folder: Path, **recipe: Any) -> BudgetedTrainer:
    """Return a trainer that has its network and could step."""
    trainer = make_trainer(folder, **recipe)
    trainer.clock.start()
    trainer.prepare_network()
    return trainer


def train(trainer: BudgetedTrainer, *, until: int = 1000) -> Witness:
    """Train to the end, or until the user interrupts after a number of iterations."""
    witness = Witness()

    def step(own: Callable[..., Any], batch: dict[str, Any]) -> Any:
        witness.shapes.append(tuple(batch["data"].shape))
        return own(batch)

    wrap_step(trainer, step)
    trainer.run_training(
        on_epoch=witness.epochs.append,
        should_stop=lambda: trainer.progress.iterations >= until,
        on_trouble=witness.troubles.append,
    )
    return witness


def train_until(trainer: BudgetedTrainer, iteration: int) -> None:
    """Train until the user interrupts."""
    train(trainer, until=iteration)
    assert trainer.is_cut_off


def explode(trainer: BudgetedTrainer, when: Callable[[int], bool]) -> None:
    """Let weights become no numbers in the iterations, counted from 1, that are chosen."""

    def step(own: Callable[..., Any], batch: dict[str, Any]) -> Any:
        if when(trainer.progress.iterations + 1):
            with torch.no_grad():
                next(trainer.network.parameters()).fill_(math.nan)
        return own(batch)

    wrap_step(trainer, step)


def spoil_after(trainer: BudgetedTrainer, iteration: int) -> None:
    """Let the weights become no numbers in the update of an iteration, counted from 1."""

    def step(own: Callable[..., Any], batch: dict[str, Any]) -> Any:
        result = own(batch)
        if trainer.progress.iterations + 1 == iteration:
            with torch.no_grad():
                next(trainer.network.parameters()).fill_(math.nan)
        return result

    wrap_step(trainer, step)


def fail_to_load_at_the_end(trainer: BudgetedTrainer, iteration: int) -> None:
    """Let patches fail to come after an iteration's step, and the time be over by then."""

    def step(own: Callable[..., Any], batch: dict[str, Any]) -> Any:
        result = own(batch)
        if trainer.progress.iterations + 1 == iteration:
            trainer.clock.start(used_before_s=ASKED_S)
            raise LoadingError("a process ended")
        return result

    wrap_step(trainer, step)


def limit_memory(trainer: BudgetedTrainer, voxels: int, error: BaseException) -> None:
    """Let the step fail for every batch that has more voxels."""

    def step(own: Callable[..., Any], batch: dict[str, Any]) -> Any:
        if batch["data"].numel() > voxels:
            raise error
        return own(batch)

    wrap_step(trainer, step)


def are_finite(weights: dict[str, torch.Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in weights.values())


def are_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def rate_at(epoch: Epoch) -> float:
    """Return the rate of an epoch's last step without a setback."""
    recipe = Recipe()
    share = (epoch.used_s - 1) / ASKED_S
    return learning_rate(share, recipe.peak_rate, recipe.warm_up_share, recipe.schedule)


# --- the line of an epoch ---------------------------------------------------------------------


def test_the_line_of_an_epoch_tells_the_time_asked_and_the_share_spent_waiting(training_folder):
    trainer = make_trainer(training_folder)
    load = trainer.get_dataloaders

    def slow_loaders() -> Any:
        patches, held_out = load()

        def slowly():
            for batch in patches:
                # The clock counts iterations: a wait of a tenth for each of a step.
                waits.append(1)
                yield batch

        return slowly(), held_out

    waits: list[int] = []
    trainer.get_dataloaders = slow_loaders
    trainer.clock = type(trainer.clock)(
        ASKED_S, now=lambda: trainer.progress.iterations + len(waits) / 10
    )

    epochs = train(trainer).epochs

    assert {epoch.asked_s for epoch in epochs} == {ASKED_S}
    assert [epoch.waited_share for epoch in epochs] == pytest.approx([1 / 11] * len(epochs))


def test_a_training_whose_tracker_fails_goes_on_to_its_end(training_folder):
    def broken() -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    said: list[str] = []
    tracker = Tracker(broken, said.append)
    trainer = make_trainer(training_folder)

    trainer.run_training(on_epoch=tracker.tell)

    assert len(said) == 1
    assert trainer.clock.used_s >= ASKED_S
    assert are_finite(weights_of(trainer))
    assert len(read_history(training_folder / "history.jsonl")) == trainer.current_epoch > 1


# --- patches that grow ------------------------------------------------------------------------


def test_patches_are_small_for_a_share_of_the_time_and_then_those_of_the_plan(training_folder):
    trainer = make_trainer(training_folder, growth=0.5)

    witness = train(trainer)

    sides = [shape[-1] for shape in witness.shapes]
    assert sides == [12] * (ASKED_S // 2) + [16] * (ASKED_S // 2)
    assert witness.troubles == []
    assert trainer.configuration_manager.patch_size == PATCH


def test_an_interrupted_training_goes_on_with_the_patch_that_is_due(training_folder):
    train_until(make_trainer(training_folder, growth=0.5), 6)
    early = train(make_trainer(training_folder, growth=0.5))

    assert read_checkpoint(training_folder / "checkpoint.pth")["patch_size"] == PATCH
    assert [shape[-1] for shape in early.shapes] == [12] * 6 + [16] * 12


def test_a_training_that_is_cut_off_early_predicts_with_the_patch_of_the_plan(training_folder):
    trainer = make_trainer(training_folder, growth=0.5)

    train_until(trainer, 6)

    assert list(trainer.configuration_manager.patch_size) == PATCH


def test_patches_grow_no_larger_than_the_memory_allows(training_folder):
    trainer = make_trainer(training_folder, growth=0.5)
    limit_memory(trainer, 14**3, torch.OutOfMemoryError("CUDA out of memory"))

    witness = train(trainer)

    done = [shape for shape in witness.shapes if math.prod(shape) <= 14**3]
    assert len(done) == trainer.progress.iterations == ASKED_S
    assert done[0] == (1, 1, 12, 12, 12)
    assert done[-1][0] == 1
    assert 12**3 < math.prod(done[-1]) <= 14**3
    assert trainer.clock.used_s == ASKED_S


def test_what_is_compiled_keeps_its_patch(training_folder):
    setup = make_setup(training_folder, asked_s=ASKED_S, recipe=Recipe(growth=0.5), compiled=True)
    trainer = make_tiny_trainer(setup)
    trainer._do_i_compile = lambda: False

    assert {shape[-1] for shape in train(trainer).shapes} == {16}


# --- a loss that explodes ----------------------------------------------------------------------


def test_a_training_without_trouble_says_nothing(training_folder):
    trainer = make_trainer(training_folder)

    witness = train(trainer)

    assert trainer.progress.iterations == ASKED_S
    assert trainer.progress.setbacks == 0
    assert witness.troubles == []
    assert [epoch.learning_rate for epoch in witness.epochs] == pytest.approx(
        [rate_at(epoch) for epoch in witness.epochs]
    )


def test_a_training_whose_loss_exploded_goes_on_from_the_last_good_weights(training_folder):
    trainer = make_trainer(training_folder)
    explode(trainer, lambda iteration: iteration == 10)
    good, restored = [], []

    trainer.run_training(
        on_epoch=lambda _: good.append(weights_of(trainer)),
        on_trouble=lambda _: restored.extend([good[-1], weights_of(trainer)]),
    )

    before, after = restored
    assert are_finite(before)
    assert are_equal(before, after)
    assert are_finite(weights_of(trainer))
    assert trainer.progress.iterations == ASKED_S


def test_a_training_whose_loss_exploded_goes_on_with_half_the_rate_and_says_so(training_folder):
    trainer = make_trainer(training_folder)
    explode(trainer, lambda iteration: iteration == 10)

    witness = train(trainer)

    (trouble,) = witness.troubles
    factors = [epoch.learning_rate / rate_at(epoch) for epoch in witness.epochs]
    assert "the loss exploded" in trouble
    assert "2 times lower" in trouble
    assert factors == pytest.approx([1.0, 1.0] + [0.5] * (len(factors) - 2))
    assert np.isfinite(witness.losses).all()


def test_an_epoch_that_exploded_does_not_count(training_folder):
    trainer = make_trainer(training_folder)
    explode(trainer, lambda iteration: iteration == 10)

    witness = train(trainer)

    numbers = [epoch.number for epoch in read_history(trainer.setup.history)]
    assert numbers == list(range(1, len(witness.epochs) + 1))
    assert trainer.current_epoch == len(witness.epochs)


def test_a_loss_that_rises_far_above_the_first_has_exploded(training_folder):
    trainer = make_trainer(training_folder)

    def step(own: Callable[..., Any], batch: dict[str, Any]) -> Any:
        result = own(batch)
        is_high = 8 <= trainer.progress.iterations < 12
        return {"loss": np.float32(50.0)} if is_high else result

    wrap_step(trainer, step)

    witness = train(trainer)

    assert trainer.progress.setbacks == len(witness.troubles) == 1
    assert max(witness.losses) < 50.0


def test_a_training_that_explodes_again_and_again_ends_after_three_setbacks(training_folder):
    trainer = make_trainer(training_folder)
    explode(trainer, lambda iteration: iteration > 3)
    troubles = []

    with pytest.raises(TrainingError, match="diverged 4 times"):
        trainer.run_training(on_trouble=troubles.append)

    assert [trouble.split("with ")[1] for trouble in troubles] == [
        f"{factor} times lower a learning rate" for factor in (2, 4, 8)
    ]


def test_a_training_whose_first_step_exploded_goes_on_from_the_first_weights(training_folder):
    trainer = make_trainer(training_folder)
    explode(trainer, lambda iteration: iteration == 1)

    witness = train(trainer)

    assert len(witness.troubles) == 1
    assert are_finite(weights_of(trainer))


def test_a_training_that_explodes_after_an_interruption_goes_on_from_its_checkpoint(
    training_folder,
):
    train_until(make_trainer(training_folder), 10)
    trainer = make_trainer(training_folder)
    explode(trainer, lambda iteration: iteration == 11)

    witness = train(trainer)

    assert len(witness.troubles) == 1
    assert are_finite(weights_of(trainer))


def test_weights_that_the_last_step_of_an_epoch_spoilt_are_not_the_last_good_ones(
    training_folder,
):
    trainer = make_trainer(training_folder)
    spoil_after(trainer, 3)

    witness = train(trainer)

    (trouble,) = witness.troubles
    assert "the loss exploded" in trouble
    assert witness.epochs[0].iterations > 3
    assert trainer.progress.iterations == ASKED_S
    assert are_finite(weights_of(trainer))
    assert are_finite(checkpoint_of(trainer))


@pytest.mark.parametrize("averaging", [0.0, 0.3])
def test_weights_that_the_very_last_step_spoilt_are_not_handed_over(training_folder, averaging):
    trainer = make_trainer(training_folder, averaging=averaging)
    spoil_after(trainer, ASKED_S)
    good = []

    troubles: list[str] = []
    trainer.run_training(
        on_epoch=lambda _: good.append(weights_of(trainer)), on_trouble=troubles.append
    )
    trainer.use_average()

    (trouble,) = troubles
    assert "the loss exploded" in trouble
    assert trainer.progress.iterations == ASKED_S
    assert are_equal(weights_of(trainer), good[-1])
    assert are_equal(checkpoint_of(trainer), good[-1])
    assert are_finite(good[-1])


def test_weights_that_the_last_step_before_an_interruption_spoilt_are_not_handed_over(
    training_folder,
):
    trainer = make_trainer(training_folder, averaging=0.3)
    spoil_after(trainer, 10)

    train_until(trainer, 10)
    trainer.use_average()

    assert are_finite(weights_of(trainer))
    assert are_finite(checkpoint_of(trainer))


def test_weights_spoilt_in_an_epoch_that_found_no_end_are_not_handed_over(training_folder):
    trainer = make_trainer(training_folder)
    spoil_after(trainer, 10)
    fail_to_load_at_the_end(trainer, 10)

    witness = train(trainer)

    assert ["exploded" in trouble for trouble in witness.troubles] == [False, True]
    assert are_finite(weights_of(trainer))
    assert are_finite(checkpoint_of(trainer))


def test_a_training_none_of_whose_epochs_was_in_order_ends_with_an_error(training_folder):
    trainer = make_trainer(training_folder)
    fail_to_load_at_the_end(trainer, 2)

    with pytest.raises(TrainingError, match="before one epoch was in order") as stopped:
        train(trainer)

    assert read_history(trainer.setup.history) == []
    assert "--fresh" in stopped.value.fix


@pytest.mark.parametrize("averaging", [0.0, 0.3])
def test_an_interruption_does_not_write_weights_that_exploded(training_folder, averaging):
    trainer = make_trainer(training_folder, averaging=averaging)
    explode(trainer, lambda iteration: iteration == 10)

    train_until(trainer, 10)
    trainer.use_average()
    trainer.save_checkpoint(str(trainer.setup.checkpoint))

    assert are_finite(read_checkpoint(trainer.setup.checkpoint)["network_weights"])


def test_a_loss_that_rose_before_an_interruption_is_noticed_after_it(training_folder):
    def raise_loss(trainer: BudgetedTrainer) -> BudgetedTrainer:
        def step(own: Callable[..., Any], batch: dict[str, Any]) -> Any:
            result = own(batch)
            return {"loss": np.float32(50.0)} if trainer.progress.iterations >= 8 else result

        wrap_step(trainer, step)
        return trainer

    train_until(raise_loss(make_trainer(training_folder)), 10)

    with pytest.raises(TrainingError, match="diverged"):
        train(raise_loss(make_trainer(training_folder)))


def test_a_checkpoint_keeps_the_setbacks_and_the_lower_rate(training_folder):
    first = make_trainer(training_folder)
    explode(first, lambda iteration: iteration == 5)
    train_until(first, 10)
    trainer = make_trainer(training_folder)

    witness = train(trainer)

    factors = [epoch.learning_rate / rate_at(epoch) for epoch in witness.epochs]
    assert first.progress.setbacks == trainer.progress.setbacks == 1
    assert factors == pytest.approx([0.5] * len(factors))


def test_how_often_each_case_was_seen_is_counted_through_an_interruption(training_folder):
    first = make_trainer(training_folder)
    train_until(first, 10)
    trainer = make_trainer(training_folder)

    train(trainer)

    batch = trainer.configuration_manager.batch_size
    assert set(trainer.progress.seen) <= set(trainer.setup.train)
    assert sum(trainer.progress.seen.values()) == batch * trainer.progress.iterations
    assert sum(first.progress.seen.values()) == batch * first.progress.iterations > 0
    assert trainer.progress.iterations > first.progress.iterations


def test_the_loss_of_the_last_epoch_outlives_a_lost_history(training_folder):
    first = make_trainer(training_folder)
    witness = train(first)
    first.setup.history.write_text("")
    trainer = make_trainer(training_folder)

    train(trainer)

    assert trainer.progress.loss == witness.epochs[-1].loss
    assert read_checkpoint(trainer.setup.checkpoint)["loss"] == witness.epochs[-1].loss


# --- a memory that does not suffice ------------------------------------------------------------

OUT_OF_MEMORY = pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()],
    ids=["GPU", "CPU"],
)


@OUT_OF_MEMORY
def test_a_batch_that_does_not_fit_the_memory_becomes_smaller(training_folder, error):
    trainer = make_trainer(training_folder)
    limit_memory(trainer, math.prod(PATCH), error)

    witness = train(trainer)

    assert witness.troubles == [
        "the memory does not suffice; going on with batch 1 and patch 16 x 16 x 16"
    ]
    assert witness.shapes == [(2, 1, *PATCH)] + [(1, 1, *PATCH)] * ASKED_S
    assert trainer.batch_size == trainer.configuration_manager.batch_size == 1
    assert list(trainer.configuration_manager.patch_size) == PATCH


def test_a_patch_that_does_not_fit_the_memory_becomes_smaller_after_the_batch(training_folder):
    trainer = make_trainer(training_folder)
    limit_memory(trainer, 14 * 14 * 16, torch.OutOfMemoryError("CUDA out of memory."))

    witness = train(trainer)

    assert [trouble.split("going on with ")[1] for trouble in witness.troubles] == [
        "batch 1 and patch 16 x 16 x 16",
        "batch 1 and patch 14 x 16 x 16",
        "batch 1 and patch 14 x 14 x 16",
    ]
    assert witness.shapes[3:] == [(1, 1, 14, 14, 16)] * ASKED_S
    assert np.isfinite(witness.losses).all()
    assert trainer.configuration_manager.batch_size == 1
    assert list(trainer.configuration_manager.patch_size) == [14, 14, 16]


def test_a_memory_that_fills_up_later_costs_no_iteration(training_folder):
    trainer = make_trainer(training_folder)

    def step(own: Callable[..., Any], batch: dict[str, Any]) -> Any:
        if trainer.progress.iterations == 10 and len(batch["data"]) > 1:
            raise MemoryError
        return own(batch)

    wrap_step(trainer, step)

    witness = train(trainer)

    assert witness.shapes == [(2, 1, *PATCH)] * 11 + [(1, 1, *PATCH)] * (ASKED_S - 10)
    assert trainer.progress.iterations == ASKED_S
    assert len(witness.troubles) == 1


def test_a_memory_that_fills_up_in_an_update_with_scaled_gradients_costs_no_iteration(
    training_folder,
):
    trainer = make_trainer(training_folder)
    # As on a GPU; nnU-Net's own step scales wherever there is a scaler.
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer.train_step = lambda batch: nnUNetTrainer.train_step(trainer, batch)
    prepare = trainer.prepare_network
    failures: list[int] = []

    def prepare_with_little_memory() -> None:
        prepare()
        update = trainer.optimizer.step

        def fail_once() -> Any:
            if trainer.progress.iterations == 10 and not failures:
                failures.append(10)
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return update()

        trainer.optimizer.step = fail_once

    trainer.prepare_network = prepare_with_little_memory

    witness = train(trainer)

    assert failures == [10]
    assert len(witness.troubles) == 1
    assert trainer.progress.iterations == ASKED_S
    assert np.isfinite(witness.losses).all()
    # The scale is what had been found, and not the one that a scaler begins with.
    assert trainer.grad_scaler.get_scale() == 1024.0


def test_the_plans_that_were_given_stay_as_they_are_when_the_batch_becomes_smaller(
    training_folder,
):
    trainer = make_trainer(training_folder)
    limit_memory(trainer, math.prod(PATCH), MemoryError())

    train(trainer)

    chosen = trainer.plans_manager.plans["configurations"]["3d_fullres"]
    assert (chosen["batch_size"], chosen["patch_size"]) == (2, PATCH)


def test_another_error_of_a_step_ends_the_training(training_folder):
    trainer = make_trainer(training_folder)
    limit_memory(trainer, 0, RuntimeError("sizes do not match"))
    troubles = []

    with pytest.raises(RuntimeError, match="sizes do not match"):
        trainer.run_training(on_trouble=troubles.append)

    assert troubles == []


# --- weights to start from ---------------------------------------------------------------------


def make_tuner(
    folder: Path, start: dict[str, torch.Tensor] | None, *, rate: float = 0.0
) -> BudgetedTrainer:
    """Return a trainer that starts from weights, and at that rate stays there."""
    path = folder / "start.pth"
    if start is not None:
        write_checkpoint(path, {"network_weights": start})
    recipe = Recipe(peak_rate=rate)
    setup = make_setup(folder, asked_s=ASKED_S, recipe=recipe, start=path if start else None)
    return make_tiny_trainer(setup)


def make_start(folder: Path, factor: float = 0.5) -> dict[str, torch.Tensor]:
    """Return weights that no training of the tests begins with."""
    own = weights_of(make_ready_trainer(folder))
    return {name: factor * tensor + 0.01 for name, tensor in own.items()}


def checkpoint_of(trainer: BudgetedTrainer) -> dict[str, torch.Tensor]:
    return read_checkpoint(trainer.setup.checkpoint)["network_weights"]


def test_a_training_begins_with_the_weights_that_it_is_to_start_from(training_folder):
    start = make_start(training_folder)
    trainer = make_tuner(training_folder, start)
    first = []

    def step(own: Callable[..., Any], batch: dict[str, Any]) -> Any:
        first.append(weights_of(trainer))
        return own(batch)

    wrap_step(trainer, step)
    train(trainer)

    assert are_equal(first[0], start)
    # At a rate of zero that is also where it ends.
    assert are_equal(checkpoint_of(trainer), start)


def test_without_weights_to_start_from_a_training_begins_with_random_ones(training_folder):
    start = make_start(training_folder)
    trainer = make_tuner(training_folder, None)

    train(trainer)

    assert not are_equal(checkpoint_of(trainer), start)


def test_a_training_from_weights_moves_away_from_them(training_folder):
    start = make_start(training_folder)
    trainer = make_tuner(training_folder, start, rate=0.01)

    witness = train(trainer)

    assert not are_equal(checkpoint_of(trainer), start)
    assert np.isfinite(witness.losses).all()


def test_a_resumed_training_goes_on_from_its_checkpoint_and_not_from_the_start(training_folder):
    train_until(make_tuner(training_folder, make_start(training_folder), rate=0.01), 10)
    reached = checkpoint_of(make_tuner(training_folder, None))
    trainer = make_tuner(training_folder, make_start(training_folder, factor=9.0))

    train(trainer)

    assert are_equal(checkpoint_of(trainer), reached)
    assert trainer.progress.iterations == ASKED_S


def test_a_training_from_weights_whose_first_step_exploded_goes_on_from_them(training_folder):
    start = make_start(training_folder)
    trainer = make_tuner(training_folder, start)
    explode(trainer, lambda iteration: iteration == 1)

    witness = train(trainer)

    assert len(witness.troubles) == 1
    assert are_equal(checkpoint_of(trainer), start)


def test_weights_to_start_from_that_do_not_fit_the_network_end_the_training(training_folder):
    start = make_start(training_folder)
    del start[next(iter(start))]

    with pytest.raises(RuntimeError, match="Missing key"):
        train(make_tuner(training_folder, start))


# --- a time that does not suffice --------------------------------------------------------------


@pytest.mark.parametrize(
    ("sharing", "problem", "fix"),
    [
        (1, "-t 0.2 is too short: an iteration takes 1.00 s", "Use -t 0.6 at least"),
        (5, "-t 1 is too short for 5 trainings: an iteration takes 1.00 s", "Use -t 2.9 at least"),
    ],
)
def test_too_short_a_time_names_what_the_user_gave_and_what_would_do(
    training_folder, sharing, problem, fix
):
    setup = make_setup(training_folder, asked_s=12.0, sharing=sharing)

    with pytest.raises(BudgetError) as caught:
        train(make_tiny_trainer(setup))

    assert caught.value.problem.startswith(problem)
    assert caught.value.fix.startswith(fix)


def test_a_time_that_was_over_before_the_first_step_is_too_short_as_well(training_folder):
    trainer = make_tiny_trainer(make_setup(training_folder, asked_s=12.0))
    prepare = trainer.prepare_network

    def prepare_slowly() -> None:
        prepare()
        trainer.clock.start(used_before_s=13.0)

    trainer.prepare_network = prepare_slowly

    with pytest.raises(BudgetError, match="is too short: an iteration takes"):
        train(trainer)


def test_building_and_loading_count_as_time_after_an_interruption(training_folder, monkeypatch):
    train_until(make_trainer(training_folder), 10)
    used_s = read_checkpoint(training_folder / "checkpoint.pth")["used_s"]
    trainer, seconds = make_trainer(training_folder), [0.0]
    trainer.clock = TrainingClock(ASKED_S, now=lambda: seconds[0])
    prepare = trainer.prepare_network

    def prepare_slowly() -> None:
        prepare()
        seconds[0] += 1.0

    def read_slowly(path: Path) -> dict[str, Any]:
        seconds[0] += 2.0
        return read_checkpoint(path)

    trainer.prepare_network = prepare_slowly
    monkeypatch.setattr("nnunet_medseg.nnunet.trainer.read_checkpoint", read_slowly)

    trainer.clock.start()
    trainer.on_train_start()

    assert used_s > 0
    assert trainer.clock.used_s == used_s + 3.0


# --- workers -----------------------------------------------------------------------------------

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
    monkeypatch.setattr(environment, "core_count", lambda: 3)
    trainer = make_trainer(training_folder, has_workers=True)
    counts = let_steps_wait(trainer, monkeypatch)

    train(trainer)

    assert list(dict.fromkeys(counts)) == [1, 2, 3]
    assert trainer.loaders == 3
    assert multiprocessing.active_children() == []


@WITH_WORKERS
def test_one_epoch_that_waited_brings_no_more_processes(training_folder, monkeypatch):
    monkeypatch.setattr(environment, "core_count", lambda: 3)
    trainer = make_trainer(training_folder, has_workers=True)
    # The first two epochs, of which the first does not count.
    counts = let_steps_wait(trainer, monkeypatch, until=8)

    train(trainer)

    assert set(counts) == {1}


@WITH_WORKERS
def test_a_full_memory_brings_no_more_processes(training_folder, monkeypatch):
    monkeypatch.setattr(environment, "core_count", lambda: 3)
    monkeypatch.setattr("nnunet_medseg.nnunet.trainer.free_memory_bytes", lambda: 3e9)
    trainer = make_trainer(training_folder, has_workers=True)
    counts = let_steps_wait(trainer, monkeypatch)

    train(trainer)

    assert set(counts) == {1}


@WITH_WORKERS
def test_a_training_goes_on_when_the_system_refuses_one_more_process(training_folder, monkeypatch):
    monkeypatch.setattr(environment, "core_count", lambda: 3)
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
    monkeypatch.setattr(environment, "core_count", lambda: 3)
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
    monkeypatch.setattr(environment, "core_count", lambda: 2)
    started: list[dict[int, int]] = []

    def note(blocks: Iterable[tuple[int, int]]) -> Any:
        started.append(dict(blocks))
        return nullcontext()

    monkeypatch.setattr("nnunet_medseg.nnunet.trainer.kept_from_forks", note)
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


# --- averaging ---------------------------------------------------------------------------------


def train_and_watch(trainer: BudgetedTrainer, *, until: int = 1000) -> dict[str, torch.Tensor]:
    """Train as `train` does; return the weights after the last step."""
    last: dict[str, torch.Tensor] = {}

    def step(own: Callable[..., Any], batch: dict[str, Any]) -> Any:
        result = own(batch)
        last.update(weights_of(trainer))
        return result

    wrap_step(trainer, step)
    train(trainer, until=until)
    return last


def test_the_average_takes_the_place_of_the_weights_also_in_a_checkpoint(training_folder):
    trainer = make_trainer(training_folder, averaging=0.3)
    last = train_and_watch(trainer, until=10)

    trainer.use_average()
    trainer.save_checkpoint(str(trainer.setup.checkpoint))

    assert not are_equal(weights_of(trainer), last)
    assert are_finite(weights_of(trainer))
    for weight, expected in zip(trainer.network.parameters(), trainer.average, strict=True):
        assert torch.equal(weight.detach(), expected)
    saved = read_checkpoint(trainer.setup.checkpoint)["network_weights"]
    assert are_equal(saved, weights_of(trainer))


def test_a_training_whose_average_was_handed_over_goes_on_from_the_last_weights(training_folder):
    first = make_trainer(training_folder, averaging=0.3)
    last = train_and_watch(first, until=10)
    first.use_average()
    first.save_checkpoint(str(first.setup.checkpoint))
    trainer = make_ready_trainer(training_folder, averaging=0.3)

    trainer.load_checkpoint(str(trainer.setup.checkpoint))

    assert are_equal(weights_of(trainer), last)


def test_the_last_weights_of_a_training_are_the_model_also_when_there_is_an_average(
    training_folder,
):
    trainer = make_trainer(training_folder, averaging=0.3)

    last = train_and_watch(trainer)

    assert are_equal(weights_of(trainer), last)
    assert any(
        not torch.equal(weight.detach(), average)
        for weight, average in zip(trainer.network.parameters(), trainer.average, strict=True)
    )


def test_the_average_is_over_a_share_of_the_steps_so_far(training_folder):
    trainer = make_trainer(training_folder, averaging=0.3)
    steps = []

    def step(own: Callable[..., Any], batch: dict[str, Any]) -> Any:
        result = own(batch)
        steps.append(next(trainer.network.parameters()).detach().double().clone())
        return result

    wrap_step(trainer, step)

    train(trainer)

    expected = steps[0]
    # Every fourth, for the other three too.
    for number, weights in list(enumerate(steps))[::4]:
        left = (1 - 1 / (1 + 0.3 * number)) ** 4
        expected = left * expected + (1 - left) * weights
    torch.testing.assert_close(trainer.average[0].double(), expected, rtol=1e-4, atol=1e-6)


def test_without_averaging_the_weights_stay_in_their_place(training_folder):
    trainer = make_trainer(training_folder)
    train(trainer)
    before = weights_of(trainer)

    trainer.use_average()

    assert trainer.average is None
    assert are_equal(weights_of(trainer), before)


def test_a_checkpoint_keeps_the_average(training_folder):
    first = make_trainer(training_folder, averaging=0.3)
    train_until(first, 10)
    trainer = make_ready_trainer(training_folder, averaging=0.3)

    trainer.load_checkpoint(str(trainer.setup.checkpoint))

    for found, expected in zip(trainer.average, first.average, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_weights_that_exploded_do_not_stay_in_the_average(training_folder):
    trainer = make_trainer(training_folder, averaging=0.3)
    explode(trainer, lambda iteration: iteration == 10)

    train(trainer)

    assert all(tensor.isfinite().all() for tensor in trainer.average)


@pytest.mark.filterwarnings("ignore:.*to a meta parameter:UserWarning")
def test_an_average_from_a_checkpoint_is_where_the_weights_are(training_folder):
    train_until(make_trainer(training_folder, averaging=0.3), 10)
    trainer = make_ready_trainer(training_folder, averaging=0.3)
    # Stands in for a GPU, which tests may not have.
    trainer.network.to("meta")

    trainer.load_checkpoint(str(trainer.setup.checkpoint))

    assert {tensor.device.type for tensor in trainer.average} == {"meta"}


# --- orthogonal steps --------------------------------------------------------------------------


def test_orthogonal_steps_train(training_folder):
    trainer = make_trainer(training_folder, optimizer="muon", peak_rate=0.1, weight_decay=0.05)

    witness = train(trainer)

    assert witness.losses[-1] < witness.losses[0]
    assert are_finite(weights_of(trainer))


def test_orthogonal_steps_go_on_with_the_momentum_of_the_checkpoint(training_folder):
    first = make_trainer(training_folder, optimizer="muon")
    train_until(first, 10)
    trainer = make_ready_trainer(training_folder, optimizer="muon")

    trainer.load_checkpoint(str(trainer.setup.checkpoint))

    before, after = (one.optimizer.state_dict()["state"] for one in (first, trainer))
    assert before.keys() == after.keys()
    assert any(bool(state["past"].any()) for state in before.values())
    for number, state in before.items():
        assert torch.equal(after[number]["past"], state["past"])


# --- weight decay ------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adamw"])
def test_weights_decay_as_fast_as_the_recipe_says(training_folder, optimizer):
    trainer = make_ready_trainer(
        training_folder, optimizer=optimizer, peak_rate=0.1, weight_decay=0.5
    )
    before = [weight.detach().clone() for weight in trainer.network.parameters()]
    for weight in trainer.network.parameters():
        weight.grad = torch.zeros_like(weight)
    rate = trainer.optimizer.param_groups[0]["lr"]

    trainer.optimizer.step()

    # With SGD the decay enters the momentum too (Nesterov): 1 + 0.9 times.
    lost = rate * 0.5 * (1.9 if optimizer == "sgd" else 1.0)
    for weight, was in zip(trainer.network.parameters(), before, strict=True):
        torch.testing.assert_close(weight.detach(), (1 - lost) * was)


# --- patches that are centred on a label --------------------------------------------------------


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


# --- mirroring and augmentation ----------------------------------------------------------------


@pytest.mark.parametrize(("mirroring", "expected"), [(True, (0, 1, 2)), (False, None)])
def test_a_model_is_mirrored_in_prediction_only_when_it_was_in_training(
    training_folder, mirroring, expected
):
    trainer = make_trainer(training_folder, mirroring=mirroring)

    train(trainer)

    checkpoint = read_checkpoint(trainer.setup.checkpoint)
    assert trainer.network_state()["mirror_axes"] == expected
    assert checkpoint["mirror_axes"] == expected


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


# --- memory between steps -------------------------------------------------------------------------


def test_a_step_takes_the_memory_that_the_one_before_has_freed(training_folder, monkeypatch):
    memory = watch_memory(monkeypatch)
    trainer = make_trainer(training_folder)
    kept: list[bool] = []

    def step(own: Callable[..., Any], batch: dict[str, Any]) -> Any:
        kept.append(memory.is_kept)
        return own(batch)

    wrap_step(trainer, step)

    train(trainer)

    assert kept == [True] * ASKED_S
    assert not memory.is_kept
