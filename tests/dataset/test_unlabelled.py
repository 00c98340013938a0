"""Images to segment: which files make a case, and what its result is called."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from makers import make_image, make_volume, write_patient

from nnunet_medseg.dataset.layouts import bids, patient_folders
from nnunet_medseg.dataset.unlabelled import check_unlabelled, group_images
from nnunet_medseg.volume import EXTENSIONS, write_volume

TWO = ("T1", "FLAIR")


def write_images(folder, *names):
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_volume(folder / name, make_image(seed))
    return folder


def shown(folder, channels):
    cases, findings = group_images(folder, channels)
    return (
        {case.result: [path.name for path in case.images] for case in cases},
        [(finding.case, finding.rule) for finding in findings],
    )


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def told(findings):
    return [(finding.severity, finding.case) for finding in findings]


def test_with_one_channel_every_image_is_a_case_of_its_own_name(tmp_path):
    names = ["0007.nii.gz", "Müller 1.nrrd", "sub/b_0000.mha"]
    write_images(tmp_path, *names, ".hidden.nii.gz", "__MACOSX/._a.nii.gz")

    cases, findings = shown(tmp_path, ("CT",))

    assert sorted(cases) == names
    assert findings == []


@pytest.mark.parametrize("endings", [("0000", "0001"), ("T1", "FLAIR"), ("t1", "0001")])
def test_numbers_and_names_tell_the_channel(tmp_path, endings):
    first, second = endings
    write_images(tmp_path, f"a b_{second}.nii.gz", f"a b_{first}.nii.gz")

    cases, findings = shown(tmp_path, TWO)

    assert cases == {"a b.nii.gz": [f"a b_{first}.nii.gz", f"a b_{second}.nii.gz"]}
    assert findings == []


def test_patient_folders_are_cases(tmp_path):
    write_patient(tmp_path / "p1", channels=TWO)
    (tmp_path / "p1" / "train.nii.gz").unlink()
    write_images(tmp_path / "p2", "T1.nii.gz", "FLAIR.nii.gz")

    cases, findings = shown(tmp_path, TWO)

    assert list(cases) == ["p1/img.nii.gz", "p2/segmentation.nii.gz"]
    assert cases["p2/segmentation.nii.gz"] == ["T1.nii.gz", "FLAIR.nii.gz"]
    assert findings == []


CONVENTIONS = {
    "img_": ("{p}/img_T1.nii.gz", "{p}/img_FLAIR.nii.gz"),
    "img_ in words": ("{p}/img_T1_ce.nii.gz", "{p}/img_FLAIR.nii.gz"),
    "img alone": ("{p}/img.nii.gz", "{p}/img_FLAIR.nii.gz"),
    "image alone": ("{p}/image.nrrd", "{p}/Image_T1_ce.nrrd"),
    "numbers": ("{p}/img_0001.nii.gz", "{p}/img_0002.nii.gz"),
    "channel alone": ("{p}/T1.nii.gz", "{p}/FLAIR.nii.gz"),
    "one within another": ("{p}/ct.nii.gz", "{p}/ct_late.nii.gz", "{p}/late.nii.gz"),
    "patient first": ("{p}/{p}_t1.nii.gz", "{p}/{p}_t1ce.nii.gz", "{p}/{p}_flair.nii.gz"),
    "patient first or not at all": ("{p}/{p}_FLAIR.nii.gz", "{p}/T1.nii.gz"),
    "patient first, in words": ("{p}/{p}_T1.nii.gz", "{p}/{p}_T1_ce.nii.gz"),
    "dashes": ("{p}/{p}-T1.nii.gz", "{p}/{p}-T1-ce.nii.gz"),
    "dots and blanks": ("{p}/{p}.T1 post.nii.gz", "{p}/{p}.T1 pre.nii.gz"),
    "patient last": ("{p}/T1-{p}.nii.gz", "{p}/FLAIR-{p}.nii.gz"),
    "patient around": ("{p}/{p}_T1_3mm.nii.gz", "{p}/{p}_FLAIR_3mm.nii.gz"),
    "name first": ("{p}/Miller_T1.nii.gz", "{p}/Miller_FLAIR.nii.gz"),
}


@pytest.mark.parametrize("names", CONVENTIONS.values(), ids=CONVENTIONS)
def test_channels_named_in_training_are_found_in_the_same_files(tmp_path, names):
    for patient in ("P1", "P2"):
        touch(tmp_path, *(name.format(p=patient) for name in names))
        touch(tmp_path, f"{patient}/seg.nii.gz")
    dataset = patient_folders.read(tmp_path, EXTENSIONS)
    wanted = [case.images for case in dataset.cases]
    assert len(wanted) == 2

    cases, findings = group_images(tmp_path, dataset.channels)

    assert [case.images for case in cases] == wanted
    assert {finding.rule for finding in findings} == {"label map"}
    assert [Path(case.result).parent.name for case in cases] == ["P1", "P2"]


@pytest.mark.parametrize(
    "endings", [("T1w", "FLAIR"), ("T1w", "ce-gd_T1w"), ("acq-high_T1w", "T1w", "FLAIR")]
)
def test_channels_of_bids_are_found_in_the_same_files(tmp_path, endings):
    for name in ("sub-01", "sub-02"):
        touch(tmp_path, *(f"{name}/anat/{name}_{ending}.nii.gz" for ending in endings))
        touch(tmp_path, f"derivatives/labels/{name}/anat/{name}_dseg.nii.gz")
    dataset = bids.read(tmp_path, EXTENSIONS)
    assert len(dataset.cases) == 2

    cases, findings = group_images(tmp_path, dataset.channels)

    assert [case.images for case in cases] == [case.images for case in dataset.cases]
    assert {finding.rule for finding in findings} == {"label map"}


def test_cases_of_one_folder_are_told_apart_from_one_without_a_name(tmp_path):
    touch(tmp_path, *(f"{name}.nii.gz" for name in ("T1", "FLAIR", "a_T1", "a_FLAIR")))

    cases, findings = shown(tmp_path, TWO)

    assert list(cases) == ["a.nii.gz", "segmentation.nii.gz"]
    assert findings == []


def test_a_channel_in_the_middle_of_a_name_counts_only_where_it_is_the_only_one(tmp_path):
    touch(tmp_path, "PET-CT-01.nii.gz", "b-CT-01.nii.gz", "b-PET-01.nii.gz")

    cases, findings = shown(tmp_path, ("CT", "PET"))

    assert list(cases) == ["b-01.nii.gz"]
    assert findings == [("PET-CT-01.nii.gz", "channel")]


def test_the_number_of_a_patient_is_not_taken_for_that_of_a_channel(tmp_path):
    touch(tmp_path, *(f"{kind}_{number:04}.nii.gz" for kind in TWO for number in range(4)))

    cases, findings = shown(tmp_path, TWO)

    # Of these the images of two patients would be one case.
    assert not {"T1.nii.gz", "T2.nii.gz"} & cases.keys()
    told = {name for name, _ in findings}
    assert {f"{TWO[0]}_0001.nii.gz", f"{TWO[1]}_0000.nii.gz"} <= told


def test_an_incomplete_case_and_a_name_that_tells_nothing_are_findings(tmp_path):
    write_images(tmp_path, "a_0000.nii.gz", "b.nii.gz", "c_0002.nii.gz")

    cases, findings = shown(tmp_path, TWO)

    assert cases == {}
    assert findings == [
        ("b.nii.gz", "channel"),
        ("c_0002.nii.gz", "channel"),
        ("a.nii.gz", "channel"),
    ]


def test_two_files_for_one_channel_are_a_finding_and_none_is_dropped_in_silence(tmp_path):
    write_images(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "a_T1.nii.gz")

    _, findings = shown(tmp_path, TWO)

    assert findings == [("a_T1.nii.gz", "channel")]


def test_channels_of_one_name_are_told_by_number_only(tmp_path):
    write_images(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_MRI.nii.gz")

    cases, findings = shown(tmp_path, ("MRI", "MRI"))

    assert list(cases) == ["a.nii.gz"]
    assert findings == [("b_MRI.nii.gz", "channel")]


def test_links_are_not_followed(tmp_path):
    write_images(tmp_path / "elsewhere", "a.nii.gz")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii.gz").symlink_to(tmp_path / "elsewhere" / "a.nii.gz")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "elsewhere")

    assert group_images(tmp_path / "in", ("CT",)) == ((), ())


def test_damaged_images_are_all_named(tmp_path):
    write_images(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz")
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-9])

    (case,), _ = group_images(tmp_path, TWO)

    assert [finding.rule for finding in check_unlabelled(case)] == ["unreadable"] * 2


def test_images_of_a_case_on_different_grids_are_a_finding(tmp_path):
    write_images(tmp_path, "a_0000.nii.gz")
    write_volume(tmp_path / "a_0001.nii.gz", make_volume(np.ones((8, 16, 16), np.int16)))

    (case,), _ = group_images(tmp_path, TWO)

    assert [finding.rule for finding in check_unlabelled(case)] == ["geometry mismatch"]


def test_good_images_have_no_findings(tmp_path):
    write_images(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz")

    (case,), _ = group_images(tmp_path, TWO)

    assert check_unlabelled(case) == ()


def test_the_label_map_of_a_patient_folder_is_not_an_image_to_segment(tmp_path):
    touch(tmp_path, "P1/img.nii.gz", "P1/train.nii.gz", "P2/img.nii.gz", "train_07.nii.gz")

    cases, findings = group_images(tmp_path, ["CT"])

    assert [case.result for case in cases] == ["train_07.nii.gz", "P1/img.nii.gz", "P2/img.nii.gz"]
    assert told(findings) == [("warning", "P1/train.nii.gz")]
    assert "passed over" in findings[0].message


@pytest.mark.parametrize(
    "name",
    [
        *("P1_seg.nii.gz", "labels.nrrd", "masks.nii", "gt.nii.gz", "validation.nii.gz"),
        *("P1.seg.nrrd", "train_07.nii.gz", "ground_truth.nii.gz", "seg-old.nii", "mask_P1.nii"),
    ],
)
def test_whatever_training_takes_for_a_label_map_beside_an_image_is_passed_over(tmp_path, name):
    touch(tmp_path, "P1/P1_ct.nii.gz", f"P1/{name}")

    cases, findings = group_images(tmp_path, ["CT"])

    assert [case.result for case in cases] == ["P1/P1_ct.nii.gz"]
    assert [path.name for path in cases[0].files] == ["P1_ct.nii.gz"]
    assert told(findings) == [("warning", f"P1/{name}")]


def test_a_label_map_does_not_stop_a_model_of_several_images(tmp_path):
    touch(tmp_path, *(f"B1/B1_{name}.nii.gz" for name in ("T1", "FLAIR", "seg")))
    touch(tmp_path, *(f"B2/{name}.nii.gz" for name in ("img_T1", "img_FLAIR", "seg_T1")))

    cases, findings = group_images(tmp_path, TWO)

    assert [case.result for case in cases] == ["B1/B1.nii.gz", "B2/img.nii.gz"]
    warned = [("warning", "B1/B1_seg.nii.gz"), ("warning", "B2/seg_T1.nii.gz")]
    assert told(findings) == warned


def test_a_channel_that_is_called_as_a_label_map_is_an_image(tmp_path):
    touch(tmp_path, "a_CT.nii.gz", "a_mask.nii.gz", "b/CT.nii.gz", "b/mask.nii.gz")

    cases, findings = group_images(tmp_path, ("CT", "mask"))

    assert [case.result for case in cases] == ["a.nii.gz", "b/segmentation.nii.gz"]
    assert findings == ()


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("sub-01/anat/sub-01_T1w.nii.gz", "derivatives/labels/sub-01/anat/sub-01_dseg.nii.gz"),
        ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_label-lesion_roi.nii.gz"),
        ("images/P1.nii.gz", "labels/P1.nii.gz"),
        ("imagesTs/P1_0000.nii.gz", "labelsTr/P0.nii.gz"),
        ("P1.nii.gz", "P1_seg.nii.gz"),
    ],
)
def test_label_maps_of_other_layouts_are_passed_over(tmp_path, image, label):
    touch(tmp_path, image, label)

    cases, findings = group_images(tmp_path, ["T1w"])

    assert [case.result for case in cases] == [image]
    assert told(findings) == [("warning", label)]


def test_images_in_one_folder_may_begin_as_held_out_patients_do(tmp_path):
    names = [f"{name}_07.nii.gz" for name in ("test", "train", "validation")]
    touch(tmp_path, *names, *(f"images/{name}" for name in names))

    cases, findings = group_images(tmp_path, ["CT"])

    assert len(cases) == 6
    assert findings == ()


@pytest.mark.parametrize("name", ["P1/P1_seg.nii.gz", "P1_seg.nii.gz", "labels/P1.nii.gz"])
def test_a_file_without_an_image_beside_it_is_segmented_whatever_its_name(tmp_path, name):
    touch(tmp_path, name)

    (case,), findings = group_images(tmp_path, ["CT"])

    assert case.result == name
    assert told(findings) == [("warning", name)]
    assert "segmented as an image" in findings[0].message


def test_a_segmentation_of_3d_slicer_is_never_an_image(tmp_path):
    touch(tmp_path, "P1.seg.nrrd")

    cases, findings = group_images(tmp_path, ["CT"])

    assert cases == ()
    assert told(findings) == [("warning", "P1.seg.nrrd")]


def write_frames(path, number):
    frames = np.stack([make_image(seed).array for seed in range(number)])
    nibabel.save(nibabel.Nifti1Image(frames.transpose(3, 2, 1, 0), np.eye(4)), path)
    return path


def test_a_file_with_a_frame_for_each_channel_is_a_case_by_itself(tmp_path):
    path = write_frames(tmp_path / "a.nii.gz", 2)
    write_images(tmp_path, "b_0000.nii.gz", "b_0001.nii.gz")

    cases, findings = group_images(tmp_path, TWO)

    assert findings == ()
    assert [case.result for case in cases] == ["a.nii.gz", "b.nii.gz"]
    assert cases[0].images == (path, path)
    assert [check_unlabelled(case) for case in cases] == [(), ()]
    for seed, volume in enumerate(cases[0].read()):
        np.testing.assert_array_equal(volume.array, make_image(seed).array)


@pytest.mark.parametrize("number", [1, 3])
def test_a_file_with_other_than_a_frame_for_each_channel_is_a_finding(tmp_path, number):
    write_frames(tmp_path / "a.nii.gz", number)

    assert shown(tmp_path, TWO) == ({}, [("a.nii.gz", "channel")])


def test_frames_beside_channels_of_the_same_name_are_a_finding(tmp_path):
    write_frames(tmp_path / "a.nii.gz", 2)
    write_images(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz")

    _, findings = shown(tmp_path, TWO)

    assert findings == [("a.nii.gz", "channel")]


def write_stripped(path, seed=0):
    """Write an image whose outermost slices hold no number, as outside of a brain."""
    array = make_image(seed).array.astype(np.float32)
    array[0], array[-1] = np.nan, np.inf
    write_volume(path, make_volume(array))
    return array


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd"])
def test_voxels_without_a_number_become_the_smallest_value_as_in_training(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    array = write_stripped(path)
    (case,), _ = group_images(tmp_path, ("MRI",))
    taken = []

    (finding,) = check_unlabelled(case, taken.extend)

    lost = ~np.isfinite(array)
    assert finding.severity == "warning"
    assert f"{path.name}: {lost.sum()} voxels without a number" in finding.message
    expected = np.where(lost, array[~lost].min(), array)
    for volume in (*taken, *case.read()):
        np.testing.assert_array_equal(volume.array, expected)


def test_voxels_without_a_number_are_put_right_in_frames_and_channels(tmp_path):
    write_stripped(tmp_path / "b_T1.nii.gz", 1)
    write_stripped(tmp_path / "b_FLAIR.nii.gz", 2)
    frames = np.stack([make_image(seed).array.astype(np.float32) for seed in (3, 4)])
    frames[1, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(frames.transpose(3, 2, 1, 0), np.eye(4)), tmp_path / "a.nii")

    cases, findings = group_images(tmp_path, TWO)

    assert findings == ()
    messages = [[finding.message for finding in check_unlabelled(case)] for case in cases]
    assert [len(told) for told in messages] == [1, 2]
    assert all(np.isfinite(volume.array).all() for case in cases for volume in case.read())


def test_an_image_without_any_number_is_refused(tmp_path):
    write_volume(tmp_path / "a.nii.gz", make_volume(np.full((8, 8, 8), np.nan, np.float32)))

    (case,), _ = group_images(tmp_path, ("MRI",))

    told = [(finding.severity, finding.rule) for finding in check_unlabelled(case)]
    assert told == [("error", "NaN or Inf")]


def test_what_is_put_right_in_reading_is_a_warning_and_no_error(tmp_path):
    affine = np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(make_image().array.T, affine), tmp_path / "a.nii")

    (case,), _ = group_images(tmp_path, ("CT",))
    (finding,) = check_unlabelled(case)

    assert finding.severity == "warning"
    assert "resampled" in finding.message
    assert "segmentation lies on the grid as it was read" in finding.fix
