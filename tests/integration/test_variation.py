"""A dataset that is kept, trained on again in folds and variants, and forgotten."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from desk import SPEC, Desk, copy_in, make_desk

from nnunet_medseg.phantom import write_images
from nnunet_medseg.volume import read_volume

pytestmark = pytest.mark.slow

CASES = 3  # as many folds; each gets a third of the minutes
# Of the phantoms: whatever the minutes allow, cases are prepared for these voxels.
SPACING = "x".join(f"{side:g}" for side in SPEC.spacing_mm)


@dataclass(frozen=True)
class Story:
    """What was seen on a desk, command by command.

    Attributes:
        desk: Where; the commands are in `desk.finished`.
        copied: Names of what was in the input folder after the dataset was kept.
        prepared: Times of the prepared files, by name, after each command that trains.
        left: Files in the work folder after the dataset was forgotten.
    """

    desk: Desk
    copied: list[str]
    prepared: dict[str, dict[str, int]]
    left: list[Path]

    def delivered(self, name: str) -> Path:
        return self.desk.output / name

    def manifest(self, name: str) -> dict:
        return json.loads((self.delivered(name) / "model" / "manifest.json").read_text())

    def table(self, name: str, file: str) -> list[dict[str, str]]:
        with (self.delivered(name) / file).open(encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines))


def run_medseg(desk: Desk, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `medseg` as a user does who stands in the folder."""
    command = [sys.executable, "-m", "nnunet_medseg", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=desk.root, check=False)


