"""Preprocessed cases and the places of their labels, kept without pickle."""

from __future__ import annotations

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_medseg.nnunet.cases import PreprocessedCases, write_locations

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
