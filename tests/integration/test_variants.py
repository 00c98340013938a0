"""Whole runs on other layouts, formats, image types and sizes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from desk import SPEC, copy_in

import nnunet_medseg
from nnunet_medseg.errors import BudgetError
from nnunet_medseg.phantom import PhantomSpec, write_images, write_nnunet_raw, write_patient_folders
from nnunet_medseg.volume import grid_shift, read_volume

pytestmark = pytest.mark.slow


def train_and_segment(root: Path, spec: PhantomSpec, extension: str, **options: object) -> dict:
    """Train on what is in `root / "in"`, segment an unseen case, and return the manifest."""
    result = nnunet_medseg.train(root / "in", root / "out", root / "work", minutes=0.25, **options)
    write_images(root / "images", root / "truth", spec, cases=1, extension=extension, first=30)
    (found,) = nnunet_medseg.predict(
        root / "images", root / "segmented", result.folder, root / "work"
    )
    (truth,) = (root / "truth").glob(f"*{extension}")
    assert found.name == truth.name
    assert grid_shift(read_volume(truth), read_volume(found)) < 1e-3
    assert list((root / "images").iterdir())
    return json.loads((result.folder / "model" / "manifest.json").read_text())


def test_one_patient_in_nrrd_trains_with_nothing_held_out(tmp_path):
    write_patient_folders(tmp_path / "in", SPEC, cases=1, extension=".nrrd")

    manifest = train_and_segment(tmp_path, SPEC, ".nrrd")

    assert manifest["evaluation"]["cases"] == 0
    assert manifest["evaluation"]["mean_dice"] is None
    assert [label["value"] for label in manifest["labels"]] == [1, 2, 3]
    assert len(list((tmp_path / "in").rglob("*.nrrd"))) == 2
    assert "nobody knows" in (tmp_path / "out" / "No_Name" / "summary.txt").read_text()


def test_single_slices_train_a_2d_model(tmp_path):
    spec = PhantomSpec(shape=(1, 48, 48))
    write_patient_folders(tmp_path / "in" / "Slices", spec, cases=4)

    manifest = train_and_segment(tmp_path, spec, ".nii.gz", fold="1", label="liver=1")

    assert manifest["configuration"] == "2d"
    assert manifest["evaluation"]["cases"] == 1


def test_an_nnunet_raw_dataset_with_two_channels_in_mha_trains(tmp_path):
    spec = PhantomSpec(shape=(16, 32, 32), modality="MRI", channels=2)
    write_nnunet_raw(tmp_path / "in" / "Dataset007_Brain", spec, cases=4, extension=".mha")

    manifest = train_and_segment(
        tmp_path, spec, ".mha", fold="0", label="kidney", image_type="T1,FLAIR", key=False
    )

    assert manifest["channels"] == ["T1", "FLAIR"]
    assert [(item["name"], item["value"]) for item in manifest["labels"]] == [("kidney", 2)]
    assert not (tmp_path / "out" / "No_Name" / "case_key.csv").exists()


def test_too_little_time_is_refused_and_nothing_is_lost(tmp_path):
    copy_in(tmp_path / "in" / "Data", cases=2)
    before = sorted(path.read_bytes() for path in tmp_path.rglob("*.nii.gz"))

    with pytest.raises(BudgetError, match="too short"):
        nnunet_medseg.train(tmp_path / "in", tmp_path / "out", tmp_path / "work", minutes=0.005)

    copies = (tmp_path / "in").rglob("*.nii.gz")
    assert sorted(path.read_bytes() for path in copies) == before
    assert list((tmp_path / "out").iterdir()) == []


def test_a_second_model_of_the_same_name_stands_beside_the_first(tmp_path):
    for _ in range(2):
        copy_in(tmp_path / "in" / "Data", cases=2)
        nnunet_medseg.train(
            tmp_path / "in", tmp_path / "out", tmp_path / "work", minutes=0.2, delete_input=True
        )

    folders = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert folders == ["No_Name", "No_Name_2"]
    assert np.all([(tmp_path / "out" / name / "model" / "plans.json").exists() for name in folders])
