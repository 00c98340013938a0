"""The check of a whole dataset: all problems in one go, and what later stages read of it."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from layout_makers import write_class_masks, write_flat
from makers import make_image, make_label, write_patient, write_patients, write_raw

from nnunet_medseg.dataset.case import tell_without_names
from nnunet_medseg.dataset.channels import parse_image_types
from nnunet_medseg.dataset.checked import Wishes, check_dataset, load_checked, save_checked
from nnunet_medseg.dataset.intake import read_dataset
from nnunet_medseg.dataset.labels import parse_labels
from nnunet_medseg.errors import DatasetError, UsageError
from nnunet_medseg.volume import read_volume, write_volume
from nnunet_medseg.volume.grid import to_sitk


def check(folder, *, label="NONE", image_type="NONE", fold="all"):
    wishes = Wishes(parse_labels(label), parse_image_types(image_type), fold, 0)
    return check_dataset(read_dataset(folder, None), wishes)


def rules_of(outcome):
    return [(finding.severity, finding.case, finding.rule) for finding in outcome.findings]


def test_a_good_dataset_is_settled(tmp_path):
    write_patients(tmp_path, cases=3, values=(1, 2))
    write_patient(tmp_path / "p4", seed=9, label="validate")

    outcome = check(tmp_path, label="A=1,B=2", image_type="MRI")

    assert outcome.findings == ()
    assert [label.name for label in outcome.checked.labels] == ["A", "B"]
    assert outcome.checked.channels == ("MRI",)
    assert outcome.checked.folds["all"].evaluate == ("case_0004",)
    assert outcome.checked.open_to_training == ("case_0001", "case_0002", "case_0003")
    assert outcome.checked.megavoxels == pytest.approx(4 * 16**3 / 1e6)


@pytest.mark.parametrize("cases", [1, 2, 4])
def test_fewer_than_five_patients_are_enough(tmp_path, cases):
    write_patients(tmp_path, cases=cases)

    assert len(check(tmp_path).checked.folds["all"].train) == cases


def test_the_record_comes_back_as_it_was_saved_and_is_private(tmp_path):
    write_patients(tmp_path / "set", cases=2, channels=("T1", "T2"))
    checked = check(tmp_path / "set").checked

    save_checked(tmp_path / "check.json", checked)

    assert load_checked(tmp_path / "check.json") == checked
    assert (tmp_path / "check.json").stat().st_mode & 0o077 == 0


def test_all_problems_are_found_in_one_go_worst_first(tmp_path):
    write_patients(tmp_path, cases=4)
    (tmp_path / "p1" / "train.nii.gz").unlink()
    (tmp_path / "p2" / "img.nii.gz").write_bytes(b"junk")
    write_volume(tmp_path / "p3" / "train.nii.gz", make_label(()))
    write_patient(tmp_path / "p5", seed=4)

    outcome = check(tmp_path, label="9", image_type="T1,T2")

    assert outcome.checked is None
    assert outcome.error is None
    assert rules_of(outcome) == [
        ("error", "", "options"),
        ("error", "p1", "no label map"),
        ("error", "p2", "unreadable"),
        ("error", "p5", "same image twice"),
        ("warning", "p3", "empty label map"),
    ]


def test_nothing_misleading_is_said_about_labels_when_no_case_can_be_read(tmp_path):
    write_patient(tmp_path / "p1")
    (tmp_path / "p1" / "train.nii.gz").unlink()
    other = tmp_path / "other"
    write_patient(other / "p1")
    (other / "p1" / "img.nii.gz").write_bytes(b"junk")

    assert rules_of(check(tmp_path, label="A=1")) == [
        ("error", "other", "empty folder"),
        ("error", "p1", "no label map"),
    ]
    assert rules_of(check(other, label="A=1")) == [("error", "p1", "unreadable")]


def test_the_only_problem_being_an_option_is_told_as_such(tmp_path):
    write_patients(tmp_path, cases=2)

    assert isinstance(check(tmp_path, label="A=7").error, UsageError)
    assert isinstance(check(tmp_path, image_type="A,B").error, UsageError)
    assert isinstance(check(tmp_path, fold="3").error, DatasetError)


def test_a_dataset_without_any_case_is_refused(tmp_path):
    write_raw(tmp_path / "set", cases=0)

    with pytest.raises(DatasetError, match="There is no case"):
        check(tmp_path / "set")


def test_no_foreground_anywhere_is_an_error(tmp_path):
    write_patients(tmp_path, cases=2, values=())

    assert ("error", "", "no foreground") in rules_of(check(tmp_path))


def test_a_label_that_only_a_held_out_patient_has_is_refused(tmp_path):
    write_patients(tmp_path, cases=2)
    write_patient(tmp_path / "p3", seed=9, label="validate", values=(1, 2))

    with pytest.raises(DatasetError, match="No patient that trains has the label label_2"):
        raise check(tmp_path).error


def test_values_that_are_not_asked_for_are_a_warning_said_once(tmp_path):
    write_patients(tmp_path, cases=3, values=(1, 2, 3))

    outcome = check(tmp_path, label="TUMOR=2")

    assert rules_of(outcome) == [("warning", "", "other labels"), ("repair", "", "label values")]
    assert "training: 2 to 1" in outcome.findings[1].message
    assert "1, 3, which" in outcome.findings[0].message
    assert outcome.checked is not None


def test_a_patient_without_any_label_asked_for_is_a_warning(tmp_path):
    write_patients(tmp_path, cases=2, values=(2,))
    write_patient(tmp_path / "p3", seed=9, values=(1,))

    assert rules_of(check(tmp_path, label="TUMOR=2")) == [
        ("warning", "", "other labels"),
        ("warning", "p3", "other labels"),
        ("repair", "", "label values"),
    ]


def test_channels_are_brought_into_the_order_of_the_wish_with_their_facts(tmp_path):
    write_patients(tmp_path, cases=2, channels=("T1", "FLAIR"))
    write_volume(tmp_path / "p1" / "img_T1.nii.gz", make_image(5, origin_mm=(0, 0.05, 0)))
    write_volume(tmp_path / "p2" / "img_T1.nii.gz", make_image(6, dtype=np.float32))

    listed = check(tmp_path).checked
    wished = check(tmp_path, image_type="T1,FLAIR").checked

    assert listed.channels == ("FLAIR", "T1")
    assert wished.channels == ("T1", "FLAIR")
    for before, after in zip(listed.cases, wished.cases, strict=True):
        assert after.images == before.images[::-1]
    for before, after in zip(listed.facts, wished.facts, strict=True):
        assert after.value_ranges == before.value_ranges[::-1]
    assert [fact.changed_parts for fact in listed.facts] == [(1,), ()]
    assert [fact.changed_parts for fact in wished.facts] == [(0, 1, 2), ()]


def test_names_of_the_dataset_reach_labels_and_channels(tmp_path):
    description = {"channel_names": {"0": "ct"}, "labels": {"background": 0, "spleen": 1}}
    write_raw(tmp_path / "set", description=description)

    checked = check(tmp_path / "set").checked

    assert checked.labels[0].name == "spleen"
    assert checked.channels == ("CT",)


def test_the_real_dataset_passes(real_data):
    outcome = check(real_data / "hippocampus", label="Anterior=1,Posterior=2", image_type="MRI")

    assert outcome.findings == ()
    assert len(outcome.checked.cases) == 60
    assert len(outcome.checked.folds["all"].evaluate) == 12


def write_frames(folder, numbers):
    for path in folder.glob("*/img.nii.gz"):
        frames = [to_sitk(make_image(10 * number + len(path.parent.name))) for number in numbers]
        sitk.WriteImage(sitk.JoinSeries(frames), str(path))


def test_frames_are_channels_when_as_many_image_types_are_named(tmp_path):
    write_patients(tmp_path, cases=1)
    write_frames(tmp_path, (1, 2))

    checked = check(tmp_path, image_type="T1,T2").checked

    assert checked.channels == ("T1", "T2")
    assert [(case.images[0].name, case.frames) for case in checked.cases] == [
        ("img.nii.gz", (0, 1))
    ]
    save_checked(tmp_path / "check.json", checked)
    assert load_checked(tmp_path / "check.json") == checked


def test_frames_that_nobody_names_are_a_finding_with_the_fix(tmp_path):
    write_patients(tmp_path, cases=1)
    write_frames(tmp_path, (1, 2, 3))

    outcome = check(tmp_path)

    assert rules_of(outcome) == [("error", "p1", "4D")]
    assert "name all 3 with -i" in outcome.findings[0].fix


@pytest.mark.parametrize("image_type", ["NONE", "MRI", "T1,T2"])
def test_patients_with_other_numbers_of_frames_are_named_and_break_nothing(tmp_path, image_type):
    write_patients(tmp_path, cases=1)
    write_frames(tmp_path, (1, 2))
    for seed in (2, 3):
        write_patient(tmp_path / f"p{seed}", seed=seed)

    outcome = check(tmp_path, image_type=image_type)

    assert outcome.checked is None
    assert ("error", "p1", "channels") in rules_of(outcome)


def test_a_4d_file_beside_other_images_is_refused(tmp_path):
    write_patients(tmp_path, cases=1, channels=("b",))
    write_volume(tmp_path / "p1" / "img_a.nii.gz", make_image(5))
    frames = [to_sitk(make_image(seed)) for seed in (6, 7)]
    sitk.WriteImage(sitk.JoinSeries(frames), str(tmp_path / "p1" / "img_b.nii.gz"))

    outcome = check(tmp_path, image_type="A,B,C")

    assert rules_of(outcome) == [("error", "p1", "4D")]
    assert "2 images have 3 frames together" in outcome.findings[0].message


def test_what_is_delivered_of_the_findings_names_no_patient_and_no_file(tmp_path):
    write_flat(tmp_path, cases=4)
    for number, name in enumerate(("anna", "bert", "carl", "dora"), start=1):
        for folder in ("images", "labels"):
            (tmp_path / folder / f"f{number}.nii.gz").rename(tmp_path / folder / f"{name}.nii.gz")
    write_volume(tmp_path / "labels" / "anna.nii.gz", make_label(dtype=np.float32))
    twin = read_volume(tmp_path / "images" / "bert.nii.gz")
    twin.array[3, 3, 3] += 1
    write_volume(tmp_path / "images" / "dora.nii.gz", twin)

    outcome = check(tmp_path)
    told = [tell_without_names(finding, outcome.checked.cases) for finding in outcome.findings]

    assert told == [
        "case_0004: its image is almost that of case_0002",
        "case_0001: its file: whole numbers stored as float32 became uint8",
    ]


def test_the_name_of_a_patient_who_is_alone_gets_into_no_channel(tmp_path):
    patient = write_patient(tmp_path / "p1")
    (patient / "img.nii.gz").rename(patient / "Schmidt_T1.nii.gz")
    write_volume(patient / "FLAIR Schmidt.nii.gz", make_image(5))
    write_patient(tmp_path.parent / "other" / "p1", channels=("T1", "FLAIR"))

    assert check(tmp_path).checked.channels == ("MRI", "MRI")
    assert check(tmp_path, image_type="MRI").checked.channels == ("MRI", "MRI")
    assert check(tmp_path, image_type="A,B").checked.channels == ("A", "B")
    assert check(tmp_path.parent / "other").checked.channels == ("FLAIR", "T1")


def test_values_that_no_scanner_has_are_refused(tmp_path):
    write_patients(tmp_path, cases=2)
    image = make_image(dtype=np.float64)
    image.array[3, 3, 3] = 1e300
    write_volume(tmp_path / "p1" / "img.nii.gz", image)

    assert ("error", "p1", "NaN or Inf") in rules_of(check(tmp_path))


def test_names_that_are_crossed_against_the_dataset_are_a_warning(tmp_path):
    names = {"labels": {"background": 0, "liver": 1, "tumor": 2}}
    write_raw(tmp_path, values=(1, 2), description=names)

    crossed = check(tmp_path, label="TUMOR=1,LIVER=2")

    assert rules_of(crossed) == [("warning", "", "label names")] * 2
    assert "the value 1 TUMOR, the name of the value 2" in crossed.findings[0].message
    assert check(tmp_path, label="TUMOR=2,LIVER=1").findings == ()
    assert rules_of(check(tmp_path, label="CYST=2")) == [
        ("warning", "", "other labels"),
        ("repair", "", "label values"),
    ]


def test_image_types_that_match_the_files_in_part_are_refused(tmp_path):
    write_patients(tmp_path, cases=2, channels=("flair", "t1", "t1ce", "t2"))

    outcome = check(tmp_path, image_type="T1,T1Gd,T2,FLAIR")

    assert outcome.checked is None
    assert isinstance(outcome.error, UsageError)
    assert "flair, t1, t1ce, t2" in outcome.error.problem
    assert check(tmp_path, image_type="T1,T1ce,T2,FLAIR").error is None


def test_a_name_that_is_not_that_of_the_only_label_is_refused(tmp_path):
    write_class_masks(tmp_path, classes=("liver",))

    outcome = check(tmp_path, label="TUMOR")

    assert outcome.checked is None
    assert "1 = liver" in outcome.error.problem
    assert [label.name for label in check(tmp_path, label="TUMOR=1").checked.labels] == ["TUMOR"]
    assert [label.name for label in check(tmp_path, label="LIVER").checked.labels] == ["LIVER"]
