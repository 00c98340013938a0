"""Label maps come back from SEG and RTSTRUCT on the voxels they were written from."""

from __future__ import annotations

import itertools
import warnings

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_makers import make_series, oblique, write_all

from nnunet_medseg.volume import VolumeError, grid_shift, restore_orientation, to_ras
from nnunet_medseg.volume.dicom.series import read_series, straightened
from nnunet_medseg.volume.dicom.structures import read_structures, structures_of
from nnunet_medseg.volume.dicom.writing import (
    WRITERS,
    require_references,
    write_contours,
    write_segmentation,
)

NAMES = {3: "Left kidney", 7: "Tumour", 9: "nothing"}
ALL_48 = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def lay(order, signs) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(order)] * signs @ np.diag([2.0, 1.5, 3.0])
    affine[:3, 3] = [-10.0, 20.0, 900.0]
    return affine


def blob(shape=(7, 12, 14)) -> np.ndarray:
    """Values without any symmetry, with a hole, pieces, a lone voxel and the border touched."""
    array = np.zeros(shape, np.uint8)
    array[1:5, 2:9, 1:8] = 3
    array[2:4, 4:6, 3:5] = 0
    array[2:6, 9:12, 9:14] = 7
    array[6, 0, 0] = 7
    array[0, 11, 3] = 3
    array[3, 1, 12] = 3
    return array


def make(tmp_path, affine, array=None):
    array = blob() if array is None else array
    image = np.random.default_rng(0).integers(0, 99, array.shape).astype(np.int16)
    paths = write_all(tmp_path / "series", make_series(image, affine))
    grid = read_series(paths)
    return paths, grid, grid.with_array(array)


def back(path, grid) -> np.ndarray:
    found = np.zeros(grid.array.shape, np.uint8)
    value = {name: value for value, name in NAMES.items()}
    structures = {item.number: value[item.name] for item in structures_of(path)}
    for number, mask in read_structures(path, grid).items():
        found[mask] = structures[number]
    return found


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(("order", "signs"), ALL_48, ids=str)
def test_a_label_map_comes_back_in_every_orientation(tmp_path, write, order, signs):
    paths, grid, labels = make(tmp_path, lay(order, signs))

    write(tmp_path / "out.dcm", labels, NAMES, paths, "1.0")

    assert np.array_equal(back(tmp_path / "out.dcm", grid), labels.array)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("degrees", [7.0, 25.0, 140.0])
def test_a_label_map_comes_back_from_oblique_slices_by_way_of_ras(tmp_path, write, degrees):
    paths, grid, labels = make(tmp_path, oblique(lay((1, 0, 2), (1, -1, 1)), degrees))
    # As a prediction goes: computed in RAS, and brought back.
    turned = restore_orientation(to_ras(labels).array, grid)

    write(tmp_path / "out.dcm", turned, NAMES, paths, "1.0")

    assert np.array_equal(back(tmp_path / "out.dcm", grid), labels.array)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda array: array[:, :, ::-1],
        lambda array: array[:, ::-1],
        lambda array: array[::-1],
        lambda array: np.roll(array, 1, axis=2),
        lambda array: np.roll(array, 1, axis=0),
        lambda array: np.swapaxes(array, 1, 2),
    ],
    ids=["left-right", "up-down", "slices", "shifted", "shifted slices", "transposed"],
)
def test_a_planted_mistake_of_geometry_would_be_seen(tmp_path, write, spoil):
    array = np.zeros((7, 12, 12), np.uint8)
    array[1:5, 2:9, 1:6] = 3
    array[2:6, 9:12, 7:12] = 7
    paths, grid, labels = make(tmp_path, oblique(), array)

    write(tmp_path / "out.dcm", labels.with_array(spoil(array)), NAMES, paths, "1.0")

    assert not np.array_equal(back(tmp_path / "out.dcm", grid), array)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_labels_that_lie_elsewhere_than_the_series_are_refused(tmp_path, write):
    paths, _, labels = make(tmp_path, oblique())
    moved = labels.affine.copy()
    moved[:3, 3] += 0.8

    with pytest.raises(VolumeError):
        write(
            tmp_path / "out.dcm",
            type(labels)(labels.array, labels.spacing_mm, moved),
            NAMES,
            paths,
            "1.0",
        )


