"""What many cases say together."""

from __future__ import annotations

import math

import pytest

from nnunet_medseg.evaluation.scores import CaseScore, LabelScore
from nnunet_medseg.evaluation.statistics import bootstrap_mean
from nnunet_medseg.evaluation.summaries import mean_dice_of, summarise


def make_score(case, dice, *, hd95_mm=1.0, truth_ml=10.0, predicted_ml=9.0, components=(2, 1, 0)):
    label = LabelScore(dice, hd95_mm, 0.5, 1.0, 2.0, truth_ml, predicted_ml, *components)
    return CaseScore(case, {"liver": label})


FOUND = make_score("a", 0.9, predicted_ml=12.0)
MISSED = make_score("b", 0.0, hd95_mm=math.inf, predicted_ml=0.0, components=(2, 0, 0))
INVENTED = make_score("c", 0.0, hd95_mm=math.inf, truth_ml=0.0, components=(0, 0, 3))
ABSENT = make_score(
    "d", math.nan, hd95_mm=math.nan, truth_ml=0.0, predicted_ml=0.0, components=(0, 0, 0)
)


def test_cases_without_the_label_count_in_no_mean_but_in_that_of_false_components():
    summary = summarise([FOUND, MISSED, INVENTED, ABSENT], "liver")

    assert (summary.cases, summary.missed, summary.invented) == (3, 1, 1)
    assert summary.dice.mean == pytest.approx(0.3)
    assert summary.sensitivity == pytest.approx(1 / 4)
    assert summary.false_per_case == pytest.approx(3 / 4)
    assert summary.volume_error_ml == pytest.approx((2 + 10 + 9) / 3)
    assert summary.bias_ml == pytest.approx((2 - 10 + 9) / 3)


def test_a_missed_case_leaves_a_median_where_a_mean_would_be_infinite():
    assert summarise([FOUND, FOUND, MISSED], "liver").hd95_mm == 1.0
    assert summarise([FOUND, MISSED, MISSED], "liver").hd95_mm == math.inf


def test_without_cases_nothing_is_said():
    summary = summarise([ABSENT], "liver")

    assert summary.cases == 0
    assert math.isnan(summary.dice.mean)
    assert math.isnan(summary.hd95_mm)
    assert math.isnan(summary.sensitivity)
    assert math.isnan(summarise([], "liver").false_per_case)


def test_the_interval_is_over_patients_where_some_have_several_cases():
    scores = [
        make_score(case, dice) for case, dice in zip("abcd", (0.9, 0.8, 0.5, 0.4), strict=True)
    ]
    owners = {"a": "first", "b": "first", "c": "second", "d": "second"}

    summary = summarise([*scores, ABSENT], "liver", owners=owners)

    assert summary.dice == bootstrap_mean([0.9, 0.8, 0.5, 0.4], owners=list(owners.values()))
    assert summary.dice != summarise([*scores, ABSENT], "liver").dice


def test_the_mean_of_a_case_is_over_the_labels_it_has():
    both = CaseScore("a", {"liver": FOUND.labels["liver"], "lesion": ABSENT.labels["liver"]})

    assert mean_dice_of(both) == pytest.approx(0.9)
    assert math.isnan(mean_dice_of(ABSENT))
