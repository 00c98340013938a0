"""Trainings as of `tiny_training`, told what they say and what they step on.

The clock counts iterations, so that each takes a second: of 24 s the first epochs have 3, 5, 4
and 3 iterations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tiny_training import make_setup, make_tiny_trainer, wrap_step

from nnunet_medseg.budget.recipe import Recipe
from nnunet_medseg.nnunet.history import Epoch
from nnunet_medseg.nnunet.trainer import BudgetedTrainer
from nnunet_medseg.nnunet.weights import read_checkpoint

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


def checkpoint_of(trainer: BudgetedTrainer) -> dict[str, torch.Tensor]:
    """Return the weights of the last checkpoint."""
    return read_checkpoint(trainer.setup.checkpoint)["network_weights"]
