"""The second and the third scenario on the hippocampus: figures for RESULTS.md.

    .venv/bin/python bench/scenarios.py tune     24 patients for 6 min, 24 others for 3 min
    .venv/bin/python bench/scenarios.py stock    a model of stock nnU-Net is fine-tuned
    .venv/bin/python bench/scenarios.py vary     four variants in 12 min; start on a kept dataset
    .venv/bin/python bench/scenarios.py cv       five folds of 2 min
    .venv/bin/python bench/scenarios.py rates    rates of fine-tuning, by steps and not by time

All are the whole commands, as a user types them, in a folder of their own (--root keeps it). Each
result is one line in bench/results/scenarios.jsonl. `rates` wants the model that `tune` has left in
its root.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from datasets import HIPPOCAMPUS

from nnunet_medseg.budget.recipe import Recipe, choose_recipe

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "scenarios.jsonl"
LABELS = "Anterior=1,Posterior=2"
STOCK_TRAINING = """
import json, os, torch
from pathlib import Path
from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import (
    nnUNetTrainer_1epoch,
)
folder = Path(os.environ["nnUNet_preprocessed"]) / "Dataset501_Hippocampus"
plans = json.loads((folder / "nnUNetPlans.json").read_text())
description = json.loads((folder / "dataset.json").read_text())
torch.set_num_threads(os.cpu_count())
if __name__ == "__main__":
    nnUNetTrainer_1epoch(
        plans | {"continue_training": False}, "3d_fullres", "all", description, torch.device("cpu")
    ).run_training()
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=tuple(SCENARIOS))
    parser.add_argument("--root", type=Path, default=None)
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--seed", default="12345")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        SCENARIOS[given.what](given.root or Path(folder), given)


def add(record: dict[str, Any]) -> None:
    stamp = {"date": time.strftime("%Y-%m-%d"), "cores": len(os.sched_getaffinity(0))}
    line = json.dumps(stamp | record, sort_keys=True)
    with RESULTS.open("a", encoding="utf-8") as lines:
        lines.write(line + "\n")
    print(line, flush=True)


def copy_patients(target: Path, part: slice, *, label: str | None = None) -> None:
    """Copy a part of the training patients, and all that are to be held out.

    Args:
        target: New folder.
        part: Of the training patients.
        label: Keep the label maps' values, or "swapped" for 1 and 2 exchanged.
    """
    for patient in [*patients_of("train")[part], *patients_of("validate")]:
        folder = target / patient.name
        shutil.copytree(patient, folder)
        if label == "swapped":
            (path,) = (path for path in folder.iterdir() if not path.name.startswith("img"))
            swap_labels(path)


def patients_of(role: str) -> list[Path]:
    """Return the patients whose label map is called "train" or "validate"."""
    return sorted(path.parent for path in HIPPOCAMPUS.glob(f"*/{role}.nii.gz"))


def swap_labels(path: Path) -> None:
    from nnunet_medseg.volume import read_volume, write_volume

    volume = read_volume(path)
    swapped = volume.array.copy()
    swapped[volume.array == 1], swapped[volume.array == 2] = 2, 1
    write_volume(path, volume.with_array(swapped))


def run(root: Path, *words: str) -> tuple[str, float]:
    """Run `medseg` in a folder; return what it printed and the seconds it took."""
    started = time.monotonic()
    command = [sys.executable, "-m", "nnunet_medseg", *words]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout, time.monotonic() - started


def train(root: Path, source: str, name: str, *words: str) -> dict[str, Any]:
    folders = (source, "out", "--work_dir", "work", "-d", name, "-i", "MRI")
    run(root, "train", *folders, *words)
    return read_manifest(root, name)


def read_manifest(root: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((root / "out" / name / "model" / "manifest.json").read_text()))


def dice_of(manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "dice": manifest["evaluation"]["dice"],
        "mean_dice": manifest["evaluation"]["mean_dice"],
        "steps": manifest["training"]["iterations"],
        "compared": {item["name"]: item["mean_dice"] for item in manifest["compared"]},
        "verdict": manifest["verdict"],
        "start": (manifest["pretrained"] or {}).get("lines"),
    }


