"""What it is worth that a training keeps the memory which its steps free.

    .venv/bin/python bench/freed.py [ROUNDS]

Steps with Muon, channels last, of the plans of bench/speed.py with all and with half of their
features. Keeping and not keeping, which leaves glibc to itself, take turns, each time in a fresh
process, since glibc learns from what is freed. The fastest step of each counts, and the pages that
a step takes from the system. One JSON line is added to bench/results/freed.jsonl, and a table is
printed.
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
STEPS = 6  # the first two are a cold start


def main() -> None:
    if sys.argv[1:2] == ["--inside"]:
        print(json.dumps(measure(sys.argv[2] == "kept")))
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _, way in product(range(rounds), WAYS):
        command = [sys.executable, __file__, "--inside", way]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[way].append(json.loads(printed.splitlines()[-1]))
        print(way, found[way][-1], flush=True)
    best = {way: best_of(runs) for way, runs in found.items()}
    record = {"ways": best, "date": time.strftime("%Y-%m-%d"), "rounds": rounds}
    record |= {"cores": len(os.sched_getaffinity(0))}
    with RESULTS.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record, sort_keys=True) + "\n")
    show(best)


def best_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the fastest step and the fewest pages of each plan, and the highest peak."""
    plans = {
        name: {value: min(run["plans"][name][value] for run in runs) for value in ("s", "pages")}
        for name in runs[0]["plans"]
    }
    return {
        "plans": plans, "peak_mb": max(run["peak_mb"] for run in runs),
        "numbers": runs[0]["numbers"],
    }  # fmt: skip


def show(best: dict[str, dict[str, Any]]) -> None:
    own, kept = (best[way] for way in WAYS)
    print("| plan | left to glibc | kept | ratio | pages a step |")
    print("| --- | --- | --- | --- | --- |")
    for name, before in own["plans"].items():
        after = kept["plans"][name]
        times = f"{before['s']:.3f} s | {after['s']:.3f} s | {after['s'] / before['s']:.2f}"
        print(f"| {name} | {times} | {before['pages']}, {after['pages']} |")
    print(f"peak memory: {own['peak_mb']} MB, {kept['peak_mb']} MB; {kept['numbers']}")


def measure(is_kept: bool) -> dict[str, Any]:
    """Time steps in this process."""
    with tempfile.TemporaryDirectory() as folder:
        prepare({f"nnUNet_{name}": Path(folder) for name in ("raw", "preprocessed", "results")})
        from nnunet_medseg.budget.recipe import choose_recipe
        from nnunet_medseg.hardware import choose_device, freed_memory_kept
        from nnunet_medseg.nnunet.trainer import TrainingSetup

        device = choose_device("cpu")
        setup = TrainingSetup(
            device=device, asked_s=600.0, seed=0, train=(), watched=(),
            checkpoint=Path(folder, "c"), history=Path(folder, "h"), log=Path(folder, "log.txt"),
            recipe=choose_recipe(0), prepared=Path(folder), channels_last=True,
        )  # fmt: skip
        plans: dict[str, dict[str, float]] = {}
        for shape, width in product(PLANS, (1.0, 0.5)):
            plan = make_plans(*PLANS[shape], width)
            name = f"{shape or 'volumes '}width {width:g}"
            with freed_memory_kept() if is_kept else nullcontext():
                plans[name] = time_steps(plan, setup)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 10**6  # of KiB
    numbers = "bfloat16" if device.has_fast_bf16 else "float32"
    return {"plans": plans, "peak_mb": peak_mb, "numbers": numbers}


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
