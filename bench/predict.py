"""Seconds, memory and agreement of a prediction, against stock nnU-Net with the same model.

Ours: `medseg predict`, once as it is by default and once with `--precision float32`. Stock's:
`nnUNetv2_predict_from_modelfolder`. All on the CPU, whole programs, from the command to the last
file, with the same test-time settings: tiles that overlap by half, and the mirroring of the
model. The order changes from round to round.

    .venv/bin/python bench/predict.py hippocampus    40 real MRI, model trained on the other 20
    .venv/bin/python bench/predict.py ct             2 phantom CTs of 200 x 256 x 256 voxels
    .venv/bin/python bench/predict.py ct --rounds 1 --model Output_nnUNet_train/CT

Without `--model` one is trained first, for one minute. Each round is one line in
bench/results/predict.jsonl. Memory is that of all processes of a program together, shared pages
counted once, at its peak.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from datasets import HIPPOCAMPUS
from memory import peak_memory

from nnunet_medseg.phantom import PhantomSpec, make_case, write_patient_folders
from nnunet_medseg.volume import read_volume, write_volume

RESULTS = Path(__file__).resolve().parent / "results" / "predict.jsonl"
BIN = Path(sys.executable).parent
CORES = 2
LOOK_EVERY_S = 0.1
HIPPOCAMPUS_CASES = 40
CTS = PhantomSpec((200, 256, 256), (2.0, 1.5, 1.5), "CT", seed=31)
CT_CASES = {"train": range(1, 4), "predict": range(11, 13)}
OPTIONS = {
    "hippocampus": ["-l", "Anterior=1,Posterior=2", "-i", "MRI"],
    "ct": ["-l", "liver=1,kidney=2,lesion=3", "-i", "CT"],
}
NAMES = ("ours", "ours_float32", "stock")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=tuple(OPTIONS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="of exe_train.py; default: train one")
    parser.add_argument("--note", default="", help="of the lines, such as what else was running")
    given = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = (given.model or train(given.what, root / "training")).resolve()
        model = model if (model / "plans.json").exists() else model / "model"
        write_cases(given.what, root)
        rounds = [measure_round(model, root, turn) for turn in range(given.rounds)]
    about = {"what": given.what, "note": given.note, "date": time.strftime("%Y-%m-%d")}
    with RESULTS.open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(about | each, sort_keys=True) + "\n" for each in rounds)
    show(rounds)


def train(what: str, folder: Path) -> Path:
    """Train a model for a minute with the real command."""
    if what == "ct":
        write_patient_folders(folder / "data", CTS, cases=len(CT_CASES["train"]), validate=0)
    else:
        for patient in patients()[HIPPOCAMPUS_CASES:]:
            shutil.copytree(patient, folder / "data" / patient.name)
    command = [sys.executable, "-m", "nnunet_medseg", "train", "-d", "Model", "-t", "1"]
    command += [*OPTIONS[what], "--work_dir", str(folder / "work")]
    subprocess.run([*command, str(folder / "data"), str(folder / "out")], check=True)
    return folder / "out" / "Model"


def patients() -> list[Path]:
    """Return the folders of the hippocampus patients."""
    return sorted(path for path in HIPPOCAMPUS.iterdir() if path.is_dir())


def write_cases(what: str, root: Path) -> None:
    """Write images under our names and under stock's, and what was drawn."""
    for name in ("ours_in", "stock_in", "truth"):
        (root / name).mkdir()
    if what == "ct":
        for number in CT_CASES["predict"]:
            images, label = make_case(CTS, number)
            write_volume(root / "ours_in" / f"ct_{number}.nii.gz", images[0])
            write_volume(root / "truth" / f"ct_{number}.nii.gz", label)
    else:
        for patient in patients()[:HIPPOCAMPUS_CASES]:
            (label,) = (path for path in patient.iterdir() if not path.name.startswith("img"))
            shutil.copy(patient / "img.nii.gz", root / "ours_in" / f"{patient.name}.nii.gz")
            shutil.copy(label, root / "truth" / f"{patient.name}.nii.gz")
    for path in (root / "ours_in").iterdir():
        name = path.name.replace(".nii.gz", "_0000.nii.gz")
        shutil.copy(path, root / "stock_in" / name)


