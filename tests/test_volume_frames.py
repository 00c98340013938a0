"""Files with several frames, or with axes too many: each frame comes back on its grid."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from makers import make_image
from strange_files import write_meta

from nnunet_medseg.volume import VolumeError, read_frames, read_volume

SQUEEZED = ("an axis of length 1 removed",)
DIRECTIONS = "(1.5,0,0) (0,1,0) (0,0,2)"


def make_frames(number: int) -> np.ndarray:
    return np.stack([make_image(seed).array for seed in range(number)])


def write_nifti_of(path, frames, shape):
    """Write frames with the axes of a shape, `(x, y, z, …)`."""
    array = frames.transpose(3, 2, 1, 0).reshape(shape)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.5, 1, 2, 1])), path)
    return path


def write_nrrd(path, array, *, kinds, directions):
    """Write an NRRD file by hand; the last axis of the array is the first of the file."""
    path.write_bytes(
        "NRRD0004\ntype: short\n"
        f"dimension: {array.ndim}\nsizes: {' '.join(map(str, array.shape[::-1]))}\n"
        "encoding: raw\nendian: little\nspace: left-posterior-superior\nspace origin: (1,2,3)\n"
        f"space directions: {directions}\nkinds: {kinds}\n\n".encode()
        + np.ascontiguousarray(array, "<i2").tobytes()
    )
    return path


def write_four(folder, kind, number):
    """Write frames in one of the kinds of files that hold them."""
    frames = make_frames(number)
    if kind == "NIfTI":
        return write_nifti_of(folder / "a.nii.gz", frames, (16, 16, 16, number))
    if kind == "NIfTI of five axes":
        return write_nifti_of(folder / "a.nii", frames, (16, 16, 16, 1, number))
    if kind == "NRRD, list first":
        array = np.moveaxis(frames, 0, -1)
        kinds, directions = "list domain domain domain", f"none {DIRECTIONS}"
        return write_nrrd(folder / "a.nrrd", array, kinds=kinds, directions=directions)
    if kind == "NRRD, list last":
        kinds, directions = "domain domain domain list", f"{DIRECTIONS} none"
        return write_nrrd(folder / "a.nrrd", frames, kinds=kinds, directions=directions)
    images = [sitk.GetImageFromArray(frame) for frame in frames]
    for image in images:
        image.SetSpacing((1.5, 1, 2))
    path = folder / ("a.mha" if kind == "MetaImage" else "a.nrrd")
    sitk.WriteImage(sitk.JoinSeries(images), str(path))
    return path


KINDS = (
    "NIfTI",
    "NIfTI of five axes",
    "NRRD, list first",
    "NRRD, list last",
    "NRRD of four axes in space",
    "MetaImage",
)


@pytest.mark.parametrize("kind", KINDS)
def test_the_frames_of_a_file_come_back_in_their_order(tmp_path, kind):
    path = write_four(tmp_path, kind, 3)

    volumes = read_frames(path)

    assert len(volumes) == 3
    for volume, frame in zip(volumes, make_frames(3), strict=True):
        np.testing.assert_array_equal(volume.array, frame)
        assert volume.spacing_mm == (2.0, 1.0, 1.5)
        assert volume.notes == ()
        assert np.abs(volume.affine[:3, :3]).max() == 2


@pytest.mark.parametrize("kind", KINDS)
def test_several_frames_are_not_one_volume(tmp_path, kind):
    with pytest.raises(VolumeError) as caught:
        read_volume(write_four(tmp_path, kind, 3))

    assert caught.value.rule == "4D"


@pytest.mark.parametrize("kind", KINDS)
def test_one_frame_is_a_volume_and_the_removed_axis_is_told(tmp_path, kind):
    path = write_four(tmp_path, kind, 1)

    volume = read_volume(path)

    np.testing.assert_array_equal(volume.array, make_frames(1)[0])
    assert volume.notes == SQUEEZED
    assert volume.with_array(volume.array).notes == SQUEEZED
    assert len(read_frames(path)) == 1


def test_a_volume_that_is_as_it_should_be_has_no_notes(tmp_path):
    path = write_nifti_of(tmp_path / "a.nii", make_frames(1), (16, 16, 16))

    assert read_volume(path).notes == ()


@pytest.mark.parametrize("kind", KINDS)
def test_the_memory_must_hold_all_frames(tmp_path, kind):
    path = write_four(tmp_path, kind, 3)

    with pytest.raises(VolumeError) as caught:
        read_frames(path, memory_bytes=2 * 16**3 * 8 * 3)

    assert caught.value.rule == "too large"
    assert len(read_frames(path, memory_bytes=3 * 16**3 * 8 * 3)) == 3


def test_two_axes_of_frames_are_refused(tmp_path):
    path = write_nifti_of(tmp_path / "a.nii", make_frames(4), (16, 16, 16, 2, 2))

    with pytest.raises(VolumeError) as caught:
        read_frames(path)

    assert caught.value.rule == "4D"


@pytest.mark.parametrize("kind", ["vector", "RGB-color", "covariant-vector", "3-color"])
def test_colours_and_vectors_are_no_frames(tmp_path, kind):
    array = np.moveaxis(make_frames(3), 0, -1)
    kinds, directions = f"{kind} domain domain domain", f"none {DIRECTIONS}"
    path = write_nrrd(tmp_path / "a.nrrd", array, kinds=kinds, directions=directions)

    with pytest.raises(VolumeError) as caught:
        read_frames(path)

    assert caught.value.rule == "RGB"


def test_axes_of_space_that_are_mixed_with_others_are_refused(tmp_path):
    path = write_meta(
        tmp_path / "a.mha",
        NDims="4",
        DimSize="4 4 2 2",
        ElementSpacing="1 1 1 1",
        Offset="0 0 0 0",
        TransformMatrix="1 0 0 0 0 1 0 0 0 0 0 1 0 0 1 0",
    )

    with pytest.raises(VolumeError) as caught:
        read_frames(path)

    assert caught.value.rule == "header"


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".mha", ".nrrd"])
def test_values_that_are_no_numbers_are_left_where_they_are_on_demand(
    tmp_path, extension, value, number
):
    frames = make_frames(number).astype(np.float32)
    frames[-1, 2, 3, 4] = value
    images = [sitk.GetImageFromArray(frame) for frame in frames]
    path = tmp_path / f"a{extension}"
    sitk.WriteImage(sitk.JoinSeries(images), str(path))

    volumes = read_frames(path, allow_lost=True)

    for volume, frame in zip(volumes, frames, strict=True):
        np.testing.assert_array_equal(volume.array, frame)
    with pytest.raises(VolumeError, match="1 voxels are NaN or infinite"):
        read_frames(path)


def test_a_file_with_values_that_are_no_numbers_keeps_its_grid(tmp_path):
    array = make_image(dtype=np.float32).array
    for name in ("a", "b"):
        image = nibabel.Nifti1Image(array.T, np.diag([-1.5, 1, 2, 1]))
        image.header.set_xyzt_units("micron")
        nibabel.save(image, tmp_path / f"{name}.nii")
        array[3, 3, 3] = np.nan

    whole = read_volume(tmp_path / "a.nii", allow_lost=True)
    lost = read_volume(tmp_path / "b.nii", allow_lost=True)

    np.testing.assert_array_equal(lost.affine, whole.affine)
    assert np.isnan(lost.array).sum() == 1
    assert lost.array.dtype == np.float32
    assert lost.spacing_mm == whole.spacing_mm
