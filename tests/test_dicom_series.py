"""Series of DICOM images become volumes that lie where the patient does."""

from __future__ import annotations

import itertools
import os
import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_makers import AXIAL, SHAPE, make_series, make_slice, numbers, oblique, write_all
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from nnunet_medseg.volume import VolumeError, to_ras, write_volume
from nnunet_medseg.volume.dicom.index import index_files
from nnunet_medseg.volume.dicom.opening import LARGEST_UNPACKED
from nnunet_medseg.volume.dicom.series import DOUBLED, LOCALIZERS, read_series
from nnunet_medseg.volume.shear import TILTED

ALL_48 = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def place_of(volume, index) -> np.ndarray:
    return volume.affine @ [*index, 1]


def lay(order, signs) -> np.ndarray:
    """Axes x, y, z of the array along the patient's axes in an order, forwards or backwards."""
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(order)] * signs @ np.diag([2.0, 1.5, 3.0])
    affine[:3, 3] = [-10.0, 20.0, 900.0]
    return affine


def as_points(volume) -> dict[int, tuple[float, ...]]:
    """Where in the patient each value is; values are all different."""
    found = {}
    for z, y, x in np.ndindex(volume.array.shape):
        place = place_of(volume, (x, y, z))[:3]
        found[int(volume.array[z, y, x])] = tuple(np.round(place, 3))
    return found


# --- geometry ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "signs"), ALL_48, ids=str)
def test_each_voxel_is_where_the_scanner_put_it(tmp_path, order, signs):
    array, affine = numbers((3, 4, 5)), lay(order, signs)

    volume = read_series(write_all(tmp_path, make_series(array, affine)))

    expected = {
        int(array[z, y, x]): tuple(np.round((affine @ [x, y, z, 1])[:3], 3))
        for z, y, x in np.ndindex(array.shape)
    }
    assert as_points(volume) == expected
    assert volume.notes == ()


@pytest.mark.parametrize(("order", "signs"), ALL_48[::5], ids=str)
def test_a_series_is_what_simpleitk_makes_of_it_once_both_are_turned_to_ras(tmp_path, order, signs):
    paths = write_all(tmp_path / "in", make_series(numbers(), oblique(lay(order, signs))))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "in")))
    image = reader.Execute()
    theirs = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "RAS"))

    ours = to_ras(read_series(paths))

    assert np.array_equal(ours.array, theirs)


def test_slices_are_sorted_by_where_they_lie_and_not_by_number_or_name(tmp_path):
    array = numbers()

    def misnumber(place, one):
        one.InstanceNumber = (place * 5) % 7
        return one

    for seed in range(3):
        paths = write_all(tmp_path / str(seed), make_series(array, AXIAL, misnumber), seed)
        assert np.array_equal(read_series(paths).array, array)


def test_a_tilted_gantry_is_straightened_and_said(tmp_path):
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = 2.0 * np.tan(np.radians(15))
    array = np.zeros((12, 20, 16), np.int16)
    array[:, 8:12, 6:10] = 1000
    paths = write_all(tmp_path, make_series(array, affine))

    straight, stored = read_series(paths), read_series(paths, straighten=False)

    assert straight.notes == (TILTED,)
    unit = straight.affine[:3, :3] / np.linalg.norm(straight.affine[:3, :3], axis=0)
    assert np.allclose(unit.T @ unit, np.eye(3), atol=1e-6)
    assert np.array_equal(stored.array, array)
    # The beam leans with the gantry: its middle lies where the slices had it.
    for place in (1, 6, 10):
        expected = stored.affine @ [7.5, 9.5, place, 1]
        index = np.linalg.inv(straight.affine) @ expected
        z, y, x = (round(float(value)) for value in index[2::-1])
        assert straight.array[z, y, x] > 500


def test_a_single_slice_is_as_thick_as_it_says(tmp_path):
    volume = read_series(write_all(tmp_path, make_series(numbers((1, 4, 5)))))

    assert volume.spacing_mm == (3.0, 2.0, 2.0)


