"""The optimizers of a recipe, and a learning rate that follows the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from nnunet_medseg.budget.recipe import Recipe
from nnunet_medseg.nnunet.muon import Muon, is_filter

__all__ = ["ClockedRate", "make_optimizer"]


class ClockedRate:
    """Sets the learning rate from the clock; nnU-Net calls `step` as it would a scheduler's."""

    def __init__(self, optimizer: torch.optim.Optimizer, rate: Callable[[], float]) -> None:
        self._optimizer = optimizer
        self._rate = rate

    def step(self, _: int | None = None) -> None:
        """Set the rate of now."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()


def make_optimizer(recipe: Recipe, weights: Mapping[str, torch.Tensor]) -> torch.optim.Optimizer:
    """Return the optimizer of a recipe.

    Args:
        recipe: Optimizer, peak rate, momentum and weight decay.
        weights: The network's parameters by name.
    """
    rate, decay = recipe.peak_rate, recipe.weight_decay
    if recipe.optimizer == "muon":
        filters = [weight for name, weight in weights.items() if is_filter(name, weight)]
        others = [weight for name, weight in weights.items() if not is_filter(name, weight)]
        momentum = recipe.momentum
        return Muon(filters, others, rate=rate, momentum=momentum, weight_decay=decay)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(weights.values(), rate, weight_decay=decay)
    return torch.optim.SGD(
        weights.values(), rate, weight_decay=decay, momentum=recipe.momentum, nesterov=True
    )
