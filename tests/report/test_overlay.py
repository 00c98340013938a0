"""Pictures of planes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from nnunet_medseg.report.overlay import Mask, draw_planes, middle_of, window_of
from nnunet_medseg.volume import Volume, to_ras

BRIGHT = 200


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def bright_columns(mask: np.ndarray, part: slice) -> np.ndarray:
    return np.flatnonzero((mask[part].min(axis=2) > BRIGHT).sum(axis=0) > 20)


def head(bright: tuple[slice, slice, slice], affine=None) -> Volume:
    """An image of 32³ voxels of 3 mm, dark but for a block; LPS unless told otherwise."""
    array = np.zeros((32, 32, 32), np.float32)
    array[bright] = 1.0
    affine = np.diag([3.0, 3.0, 3.0, 1.0]) if affine is None else affine
    return to_ras(Volume(array, (3.0, 3.0, 3.0), affine))


@pytest.mark.parametrize("flipped", [False, True])
def test_the_patients_right_is_on_the_left_of_the_axial_plane(flipped):
    # In LPS the first columns are the patient's right.
    affine = np.diag([-3.0, 3.0, 3.0, 1.0]) if flipped else None
    columns = slice(24, 32) if flipped else slice(0, 8)
    image = head((slice(None), slice(None), columns), affine)

    shown = pixels(draw_planes(image, [], None, (0.0, 1.0)))

    third = shown.shape[1] // 3
    axial = shown[:, :third]
    bright = np.flatnonzero((axial.min(axis=2) > BRIGHT).mean(axis=0) > 0.4)
    assert len(bright) > 20
    assert bright.max() < third / 2


def test_the_front_is_up_in_the_axial_plane_and_the_head_up_in_the_coronal():
    front = pixels(draw_planes(head((slice(None), slice(0, 8), slice(None))), [], None, (0, 1)))
    top = pixels(draw_planes(head((slice(24, 32), slice(None), slice(None))), [], None, (0, 1)))

    third = front.shape[1] // 3
    for part in (front[:, :third], top[:, third : 2 * third]):
        rows = np.flatnonzero((part.min(axis=2) > BRIGHT).mean(axis=1) > 0.4)
        assert len(rows) > 20
        assert rows.max() < part.shape[0] / 2


def test_outlines_have_the_colour_of_their_label_and_lie_where_it_is():
    image = head((slice(0, 0), slice(0, 0), slice(0, 0)))
    array = np.zeros((32, 32, 32), bool)
    # In RAS the last columns are the patient's right: the left half of the picture.
    array[12:20, 12:20, 22:28] = True

    shown = pixels(draw_planes(image, [Mask(array, "#ff0000", "")], None, (0.0, 1.0)))

    third = shown.shape[1] // 3
    red = (shown[..., 0] > 150) & (shown[..., 1] < 90) & (shown[..., 2] < 90)
    columns = np.flatnonzero(red[:, :third].any(axis=0))
    assert len(columns) > 10
    assert columns.max() < third / 2


def test_voxels_that_are_flat_are_drawn_flat():
    array = np.zeros((10, 60, 60), np.float32)
    image = to_ras(Volume(array, (5.0, 1.0, 1.0), np.diag([1.0, 1.0, 5.0, 1.0])))
    block = np.zeros(array.shape, bool)
    block[2:8, 15:45, 15:45] = True  # a cube of 30 mm

    shown = pixels(draw_planes(image, [Mask(block, "#ff0000", "")], None, (0.0, 1.0)))

    third = shown.shape[1] // 3
    red = (shown[..., 0] > 150) & (shown[..., 1] < 90)
    for part in (red[:, :third], red[:, third : 2 * third], red[:, 2 * third :]):
        height, width = (
            np.ptp(np.flatnonzero(part.any(axis=1))),
            np.ptp(np.flatnonzero(part.any(axis=0))),
        )
        assert height == pytest.approx(width, rel=0.06)


def test_planes_go_through_the_largest_component():
    small_and_large = np.zeros((20, 20, 20), bool)
    small_and_large[1, 1, 1] = True
    small_and_large[10:14, 10:14, 4:8] = True

    z, y, x = middle_of([Mask(small_and_large, "red", "")], (20, 20, 20))

    assert 10 <= z < 14
    assert 10 <= y < 14
    assert 4 <= x < 8
    assert middle_of([], (20, 10, 8)) == (10, 5, 4)


def test_the_window_of_ct_is_soft_tissue_and_of_others_their_own():
    values = np.linspace(0, 1000, 2001)

    assert window_of("CT", values) == (-160.0, 240.0)
    assert window_of("MRI", values) == pytest.approx((5, 995))
    low, high = window_of("MRI", np.full((4, 4, 4), 7.0))
    assert low < high
