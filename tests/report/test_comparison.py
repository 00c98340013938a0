"""The comparison that people read."""

from __future__ import annotations

import csv
import math
import stat

import pytest

from nnunet_medseg import console
from nnunet_medseg.evaluation.statistics import compare_paired
from nnunet_medseg.report.comparison import (
    Comparison,
    Entry,
    compare_entries,
    table_rows,
    write_comparison,
)

LIVER = [0.91, 0.85, 0.93, 0.78, 0.88, 0.9, 0.83, 0.95]


def make_entry(name: str, shift: float = 0.0, *, cases: int = 8, **facts) -> Entry:
    """Make an entry whose Dice of liver and lesion lie so much higher than those of others."""
    scores = {
        f"p{place}": {"liver": value + shift, "lesion": value - 0.2 + shift * (1 + place / 10)}
        for place, value in enumerate(LIVER[:cases])
    }
    return Entry(name, scores, **facts)


def one_label(name: str, values) -> Entry:
    return Entry(name, {f"p{place}": {"liver": value} for place, value in enumerate(values)})


def row_of(comparison: Comparison, name: str) -> dict[str, str]:
    columns, rows = table_rows(comparison)
    (row,) = [row for row in rows if row[0] == name]
    return dict(zip(columns, row, strict=True))


# --- who is best -------------------------------------------------------------------------------


def test_the_entry_with_the_highest_mean_is_best_and_stands_first():
    comparison = compare_entries([make_entry("low"), make_entry("high", 0.02)])

    assert comparison.best == "high"
    assert [standing.name for standing in comparison.standings] == ["high", "low"]
    assert comparison.standings[0].below_best is None


def test_means_are_over_cases_by_label_and_over_the_labels_of_each_case():
    (standing,) = compare_entries([make_entry("only")]).standings

    mean = sum(LIVER) / 8
    assert standing.dice["liver"].mean == pytest.approx(mean)
    assert standing.dice["lesion"].mean == pytest.approx(mean - 0.2)
    assert standing.mean.mean == pytest.approx(mean - 0.1)
    assert standing.mean.low < standing.mean.mean < standing.mean.high


def test_a_label_that_a_case_lacks_is_left_out_of_its_mean():
    entry = Entry("one", {"p1": {"liver": 0.8, "lesion": math.nan}})

    (standing,) = compare_entries([entry]).standings

    assert standing.mean.mean == 0.8
    assert math.isnan(standing.dice["lesion"].mean)


def test_the_distance_to_the_best_is_paired_by_case():
    high, low = make_entry("high", 0.02), make_entry("low")

    below = compare_entries([low, high]).standings[1].below_best

    means = [[sum(dice.values()) / 2 for dice in entry.scores.values()] for entry in (high, low)]
    expected = compare_paired(*means)
    assert below == expected
    assert below.difference.low > 0


def test_p_values_are_corrected_for_the_number_of_comparisons():
    two = compare_entries([make_entry("a", 0.02), make_entry("b")])
    three = compare_entries([make_entry("a", 0.02), make_entry("b"), make_entry("c", -0.02)])

    assert two.standings[1].below_best.p_value == pytest.approx(2 / 2**8)
    assert three.standings[1].below_best.p_value == pytest.approx(2 * 2 / 2**8)
    assert three.standings[2].below_best.p_value == pytest.approx(2 * 2 / 2**8)


def test_cases_and_labels_in_another_order_are_the_same_ones():
    entry = make_entry("turned", 0.02)
    turned = Entry(
        "turned",
        {case: dict(reversed(dice.items())) for case, dice in reversed(entry.scores.items())},
    )

    comparison = compare_entries([make_entry("plain"), turned])

    straight = compare_entries([make_entry("plain"), entry])
    assert comparison.standings[1].below_best == straight.standings[1].below_best
    assert list(comparison.standings[0].dice) == ["liver", "lesion"]


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [make_entry("a"), make_entry("a", 0.1)],
        [make_entry("a"), make_entry("b", cases=7)],
        [make_entry("a"), one_label("b", LIVER)],
    ],
)
def test_what_cannot_be_compared_is_refused(entries):
    with pytest.raises(ValueError, match="entries must"):
        compare_entries(entries)


# --- the verdict -------------------------------------------------------------------------------


def test_a_clear_difference_is_told_with_interval_and_p_value():
    comparison = compare_entries([make_entry("on"), make_entry("off", 0.02)])

    assert not comparison.is_noise
    assert comparison.verdict == (
        "off is best on 8 cases: mean Dice 0.802 against 0.779 of on (difference 0.024, 95 % "
        "interval 0.022 to 0.025, p = 0.008)."
    )


