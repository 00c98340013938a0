"""Decathlon, flat folders, masks by class and BIDS: names of files, and what does not fit."""

from __future__ import annotations

import pytest
from layout_makers import touch, write_bids, write_class_masks, write_decathlon, write_flat
from makers import write_patient

from nnunet_medseg.dataset.checked import Wishes, check_dataset
from nnunet_medseg.dataset.intake import find_dataset, read_dataset
from nnunet_medseg.files import read_json, write_json


def rules_of(dataset):
    return {(finding.case, finding.rule) for finding in dataset.findings}


def pairs_of(dataset):
    return {"+".join(path.name for path in case.images): case.label.name for case in dataset.cases}


# --- Decathlon ---------------------------------------------------------------------------------


def test_the_decathlon_brings_names_of_labels_and_of_the_frames_of_its_images(tmp_path):
    folder = write_decathlon(tmp_path / "Task01_Brain", modality=("FLAIR", "T1w"))

    dataset = read_dataset(folder, None)

    assert dataset.layout == "Decathlon"
    assert dataset.label_names == {1: "Anterior"}
    assert dataset.channels == ("FLAIR", "T1w")
    assert [len(case.images) for case in dataset.cases] == [1, 1, 1]


def test_only_the_cases_that_the_decathlon_lists_are_trained_on(tmp_path):
    folder = write_decathlon(tmp_path / "set", cases=4)
    content = read_json(folder / "dataset.json")
    content["training"] = [
        {"image": "./imagesTr/t1.nii.gz", "label": "./labelsTr/t1.nii.gz"},
        {"image": "imagesTr\\t2.nii.gz", "label": "labelsTr\\t2.nii.gz"},
        {"image": "../../etc/t9.nii.gz", "label": "/labelsTr/t9.nii.gz"},
    ]
    write_json(folder / "dataset.json", content)
    touch(folder, "imagesTs/t7.nii.gz")

    dataset = read_dataset(folder, None)

    assert [case.source for case in dataset.cases] == ["t1", "t2"]
    assert rules_of(dataset) == {("t9", "no image"), ("", "unlisted files")}
    assert "2 for training" in dataset.findings[-1].message
    assert "`training`: t3, t4." in dataset.findings[-1].fix


@pytest.mark.parametrize("training", [{}, 7, ["a"], [{"image": 1, "label": None}], [[]], "x"])
def test_a_list_of_another_kind_is_no_list(tmp_path, training):
    folder = write_decathlon(tmp_path / "set")
    write_json(folder / "dataset.json", read_json(folder / "dataset.json") | {"training": training})

    dataset = read_dataset(folder, None)

    assert len(dataset.cases) == 3
    assert dataset.findings == ()


def test_what_does_not_fit_the_decathlon_is_found_in_one_go(tmp_path):
    folder = write_decathlon(tmp_path / "set", cases=4, listed=False)
    (folder / "imagesTr" / "t1.nii.gz").unlink()
    (folder / "labelsTr" / "t2.nii.gz").unlink()
    touch(folder, "labelsTr/t4.mha")

    dataset = read_dataset(folder, None)

    assert rules_of(dataset) == {
        ("t1", "no image"),
        ("t2", "no label map"),
        ("t4", "file name"),
    }


def test_four_digits_are_a_channel_only_where_the_label_map_lacks_them(tmp_path):
    same = touch(
        tmp_path / "same", "dataset.json", "imagesTr/amos_0001.nii", "labelsTr/amos_0001.nii"
    )
    raw = touch(tmp_path / "raw", "dataset.json", "imagesTr/amos_0001.nii", "labelsTr/amos.nii")

    assert read_dataset(same, None).layout == "Decathlon"
    assert read_dataset(raw, None).layout == "nnU-Net raw"


