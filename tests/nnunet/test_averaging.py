"""The running average of the weights, as trainings take it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_training import weights_of, wrap_step
from watched_training import (
    are_equal,
    are_finite,
    explode,
    make_ready_trainer,
    make_trainer,
    train,
    train_until,
)

from nnunet_medseg.nnunet.trainer import BudgetedTrainer
from nnunet_medseg.nnunet.weights import read_checkpoint


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
    for weight, expected in zip(trainer.network.parameters(), trainer.average.weights, strict=True):
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
        for weight, average in zip(
            trainer.network.parameters(), trainer.average.weights, strict=True
        )
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
    torch.testing.assert_close(trainer.average.weights[0].double(), expected, rtol=1e-4, atol=1e-6)


def test_without_averaging_the_weights_stay_in_their_place(training_folder):
    trainer = make_trainer(training_folder)
    train(trainer)
    before = weights_of(trainer)

    trainer.use_average()

    assert trainer.average.weights is None
    assert are_equal(weights_of(trainer), before)


def test_a_checkpoint_keeps_the_average(training_folder):
    first = make_trainer(training_folder, averaging=0.3)
    train_until(first, 10)
    trainer = make_ready_trainer(training_folder, averaging=0.3)

    trainer.load_checkpoint(str(trainer.setup.checkpoint))

    for found, expected in zip(trainer.average.weights, first.average.weights, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_weights_that_exploded_do_not_stay_in_the_average(training_folder):
    trainer = make_trainer(training_folder, averaging=0.3)
    explode(trainer, lambda iteration: iteration == 10)

    train(trainer)

    assert all(tensor.isfinite().all() for tensor in trainer.average.weights)


@pytest.mark.filterwarnings("ignore:.*to a meta parameter:UserWarning")
def test_an_average_from_a_checkpoint_is_where_the_weights_are(training_folder):
    train_until(make_trainer(training_folder, averaging=0.3), 10)
    trainer = make_ready_trainer(training_folder, averaging=0.3)
    # Stands in for a GPU, which tests may not have.
    trainer.network.to("meta")

    trainer.load_checkpoint(str(trainer.setup.checkpoint))

    assert {tensor.device.type for tensor in trainer.average.weights} == {"meta"}