# --- scenario three ----------------------------------------------------------------------------


def tune(root: Path, given: argparse.Namespace) -> None:
    minutes = given.minutes or 3.0
    copy_patients(root / "first", slice(0, 24))
    copy_patients(root / "second", slice(24, 48))
    seed = ("--seed", given.seed)
    first = train(root, "first", "First", "-l", LABELS, "-t", f"{2 * minutes:g}", *seed)
    words = ("-l", LABELS, "-t", f"{minutes:g}", "--pretrained", "out/First", "--against_scratch")
    second = train(root, "second", "Second", *words, *seed)
    facts = {"scenario": "tune", "minutes": minutes, "seed": given.seed}
    add(facts | {"first": dice_of(first), "second": dice_of(second)})


def stock(root: Path, given: argparse.Namespace) -> None:
    """Fine-tune a model of stock nnU-Net's trainer of one epoch, in three ways."""
    minutes = given.minutes or 2.0
    model = train_stock(root)
    cases = {
        "Anterior only": ("subset", None, ("-l", "Anterior=1")),
        "labels swapped": ("swapped", "swapped", ("-l", "Posterior=1,Anterior=2")),
    }
    for name, (folder, change, words) in cases.items():
        copy_patients(root / folder, slice(24, 48), label=change)
        manifest = train(
            root, folder, folder, "-t", f"{minutes:g}", "--pretrained", str(model), *words
        )
        add({"scenario": f"stock, {name}", "minutes": minutes} | dice_of(manifest))
    copy_patients(root / "channels", slice(24, 48))
    for image in (root / "channels").rglob("img.nii.gz"):
        image.rename(image.with_name("img_T1.nii.gz"))
        shutil.copy(image.with_name("img_T1.nii.gz"), image.with_name("img_FLAIR.nii.gz"))
    folders = ("channels", "out", "--work_dir", "work", "-d", "channels", "-i", "T1,FLAIR")
    words = ("-t", f"{minutes:g}", "--pretrained", str(model), "-l", LABELS)
    run(root, "train", *folders, *words)
    add(
        {"scenario": "stock, second channel", "minutes": minutes}
        | dice_of(read_manifest(root, "channels"))
    )


def train_stock(root: Path) -> Path:
    """Train with stock nnU-Net's own commands; return its results folder."""
    raw = root / "stock_raw" / "Dataset501_Hippocampus"
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    patients = patients_of("train")[:24]
    for patient in patients:
        (label,) = (path for path in patient.iterdir() if not path.name.startswith("img"))
        shutil.copy(
            patient / "img.nii.gz", raw / "imagesTr" / f"hippocampus_{patient.name}_0000.nii.gz"
        )
        shutil.copy(label, raw / "labelsTr" / f"hippocampus_{patient.name}.nii.gz")
    description = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
        "numTraining": len(patients),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    environment = os.environ | {
        "nnUNet_raw": str(root / "stock_raw"),
        "nnUNet_preprocessed": str(root / "stock_preprocessed"),
        "nnUNet_results": str(root / "stock_results"),
        "nnUNet_compile": "f",
    }
    prepare = Path(sys.executable).parent / "nnUNetv2_plan_and_preprocess"
    for command in (
        [str(prepare), "-d", "501", "-c", "3d_fullres"],
        # Its command looks for the trainer in every module, and one wants a torchvision that the
        # CPU builds of torch do not match.
        [sys.executable, "-c", STOCK_TRAINING],
    ):
        subprocess.run(command, env=environment, capture_output=True, check=True)
    (model,) = (root / "stock_results").glob("*/nnUNetTrainer_1epoch__*")
    return model


def rates(root: Path, given: argparse.Namespace) -> None:
    """Fine-tune on other patients, with images as known and others, by several recipes."""
    for task in TASKS:
        job = prepare_rates(root, task, given.seed)
        for steps, recipe in product(STEPS, RECIPES):
            add(tune_by_steps(job, steps, recipe) | {"seed": given.seed, "task": task})
        for steps in STEPS:
            scratch = tune_by_steps(job, steps, choose_recipe(steps), start=False)
            add(scratch | {"seed": given.seed, "task": task})


