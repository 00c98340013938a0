"""The typical size of labelled objects."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from nnunet_medseg.evaluation.components import typical_object_voxels


def make_label_map(*boxes: tuple[int, slice], side: int = 16) -> np.ndarray:
    """Return side³ voxels with a cube of a label along the diagonal for each of the boxes."""
    array = np.zeros((side, side, side), np.uint8)
    for label, box in boxes:
        array[box, box, box] = label
    return array


def test_a_single_object_has_its_own_size():
    label_map = make_label_map((1, slice(2, 5)))

    assert typical_object_voxels(label_map, [1]) == {1: 27}


def test_many_equal_lesions_have_the_size_of_one():
    label_map = make_label_map(*((1, slice(start, start + 2)) for start in range(0, 16, 4)))

    assert typical_object_voxels(label_map, [1]) == {1: 8}


def test_specks_beside_an_organ_do_not_count():
    label_map = make_label_map((1, slice(0, 6)))
    label_map[10::3, ::3, ::3] = 1

    assert typical_object_voxels(label_map, [1]) == {1: 216}


def test_small_lesions_count_when_most_voxels_lie_in_them():
    label_map = make_label_map((1, slice(0, 3)))
    label_map[5:15:2, ::2, ::2] = 1

    assert typical_object_voxels(label_map, [1]) == {1: 1}


def test_of_two_objects_of_one_size_either_is_typical():
    label_map = make_label_map((1, slice(0, 2)), (1, slice(8, 10)))

    assert typical_object_voxels(label_map, [1]) == {1: 8}


def test_voxels_that_touch_at_a_corner_are_one_object():
    label_map = make_label_map((1, slice(0, 2)), (1, slice(2, 4)))

    assert typical_object_voxels(label_map, [1]) == {1: 16}


def test_objects_of_different_labels_that_touch_are_apart():
    label_map = make_label_map((1, slice(0, 2)), (2, slice(2, 5)))

    assert typical_object_voxels(label_map, [1, 2]) == {1: 8, 2: 27}


def test_labels_that_are_not_there_are_left_out():
    label_map = make_label_map((2, slice(0, 2)))

    assert typical_object_voxels(label_map, [1, 2, 3]) == {2: 8}
    assert typical_object_voxels(label_map, []) == {}


def test_labels_come_back_in_the_order_they_were_given():
    label_map = make_label_map((1, slice(0, 2)), (2, slice(4, 6)), (3, slice(8, 10)))

    assert list(typical_object_voxels(label_map, [3, 1, 2])) == [3, 1, 2]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
def test_types_of_integers_do_not_matter(dtype):
    label_map = make_label_map((1, slice(2, 5))).astype(dtype)

    assert typical_object_voxels(label_map, [1]) == {1: 27}


def test_a_map_that_is_a_view_is_measured_like_any_other():
    label_map = make_label_map((1, slice(0, 6)))[::2, ::-1, 1:].transpose(2, 0, 1)

    assert typical_object_voxels(label_map, [1]) == {1: 3 * 6 * 5}


def test_a_map_of_a_single_slice_is_measured():
    label_map = make_label_map((1, slice(0, 4)))[:1]

    assert typical_object_voxels(label_map, [1]) == {1: 16}


@pytest.mark.parametrize("seed", range(10))
def test_it_is_the_median_over_voxels_of_the_size_of_their_object(seed):
    rng = np.random.default_rng(seed)
    label_map = (rng.random((12, 12, 12)) < 0.06).astype(np.uint8)

    found = typical_object_voxels(label_map, [1])

    objects, _ = ndimage.label(label_map, np.ones((3, 3, 3)))
    sizes = np.sort(np.bincount(objects.ravel())[objects[objects > 0]])
    assert found == {1: sizes[(len(sizes) - 1) // 2]}


def test_touching_objects_of_two_labels_are_two_objects():
    label_map = np.zeros((4, 4, 4), np.uint8)
    label_map[:2], label_map[2:] = 1, 2

    assert typical_object_voxels(label_map, [1, 2]) == {1: 32, 2: 32}
