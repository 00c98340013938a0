"""Preprocessed cases and the places of their labels, kept without pickle."""

from __future__ import annotations

import math

import blosc2
import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tiny_model import DESCRIPTION, make_plans

from nnunet_medseg.nnunet.cases import PreprocessedCases, SafeLoader, write_locations
from nnunet_medseg.nnunet.trainer import BudgetedTrainer

PLACES = {1: np.array([[0, 1, 2, 3], [0, 4, 5, 6]]), 2: [], 3: np.array([[0, 7, 8, 9]])}


def write_case(folder, name="case_0001", shape=(1, 16, 16, 16)) -> None:
    """Write a preprocessed case whose voxels count up."""
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    seg = (data % 4).astype(np.int16)
    sizes = {"chunks": shape, "blocks": shape, "chunks_seg": shape, "blocks_seg": shape}
    nnUNetDatasetBlosc2.save_case(data, seg, {}, str(folder / name), **sizes)
    (folder / f"{name}.pkl").write_bytes(b"never to be read")
    write_locations(folder / name, PLACES)


def test_a_case_is_read_as_it_was_written(tmp_path):
    write_case(tmp_path)

    data, seg, before, properties = PreprocessedCases(str(tmp_path)).load_case("case_0001")

    assert data.shape == seg.shape == (1, 16, 16, 16)
    np.testing.assert_array_equal(data[0, 0, 0], np.arange(16))
    np.testing.assert_array_equal(seg[0, 0, 0], np.arange(16) % 4)
    assert before is None
    assert set(properties) == {"class_locations"}


def test_places_of_labels_are_read_as_they_were_written(tmp_path):
    write_case(tmp_path)

    *_, properties = PreprocessedCases(str(tmp_path)).load_case("case_0001")

    places = properties["class_locations"]
    assert sorted(places) == [1, 3]
    for label in places:
        np.testing.assert_array_equal(places[label], PLACES[label])


@pytest.mark.parametrize("places", [{}, {1: []}])
def test_a_case_without_labels_has_no_places(tmp_path, places):
    write_case(tmp_path)
    write_locations(tmp_path / "other", places)
    for ending in (".b2nd", "_seg.b2nd"):
        (tmp_path / f"case_0001{ending}").rename(tmp_path / f"other{ending}")

    *_, properties = PreprocessedCases(str(tmp_path)).load_case("other")

    assert properties["class_locations"] == {}


def test_places_hold_no_pickle(tmp_path):
    write_locations(tmp_path / "case_0001", PLACES)

    rows = np.load(tmp_path / "case_0001_locations.npy", allow_pickle=False)

    np.testing.assert_array_equal(rows, [[1, 0, 1, 2, 3], [1, 0, 4, 5, 6], [3, 0, 7, 8, 9]])
    assert [path.name for path in tmp_path.iterdir()] == ["case_0001_locations.npy"]


def test_a_case_is_there_only_when_its_places_are(tmp_path):
    for name in ("case_0002", "case_0001", "case_0003"):
        write_case(tmp_path, name)
    (tmp_path / "case_0003_locations.npy").rename(tmp_path / "case_0003.partial.npy")

    assert PreprocessedCases.get_identifiers(str(tmp_path)) == ["case_0001", "case_0002"]
    assert list(PreprocessedCases(str(tmp_path)).identifiers) == ["case_0001", "case_0002"]


# --- cases held in memory ----------------------------------------------------------------------

CASE_BYTES = 16**3 * (4 + 2)  # voxels in float32, labels in int16


def write_cases(folder) -> PreprocessedCases:
    """Write two cases and return the dataset of them."""
    for name in ("case_0001", "case_0002"):
        write_case(folder, name)
    return PreprocessedCases(str(folder))


def test_cases_held_in_memory_have_the_voxels_of_packed_ones(tmp_path):
    packed, held = write_cases(tmp_path), PreprocessedCases(str(tmp_path))

    size_bytes = held.unpack(math.inf)

    assert size_bytes == 2 * CASE_BYTES
    for name in packed.identifiers:
        data, seg, before, properties = held.load_case(name)
        expected, expected_seg, _, expected_properties = packed.load_case(name)
        assert not isinstance(data, blosc2.NDArray)
        assert (data.dtype, seg.dtype, before) == (np.float32, np.int16, None)
        np.testing.assert_array_equal(data[:], expected[:])
        np.testing.assert_array_equal(seg[:], expected_seg[:])
        np.testing.assert_equal(properties, expected_properties)


def test_cases_that_would_take_more_than_the_limit_are_not_held(tmp_path):
    cases = write_cases(tmp_path)

    size_bytes = cases.unpack(2 * CASE_BYTES - 1)

    data, seg, *_ = cases.load_case("case_0001")
    assert size_bytes == 0
    assert isinstance(data, blosc2.NDArray)
    assert isinstance(seg, blosc2.NDArray)


def test_cases_that_take_just_the_limit_are_held(tmp_path):
    cases = write_cases(tmp_path)

    assert cases.unpack(2 * CASE_BYTES) == 2 * CASE_BYTES


def test_only_the_cases_that_were_asked_for_are_held(tmp_path):
    write_cases(tmp_path)
    cases = PreprocessedCases(str(tmp_path), ["case_0002"])

    assert cases.unpack(math.inf) == CASE_BYTES


def test_augmentation_leaves_cases_that_are_held_as_they_are(tmp_path):
    write_case(tmp_path)
    cases = PreprocessedCases(str(tmp_path))
    cases.unpack(math.inf)
    before = [array[:].copy() for array in cases.load_case("case_0001")[:2]]
    labels = PlansManager(make_plans()).get_label_manager(DESCRIPTION)
    augment = BudgetedTrainer.get_training_transforms(
        (8, 8, 8), (-0.5, 0.5), None, (0, 1, 2), do_dummy_2d_data_aug=False
    )
    loader = SafeLoader(cases, 2, (8, 8, 8), (8, 8, 8), labels, transforms=augment)

    for _ in range(20):
        next(loader)

    data, seg, *_ = cases.load_case("case_0001")
    np.testing.assert_array_equal(data[:], before[0])
    np.testing.assert_array_equal(seg[:], before[1])
