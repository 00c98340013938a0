"""Logs name nobody, whatever failed and however a library words it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from makers import write_patients
from searcher import search_bytes, search_file
from tiny_model import write_raw_dataset
from world import HEADERS, NAMES, PATIENTS, TEXT, tilt_header

from nnunet_medseg.cli.door import through_the_door
from nnunet_medseg.cli.main import exe_train
from nnunet_medseg.nnunet.environment import chatter
from nnunet_medseg.nnunet.planning import extract_fingerprint
from nnunet_medseg.phantom import PhantomSpec

WORDS = (*NAMES, *HEADERS)
PATH = f"/data/{PATIENTS[0]}/{PATIENTS[1]} {PATIENTS[3]}"


def fail_while_reading(folder: Path, *_: object) -> None:
    try:
        int(f"{TEXT} in {folder}")
    except ValueError as cause:
        problem = f"{PATIENTS[0]} has no image"
        raise RuntimeError(problem) from cause


def no_such_key(*_: object) -> None:
    raise KeyError(PATIENTS[2])


def no_such_file(folder: Path, *_: object) -> None:
    raise IsADirectoryError(21, "Is a directory", str(folder / PATIENTS[1]))


def of_several_lines(folder: Path, *_: object) -> None:
    problem = f"cannot\n{PATIENTS[0]}\n{folder}\t{TEXT}"
    raise AssertionError(problem)


@pytest.mark.parametrize("fail", [fail_while_reading, no_such_key, no_such_file, of_several_lines])
def test_a_failure_of_ours_leaves_a_log_that_names_nobody(tmp_path, capsys, monkeypatch, fail):
    folder = write_patients(tmp_path / PATIENTS[0] / "Input_nnUNet_train" / PATIENTS[3])
    logs = tmp_path / "temporary"
    logs.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(logs))
    monkeypatch.setattr(
        "nnunet_medseg.workflows.train.find_dataset", lambda folder, _: fail(folder)
    )
    monkeypatch.chdir(folder)

    status = exe_train(tmp_path / PATIENTS[0], [])

    (log,) = logs.glob("medseg-error-*.log")
    assert status == 70
    assert search_file(log, (*WORDS, str(tmp_path))) == []
    # Enough to find the place in the program.
    assert (
        f"test_logs.py:{fail.__code__.co_firstlineno + _last_line(fail)} {fail.__name__}"
        in log.read_text()
    )
    assert "nnunetv2 2." in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    shown = capsys.readouterr()
    assert "our fault" in shown.err
    assert search_bytes((shown.out + shown.err).encode(), WORDS, "console") == []


def _last_line(function) -> int:
    """Return how many lines below its head a function raises: in its last line."""
    lines = [line for _, _, line in function.__code__.co_lines() if line is not None]
    return max(lines) - function.__code__.co_firstlineno


def test_what_caused_a_failure_is_in_its_log_by_kind_and_place(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    through_the_door(lambda: fail_while_reading(tmp_path))

    (log,) = tmp_path.glob("medseg-error-*.log")
    lines = log.read_text().splitlines()
    assert {"RuntimeError", "ValueError"} <= set(lines)


@pytest.mark.parametrize(
    "line",
    [
        f"reading {PATH}/img.nii.gz",
        f"reading '{PATH.replace(chr(39), chr(92) + chr(39))}/img.nii.gz' now",
        f'FileNotFoundError: no file: "{PATH}/img.nii.gz"',
        f"folder {PATH}",
        f"{PATH}: permission denied",
        repr(Path(PATH)),
        repr(PATH.encode()),
        f"{Path(PATH).as_uri()}",
        f"../{PATIENTS[0]}/img.nii.gz",
        f"({PATH}, {PATH})",
        rf"reading C:\Users\{PATIENTS[0]}\img.nii",
        f"NiftiImageIO (0x55): {PATH}/img.nii.gz has unexpected scales in sform",
    ],
)
def test_a_path_in_what_nnunet_prints_is_not_in_the_log(tmp_path, line):
    log = tmp_path / "log.txt"

    with chatter(log):
        sys.stdout.write(f"epoch 1\n{line}\nepoch 2\n")

    assert log.read_text().startswith("epoch 1\n")
    assert log.read_text().endswith("\nepoch 2\n")
    assert search_file(log, WORDS) == []


def test_workers_do_not_log_where_an_image_with_an_odd_header_is(tmp_path):
    folder = tmp_path / PATIENTS[0]
    spec = PhantomSpec((16, 16, 16), (3.0, 1.5, 1.5))
    cases = write_raw_dataset(folder, [spec] * 2)
    for case in cases:
        for file in (*case.images, case.label):
            tilt_header(Path(file))
    log = tmp_path / "log.txt"
    log.touch()

    extract_fingerprint(cases, tmp_path / "measured", workers=2, log=log)

    assert search_file(log, (*WORDS, str(tmp_path))) == []


def test_the_odd_header_is_one_that_the_reader_complains_about(tmp_path):
    path = tmp_path / f"{PATIENTS[0]}.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4), np.int16), np.eye(4)), path)
    tilt_header(path)
    code = "import SimpleITK as sitk, sys; sitk.ReadImage(sys.argv[1])"

    read = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, env=os.environ, check=True
    )

    assert search_bytes(read.stderr, ["Güllbaum"], "error stream")