def prepare_rates(root: Path, task: str, seed: str) -> Any:
    """Make a run on other patients than the model's, up to its preprocessed cases."""
    from nnunet_medseg.hardware import Device
    from nnunet_medseg.nnunet.environment import prepare
    from nnunet_medseg.run_folder import Journal, RunFolder
    from nnunet_medseg.workflows.options import Folders, read_train_options
    from nnunet_medseg.workflows.stage import Run
    from nnunet_medseg.workflows.stages import checking, planning, pretraining

    work = root / "rates"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    copy_patients(work / "in", slice(24, 48))
    if task == "inverted":
        for path in (work / "in").rglob("img.nii.gz"):
            invert(path)
    options = read_train_options(
        dataset_name="rates", label=LABELS, image_type="MRI", minutes=3, seed=seed,
        pretrained=str(root / "out" / "First"),
    )  # fmt: skip
    folder = RunFolder(work / "run")
    places = Folders(work / "in", work, work)
    device = Device("cpu", 0, "CPU", has_fast_bf16=True)
    job = Run(folder, work / "in", places, options, device, folder.root)
    prepare({"nnUNet_raw": folder.raw, "nnUNet_preprocessed": folder.preprocessed,
        "nnUNet_results": folder.results})  # fmt: skip
    folder.create(Journal(program_version="", options={}, dataset_folder=""))
    for stage in (pretraining.read_given, checking.check, checking.convert, planning.plan,
        planning.preprocess):  # fmt: skip
        stage(job)
    return job


def invert(path: Path) -> None:
    """Make bright what is dark, as another sequence of MRI may."""
    from nnunet_medseg.volume import read_volume, write_volume

    volume = read_volume(path)
    write_volume(path, volume.with_array(volume.array.max() - volume.array))


def tune_by_steps(job: Any, steps: int, recipe: Recipe, *, start: bool = True) -> dict[str, Any]:
    from screen import count_work, evaluate

    from nnunet_medseg.budget.clock import TrainingClock
    from nnunet_medseg.dataset.raw_layout import describe_json
    from nnunet_medseg.nnunet.planning import configuration_of
    from nnunet_medseg.nnunet.trainer import make_trainer
    from nnunet_medseg.workflows.stages.common import (
        prepared_folder,
        training_setup,
        trainings_of,
    )

    (training,) = trainings_of(job)
    plans, configuration = configuration_of(training.folder.root)
    setup = training_setup(job, training, recipe, prepared_folder(job, training), float(steps))
    setup = replace(setup, watched=())
    setup = setup if start else replace(setup, start=None)
    setup.checkpoint.unlink(missing_ok=True)
    setup.history.unlink(missing_ok=True)
    trainer = make_trainer(plans, configuration, describe_json(job.folder.raw), setup)
    # Steps of whole patches are seconds here.
    trainer.clock = TrainingClock(steps, now=count_work(trainer))
    trainer.run_training()
    losses = [json.loads(line)["loss"] for line in setup.history.read_text().splitlines()]
    facts = {"scenario": "rates", "steps": steps, "start": start, "rate": recipe.peak_rate}
    facts |= {"optimizer": recipe.optimizer, "warm_up": recipe.warm_up_share}
    facts |= {"growth": recipe.growth, "weight_decay": recipe.weight_decay}
    facts["losses"] = [round(loss, 3) for loss in losses[:6]]
    return facts | evaluate(job, [trainer.network_state()], plans, configuration)


STEPS = (100, 400)
# Images of the second patients: as the model knows them, and dark what is bright in these.
TASKS = ("same", "inverted")
SGD = Recipe(mirroring=False, warm_up_share=0.1, peak_rate=0.02)
MUON = replace(SGD, optimizer="muon", peak_rate=0.1)
RECIPES = (
    SGD,
    *(replace(MUON, peak_rate=rate) for rate in (0.01, 0.03, 0.1)),
    *(replace(MUON, growth=0.6, weight_decay=decay) for decay in (MUON.weight_decay, 0.05)),
)