# --- values ------------------------------------------------------------------------------------


def test_each_slice_has_its_own_rescale(tmp_path):
    array = numbers()

    def rescale(place, one):
        one.RescaleSlope, one.RescaleIntercept = place + 1, -1000 + place
        return one

    volume = read_series(write_all(tmp_path, make_series(array, AXIAL, rescale)))

    expected = [plane * (place + 1) - 1000 + place for place, plane in enumerate(array)]
    assert np.array_equal(volume.array, expected)
    assert volume.array.dtype == np.int16


def test_fractions_of_a_rescale_are_kept(tmp_path):
    volume = read_series(write_all(tmp_path, make_series(numbers(), RescaleSlope=0.25)))

    assert np.allclose(volume.array, numbers() * 0.25)
    assert volume.array.dtype == np.float32


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless], ids=["RLE", "JPEG-LS"])
def test_slices_that_pydicom_has_packed_are_read(tmp_path, syntax):
    made = make_series(numbers())
    for one in made:
        one.compress(syntax, generate_instance_uid=False)

    assert np.array_equal(read_series(write_all(tmp_path, made)).array, numbers())


def refused(paths) -> VolumeError:
    with pytest.raises(VolumeError) as error:
        read_series(paths)
    return error.value


def compress(path: Path, kind: str) -> pydicom.Dataset:
    """Pack the pixels of a file with GDCM, and return its own header with these."""
    header = pydicom.dcmread(path)
    image = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkInt16)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor(kind)
    writer.SetFileName(str(path))
    writer.Execute(image)
    packed = pydicom.dcmread(path)
    header.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
    header.PixelData = packed.PixelData
    return header


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("JPEG", "1.2.840.10008.1.2.4.70"),
        ("JPEG2000", "1.2.840.10008.1.2.4.90"),
    ],
)
def test_compressed_slices_have_the_values_of_the_plain_ones(tmp_path, kind, syntax):
    array = numbers()
    paths = write_all(tmp_path, make_series(array))
    for path in paths:
        packed = compress(path, kind)
        assert packed.file_meta.TransferSyntaxUID == syntax
        packed.RescaleIntercept = -7
        packed.save_as(path)

    volume = read_series(paths)

    assert np.array_equal(volume.array, array - 7)


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
@pytest.mark.parametrize("more", [-1, 1])
def test_compressed_pixels_of_another_size_than_the_header_says_are_refused(tmp_path, kind, more):
    paths = write_all(tmp_path, make_series(numbers()))
    for path in paths:
        packed = compress(path, kind)
        packed.Rows += more
        packed.save_as(path)

    assert refused(paths).rule == "unreadable"


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless], ids=["RLE", "JPEG-LS"])
def test_packed_pixels_of_another_size_than_the_header_says_are_refused(tmp_path, syntax):
    made = make_series(numbers())
    for one in made:
        one.compress(syntax, generate_instance_uid=False)
        one.Rows += 1

    assert refused(write_all(tmp_path, made)).rule == "unreadable"


def make_enhanced(array: np.ndarray, affine: np.ndarray) -> pydicom.Dataset:
    """One file of many frames, in an order of its own, each with a rescale of its own."""
    one = make_slice(array[0], affine[:3, [0, 1, 3]])
    orientation, spacing = one.ImageOrientationPatient, one.PixelSpacing
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(one, name)
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    one.NumberOfFrames = len(array)
    shared, plane, measures = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    plane.ImageOrientationPatient = orientation
    measures.PixelSpacing, measures.SliceThickness = spacing, 3.0
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [measures]
    one.SharedFunctionalGroupsSequence = [shared]
    order = np.random.default_rng(1).permutation(len(array))
    groups = []
    for place in order:
        group, position, values = (pydicom.Dataset() for _ in range(3))
        position.ImagePositionPatient = list((affine[:3, 3] + place * affine[:3, 2]).round(6))
        values.RescaleSlope, values.RescaleIntercept = 2, int(place)
        group.PlanePositionSequence = [position]
        group.PixelValueTransformationSequence = [values]
        groups.append(group)
    one.PerFrameFunctionalGroupsSequence = groups
    one.PixelData = array[order].astype(np.int16).tobytes()
    return one


