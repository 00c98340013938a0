"""What measurements on a few cases say about all cases: intervals, paired tests, correction.

Promises: the same values and seed give the same result; cases without a number are left out, never
counted as zero; cases of one owner, as images of one patient, never count as independent ones.
Does not promise: intervals that hold what they say on fewer than about ten owners; the bootstrap
knows no spread beyond the cases it was given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
        owners: Number of owners of these cases.
    """

    difference: Interval
    p_value: float
    cases: int
    owners: int


def bootstrap_mean(
    values: Sequence[float], *, owners: Sequence[str] | None = None, seed: int = 0
) -> Interval:
    """Return the mean of the values with its 95 % bootstrap interval.

    The interval is bias-corrected and accelerated (BCa; Efron 1987, doi:10.2307/2289144), from
    2,000 resamples. Owners are drawn, each with all of its values, since those of one owner are
    alike (Field and Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x).

    Args:
        values: One a case, any unit; NaN where a case has no value, which is left out.
        owners: Whose each case is; None where each has another one.
        seed: Of the resamples.

    Returns:
        NaN throughout when no value is left. One owner, or values that are all equal, show no
        spread: both ends are the mean.

    Examples:
        >>> bootstrap_mean([0.5, 0.5, float("nan")])
        Interval(mean=0.5, low=0.5, high=0.5)
    """
    sums, counts = _by_owner([[value] for value in values], owners)

    def mean(drawn: NDArray[np.int_], axis: int = -1) -> Any:
        return sums[drawn, 0].sum(axis) / counts[drawn, 0].sum(axis)

    return _interval(len(sums), mean, seed)


def bootstrap_mean_of_labels(
    rows: Sequence[Sequence[float]], *, owners: Sequence[str] | None = None, seed: int = 0
) -> Interval:
    """Return the mean over labels of their means over cases, with its interval.

    That mean is nnU-Net's `foreground_mean` (evaluate_predictions.py of 2.8.1): a label counts as
    much as any other, in however many cases it is. The interval is that of `bootstrap_mean`, with
    whole cases drawn.

    Args:
        rows: One a case, each with one value a label; NaN where a case has no value.
        owners: Whose each case is; None where each has another one.
        seed: Of the resamples.

    Returns:
        NaN throughout when there is no value; both ends are the mean when all resamples agree.

    Examples:
        >>> nan = float("nan")
        >>> bootstrap_mean_of_labels([[0.5, nan], [0.5, 1.0]])
        Interval(mean=0.75, low=0.5, high=0.75)
    """
    sums, counts = _by_owner(rows, owners)

    def mean_of_means(drawn: NDArray[np.int_]) -> float:
        total, number = sums[drawn].sum(axis=0), counts[drawn].sum(axis=0)
        return float(np.mean(total[number > 0] / number[number > 0]))

    return _interval(len(sums), mean_of_means, seed)


def _by_owner(
    rows: Sequence[Sequence[float]], owners: Sequence[str] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sums and numbers of values, a row for each owner that has any and a column a label."""
    whose = range(len(rows)) if owners is None else owners
    present = [
        (owner, row) for owner, row in zip(whose, rows, strict=True) if not np.isnan(row).all()
    ]
    # In the order in which they first come, so that those with one case each are the cases.
    places = {owner: place for place, owner in enumerate(dict.fromkeys(who for who, _ in present))}
    at = np.array([places[owner] for owner, _ in present], dtype=int)
    table = np.array([row for _, row in present], dtype=float)
    sums = np.zeros((len(places), *table.shape[1:]))
    counts = np.zeros_like(sums)
    np.add.at(sums, at, np.where(np.isnan(table), 0.0, table))
    np.add.at(counts, at, ~np.isnan(table))
    return sums, counts


def _interval(owners: int, statistic: Callable[..., Any], seed: int) -> Interval:
    """Return a statistic over owners with its interval.

    Args:
        owners: How many there are.
        statistic: Of the places of owners that were drawn; many draws at once if it has an `axis`.
        seed: Of the resamples.
    """
    if not owners:
        return Interval(math.nan, math.nan, math.nan)
    every = np.arange(owners)
    mean = float(statistic(every))
    one_left_out = [statistic(np.delete(every, place)) for place in every] if owners > 1 else []
    if not one_left_out or not np.ptp(one_left_out).round(DECIMALS):
        return Interval(mean, mean, mean)
    # Late: a command that only trains does without it.
    from scipy.stats import bootstrap

    found = bootstrap(
        (every,),
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))


def compare_paired(
    first: Sequence[float],
    second: Sequence[float],
    *,
    owners: Sequence[str] | None = None,
    seed: int = 0,
) -> Paired:
    """Compare two measurements of the same cases.

    The p-value is that of Wilcoxon's signed-rank test (Wilcoxon 1945, doi:10.2307/3001968), on
    both sides; cases without a difference are left out of it, as Wilcoxon did. It is exact for up
    to 13 cases, and for up to 50 when all differences differ in size. It takes differences to be
    independent, so that an owner of several cases enters it once, with their mean.

    Args:
        first: One value a case; NaN where it has none.
        second: Of the same cases in the same order and the same unit.
        owners: Whose each case is; None where each has another one.
        seed: Of the resamples of the interval.

    Returns:
        First minus second, over the cases that have both. The p-value is 1 when no case differs.

    Raises:
        ValueError: When the numbers of cases differ.

    Examples:
        >>> compare_paired([0.75, 0.5], [0.25, float("nan")])
        Paired(difference=Interval(mean=0.5, low=0.5, high=0.5), p_value=1.0, cases=1, owners=1)
    """
    if len(first) != len(second):
        problem = f"numbers of cases differ: {len(first)} and {len(second)}"
        raise ValueError(problem)
    differences = (np.asarray(first, dtype=float) - np.asarray(second, dtype=float)).round(DECIMALS)
    interval = bootstrap_mean(differences.tolist(), owners=owners, seed=seed)
    sums, counts = _by_owner([[value] for value in differences], owners)
    means = (sums / counts).round(DECIMALS).ravel()
    p_value = _signed_rank_p(means[means != 0])
    return Paired(interval, p_value, int(counts.sum()), len(means))


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
        cases: Number n of cases that have both measurements, or of their owners; 0 or more.

    Examples:
        >>> smallest_p(4), smallest_p(6)
        (0.125, 0.03125)
    """
    return min(1.0, 2.0 ** (1 - cases))
