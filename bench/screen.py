"""Recipes and sizes compared at given numbers of steps; the tables in docs/concepts/budget.md.

    .venv/bin/python bench/screen.py JOBS.jsonl [--root FOLDER] [--threads N]

Each line of JOBS names a dataset of bench/datasets.py, a number of steps, a seed, and fields of
`Recipe` and `PlanSize` that differ from the defaults:

    {"dataset": "organs", "steps": 300, "seed": 1, "recipe": {"mirroring": false}, "size": {}}

The real trainer runs, on a clock that counts steps of whole patches, a smaller patch as its part of
the voxels, so that other programs on the machine do not change the result. One line a job is added
to bench/results/screen.jsonl: Dice on the held-out cases, whole images, of the last weights and of
their running average. With `"batch": 4` a step has as many patches, and counts as two where the
plan has two. With `"cut_at": 0.5` a training is ended at half of the steps, in the middle of its
schedule. With `"seeds": [1, 2, 3]` in place of a seed there is a training for each, and a score of
their ensemble: what more trainings, but no more cases, could give; all else in the line is of the
last one. Jobs that are already there are passed over; several processes may share a list.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import OPTIONS, write_dataset
from filelock import FileLock

from nnunet_medseg.budget.recipe import Recipe
from nnunet_medseg.budget.size import PlanSize
from nnunet_medseg.dataset.checked import load_checked
from nnunet_medseg.dataset.raw_layout import describe_json
from nnunet_medseg.dataset.splits import Split
from nnunet_medseg.evaluation.overlap import dice_by_label, mean_dice
from nnunet_medseg.files import read_json
from nnunet_medseg.hardware import choose_device
from nnunet_medseg.nnunet.environment import prepare
from nnunet_medseg.run_folder import DATASET_NAME, Journal, RunFolder
from nnunet_medseg.workflows.options import Folders, read_train_options
from nnunet_medseg.workflows.stage import Run
from nnunet_medseg.workflows.stages import checking, planning
from nnunet_medseg.workflows.stages.common import cases_of, raw_files

RESULTS = Path(__file__).resolve().parent / "results" / "screen.jsonl"
AVERAGING = 0.1  # of the average that is evaluated beside the last weights


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("jobs", type=Path)
    parser.add_argument("--root", type=Path, default=Path(tempfile.gettempdir()) / "screen")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    while (job := take(given.jobs, given.root)) is not None:
        started = time.monotonic()
        record = run(job, given.root, given.threads)
        record["wall_s"] = round(time.monotonic() - started, 1)
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record, sort_keys=True) + "\n")
        print(json.dumps(record, sort_keys=True), flush=True)


def take(jobs: Path, root: Path) -> dict[str, Any] | None:
    """Return the next job that nobody has done or is doing."""
    root.mkdir(parents=True, exist_ok=True)
    taken = root / "taken"
    with FileLock(root / "lock"):
        before = taken.read_text().splitlines() if taken.exists() else []
        for line in jobs.read_text().splitlines():
            if line.strip() and line not in before:
                taken.write_text("\n".join([*before, line]) + "\n")
                return dict(json.loads(line))
    return None


def run(job: dict[str, Any], root: Path, threads: int) -> dict[str, Any]:
    size = PlanSize(**job.get("size", {}))
    recipe = replace(Recipe(averaging=AVERAGING), **job.get("recipe", {}))
    with FileLock(root / f"{job['dataset']}.lock"):
        measured = measure(job["dataset"], root)
    folder = root / f"{job['dataset']}-{size.voxel_factor}-{size.width}-{size.patch_voxels}"
    with FileLock(f"{folder}.lock"):
        prepare_size(measured, folder, size)
    plans = read_json(folder / DATASET_NAME / "nnUNetPlans.json")
    ((configuration, chosen),) = plans["configurations"].items()

    def score(*states: dict[str, Any]) -> dict[str, Any]:
        return evaluate(measured, states, plans, configuration)

    states = []
    for seed in job["seeds"] if "seeds" in job else [job["seed"]]:
        trainer, seconds = train(job | {"seed": seed}, measured, folder, recipe, threads)
        states.append(copy.deepcopy(trainer.network_state()))
    result: dict[str, Any] = {"last": score(states[-1])}
    if len(states) > 1:
        result["each"] = [score(state)["dice"] for state in states[:-1]] + [result["last"]["dice"]]
        result["ensemble"] = score(*states)
    if trainer.average.weights is not None:
        trainer.use_average()
        result["average"] = score(trainer.network_state())
    facts = {"patch": chosen["patch_size"], "spacing": chosen["spacing"]}
    facts |= {
        "iterations": trainer.progress.iterations,
        "batch": job.get("batch", chosen["batch_size"]),
        "train_s": seconds,
        "threads": threads,
        "numbers": "bfloat16" if measured.device.has_fast_bf16 else "float32",
    }
    return job | facts | result


def measure(name: str, root: Path) -> Run:
    """Write, check and convert a dataset, and take its fingerprint, once."""
    options = read_train_options(dataset_name=name, minutes=5, fold="0", **OPTIONS[name])
    folders = Folders(root / "input" / name, root / "output", root / "work")
    run = Run(
        RunFolder(folders.work / "runs" / name), folders.input, folders, options,
        choose_device("cpu"), folders.work / "runs" / name,
    )  # fmt: skip
    prepare({"nnUNet_raw": run.folder.raw, "nnUNet_preprocessed": run.folder.preprocessed,
        "nnUNet_results": run.folder.results})  # fmt: skip
    if not run.folder.root.exists():
        write_dataset(name, folders.input)
        folders.work.mkdir(exist_ok=True)
        run.folder.create(Journal(program_version="", options={}, dataset_folder=""))
        for stage in (checking.check, checking.convert, planning.plan):
            stage(run)
    return run


def only_split(run: Run) -> Split:
    (split,) = load_checked(run.folder.check_file).folds.values()
    return split


def prepare_size(run: Run, folder: Path, size: PlanSize) -> None:
    from nnunet_medseg.nnunet.planning import Preparation, make_plans, preprocess, write_plans

    target = folder / DATASET_NAME
    if (folder / "done").exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    for name in ("dataset_fingerprint.json", "dataset.json"):
        shutil.copy(run.folder.dataset / name, target / name)
    prepare({"nnUNet_preprocessed": folder})
    plans, configuration = make_plans(DATASET_NAME, size)
    write_plans(target, plans)
    preparation = Preparation(
        plans, configuration, describe_json(run.folder.raw), folder / "prepared"
    )
    cases = [raw_files(case) for case in cases_of(run, only_split(run).train)]
    preprocess(cases, preparation, workers=2, log=folder / "log.txt")
    (folder / "done").touch()


def train(
    job: dict[str, Any], run: Run, folder: Path, recipe: Recipe, threads: int
) -> tuple[Any, float]:
    import torch

    from nnunet_medseg.budget.clock import TrainingClock
    from nnunet_medseg.nnunet.trainer import TrainingSetup, make_trainer

    prepare({"nnUNet_preprocessed": folder})
    plans = read_json(folder / DATASET_NAME / "nnUNetPlans.json")
    scratch = folder / f"job-{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    setup = TrainingSetup(
        device=run.device, asked_s=float(job["steps"]), seed=job["seed"],
        train=only_split(run).train, watched=(), prepared=folder / "prepared",
        checkpoint=scratch / "checkpoint.pth", history=scratch / "history.jsonl",
        log=scratch / "log.txt", recipe=recipe,
    )  # fmt: skip
    ((configuration, chosen),) = plans["configurations"].items()
    whole = math.prod(chosen["patch_size"]) * chosen["batch_size"]
    chosen["batch_size"] = job.get("batch", chosen["batch_size"])
    trainer = make_trainer(plans, configuration, describe_json(run.folder.raw), setup)
    torch.set_num_threads(threads)
    started = time.monotonic()
    trainer.clock = TrainingClock(job["steps"], now=count_work(trainer, whole))
    trainer.run_training(should_stop=lambda: trainer.clock.share >= job.get("cut_at", math.inf))
    return trainer, round(time.monotonic() - started, 1)


def count_work(trainer: Any, whole: int) -> Callable[[], float]:
    """Return a clock of a training, on which a step of `whole` voxels takes a second."""
    own, done = trainer.train_step, [0.0]

    def step(batch: dict[str, Any]) -> Any:
        done[0] += batch["data"][:, 0].numel() / whole
        return own(batch)

    trainer.train_step = step
    return lambda: done[0]


def evaluate(
    run: Run, states: Sequence[dict[str, Any]], plans: Any, configuration: str
) -> dict[str, Any]:
    """Score a network, or an ensemble of several."""
    from nnunet_medseg.nnunet.inference import Model, Segmenter

    weights = tuple(state["network_weights"] for state in states)
    description = describe_json(run.folder.raw)
    model = Model(plans, description, configuration, states[0]["mirror_axes"], weights)
    segmenter = Segmenter(model, run.device, in_bfloat16=run.device.has_fast_bf16)
    labels = [value for value in description["labels"].values() if value]
    scores = []
    for case in cases_of(run, only_split(run).evaluate):
        predicted = segmenter.segment(case.images)
        scores.append(dice_by_label(segmenter.read_truth(case.label)[0], predicted, labels))
    means = {label: mean_dice([score[label] for score in scores]) for label in labels}
    return {
        "dice": round(mean_dice(list(means.values())), 4),
        "labels": {str(label): round(value, 4) for label, value in means.items()},
    }


if __name__ == "__main__":
    main()