def test_an_enhanced_file_is_sorted_and_rescaled_frame_by_frame(tmp_path):
    array, affine = numbers(), oblique()

    volume = read_series(write_all(tmp_path, [make_enhanced(array, affine)]))

    assert np.array_equal(volume.array, [2 * plane + n for n, plane in enumerate(array)])
    assert np.allclose(volume.affine, affine, atol=1e-5)


# --- what is refused, and what is put right ----------------------------------------------------


@pytest.mark.parametrize("missing", [1, 4])
def test_a_missing_slice_is_told_with_its_place(tmp_path, missing):
    made = make_series(numbers(), AXIAL, lambda place, one: None if place == missing else one)

    error = refused(write_all(tmp_path, made))

    assert error.rule == "missing slices"
    assert "about 1 slices are missing" in error.problem
    assert f"{3.0 * (missing - 1):.1f} mm" in error.problem


def test_slices_at_uneven_distances_are_refused(tmp_path):
    def move(place, one):
        x, y, z = one.ImagePositionPatient
        one.ImagePositionPatient = [x, y, z + 0.2 * place**2]
        return one

    assert refused(write_all(tmp_path, make_series(numbers(), AXIAL, move))).rule in {
        "uneven slices",
        "missing slices",
    }


def test_rounded_positions_are_even_enough(tmp_path):
    affine = oblique()
    affine[:3, 2] *= 1 / 3

    def round_off(_, one):
        one.ImagePositionPatient = [round(float(value), 2) for value in one.ImagePositionPatient]
        return one

    volume = read_series(write_all(tmp_path, make_series(numbers(), affine, round_off)))

    assert np.array_equal(volume.array, numbers())


def test_slices_that_are_there_twice_count_once(tmp_path):
    made = make_series(numbers())

    volume = read_series(write_all(tmp_path, [*made, made[2], made[3]]))

    assert np.array_equal(volume.array, numbers())
    assert volume.notes == (f"2 {DOUBLED}",)


def test_two_phases_in_one_series_are_not_guessed_between(tmp_path):
    made = [*make_series(numbers()), *make_series(numbers() + 1)]

    error = refused(write_all(tmp_path, made))

    assert error.rule == "doubled slices"
    assert "IM00" in error.problem


def test_localisers_in_a_series_are_left_out_and_said(tmp_path):
    scout = make_slice(
        np.zeros((20, 20)), lay((1, 2, 0), (1, 1, 1))[:3, [0, 1, 3]],
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )  # fmt: skip

    volume = read_series(write_all(tmp_path, [*make_series(numbers()), scout]))

    assert np.array_equal(volume.array, numbers())
    assert volume.notes == (f"1 {LOCALIZERS}",)


def test_slices_of_several_frames_of_reference_are_refused(tmp_path):
    def move(place, one):
        one.FrameOfReferenceUID = f"1.2.{place // 3}"
        return one

    assert (
        refused(write_all(tmp_path, make_series(numbers(), AXIAL, move))).rule == "several stacks"
    )


def test_stacks_of_different_directions_are_refused(tmp_path):
    made = [*make_series(numbers()), *make_series(numbers(), oblique())]

    assert refused(write_all(tmp_path, made)).rule == "several stacks"