# --- flat --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        *(("images", "labels"), ("Image", "Label"), ("imagesTr", "labelsTr"), ("img", "masks")),
        *(("scans", "segmentations"), ("volumes", "gt"), ("images_train", "annotations")),
        ("imgs", "ground_truth"),
    ],
)
def test_folders_of_images_and_label_maps_are_known_by_their_names(tmp_path, names):
    dataset = read_dataset(write_flat(tmp_path / "set", names=names), None)

    assert dataset.layout == "flat"
    assert pairs_of(dataset) == {f"f{number}.nii.gz": f"f{number}.nii.gz" for number in (1, 2, 3)}
    assert names[0] in dataset.reason
    assert names[1] in dataset.reason


@pytest.mark.parametrize(
    ("image", "label"),
    [
        *(("a", "a_seg"), ("a", "a_mask"), ("a", "a-label"), ("a", "a_gt"), ("a_img", "a_seg")),
        *(("a_image", "a"), ("img0001", "label0001"), ("volume-1", "segmentation-1")),
        *(("a_0000", "a"), ("a_0000", "a_seg"), ("a_0001", "a_0001_seg"), ("mask_x", "mask_x")),
        *(("Müller 1", "Müller 1_Segmentation"), ("a.b.c", "a.b.c.label")),
    ],
)
def test_words_at_the_ends_of_names_do_not_disturb_pairing(tmp_path, image, label):
    folder = touch(tmp_path / "set", f"images/{image}.nii", f"labels/{label}.nrrd")

    dataset = read_dataset(folder, None)

    assert pairs_of(dataset) == {f"{image}.nii": f"{label}.nrrd"}
    assert dataset.findings == ()


def test_numbered_images_of_a_flat_folder_are_channels(tmp_path):
    folder = touch(
        tmp_path / "set",
        *(f"images/{case}_000{number}.nii" for case in ("a", "b") for number in (0, 1)),
        *("masks/a_mask.nii", "masks/b_mask.nii"),
    )

    dataset = read_dataset(folder, None)

    assert pairs_of(dataset) == {
        "a_0000.nii+a_0001.nii": "a_mask.nii",
        "b_0000.nii+b_0001.nii": "b_mask.nii",
    }
    assert dataset.channels == ("", "")


def test_pairs_in_one_folder_are_read_wrapped_or_not(tmp_path):
    names = ("volume-0.nii", "segmentation-0.nii", "b.nii", "b_seg.nii", "c.nrrd", "c.seg.nrrd")
    folder = touch(tmp_path / "a" / "set", *names)

    dataset = read_dataset(find_dataset(tmp_path), None)

    assert dataset.folder == folder
    assert pairs_of(dataset) == {
        "volume-0.nii": "segmentation-0.nii",
        "b.nii": "b_seg.nii",
        "c.nrrd": "c.seg.nrrd",
    }


def test_what_does_not_fit_flat_folders_is_found_in_one_go(tmp_path):
    folder = touch(
        tmp_path / "set",
        *("images/a.nii", "labels/a.nii", "images/b.nii", "labels/c.nii"),
        *("images/d.nii", "labels/d_seg.nii", "labels/d_mask.nii", "masks/a.nii"),
    )

    dataset = read_dataset(folder, None)

    assert pairs_of(dataset) == {"a.nii": "a.nii"}
    assert rules_of(dataset) == {
        ("b", "no label map"),
        ("c", "no image"),
        ("d", "several label maps"),
        ("", "several folders"),
    }


def test_label_maps_without_any_image_are_told_as_alone(tmp_path):
    touch(tmp_path, "images/notes.txt", "labels/a.nii", "labels/b.nii")

    assert rules_of(read_dataset(tmp_path, None)) == {("a", "no image"), ("b", "no image")}


def test_what_is_for_testing_beside_a_flat_dataset_is_left_alone(tmp_path):
    folder = write_flat(tmp_path / "set")
    touch(folder, "imagesTs/img_1.nii", "test_images/x.nii", "images_test/label_2.nii")

    dataset = read_dataset(folder, None)

    assert len(dataset.cases) == 3
    assert dataset.findings == ()


# --- patient folders ---------------------------------------------------------------------------


