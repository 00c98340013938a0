"""No identifier leaves the house in a model, and none gets into a log or a header of a prediction.

Everything that a user names is called after a patient here, so are machine and user, and headers
hold another patient. All commands run without a network, where the system allows to try that.
"""

from __future__ import annotations

import csv
import re
import shutil
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from searcher import search_bytes, search_file, search_folder
from world import (
    FORMATS,
    HEADERS,
    NAMES,
    PATIENTS,
    World,
    copy_images_in,
    copy_in,
    header_of,
    make_world,
    write_named_model,
)

from nnunet_medseg.volume import read_volume, write_volume

pytestmark = pytest.mark.slow

MODELS = {"Study": "training", "Study_2": "variation", "Tuned": "fine-tuning"}
CLOSED, OPEN = 0o027, 0o002  # two umasks that hospitals use


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Train, keep the dataset, vary on it, fine-tune, and segment images of every format."""
    world = make_world(tmp_path_factory.mktemp("leaks"))
    desk = world.desk
    words = ("-l", "kidney=2", "-i", "CT", "-f", "0")
    # Small patches, so that there are enough steps on a busy machine too.
    small = ("--patch_size", "8x16x16", "--batch_size", "2")

    copy_in(desk.input / PATIENTS[2], extension=".nii.gz")
    train = desk.command("train", "-d", "Study", "-t", "0.5", "--keep_dataset", *words, *small)
    world.run("training", train, mask=CLOSED)

    medseg = [sys.executable, "-m", "nnunet_medseg"]
    vary = ["vary", "-d", "Study", "-t", "1", "--vary", "learning_rate=0.01,0.001"]
    world.run("variation", [*medseg, *vary, *small], mask=OPEN)

    copy_in(desk.input / PATIENTS[2], extension=".nrrd")
    model = write_named_model(world.root / PATIENTS[3] / PATIENTS[1])
    tune = desk.command("train", "-d", "Tuned", "-t", "0.3", "--pretrained", str(model), *words)
    world.run("fine-tuning", tune, mask=CLOSED)

    shutil.copytree(desk.output / "Study", world.root / "model" / "Study")
    images = world.root / "Input_nnUNet_predict"
    copy_images_in(images, world.root / "made")
    shutil.copytree(images, world.root / "images")
    world.run("prediction", desk.command("predict"), mask=OPEN)
    return world


def predictions(world: World) -> list[Path]:
    found = sorted((world.root / "Output_nnUNet_predict").iterdir())
    return [path for path in found if path.name != "volumes.csv"]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- the model, which may be given away --------------------------------------------------------


@pytest.mark.parametrize("name", MODELS, ids=MODELS.values())
def test_a_model_names_nobody(world, name):
    model = world.desk.output / name / "model"

    assert (model / "fold_0" / "checkpoint_final.pth").is_file()
    assert search_folder(model, world.words()) == []


# --- what stays in the house -------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS, ids=MODELS.values())
def test_only_the_key_links_cases_to_patients(world, name):
    folder = world.desk.output / name
    beside = {path.name: path for path in folder.iterdir() if path.is_file()}

    key = beside.pop("case_key.csv")
    with key.open(encoding="utf-8", newline="") as lines:
        linked = {row["case"]: row["folder"] for row in csv.DictReader(lines)}

    assert set(PATIENTS) < set(linked.values())
    assert search_file(key, NAMES)
    assert {"metrics.csv", "summary.txt"} <= set(beside)
    assert [hit for path in beside.values() for hit in search_file(path, world.words())] == []
    with beside["metrics.csv"].open(encoding="utf-8", newline="") as lines:
        measured = {row["case"] for row in csv.DictReader(lines)}
    assert measured
    assert measured <= set(linked)
    assert all(re.fullmatch(r"case_\d{4}", case) for case in linked)


def test_variants_are_compared_by_neutral_names(world):
    rows = (world.desk.output / "Study_2" / "comparison.csv").read_text(encoding="utf-8")

    assert "learning_rate=0.001" in rows
    assert search_bytes(rows.encode(), world.words(), "comparison.csv") == []


# --- logs and the console ----------------------------------------------------------------------


def test_logs_name_nobody(world):
    logs = sorted(world.notes.glob("*-log.txt"))

    # Of three trainings and a prediction.
    assert len(logs) == 4
    assert sum(path.stat().st_size for path in logs) > 1000
    found = {path.name: search_bytes(path.read_bytes(), world.words(), "log") for path in logs}
    assert {name: hits for name, hits in found.items() if hits} == {}


def test_the_console_shows_no_header_and_no_machine(world):
    for title, finished in world.finished.items():
        shown = (finished.stdout + finished.stderr).encode()

        assert search_bytes(shown, world.words_of_others(), title) == []


# --- predictions -------------------------------------------------------------------------------


def test_predictions_hold_nothing_of_a_header_but_geometry(world):
    found = predictions(world)

    assert {"".join(path.suffixes[-2:]) for path in found} >= {".nii.gz"}
    assert {path.name for path in found if not path.name.endswith("raw")} == {
        f"{PATIENTS[0]} {number}{extension}" for number, extension in enumerate(FORMATS)
    }
    for path in found:
        content = path.read_bytes()
        # The header of a pair names the file beside it, whose name is the image's.
        content = content.replace(path.stem.encode(), b"") if path.suffix == ".mhd" else content
        assert search_bytes(content, world.words(), path.suffix) == []


@pytest.mark.parametrize("extension", FORMATS)
def test_every_field_of_a_header_is_that_of_a_new_file_of_the_same_geometry(
    world, tmp_path, extension
):
    (path,) = (path for path in predictions(world) if path.name.endswith(extension))
    image = read_volume(world.root / "images" / path.name)
    labels = read_volume(path)
    fresh = tmp_path / path.name
    write_volume(fresh, image.with_array(labels.array))

    before, now = header_of(world.root / "images" / path.name), header_of(path)

    assert len(before) > len(now) or before["extensions"]
    assert search_bytes(repr(before).encode(), HEADERS, "header")
    assert now == header_of(fresh)
    assert np.array_equal(labels.affine, read_volume(fresh).affine)


# --- rights ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "mask"),
    [
        ("Output_nnUNet_train/Study", CLOSED),
        ("Output_nnUNet_train/Study_2", OPEN),
        ("Output_nnUNet_train/Tuned", CLOSED),
        ("Output_nnUNet_predict", OPEN),
    ],
)
def test_what_is_handed_over_follows_the_umask_and_the_key_is_the_owners_alone(world, place, mask):
    folder = world.root / place

    wrong = {
        path.name: f"{mode_of(path):o}"
        for path in (folder, *folder.rglob("*"))
        if mode_of(path) != _due(path, mask)
    }

    assert wrong == {}


def _due(path: Path, mask: int) -> int:
    if path.name == "case_key.csv":
        return 0o600
    return (0o777 if path.is_dir() else 0o666) & ~mask


def test_run_folders_are_the_owners_alone(world):
    # Of the run, of all runs, and the work folder, for each of three trainings.
    assert (world.notes / "rights.txt").read_text().split() == ["700"] * 9


# --- the network -------------------------------------------------------------------------------


def test_the_main_job_needs_no_network(world):
    if not world.is_apart:
        pytest.skip("this system makes no network namespaces for its users (unshare -rn)")

    interfaces = (world.notes / "interfaces.txt").read_text().splitlines()

    assert interfaces == ["lo"] * len(world.finished)
    assert (world.desk.output / "Study" / "model" / "manifest.json").is_file()


def test_no_process_opens_a_socket_of_the_internet(world):
    processes = (world.notes / "processes.txt").read_text().split()

    # Each command, its workers, and the fresh processes that prove a model.
    assert len(processes) > 2 * len(world.finished)
    # What one library tries at its import is not of the internet: see `watch/sitecustomize.py`.
    assert not (world.notes / "network.txt").exists()
