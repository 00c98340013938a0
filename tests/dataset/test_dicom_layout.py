"""DICOM datasets: which series is a case, and which structure is which label."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_makers import (
    INSIDE,
    LIVER,
    OBLIQUE,
    PATIENT_SHAPE,
    TUMOUR,
    add_patient,
    make_contours,
    make_image,
    make_series,
    make_slice,
    write_all,
)

from nnunet_medseg.dataset.checked import Wishes, check_dataset, load_checked, save_checked
from nnunet_medseg.dataset.contents import read_contents
from nnunet_medseg.dataset.intake import check_extension, find_dataset, read_dataset
from nnunet_medseg.dataset.labels import parse_labels
from nnunet_medseg.dataset.structures import merge_structures, name_key
from nnunet_medseg.dataset.unlabelled import check_unlabelled, group_images
from nnunet_medseg.errors import DatasetError, UsageError
from nnunet_medseg.volume import grid_shift, read_volume
from nnunet_medseg.volume.dicom.series import read_series
from nnunet_medseg.volume.dicom.structures import read_structures


@pytest.fixture
def root(tmp_path):
    """Three patients whose regions have other numbers and spellings."""
    add_patient(tmp_path / "in", 1, {"Liver": LIVER, "Tumour 1": TUMOUR})
    add_patient(tmp_path / "in", 2, {"Tumour 1": TUMOUR, "liver ": LIVER})
    add_patient(tmp_path / "in", 3, {"Liver": LIVER})
    return tmp_path / "in"


def check(root, label: str = "NONE", fold: str = "all"):
    dataset = read_dataset(find_dataset(root), None)
    return check_dataset(dataset, Wishes(parse_labels(label), (), fold, 0))


def test_series_and_structures_are_paired_in_any_depth(root):
    dataset = read_dataset(find_dataset(root), None)

    assert dataset.layout == "DICOM"
    assert dataset.findings == ()
    assert [case.source for case in dataset.cases] == [f"patient {n}/study/CT" for n in (1, 2, 3)]
    assert [len(case.series[0]) for case in dataset.cases] == [8, 8, 8]
    assert dataset.channels == ("CT",)
    assert dataset.label_names == {1: "Liver", 2: "Tumour 1"}


def test_a_label_is_what_has_the_same_name_whatever_its_number(root):
    for case in read_dataset(find_dataset(root), None).cases:
        contents, findings = read_contents(case)

        assert findings == ()
        liver = np.zeros(PATIENT_SHAPE, bool)
        liver[LIVER] = True
        assert np.array_equal(contents.label.array == 1, liver)
        assert (contents.label.array == 2).any() == ("3" not in case.source)
        assert contents.channels[0].array.shape == PATIENT_SHAPE


def test_a_checked_dataset_comes_back_as_it_was_saved(root, tmp_path):
    checked = check(root).checked

    save_checked(tmp_path / "check.json", checked)

    assert load_checked(tmp_path / "check.json") == checked


def test_structures_are_asked_for_by_name_by_pattern_and_with_a_value(root):
    by_name = check(root, "liver=7").checked
    by_pattern = check(root, "Tumour.*=3,Liver=9").checked

    assert [(label.name, label.value) for label in by_name.labels] == [("liver", 7)]
    assert [(label.name, label.value) for label in by_pattern.labels] == [
        ("Tumour 1", 3),
        ("Liver", 9),
    ]
    assert {value for fact in by_pattern.facts for value in fact.label_voxels} == {3, 9}


def test_names_that_one_pattern_matches_become_one_label(tmp_path):
    add_patient(tmp_path / "in", 1, {"GTV_p": LIVER, "GTV_n": TUMOUR, "Heart": INSIDE})
    add_patient(tmp_path / "in", 2, {"GTV 1": LIVER})

    checked = check(tmp_path / "in", "GTV.*=1").checked

    assert [(label.name, label.value) for label in checked.labels] == [("GTV", 1)]
    assert checked.facts[0].label_voxels == {1: 4 * 36 + 2 * 18}


def test_a_name_that_nothing_has_is_answered_with_those_that_are_there(root):
    outcome = check(root, "Spleen")

    assert isinstance(outcome.error, UsageError)
    assert "Liver, Tumour 1" in outcome.error.problem


@pytest.mark.parametrize("label", ["(unclosed", "Li.*,Liver", "L" + "(a" * 50])
def test_patterns_that_cannot_be_meant_are_refused(root, label):
    assert isinstance(check(root, label).error, UsageError)


def test_overlapping_structures_are_a_question_unless_the_user_has_ordered_them(tmp_path):
    add_patient(tmp_path / "in", 1, {"Liver": LIVER, "Lesion": INSIDE})
    add_patient(tmp_path / "in", 2, {"Lesion": INSIDE, "Liver": LIVER})

    asked = check(tmp_path / "in")
    outer_first = check(tmp_path / "in", "Liver=1,Lesion=2").checked
    inner_first = check(tmp_path / "in", "Lesion=2,Liver=1")

    assert {one.rule for one in asked.findings if one.severity == "error"} == {
        "overlapping structures"
    }
    assert [fact.label_voxels for fact in outer_first.facts] == [{1: 144 - 8, 2: 8}] * 2
    # The liver covers every lesion.
    assert "No label map has the value 2" in inner_first.error.problem


def test_series_that_nothing_was_drawn_on_are_passed_over(root):
    scout = make_slice(np.zeros((4, 4)), OBLIQUE[:3, [0, 1, 3]], PatientID="id1",
                       PatientName="Zwetschgenbaum^1", SeriesInstanceUID="1.2.1.8")  # fmt: skip
    write_all(root / "patient 1" / "scout", [scout])

    dataset = read_dataset(find_dataset(root), None)

    assert len(dataset.cases) == 3
    assert dataset.findings == ()


def test_a_patient_that_nothing_was_drawn_on_is_named(root):
    add_patient(root, 4, {})

    dataset = read_dataset(find_dataset(root), None)

    assert [(one.rule, one.case) for one in dataset.findings] == [
        ("no label map", "patient 4/study/CT")
    ]


def test_structures_of_a_series_that_is_not_here_are_named(root):
    for path in (root / "patient 2" / "study" / "CT").iterdir():
        path.unlink()

    dataset = read_dataset(find_dataset(root), None)

    assert [(one.rule, one.case) for one in dataset.findings] == [("no image", "patient 2/study")]
    assert "RS2" in dataset.findings[0].message


def test_two_files_with_the_same_structure_are_a_question(root):
    known = {"PatientID": "id1", "PatientName": "Zwetschgenbaum^1", "StudyInstanceUID": "1.2.1",
             "SeriesInstanceUID": "1.2.1.7"}  # fmt: skip
    again = make_contours(known, {"Liver": LIVER})
    again.save_as(root / "patient 1" / "second", enforce_file_format=True)

    findings = [item for item in check(root).findings if item.severity == "error"]

    assert [one.rule for one in findings] == ["several label maps"]
    assert "RS1" in findings[0].message
    assert "second" in findings[0].message


def test_studies_of_one_anonymous_name_are_taken_apart_and_said(tmp_path):
    for number in (1, 2, 3):
        add_patient(tmp_path / "in", number, {"Liver": LIVER}, PatientID="ANON", PatientName="ANON")

    dataset = read_dataset(find_dataset(tmp_path / "in"), None)

    assert [one.rule for one in dataset.findings] == ["one patient"]
    assert len({case.owner for case in dataset.cases}) == 3


def test_images_of_one_patient_never_train_and_are_evaluated_both(tmp_path):
    for number in range(1, 7):
        same = {"PatientID": f"id{number // 2}", "PatientName": "Zwetschgenbaum"}
        add_patient(tmp_path / "in", number, {"Liver": LIVER}, **same)

    checked = check(tmp_path / "in", fold="0").checked

    owner = {case.name: case.owner for case in checked.cases}
    split = checked.folds["0"]
    assert not {owner[name] for name in split.train} & {owner[name] for name in split.evaluate}


def test_a_patient_written_in_capitals_is_the_same(root):
    add_patient(root, 4, {"Liver": LIVER}, PatientID="id1", PatientName="ZWETSCHGENBAUM^1^^ ")

    cases = {case.source[8]: case.owner for case in read_dataset(find_dataset(root), None).cases}

    assert cases["4"] == cases["1"] != cases["2"]


def test_who_a_patient_is_is_in_no_record(root, tmp_path):
    outcome = check(root)
    save_checked(tmp_path / "check.json", outcome.checked)

    text = (tmp_path / "check.json").read_text() + str(outcome.findings)

    assert "Zwetschgenbaum" not in text
    assert "id1" not in text


def test_damaged_and_foreign_files_are_named_or_passed_over(root):
    image = next((root / "patient 1" / "study" / "CT").iterdir())
    image.write_bytes(image.read_bytes()[:400])
    (root / "readme.txt").write_text("words")
    directory = make_slice(np.zeros((2, 2)), OBLIQUE[:3, [0, 1, 3]])
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.clear()
    directory.save_as(root / "patient 1" / "DICOMDIR")

    outcome = check(root)

    errors = [one for one in outcome.findings if one.severity == "error"]
    assert errors
    assert all("patient 1" in one.case for one in errors)
    assert any(image.name in one.message for one in errors)


def test_names_that_are_no_text_are_told_of_all_patients_in_one_go(root):
    odd = os.fsdecode(b"m\xfcller")
    (root / "patient 1").rename(root / odd)
    (root / "patient 2" / "study" / "RS2").rename(root / "patient 2" / "study" / odd)

    outcome = check(root)

    told = [(one.case, one.rule, one.fix) for one in outcome.findings if one.severity == "error"]
    series = (f"{odd}/study/CT", "file name", "Rename it.")
    assert outcome.checked is None
    # Of the first patient both the series and what was drawn on it.
    assert told == [series, series, ("patient 2/study/CT", *series[1:])]


def test_a_folder_around_the_dicom_files_is_not_the_dataset(tmp_path):
    add_patient(tmp_path / "in" / "Export", 1, {"Liver": LIVER})
    add_patient(tmp_path / "in" / "Export", 2, {"Liver": LIVER})

    assert find_dataset(tmp_path / "in") == tmp_path / "in" / "Export"


def test_dicom_may_be_asked_for_by_its_ending_and_no_other(root):
    folder = find_dataset(root)

    assert len(read_dataset(folder, check_extension("dcm")).cases) == 3
    with pytest.raises(DatasetError, match=r"no \.nii\.gz file"):
        read_dataset(folder, ".nii.gz")


def test_the_real_series_and_its_segments_are_those_of_the_label_maps(tmp_path):
    shared = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom"
    if not shared.is_dir():
        pytest.skip("needs ../shared/data/dicom")
    for path in [*(shared / "ct-3slice").iterdir(), shared / "liver.dcm"]:
        if path.is_file():
            (tmp_path / "in" / "ct").mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "in" / "ct" / path.name)

    (case,) = read_dataset(find_dataset(tmp_path / "in"), None).cases
    contents, findings = read_contents(case)

    truth = read_volume(shared / "liver_seg.nrrd")
    assert findings == ()
    assert grid_shift(contents.label.volume, truth) < 1e-3
    assert np.array_equal(contents.label.array == 1, truth.array != 0)
    assert np.count_nonzero(truth.array) > 100_000


# --- images to segment -------------------------------------------------------------------------


def test_each_series_to_segment_is_a_case_called_after_its_folder(root):
    overview = {"ImageType": ["ORIGINAL", "LOCALIZER"], "SeriesInstanceUID": "1.2.1.8"}
    scout = make_slice(np.zeros((4, 4)), OBLIQUE[:3, [0, 1, 3]], **overview)
    write_all(root / "patient 1" / "scout", [scout])
    write_all(root / "patient 2" / "mr", make_series(make_image(9), OBLIQUE, Modality="MR"))

    cases, findings = group_images(root, ["CT"])

    assert [case.result for case in cases] == [f"patient {n}/study/CT.nii.gz" for n in (1, 2, 3)]
    assert [len(case.files) for case in cases] == [8, 8, 8]
    assert [(one.rule, one.case) for one in findings] == [("other image type", "patient 2/mr")]
    assert check_unlabelled(cases[0]) == ()
    (volume,) = cases[0].read()
    assert np.array_equal(volume.array, make_image(1))


def test_a_label_map_beside_a_series_is_no_image_to_segment(root):
    name = "patient 1/study/seg.nii.gz"
    (root / name).touch()

    cases, findings = group_images(root, ["CT"])

    assert [case.result for case in cases] == [f"patient {n}/study/CT.nii.gz" for n in (1, 2, 3)]
    assert [(one.severity, one.case) for one in findings] == [("warning", name)]


def test_a_model_of_several_images_says_how_series_are_given(root):
    cases, findings = group_images(root, ["T1", "T2"])

    assert cases == ()
    assert [one.severity for one in findings] == ["error"]
    assert "NIfTI" in findings[0].fix


def test_a_series_to_segment_that_is_not_whole_is_named(root):
    folder = root / "patient 3" / "study" / "CT"
    places = {
        float(pydicom.dcmread(path).ImagePositionPatient[2]): path for path in folder.iterdir()
    }
    places[sorted(places)[3]].unlink()

    (case,) = [case for case in group_images(root, ["CT"])[0] if "patient 3" in case.result]

    assert [one.rule for one in check_unlabelled(case)] == ["missing slices"]


@pytest.mark.parametrize("name", [os.fsdecode(b"m\xfcller"), "a line\nbreak"])
def test_a_series_whose_segmentation_could_not_be_called_after_its_folder_is_told(root, name):
    (root / "patient 3" / "study" / "CT").rename(root / name)

    (case,) = [case for case in group_images(root, ["CT"])[0] if name in case.result]

    told = [(one.severity, one.rule, one.fix) for one in check_unlabelled(case)]
    assert told == [("error", "file name", "Rename it.")]


def test_a_hundred_structures_need_no_more_memory_than_there_is(root, monkeypatch):
    dataset = read_dataset(find_dataset(root), None)
    case = dataset.cases[0]
    grid = read_series(case.series[0])
    asked = []

    def watched(path, grid, numbers):
        asked.append(tuple(numbers))
        return read_structures(path, grid, numbers)

    at_once = merge_structures(case, grid)
    monkeypatch.setattr("nnunet_medseg.volume.dicom.structures.read_structures", watched)
    one_by_one = merge_structures(case, grid, memory_bytes=1.0)

    assert [len(numbers) for numbers in asked] == [1, 1]
    assert np.array_equal(one_by_one.array, at_once.array)
    assert set(np.unique(at_once.array)) == {0, 1, 2}


def test_a_slice_that_was_copied_as_an_empty_file_is_told_also_at_the_end(root):
    lost = sorted((root / "patient 2" / "study" / "CT").iterdir())[0]
    lost.with_suffix(".DCM").write_bytes(b"")

    dataset = read_dataset(find_dataset(root), None)

    (finding,) = dataset.findings
    assert finding.case == "patient 2/study/CT"
    assert lost.with_suffix(".DCM").name in finding.message
    assert finding.severity == "error"


def test_two_patients_with_one_series_uid_are_told_apart_from_two_phases(tmp_path):
    for number in (1, 2):
        add_patient(tmp_path / "in", number, {"Liver": LIVER}, SeriesInstanceUID="1.2.9.7")
    add_patient(tmp_path / "in", 3, {"Liver": LIVER})

    dataset = read_dataset(find_dataset(tmp_path / "in"), None)

    assert "several patients" in {finding.rule for finding in dataset.findings}


def test_what_is_said_of_a_series_is_said_once(root):
    series = root / "patient 1" / "study" / "CT"
    shutil.copytree(series, series.parent / "again")

    repairs = [one for one in check(root).findings if "twice" in one.message]

    assert len(repairs) == 1


def bend_contours(root, number, change) -> None:
    path = root / f"patient {number}" / "study" / f"RS{number}"
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def rules(outcome) -> list[tuple[str, str]]:
    return [(item.severity, item.rule) for item in outcome.findings]


def test_contours_of_another_frame_of_reference_are_refused(root):
    def register(dataset):
        dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "9.9"

    bend_contours(root, 1, register)

    outcome = check(root)

    assert outcome.checked is None
    assert ("error", "frame of reference") in rules(outcome)


@pytest.mark.parametrize("step", [2, 3])
def test_contours_with_slices_between_are_refused(root, step):
    def thin_out(dataset):
        drawn = dataset.ROIContourSequence[0]
        drawn.ContourSequence = drawn.ContourSequence[::step]

    add_patient(root, 4, {"Liver": (slice(0, 8), slice(2, 8), slice(2, 8))})
    bend_contours(root, 4, thin_out)

    outcome = check(root, "Liver")

    assert outcome.checked is None
    assert ("error", "slices between") in rules(outcome)


def test_contours_on_most_second_slices_are_refused(root):
    def thin_out(dataset):
        drawn = dataset.ROIContourSequence[0]
        drawn.ContourSequence = [drawn.ContourSequence[place] for place in (0, 2, 4, 5, 7)]

    add_patient(root, 4, {"Liver": (slice(0, 8), slice(2, 8), slice(2, 8))})
    bend_contours(root, 4, thin_out)

    found = [item for item in check(root, "Liver").findings if item.rule == "slices between"]

    assert "5 of 8 slices" in found[0].message


def test_lesions_with_slices_between_them_are_no_gaps(tmp_path):
    places = [(0, 1), (2, 4), (4, 7), (6, 9)]
    boxes = {f"M{z}": (slice(z, z + 1), slice(y, y + 2), slice(2, 4)) for z, y in places}
    add_patient(tmp_path / "in", 1, boxes)
    path = tmp_path / "in" / "patient 1" / "study" / "RS1"
    dataset = pydicom.dcmread(path)
    first, *others = dataset.ROIContourSequence
    first.ContourSequence.extend(item for other in others for item in other.ContourSequence)
    dataset.ROIContourSequence = [first]
    dataset.save_as(path)

    assert check(tmp_path / "in", "M0").checked.facts[0].label_voxels == {1: 16}


def test_the_image_of_a_contour_tells_which_of_two_series_is_meant(root):
    known = {"PatientID": "id1", "PatientName": "Zwetschgenbaum^1", "StudyInstanceUID": "1.2.1"}
    other = make_series(make_image(9), OBLIQUE, **known, SeriesInstanceUID="1.2.1.8")
    write_all(root / "patient 1" / "other", other)
    meant = pydicom.dcmread(next((root / "patient 1" / "study" / "CT").iterdir()))

    def refer(dataset):
        other, image = pydicom.Dataset(), pydicom.Dataset()
        other.SeriesInstanceUID = "1.2.1.8"
        study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
        study.RTReferencedSeriesSequence.append(other)
        image.ReferencedSOPInstanceUID = meant.SOPInstanceUID
        for drawn in dataset.ROIContourSequence:
            drawn.ContourSequence[0].ContourImageSequence = [image]

    bend_contours(root, 1, refer)

    dataset = read_dataset(find_dataset(root), None)

    assert dataset.findings == ()
    assert [case.source for case in dataset.cases] == [f"patient {n}/study/CT" for n in (1, 2, 3)]


def test_an_image_number_that_two_series_have_tells_nothing(root):
    known = {"PatientID": "id1", "PatientName": "Zwetschgenbaum^1", "StudyInstanceUID": "1.2.1"}
    meant = pydicom.dcmread(next((root / "patient 1" / "study" / "CT").iterdir()))
    other = make_series(make_image(9), OBLIQUE, **known, SeriesInstanceUID="1.2.1.8")
    other[0].SOPInstanceUID = meant.SOPInstanceUID
    write_all(root / "patient 1" / "other", other)

    def refer(dataset):
        image = pydicom.Dataset()
        image.ReferencedSOPInstanceUID = meant.SOPInstanceUID
        for drawn in dataset.ROIContourSequence:
            drawn.ContourSequence[0].ContourImageSequence = [image]

    bend_contours(root, 1, refer)

    cases = read_dataset(find_dataset(root), None).cases

    assert [case.source for case in cases] == [f"patient {n}/study/CT" for n in (1, 2, 3)]


def test_structures_that_name_no_series_are_those_of_the_only_scan(root):
    known = {"PatientID": "id1", "PatientName": "Zwetschgenbaum^1", "StudyInstanceUID": "1.2.1"}
    plane = make_image(9)[:1]
    scout = make_series(plane, OBLIQUE, **known, SeriesInstanceUID="1.2.1.8",
                        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])  # fmt: skip
    dose = make_series(plane, OBLIQUE, **known, SeriesInstanceUID="1.2.1.9", Modality="RTDOSE",
                       SOPClassUID="1.2.840.10008.5.1.4.1.1.481.2")  # fmt: skip
    write_all(root / "patient 1" / "more", [*scout, *dose])

    def forget(dataset):
        del dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence

    bend_contours(root, 1, forget)

    dataset = read_dataset(find_dataset(root), None)

    assert dataset.findings == ()
    assert len(dataset.cases) == 3


def test_a_plan_of_radiotherapy_is_passed_over(root):
    plan = make_slice(np.zeros((4, 4)), OBLIQUE[:3, [0, 1, 3]], PatientID="id1",
                      SOPClassUID="1.2.840.10008.5.1.4.1.1.481.5", Modality="RTPLAN")  # fmt: skip
    for name in ("PixelData", "Rows", "Columns"):
        delattr(plan, name)
    write_all(root / "patient 1" / "plan", [plan])

    assert read_dataset(find_dataset(root), None).findings == ()


def test_only_what_is_asked_for_can_be_there_twice(root):
    known = {"PatientID": "id1", "PatientName": "Zwetschgenbaum^1", "StudyInstanceUID": "1.2.1",
             "SeriesInstanceUID": "1.2.1.7"}  # fmt: skip
    again = make_contours(known, {"Tumour 1": TUMOUR})
    again.save_as(root / "patient 1" / "second", enforce_file_format=True)

    assert check(root, "Liver").checked is not None
    assert ("error", "several label maps") in rules(check(root, "Tumour 1"))
    assert ("error", "several label maps") in rules(check(root))


def test_a_patient_whose_structure_has_another_name_is_told_with_the_names_there(root):
    add_patient(root, 4, {"Leber": LIVER})

    found = [item for item in check(root, "Liver").findings if item.rule == "not drawn"]

    assert [(item.severity, item.case) for item in found] == [("warning", "patient 4/study/CT")]
    assert "Leber" in found[0].message


def test_accents_in_names_are_the_same_however_they_are_written():
    assert name_key("Le\u0301sion") == name_key("L\u00e9sion")
