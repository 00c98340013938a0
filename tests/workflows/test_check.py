"""`medseg check`: the layout, the pairs and the plan, for people and for programs."""

from __future__ import annotations

import json

import pytest
from layout_makers import WRITERS, touch, write_class_masks, write_decathlon
from makers import hashes_of, write_patient, write_patients

from nnunet_medseg.cli.main import main
from nnunet_medseg.dataset.case import Finding
from nnunet_medseg.workflows.check import show_findings


def check(capsys, *arguments):
    status = main(["check", *map(str, arguments)])
    return status, *capsys.readouterr()


@pytest.mark.parametrize("name", WRITERS)
def test_the_layout_its_reason_and_the_pairs_are_shown(tmp_path, capsys, name):
    WRITERS[name](tmp_path / "set", cases=12)

    status, out, _ = check(capsys, tmp_path)

    first = json.loads(check(capsys, tmp_path, "--json")[1])["cases"][0]
    assert status == 0
    assert "layout: " in out
    assert (
        first["label"] or "no label"
    ) in out or f"segmentations ({len(first['masks'])} masks)" in out
    assert (first["images"][0] if not first["series"] else "study/CT (8 files)") in out
    assert "… and 2 more" in out
    assert "ready to be trained on" in out


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("flat", ".nii.gz"),
        ("dicom", "DICOM files"),
        ("dicom_with_label_maps", ".nii.gz, DICOM files"),
    ],
)
def test_the_formats_are_named(tmp_path, capsys, name, kinds):
    WRITERS[name](tmp_path / "set", cases=2)

    _, out, _ = check(capsys, tmp_path)

    assert f"2 cases ({kinds})" in out


def test_programs_are_told_everything_in_one_object(tmp_path, capsys):
    folder = write_decathlon(tmp_path / "set", modality=("CT",))
    before = hashes_of(tmp_path)

    status, out, err = check(capsys, tmp_path, "--json", "-f", "1")

    content = json.loads(out)
    assert (status, err) == (0, "")
    assert content["ready"] is True
    assert content["folder"] == str(folder)
    assert content["layout"] == "Decathlon"
    assert "dataset.json" in content["reason"]
    assert content["cases"][0] == {
        "name": "case_0001",
        "source": "t1",
        "owner": "t1",
        "held_out": False,
        "images": ["imagesTr/t1.nii.gz"],
        "frames": [],
        "label": "labelsTr/t1.nii.gz",
        "masks": {},
        "series": [],
        "structures": [],
    }
    assert content["labels"] == [{"name": "Anterior", "value": 1}]
    assert content["channels"] == ["CT"]
    assert len(content["folds"]["1"]["evaluate"]) == 1
    assert all(finding["severity"] == "warning" for finding in content["findings"])
    assert hashes_of(tmp_path) == before


def test_programs_are_told_what_is_wrong_in_the_same_way(tmp_path, capsys):
    folder = write_patients(tmp_path / "set", cases=2)
    (folder / "p2" / "img.nii.gz").write_bytes(b"no image")
    (write_patient(folder / "p3") / "train.nii.gz").unlink()

    status, out, err = check(capsys, folder, "--json")

    content = json.loads(out)
    assert (status, err) == (3, "")
    assert content["ready"] is False
    assert [case["source"] for case in content["cases"]] == ["p1", "p2"]
    assert {finding["case"] for finding in content["findings"]} >= {"p2", "p3"}


@pytest.mark.parametrize(
    ("paths", "words", "expected"),
    [
        (("p1/img.nii.gz", "notes"), ("--layout", "bids"), 3),
        (("notes.txt",), (), 3),
        (("a/img.nii.gz", "b/c/ct.nii.gz"), ("-e", "mha"), 3),
        (("a/img.nii.gz",), ("-f", "9"), 2),
        (("a/img.nii.gz",), ("--layout", "folders"), 2),
    ],
)
def test_programs_are_told_of_every_error(tmp_path, capsys, paths, words, expected):
    touch(tmp_path, *paths)

    status, out, err = check(capsys, tmp_path, "--json", *words)

    content = json.loads(out)
    assert (status, err) == (expected, "")
    assert content["ready"] is False
    (finding,) = content["findings"]
    assert finding["severity"] == "error"
    assert finding["message"]
    assert finding["fix"]


def test_a_folder_that_is_not_there_is_told_to_programs_too(tmp_path, capsys):
    status, out, _ = check(capsys, tmp_path / "nowhere", "--json")

    assert status == 4
    assert "does not exist" in json.loads(out)["findings"][0]["message"]


def test_names_that_are_no_text_are_told_to_programs(tmp_path, capsys):
    touch(tmp_path, "\udcff\x1b[2J[bold]/img.nii.gz", "p/img.nii.gz")

    status, out, _ = check(capsys, tmp_path, "--json")

    names = {finding["case"] for finding in json.loads(out)["findings"]}
    assert status == 3
    assert names == {"\udcff\x1b[2J[bold]", "p"}
    assert "\x1b" not in out


def test_two_layouts_that_fit_are_asked_about_and_answered(tmp_path, capsys):
    folder = write_class_masks(tmp_path / "set")
    for number in (1, 2, 3):
        mask = folder / f"s{number}" / "segmentations" / "liver.nii.gz"
        (folder / f"s{number}" / "label.nii.gz").write_bytes(mask.read_bytes())

    status, _, err = check(capsys, folder)
    answered, out, _ = check(capsys, folder, "--layout", "patient_folders")

    assert status == 3
    assert "--layout class_masks or --layout patient_folders" in " ".join(err.split())
    assert answered == 0
    assert "label.nii.gz" in out


def test_findings_of_one_kind_are_told_three_times_and_then_named(capsys):
    findings = [
        Finding("warning", f"p{number}", "specks", f"{number} specks", "Look.")
        for number in range(9)
    ]

    show_findings((Finding("error", "a", "2D", "flat", "Save it whole."), *findings))

    text = capsys.readouterr().out
    assert text.count("Look.") == 3
    assert "6 more" in text
    assert all(f"p{number}" in text for number in range(9))
    assert text.index("2D") < text.index("specks")
