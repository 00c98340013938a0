"""The learning rate as a function of the share of the time that is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

__all__ = ["SCHEDULES", "learning_rate"]

STABLE_SHARE = 0.6  # of the time after the warm-up, for "stable"
REX_BETA = 0.5


def _linear(share: float) -> float:
    # Li, Yumer and Ramanan, "Budgeted Training", ICLR 2020 (arXiv:1905.04753).
    return 1.0 - share


def _cosine(share: float) -> float:
    # Loshchilov and Hutter, "SGDR", ICLR 2017 (arXiv:1608.03983).
    return 0.5 * (1.0 + math.cos(math.pi * share))


def _rex(share: float) -> float:
    # Chen, Wolfe and Kyrillidis, "REX", MLSys 2022 (arXiv:2107.04197).
    return (1.0 - share) / (REX_BETA + (1.0 - REX_BETA) * (1.0 - share))


def _stable(share: float) -> float:
    # Warm-up, stable, decay: Hägele et al., NeurIPS 2024 (arXiv:2405.18392).
    return min(1.0, (1.0 - share) / (1.0 - STABLE_SHARE))


# Each falls from 1 at share 0 to 0 at share 1.
SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "rex": _rex,
    "stable": _stable,
}


def learning_rate(share: float, peak: float, warm_up_share: float, schedule: str) -> float:
    """Return the learning rate at a share of the time: a linear rise, then a fall to zero.

    Args:
        share: Share of the training time that is used, in [0, 1].
        peak: The highest learning rate.
        warm_up_share: Share of the time that the rise takes, in [0, 1).
        schedule: Name of the curve of the fall, one of `SCHEDULES`.

    Returns:
        A rate in [0, peak]. At share 0 it is a hundredth of the peak, not 0, so that the first
        iteration is not lost; at share 1 it is 0.

    Examples:
        >>> learning_rate(0.02, 0.05, 0.02, "linear"), learning_rate(1.0, 0.05, 0.02, "linear")
        (0.05, 0.0)
    """
    if share < warm_up_share:
        return peak * max(0.01, share / warm_up_share)
    return peak * SCHEDULES[schedule]((share - warm_up_share) / (1.0 - warm_up_share))
