"""Distances of surfaces, held against brute force over all pairs of surface elements."""

from __future__ import annotations

import math

import numpy as np
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_medseg.evaluation.surface import surface_by_label, tolerance_for


def ball(shape, centre, radius_mm, spacing_mm):
    offsets = np.stack(np.mgrid[tuple(slice(0, size) for size in shape)], axis=-1) - centre
    return np.linalg.norm(offsets * np.array(spacing_mm), axis=-1) <= radius_mm


def corners(mask):
    """Return the corners between voxels at which a mask has a surface, in voxels."""
    padded = np.pad(mask, 1).astype(int)
    around = sum(
        padded[z : z + mask.shape[0] + 1, y : y + mask.shape[1] + 1, x : x + mask.shape[2] + 1]
        for z in (0, 1)
        for y in (0, 1)
        for x in (0, 1)
    )
    return np.argwhere((around > 0) & (around < 8))


def measure(truth, prediction, spacing_mm=(1.0, 1.0, 1.0), tolerance_mm=2.0):
    return surface_by_label(
        truth.astype(np.uint8), prediction.astype(np.uint8), [1], spacing_mm, tolerance_mm
    )[1]


def test_equal_maps_are_no_distance_apart():
    mask = ball((16, 16, 16), (8, 8, 8), 5, (1, 1, 1))

    score = measure(mask, mask)

    assert (score.hd95_mm, score.nsd, score.mean_mm) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_plate_that_is_moved_is_as_far_away_as_it_was_moved_in_mm(axis):
    spacing_mm = (3.0, 1.0, 0.5)
    truth = np.zeros((24, 24, 24), bool)
    place = [slice(None)] * 3
    place[axis] = slice(6, 8)
    truth[tuple(place)] = True
    moved = np.roll(truth, 5, axis)

    score = measure(truth, moved, spacing_mm)

    # Half of the surface is 5 voxels from the nearer side, half is as many from the other.
    assert score.hd95_mm == pytest.approx(5 * spacing_mm[axis])
    assert 3 * spacing_mm[axis] <= score.mean_mm <= 5 * spacing_mm[axis]


def test_axes_are_in_the_order_of_the_array():
    truth = np.zeros((16, 16, 16), bool)
    truth[4:8, 4:8, 4:8] = True
    spacing_mm = (5.0, 1.0, 1.0)

    along_z = measure(truth, np.roll(truth, 1, 0), spacing_mm)
    along_x = measure(truth, np.roll(truth, 1, 2), spacing_mm)

    assert (along_z.hd95_mm, along_x.hd95_mm) == (5.0, 1.0)


def test_a_label_that_neither_has_is_nothing_and_one_that_only_one_has_is_missed():
    empty, mask = np.zeros((8, 8, 8), bool), ball((8, 8, 8), (4, 4, 4), 2, (1, 1, 1))

    neither = measure(empty, empty)

    assert all(map(math.isnan, (neither.hd95_mm, neither.nsd, neither.mean_mm)))
    for truth, prediction in ((empty, mask), (mask, empty)):
        score = measure(truth, prediction)
        assert (score.hd95_mm, score.nsd, score.mean_mm) == (math.inf, 0.0, math.inf)


def test_maps_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        measure(np.zeros((8, 8, 8), bool), np.zeros((8, 8, 9), bool))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.002, 0.05, 0.5, 0.98, 1.0]),
    spacing_mm=st.tuples(*[st.sampled_from([0.5, 0.8, 1.0, 2.5, 5.0])] * 3),
    shape=st.tuples(*[st.integers(1, 9)] * 3),
)
def test_distances_are_those_of_the_reference_implementation(seed, share, spacing_mm, shape):
    truth, prediction = np.random.default_rng(seed).random((2, *shape)) < share
    if not truth.any() or not prediction.any():
        return
    found = surface_distance.compute_surface_distances(truth, prediction, spacing_mm)
    there, back = surface_distance.compute_average_surface_distance(found)
    areas = [found["surfel_areas_gt"].sum(), found["surfel_areas_pred"].sum()]

    score = measure(truth, prediction, spacing_mm, tolerance_mm=1.0)

    assert score.hd95_mm == pytest.approx(surface_distance.compute_robust_hausdorff(found, 95))
    assert score.nsd == pytest.approx(
        surface_distance.compute_surface_dice_at_tolerance(found, 1.0)
    )
    assert score.mean_mm == pytest.approx(np.average([there, back], weights=areas))


SIDES_MM = st.sampled_from([0.5, 0.8, 1.0, 2.5, 5.0])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.002, 0.05, 0.5, 0.98]),
    spacing_mm=st.tuples(SIDES_MM, SIDES_MM, SIDES_MM),
    shape=st.tuples(*[st.integers(1, 8)] * 3),
)
def test_distances_are_those_of_all_pairs_of_surface_elements(seed, share, spacing_mm, shape):
    rng = np.random.default_rng(seed)
    truth, prediction = rng.random((2, *shape)) < share
    if not truth.any() or not prediction.any():
        return

    score = measure(truth, prediction, spacing_mm, tolerance_mm=1.0)

    first, second = (corners(mask) * np.array(spacing_mm) for mask in (truth, prediction))
    apart = np.linalg.norm(first[:, None] - second[None], axis=-1)
    nearest = np.concatenate([apart.min(1), apart.min(0)])
    # Areas weigh the elements, so that means and shares are bounded, not equal.
    assert score.hd95_mm <= nearest.max() + 1e-6
    assert score.mean_mm <= nearest.max() + 1e-6
    if nearest.max() <= 1.0:
        assert score.nsd == pytest.approx(1.0)
    if nearest.min() > 1.0:
        assert score.nsd == 0.0
    if nearest.max() == 0.0:
        assert (score.hd95_mm, score.mean_mm) == (0.0, 0.0)


def test_every_element_that_is_far_away_counts():
    truth = ball((24, 24, 24), (8, 12, 12), 4, (1, 1, 1))
    prediction = truth | ball((24, 24, 24), (20, 12, 12), 2, (1, 1, 1))

    score = measure(truth, prediction)

    first, second = corners(truth), corners(prediction)
    apart = np.linalg.norm(first[:, None] - second[None], axis=-1)
    far = (apart.min(0) > 2).mean()
    assert score.hd95_mm == pytest.approx(np.percentile(apart.min(0), 95), rel=0.15)
    assert score.nsd == pytest.approx(1 - far * len(second) / (len(first) + len(second)), abs=0.05)


def test_the_tolerance_is_two_millimetres_or_a_voxel():
    assert tolerance_for((0.7, 0.7, 1.0)) == 2.0
    assert tolerance_for((5.0, 3.0, 4.0)) == pytest.approx(math.sqrt(50))