@pytest.mark.parametrize(
    ("tags", "rule"),
    [
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "colour"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "inverted"),
        ({"ModalityLUTSequence": [pydicom.Dataset()]}, "header"),
        ({"ImagePositionPatient": None}, "no place"),
        ({"ImageOrientationPatient": None}, "no place"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "header"),
        ({"PixelSpacing": [0, 1]}, "header"),
        ({"RescaleSlope": 0}, "header"),
        ({"Rows": 60000, "Columns": 60000}, "too large"),
        ({"Rows": 11}, "unreadable"),
        ({"NumberOfFrames": 10**9}, "unreadable"),
    ],
)
def test_headers_that_cannot_be_used_are_told_with_the_fix(tmp_path, tags, rule):
    def bend(place, one):
        for name, value in tags.items():
            if value is None:
                delattr(one, name)
            else:
                setattr(one, name, value)
        return one

    error = refused(write_all(tmp_path, make_series(numbers(), AXIAL, bend)))

    assert error.rule == rule or (rule == "unreadable" and error.rule == "no place")
    assert error.fix


def test_a_file_that_was_cut_short_is_named(tmp_path):
    paths = write_all(tmp_path, make_series(numbers()))
    paths[3].write_bytes(paths[3].read_bytes()[:-100])

    error = refused(paths)

    assert error.rule == "unreadable"
    assert paths[3].name in error.problem


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_name_that_is_no_text_is_refused(tmp_path, is_folder):
    paths = write_all(tmp_path / "series", make_series(numbers()))
    odd = os.fsdecode(b"m\xfcller")
    if is_folder:
        folder = (tmp_path / "series").rename(tmp_path / odd)
        paths = [folder / path.name for path in paths]
    else:
        paths[3] = paths[3].rename(paths[3].with_name(odd))

    problem = refused(paths)

    assert (problem.rule, problem.fix) == ("file name", "Rename it.")
    assert problem.problem.startswith(paths[0 if is_folder else 3].name)


def test_more_than_the_memory_holds_is_refused_before_it_is_taken(tmp_path):
    paths = write_all(tmp_path, make_series(numbers()))

    with pytest.raises(VolumeError) as error:
        read_series(paths, memory_bytes=np.prod(SHAPE))

    assert error.value.rule == "too large"


def test_what_was_read_can_be_written_as_nifti(tmp_path):
    volume = read_series(write_all(tmp_path / "in", make_series(numbers(), oblique())))

    write_volume(tmp_path / "out.nii.gz", volume)

    assert (tmp_path / "out.nii.gz").is_file()


def _deflated(content: bytes, **tags: object) -> pydicom.Dataset:
    one = make_series(numbers()[:1], **tags)[0]
    one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    one.add_new(0x00091001, "OB", content)
    return one


def test_a_slice_that_is_packed_as_a_whole_is_read(tmp_path):
    files = write_all(tmp_path, [_deflated(b"")])

    assert (read_series(files).array == numbers()[:1]).all()


def test_a_file_that_unpacks_beyond_any_slice_is_refused_before_it_does(tmp_path):
    files = write_all(tmp_path, [_deflated(bytes(LARGEST_UNPACKED))])

    with pytest.raises(VolumeError, match="fill the memory"):
        read_series(files)
    index = index_files(files)

    assert [path for path, _ in index.damaged] == files


def test_a_bent_length_in_a_header_is_damage(tmp_path):
    one = make_series(numbers()[:1])[0]
    files = write_all(tmp_path, [one])
    rows = struct.pack("<HH2sH", 0x0028, 0x0010, b"US", 2)
    content = files[0].read_bytes()
    assert rows in content
    bent = content.replace(rows, struct.pack("<HH2sH", 0x0028, 0x0010, b"US", 3))
    files[0].write_bytes(bent)

    with pytest.raises(VolumeError, match="damaged"):
        read_series(files)


def test_a_slice_that_lost_its_rescale_is_named(tmp_path):
    def lose(place, one):
        if place == 2:
            del one.RescaleIntercept
        return one

    files = write_all(tmp_path, make_series(numbers(), change=lose))

    with pytest.raises(VolumeError, match=r"IM\d+ lacks the rescale intercept"):
        read_series(files)
