"""nnU-Net's sliding window on a CPU, several small tiles at a time.

Tiles, weights and mirroring are those of `nnUNetPredictor` (predict_from_raw_data.py of 2.8.1),
and so is the half precision of the sums. It hands the network one tile after the other: with
small tiles most of the time then goes into starting and ending the work of threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian,
    compute_steps_for_sliding_window,
)

from nnunet_medseg.errors import ModelError

__all__ = ["require_finite", "slide"]

STEP = 0.5  # of a tile
BATCH_VOXELS = 64**3  # at most this many a call, or one tile; more is not faster


def slide(
    network: torch.nn.Module,
    image: torch.Tensor,
    tile: Sequence[int],
    axes: Sequence[int] | None,
) -> torch.Tensor:
    """Return the logits of an image.

    Args:
        network: In its evaluation mode, on the CPU.
        image: Preprocessed, shape `(c, z, y, x)`.
        tile: Side lengths; two for a network of slices.
        axes: That are mirrored, counted without channels; None for none.

    Returns:
        Half precision, shape `(class, z, y, x)`.

    Raises:
        ModelError: When the network returns numbers too large for half precision.
    """
    padded, inner = _padded(image, tile)
    weights = compute_gaussian(
        tuple(tile), sigma_scale=1.0 / 8, value_scaling_factor=10, device=torch.device("cpu")
    )
    total = torch.empty(0)
    seen = torch.zeros(padded.shape[1:], dtype=torch.half)
    batch = max(1, BATCH_VOXELS // weights.numel())
    places = list(_places(padded.shape[1:], tile))
    for start in range(0, len(places), batch):
        chosen = places[start : start + batch]
        found = _mirrored(network, torch.stack([padded[place] for place in chosen]), axes)
        if not len(total):
            total = torch.zeros((found.shape[1], *padded.shape[1:]), dtype=torch.half)
        found *= weights
        for place, logits in zip(chosen, found, strict=True):
            total[place] += logits
            seen[place[1:]] += weights
    total /= seen
    require_finite(total)
    return total[inner]


def require_finite(logits: torch.Tensor) -> None:
    """Refuse logits that are infinite or no numbers.

    Raises:
        ModelError: When any is.
    """
    if not torch.isfinite(logits).all():
        problem = "The network of the model returns numbers that are too large."
        raise ModelError(problem, fix="Copy the whole model folder again, or train it again.")


def _padded(image: torch.Tensor, tile: Sequence[int]) -> tuple[torch.Tensor, tuple[slice, ...]]:
    """Return an image at least as large as a tile, zeros around it, and where it lies in there."""
    sides = image.shape[1:]
    wanted = [*sides[: len(sides) - len(tile)], *tile]
    missing = [max(0, side - count) for side, count in zip(wanted, sides, strict=True)]
    # Pairs of before and after, the last axis first.
    margins = [part for each in missing[::-1] for part in (each // 2, each - each // 2)]
    inner = [
        slice(lack // 2, lack // 2 + count) for lack, count in zip(missing, sides, strict=True)
    ]
    return torch.nn.functional.pad(image, margins), (slice(None), *inner)


def _places(shape: Sequence[int], tile: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """Yield the tiles as indices of an array with channels."""
    apart = len(shape) - len(tile)
    steps = compute_steps_for_sliding_window(tuple(shape[apart:]), tuple(tile), STEP)
    for outer in itertools.product(*(range(side) for side in shape[:apart])):
        for starts in itertools.product(*steps):
            parts = (slice(low, low + side) for low, side in zip(starts, tile, strict=True))
            yield (slice(None), *outer, *parts)


def _mirrored(
    network: torch.nn.Module, tiles: torch.Tensor, axes: Sequence[int] | None
) -> torch.Tensor:
    """Return the mean of the logits of tiles, shape `(tile, c, …)`, and of their mirror images."""
    found = network(tiles).float()
    places = [axis + 2 for axis in axes or ()]
    turns = [
        each
        for count in range(1, len(places) + 1)
        for each in itertools.combinations(places, count)
    ]
    for turn in turns:
        found += torch.flip(network(torch.flip(tiles, turn)), turn)
    return found / (len(turns) + 1) if turns else found