def test_label_maps_that_are_called_after_their_patient_are_known_by_their_ending(tmp_path):
    for name in ("BraTS_001", "BraTS_002"):
        touch(tmp_path / name, *(f"{name}_{part}.nii" for part in ("t1", "t1ce", "flair", "seg")))

    dataset = read_dataset(tmp_path, None)

    assert dataset.layout == "patient folders"
    assert dataset.channels == ("flair", "t1", "t1ce")
    assert dataset.cases[0].label.name == "BraTS_001_seg.nii"
    assert dataset.findings == ()


def test_a_mask_beside_the_label_map_is_left_alone(tmp_path):
    touch(write_patient(tmp_path / "p1"), "brain_mask.nii.gz")

    (case,) = read_dataset(tmp_path, None).cases

    assert [path.name for path in case.files] == ["img.nii.gz", "train.nii.gz"]


@pytest.mark.parametrize("stems", [("MillerT1", "MillerCT"), ("T1_Miller", "CT_Miller")])
def test_the_name_of_a_patient_is_no_part_of_a_channel(tmp_path, stems):
    touch(tmp_path / "Miller", *(f"{stem}.nii" for stem in stems), "label.nii")

    dataset = read_dataset(tmp_path, None)

    assert sorted(dataset.channels) == ["CT", "T1"]


# --- masks by class ----------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["segmentations", "masks", "labels", "segmentation"])
def test_classes_are_called_as_their_masks_and_numbered_over_all_patients(tmp_path, place):
    folder = write_class_masks(tmp_path / "set", place=place)
    (folder / "s2" / place / "aorta.nii.gz").unlink()
    touch(folder, f"s3/{place}/brain.nii.gz")

    dataset = read_dataset(folder, None)

    assert dataset.layout == "class masks"
    assert dataset.label_names == {1: "aorta", 2: "brain", 3: "liver"}
    assert [[value for value, _ in case.masks] for case in dataset.cases] == [
        [1, 3],
        [3],
        [1, 2, 3],
    ]
    assert all(path.parent == case.label for case in dataset.cases for _, path in case.masks)
    assert dataset.findings == ()


def test_what_does_not_fit_masks_by_class_is_found_in_one_go(tmp_path):
    folder = write_class_masks(tmp_path / "set", cases=2)
    touch(
        folder,
        *("no image/segmentations/liver.nii", "no masks/ct.nii", "nothing/notes.txt"),
        *("two/ct.nii", "two/masks/liver.nii", "two/labels/liver.nii"),
        *("channels/a_T1.nii", "channels/a_T2.nii", "channels/masks/liver.nii"),
        *("twins/ct.nii", "twins/masks/liver.nii", "twins/masks/liver.mha"),
    )

    dataset = read_dataset(folder, None)

    assert [case.source for case in dataset.cases] == ["s1", "s2"]
    assert rules_of(dataset) == {
        ("no image", "no image"),
        ("no masks", "no label map"),
        ("nothing", "empty folder"),
        ("two", "several label maps"),
        ("channels", "channels"),
        ("twins", "file name"),
    }


@pytest.mark.parametrize("name", ["background", "Ignore", "7", "a=b", "a,b", "a\nb", "Liver"])
def test_a_mask_whose_name_cannot_be_that_of_a_label_is_a_finding(tmp_path, name):
    folder = write_class_masks(tmp_path / "set", cases=2)
    touch(folder, f"s1/segmentations/{name}.nii.gz", f"s2/segmentations/{name}.nii.gz")

    (finding,) = read_dataset(folder, None).findings

    assert finding.rule == "label name"
    assert name in finding.message


def test_no_label_is_called_after_a_patient(tmp_path):
    for name in ("Miller", "Weiß"):
        touch(tmp_path / "a" / name, "ct.nii", f"masks/{name}_liver.nii", "masks/ct_spleen.nii")
        touch(tmp_path / "b" / name, "ct.nii", f"masks/left_{name}.nii", "masks/liver.nii")
    touch(tmp_path / "c", "p1/ct.nii", "p1/masks/Miller.nii", "p2/ct.nii", "p2/masks/Weiß.nii")

    prefixed, within, alone = (read_dataset(tmp_path / name, None) for name in "abc")

    assert prefixed.label_names == {1: "liver", 2: "spleen"}
    assert prefixed.findings == ()
    assert rules_of(within) == {("Miller", "label name"), ("Weiß", "label name")}
    assert rules_of(alone) == {("", "label name")}


