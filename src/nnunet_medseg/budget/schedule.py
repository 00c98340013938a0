"""The learning rate as a function of the share of the time that is used."""

from __future__ import annotations

__all__ = ["WARM_UP_SHARE", "learning_rate"]

WARM_UP_SHARE = 0.02  # of the time; without it a peak of 0.05 can diverge in the first steps


def learning_rate(share: float, peak: float, warm_up_share: float = WARM_UP_SHARE) -> float:
    """Return the learning rate at a share of the time: a linear rise, then linear to zero.

    Linear decay to the end of a known budget is the best of the schedules compared by Li, Yumer
    and Ramanan, "Budgeted Training", ICLR 2020 (arXiv:1905.04753).

    Args:
        share: Share of the training time that is used, in [0, 1].
        peak: The highest learning rate.
        warm_up_share: Share of the time that the rise takes, in [0, 1).

    Returns:
        A rate in [0, peak]. At share 0 it is a hundredth of the peak, not 0, so that the first
        iteration is not lost; at share 1 it is 0.

    Examples:
        >>> learning_rate(0.02, 0.05), learning_rate(1.0, 0.05)
        (0.05, 0.0)
    """
    if share < warm_up_share:
        return peak * max(0.01, share / warm_up_share)
    return peak * (1.0 - share) / (1.0 - warm_up_share)
