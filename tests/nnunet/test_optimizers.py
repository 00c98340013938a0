"""The optimizers of a recipe, in trainings."""

from __future__ import annotations

import pytest
import torch
from tiny_training import weights_of
from watched_training import are_finite, make_ready_trainer, make_trainer, train, train_until

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