# --- BIDS --------------------------------------------------------------------------------------


def test_sessions_are_cases_and_subjects_are_patients(tmp_path):
    folder = write_bids(tmp_path / "set", channels=("T1w", "FLAIR"), sessions=("ses-1", "ses-2"))

    dataset = read_dataset(folder, None)
    outcome = check_dataset(dataset, Wishes((), (), "0", 1))

    assert dataset.layout == "BIDS"
    assert dataset.channels == ("FLAIR", "T1w")
    assert [(case.source, case.owner) for case in dataset.cases[:3]] == [
        ("sub-01/ses-1", "sub-01"),
        ("sub-01/ses-2", "sub-01"),
        ("sub-02/ses-1", "sub-02"),
    ]
    assert pairs_of(dataset)["sub-01_ses-1_FLAIR.nii.gz+sub-01_ses-1_T1w.nii.gz"] == (
        "sub-01_ses-1_dseg.nii.gz"
    )
    assert outcome.checked is not None, outcome.findings
    assert outcome.checked.owners["case_0002"] == "sub-01"
    assert outcome.checked.count_patients(["case_0001", "case_0002", "case_0003"]) == 2


@pytest.mark.parametrize(
    "label",
    [
        "derivatives/manual/sub-01/anat/sub-01_space-T1w_dseg.nii",
        "derivatives/sub-01/anat/sub-01_desc-lesion_mask.nii",
        "sub-01/anat/sub-01_dseg.nii",
    ],
)
@pytest.mark.parametrize("root", ["", "rawdata/"])
def test_label_maps_of_bids_are_found_where_people_keep_them(tmp_path, label, root):
    place = f"{root}{label}" if label.startswith("sub") else label
    folder = touch(
        tmp_path,
        f"{root}sub-01/anat/sub-01_T1w.nii",
        *("derivatives/fs/sub-01/anat/sub-01_label-GM_probseg.nii", place),
        f"{root}sub-01/func/sub-01_task-rest_bold.nii",
    )

    dataset = read_dataset(folder, None)

    assert pairs_of(dataset) == {"sub-01_T1w.nii": label.rpartition("/")[2]}
    assert dataset.findings == ()


def test_masks_of_bids_that_say_what_they_are_of_are_classes(tmp_path):
    place = "derivatives/manual/sub-0{0}/anat/sub-0{0}_label-{1}_mask.nii"
    masks = [place.format(*each) for each in ((1, "lesion"), (1, "edema"), (2, "lesion"))]
    images = [f"sub-0{number}/anat/sub-0{number}_T1w.nii" for number in (1, 2)]

    dataset = read_dataset(touch(tmp_path, *masks, *images), None)

    assert dataset.label_names == {1: "edema", 2: "lesion"}
    assert [[value for value, _ in case.masks] for case in dataset.cases] == [[1, 2], [2]]
    assert dataset.findings == ()


def bids_of(folder, images, labels):
    """Write names of a subject's images and label maps, without `sub-01_`, and read them."""
    images = [f"sub-01/anat/sub-01_{name}.nii" for name in images]
    labels = [f"derivatives/m{n}/sub-01/anat/sub-01_{name}.nii" for n, name in enumerate(labels)]
    return read_dataset(touch(folder, *images, *labels), None)


@pytest.mark.parametrize(
    ("images", "label"),
    [
        (["T1w"], "space-MNI152NLin2009cAsym_label-lesion_mask"),
        (["T1w"], "space-T2w_dseg"),
        (["space-MNI152Lin_T1w"], "space-MNI305_dseg"),
        (["space-MNI152Lin_T1w"], "space-orig_dseg"),
        (["space-MNI152Lin_T1w"], "space-T1w_dseg"),
    ],
)
def test_a_label_map_in_another_space_than_its_image_is_refused(tmp_path, images, label):
    dataset = bids_of(tmp_path, images, [label])

    assert dataset.cases == ()
    assert rules_of(dataset) == {("sub-01", "label space")}
    (finding,) = dataset.findings
    assert finding.severity == "error"
    assert label in finding.message
    assert "Transform it" in finding.fix


