"""The course of a training without trouble."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from page_faults import watch_memory
from tiny_training import make_setup, make_tiny_trainer, weights_of, wrap_step
from watched_training import (
    ASKED_S,
    PATCH,
    are_equal,
    are_finite,
    checkpoint_of,
    explode,
    limit_memory,
    make_ready_trainer,
    make_trainer,
    train,
    train_until,
)

from nnunet_medseg.budget.clock import TrainingClock
from nnunet_medseg.budget.recipe import Recipe
from nnunet_medseg.errors import BudgetError
from nnunet_medseg.nnunet.history import read_history
from nnunet_medseg.nnunet.trainer import BudgetedTrainer
from nnunet_medseg.nnunet.weights import read_checkpoint, write_checkpoint
from nnunet_medseg.report.tracker import Tracker

# --- the line of an epoch ----------------------------------------------------------------------


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


# --- patches that grow -------------------------------------------------------------------------


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


def test_the_clock_may_pass_the_end_of_growth_while_an_epoch_is_planned(training_folder):
    trainer = make_trainer(training_folder, growth=0.5)
    trainer.clock.start()
    trainer.prepare_network()
    trainer.progress.iteration_s, trainer.progress.is_measured = 1.0, True
    shares = iter([0.5 - 1e-9, 0.5 + 1e-9, 0.5 + 1e-9])

    class PassingClock:
        left_s, asked_s = 12.0, ASKED_S

        @property
        def share(self) -> float:
            return next(shares)

    trainer.clock = PassingClock()

    assert trainer._next_iterations() == 1


def test_an_epoch_for_which_no_time_is_left_is_none(training_folder):
    trainer = make_trainer(training_folder)
    grow, late = trainer.supply.grow, []

    def grow_slowly(*given: Any) -> None:
        grow(*given)
        if trainer.progress.iterations >= 20 and not late:
            late.append(trainer.progress.iterations)
            trainer.clock.start(used_before_s=ASKED_S)

    trainer.supply.grow = grow_slowly

    witness = train(trainer)

    assert late
    assert witness.troubles == []
    assert trainer.progress.iterations == late[0]


def test_what_is_compiled_keeps_its_patch(training_folder):
    setup = make_setup(training_folder, asked_s=ASKED_S, recipe=Recipe(growth=0.5), compiled=True)
    trainer = make_tiny_trainer(setup)
    trainer._do_i_compile = lambda: False

    assert {shape[-1] for shape in train(trainer).shapes} == {16}


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


# --- mirroring ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("mirroring", "expected"), [(True, (0, 1, 2)), (False, None)])
def test_a_model_is_mirrored_in_prediction_only_when_it_was_in_training(
    training_folder, mirroring, expected
):
    trainer = make_trainer(training_folder, mirroring=mirroring)

    train(trainer)

    checkpoint = read_checkpoint(trainer.setup.checkpoint)
    assert trainer.network_state()["mirror_axes"] == expected
    assert checkpoint["mirror_axes"] == expected


# --- memory between steps ----------------------------------------------------------------------


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
