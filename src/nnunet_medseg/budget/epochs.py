"""How many iterations the next epoch has, so that the training ends when the time does."""

from __future__ import annotations

import math

__all__ = [
    "MAX_EPOCHS",
    "MIN_ITERATIONS",
    "PROBE_ITERATIONS",
    "is_overdue",
    "iterations_of_next_epoch",
    "nominal_epoch_s",
    "tolerance_s",
]

MAX_EPOCHS = 10_000
MIN_ITERATIONS = 20  # fewer do not make a model
PROBE_ITERATIONS = 3  # the first epoch measures; its first iteration, a cold start, is left out

# An epoch is 2 % of the time: often enough to checkpoint, and to follow a change of speed.
EPOCH_SHARE = 0.02
EPOCH_RANGE_S = (5.0, 60.0)
# A long budget gets longer epochs, so that half of the epochs allowed suffice.
LONG_EPOCH_SHARE = 2.0 / MAX_EPOCHS

# A machine that becomes this many times as slow within an epoch does not spoil the end. Measured:
# two other busy programs on two cores make a step two to four times as long.
SLOWDOWN = 4.0

TOLERANCE_SHARE = 0.01
TOLERANCE_S = 5.0


def nominal_epoch_s(asked_s: float) -> float:
    """Return how long an epoch is meant to take, in seconds, far from the end.

    Examples:
        >>> nominal_epoch_s(600.0), nominal_epoch_s(60.0)
        (12.0, 5.0)
    """
    low, high = EPOCH_RANGE_S
    return max(min(max(EPOCH_SHARE * asked_s, low), high), LONG_EPOCH_SHARE * asked_s)


def tolerance_s(asked_s: float, iteration_s: float) -> float:
    """Return how far from `asked_s` the training may end: 1 %, 5 s or an iteration."""
    return max(TOLERANCE_SHARE * asked_s, TOLERANCE_S, iteration_s)


def iterations_of_next_epoch(left_s: float, iteration_s: float, asked_s: float) -> int:
    """Return the number of iterations of the next epoch; 0 ends the training.

    Near the end each epoch takes a quarter of what is left, so that what a change of speed can
    spoil becomes small before the last epoch starts: that one takes at most a third of the
    tolerance, and even a machine that becomes four times as slow in it ends within the tolerance.
    In a long training that is more than the nominal length, which no epoch exceeds.

    Args:
        left_s: Seconds left.
        iteration_s: Seconds an iteration takes, as measured last.
        asked_s: The whole training duration in seconds.

    Examples:
        >>> iterations_of_next_epoch(300.0, 0.5, 600.0)
        24
        >>> iterations_of_next_epoch(0.2, 0.5, 600.0)
        0
    """
    # Half an iteration: stopping now and going on are then equally far from the end.
    if left_s < iteration_s / 2:
        return 0
    epoch_s = nominal_epoch_s(asked_s)
    if left_s <= min(tolerance_s(asked_s, iteration_s) / (SLOWDOWN - 1), epoch_s):
        return max(1, round(left_s / iteration_s))
    return max(1, math.floor(min(epoch_s, left_s / SLOWDOWN) / iteration_s))


def is_overdue(left_s: float, iteration_s: float, asked_s: float) -> bool:
    """Tell whether one more iteration would end beyond the tolerance.

    Epochs finish; only when a machine becomes so slow within the last one that the promise about
    the time would be broken, it ends early.

    Args:
        left_s: Seconds left; negative when the time is over.
        iteration_s: Seconds the last iteration took.
        asked_s: The whole training duration in seconds.

    Examples:
        >>> is_overdue(-1.0, 0.5, 60.0), is_overdue(-4.8, 0.5, 60.0)
        (False, True)
    """
    return left_s + tolerance_s(asked_s, iteration_s) < iteration_s
