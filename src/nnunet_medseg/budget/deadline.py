"""A deadline for the whole command: what of it is left for training."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = [
    "EVALUATION_RESERVE",
    "MIN_COMMAND_S",
    "segmentation_s",
    "training_that_fits_s",
    "windows",
]

# Start, plan and proof of the smallest dataset take about this on two cores, with some seconds of
# training between; below it nothing needs to be tried.
MIN_COMMAND_S = 40.0
EVALUATION_RESERVE = 0.1  # of a training's time, kept for the evaluation after it
FORWARD_SHARE = 0.4  # of a step, as while training; a guess
SLOWER_IN_FLOAT32 = 2.0  # than in the precision that trains: the proof is in float32


def training_that_fits_s(
    left_s: float, others_s: float, trainings: int, *, is_evaluated: bool
) -> float:
    """Return how long each training may take so that all ends before the deadline; may be negative.

    Args:
        left_s: Seconds until the deadline.
        others_s: Seconds of everything beside the trainings and their evaluation.
        trainings: How many are still to come.
        is_evaluated: Whether each is followed by an evaluation, which gets a part of the time.

    Examples:
        >>> training_that_fits_s(140.0, 30.0, 2, is_evaluated=True)
        50.0
    """
    slot_s = (left_s - others_s) / trainings
    return round(slot_s / (1.0 + EVALUATION_RESERVE * is_evaluated), 6)


def windows(shape: Sequence[int], spacing_mm: Sequence[float], patch_mm: Sequence[float]) -> float:
    """Return about how many patches the sliding window of nnU-Net takes, half a patch a step.

    Args:
        shape: Voxels of the image along each axis.
        spacing_mm: Their sizes.
        patch_mm: Size of a patch along its two or three axes.

    Examples:
        >>> windows((64, 64, 64), (1.0, 1.0, 1.0), (32.0, 32.0, 32.0))
        27.0
        >>> windows((10, 64, 64), (5.0, 1.0, 1.0), (64.0, 64.0))
        10.0
    """
    slices, volume = 1, math.prod(shape) * math.prod(spacing_mm)
    if len(patch_mm) == 2:
        # A 2D network takes slices across the axis of the largest voxels.
        thickness, slices = max(zip(spacing_mm, shape, strict=True))
        volume /= thickness * slices
    along = (volume / math.prod(patch_mm)) ** (1 / len(patch_mm))
    return float(round(slices * max(1.0, 2 * along - 1) ** len(patch_mm), 6))


def segmentation_s(patches: float, batch: int, step_s: float) -> float:
    """Return about how long the segmentation of a whole case takes, in seconds.

    Args:
        patches: How many are segmented; with mirroring along three axes each of them 8 times.
        batch: Patches a training step takes.
        step_s: Seconds a training step takes.
    """
    return patches * SLOWER_IN_FLOAT32 * FORWARD_SHARE * step_s / batch
