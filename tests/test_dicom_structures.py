"""What is drawn in SEG and RTSTRUCT files, held against other readers and rasterisers."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_makers import (
    LIVER,
    OBLIQUE,
    PATIENT_SHAPE,
    TUMOUR,
    make_contours,
    make_series,
    write_all,
)
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian
from skimage.draw import polygon2mask

from nnunet_medseg.volume import VolumeError
from nnunet_medseg.volume.dicom.codes import meaning_of
from nnunet_medseg.volume.dicom.contours import fill
from nnunet_medseg.volume.dicom.series import read_series
from nnunet_medseg.volume.dicom.structures import read_structures, structures_of
from nnunet_medseg.volume.dicom.writing import OF_PATIENT_AND_STUDY

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "dicom"
SHAPE = (5, 8, 10)


# --- contours ----------------------------------------------------------------------------------


def star(rng, centre, corners) -> np.ndarray:
    """Corners around a centre, so that no two edges cross."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    reach = rng.uniform(2, 9, corners)
    return np.stack([centre[0] + reach * np.cos(angles), centre[1] + reach * np.sin(angles)], 1)


@pytest.mark.parametrize("seed", range(40))
def test_a_filled_contour_is_that_of_scikit_image(seed):
    rng = np.random.default_rng(seed)
    corners = star(rng, rng.uniform(6, 14, 2), int(rng.integers(3, 20)))

    found = fill([corners], (20, 22))

    assert np.array_equal(found, polygon2mask((20, 22), corners[:, ::-1]))


@pytest.mark.parametrize("seed", range(10))
def test_a_contour_within_another_cuts_a_hole_and_a_third_fills_it_again(seed):
    rng = np.random.default_rng(seed)
    outer, inner, core = (
        np.array([[-r, -r], [r, -r], [r, r], [-r, r]]) + rng.uniform(9, 10, 2) for r in (8, 5, 2)
    )

    found = fill([outer, inner, core], (20, 20))

    masks = [polygon2mask((20, 20), corners[:, ::-1]) for corners in (outer, inner, core)]
    assert np.array_equal(found, masks[0] ^ masks[1] ^ masks[2])
    assert found[9, 9]


def test_structures_that_share_an_outline_share_no_voxel():
    left = fill([np.array([[0.0, 0], [5, 0], [5, 9], [0, 9]])], (10, 10))
    right = fill([np.array([[5.0, 0], [9, 0], [9, 9], [5, 9]])], (10, 10))

    assert not (left & right).any()
    assert (left | right).sum() == 9 * 9


def contours_and_grid(tmp_path, change):
    known = {"StudyInstanceUID": "1.2.1", "SeriesInstanceUID": "1.2.1.7", "PatientID": "id1"}
    image = np.zeros(PATIENT_SHAPE, np.int16)
    paths = write_all(tmp_path / "series", make_series(image, OBLIQUE, **known))
    made = make_contours(known, {"Liver": LIVER})
    change(made.ROIContourSequence[0])
    made.save_as(tmp_path / "rs.dcm", enforce_file_format=True)
    return tmp_path / "rs.dcm", read_series(paths)


def shift(along: np.ndarray):
    def change(region) -> None:
        for item in region.ContourSequence:
            points = np.array(item.ContourData, float).reshape(-1, 3) + along
            item.ContourData = points.ravel().round(5).tolist()

    return change


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (shift(0.45 * OBLIQUE[:3, 2]), "contours between slices"),
        (shift(20 * OBLIQUE[:3, 2]), "grid"),
        (shift(20 * OBLIQUE[:3, 0]), "grid"),
        (lambda region: setattr(region.ContourSequence[0], "ContourData", [1, 2]), "unreadable"),
    ],
)
def test_contours_that_cannot_be_placed_are_refused(tmp_path, change, rule):
    path, grid = contours_and_grid(tmp_path, change)

    with pytest.raises(VolumeError) as error:
        read_structures(path, grid)

    assert error.value.rule == rule