# --- scenario two ------------------------------------------------------------------------------


def vary(root: Path, given: argparse.Namespace) -> None:
    """Four variants on a kept dataset; then the start of another training on it."""
    minutes = given.minutes or 12.0
    copy_patients(root / "in", slice(0, 48))
    folders = ("in", "out", "--work_dir", "work", "-i", "MRI", "-l", LABELS, "-d", "Kept")
    run(root, "train", *folders, "-t", "0.3", "--keep_dataset", "--delete_input")
    words = ("--input", "in", "--output", "out", "--work_dir", "work", "-d", "Kept")
    grid = ("--vary", "learning_rate=0.05,0.01", "--vary", "mirroring=on,off")
    _, seconds = run(root, "vary", *words, "-t", f"{minutes:g}", *grid)
    facts = {"scenario": "vary", "minutes": minutes, "seconds": round(seconds, 1)}
    add(facts | dice_of(read_manifest(root, "Kept_2")))
    for fold_minutes in ("1", "2"):
        started_s = first_step_s(root, fold_minutes)
        add({"scenario": "start on a kept dataset", "minutes": fold_minutes,
            "to_first_step_s": round(started_s, 1)})  # fmt: skip


def first_step_s(root: Path, minutes: str) -> float:
    """Return the seconds from the command to the first epoch of an iteration or two.

    The bar of the training is shown when its first iteration is done; on no terminal, the first
    line of the history tells the time.
    """
    folders = ("in", "out", "--work_dir", "work", "-d", "Kept", "-t", minutes)
    command = [sys.executable, "-m", "nnunet_medseg", "train", *folders, "--fresh"]
    started = time.time()
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        history = root / "work" / "runs" / "Kept" / "trainings" / "training" / "history.jsonl"
        while not history.exists() or not history.read_text().endswith("\n"):
            if process.poll() is not None:
                sys.exit("the training has ended before its first epoch")
            time.sleep(0.05)
        epoch = json.loads(history.read_text().splitlines()[0])
        # The epoch's end, without its steps but the first.
        first = history.stat().st_ctime - epoch["iteration_s"] * (epoch["iterations"] - 1)
        process.terminate()
        process.communicate()
    shutil.rmtree(root / "work" / "runs" / "Kept", ignore_errors=True)
    return first - started


def cv(root: Path, given: argparse.Namespace) -> None:
    """Five folds, and stock nnU-Net with the ensemble."""
    minutes = given.minutes or 10.0
    copy_patients(root / "all", slice(0, 48))
    for path in (root / "all").rglob("validate.nii.gz"):
        path.rename(path.with_name("train.nii.gz"))
    folders = ("all", "out", "--work_dir", "work", "-i", "MRI", "-l", LABELS, "-d", "Folds")
    text, seconds = run(root, "train", *folders, "-t", f"{minutes:g}", "-f", "cv")
    manifest = read_manifest(root, "Folds")
    images, found = root / "images", root / "found"
    images.mkdir()
    patient = next(path for path in sorted((root / "all").iterdir()))
    shutil.copy(patient / "img.nii.gz", images / "case_0000.nii.gz")
    places = {"IMAGES": str(images), "SEGMENTATIONS": str(found),
        "MODEL": str(root / "out" / "Folds" / "model")}  # fmt: skip
    words = [places.get(word, word) for word in manifest["stock_command"].split()]
    command = [str(Path(sys.executable).parent / words[0]), *words[1:]]
    subprocess.run(command, capture_output=True, check=True)
    agreement = re.search(r"agrees on ([\d.]+)%", text)
    facts = {"scenario": "cv", "minutes": minutes, "seconds": round(seconds, 1)}
    facts |= {"used_s": manifest["training"]["used_s"], "cases": manifest["evaluation"]["cases"]}
    facts |= {"stock_agreement": agreement.group(1) if agreement else None}
    facts |= {"stock_opens": sorted(path.name for path in found.glob("*.nii.gz"))}
    add(facts | dice_of(manifest))


SCENARIOS = {"tune": tune, "stock": stock, "vary": vary, "cv": cv, "rates": rates}

if __name__ == "__main__":
    main()
