"""A comparison that people read: several models on the same cases, and which one to take.

Promises: a difference is called one only when a paired test, corrected for the number of
comparisons, says so, and the interval of the difference lies above zero.
Does not promise: that the best is as good on other cases. The cases that chose it also measured
it, which flatters it the more, the more entries there are.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_medseg.console import counted
from nnunet_medseg.evaluation.overlap import mean_dice
from nnunet_medseg.evaluation.statistics import (
    Interval,
    Paired,
    bootstrap_mean,
    compare_paired,
    holm,
    smallest_p,
)
from nnunet_medseg.files import write_text
from nnunet_medseg.report.counts import patients_in_words

__all__ = ["Comparison", "Entry", "Standing", "compare_entries", "table_rows", "write_comparison"]

SIGNIFICANT = 0.05  # a corrected p-value below it is called a difference
SMALL_P = 0.001  # smaller ones are shown as smaller than this
MAX_LABEL_COLUMNS = 5  # more do not fit a terminal; then the worst label alone is shown


@dataclass(frozen=True)
class Entry:
    """One of those that are compared.

    Attributes:
        name: What to call it, such as the name of a model.
        scores: Dice in [0, 1] by case and label; NaN where neither truth nor segmentation has the
            label.
        seconds: What it took, when that is known.
        memory_bytes: What memory it took at most, when that is known.
    """

    name: str
    scores: Mapping[str, Mapping[str, float]]
    seconds: float | None = None
    memory_bytes: float | None = None


@dataclass(frozen=True)
class Standing:
    """How one entry did.

    Attributes:
        name: What it is called.
        dice: Mean over the cases, by label.
        mean: Mean over the cases of a case's mean over its labels.
        below_best: By how much the best is above it, as the best minus this one on the mean over
            the labels of each case, with the p-value corrected; None for the best itself.
        seconds: What it took, when that is known.
        memory_bytes: What memory it took at most, when that is known.
    """

    name: str
    dice: Mapping[str, Interval]
    mean: Interval
    below_best: Paired | None
    seconds: float | None
    memory_bytes: float | None


@dataclass(frozen=True)
class Comparison:
    """Who is best, and whether that is more than chance.

    Attributes:
        standings: The best first, then by falling mean.
        best: Name of the entry with the highest mean; of equals, the one named first.
        is_noise: Whether there is a runner-up that the best is not significantly better than.
        verdict: The same in a sentence or two.
    """

    standings: tuple[Standing, ...]
    best: str
    is_noise: bool
    verdict: str


def compare_entries(
    entries: Sequence[Entry], *, owners: Mapping[str, str] | None = None, seed: int = 0
) -> Comparison:
    """Compare entries that were scored on the same cases.

    Args:
        entries: One or more, with different names, all over the same cases and labels.
        owners: Whose each case is, by its name; None where each has another one.
        seed: Of the resamples of the intervals.

    A label that one entry rightly leaves out, where another marks something, counts as 1.

    Raises:
        ValueError: When the names are not different, or cases or labels are not the same.
    """
    _require_comparable(entries)
    entries = _with_rightly_empty(entries)
    # Cases and labels in the order of the first entry, whatever the order of the others.
    cases = list(entries[0].scores)
    whose = None if owners is None else [owners[case] for case in cases]
    values = {
        entry.name: [mean_dice(list(entry.scores[case].values())) for case in cases]
        for entry in entries
    }
    means = {
        name: bootstrap_mean(of_cases, owners=whose, seed=seed) for name, of_cases in values.items()
    }
    ordered = sorted(entries, key=lambda entry: _or_last(-means[entry.name].mean))
    best, *others = ordered
    paired = [
        compare_paired(values[best.name], values[other.name], owners=whose, seed=seed)
        for other in others
    ]
    corrected = holm([item.p_value for item in paired])
    below = [replace(item, p_value=p) for item, p in zip(paired, corrected, strict=True)]
    labels = list(next(iter(entries[0].scores.values()), {}))
    standings = tuple(
        Standing(
            entry.name,
            _label_means(entry, labels, owners, seed),
            means[entry.name],
            below_best,
            entry.seconds,
            entry.memory_bytes,
        )
        for entry, below_best in zip(ordered, [None, *below], strict=True)
    )
    is_noise = bool(below) and not _is_better(below[0])
    return Comparison(standings, best.name, is_noise, _verdict(standings))


def _with_rightly_empty(entries: Sequence[Entry]) -> list[Entry]:
    """Return entries that have a Dice in the same places.

    Where the truth lacks a label, an entry that rightly leaves it out has no Dice, and one that
    marks something has 0. Beside that 0 the right answer counts as 1; otherwise means and tests
    would rest on different cases, and the wrong answer could win.
    """
    numbers: dict[tuple[str, str], list[float]] = {}
    for entry in entries:
        for case, dice in entry.scores.items():
            for label, value in dice.items():
                numbers.setdefault((case, label), []).extend([] if math.isnan(value) else [value])
    empty = {place for place, values in numbers.items() if values and max(values) == 0}

    def filled(case: str, label: str, value: float) -> float:
        return 1.0 if math.isnan(value) and (case, label) in empty else value

    return [
        replace(
            entry,
            scores={
                case: {label: filled(case, label, value) for label, value in dice.items()}
                for case, dice in entry.scores.items()
            },
        )
        for entry in entries
    ]


def _require_comparable(entries: Sequence[Entry]) -> None:
    names = [entry.name for entry in entries]
    if not names or len(set(names)) < len(names):
        problem = f"entries must have different names, and be at least one: {names}"
        raise ValueError(problem)
    labels = {frozenset(dice) for entry in entries for dice in entry.scores.values()}
    cases = {frozenset(entry.scores) for entry in entries}
    if len(labels) > 1 or len(cases) > 1:
        problem = f"entries must be over the same cases and labels: {names}"
        raise ValueError(problem)


def _label_means(
    entry: Entry, labels: Sequence[str], owners: Mapping[str, str] | None, seed: int
) -> dict[str, Interval]:
    whose = None if owners is None else [owners[case] for case in entry.scores]
    return {
        label: bootstrap_mean(
            [dice[label] for dice in entry.scores.values()], owners=whose, seed=seed
        )
        for label in labels
    }


def _or_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _is_better(paired: Paired) -> bool:
    # The test goes by ranks and may favour the one with the lower mean, as when the other fails on
    # a single case; a clinician who reads "better" means the mean too.
    return paired.p_value < SIGNIFICANT and paired.difference.low > 0


def _verdict(standings: Sequence[Standing]) -> str:
    best, *others = standings
    if not others:
        return f"{best.name} is the only one that was measured: mean Dice {_show(best.mean)}."
    runner_up = others[0]
    paired = runner_up.below_best
    names = f"{best.name} and {runner_up.name}"
    if paired is None or not paired.cases:
        return f"No case has a Dice of both {names}, so nobody knows which is better."
    has_several = paired.owners != paired.cases
    cases = counted(paired.cases, "case")
    if has_several:
        cases = patients_in_words(paired.cases, paired.owners, "patient")
    difference = f"{paired.difference.mean:.3f}"
    if not _could_be_significant(paired.owners, len(others)):
        needed = next(n for n in itertools.count() if _could_be_significant(n, len(others)))
        return (
            f"With {cases} no difference could be significant: the one between {names} "
            f"({difference}) may be chance. At least {needed} "
            f"{'patients' if has_several else 'cases'} are needed."
        )
    if not _is_better(paired):
        return (
            f"The difference between {names} ({difference}) is within noise on {cases}: either "
            "may be used."
        )
    correction = f" after correction for {len(others)} comparisons" if len(others) > 1 else ""
    return (
        f"{best.name} is best on {cases}: mean Dice {best.mean.mean:.3f} against "
        f"{runner_up.mean.mean:.3f} of {runner_up.name} (difference {difference}, 95 % interval "
        f"{paired.difference.low:.3f} to {paired.difference.high:.3f}, "
        f"p {_show_p(paired.p_value, '= ')}{correction})."
    )


def _could_be_significant(cases: int, comparisons: int) -> bool:
    # Holm multiplies the smallest p-value by the number of comparisons, and gives none below that.
    return comparisons * smallest_p(cases) < SIGNIFICANT


def _show_p(p_value: float, equals: str = "") -> str:
    return f"< {SMALL_P}" if p_value < SMALL_P else f"{equals}{p_value:.3f}"


def _show(interval: Interval) -> str:
    if math.isnan(interval.mean):
        return "none"
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def table_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the comparison, for `console.table`.

    Intervals of 95 % stand in brackets. With many labels only the worst of each entry is shown.
    """
    standings = comparison.standings
    has_seconds = any(item.seconds is not None for item in standings)
    has_memory = any(item.memory_bytes is not None for item in standings)
    columns = ["name", *_label_columns(list(standings[0].dice)), "mean Dice", "to the best", "p"]
    columns += ["minutes"] * has_seconds + ["memory"] * has_memory
    rows = [
        [item.name, *_label_cells(item.dice), _show(item.mean), *_distance_cells(item.below_best)]
        + [_or_empty(item.seconds, 60, "")] * has_seconds
        + [_or_empty(item.memory_bytes, 1e9, " GB")] * has_memory
        for item in standings
    ]
    return columns, rows


