"""A model from DICOM series and contours, and a series segmented with it."""

from __future__ import annotations

import shutil
import subprocess
import sys

import dicom_makers
import numpy as np
import pytest
from desk import Desk

pytestmark = pytest.mark.slow

SHAPE = (24, 32, 32)
SECRETS = (b"Zwetschgenbaum", b"patient 1", b"1.2.1.7")


def add_patients(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five patients with a bright liver and a brighter tumour on it."""
    monkeypatch.setattr(dicom_makers, "PATIENT_SHAPE", SHAPE)
    for number in range(1, 6):
        z, y, x = np.random.default_rng(number).integers(3, 8, 3).tolist()
        liver = (slice(z, z + 10), slice(y, y + 12), slice(x, x + 12))
        tumour = (slice(z + 10, z + 14), *liver[1:])
        image = np.random.default_rng(number).normal(0, 20, SHAPE)
        image[liver] += 300
        image[tumour] += 600
        voxels = image.astype(np.int16)
        monkeypatch.setattr(dicom_makers, "make_image", lambda _, voxels=voxels: voxels)
        boxes = {"Liver": liver, "Tumour": tumour}
        folder = f"Clinic/patient {number}"
        dicom_makers.add_patient(desk.root / "Input_nnUNet_train", number, boxes, folder)
        study = desk.root / "Input_nnUNet_train" / folder / "study"
        series = (study / "CT").rename(study / f"Zwetschgenbaum {number}")
    # Of the last patient is said that its slices are there twice.
    shutil.copytree(series, series / "again")


def test_a_model_is_trained_on_series_with_contours_and_names_nobody(desk, monkeypatch):
    add_patients(desk, monkeypatch)
    words = ["exe_train.py", "-d", "Liver", "-t", "0.2", "-f", "0", "-l", "Tum.*=3"]

    done = subprocess.run(
        [sys.executable, *words, "--device", "cpu"],
        cwd=desk.root,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Mean Dice" in done.stdout
    folder = desk.root / "Output_nnUNet_train/Liver"
    assert "its series: 24 slices that were there twice" in (folder / "summary.txt").read_text()
    assert SECRETS[0] in (folder / "case_key.csv").read_bytes()
    others = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".csv"]
    others += [path for path in folder.glob("*.csv") if path.name != "case_key.csv"]
    assert {"manifest.json", "report.html", "metrics.csv"} <= {path.name for path in others}
    assert not any(secret in path.read_bytes() for secret in SECRETS for path in others)