@pytest.mark.parametrize(
    ("images", "label"),
    [
        (["T1w", "FLAIR"], "space-FLAIR_dseg"),
        (["T1w"], "space-orig_dseg"),
        (["T1w"], "space-individual_label-lesion_mask"),
        (["T1w"], "space-native_dseg"),
        (["T1w"], "space-scanner_dseg"),
        (["T1w", "space-T1w_FLAIR"], "dseg"),
        (["space-T1w_FLAIR"], "space-T1w_dseg"),
        (["space-MNI152Lin_T1w"], "space-MNI152lin_dseg"),
        (["space-MNI152Lin_T1w"], "dseg"),
    ],
)
def test_a_label_map_in_the_space_of_its_image_is_taken(tmp_path, images, label):
    dataset = bids_of(tmp_path, images, [label])

    assert len(dataset.cases) == 1
    assert dataset.findings == ()


@pytest.mark.parametrize(
    ("image", "taken"),
    [("T1w", "dseg"), ("space-MNI305_T1w", "space-MNI305_dseg")],
)
def test_of_a_label_map_in_several_spaces_that_of_the_image_is_taken(tmp_path, image, taken):
    labels = ["space-MNI305_dseg", "dseg", "space-MNI152Lin_res-2_dseg"]

    dataset = bids_of(tmp_path, [image], labels)

    assert pairs_of(dataset) == {f"sub-01_{image}.nii": f"sub-01_{taken}.nii"}
    assert dataset.findings == ()


def test_a_class_that_is_there_in_another_space_only_is_not_left_out_in_silence(tmp_path):
    dataset = bids_of(tmp_path, ["T1w"], ["label-lesion_mask", "space-MNI305_label-edema_mask"])

    assert rules_of(dataset) == {("sub-01", "label space")}
    assert "edema" in dataset.findings[0].message


def test_images_of_one_kind_are_told_apart_by_contrast_agent(tmp_path):
    anat = "sub-01/anat/sub-01"
    folder = touch(
        tmp_path,
        *(f"{anat}_T1w.nii", f"{anat}_ce-gad_T1w.nii", "derivatives/sub-01/anat/sub-01_dseg.nii"),
    )

    dataset = read_dataset(folder, None)

    assert dataset.channels == ("T1w", "ce-gad_T1w")


def test_what_does_not_fit_bids_is_found_in_one_go(tmp_path):
    def dseg(number):
        return f"derivatives/m/sub-0{number}/anat/sub-0{number}_dseg.nii"

    folder = touch(
        tmp_path,
        *("sub-01/anat/sub-01_T1w.nii", dseg(1), "sub-02/anat/sub-02_T1w.nii"),
        *(dseg(3), "sub-04/anat/sub-04_T1w.nii", dseg(4), dseg(4).replace("/m/", "/n/")),
        *("sub-05/anat/sub-05_run-1_T1w.nii", "sub-05/anat/sub-05_run-2_T1w.nii", dseg(5)),
        *("sub-06/anat/sub-06_T2w.nii", dseg(6), "sub-07/anat/notes.txt"),
    )

    dataset = read_dataset(folder, None)

    assert [case.source for case in dataset.cases] == ["sub-01"]
    assert rules_of(dataset) == {
        ("sub-02", "no label map"),
        ("sub-03", "no image"),
        ("sub-04", "several label maps"),
        ("sub-05", "channels"),
        ("sub-06", "channels"),
        ("sub-07", "empty folder"),
    }


def test_folders_for_validation_are_passed_over_and_said(tmp_path):
    write_flat(tmp_path, names=("imagesTr", "labelsTr"))
    write_flat(tmp_path, names=("imagesVa", "labelsVa"))

    dataset = read_dataset(tmp_path, None)

    assert len(dataset.cases) == 3
    assert [(one.severity, one.rule) for one in dataset.findings] == [("warning", "passed over")]
    assert "imagesVa, labelsVa" in dataset.findings[0].message
