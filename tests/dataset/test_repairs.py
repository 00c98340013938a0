"""What is put right in the converted copy, and what is not."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from makers import SPACING_MM, hashes_of, make_image, make_label, make_volume, write_case

from nnunet_medseg.dataset.checks import inspect_case
from nnunet_medseg.dataset.convert import ConversionJob, convert_cases
from nnunet_medseg.dataset.labels import Label
from nnunet_medseg.dataset.masks import merge_masks
from nnunet_medseg.dataset.raw_layout import image_path, label_path
from nnunet_medseg.volume import Volume, grid_shift, read_volume, write_volume
from nnunet_medseg.volume.grid import from_sitk, to_sitk

LABELS = (Label("one", 1, 1), Label("two", 2, 2))


def repaired(case, tmp_path, labels=LABELS):
    """Check and convert a case; return its findings, and image and label map as nnU-Net reads."""
    before = hashes_of(tmp_path / "in")
    inspection = inspect_case(case)
    assert inspection.facts is not None, inspection.findings
    raw = tmp_path / "raw"
    convert_cases([ConversionJob(case, inspection.facts, labels, raw)])
    assert hashes_of(tmp_path / "in") == before
    image = read_volume(image_path(raw, case.name, 0))
    return inspection.findings, image, read_volume(label_path(raw, case.name))


def rules_of(findings):
    return [(finding.severity, finding.rule) for finding in findings]


def crop(volume, low, high):
    """Cut a box out of a volume; it stays where it is in space."""
    affine = volume.affine.copy()
    affine[:3, 3] = (volume.affine @ [*low[::-1], 1.0])[:3]
    box = tuple(slice(*side) for side in zip(low, high, strict=True))
    return Volume(volume.array[box].copy(), volume.spacing_mm, affine)


def test_a_label_map_cut_to_what_is_labelled_comes_back_onto_the_image(tmp_path):
    label = make_label((1, 2))
    case = write_case(tmp_path / "in", label=crop(label, (1, 3, 2), (5, 13, 14)))

    findings, image, found = repaired(case, tmp_path)

    assert rules_of(findings) == [("repair", "label grid")]
    assert "4 x 10 x 12" in findings[0].message
    np.testing.assert_array_equal(found.array, label.array)
    assert grid_shift(image, found) == 0


def test_a_label_map_with_axes_in_another_order_comes_back_voxel_by_voxel(tmp_path):
    array = np.zeros((16, 16, 16), np.uint8)
    array[2:6, 3:9, 4:14] = 1
    array[7, 2, 1] = 2
    turned = from_sitk(sitk.DICOMOrient(to_sitk(make_volume(array)), "SAR"))
    case = write_case(tmp_path / "in", label=turned)

    findings, _, found = repaired(case, tmp_path)

    assert ("repair", "label grid") in rules_of(findings)
    np.testing.assert_array_equal(found.array, array)


def test_a_label_map_drawn_on_finer_voxels_keeps_its_place(tmp_path):
    array = np.zeros((16, 16, 16), np.uint8)
    array[4:10, 5:11, 3:12] = 1
    fine = np.repeat(array, 2, axis=0)
    affine = make_volume(array).affine.copy()
    affine[2, 2] /= 2
    affine[2, 3] -= SPACING_MM[0] / 4
    case = write_case(
        tmp_path / "in", label=Volume(fine, (SPACING_MM[0] / 2, *SPACING_MM[1:]), affine)
    )

    _, _, found = repaired(case, tmp_path)

    np.testing.assert_array_equal(found.array, array)


def moved(label, by_mm):
    affine = label.affine.copy()
    affine[0, 3] += by_mm
    return replace(label, affine=affine)


@pytest.mark.parametrize(
    "label",
    [
        moved(make_label(), 6),
        Volume(make_label().array[:8], (1.0, 1.0, 1.0), np.eye(4)),
        moved(crop(make_label(), (1, 4, 4), (3, 12, 12)), 500),
        Volume(make_label().array, (2.0, 1.0, 1.2), np.diag([1.2, 1.0, 2.0, 1.0])),
        make_volume(make_label().array[1:9, 3:13, 2:14].copy()),
    ],
    ids=["same voxels elsewhere", "no header", "outside", "other spacing", "copied header"],
)
def test_a_label_map_whose_place_is_in_doubt_is_refused(tmp_path, label):
    inspection = inspect_case(write_case(tmp_path, label=label))

    assert inspection.facts is None
    assert {finding.rule for finding in inspection.findings} <= {
        "shape mismatch",
        "geometry mismatch",
    }


def test_a_value_that_would_be_lost_is_refused(tmp_path):
    # Of four fine voxels the nearest one only is seen.
    array = np.zeros((64, 16, 16), np.uint8)
    array[8:40, 4:12, 4:12] = 1
    array[21, 4, 4] = 2
    affine = make_volume(array).affine.copy()
    affine[2, 2] /= 4
    label = Volume(array, (SPACING_MM[0] / 4, *SPACING_MM[1:]), affine)
    lost = inspect_case(write_case(tmp_path / "a", label=label))
    array[20:24, 4, 4] = 2
    kept = inspect_case(write_case(tmp_path / "b", label=label))

    assert lost.facts is None
    assert kept.facts is not None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_outside_the_labels_becomes_the_background(tmp_path, value):
    image = make_image(dtype=np.float32)
    image.array[14, 14, 14] = value
    case = write_case(tmp_path / "in", image=image)

    findings, found, _ = repaired(case, tmp_path)

    assert rules_of(findings) == [("repair", "NaN or Inf")]
    assert found.array[14, 14, 14] == np.nanmin(make_image().array)
    image.array[14, 14, 14] = found.array[14, 14, 14]
    np.testing.assert_array_equal(found.array, image.array)


def test_whole_numbers_stored_as_floating_point_become_whole(tmp_path):
    label = make_label((1, 2), dtype=np.float32)
    label.array[label.array == 2] = 1.9999
    case = write_case(tmp_path / "in", label=label)

    findings, _, found = repaired(case, tmp_path)

    assert rules_of(findings) == [("repair", "label type")]
    assert found.array.dtype == np.uint8
    np.testing.assert_array_equal(found.array, make_label((1, 2)).array)


def test_frames_of_a_file_become_channels_in_their_order(tmp_path):
    frames = [make_image(1), make_image(2)]
    case = write_case(tmp_path / "in")
    sitk.WriteImage(sitk.JoinSeries([to_sitk(frame) for frame in frames]), str(case.images[0]))
    case = replace(case, images=case.images * 2, frames=(1, 0))

    facts = inspect_case(case).facts
    raw = tmp_path / "raw"
    convert_cases([ConversionJob(case, facts, LABELS, raw)])

    assert len(facts.value_ranges) == 2
    for channel, frame in enumerate(reversed(frames)):
        found = read_volume(image_path(raw, case.name, channel))
        np.testing.assert_array_equal(found.array, frame.array)
        assert grid_shift(found, frame) < 1e-3


def test_masks_become_one_label_map(tmp_path):
    label = make_label((1, 2))
    case = write_case(tmp_path / "in", label=label)
    case.label.unlink()
    masks = []
    for value, name in ((1, "liver"), (2, "spleen")):
        path = case.label.parent / f"{name}.nii.gz"
        write_volume(path, make_volume((label.array == value).astype(np.uint8)))
        masks.append((value, path))
    case = replace(case, label=case.label.parent, masks=tuple(masks))

    findings, _, found = repaired(case, tmp_path)

    assert findings == ()
    np.testing.assert_array_equal(found.array, label.array)


def test_sheared_masks_of_any_value_keep_it(tmp_path):
    affine = np.diag([-1.0, -1.2, 2.0, 1.0])
    affine[0, 2] = 0.4
    case = write_case(tmp_path)
    array = make_label((1,)).array * np.uint8(255)
    nib.save(nib.Nifti1Image(array.T, affine), case.label)

    merged = merge_masks([(2, case.label)])

    assert np.unique(merged.array).tolist() == [0, 2]
    as_label_map = read_volume(case.label, is_label=True)
    np.testing.assert_array_equal(merged.array != 0, as_label_map.array != 0)


def test_masks_that_overlap_are_refused(tmp_path):
    case = write_case(tmp_path)
    case = replace(case, label=tmp_path, masks=((1, case.label), (2, case.label)))

    (finding,) = inspect_case(case).findings

    assert finding.rule == "overlapping masks"


def test_a_cut_label_map_whose_origin_was_not_saved_is_refused(tmp_path):
    image = make_image(origin_mm=(-5, -3, -2))
    label = make_volume(make_label().array[1:9, 3:13, 2:14].copy())

    inspection = inspect_case(write_case(tmp_path, image=image, label=label))

    assert [finding.rule for finding in inspection.findings] == ["shape mismatch"]


def test_a_cut_label_map_of_a_healthy_patient_is_no_problem(tmp_path):
    empty = make_volume(np.zeros((16, 16, 16), np.uint8))
    case = write_case(tmp_path / "in", label=crop(empty, (1, 3, 2), (5, 13, 14)))

    findings, image, found = repaired(case, tmp_path)

    assert rules_of(findings) == [("repair", "label grid")]
    assert not found.array.any()
    assert found.array.shape == image.array.shape


def test_what_is_no_number_is_put_right_beside_a_cut_label_map(tmp_path):
    image = make_image(dtype=np.float32)
    image.array[14, 14, 14] = np.nan
    label = make_label((1, 2))
    case = write_case(tmp_path / "in", image=image, label=crop(label, (1, 3, 2), (5, 13, 14)))

    findings, found, truth = repaired(case, tmp_path)

    assert {rule for _, rule in rules_of(findings)} == {"label grid", "NaN or Inf"}
    assert np.isfinite(found.array).all()
    np.testing.assert_array_equal(truth.array, label.array)


def test_a_large_value_beside_the_labels_takes_no_label_away(tmp_path):
    label = make_label((1.0004, 70000), dtype=np.float64)
    case = write_case(tmp_path / "in", label=label)

    findings, _, found = repaired(case, tmp_path)

    assert rules_of(findings) == [("repair", "label type")]
    np.testing.assert_array_equal(found.array, make_label((1,)).array)


def test_a_value_that_no_label_map_holds_is_refused(tmp_path):
    inspection = inspect_case(write_case(tmp_path, label=make_label((1e12,), dtype=np.float64)))

    assert [finding.rule for finding in inspection.findings] == ["label values"]


def test_a_label_map_that_lost_the_shear_of_its_image_is_refused(tmp_path):
    array, label = make_image().array, make_label().array
    affine = np.diag([-1.0, -1.2, 2.0, 1.0])
    case = write_case(tmp_path)
    nib.save(nib.Nifti1Image(label.T, affine), case.label)
    affine[0, 2] = 0.4
    nib.save(nib.Nifti1Image(array.T, affine), case.images[0])

    lost = inspect_case(case)
    nib.save(nib.Nifti1Image(label.T, affine), case.label)
    kept = inspect_case(case)

    assert [finding.rule for finding in lost.findings] == ["shape mismatch"]
    assert {finding.rule for finding in kept.findings} == {"reading"}
