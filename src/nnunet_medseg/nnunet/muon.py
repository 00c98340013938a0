"""Muon: SGD whose steps of filters go equally far in all directions.

A gradient of a bank of filters is large in a few directions and small in all others, which SGD
hardly learns in few steps. Muon makes the averaged gradient orthogonal before the step (Jordan et
al., 2024, https://kellerjordan.github.io/posts/muon/); the size of a step does not depend on the
shape of the filters (Liu et al., 2025, arXiv:2502.16982). torch's own `torch.optim.Muon` takes
matrices only, which convolutions do not have; a test holds the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from nnunet_medseg.nnunet.transfer import HEADS

__all__ = ["Muon", "is_filter"]

# Of a filter's step, the root mean square as a multiple of the rate, so that the rates of SGD serve
# for all weights: at 0.1 a filter goes as far as with AdamW at 0.006 (docs/concepts/budget.md).
FILTER_STEP = 0.012

# Five rounds of the quintic polynomial bring singular values near 1 (Jordan et al., 2024).
ROUNDS = 5
LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315
TINY = 1e-7

MIN_AXES = 4  # of the weights of a convolution: output, input, and two or three of space


def is_filter(name: str, weight: torch.Tensor) -> bool:
    """Tell whether a weight is a bank of filters between two maps of features.

    The rows of a segmentation head are labels, of which some are rare: no rows to make equal.
    """
    return weight.ndim >= MIN_AXES and HEADS not in name


class Muon(torch.optim.Optimizer):
    """Takes orthogonal steps for filters, and those of SGD with Nesterov momentum for all else.

    Args:
        filters: Weights of convolutions, of shape (output, input, …) or, of transposed ones,
            (input, output, …).
        others: All other weights: of norms and heads, and biases.
        rate: The learning rate of both.
        momentum: Of both, in [0, 1).
        weight_decay: How much of itself each weight loses in a step, as a multiple of the rate.
        precision: In which filters are made orthogonal: bfloat16 suffices, where hardware has it.
    """

    def __init__(
        self,
        filters: Iterable[torch.Tensor],
        others: Iterable[torch.Tensor],
        *,
        rate: float,
        momentum: float,
        weight_decay: float,
        precision: torch.dtype,
    ) -> None:
        self._precision = precision
        groups = [
            {"params": list(others), "is_orthogonal": False},
            {"params": list(filters), "is_orthogonal": True},
        ]
        super().__init__(groups, {"lr": rate, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step along the gradients; weights without one stay as they are."""
        del closure
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step_one(weight, weight.grad, group)

    def _step_one(
        self, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]
    ) -> None:
        state = self.state[weight]
        if not state:
            state["past"] = torch.zeros_like(weight)
        past = state["past"].mul_(group["momentum"]).add_(gradient)
        ahead = gradient.add(past, alpha=group["momentum"])
        if group["is_orthogonal"]:
            ahead = filter_step(ahead, self._precision)
        weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(ahead, alpha=group["lr"])


def filter_step(gradient: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
    """Return an orthogonal step of the gradient's shape and type, for a rate of 1.

    Args:
        gradient: Of two axes or more; all but the first are one axis of a matrix.
        precision: To compute in.

    Returns:
        The matrix U Vᵀ of the gradient's singular value decomposition U S Vᵀ, roughly: singular
        values lie between 0.7 and 1.2, and below where they were less than a few thousandths of the
        norm. Its root mean square is about `FILTER_STEP`. Zero for a gradient of zero.
    """
    matrix = gradient.flatten(1).to(precision)
    rows, columns = matrix.shape
    if rows > columns:
        matrix = matrix.T
    matrix = matrix / matrix.norm().clamp(min=TINY)
    for _ in range(ROUNDS):
        square = matrix @ matrix.T
        polynomial = torch.addmm(square, square, square, beta=CUBIC, alpha=QUINTIC)
        matrix = torch.addmm(matrix, polynomial, matrix, beta=LINEAR)
    if rows > columns:
        matrix = matrix.T
    scale = FILTER_STEP * math.sqrt(max(rows, columns))
    return matrix.to(gradient.dtype).mul_(scale).view_as(gradient)
