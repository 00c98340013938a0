"""Seconds from the command to the end of the first training step: ours against stock nnU-Net.

Both start from the same patient folders' images on disk and end with the first step of the same
plans on this machine. Stock's part is its own two commands; that its users first have to rename
their files and write dataset.json is not counted. Run in turn, A B A B.

    .venv/bin/python bench/start.py DATASET [ROUNDS]

DATASET is a folder of patient folders. One JSON line a round is added to bench/start.jsonl, with
the seconds of each of our stages.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
STOCK_STEP = """
import sys, time
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
step = nnUNetTrainer.train_step
def first(self, batch):
    step(self, batch)
    self.dataloader_train._finish()
    self.dataloader_val._finish()
    sys.stdout.flush()
    import os; os._exit(0)
nnUNetTrainer.train_step = first
from nnunetv2.run.run_training import run_training
import torch
if __name__ == "__main__":
    run_training("1", "3d_fullres", "all", device=torch.device("cpu"))
"""
OUR_STEP = """
import os, sys
from pathlib import Path
def patch():
    from nnunet_medseg.nnunet import trainer
    step = trainer.BudgetedTrainer.train_step
    def first(self, batch):
        step(self, batch)
        self.supply.stop()
        os._exit(0)
    trainer.BudgetedTrainer.train_step = first
if __name__ == "__main__":
    from nnunet_medseg.workflows.stages import training
    announce = training._announce
    def patched(*given):
        patch()
        announce(*given)
    training._announce = patched
    from nnunet_medseg.cli.main import exe_train
    exe_train(Path(sys.argv[1]), ["-d", "Bench", "-t", "10", "-i", "MRI", "--device", "cpu"])
"""


def write_stock_dataset(source: Path, raw: Path) -> None:
    """Write nnU-Net's raw folder from patient folders."""
    base = raw / "Dataset001_Bench"
    (base / "imagesTr").mkdir(parents=True)
    (base / "labelsTr").mkdir()
    patients = sorted(path for path in source.iterdir() if path.is_dir())
    values: set[int] = set()
    import SimpleITK as sitk

    for patient in patients:
        label = next(iter([*patient.glob("train.*"), *patient.glob("validate.*")]))
        shutil.copy(patient / "img.nii.gz", base / "imagesTr" / f"{patient.name}_0000.nii.gz")
        shutil.copy(label, base / "labelsTr" / f"{patient.name}.nii.gz")
        values |= {
            int(value) for value in set(sitk.GetArrayFromImage(sitk.ReadImage(str(label))).flat)
        }
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0} | {f"label_{value}": value for value in sorted(values - {0})},
        "numTraining": len(patients),
        "file_ending": ".nii.gz",
    }
    (base / "dataset.json").write_text(json.dumps(description))


def time_stock(source: Path, folder: Path) -> dict[str, float]:
    names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    settings = {name: str(folder / name) for name in names}
    cores = str(len(os.sched_getaffinity(0)))
    settings |= {"nnUNet_compile": "f", "nnUNet_n_proc_DA": "1"}
    write_stock_dataset(source, folder / "nnUNet_raw")
    plan = [str(BIN / "nnUNetv2_plan_and_preprocess"), "-d", "1", "-c", "3d_fullres"]
    started = time.monotonic()
    run([*plan, "-np", cores, "-npfp", cores], settings)
    planned = time.monotonic()
    script = folder / "step.py"
    script.write_text(STOCK_STEP)
    run([sys.executable, str(script)], settings)
    return {"prepare_s": planned - started, "first_step_s": time.monotonic() - planned}


def time_ours(source: Path, folder: Path) -> dict[str, Any]:
    shutil.copytree(source, folder / "Input_nnUNet_train" / "Bench")
    script = folder / "step.py"
    script.write_text(OUR_STEP)
    started = time.monotonic()
    run([sys.executable, str(script), str(folder)], {})
    total_s = time.monotonic() - started
    (journal,) = folder.rglob("journal.json")
    stages = {
        stage["name"]: stage["seconds"] for stage in json.loads(journal.read_text())["stages"]
    }
    return {"total_s": total_s, "stages": stages}


def run(command: list[str], settings: dict[str, str]) -> None:
    subprocess.run(command, env=os.environ | settings, check=True, capture_output=True)


def main() -> None:
    source, rounds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    ratios = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as stock:
            our_times = time_ours(source, Path(ours))
            stock_times = time_stock(source, Path(stock))
        stock_s = sum(stock_times.values())
        ratios.append(our_times["total_s"] / stock_s)
        record = {"ours": our_times, "stock": stock_times, "ratio": ratios[-1]}
        record |= {"date": time.strftime("%Y-%m-%d"), "cores": len(os.sched_getaffinity(0))}
        with (HERE / "start.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")
        print(f"ours {our_times['total_s']:.1f} s, stock {stock_s:.1f} s, ratio {ratios[-1]:.2f}")
    print(f"median ratio ours/stock: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