def test_a_sphere_of_an_rtstruct_is_that_of_the_label_map(tmp_path):
    z, y, x = np.ogrid[:24, :24, :24]
    sphere = ((z - 11.5) ** 2 + (y - 11.5) ** 2 + (x - 11.5) ** 2 <= 100).astype(np.uint8) * 3
    paths, grid, labels = make(tmp_path, oblique(), sphere)

    write_contours(tmp_path / "out.dcm", labels, NAMES, paths, "1.0")

    found = back(tmp_path / "out.dcm", grid)
    dice = 2 * ((found == 3) & (sphere == 3)).sum() / ((found == 3).sum() + (sphere == 3).sum())
    apart = np.argwhere(found == 3).mean(axis=0) - np.argwhere(sphere == 3).mean(axis=0)
    assert dice >= 0.97
    assert np.abs(apart).max() <= 0.1


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("sides", [(5, 7), (9, 9), (13, 11), (8, 6)])
def test_slices_of_any_number_of_pixels_come_back(tmp_path, write, sides):
    array = np.random.default_rng(2).choice(np.array([0, 3, 7], np.uint8), (4, *sides))
    paths, grid, labels = make(tmp_path, oblique(), array)

    write(tmp_path / "out.dcm", labels, NAMES, paths, "1.0")

    assert np.array_equal(back(tmp_path / "out.dcm", grid), array)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_label_map_of_nothing_is_written_too(tmp_path, write):
    paths, grid, labels = make(tmp_path, oblique(), np.zeros((4, 6, 5), np.uint8))

    write(tmp_path / "out.dcm", labels, NAMES, paths, "1.0")

    assert [item.name for item in structures_of(tmp_path / "out.dcm")] == list(NAMES.values())
    assert not back(tmp_path / "out.dcm", grid).any()


