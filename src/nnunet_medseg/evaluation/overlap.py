"""Overlap of two label maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["dice_by_label", "mean_dice"]


def dice_by_label(
    truth: np.ndarray[Any, Any], prediction: np.ndarray[Any, Any], labels: Sequence[int]
) -> dict[int, float]:
    """Return the Dice overlap of two label maps, per label.

    Dice is 2 |A ∩ B| / (|A| + |B|) (Dice 1945, doi:10.2307/1932409).

    Args:
        truth: Integer label map, any shape.
        prediction: Integer label map of the same shape.
        labels: Label values to score; background is scored only if named.

    Returns:
        Dice in [0, 1] for each label; NaN where both maps lack it, because then there is nothing to
        find and 1.0 would flatter the model.

    Raises:
        ValueError: When the shapes differ.

    Examples:
        >>> dice_by_label(np.array([1, 1, 0]), np.array([1, 0, 0]), [1])
        {1: 0.6666666666666666}
    """
    if truth.shape != prediction.shape:
        problem = f"shapes differ: {truth.shape} and {prediction.shape}"
        raise ValueError(problem)
    scores = {}
    for label in labels:
        in_truth, in_prediction = truth == label, prediction == label
        total = int(in_truth.sum()) + int(in_prediction.sum())
        both = int(np.logical_and(in_truth, in_prediction).sum())
        scores[label] = 2 * both / total if total else float("nan")
    return scores


def mean_dice(scores: Sequence[float]) -> float:
    """Return the mean of the scores that are numbers; NaN when none is."""
    numbers = [score for score in scores if not np.isnan(score)]
    return float(np.mean(numbers)) if numbers else float("nan")
