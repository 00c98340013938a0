"""Muon: SGD whose steps of filters go equally far in all directions.

A gradient of a bank of filters is large in a few directions and small in all others, which SGD
hardly learns in few steps. Muon makes the averaged gradient orthogonal before the step (Jordan et
al., 2024, https://kellerjordan.github.io/posts/muon/); the size of a step does not depend on the
shape of the filters (Liu et al., 2025, arXiv:2502.16982). torch's own `torch.optim.Muon` takes
matrices only, which convolutions do not have; a test holds the two against each other.

Banks of many filters are made orthogonal in blocks: the work for each filter grows with the number
of those that it is made orthogonal to. Networks for slices have many features and little else to
compute: without blocks, Muon was three quarters of a step (docs/concepts/budget.md).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch

from nnunet_medseg.nnunet.transfer import HEADS

__all__ = ["BLOCK_FILTERS", "FILTER_STEP", "Muon", "is_filter", "step_filters"]

# Of a filter's step, the root mean square as a multiple of the rate, so that the rates of SGD serve
# for all weights: at 0.1 a filter goes as far as with AdamW at 0.006 (docs/concepts/budget.md).
FILTER_STEP = 0.012

# Five rounds of the quintic polynomial bring singular values near 1 (Jordan et al., 2024).
ROUNDS = 5
LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315
TINY = 1e-7

BLOCK_FILTERS = 128  # made orthogonal among themselves (docs/concepts/budget.md)

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
    """

    def __init__(
        self,
        filters: Iterable[torch.Tensor],
        others: Iterable[torch.Tensor],
        *,
        rate: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        groups = [
            {"params": list(others), "is_orthogonal": False},
            {"params": list(filters), "is_orthogonal": True},
        ]
        super().__init__(groups, {"lr": rate, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step along the gradients, which it uses up.

        Weights without a gradient stay as they are.
        """
        del closure
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            gradients = [weight.grad for weight in weights]
            pasts = [self._past(weight) for weight in weights]
            if not weights:
                continue
            torch._foreach_mul_(pasts, group["momentum"])
            torch._foreach_add_(pasts, gradients)
            # In their place: on a CPU new memory for all weights takes longer than the sums.
            torch._foreach_add_(gradients, pasts, alpha=group["momentum"])
            kept = 1 - group["lr"] * group["weight_decay"]
            if group["is_orthogonal"]:
                step_filters(weights, gradients, group["lr"], kept)
            else:
                torch._foreach_mul_(weights, kept)
                torch._foreach_add_(weights, gradients, alpha=-group["lr"])

    def _past(self, weight: torch.Tensor) -> torch.Tensor:
        state = self.state[weight]
        if not state:
            state["past"] = torch.zeros_like(weight)
        past: torch.Tensor = state["past"]
        return past


def step_filters(
    weights: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor], rate: float, kept: float
) -> None:
    """Take orthogonal steps, in place.

    Args:
        weights: Each of two axes or more, dense in memory; all but the first are one axis of a
            matrix. Of the two axes of the matrix, the shorter one is cut into blocks of at most
            `BLOCK_FILTERS`.
        gradients: Of the same shapes. For each block the step is the matrix U Vᵀ of its singular
            value decomposition U S Vᵀ, roughly: singular values lie between 0.7 and 1.2, and below
            where they were less than a few thousandths of the norm. The root mean square of the
            step is about `FILTER_STEP`; of a gradient of zero it is zero.
        rate: How many of these steps the weights go down.
        kept: Which part of the weights is kept before, for their decay.
    """
    # Columns may stand in any order. In that of the memory, channels last or not, none is copied.
    orders = [
        [0, *sorted(range(1, weight.ndim), key=weight.stride, reverse=True)] for weight in weights
    ]
    banks = [
        _blocks(gradient.permute(order).flatten(1))
        for gradient, order in zip(gradients, orders, strict=True)
    ]
    whitenings = _whitenings([blocks @ blocks.mT for blocks in banks])
    for weight, order, blocks, whitening in zip(weights, orders, banks, whitenings, strict=True):
        # Factors go into the product: each pass over the blocks is one over all weights.
        scale = FILTER_STEP * math.sqrt(max(len(weight), weight[0].numel()))
        # A view, or an error: what is done to a copy would not reach the weight.
        matrix = weight.permute(order).view(len(weight), -1)
        _blocks(matrix).baddbmm_(whitening, blocks, beta=kept, alpha=-rate * scale)


def _whitenings(squares: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return what makes blocks of filters orthogonal, from the squares of them.

    Blocks of one size are done together: a GPU takes as long to begin a small product as to do it.
    """
    together: dict[int, list[int]] = defaultdict(list)
    for place, square in enumerate(squares):
        together[square.shape[-1]].append(place)
    found = list(squares)
    for places in together.values():
        square = torch.cat([squares[place] for place in places])
        norm = square.diagonal(dim1=1, dim2=2).sum(1).sqrt().clamp(min=TINY)[:, None, None]
        parts = (_whitening(square / norm**2) / norm).split([len(squares[p]) for p in places])
        for place, part in zip(places, parts, strict=True):
            found[place] = part
    return found


def _blocks(matrix: torch.Tensor) -> torch.Tensor:
    """Return the rows, or columns when these are fewer, in as few blocks of equal size as may be.

    The blocks, of shape (blocks, filters, all else), lie in the matrix's memory. A prime number of
    rows, which no network of nnU-Net's has, is cut into single ones.
    """
    if len(matrix) > matrix.shape[1]:
        matrix = matrix.T
    rows = len(matrix)
    size = next(size for size in range(min(rows, BLOCK_FILTERS), 0, -1) if rows % size == 0)
    return matrix.unflatten(0, (rows // size, size))


def _whitening(square: torch.Tensor) -> torch.Tensor:
    """Return the product of the rounds' polynomials for matrices M, from their squares M Mᵀ.

    Each round multiplies M by a polynomial of its square, and the square by that twice: no round
    needs M, whose columns are many times its rows.
    """
    product = torch.eye(square.shape[-1], dtype=square.dtype, device=square.device)
    for _ in range(ROUNDS):
        polynomial = torch.baddbmm(square, square, square, beta=CUBIC, alpha=QUINTIC)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(LINEAR)
        product = polynomial @ product
        square = polynomial @ (polynomial @ square)
    return product