def test_contours_a_little_beside_their_slice_belong_to_it(tmp_path):
    path, grid = contours_and_grid(tmp_path, shift(0.1 * OBLIQUE[:3, 2]))

    expected = np.zeros(PATIENT_SHAPE, bool)
    expected[LIVER] = True
    assert np.array_equal(read_structures(path, grid)[1], expected)


def test_a_contour_that_was_exported_twice_counts_once(tmp_path):
    def twice(region):
        again = copy.deepcopy(region.ContourSequence[1])
        points = np.array(again.ContourData, float).reshape(-1, 3)
        again.ContourData = np.roll(points, 1, axis=0)[::-1].ravel().tolist()
        region.ContourSequence.append(again)

    path, grid = contours_and_grid(tmp_path, twice)

    expected = np.zeros(PATIENT_SHAPE, bool)
    expected[LIVER] = True
    assert np.array_equal(read_structures(path, grid)[1], expected)


def test_a_file_whose_name_is_no_text_is_refused(tmp_path):
    path, grid = contours_and_grid(tmp_path, lambda _: None)
    path = path.rename(path.with_name(os.fsdecode(b"m\xfcller")))

    with pytest.raises(VolumeError, match="no text") as error:
        read_structures(path, grid)

    assert (error.value.rule, error.value.fix) == ("file name", "Rename it.")


def test_two_structures_of_one_number_are_not_guessed_between(tmp_path):
    made = make_contours({"SeriesInstanceUID": "1.2"}, {"Liver": LIVER, "Spleen": TUMOUR})
    made.StructureSetROISequence[1].ROINumber = 1
    made.save_as(tmp_path / "rs.dcm", enforce_file_format=True)

    with pytest.raises(VolumeError) as error:
        structures_of(tmp_path / "rs.dcm")

    assert error.value.rule == "same number"


# --- segments ----------------------------------------------------------------------------------


@pytest.fixture
def series(tmp_path):
    made = make_series(np.zeros(SHAPE, np.int16), OBLIQUE)
    for one in made:
        for name in OF_PATIENT_AND_STUDY:
            if name not in one:
                setattr(one, name, "")
    return made, read_series(write_all(tmp_path / "series", made))


def described(number: int) -> highdicom.seg.SegmentDescription:
    meaning = meaning_of("liver")
    return highdicom.seg.SegmentDescription(
        number, f"S{number}", meaning.category, meaning.kind, "MANUAL"
    )


def segments(source, array: np.ndarray, kind: str, count: int, **options) -> pydicom.Dataset:
    return highdicom.seg.Segmentation(
        source_images=source,
        pixel_array=array,
        segmentation_type=kind,
        segment_descriptions=[described(number) for number in range(1, count + 1)],
        series_instance_uid=highdicom.UID(),
        series_number=2,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
        **options,
    )


def two_overlapping() -> np.ndarray:
    array = np.zeros((*SHAPE, 2), np.uint8)
    array[1:4, 2:6, 1:6, 0] = 1
    array[2:3, 4:8, 3:9, 1] = 1
    return array


@pytest.mark.parametrize("is_sparse", [True, False])
def test_overlapping_segments_keep_all_of_their_voxels(tmp_path, series, is_sparse):
    source, grid = series
    array = two_overlapping()
    made = segments(source, array, "BINARY", 2, omit_empty_frames=is_sparse)
    made.save_as(tmp_path / "seg.dcm")

    found = read_structures(tmp_path / "seg.dcm", grid)

    assert int(made.NumberOfFrames) == (4 if is_sparse else 10)
    assert np.array_equal(found[1], array[..., 0] == 1)
    assert np.array_equal(found[2], array[..., 1] == 1)
    assert (found[1] & found[2]).any()


def test_half_of_a_fraction_is_inside(tmp_path, series):
    source, grid = series
    array = np.random.default_rng(0).uniform(0, 1, SHAPE).round(2)
    made = segments(source, array, "FRACTIONAL", 1, max_fractional_value=200)
    made.save_as(tmp_path / "seg.dcm")

    found = read_structures(tmp_path / "seg.dcm", grid)

    assert np.array_equal(found[1], np.around(array * 200) >= 100)


