"""The checks that need a GPU, in one go, without a network, from a checkout.

    .venv/bin/python bench/gpu.py FOLDER [--checks job,steps,dice,memory] [--seeds 1,2,3]

job     the main job of 1 and 3 minutes: whether it ends in time, and its model predicts on the CPU
steps   seconds a step, ours beside stock nnU-Net's on the same plans and random tensors, in turn:
        in both precisions, compiled and not, with channels last; and from which budget on
        compiling pays for what it costs at the start
dice    Dice at equal minutes, ours beside stock and stock planned for 10,000 epochs
memory  a training with far too little memory: whether it goes on with a smaller batch or patch

FOLDER takes gpu.json, to which each check is added, and budget.jsonl, whose lines are those of
bench/budget.py. A short table is printed last. `job` takes about 7 minutes, `memory` 2, `dice` 7 a
seed; how long compiling takes in `steps` nobody knows yet. With `--device cpu` the same code runs
with small plans, to see that it works.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from budget import HERE, add, run_ours, train_here
from speed import CONFIGURATION, DESCRIPTION, make_plans

from nnunet_medseg.budget.epochs import tolerance_s
from nnunet_medseg.nnunet.environment import prepare

JOBS = {"organs": 1.0, "hippocampus": 3.0}
DICE_MINUTES = {"hippocampus": "0.33,0.67,1.33"}
ROUNDS, STEPS = 3, 10
# Of 128 voxels a side as nnU-Net plans them for large volumes; on a CPU only to see that it works.
PATCHES = {
    "cuda": {"40x56x40": ((40, 56, 40), (32, 64, 128, 256)),
        "128x128x128": ((128, 128, 128), (32, 64, 128, 256, 320, 320))},
    "cpu": {"16x16x16": ((16, 16, 16), (8, 16, 32))},
}  # fmt: skip
# Of 140 GB some 2: nnU-Net's plan for a volume of 0.6 mm takes four times as much.
MEMORY_SHARE = 0.015
LIMITED = """
import sys, torch
torch.cuda.set_per_process_memory_fraction({share})
from nnunet_medseg.cli.main import program
sys.exit(program())
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checks", default="job,memory,steps,dice")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seeds", default="1,2,3")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    checks: dict[str, Callable[[], dict[str, Any]]] = {
        "job": lambda: check_job(given.device),
        "steps": lambda: check_steps(given.device),
        "dice": lambda: check_dice(given.device, given.seeds, given.folder / "budget.jsonl"),
        "memory": lambda: check_memory(given.device),
    }
    results = given.folder / "gpu.json"
    found: dict[str, Any] = json.loads(results.read_text()) if results.is_file() else {}
    for name in given.checks.split(","):
        found[name] = checks[name]()
        # What has been measured stays, also when the machine is taken back.
        results.write_text(json.dumps(found, indent=2) + "\n")
    for name, facts in found.items():
        for row, value in facts.items():
            print(f"{name:8} {row:56} {value}")


# --- the main job ------------------------------------------------------------------------------


def check_job(device: str) -> dict[str, Any]:
    """Return for each dataset when it ended, and how many images its model segmented on a CPU."""
    found = {}
    for dataset, minutes in JOBS.items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            manifest = train_here(root, dataset, minutes, device=device)
            training = manifest["training"]
            step_s = training["used_s"] / training["iterations"]
            found[dataset] = {
                "off_s": round(training["used_s"] - 60 * minutes, 2),
                "allowed_s": round(tolerance_s(60 * minutes, step_s), 2),
                "dice": manifest["evaluation"]["mean_dice"],
                "in_steps": training["share_in_steps"],
                "segmented_on_cpu": segment_on_cpu(root, dataset),
            }
    return found


