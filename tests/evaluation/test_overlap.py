"""Dice per label."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nnunet_medseg.evaluation.overlap import dice_by_label, mean_dice


def cube(start: int, stop: int, label: int = 1) -> np.ndarray:
    """Return 16³ voxels with a cube of a label along the diagonal."""
    array = np.zeros((16, 16, 16), np.uint8)
    array[start:stop, start:stop, start:stop] = label
    return array


def test_equal_maps_have_a_dice_of_one():
    scores = dice_by_label(cube(2, 8), cube(2, 8), [1])

    assert scores == {1: 1.0}


def test_maps_apart_have_a_dice_of_zero():
    scores = dice_by_label(cube(0, 4), cube(8, 12), [1])

    assert scores == {1: 0.0}


def test_partial_overlap_follows_the_formula():
    truth, prediction = cube(0, 8), cube(4, 12)

    scores = dice_by_label(truth, prediction, [1])

    assert scores[1] == pytest.approx(2 * 4**3 / (8**3 + 8**3))


def test_a_label_that_only_one_map_has_scores_zero():
    scores = dice_by_label(cube(0, 8, label=1), cube(0, 8, label=2), [1, 2])

    assert scores == {1: 0.0, 2: 0.0}


def test_a_label_that_neither_map_has_is_no_number():
    scores = dice_by_label(cube(0, 8), cube(0, 8), [7])

    assert math.isnan(scores[7])


def test_labels_come_back_in_the_order_they_were_given():
    scores = dice_by_label(cube(0, 8), cube(0, 8), [3, 1, 2])

    assert list(scores) == [3, 1, 2]


def test_types_of_integers_do_not_matter():
    scores = dice_by_label(cube(0, 8).astype(np.int16), cube(0, 8).astype(np.int64), [1])

    assert scores == {1: 1.0}


def test_maps_on_different_grids_are_not_compared():
    with pytest.raises(ValueError, match="shapes differ"):
        dice_by_label(cube(0, 8), cube(0, 8)[:8], [1])


def test_the_mean_passes_over_what_is_no_number():
    assert mean_dice([0.5, math.nan, 1.0]) == 0.75


@pytest.mark.parametrize("scores", [[], [math.nan]])
def test_the_mean_of_no_numbers_is_no_number(scores):
    assert math.isnan(mean_dice(scores))