def test_the_verdict_says_for_how_many_comparisons_it_was_corrected():
    entries = [make_entry(name, shift) for name, shift in (("a", 0.04), ("b", 0.02), ("c", 0.0))]

    assert "after correction for 2 comparisons" in compare_entries(entries).verdict


def test_a_very_small_p_value_is_not_shown_as_zero():
    values = [0.5 + place / 100 for place in range(20)]
    better = [value + 0.1 + place / 1000 for place, value in enumerate(values)]

    comparison = compare_entries([one_label("a", values), one_label("b", better)])

    assert "p < 0.001)" in comparison.verdict
    assert row_of(comparison, "a")["p"] == "< 0.001"


def test_a_difference_that_goes_both_ways_is_noise():
    other = [value + (0.03 if place % 2 else -0.02) for place, value in enumerate(LIVER)]

    comparison = compare_entries([one_label("a", LIVER), one_label("b", other)])

    assert comparison.is_noise
    assert comparison.verdict == (
        "The difference between b and a (0.005) is within noise on 8 cases: either may be used."
    )


def test_a_mean_that_hangs_on_one_failure_is_noise_even_if_the_ranks_say_otherwise():
    steady = [0.8 - place / 1000 for place in range(14)]
    failing = [value + 0.01 + place / 1000 for place, value in enumerate(steady)]
    failing[0] = 0.0

    comparison = compare_entries([one_label("steady", steady), one_label("failing", failing)])

    assert comparison.best == "steady"
    assert comparison.standings[1].below_best.p_value < 0.05
    assert comparison.is_noise


@pytest.mark.parametrize(("cases", "said"), [(1, "1 case "), (4, "4 cases "), (5, "5 cases ")])
def test_too_few_cases_are_said_to_be_too_few(cases, said):
    entries = [make_entry("a", 0.1, cases=cases), make_entry("b", cases=cases)]

    comparison = compare_entries(entries)

    assert comparison.is_noise
    assert comparison.verdict.startswith(f"With {said}no difference could be significant")
    assert "At least 6 cases are needed" in comparison.verdict


def test_more_comparisons_need_more_cases():
    entries = [make_entry(str(place), place / 100, cases=6) for place in range(3)]

    verdict = compare_entries(entries).verdict

    assert "With 6 cases no difference could be significant" in verdict
    assert "At least 7 cases are needed" in verdict


def test_equal_entries_are_noise_and_the_first_is_called_best():
    comparison = compare_entries([make_entry("first"), make_entry("second")])

    assert comparison.best == "first"
    assert comparison.is_noise
    assert "(0.000) is within noise on 8 cases" in comparison.verdict


def test_a_single_entry_is_said_to_be_the_only_one():
    comparison = compare_entries([make_entry("lonely")])

    assert not comparison.is_noise
    assert "lonely is the only one that was measured: mean Dice 0.779" in comparison.verdict


def test_entries_without_any_dice_are_not_ranked_by_chance():
    nothing = [math.nan] * 8

    comparison = compare_entries([one_label("a", nothing), one_label("b", nothing)])

    assert comparison.is_noise
    assert "nobody knows which is better" in comparison.verdict


def test_an_entry_without_any_dice_comes_last():
    comparison = compare_entries([one_label("none", [math.nan] * 8), one_label("some", LIVER)])

    assert comparison.best == "some"
    assert row_of(comparison, "none")["mean Dice"] == "none"


# --- several images of a patient ---------------------------------------------------------------


def of_patients(per_patient: int) -> dict[str, str]:
    """Say whose the cases of `make_entry` are."""
    return {f"p{place}": f"patient {place // per_patient}" for place in range(8)}


def test_cases_of_patients_who_have_one_each_are_compared_as_ever():
    entries = [make_entry("on"), make_entry("off", 0.02)]

    assert compare_entries(entries, owners=of_patients(1)) == compare_entries(entries)


def test_images_of_one_patient_are_drawn_together_and_tested_once():
    entries = [make_entry("on"), make_entry("off", 0.02)]

    comparison = compare_entries(entries, owners=of_patients(2))

    alone = compare_entries(entries)
    best, below = comparison.standings[0], comparison.standings[1].below_best
    assert best.mean.mean == alone.standings[0].mean.mean
    assert best.mean != alone.standings[0].mean
    assert best.dice["liver"] != alone.standings[0].dice["liver"]
    assert (below.cases, below.owners, below.p_value) == (8, 4, 2 / 2**4)
    assert comparison.verdict == (
        "With 8 images of 4 patients no difference could be significant: the one between off and "
        "on (0.024) may be chance. At least 6 patients are needed."
    )


