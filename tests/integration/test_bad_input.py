"""What users get wrong: a clear paragraph, an exit code of its own, and nothing deleted."""

from __future__ import annotations

from pathlib import Path

import pytest
from desk import copy_in

from nnunet_medseg.cli.main import exe_predict, exe_train, main

USAGE, DATASET, FOLDER, MODEL = 2, 3, 4, 7


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def run_train(root: Path, *options: str) -> int:
    return exe_train(root, [*options, "--work_dir", str(root / "work")])


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("-t", "0"), USAGE, "-t 0"),
        (("-t", "abc"), USAGE, "minutes as a number"),
        (("-t", "nan"), USAGE, "-t nan"),
        (("-t", "-5"), USAGE, "-t"),
        (("-f", "7"), USAGE, "0 to 4"),
        (("-f", "cross"), USAGE, "all, cv"),
        (("-e", ".docx"), USAGE, ".nii.gz"),
        (("-d", "../../x"), USAGE, "folder"),
        (("-d", "CON"), USAGE, "folder"),
        (("-d", ""), USAGE, "folder"),
        (("-l", "0"), USAGE, "background"),
        (("-l", "A=1,B=1"), USAGE, "twice"),
        (("-i", "CT,,MRI"), USAGE, "-i"),
        (("-i", "CT,MRI"), USAGE, "names 2 image types"),
        (("-l", "9"), USAGE, "9"),
        (("-l", "TUMOR"), USAGE, "TUMOR="),
        (("-e", ".mha"), DATASET, ".nii.gz"),
        (("-f", "3"), DATASET, "0 to 1"),
        (("--batch_size", "0"), USAGE, "from 1 to 512"),
        (("--patch_size", "64"), USAGE, "64x96x96"),
        (("--map_labels", "a=b"), USAGE, "--pretrained MODEL"),
        (("--against_scratch",), USAGE, "--pretrained MODEL"),
        (("--device", "tpu"), USAGE, "auto, cpu"),
        (("--seed", "x"), USAGE, "--seed"),
        (("--no_such_option",), USAGE, "--help"),
    ],
)
def test_a_wrong_option_is_explained(options, code, words, tmp_path, capsys):
    copy_in(tmp_path / "Input_nnUNet_train" / "Data", cases=2)
    before = files_in(tmp_path / "Input_nnUNet_train")

    status = run_train(tmp_path, *options)

    shown = capsys.readouterr()
    assert status == code, shown.err
    assert words in shown.err
    assert "What to do:" in shown.err
    assert "Traceback" not in shown.out + shown.err
    assert files_in(tmp_path / "Input_nnUNet_train") == before


def test_an_empty_input_folder_is_explained(tmp_path, capsys):
    status = run_train(tmp_path)

    assert status == DATASET
    assert "is empty" in capsys.readouterr().err


def test_a_missing_input_folder_is_explained(tmp_path, capsys):
    status = main(
        ["train", str(tmp_path / "no"), str(tmp_path / "out"), "--work_dir", str(tmp_path / "w")]
    )

    assert status == FOLDER
    assert "does not exist" in capsys.readouterr().err


def test_two_datasets_are_a_question(tmp_path, capsys):
    for name in ("One", "Two"):
        copy_in(tmp_path / "Input_nnUNet_train" / name, cases=1)

    status = run_train(tmp_path)

    assert status == DATASET
    assert "One, Two" in capsys.readouterr().err


def test_an_output_folder_that_is_a_file_is_explained(tmp_path, capsys):
    copy_in(tmp_path / "Input_nnUNet_train" / "Data", cases=1)
    (tmp_path / "Output_nnUNet_train").write_text("in the way")

    status = run_train(tmp_path)

    assert status == FOLDER
    assert "What to do:" in capsys.readouterr().err


def test_a_full_disk_is_foreseen(tmp_path, capsys, monkeypatch):
    copy_in(tmp_path / "Input_nnUNet_train" / "Data", cases=2)
    monkeypatch.setattr("nnunet_medseg.workflows.stages.checking.free_disk_bytes", lambda _: 1000)

    status = run_train(tmp_path)

    assert status == FOLDER
    assert "GB free" in capsys.readouterr().err


def test_all_problems_are_listed_at_once(tmp_path, capsys):
    data = tmp_path / "Input_nnUNet_train" / "Data"
    copy_in(data, cases=4)
    patients = sorted(data.iterdir())
    (patients[0] / "img.nii.gz").write_bytes(b"not an image")
    (patients[1] / "train.nii.gz").unlink()
    (patients[2] / "img.nii.gz").write_bytes((patients[3] / "img.nii.gz").read_bytes())

    status = main(["check", str(tmp_path / "Input_nnUNet_train")])

    shown = capsys.readouterr()
    assert status == DATASET
    assert "unreadable" in shown.out
    assert "no label map" in shown.out
    assert "mismatch" in shown.out
    assert "problems, listed above" in shown.err


def test_a_missing_model_is_explained(tmp_path, capsys):
    (tmp_path / "Input_nnUNet_predict").mkdir()

    status = exe_predict(tmp_path, [])

    assert status == MODEL
    assert "There is no model" in capsys.readouterr().err