def _label_columns(labels: Sequence[str]) -> list[str]:
    if len(labels) > MAX_LABEL_COLUMNS:
        return [f"worst of {len(labels)} labels"]
    return list(labels)


def _label_cells(dice: Mapping[str, Interval]) -> list[str]:
    if len(dice) <= MAX_LABEL_COLUMNS:
        return [_show(interval) for interval in dice.values()]
    worst = min(dice, key=lambda label: _or_last(dice[label].mean))
    return [f"{worst} {_show(dice[worst])}"]


def _distance_cells(below_best: Paired | None) -> list[str]:
    if below_best is None:
        return ["best", ""]
    above = below_best.difference
    # From zero, so that no difference is not shown as -0.000.
    below = Interval(0.0 - above.mean, 0.0 - above.high, 0.0 - above.low)
    return [_show(below), _show_p(below_best.p_value)]


def _or_empty(value: float | None, unit: float, name: str) -> str:
    return "" if value is None else f"{value / unit:.1f}{name}"


def write_comparison(
    path: Path, comparison: Comparison, entries: Sequence[Entry], *, mode: int | None = None
) -> None:
    """Write one row a case and entry, the best first; an empty Dice means that there is none.

    Args:
        path: Where to.
        comparison: Of the entries.
        entries: As they were compared.
        mode: Permission bits; None leaves those of the process.
    """
    by_name = {entry.name: entry for entry in entries}
    labels = list(comparison.standings[0].dice)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["case", "name", *(f"dice_{label}" for label in labels), "mean_dice"])
    for case in entries[0].scores:
        for standing in comparison.standings:
            dice = [by_name[standing.name].scores[case][label] for label in labels]
            cells = ["" if math.isnan(one) else f"{one:.6f}" for one in [*dice, mean_dice(dice)]]
            writer.writerow([case, standing.name, *cells])
    write_text(path, table.getvalue(), mode=mode)
