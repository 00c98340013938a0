"""What measurements on a few cases say about all cases: intervals, paired tests, correction.

Promises: the same values and seed give the same result; cases without a number are left out, never
counted as zero.
Does not promise: intervals that hold what they say on fewer than about ten cases; the bootstrap
knows no spread beyond the cases it was given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Interval",
    "Paired",
    "bootstrap_mean",
    "bootstrap_mean_of_labels",
    "compare_paired",
    "holm",
    "smallest_p",
]

CONFIDENCE = 0.95
RESAMPLES = 2000  # each end of the interval then rests on the 50 outermost
# Differences are rounded to this, since rounding of a sum must break no tie and make no sign.
DECIMALS = 12


@dataclass(frozen=True)
class Interval:
    """A mean and the 95 % interval around it, in the unit of the values; NaN without any value."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """How two measurements of the same cases differ.

    Attributes:
        difference: First minus second, in the unit of the values.
        p_value: In [0, 1]; how often chance alone gives a difference like this or a larger one.
        cases: Number of cases that have both.
    """

    difference: Interval
    p_value: float
    cases: int


def bootstrap_mean(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the mean of the values with its 95 % bootstrap interval.

    The interval is bias-corrected and accelerated (BCa; Efron 1987, doi:10.2307/2289144), from
    2,000 resamples.

    Args:
        values: One a case, any unit; NaN where a case has no value, which is left out.
        seed: Of the resamples.

    Returns:
        NaN throughout when no value is left. One value, or values that are all equal, show no
        spread: both ends are the mean.

    Examples:
        >>> bootstrap_mean([0.5, 0.5, float("nan")])
        Interval(mean=0.5, low=0.5, high=0.5)
    """
    numbers = np.asarray(values, dtype=float)
    numbers = numbers[~np.isnan(numbers)]
    if not len(numbers):
        return Interval(math.nan, math.nan, math.nan)
    mean = float(numbers.mean())
    if not np.ptp(numbers).round(DECIMALS):
        return Interval(mean, mean, mean)
    return _interval(numbers, mean, seed)


def bootstrap_mean_of_labels(rows: Sequence[Sequence[float]], *, seed: int = 0) -> Interval:
    """Return the mean over labels of their means over cases, with its interval over cases.

    That mean is nnU-Net's `foreground_mean` (evaluate_predictions.py of 2.8.1): a label counts as
    much as any other, in however many cases it is. The interval is that of `bootstrap_mean`, with
    whole cases drawn.

    Args:
        rows: One a case, each with one value a label; NaN where a case has no value.
        seed: Of the resamples.

    Returns:
        NaN throughout when there is no value; both ends are the mean when all resamples agree.

    Examples:
        >>> nan = float("nan")
        >>> bootstrap_mean_of_labels([[0.5, nan], [0.5, 1.0]])
        Interval(mean=0.75, low=0.5, high=0.75)
    """
    table = np.asarray([row for row in rows if not np.isnan(row).all()], dtype=float)
    if not len(table):
        return Interval(math.nan, math.nan, math.nan)
    table = table[:, ~np.isnan(table).all(axis=0)]

    def statistic(drawn: NDArray[np.int_]) -> float:
        numbers = table[drawn]
        counts = (~np.isnan(numbers)).sum(axis=0)
        sums = np.nansum(numbers, axis=0)
        return float(np.mean(sums[counts > 0] / counts[counts > 0]))

    every = np.arange(len(table))
    mean = statistic(every)
    one_left_out = [statistic(np.delete(every, place)) for place in every] if len(table) > 1 else []
    if not one_left_out or not np.ptp(one_left_out).round(DECIMALS):
        return Interval(mean, mean, mean)
    from scipy.stats import bootstrap

    found = bootstrap(
        (every,),
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        vectorized=False,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))


def _interval(numbers: NDArray[np.float64], mean: float, seed: int) -> Interval:
    # Late: a command that only trains does without it.
    from scipy.stats import bootstrap

    found = bootstrap(
        (numbers,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))


def compare_paired(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Paired:
    """Compare two measurements of the same cases.

    The p-value is that of Wilcoxon's signed-rank test (Wilcoxon 1945, doi:10.2307/3001968), on
    both sides; cases without a difference are left out of it, as Wilcoxon did. It is exact for up
    to 13 cases, and for up to 50 when all differences differ in size.

    Args:
        first: One value a case; NaN where it has none.
        second: Of the same cases in the same order and the same unit.
        seed: Of the resamples of the interval.

    Returns:
        First minus second, over the cases that have both. The p-value is 1 when no case differs.

    Raises:
        ValueError: When the numbers of cases differ.

    Examples:
        >>> compare_paired([0.75, 0.5], [0.25, float("nan")])
        Paired(difference=Interval(mean=0.5, low=0.5, high=0.5), p_value=1.0, cases=1)
    """
    if len(first) != len(second):
        problem = f"numbers of cases differ: {len(first)} and {len(second)}"
        raise ValueError(problem)
    differences = (np.asarray(first, dtype=float) - np.asarray(second, dtype=float)).round(DECIMALS)
    differences = differences[~np.isnan(differences)]
    interval = bootstrap_mean(differences.tolist(), seed=seed)
    return Paired(interval, _signed_rank_p(differences[differences != 0]), len(differences))


def _signed_rank_p(differences: NDArray[np.float64]) -> float:
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences).pvalue) if len(differences) else 1.0


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Correct p-values for their number, by Holm's step-down method.

    The smallest is multiplied by their number, the next by one less, and so on, and none comes out
    below one that went in below it (Holm 1979, https://www.jstor.org/stable/4615733).

    Args:
        p_values: In [0, 1], in any order.

    Returns:
        The corrected values, at most 1, in the order of the argument.

    Examples:
        >>> holm([0.03, 0.01, 0.5])
        (0.06, 0.03, 0.5)
    """
    corrected = [0.0] * len(p_values)
    reached = 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = reached
    return tuple(corrected)


def smallest_p(cases: int) -> float:
    """Return the smallest p-value that the exact test of `compare_paired` can give.

    Of the 2ⁿ ways to put signs to n differences, two are as extreme as all signs being the same.

    Args:
        cases: Number of cases n that have both measurements, 0 or more.

    Examples:
        >>> smallest_p(4), smallest_p(6)
        (0.125, 0.03125)
    """
    return min(1.0, 2.0 ** (1 - cases))