def test_highdicom_reads_the_segments_with_their_codes_and_their_algorithm(tmp_path):
    paths, grid, labels = make(tmp_path, oblique())

    write_segmentation(tmp_path / "out.dcm", labels, NAMES, paths, "2.5")

    read = highdicom.seg.segread(tmp_path / "out.dcm")
    kidney, tumour, unknown = (read.get_segment_description(number) for number in (1, 2, 3))
    assert kidney.segment_label == "Left kidney"
    assert kidney.segmented_property_type.meaning == "Kidney"
    assert tumour.segmented_property_type.meaning.startswith("Neoplasm")
    assert unknown.segmented_property_type.meaning == "Tissue"
    identified = kidney.SegmentationAlgorithmIdentificationSequence[0]
    assert (identified.AlgorithmName, identified.AlgorithmVersion) == ("nnU-Net", "2.5")
    volume = read.get_volume(combine_segments=True, skip_overlap_checks=True)
    theirs = {
        tuple(np.round(volume.map_indices_to_reference(index[None])[0], 2))
        for index in np.argwhere(volume.array > 0)
    }
    ours = {
        tuple(np.round((grid.affine @ [x, y, z, 1])[:3], 2))
        for z, y, x in np.argwhere(labels.array)
    }
    assert theirs == ours


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_patient_and_study_are_those_of_the_series_and_the_file_is_a_new_one(tmp_path, write):
    paths, _, labels = make(tmp_path, oblique())

    write(tmp_path / "out.dcm", labels, NAMES, paths, "1.0")

    header, made = pydicom.dcmread(paths[0]), pydicom.dcmread(tmp_path / "out.dcm")
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert made[name].value == header[name].value
    assert made.SeriesInstanceUID != header.SeriesInstanceUID
    assert {item.series_uid for item in structures_of(tmp_path / "out.dcm")} == {
        header.SeriesInstanceUID
    }


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("degrees", [0.1, 1.0, 1.9, 2.1, 15.0])
def test_labels_of_any_tilt_lie_where_they_were_found(tmp_path, write, degrees):
    affine = np.diag([1.5, 1.5, 3.0, 1.0])
    affine[1, 2] = 3.0 * np.tan(np.radians(degrees))
    ball = np.zeros((12, 24, 24), np.uint8)
    ball[2:10, 6:18, 6:18] = 3
    paths, grid, _ = make(tmp_path, affine, ball)
    raw = read_series(paths, straighten=False)
    labels = straightened(raw.with_array(ball), memory_bytes=float("inf"), is_label=True)
    assert grid_shift(labels, grid) == 0

    write(tmp_path / "out.dcm", labels, NAMES, paths, "1.0")

    found = back(tmp_path / "out.dcm", raw)
    assert 2 * ((found == 3) & (ball == 3)).sum() / ((found == 3).sum() + (ball == 3).sum()) > 0.9


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_series_with_doubled_slices_and_a_localiser_can_be_drawn_on(tmp_path, write):
    image = np.random.default_rng(0).integers(0, 99, blob().shape).astype(np.int16)
    scout = make_series(np.zeros((1, 30, 30)), oblique(), ImageType=["DERIVED", "X", "LOCALIZER"])
    paths = [
        *write_all(tmp_path / "a", make_series(image, oblique())),
        *write_all(tmp_path / "b", make_series(image, oblique())),
        *write_all(tmp_path / "c", scout),
    ]
    grid = read_series(paths)

    write(tmp_path / "out.dcm", grid.with_array(blob()), NAMES, paths, "1.0")

    assert np.array_equal(back(tmp_path / "out.dcm", grid), blob())


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(
    "tags",
    [
        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Größe^Änne"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada=山田"},
        {"SpecificCharacterSet": None, "PatientName": "Yamada"},
    ],
    ids=["Latin", "Japanese", "none"],
)
def test_names_of_labels_and_patients_keep_their_letters(tmp_path, write, tags):
    image = np.zeros(blob().shape, np.int16)
    paths = write_all(tmp_path / "series", make_series(image, oblique(), **tags))
    names = {3: "Ωμέγα 肝", 7: "a\\b"}

    write(tmp_path / "out.dcm", read_series(paths).with_array(blob()), names, paths, "1.0")

    assert [item.name for item in structures_of(tmp_path / "out.dcm")] == ["Ωμέγα 肝", "a/b"]
    assert pydicom.dcmread(tmp_path / "out.dcm").PatientName == tags["PatientName"]


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(
    "tags",
    [
        {"PatientSex": "unknown"},
        {"StudyTime": "12:00:00", "StudyDate": "yesterday", "PatientBirthDate": "1970"},
        {"SliceThickness": None},
        {"PatientID": None, "PatientName": None},
        {"ImageType": None, "Modality": None},
    ],
    ids=lambda tags: next(iter(tags)),
)
def test_headers_that_are_bent_or_missing_keep_nobody_from_drawing(tmp_path, write, tags):
    image = np.zeros(blob().shape, np.int16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paths = write_all(tmp_path / "series", make_series(image, oblique(), **tags))
        grid = read_series(paths)
        write(tmp_path / "out.dcm", grid.with_array(blob()), NAMES, paths, "1.0")

    assert np.array_equal(back(tmp_path / "out.dcm", grid), blob())


def test_a_series_of_several_files_of_many_frames_is_told_before_it_is_segmented(tmp_path):
    made = make_series(blob())
    for one in made:
        one.PerFrameFunctionalGroupsSequence = [pydicom.Dataset()]
    paths = write_all(tmp_path / "series", made)

    require_references(paths, "rtstruct")
    require_references(paths[:1], "dicom_seg")
    with pytest.raises(VolumeError, match="many frames"):
        require_references(paths, "dicom_seg")


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("name", ["FrameOfReferenceUID", "StudyInstanceUID"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_series_that_nothing_can_refer_to_is_refused(tmp_path, write, name, value):
    made = make_series(np.zeros(blob().shape, np.int16), **{name: value})
    paths = write_all(tmp_path / "series", made)
    labels = read_series(paths).with_array(blob())

    with pytest.raises(VolumeError, match="refer"):
        write(tmp_path / "out.dcm", labels, NAMES, paths, "1.0")
