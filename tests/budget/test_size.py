"""Voxels that grow."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_medseg.budget.size import (
    COARSENING_STEP,
    DRAWN_OBJECT_VOXELS,
    MAX_RATIO,
    NNUNET_SIZE,
    PlanSize,
    coarsen,
    ladder,
)

SIDES = st.floats(0.05, 20.0)
SPACINGS = st.lists(SIDES, min_size=3, max_size=3) | st.lists(SIDES, min_size=2, max_size=2)
FACTORS = st.floats(1.0, 100.0)


@given(SPACINGS, FACTORS)
def test_the_volume_of_a_voxel_grows_by_the_factor(spacing_mm, factor):
    coarse = coarsen(spacing_mm, factor)

    assert math.prod(coarse) == pytest.approx(factor * math.prod(spacing_mm), rel=1e-8)


@given(SPACINGS, FACTORS)
def test_no_side_of_a_voxel_shrinks(spacing_mm, factor):
    coarse = coarsen(spacing_mm, factor)

    assert len(coarse) == len(spacing_mm)
    assert all(after >= before for after, before in zip(coarse, spacing_mm, strict=True))


@given(SPACINGS)
def test_a_factor_of_one_changes_nothing(spacing_mm):
    assert coarsen(spacing_mm, 1.0) == tuple(spacing_mm)


@given(SPACINGS, FACTORS)
def test_the_coarsest_side_grows_only_when_no_other_is_less_than_half_of_it(spacing_mm, factor):
    coarse = coarsen(spacing_mm, factor)

    if max(coarse) > max(spacing_mm):
        assert max(coarse) / min(coarse) <= MAX_RATIO * (1 + 1e-9)


@given(SPACINGS, FACTORS)
def test_the_coarsest_axis_stays_the_coarsest(spacing_mm, factor):
    coarsest = spacing_mm.index(max(spacing_mm))

    coarse = coarsen(spacing_mm, factor)

    assert coarse[coarsest] == max(coarse)


@given(SPACINGS, FACTORS)
def test_sides_keep_their_order_up_to_one_step(spacing_mm, factor):
    coarse = coarsen(spacing_mm, factor)

    pairs = sorted(zip(spacing_mm, coarse, strict=True))
    for (_, fine), (_, next_one) in itertools.pairwise(pairs):
        assert fine <= next_one * COARSENING_STEP * (1 + 1e-9)


@given(st.permutations(range(3)), st.lists(SIDES, min_size=3, max_size=3), FACTORS)
def test_each_axis_keeps_its_place(places, spacing_mm, factor):
    moved = coarsen([spacing_mm[place] for place in places], factor)

    expected = coarsen(spacing_mm, factor)
    assert moved == pytest.approx([expected[place] for place in places])


def test_thick_slices_stay_as_they_are_while_the_plane_is_fine():
    assert coarsen((5.0, 0.5, 0.5), 9.0) == pytest.approx((5.0, 1.5, 1.5))


def test_a_cube_stays_a_cube():
    assert coarsen((1.5, 1.5, 1.5), 8.0) == pytest.approx((3.0, 3.0, 3.0))


def sizes_of(patch_voxels: int, object_voxels: float) -> list[PlanSize]:
    return [size for size, _ in ladder(patch_voxels, object_voxels)]


@given(st.integers(4096, 10**8), st.floats(1, 10**8))
def test_the_ladder_goes_from_large_to_small(patch_voxels, object_voxels):
    narrow = sizes_of(patch_voxels, object_voxels)[2:]

    volumes = [size.patch_voxels for size in narrow]
    assert volumes == sorted(volumes, reverse=True)
    assert [size.voxel_factor for size in narrow] == sorted(size.voxel_factor for size in narrow)


def test_the_ladder_begins_with_nnunets_own_networks():
    first, second, *_ = sizes_of(100_000, 1000)

    assert first == PlanSize(is_residual=True)
    assert second == NNUNET_SIZE


def test_small_objects_keep_their_voxels_as_long_as_a_smaller_patch_helps():
    first = next(size for size in sizes_of(800_000, 5_000) if size.voxel_factor > 1)

    assert first.patch_voxels * first.voxel_factor == 800_000 / 4


def test_large_objects_get_larger_voxels_before_the_patch_sees_less_of_the_image():
    narrow = sizes_of(1_600_000, 80_000)[2:]

    seen = [size.patch_voxels * size.voxel_factor for size in narrow]
    assert seen[:4] == [1_600_000] * 4
    assert [size.voxel_factor for size in narrow[:4]] == [1, 2, 4, 8]


@given(st.integers(4096, 10**8), st.floats(1, 10**8))
def test_no_object_becomes_too_small_to_be_drawn(patch_voxels, object_voxels):
    for size in sizes_of(patch_voxels, object_voxels):
        assert size.voxel_factor == 1 or object_voxels / size.voxel_factor >= DRAWN_OBJECT_VOXELS