def test_a_label_map_is_read_by_its_values(tmp_path, series):
    source, grid = series
    array = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)
    segments(source, array, "LABELMAP", 2).save_as(tmp_path / "seg.dcm")

    found = read_structures(tmp_path / "seg.dcm", grid)

    assert [item.number for item in structures_of(tmp_path / "seg.dcm")] == [1, 2]
    assert all(np.array_equal(mask, array == number) for number, mask in found.items())


def test_segments_of_another_grid_are_refused(tmp_path, series):
    source, grid = series
    segments(source, two_overlapping(), "BINARY", 2).save_as(tmp_path / "seg.dcm")
    moved = grid.affine.copy()
    moved[:3, 3] += 0.7 * moved[:3, 0]

    with pytest.raises(VolumeError):
        read_structures(tmp_path / "seg.dcm", type(grid)(grid.array, grid.spacing_mm, moved))


def test_single_bits_of_big_endian_files_are_refused(tmp_path, series):
    made, grid = series
    dataset = segments(made, two_overlapping(), "BINARY", 2)
    pixels = pydicom.DataElement(0x7FE00010, "OW", dataset.PixelData)
    dataset = pydicom.Dataset({item.tag: item for item in dataset if item.tag != pixels.tag})
    dataset.add(pixels)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    pydicom.dcmwrite(tmp_path / "seg.dcm", dataset, enforce_file_format=True)

    with pytest.raises(VolumeError) as error:
        read_structures(tmp_path / "seg.dcm", grid)

    assert error.value.rule == "big endian"


def test_only_what_is_asked_for_is_read(tmp_path, series):
    source, grid = series
    segments(source, two_overlapping(), "BINARY", 2).save_as(tmp_path / "seg.dcm")

    assert read_structures(tmp_path / "seg.dcm", grid, [2]).keys() == {2}


def test_an_image_holds_no_structures(tmp_path, series):
    path = next((tmp_path / "series").iterdir())

    with pytest.raises(VolumeError, match="neither a segmentation"):
        structures_of(path)


def test_the_real_overlapping_segments_are_those_that_highdicom_reads():
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data/dicom")
    grid = read_series([path for path in (SHARED / "ct-3slice").iterdir() if path.is_file()])

    found = read_structures(SHARED / "partial_overlaps.dcm", grid)

    read = highdicom.seg.segread(SHARED / "partial_overlaps.dcm")
    volume = read.get_volume(combine_segments=False)
    assert [item.name for item in structures_of(SHARED / "partial_overlaps.dcm")] == [
        "GREEN", "ORANGE", "PURPLE", "LIGHT_BLUE", "DARK_BLUE",
    ]  # fmt: skip
    for number, mask in found.items():
        theirs = {
            tuple(row)
            for row in volume.map_indices_to_reference(
                np.argwhere(volume.array[..., number - 1])[::97]
            ).round(1)
        }
        z, y, x = np.nonzero(mask)
        ours = {tuple(row) for row in (grid.affine @ [x, y, z, np.ones_like(x)])[:3].T.round(1)}
        assert theirs <= ours
        assert volume.array[..., number - 1].sum() == mask.sum() > 4000


# --- codes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "side"),
    [
        ("Liver", "Liver", None),
        ("kidney_left", "Kidney", "Left"),
        ("RightKidney", "Kidney", "Right"),
        ("TUMOUR", "Neoplasm", None),
        ("vertebrae_L1", "Tissue", None),
        ("rib_left_10", "Rib", "Left"),
        ("Kidney 2 (R)", "Kidney", "Right"),
        ("label_1", "Tissue", None),
        ("Zwetschge", "Tissue", None),
    ],
)
def test_names_get_the_code_of_what_they_mean_or_a_neutral_one(name, kind, side):
    meaning = meaning_of(name)

    assert meaning.kind.meaning.startswith(kind)
    assert (None if meaning.side is None else meaning.side.meaning) == side
