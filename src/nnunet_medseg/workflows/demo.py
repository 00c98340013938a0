"""The main job on phantoms, with the commands that a user types."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunet_medseg import console
from nnunet_medseg.errors import FolderError
from nnunet_medseg.evaluation.overlap import dice_by_label, mean_dice
from nnunet_medseg.phantom import LABELS, PhantomSpec, write_images, write_patient_folders
from nnunet_medseg.volume import read_volume

__all__ = ["MIN_ORGAN_DICE", "demo"]

TRAINING_CASES, HELD_OUT_CASES, UNSEEN_CASES = 16, 4, 6
ORGANS = ("liver", "kidney")
MIN_ORGAN_DICE = 0.80  # measured: 0.9 after a minute on two cores; less means that something broke
NAME = "Demo"


def demo(root: Path | None, minutes: str) -> int:
    """Train on phantoms, segment unseen ones, and print how well that went.

    Args:
        root: Folder with `exe_train.py` and `exe_predict.py`, whose input folders must be empty;
            None works in a folder of its own with `medseg train` and `medseg predict`.
        minutes: Training duration, as for `-t`.

    Returns:
        Exit status: 0 when the organs reach the Dice that a working program reaches.
    """
    if root is not None:
        return _demo_in(root, minutes, beside=True)
    with tempfile.TemporaryDirectory(prefix="medseg-demo-") as folder:
        return _demo_in(Path(folder), minutes, beside=False)


def _demo_in(root: Path, minutes: str, *, beside: bool) -> int:
    to_train, to_predict = root / "Input_nnUNet_train", root / "Input_nnUNet_predict"
    for folder in (to_train, to_predict):
        folder.mkdir(exist_ok=True)
        if any(folder.iterdir()):
            problem = f"{folder} is not empty, and the demo would mix with what is there."
            raise FolderError(problem, fix="Run the demo when the input folders are empty.")
    spec = PhantomSpec()
    write_patient_folders(
        to_train / NAME, spec, cases=TRAINING_CASES + HELD_OUT_CASES, validate=HELD_OUT_CASES
    )
    console.heading(f"{TRAINING_CASES + HELD_OUT_CASES} phantoms are in {to_train}")
    before = _models(root)
    labels = ",".join(f"{name}={value}" for name, value in LABELS.items())
    options = ["-d", NAME, "-l", labels, "-i", "CT", "-t", minutes, "-f", "0"]
    status = _run(_command(root, "train", beside=beside), options)
    if status != 0:
        return status
    (model,) = _models(root) - before
    with tempfile.TemporaryDirectory() as truth:
        first = TRAINING_CASES + HELD_OUT_CASES
        # The model's name is new every time; so no earlier result stands in the way.
        to_predict = to_predict / model
        write_images(to_predict, Path(truth), spec, cases=UNSEEN_CASES, first=first)
        model_folder = root / "Output_nnUNet_train" / model / "model"
        status = _run(_command(root, "predict", beside=beside), ["--model", str(model_folder)])
        return status or _score(root / "Output_nnUNet_predict" / model, Path(truth))


def _models(root: Path) -> set[str]:
    output = root / "Output_nnUNet_train"
    return {path.name for path in output.iterdir()} if output.is_dir() else set()


def _command(root: Path, verb: str, *, beside: bool) -> list[str]:
    if beside:
        return [sys.executable, str(root / f"exe_{verb}.py")]
    folders = [str(root / f"{side}_nnUNet_{verb}") for side in ("Input", "Output")]
    work = ["--work_dir", str(root / ".medseg"), "--delete_input"]
    return [sys.executable, "-m", "nnunet_medseg", verb, *folders, *work]


def _run(command: Sequence[str], options: Sequence[str]) -> int:
    shown = [Path(command[1]).name if command[1] != "-m" else "medseg", *options]
    console.heading(f"$ {' '.join(shown)}")
    return subprocess.call([*command, *options])  # noqa: S603 our own command, no shell


def _score(predictions: Path, truth: Path) -> int:
    scores: dict[str, list[float]] = {name: [] for name in LABELS}
    for path in sorted(truth.iterdir()):
        found = read_volume(predictions / path.name, is_label=True).array
        drawn = read_volume(path, is_label=True).array
        dice = dice_by_label(drawn, found, list(LABELS.values()))
        for name, value in LABELS.items():
            scores[name].append(dice[value])
    rows = [[name, f"{mean_dice(values):.3f}"] for name, values in scores.items()]
    console.table(f"Dice on {UNSEEN_CASES} unseen phantoms", ["label", "mean"], rows)
    organs = float(np.mean([mean_dice(scores[name]) for name in ORGANS]))
    console.detail(f"organs {organs:.3f}; a working program reaches {MIN_ORGAN_DICE:.2f}")
    return 0 if organs >= MIN_ORGAN_DICE else 1
