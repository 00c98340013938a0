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
    NARROW,
    NARROW_STEPS,
    NNUNET_SIZE,
    NO_WISH,
    OBJECTS_A_PATCH,
    TIGHT_STEPS,
    ObjectSizes,
    PlanSize,
    PlanWish,
    coarsen,
    ladder,
    restrict,
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


def alike(object_voxels: float) -> ObjectSizes:
    """Return objects of one size."""
    return ObjectSizes(object_voxels, object_voxels)


def sizes_of(
    patch_voxels: int, object_voxels: float, width: float = 1.0, dimensions: int = 3
) -> list[PlanSize]:
    """Return the sizes of a width, without nnU-Net's own."""
    sizes = [size for size, _ in ladder(patch_voxels, alike(object_voxels), dimensions)]
    return [size for size in sizes if size.width == width and size.patch_voxels is not None]


@pytest.mark.parametrize("width", [1.0, NARROW])
@given(patch_voxels=st.integers(4096, 10**8), object_voxels=st.floats(1, 10**8))
def test_the_sizes_of_a_width_go_from_large_to_small(width, patch_voxels, object_voxels):
    sizes = sizes_of(patch_voxels, object_voxels, width)

    volumes = [size.patch_voxels for size in sizes]
    factors = [size.voxel_factor for size in sizes]
    assert volumes == sorted(volumes, reverse=True)
    assert factors == sorted(factors)


def test_in_slices_the_sides_of_patches_are_as_much_shorter_as_in_volumes():
    side = 1000
    volumes, slices = (
        [size.patch_voxels ** (1 / axes) for size in sizes_of(side**axes, 1.0, NARROW, axes)]
        for axes in (3, 2)
    )

    assert slices == pytest.approx(volumes, rel=1e-3)
    assert max(slices) <= side


def test_in_slices_the_batch_becomes_smaller_before_the_patch():
    side, batch = 512, 12
    patch_voxels = side**2 * batch // 2

    narrow = [
        size.patch_voxels
        for size, _ in ladder(patch_voxels, alike(1.0), 2, batch)
        if size.width == NARROW and size.patch_voxels is not None
    ]

    assert narrow[0] > narrow[1] > narrow[2]
    assert (narrow[0], narrow[2]) == (patch_voxels, side**2)
    assert narrow[3:] == [
        size.patch_voxels for size in sizes_of(side**2, 1.0, NARROW, dimensions=2)[1:]
    ]


def test_in_slices_the_network_becomes_narrower_before_the_patch_becomes_smaller():
    side = 512
    cut = [size for size, _ in ladder(side**2, alike(1.0), 2) if size.patch_voxels is not None]

    assert cut[0] == PlanSize(width=NARROW, patch_voxels=side**2)
    assert {size.width for size in cut} == {NARROW}


def test_in_volumes_the_network_becomes_narrower_before_the_patch_is_less_than_half():
    sizes = sizes_of(800_000, 10_000, 1.0) + sizes_of(800_000, 10_000, NARROW)[:2]

    seen = [(size.width, size.patch_voxels) for size in sizes]
    assert seen == [(1.0, 400_000), (1.0, 200_000), (NARROW, 400_000), (NARROW, 200_000)]


def test_the_ladder_begins_with_nnunets_own_networks_and_ends_with_half_the_width():
    sizes = [size for size, _ in ladder(100_000, alike(1000))]

    assert sizes[:2] == [PlanSize(network="resenc_m"), NNUNET_SIZE]
    assert [size.width for size in sizes] == sorted((size.width for size in sizes), reverse=True)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_smaller_sizes_never_need_more_steps(dimensions):
    steps = [needed for _, needed in ladder(100_000, alike(50_000), dimensions)]

    assert steps == sorted(steps, reverse=True)


@given(st.integers(4096, 10**8), st.floats(1, 10**7), st.floats(1, 10**7))
def test_few_steps_suffice_only_where_the_next_patch_holds_the_largest_object_too_few_times(
    patch_voxels, one, other
):
    objects = ObjectSizes(min(one, other), max(one, other))
    rungs = [
        (patch_voxels / size.patch_voxels / size.voxel_factor, needed)
        for size, needed in ladder(patch_voxels, objects)
        if size.width == NARROW and size.patch_voxels > 4096
    ]

    for (_, needed), (next_part, _) in itertools.pairwise(rungs):
        holds = patch_voxels / next_part / objects.largest
        if holds == pytest.approx(OBJECTS_A_PATCH, rel=0.01):
            continue  # voxels of patches are rounded
        assert needed == (TIGHT_STEPS if holds < OBJECTS_A_PATCH else NARROW_STEPS)


def test_a_large_organ_beside_a_small_lesion_keeps_its_patch_where_the_lesion_alone_does_not():
    steps = [
        {size.patch_voxels: needed for size, needed in ladder(140_000, objects)}[70_000]
        for objects in (ObjectSizes(300, 6000), ObjectSizes(300, 300))
    ]

    assert steps == [TIGHT_STEPS, NARROW_STEPS]


