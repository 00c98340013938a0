"""The layout of patient folders: names of files, and what does not fit."""

from __future__ import annotations

import pytest
from makers import make_label, write_patient, write_patients

from nnunet_medseg.dataset.intake import read_dataset
from nnunet_medseg.volume import write_volume


def rules_of(dataset):
    return {(finding.case, finding.rule) for finding in dataset.findings}


def test_patients_are_numbered_in_the_order_of_their_names(tmp_path):
    for seed, name in enumerate(["Zoë Müller", "0007", "anna b"]):
        write_patient(tmp_path / name, seed=seed)

    dataset = read_dataset(tmp_path, None)

    assert dataset.layout == "patient folders"
    assert [(case.name, case.source) for case in dataset.cases] == [
        ("case_0001", "0007"),
        ("case_0002", "Zoë Müller"),
        ("case_0003", "anna b"),
    ]


@pytest.mark.parametrize(
    "name",
    ["train", "label", "Labels", "seg", "SEGMENTATION", "mask", "gt", "ground_truth", "seg-v2"],
)
def test_a_label_map_is_known_by_its_name(tmp_path, name):
    write_patient(tmp_path / "p1", label=name)

    (case,) = read_dataset(tmp_path, None).cases

    assert case.label.name == f"{name}.nii.gz"
    assert [path.name for path in case.images] == ["img.nii.gz"]
    assert not case.is_held_out


@pytest.mark.parametrize("name", ["validate", "VALIDATE", "validation", "validate_v2"])
def test_a_patient_whose_label_is_called_validate_is_held_out(tmp_path, name):
    write_patient(tmp_path / "p1", label=name)

    (case,) = read_dataset(tmp_path, None).cases

    assert case.is_held_out


def test_an_image_by_any_name_is_taken_when_it_is_the_only_one(tmp_path):
    patient = write_patient(tmp_path / "p1")
    (patient / "img.nii.gz").rename(patient / "CT Abdomen.nii.gz")

    dataset = read_dataset(tmp_path, None)

    assert dataset.cases[0].images[0].name == "CT Abdomen.nii.gz"
    assert dataset.channels == ("",)


def test_files_of_other_kinds_are_left_alone(tmp_path):
    patient = write_patient(tmp_path / "p1")
    for name in ("report.pdf", "img.png", "bval"):
        (patient / name).touch()

    dataset = read_dataset(tmp_path, None)

    assert dataset.findings == ()
    assert len(dataset.cases[0].images) == 1


def test_what_all_images_of_a_patient_begin_with_is_no_channel(tmp_path):
    for name in ("Müller_19530721", "Weiß_19600101"):
        patient = write_patient(tmp_path / name, channels=("T1", "T1_contrast"))
        for image in patient.glob("img_*"):
            image.rename(patient / image.name.replace("img", name))

    dataset = read_dataset(tmp_path, None)

    assert dataset.findings == ()
    assert dataset.channels == ("T1", "T1_contrast")


def test_several_images_are_channels_by_the_part_after_the_underscore(tmp_path):
    write_patients(tmp_path, cases=2, channels=("T1", "FLAIR"))

    dataset = read_dataset(tmp_path, None)

    assert dataset.channels == ("FLAIR", "T1")
    assert [path.name for path in dataset.cases[0].images] == ["img_FLAIR.nii.gz", "img_T1.nii.gz"]


def test_all_that_does_not_fit_is_found_in_one_go(tmp_path):
    write_patients(tmp_path, cases=3, channels=("T1", "T2"))
    write_patient(tmp_path / "no image", channels=())
    (write_patient(tmp_path / "no label") / "train.nii.gz").unlink()
    write_volume(write_patient(tmp_path / "two labels") / "validate.nii.gz", make_label())
    write_patient(tmp_path / "other channels", channels=("T1",))
    (tmp_path / "empty").mkdir()

    dataset = read_dataset(tmp_path, None)

    assert len(dataset.cases) == 3
    assert rules_of(dataset) == {
        ("no image", "no image"),
        ("no label", "no label map"),
        ("two labels", "several label maps"),
        ("other channels", "channels"),
        ("empty", "empty folder"),
    }
    assert all(finding.fix and finding.severity == "error" for finding in dataset.findings)
