"""DICOM images with label maps of other formats beside them."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_makers import (
    LIVER,
    OBLIQUE,
    PATIENT_SHAPE,
    TUMOUR,
    add_patient,
    make_image,
    make_series,
    write_all,
)

from nnunet_medseg.dataset.checked import Wishes, check_dataset
from nnunet_medseg.dataset.checks import inspect_case
from nnunet_medseg.dataset.contents import read_contents
from nnunet_medseg.dataset.intake import find_dataset, read_dataset
from nnunet_medseg.dataset.labels import parse_labels
from nnunet_medseg.dataset.repairs import repair
from nnunet_medseg.volume import grid_shift, write_volume
from nnunet_medseg.volume.dicom.series import read_series


def truth() -> np.ndarray:
    label = np.zeros(PATIENT_SHAPE, np.uint8)
    label[LIVER], label[TUMOUR] = 1, 2
    return label


def add(root, number: int, label_map: str) -> None:
    add_patient(root, number, {}, f"p{number}")
    grid = read_series(tuple((root / f"p{number}" / "study" / "CT").iterdir()))
    path = root / label_map
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, grid.with_array(truth()))


@pytest.fixture
def root(tmp_path):
    for number in (1, 2, 3):
        add(tmp_path / "in", number, f"p{number}/study/Segmentation.nii.gz")
    return tmp_path / "in"


def check(root, label: str = "NONE"):
    dataset = read_dataset(find_dataset(root), None)
    return check_dataset(dataset, Wishes(parse_labels(label), (), "all", 0))


def test_a_label_map_in_the_folder_of_a_patient_belongs_to_its_series(root):
    dataset = read_dataset(find_dataset(root), None)

    assert dataset.layout == "DICOM with label maps"
    assert dataset.findings == ()
    assert [case.source for case in dataset.cases] == [f"p{n}/study/CT" for n in (1, 2, 3)]
    assert [case.label.parts[-3] for case in dataset.cases] == ["p1", "p2", "p3"]
    assert dataset.channels == ("CT",)


def test_image_and_label_map_lie_on_the_same_voxels(root):
    case = read_dataset(find_dataset(root), None).cases[1]

    contents, findings = read_contents(case)

    assert findings == ()
    assert np.array_equal(contents.channels[0].array, make_image(2))
    assert np.array_equal(contents.label.array, truth())
    assert np.allclose(contents.label.volume.affine, contents.channels[0].volume.affine, atol=1e-4)


@pytest.mark.parametrize("flipped", [(0,), (1,), (0, 1, 2)])
def test_a_label_map_whose_axes_run_the_other_way_is_turned_to_its_image(root, flipped):
    for path in root.rglob("*.nii.gz"):
        path.unlink()
    for number in (1, 2, 3):
        folder = root / f"p{number}"
        grid = read_series(tuple((folder / "study" / "CT").iterdir()))
        affine = grid.affine.copy()
        for axis in flipped:
            # Voxel axes are (z, y, x), columns of the affine (x, y, z).
            column = 2 - axis
            affine[:3, 3] += affine[:3, column] * (PATIENT_SHAPE[axis] - 1)
            affine[:3, column] *= -1
        turned = replace(grid, array=np.flip(truth(), flipped).copy(), affine=affine)
        write_volume(folder / "label.nii.gz", turned)

    checked = check(root).checked

    assert checked is not None
    voxels = {value: int((truth() == value).sum()) for value in (1, 2)}
    assert [fact.label_voxels for fact in checked.facts] == [voxels] * 3


def test_label_maps_in_a_folder_of_their_own_are_paired_by_the_name_of_the_patients_folder(
    tmp_path,
):
    for number in (1, 2):
        add(tmp_path / "in", number, f"labels/P{number}_seg.nrrd")

    dataset = read_dataset(find_dataset(tmp_path), None)

    assert dataset.folder == tmp_path / "in"
    assert dataset.findings == ()
    assert [(case.source, case.label.name) for case in dataset.cases] == [
        ("p1/study/CT", "P1_seg.nrrd"),
        ("p2/study/CT", "P2_seg.nrrd"),
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_dicom_in_a_folder_of_images_is_no_flat_dataset(tmp_path, count):
    for number in range(1, count + 1):
        add(tmp_path, number, f"labels/p{number}.nii.gz")
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / f"p{number}").rename(tmp_path / "images" / f"p{number}")

    dataset = read_dataset(find_dataset(tmp_path), None)

    assert dataset.layout == "DICOM with label maps"
    assert dataset.findings == ()
    assert [case.label.name for case in dataset.cases] == [
        f"p{number}.nii.gz" for number in range(1, count + 1)
    ]


def test_one_patient_is_enough(tmp_path):
    add(tmp_path / "in", 1, "label.nii.gz")

    assert check(tmp_path).checked is not None


def test_a_label_map_called_validate_holds_its_patient_out(root):
    old = root / "p2" / "study" / "Segmentation.nii.gz"
    old.rename(old.with_name("validate.nii.gz"))

    dataset = read_dataset(find_dataset(root), None)

    assert [case.is_held_out for case in dataset.cases] == [False, True, False]


def test_what_does_not_fit_is_told_in_one_list(root):
    (root / "p1" / "study" / "Segmentation.nii.gz").unlink()
    add_patient(root, 2, {}, "p2/again", SeriesInstanceUID="1.2.2.9")
    (root / "p2" / "study" / "Segmentation.nii.gz").rename(root / "p2" / "seg.nii.gz")
    label = root / "p3" / "study" / "Segmentation.nii.gz"
    (root / "p3" / "study" / "label.nii.gz").write_bytes(label.read_bytes())

    findings = read_dataset(find_dataset(root), None).findings

    assert sorted((finding.case, finding.rule) for finding in findings) == [
        ("p1/study/CT", "no label map"),
        ("p2", "several images"),
        ("p2/again/study/CT", "no label map"),
        ("p3/study/CT", "several label maps"),
    ]


def test_a_label_map_without_a_series_is_told(root):
    (root / "p1" / "study" / "Segmentation.nii.gz").rename(root / "seg_of_nobody.nii.gz")

    findings = read_dataset(find_dataset(root), None).findings

    assert [finding.rule for finding in findings] == ["no image", "no label map"]


def test_structures_beside_label_maps_are_a_question(root):
    add_patient(root, 3, {"Liver": LIVER}, "p3")

    findings = read_dataset(find_dataset(root), None).findings

    assert [(each.case, each.rule) for each in findings] == [("p3/study", "several label maps")]


def test_images_of_another_format_beside_dicom_are_no_dicom_dataset(root):
    for number in (1, 2, 3):
        label = root / f"p{number}" / "study" / "Segmentation.nii.gz"
        (root / f"p{number}" / "img.nii.gz").write_bytes(label.read_bytes())
        label.rename(root / f"p{number}" / "train.nii.gz")

    assert read_dataset(find_dataset(root), None).layout == "patient folders"


def test_a_label_map_elsewhere_than_its_image_is_found(root):
    grid = read_series(tuple((root / "p1" / "study" / "CT").iterdir()))
    affine = OBLIQUE.copy()
    affine[:3, 3] += 500.0
    elsewhere = replace(grid, array=truth(), affine=affine)
    write_volume(root / "p1" / "study" / "Segmentation.nii.gz", elsewhere)

    outcome = check(root)

    assert outcome.checked is None
    assert {finding.case for finding in outcome.findings if finding.severity == "error"} == {
        "p1/study/CT"
    }


def middle() -> np.ndarray:
    label = np.zeros(PATIENT_SHAPE, np.uint8)
    label[3:5, 6:10, 4:8] = 2
    return label


def add_tilted(root: Path) -> Path:
    """Write the series of a gantry tilted by 20 degrees, and return its folder."""
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    affine[1, 2] = 5.0 * np.tan(np.radians(20.0))
    affine[:3, 3] = [-31.0, 17.5, 803.25]
    folder = root / "p1" / "CT"
    write_all(folder, make_series(make_image(1), affine))
    return folder


def test_a_label_map_that_lost_the_tilt_of_its_series_is_refused(tmp_path):
    folder = add_tilted(tmp_path)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    label = sitk.GetImageFromArray(middle())
    # SimpleITK has set the slices upright: that is where it draws, and what it saves.
    label.CopyInformation(image)
    sitk.WriteImage(label, str(tmp_path / "p1" / "seg.nii.gz"))

    inspection = inspect_case(read_dataset(find_dataset(tmp_path), None).cases[0])

    refusal = inspection.findings[-1]
    assert inspection.facts is None
    assert refusal.rule == "shape mismatch"
    assert "only its series has sheared axes" in refusal.message
    assert "DICOM SEG" in refusal.fix


def test_a_label_map_with_the_tilt_of_its_series_lies_where_it_was_drawn(tmp_path):
    stored = read_series(tuple(add_tilted(tmp_path).iterdir()), straighten=False)
    # NIfTI has x to the right and y to the front.
    to_right_and_front = np.diag([-1.0, -1.0, 1.0, 1.0])
    label = nib.Nifti1Image(middle().T, to_right_and_front @ stored.affine)
    label.header.set_qform(None, 0)
    nib.save(label, tmp_path / "p1" / "seg.nii.gz")
    case = read_dataset(find_dataset(tmp_path), None).cases[0]

    inspection = inspect_case(case)
    contents, findings = repair(case, read_contents(case)[0])

    image, found = contents.channels[0].volume, contents.label.volume
    assert inspection.facts is not None, inspection.findings
    assert {finding.rule for finding in findings} <= {"reading", "header noise"}
    assert grid_shift(image, found) < 1e-3
    expected = stored.affine[:3] @ [*np.argwhere(middle()).mean(axis=0)[::-1], 1]
    place = image.affine[:3] @ [*np.argwhere(found.array).mean(axis=0)[::-1], 1]
    assert np.linalg.norm(place - expected) < max(image.spacing_mm) / 2


def test_names_that_are_no_text_are_told_of_images_and_label_maps(root):
    odd = os.fsdecode(b"m\xfcller")
    (root / "p2").rename(root / odd)

    findings = check(root).findings

    assert [(each.case, each.rule) for each in findings] == [(f"{odd}/study/CT", "file name")] * 2
    assert "Segmentation.nii.gz" in findings[1].message


def test_dicom_may_be_asked_for_by_its_ending(root):
    dataset = read_dataset(find_dataset(root), ".dcm")

    assert len(dataset.cases) == 3
    assert dataset.findings == ()


def test_the_real_series_lies_where_its_label_map_does(tmp_path):
    shared = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom"
    if not shared.is_dir():
        pytest.skip("needs ../shared/data/dicom")
    shutil.copytree(shared / "ct-3slice", tmp_path / "in" / "ct")
    shutil.copy(shared / "liver_seg.nrrd", tmp_path / "in")

    (case,) = read_dataset(find_dataset(tmp_path / "in"), None).cases
    contents, findings = read_contents(case)

    image, label = contents.channels[0].volume, contents.label.volume
    assert findings == ()
    assert image.array.shape == label.array.shape
    assert grid_shift(image, label) < 1e-3
    # Hounsfield units of a liver; all around it are bone, lung and air.
    assert 30 < np.median(image.array[label.array != 0]) < 70