def segment_on_cpu(root: Path, dataset: str) -> int:
    """Return how many segmentations two held-out images have with the model, on the CPU."""
    images, results = root / "images", root / "results"
    images.mkdir()
    held_out = sorted((root / "in" / dataset).glob("*/validate.nii.gz"))[:2]
    for label in held_out:
        name = f"{label.parent.name}.nii.gz"
        os.link(label.with_name("img.nii.gz"), images / name)
    model = root / "out" / "Bench" / "model"
    words = ["predict", images, results, "--model", model, "--device", "cpu"]
    words += ["--work_dir", root / "work"]
    subprocess.run(
        [sys.executable, "-m", "nnunet_medseg", *(str(word) for word in words)], check=True
    )
    return len(list(results.glob("*.nii.gz")))


# --- steps -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """One way to do a training step."""

    who: str
    numbers: str
    is_compiled: bool = False
    has_channels_last: bool = False

    @property
    def name(self) -> str:
        """For the table."""
        extras = (" compiled" * self.is_compiled) + (" channels last" * self.has_channels_last)
        return f"{self.who} {self.numbers}{extras}"


def check_steps(device: str) -> dict[str, Any]:
    """Return for each patch and variant the seconds of the first step and of a later one.

    What is compiled is timed in turn with the same uncompiled, each pair in a process and with a
    cache of its own: nothing that another has compiled is there.
    """
    numbers = ("float16", "bfloat16") if device == "cuda" else ("float32",)
    plain = [Variant(who, each) for each in numbers for who in ("ours", "stock")]
    groups = [[*plain, *(Variant("ours", each, has_channels_last=True) for each in numbers)]]
    if device == "cuda":
        groups += [[each, replace(each, is_compiled=True)] for each in plain]
    found: dict[str, Any] = {}
    for (patch, sizes), group in product(PATCHES[device].items(), groups):
        spawn = multiprocessing.get_context("spawn")
        with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, spawn) as apart:
            plans = make_plans(*sizes, 1.0)
            times = apart.submit(time_variants, group, plans, device, Path(folder)).result()
        # The first group has timed what is not compiled.
        found = {f"{patch} {each.name}": times[each] for each in group} | found
        if group[-1].is_compiled:
            found[f"{patch} {group[-1].name} pays from"] = pays_from(*(times[e] for e in group))
    return found