def test_small_objects_keep_their_voxels_as_long_as_a_smaller_patch_helps():
    first = next(size for size in sizes_of(800_000, 3_000, NARROW) if size.voxel_factor > 1)

    assert first.patch_voxels * first.voxel_factor == 800_000 / 8


def test_large_objects_get_larger_voxels_before_the_patch_sees_less_of_the_image():
    sizes = sizes_of(1_600_000, 32_000)

    seen = [size.patch_voxels * size.voxel_factor for size in sizes]
    assert seen == [1_600_000, 1_600_000, 1_600_000, 800_000]
    assert [size.voxel_factor for size in sizes] == [2, 4, 8, 8]


@given(st.integers(4096, 10**8), st.floats(1, 10**8))
def test_no_object_becomes_too_small_to_be_drawn(patch_voxels, object_voxels):
    for size, _ in ladder(patch_voxels, alike(object_voxels)):
        assert size.voxel_factor == 1 or object_voxels / size.voxel_factor >= DRAWN_OBJECT_VOXELS


# --- what the user asks ------------------------------------------------------------------------

LADDER = ladder(5_000_000, alike(50_000))
WISHES = st.builds(
    PlanWish,
    configuration=st.sampled_from([None, "2d", "3d_fullres", "3d_lowres"]),
    network=st.sampled_from([None, "default", "small", "resenc_m", "resenc_l", "resenc_xl"]),
    spacing_mm=st.sampled_from([None, (3.0, 1.0, 1.0)]),
    patch=st.sampled_from([None, (64, 64), (64, 64, 64)]),
    batch=st.sampled_from([None, 1, 16]),
)


def sizes_left(wish: PlanWish) -> list[PlanSize]:
    return [size for size, _ in restrict(LADDER, wish)]


@pytest.mark.parametrize(
    "wish",
    [NO_WISH, *(PlanWish(configuration=name) for name in ("2d", "3d_fullres")), PlanWish(batch=4)],
    ids=str,
)
def test_a_wish_that_is_not_about_the_size_leaves_every_size(wish):
    assert restrict(LADDER, wish) == LADDER


@pytest.mark.parametrize(
    ("network", "kind", "width"),
    [
        ("default", "plain", 1.0),
        ("small", "plain", NARROW),
        ("resenc_m", "resenc_m", 1.0),
        ("resenc_l", "resenc_l", 1.0),
        ("resenc_xl", "resenc_xl", 1.0),
    ],
)
def test_a_network_that_is_asked_for_is_the_only_one_left(network, kind, width):
    sizes = sizes_left(PlanWish(network=network))

    assert {(size.network, size.width) for size in sizes} == {(kind, width)}
    assert {(size.voxel_factor, size.patch_voxels) for size in sizes} == {
        (size.voxel_factor, size.patch_voxels) for size, _ in LADDER
    }


def test_a_patch_that_is_asked_for_leaves_voxels_and_network_to_the_minutes():
    sizes = sizes_left(PlanWish(patch=(64, 64, 64)))

    assert {size.patch_voxels for size in sizes} == {None}
    assert {(size.voxel_factor, size.width, size.network) for size in sizes} == {
        (size.voxel_factor, size.width, size.network) for size, _ in LADDER
    }


@pytest.mark.parametrize(
    "wish", [PlanWish(spacing_mm=(3.0, 1.0, 1.0)), PlanWish(configuration="3d_lowres")], ids=str
)
def test_voxels_that_are_asked_for_leave_patch_and_network_to_the_minutes(wish):
    sizes = sizes_left(wish)

    assert {size.voxel_factor for size in sizes} == {1.0}
    assert {(size.patch_voxels, size.width, size.network) for size in sizes} == {
        (size.patch_voxels, size.width, size.network) for size, _ in LADDER
    }


def test_all_wishes_together_leave_one_size_that_needs_the_fewest_steps():
    wish = PlanWish("3d_fullres", "small", (3.0, 1.0, 1.0), (64, 64, 64), 2)

    assert restrict(LADDER, wish) == [(PlanSize(width=NARROW), LADDER[-1][1])]


def test_nnunets_own_size_stays_one_whatever_is_asked():
    assert restrict([(NNUNET_SIZE, 0)], PlanWish(network="resenc_xl")) == [
        (PlanSize(network="resenc_xl"), 0)
    ]


@given(WISHES)
def test_what_a_wish_leaves_comes_once_and_in_the_order_of_the_ladder(wish):
    left = restrict(LADDER, wish)

    sizes = [size for size, _ in left]
    steps = [needed for _, needed in left]
    assert sizes
    assert len(set(sizes)) == len(sizes)
    assert steps == sorted(steps, reverse=True)
    # What is left is left of itself.
    assert restrict(left, wish) == left
