"""What it is worth that a training keeps the memory which its steps free.

    .venv/bin/python bench/freed.py [ROUNDS]

Steps with Muon, channels last, of the plans of bench/speed.py with all and with half of their
features. Keeping and not keeping, which leaves glibc to itself, take turns, each time and for each
plan in a fresh process, since glibc learns from what is freed. The fastest step of each counts, and
the fewest pages that a step takes from the system. One JSON line is added to
bench/results/freed.jsonl, and a table is printed.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

from speed import CONFIGURATION, DESCRIPTION, PLANS, make_plans

from nnunet_medseg.nnunet.environment import prepare

RESULTS = Path(__file__).resolve().parent / "results" / "freed.jsonl"
WAYS = ("left to glibc", "kept")
ROUNDS = 2
STEPS = 10  # the first two are a cold start
WIDTHS = (1.0, 0.5)


def main() -> None:
    if sys.argv[1:2] == ["--inside"]:
        way, shape, width = sys.argv[2:]
        print(json.dumps(measure(way == "kept", shape, float(width))))
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    best: dict[str, dict[str, Any]] = {way: {} for way in WAYS}
    for _, (shape, width), way in product(range(rounds), product(PLANS, WIDTHS), WAYS):
        command = [sys.executable, __file__, "--inside", way, shape, str(width)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        measured = json.loads(printed.splitlines()[-1])
        name = f"{shape or 'volumes '}width {width:g}"
        print(name, way, measured, flush=True)
        before = best[way].get(name, measured)
        best[way][name] = {value: min(before[value], measured[value]) for value in measured}
    record = {"ways": best, "date": time.strftime("%Y-%m-%d"), "rounds": rounds}
    record |= {"cores": len(os.sched_getaffinity(0)), "numbers": numbers()}
    with RESULTS.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record, sort_keys=True) + "\n")
    show(best)


def numbers() -> str:
    from nnunet_medseg.hardware import choose_device

    return "bfloat16" if choose_device("cpu").has_fast_bf16 else "float32"


def show(best: dict[str, dict[str, Any]]) -> None:
    own, kept = (best[way] for way in WAYS)
    print("| plan | left to glibc | kept | ratio | pages a step | peak memory |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, before in own.items():
        after = kept[name]
        times = f"{before['s']:.3f} s | {after['s']:.3f} s | {after['s'] / before['s']:.2f}"
        pages = f"{before['pages']}, {after['pages']}"
        print(f"| {name} | {times} | {pages} | {before['peak_mb']}, {after['peak_mb']} MB |")


def measure(is_kept: bool, shape: str, width: float) -> dict[str, Any]:
    """Time steps in this process."""
    with tempfile.TemporaryDirectory() as folder:
        prepare({f"nnUNet_{name}": Path(folder) for name in ("raw", "preprocessed", "results")})
        from nnunet_medseg.budget.recipe import choose_recipe
        from nnunet_medseg.hardware import choose_device, freed_memory_kept
        from nnunet_medseg.nnunet.trainer import TrainingSetup

        setup = TrainingSetup(
            device=choose_device("cpu"), asked_s=600.0, seed=0, train=(), watched=(),
            checkpoint=Path(folder, "c"), history=Path(folder, "h"), log=Path(folder, "log.txt"),
            recipe=choose_recipe(0), prepared=Path(folder), channels_last=True,
        )  # fmt: skip
        plan = make_plans(*PLANS[shape], width)
        with freed_memory_kept() if is_kept else nullcontext():
            measured = time_steps(plan, setup)
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of KiB
    return measured | {"peak_mb": peak_bytes // 10**6}


def time_steps(plan: dict[str, Any], setup: Any) -> dict[str, float]:
    from nnunet_medseg.nnunet.trainer import make_trainer

    trainer = make_trainer(plan, CONFIGURATION, DESCRIPTION, setup)
    trainer.prepare_network()
    batch = trainer.random_batch()
    times, pages = [], []
    for _ in range(STEPS):
        started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        trainer.train_step(batch)
        times.append(time.monotonic() - started)
        pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return {"s": round(min(times[2:]), 4), "pages": min(pages[2:])}


if __name__ == "__main__":
    main()