def time_variants(
    variants: list[Variant], plans: dict[str, Any], device: str, folder: Path
) -> dict[Variant, dict[str, float]]:
    os.environ |= {"TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
    prepare({f"nnUNet_{name}": folder for name in ("raw", "preprocessed", "results")})
    # The very first step on a device loads its libraries.
    plain = replace(variants[0], is_compiled=False)
    seconds_of(make_step(plain, plans, device, folder), plain, device)
    step_of = {each: make_step(each, plans, device, folder) for each in variants}
    first_s = {each: seconds_of(step_of[each], each, device) for each in variants}
    later_s = dict.fromkeys(variants, float("inf"))
    for _ in range(ROUNDS):
        for each in variants:
            # Not the first of a turn, which finds the caches of another's.
            seconds_of(step_of[each], each, device)
            took_s = sum(seconds_of(step_of[each], each, device) for _ in range(STEPS)) / STEPS
            later_s[each] = min(later_s[each], took_s)
    return {
        each: {"first_s": round(first_s[each], 3), "step_s": round(later_s[each], 5)}
        for each in variants
    }


def make_step(
    variant: Variant, plans: dict[str, Any], device: str, folder: Path
) -> Callable[[], Any]:
    """Return what does a training step of a variant with its own network, on random tensors."""
    trainer = make_ours(variant, plans, device, folder)
    batch = trainer.random_batch()
    if variant.who == "stock":
        trainer = make_stock(variant, plans, device)
    return lambda: trainer.train_step(batch)


def make_ours(variant: Variant, plans: dict[str, Any], device: str, folder: Path) -> Any:
    from nnunet_medseg.budget.recipe import choose_recipe
    from nnunet_medseg.hardware import choose_device
    from nnunet_medseg.nnunet.trainer import TrainingSetup, make_trainer

    setup = TrainingSetup(
        # On a CPU the numbers are those of the variant too.
        device=replace(choose_device(device), has_fast_bf16=False), asked_s=600.0, seed=0,
        train=(), watched=(), checkpoint=folder / "c", history=folder / "h",
        log=folder / "log.txt", recipe=choose_recipe(0), prepared=folder,
        compiled=variant.is_compiled and variant.who == "ours",
        channels_last=variant.has_channels_last,
    )  # fmt: skip
    trainer = make_trainer(plans, CONFIGURATION, DESCRIPTION, setup)
    trainer.prepare_network()
    return measurable(trainer, device)


def make_stock(variant: Variant, plans: dict[str, Any], device: str) -> Any:
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    os.environ |= {"nnUNet_compile": str(variant.is_compiled)}
    trainer = nnUNetTrainer(
        plans | {"continue_training": False}, CONFIGURATION, "all", DESCRIPTION,
        torch.device(device),
    )  # fmt: skip
    prepared = Path(trainer.preprocessed_dataset_folder)
    prepared.mkdir(parents=True, exist_ok=True)
    # It looks at the kind of the files that it would read.
    (prepared / "case.b2nd").touch()
    trainer.initialize()
    return measurable(trainer, device)


def measurable(trainer: Any, device: str) -> Any:
    """Let no step be left out, and so be faster, because gradients overflow."""
    import torch

    if device == "cuda":
        trainer.grad_scaler = torch.amp.GradScaler(device, init_scale=1.0)
    return trainer


def seconds_of(step: Callable[[], Any], variant: Variant, device: str) -> float:
    import torch

    if device == "cuda":
        # nnU-Net's autocast names no type.
        torch.set_autocast_dtype("cuda", getattr(torch, variant.numbers))
    started = time.monotonic()
    # The loss comes back to the CPU; the step of the optimizer may still be at work then.
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.monotonic() - started


def pays_from(plain: dict[str, float], compiled: dict[str, float]) -> str:
    """Return the minutes from which on compiling does more steps than it costs."""
    saved = 1 - compiled["step_s"] / plain["step_s"]
    if saved <= 0:
        return "no budget"
    return f"{(compiled['first_s'] - plain['first_s']) / saved / 60:.1f} minutes"


# --- Dice --------------------------------------------------------------------------------------


def check_dice(device: str, seeds: str, results: Path) -> dict[str, Any]:
    """Add lines to `results`; return the Dice of each command, by dataset, minutes and seed."""
    found = {}
    for (dataset, minutes), seed in product(DICE_MINUTES.items(), seeds.split(",")):
        for each in minutes.split(","):
            record = run_ours(dataset, float(each), int(seed), device=device)
            add(record, results)
        for what in ("stock", "stock_10000epochs"):
            words = [what, dataset, "--minutes", minutes, "--seed", seed, "--device", device]
            words += ["--results", str(results)]
            subprocess.run([sys.executable, str(HERE / "budget.py"), *words], check=True)
    for line in results.read_text().splitlines():
        run = json.loads(line)
        name = f"{run['dataset']} {run['minutes']:g} min seed {run['seed']} {run['what']}"
        found[name] = round(run["dice"], 3)
    return found


# --- memory ------------------------------------------------------------------------------------


def check_memory(device: str) -> dict[str, Any]:
    """Return what a training with far too little memory made of its plan, and its Dice."""
    if device != "cuda":
        return {"skipped": "only the memory of a GPU can be limited"}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        start = ["-c", LIMITED.format(share=MEMORY_SHARE)]
        manifest = train_here(root, "large", 1.0, plan="default", device=device, start=start)
    # It ends in the patch and the batch that fitted.
    return {"plan": manifest["plan"]["size"], "dice": manifest["evaluation"]["mean_dice"]}


if __name__ == "__main__":
    main()
