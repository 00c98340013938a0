"""Sheared axes: what is seen stays at its place in the world."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from strange_files import write_meta

from nnunet_medseg.volume import (
    VolumeError,
    orientation_code,
    read_frames,
    read_volume,
    write_volume,
)

RESAMPLED = "sheared axes resampled onto a grid at right angles"
SNAPPED = "rounding in the direction of the axes removed"
TILTED = [[1.5, 0.4, 0.0, 5], [0.0, 1.0, 0.6, -7], [0.0, 0.0, 2.0, 3], [0, 0, 0, 1]]
FLIPPED = [[-1.5, 0.2, 0.3, 5], [0.0, 0.3, 2.0, -7], [0.1, 1.0, 0.0, 3], [0, 0, 0, 1]]


def make_blob(scale: int = 1) -> np.ndarray:
    """Make a smooth blob, off the middle, on a background of 100."""
    z, y, x = np.mgrid[: 20 * scale, : 24 * scale, : 28 * scale] / scale
    distance = ((x - 16) / 4) ** 2 + ((y - 10) / 3) ** 2 + ((z - 9) / 2.5) ** 2
    return (100 + 800 * np.exp(-distance / 2)).astype(np.int16)


def write_sheared(path, array, affine):
    """Write a NIfTI file with an sform of our choice and no qform."""
    image = nibabel.Nifti1Image(array.T, np.array(affine, dtype=float))
    image.header.set_qform(None, 0)
    nibabel.save(image, path)
    return path


def centre_of(weights, affine) -> np.ndarray:
    """Return the centre of mass in mm."""
    z, y, x = np.nonzero(weights)
    mass = weights[z, y, x].astype(float)
    places = np.stack([x, y, z, np.ones_like(x)]) @ (mass / mass.sum())
    return (affine @ places)[:3]


def in_lps(affine) -> np.ndarray:
    return np.diag([-1.0, -1, 1, 1]) @ np.array(affine, dtype=float)


@pytest.mark.parametrize("affine", [TILTED, FLIPPED])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_blob_stays_at_its_place_in_the_world(tmp_path, affine, name):
    blob = make_blob()

    volume = read_volume(write_sheared(tmp_path / name, blob, affine))

    moved = centre_of(volume.array - 100, volume.affine) - centre_of(blob - 100, in_lps(affine))
    assert np.linalg.norm(moved) < 0.1 * min(volume.spacing_mm)
    assert volume.notes == (RESAMPLED,)
    assert volume.array.dtype == np.int16
    assert volume.array.min() == 100  # outside of what was seen lies background
    sides = np.linalg.norm(np.array(affine)[:3, :3], axis=0)
    np.testing.assert_allclose(volume.spacing_mm[::-1], sides)
    axes = volume.affine[:3, :3] / sides
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("affine", [TILTED, FLIPPED])
def test_a_label_map_keeps_its_values_and_its_place(tmp_path, affine):
    label = np.where(make_blob(2) > 200, 7, 0).astype(np.uint8)

    volume = read_volume(write_sheared(tmp_path / "a.nii", label, affine), is_label=True)

    moved = centre_of(volume.array, volume.affine) - centre_of(label, in_lps(affine))
    assert set(np.unique(volume.array)) == {0, 7}
    assert np.linalg.norm(moved) < 0.1 * min(volume.spacing_mm)
    cell = np.prod(volume.spacing_mm)
    before = np.count_nonzero(label) * abs(np.linalg.det(np.array(affine)[:3, :3]))
    assert np.count_nonzero(volume.array) * cell == pytest.approx(before, rel=0.1)


def test_an_image_and_its_label_map_come_onto_one_grid(tmp_path):
    label = np.where(make_blob() > 400, 1, 0).astype(np.uint8)

    image = read_volume(write_sheared(tmp_path / "a.nii", make_blob(), TILTED))
    mask = read_volume(write_sheared(tmp_path / "b.nii", label, TILTED), is_label=True)

    assert image.array.shape == mask.array.shape
    np.testing.assert_array_equal(image.affine, mask.affine)
    assert image.array[mask.array == 1].min() > 200


def test_every_frame_of_a_sheared_file_is_resampled(tmp_path):
    array = np.stack([make_blob(), make_blob() + 5])
    image = nibabel.Nifti1Image(array.transpose(3, 2, 1, 0), np.array(TILTED))
    nibabel.save(image, tmp_path / "a.nii")

    first, second = read_frames(tmp_path / "a.nii")

    assert first.notes == second.notes == (RESAMPLED,)
    assert np.abs((second.array - first.array) - 5).max() <= 1


def test_what_was_resampled_is_written_and_read_as_any_other(tmp_path):
    volume = read_volume(write_sheared(tmp_path / "a.nii", make_blob(), FLIPPED))

    write_volume(tmp_path / "b.nii.gz", volume)
    back = read_volume(tmp_path / "b.nii.gz")

    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-4)
    assert back.notes == ()
    assert orientation_code(back) == orientation_code(volume)


@pytest.mark.parametrize(("noise", "note"), [(2e-4, SNAPPED), (9e-4, SNAPPED), (5e-3, RESAMPLED)])
def test_rounding_in_the_directions_turns_the_grid_and_keeps_the_voxels(tmp_path, noise, note):
    affine = np.diag([1.0, 1, 1, 1])
    affine[0, 1] = noise
    blob = np.pad(make_blob(), ((0, 0), (0, 100), (0, 0)), constant_values=100)
    path = write_sheared(tmp_path / "a.nii", blob, affine)

    volume = read_volume(path)

    assert volume.notes == (note,)
    centre = centre_of(volume.array - 100, volume.affine)
    np.testing.assert_allclose(centre, centre_of(blob - 100, in_lps(affine)), atol=0.1)
    if note != RESAMPLED:
        np.testing.assert_array_equal(volume.array, blob)


def test_a_sheared_file_with_values_that_are_no_numbers_is_read_on_demand(tmp_path):
    array = make_blob().astype(np.float32)
    array[3, 3, 3] = np.nan
    path = write_sheared(tmp_path / "a.nii", array, TILTED)

    volume = read_volume(path, allow_lost=True)

    assert 1 <= np.isnan(volume.array).sum() <= 27
    with pytest.raises(VolumeError, match="1 voxels are NaN"):
        read_volume(path)


def test_scaled_values_are_scaled_in_a_sheared_file_too(tmp_path):
    image = nibabel.Nifti1Image(make_blob().T, np.array(TILTED))
    image.header.set_slope_inter(0.5, -3)
    nibabel.save(image, tmp_path / "a.nii")

    assert read_volume(tmp_path / "a.nii").array.max() == pytest.approx(
        nibabel.load(tmp_path / "a.nii").get_fdata().max(), rel=0.05
    )


def test_a_sheared_metaimage_is_resampled_too(tmp_path):
    path = write_meta(tmp_path / "a.mha", TransformMatrix="1 0.05 0 0 1 0 0 0 1")

    assert read_volume(path).notes == (RESAMPLED,)


@pytest.mark.parametrize(
    "rows",
    [
        [[1.5, 0, 0, 0], [3.0, 0.01, 0, 0], [0, 0, 2, 0]],
        [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0]],
        [[np.nan, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0]],
        [[1e30, 1e29, 0, 0], [0, 1e30, 0, 0], [0, 0, 1e30, 0]],
        [[1, 0.5, 0, 1e20], [0, 1, 0, 0], [0, 0, 2, 0]],
        [[1e-30, 1e-30, 0, 0], [0, 1e-30, 0, 0], [0, 0, 1e-30, 0]],
    ],
)
def test_a_hostile_affine_is_refused(tmp_path, rows):
    image = nibabel.Nifti1Image(make_blob().T, np.diag([1.0, 1, 1, 1]))
    for name, row in zip(("srow_x", "srow_y", "srow_z"), rows, strict=True):
        image.header[name] = row
    image.header["qform_code"] = 0
    image.header["vox_offset"] = 352
    image.header["magic"] = b"n+1"
    path = tmp_path / "a.nii"
    path.write_bytes(image.header.binaryblock + bytes(4) + make_blob().tobytes())

    with pytest.raises(VolumeError) as caught:
        read_volume(path)

    assert caught.value.rule in {"header", "axes not at right angles", "unreadable"}


def test_a_sheared_file_is_asked_for_its_size_before_memory_is_taken(tmp_path):
    path = write_sheared(tmp_path / "a.nii", make_blob(), TILTED)

    with pytest.raises(VolumeError) as caught:
        read_volume(path, memory_bytes=20 * 24 * 28 * 8 * 3)

    assert caught.value.rule == "too large"


@pytest.mark.parametrize("missing", [1, 5000])
def test_a_sheared_file_that_is_cut_short_is_unreadable(tmp_path, missing):
    path = write_sheared(tmp_path / "a.nii", make_blob(), TILTED)

    path.write_bytes(path.read_bytes()[:-missing])

    with pytest.raises(VolumeError) as caught:
        read_volume(path)
    assert caught.value.rule == "unreadable"