def measure_round(model: Path, root: Path, turn: int) -> dict[str, object]:
    """Run all programs, in another order each time, and compare what they wrote."""
    order = NAMES[turn % len(NAMES) :] + NAMES[: turn % len(NAMES)]
    found: dict[str, object] = {}
    for name in order:
        output = root / f"{name}_out"
        shutil.rmtree(output, ignore_errors=True)
        found[name] = measure(command_of(name, model, root), root)
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    found["equal_float32"] = agreement(root, "ours_float32_out")
    found["equal_default"] = agreement(root, "ours_out")
    for name in NAMES:
        found[f"dice_{name}"] = mean_dice(root, f"{name}_out")
    print({key: value for key, value in found.items() if key not in NAMES}, flush=True)
    return found


def command_of(name: str, model: Path, root: Path) -> list[str]:
    """Return the command of a program."""
    output = str(root / f"{name}_out")
    if name == "stock":
        fold = next(model.glob("fold_*")).name.removeprefix("fold_")
        command = [str(BIN / "nnUNetv2_predict_from_modelfolder"), "-i", str(root / "stock_in")]
        return [*command, "-o", output, "-m", str(model), "-f", fold, "-device", "cpu"]
    command = [sys.executable, "-m", "nnunet_medseg", "predict", str(root / "ours_in"), output]
    command += ["--model", str(model), "--device", "cpu", "--work_dir", str(root / "work")]
    return [*command, "--precision", "float32"] if name == "ours_float32" else command


def measure(command: list[str], root: Path) -> dict[str, float]:
    """Run one program from its start to its end."""
    load, started, used = os.getloadavg()[0], time.monotonic(), os.times()
    with peak_memory(LOOK_EVERY_S) as peaks:
        ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - started
    if ended.returncode:
        sys.exit(f"{command[0]} has failed:\n{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}")
    now = os.times()
    cpu_s = sum(now[2:4]) - sum(used[2:4])
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_s, 2),
        "peak_mb": peaks[2],
        "load_before": round(load, 1),
    }


def maps(root: Path, name: str) -> list[np.ndarray]:
    """Return the label maps of a folder, in the order of the cases."""
    return [
        read_volume(root / name / path.name).array for path in sorted((root / "truth").iterdir())
    ]


def agreement(root: Path, name: str) -> float:
    """Return the share of voxels equal to stock's, in the case where it is lowest."""
    pairs = zip(maps(root, name), maps(root, "stock_out"), strict=True)
    return round(min(float((ours == stock).mean()) for ours, stock in pairs), 6)


def mean_dice(root: Path, name: str) -> float:
    """Return the mean Dice over cases and labels."""
    scores = []
    for found, truth in zip(maps(root, name), maps(root, "truth"), strict=True):
        for value in np.unique(truth)[1:]:
            both = np.sum((found == value) & (truth == value))
            scores.append(2 * both / (np.sum(found == value) + np.sum(truth == value)))
    return round(float(np.mean(scores)), 5)


def show(rounds: list[dict[str, object]]) -> None:
    """Print each round as a row of a table, and the medians."""
    print(
        "\n| round | ours | ours, float32 | stock | ratio | ratio, float32 | memory: ours, stock |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    ratios: dict[str, list[float]] = {"ours": [], "ours_float32": []}
    for number, found in enumerate(rounds, start=1):
        stock = found["stock"]
        for name, listed in ratios.items():
            listed.append(found[name]["seconds"] / stock["seconds"])
        cells = [f"{found[name]['seconds']:.1f} s" for name in NAMES]
        cells += [f"{listed[-1]:.2f}" for listed in ratios.values()]
        cells.append(f"{found['ours']['peak_mb']} MB, {stock['peak_mb']} MB")
        print(f"| {number} | " + " | ".join(cells) + " |")
    for name, listed in ratios.items():
        print(f"median ratio {name}/stock: {statistics.median(listed):.2f}; the aim is 0.5")


if __name__ == "__main__":
    main()