def test_a_difference_on_several_images_a_patient_says_on_how_many_patients():
    entries = [
        one_label("a", [0.8 + place / 100 for place in range(14)]),
        one_label("b", [0.7 + place / 200 for place in range(14)]),
    ]
    owners = {f"p{place}": f"patient {place // 2}" for place in range(14)}

    comparison = compare_entries(entries, owners=owners)

    assert comparison.verdict.startswith("a is best on 14 images of 7 patients: mean Dice ")


# --- table and file ----------------------------------------------------------------------------


def test_the_table_shows_dice_by_label_and_the_distance_to_the_best():
    comparison = compare_entries([make_entry("on"), make_entry("off", 0.02)])

    best, other = row_of(comparison, "off"), row_of(comparison, "on")

    assert list(best) == ["name", "liver", "lesion", "mean Dice", "to the best", "p"]
    assert best["to the best"] == "best"
    assert best["p"] == ""
    assert other["liver"].startswith("0.879 (0.8")
    assert other["to the best"].startswith("-0.024 (-0.025 to ")
    assert other["p"] == "0.008"


def test_equal_entries_have_a_distance_without_a_sign():
    comparison = compare_entries([make_entry("first"), make_entry("second")])

    assert row_of(comparison, "second")["to the best"] == "0.000 (0.000 to 0.000)"


def test_minutes_and_memory_are_shown_when_somebody_knows_them():
    known = make_entry("known", seconds=90.0, memory_bytes=2.5e9)

    comparison = compare_entries([known, make_entry("unknown")])

    assert row_of(comparison, "known")["minutes"] == "1.5"
    assert row_of(comparison, "known")["memory"] == "2.5 GB"
    assert row_of(comparison, "unknown")["minutes"] == ""


def test_with_many_labels_the_worst_one_is_shown():
    scores = {"p1": {f"bone {number}": number / 10 for number in range(3, 10)}}
    scores["p1"]["missing"] = math.nan

    columns, (row,) = table_rows(compare_entries([Entry("one", scores)]))

    assert columns[1] == "worst of 8 labels"
    assert row[1] == "bone 3 0.300 (0.300 to 0.300)"


def test_the_table_can_be_printed(capsys):
    columns, rows = table_rows(compare_entries([make_entry("on"), make_entry("off", 0.02)]))

    console.table("", columns, rows)

    assert "mean Dice" in capsys.readouterr().out


def test_the_file_has_a_row_a_case_and_entry_and_the_rights_that_were_asked(tmp_path):
    entries = [
        Entry("A", {"Müller": {"liver": 0.5, "lesion": math.nan}, "p2": {"liver": 1, "lesion": 0}}),
        Entry("B", {"Müller": {"liver": 0.75, "lesion": 0.5}, "p2": {"liver": 1, "lesion": 1}}),
    ]
    path = tmp_path / "comparison.csv"

    write_comparison(path, compare_entries(entries), entries, mode=0o600)

    with path.open(encoding="utf-8", newline="") as table:
        rows = list(csv.reader(table))
    assert rows == [
        ["case", "name", "dice_liver", "dice_lesion", "mean_dice"],
        ["Müller", "B", "0.750000", "0.500000", "0.625000"],
        ["Müller", "A", "0.500000", "", "0.500000"],
        ["p2", "B", "1.000000", "1.000000", "1.000000"],
        ["p2", "A", "1.000000", "0.000000", "0.500000"],
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_answer_that_is_rightly_empty_counts_as_right_beside_one_that_is_not():
    sick = {f"sick_{number}": 0.90 + 0.005 * number for number in range(8)}
    worse = {case: value - 0.1 for case, value in sick.items()}
    careful = {**worse, "healthy_1": math.nan, "healthy_2": math.nan}
    eager = {**sick, "healthy_1": 0.0, "healthy_2": 0.0}
    entries = [
        Entry(name, {case: {"lesion": value} for case, value in scores.items()})
        for name, scores in (("careful", careful), ("eager", eager))
    ]

    comparison = compare_entries(entries)

    means = {standing.name: standing.mean.mean for standing in comparison.standings}
    assert means["careful"] == pytest.approx((sum(worse.values()) + 2) / 10)
    assert means["eager"] == pytest.approx(sum(sick.values()) / 10)
    assert comparison.best == "careful"
