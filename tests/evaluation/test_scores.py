"""What is measured of a case."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn

from nnunet_medseg.evaluation.components import ComponentCount, count_components
from nnunet_medseg.evaluation.scores import CaseScore, score_maps

SPACING_MM = (5.0, 0.5, 2.0)


def slabs(*values):
    array = np.zeros((16, 8, 8), np.uint8)
    for place, value in enumerate(values):
        array[4 * place : 4 * place + 4] = value
    return array


def test_a_label_has_overlap_distance_volume_and_components():
    score = score_maps(slabs(1, 1, 2), slabs(1, 2, 2), {"liver": 1, "lesion": 2}, SPACING_MM)

    liver = score["liver"]
    assert liver.dice == pytest.approx(2 / 3)
    assert liver.hd95_mm == 20.0
    assert liver.tolerance_mm == pytest.approx(math.sqrt(25 + 0.25 + 4))
    assert (liver.truth_ml, liver.predicted_ml) == pytest.approx((2.56, 1.28))
    assert liver.volume_error_ml == pytest.approx(-1.28)
    assert (liver.components, liver.found, liver.false) == (1, 1, 0)


def test_another_tolerance_changes_the_share_within_it_only():
    maps = slabs(1, 1), slabs(1, 1, 1)

    narrow, wide = (
        score_maps(*maps, {"liver": 1}, SPACING_MM, tolerance_mm)["liver"]
        for tolerance_mm in (1.0, 50.0)
    )

    assert narrow.nsd < wide.nsd == 1.0
    assert narrow.hd95_mm == wide.hd95_mm


def test_a_missed_and_an_invented_label_are_told_apart_from_an_absent_one():
    score = score_maps(slabs(1), slabs(2), {"missed": 1, "invented": 2, "absent": 3}, SPACING_MM)

    assert (score["missed"].dice, score["missed"].found, score["missed"].components) == (0, 0, 1)
    assert (score["invented"].dice, score["invented"].false) == (0, 1)
    assert score["missed"].hd95_mm == score["invented"].hd95_mm == math.inf
    assert math.isnan(score["absent"].dice)
    assert math.isnan(score["absent"].hd95_mm)


def test_scores_survive_being_written_down():
    score = CaseScore("case_0001", score_maps(slabs(1), slabs(1, 2), {"a": 1, "b": 2}, SPACING_MM))

    back = CaseScore.from_json(json.loads(json.dumps(asdict(score))))

    assert back == score


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    shape=st.tuples(*[st.integers(1, 7)] * 3),
)
def test_overlap_is_what_nnunet_counts(seed, share, shape):
    rng = np.random.default_rng(seed)
    maps = (rng.random((2, *shape)) < share) * rng.integers(1, 3, (2, *shape))
    truth, prediction = maps.astype(np.uint8)

    scores = score_maps(truth, prediction, {"a": 1, "b": 2}, SPACING_MM)

    for value, score in zip((1, 2), scores.values(), strict=True):
        tp, fp, fn, _ = compute_tp_fp_fn_tn(truth == value, prediction == value)
        expected = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else math.nan
        assert score.dice == pytest.approx(expected, nan_ok=True)
        assert score.found <= score.components
        assert (score.hd95_mm == 0) == bool(tp and not fp and not fn) or score.hd95_mm == 0


def test_components_that_touch_by_a_corner_are_one():
    truth = np.zeros((8, 8, 8), np.uint8)
    truth[1, 1, 1] = truth[2, 2, 2] = truth[6, 6, 6] = 1
    prediction = np.zeros_like(truth)
    prediction[2, 2, 2] = prediction[4, 1, 4] = 1

    assert count_components(truth, prediction, [1, 2]) == {
        1: ComponentCount(truth=2, found=1, false=1),
        2: ComponentCount(truth=0, found=0, false=0),
    }


def test_a_component_of_another_label_does_not_find_one():
    truth, prediction = slabs(1, 0, 2), slabs(2, 0, 2)

    counts = count_components(truth, prediction, [1, 2])

    assert counts[1] == ComponentCount(truth=1, found=0, false=0)
    assert counts[2] == ComponentCount(truth=1, found=1, false=1)
