"""Trainings that get into trouble: a loss that explodes, a memory that does not suffice."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tiny_training import CASES, make_setup, make_tiny_trainer, weights_of, wrap_step
from watched_training import (
    ASKED_S,
    PATCH,
    Witness,
    are_equal,
    are_finite,
    checkpoint_of,
    explode,
    limit_memory,
    make_trainer,
    train,
    train_until,
)

from nnunet_medseg.budget.recipe import Recipe
from nnunet_medseg.budget.schedule import learning_rate
from nnunet_medseg.errors import DivergedError, TrainingError
from nnunet_medseg.nnunet.history import Epoch, read_history
from nnunet_medseg.nnunet.loading import LoadingError
from nnunet_medseg.nnunet.rescue import MAX_SETBACKS
from nnunet_medseg.nnunet.trainer import BudgetedTrainer
from nnunet_medseg.nnunet.weights import read_checkpoint


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


def rate_at(epoch: Epoch) -> float:
    """Return the rate of an epoch's last step without a setback."""
    recipe = Recipe()
    share = (epoch.used_s - 1) / ASKED_S
    return learning_rate(share, recipe.peak_rate, recipe.warm_up_share, recipe.schedule)


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


def test_a_training_that_diverged_in_the_end_keeps_its_last_good_weights(training_folder):
    trainer = make_trainer(training_folder)
    good: list[dict[str, torch.Tensor]] = []
    remember = trainer.rescue.remember

    def note(network: torch.nn.Module) -> None:
        remember(network)
        good.append(weights_of(trainer))

    trainer.rescue.remember = note
    explode(trainer, lambda iteration: iteration > 10)

    with pytest.raises(DivergedError):
        train(trainer)

    assert trainer.progress.setbacks == MAX_SETBACKS + 1
    assert are_equal(weights_of(trainer), good[-1])
    assert are_equal(checkpoint_of(trainer), good[-1])


def test_a_training_that_had_diverged_does_not_begin_again(training_folder):
    first = make_trainer(training_folder)
    explode(first, lambda iteration: iteration > 10)
    with pytest.raises(DivergedError):
        train(first)
    trainer = make_trainer(training_folder)

    with pytest.raises(DivergedError):
        train(trainer)

    assert trainer.progress.iterations == first.progress.iterations
    assert are_equal(weights_of(trainer), weights_of(first))


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


# --- numbers of 16 bits that overflow ----------------------------------------------------------


def train_scaled(trainer: BudgetedTrainer, overflows: Callable[[int], bool]) -> Witness:
    """Train with scaled gradients, as on a GPU; the loss of chosen iterations is infinite."""
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    build = trainer._build_loss

    def build_overflowing() -> Callable[..., Any]:
        own = build()
        return lambda *batch: (
            own(*batch) * (math.inf if overflows(trainer.progress.iterations) else 1.0)
        )

    trainer._build_loss = build_overflowing
    trainer.train_step = lambda batch: nnUNetTrainer.train_step(trainer, batch)
    return train(trainer)


def test_steps_that_overflow_now_and_then_are_left_out_as_in_nnunet(training_folder):
    trainer = make_trainer(training_folder)

    witness = train_scaled(trainer, lambda iteration: iteration % 5 == 2)

    assert witness.troubles == []
    assert trainer.progress.setbacks == 0
    assert trainer.progress.iterations == ASKED_S
    # An epoch all of whose steps were left out is none.
    assert np.isfinite(witness.losses).all()
    assert np.isfinite([epoch.loss for epoch in read_history(trainer.setup.history)]).all()
    assert are_finite(weights_of(trainer))


def test_a_training_in_which_all_steps_overflow_has_exploded(training_folder):
    trainer = make_trainer(training_folder)

    witness = train_scaled(trainer, lambda iteration: iteration >= 3)

    assert "exploded" in witness.troubles[0]
    assert trainer.progress.setbacks == 1


def test_steps_that_were_all_left_out_are_no_training(training_folder):
    trainer = make_trainer(training_folder)

    with pytest.raises(TrainingError, match="before one epoch was in order"):
        train_scaled(trainer, lambda _: True)

    assert trainer.current_epoch == 0
    assert read_history(trainer.setup.history) == []


# --- a network that cannot be compiled ----------------------------------------------------------

# A warning that is an error would end the compiler's work, and torch would go on without a word.
COMPILES = pytest.mark.filterwarnings("default")


def compile_with(monkeypatch: pytest.MonkeyPatch, backend: Callable[..., Any]) -> None:
    """Let torch compile with a function that gets the graph, in place of its own compiler."""
    own = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: own(module, backend=backend))


def make_compiled_trainer(folder: Path, **chosen: Any) -> BudgetedTrainer:
    setup = make_setup(folder, asked_s=ASKED_S, recipe=Recipe(), compiled=True, **chosen)
    return make_tiny_trainer(setup)


@COMPILES
@pytest.mark.parametrize(
    "error", [RuntimeError("Failed to find C compiler"), OSError("no Python.h")], ids=type
)
def test_a_network_that_cannot_be_compiled_is_trained_as_it_is(training_folder, monkeypatch, error):
    def fail(*_: Any) -> Any:
        raise error

    compile_with(monkeypatch, fail)
    trainer = make_compiled_trainer(training_folder)

    witness = train(trainer)

    (said,) = witness.troubles
    assert said.startswith("the network cannot be compiled on this machine")
    assert str(error) in trainer.setup.log.read_text(encoding="utf-8")
    assert trainer.progress.iterations == ASKED_S
    assert checkpoint_of(trainer).keys() == weights_of(trainer).keys()
    assert not any("_orig_mod" in name for name in checkpoint_of(trainer))


@COMPILES
def test_an_error_before_the_first_compiled_step_is_not_taken_for_the_compilers(
    training_folder, monkeypatch
):
    compile_with(monkeypatch, lambda graph, _: graph.forward)
    trainer = make_compiled_trainer(training_folder)

    def load() -> Any:
        raise OSError(errno.EIO, "Input/output error")

    trainer.get_dataloaders = load

    with pytest.raises(OSError, match="Input/output"):
        train(trainer)


def test_an_error_after_the_first_compiled_step_ends_the_training(training_folder, monkeypatch):
    compile_with(monkeypatch, lambda graph, _: graph.forward)
    trainer = make_compiled_trainer(training_folder)

    def step(own: Callable[..., Any], batch: dict[str, Any]) -> Any:
        if trainer.progress.iterations == 5:
            raise RuntimeError("sizes do not match")
        return own(batch)

    wrap_step(trainer, step)

    with pytest.raises(RuntimeError, match="sizes do not match"):
        train(trainer)


@COMPILES
def test_a_look_at_held_out_patches_compiles_nothing(training_folder, monkeypatch):
    graphs: list[Any] = []

    def compile_as_it_is(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compile_with(monkeypatch, compile_as_it_is)
    trainer = make_compiled_trainer(training_folder, watched=CASES[1:])
    looks: list[tuple[float, int, int]] = []

    def step(own: Callable[..., Any], batch: dict[str, Any]) -> Any:
        result = own(batch)
        if trainer.progress.iterations == 5:
            before = len(graphs)
            looks.append((trainer._validate(), before, len(graphs)))
            trainer.network.train()
        return result

    wrap_step(trainer, step)

    train(trainer)

    ((dice, before, after),) = looks
    assert 0.0 <= dice <= 1.0
    assert after == before > 0