def times_of(desk: Desk) -> dict[str, int]:
    prepared = desk.root / ".medseg" / "datasets" / "Abdomen" / "prepared"
    return {
        path.relative_to(prepared).as_posix(): path.stat().st_mtime_ns
        for path in prepared.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Keep a dataset, train on it in folds and in variants, and forget it."""
    desk = make_desk(tmp_path_factory.mktemp("variation") / "desk")
    copy_in(desk.input / "Scans", cases=CASES)
    name = ("-d", "Abdomen", "--spacing", SPACING)
    prepared = {}

    def remember(command: str, process: subprocess.CompletedProcess[str]) -> None:
        desk.finished[command] = process
        assert process.returncode == 0, process.stdout + process.stderr
        prepared[command] = times_of(desk)

    one = ("-l", "kidney=2", "-i", "CT", "-t", "0.2", "-f", "0", "--keep_dataset")
    remember("train", desk.run("train", *name, *one))
    copied = [path.name for path in desk.input.iterdir()]
    remember("cv", desk.run("train", *name, "-t", "0.9", "-f", "cv"))
    varied = ("--vary", "learning_rate=0.05,0.001", "-t", "0.4")
    remember("vary", run_medseg(desk, "vary", *name, *varied))
    remember("datasets", run_medseg(desk, "datasets"))
    remember("forget", run_medseg(desk, "forget", "Abdomen"))
    left = [path for path in (desk.root / ".medseg").rglob("*") if path.is_file()]
    return Story(desk, copied, prepared, left)


# --- kept --------------------------------------------------------------------------------------


def test_a_kept_dataset_leaves_the_input_folder_and_a_model_is_delivered(story):
    assert story.copied == []
    assert story.manifest("Abdomen")["split"] == {
        "fold": "0",
        "train_cases": 2,
        "held_out_cases": 1,
        "train_patients": 2,
        "held_out_patients": 1,
    }
    assert "kept as Abdomen" in story.desk.finished["train"].stdout


def test_later_trainings_prepare_nothing_again(story):
    # Voxels, labels and places of each case.
    assert len(story.prepared["train"]) == 3 * CASES
    assert story.prepared["cv"] == story.prepared["train"]
    assert story.prepared["vary"] == story.prepared["train"]


def test_what_the_dataset_is_is_said_once(story):
    assert "on the kept dataset Abdomen: 3 cases" in story.desk.finished["cv"].stdout
    for name in ("Abdomen_2", "Abdomen_3"):
        manifest = story.manifest(name)
        assert [(item["name"], item["value"]) for item in manifest["labels"]] == [("kidney", 2)]
        assert manifest["channels"] == ["CT"]


# --- folds -------------------------------------------------------------------------------------


def test_a_cross_validation_evaluates_each_case_once(story):
    rows = story.table("Abdomen_2", "metrics.csv")
    manifest = story.manifest("Abdomen_2")

    assert Counter(row["case"] for row in rows) == {
        f"case_{number:04d}": 1 for number in range(1, CASES + 1)
    }
    assert manifest["evaluation"]["cases"] == manifest["evaluation"]["of_cases"] == CASES
    assert manifest["split"] == {
        "fold": "cv",
        "train_cases": CASES,
        "held_out_cases": CASES,
        "train_patients": CASES,
        "held_out_patients": CASES,
    }


def test_the_folds_share_the_time_and_are_one_model(story):
    manifest = story.manifest("Abdomen_2")

    assert manifest["training"]["asked_s"] == pytest.approx(54)
    assert abs(manifest["training"]["used_s"] - 54) <= 5 * CASES
    files = {name for name in manifest["files"] if name.endswith(".pth")}
    assert files == {f"fold_{fold}/checkpoint_final.pth" for fold in range(CASES)}


def test_stock_nnunet_segments_with_the_ensemble_by_the_command_of_the_manifest(story, tmp_path):
    images, results = tmp_path / "images", tmp_path / "results"
    write_images(tmp_path / "unseen", tmp_path / "truth", SPEC, cases=1, first=20)
    (path,) = (tmp_path / "unseen").glob("*.nii.gz")
    images.mkdir()
    (images / "unseen_0000.nii.gz").symlink_to(path)
    places = {
        "IMAGES": str(images),
        "SEGMENTATIONS": str(results),
        "MODEL": str(story.delivered("Abdomen_2") / "model"),
    }
    command = story.manifest("Abdomen_2")["stock_command"]
    words = [places.get(word, word) for word in command.split()]
    words[0] = str(Path(sys.executable).with_name(words[0]))
    settings = {"nnUNet_compile": "f", "nnUNet_def_n_proc": "1"}

    subprocess.run(words, check=True, capture_output=True, env=os.environ | settings)

    assert "-f 0 1 2 " in command
    found = read_volume(results / "unseen.nii.gz").array
    assert found.shape == read_volume(path).array.shape
    assert set(np.unique(found)) <= {0, 1}


# --- variants ----------------------------------------------------------------------------------


def test_variants_are_compared_on_the_same_cases_and_the_best_is_handed_over(story):
    manifest = story.manifest("Abdomen_3")
    rows = (story.delivered("Abdomen_3") / "comparison.csv").read_text()

    compared = {item["name"]: item["mean_dice"] for item in manifest["compared"]}
    assert set(compared) == {"learning_rate=0.05", "learning_rate=0.001"}
    assert all(name in rows for name in compared)
    best = max(compared, key=compared.get)
    assert f"learning_rate={manifest['parameters']['learning_rate']:g}" == best
    assert manifest["evaluation"]["mean_dice"] == pytest.approx(compared[best])
    assert manifest["training"]["asked_s"] == pytest.approx(12)


def test_the_summary_and_the_screen_show_the_comparison(story):
    summary = (story.delivered("Abdomen_3") / "summary.txt").read_text()

    assert "Compared, mean Dice on the same held-out cases" in summary
    for name in ("learning_rate=0.05", "learning_rate=0.001"):
        assert name in summary
        assert name in story.desk.finished["vary"].stdout


# --- forgotten ---------------------------------------------------------------------------------


def test_kept_datasets_are_listed_until_they_are_forgotten(story):
    shown = story.desk.finished["datasets"].stdout

    assert "Abdomen" in shown
    assert "MB" in shown
    assert "forgot Abdomen" in story.desk.finished["forget"].stdout


def test_in_the_end_no_image_is_left_in_the_work_folder_and_the_models_are(story):
    own = {"lock", "made-by-medseg", "machine.json"}
    assert not [path for path in story.left if path.name not in own]
    for name in ("Abdomen", "Abdomen_2", "Abdomen_3"):
        assert (story.delivered(name) / "model" / "manifest.json").is_file()
