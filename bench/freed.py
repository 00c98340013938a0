"""What it is worth that a training keeps the memory which its steps free.

    .venv/bin/python bench/freed.py [ROUNDS]
    .venv/bin/python bench/freed.py row [TRAININGS]

Steps with Muon, channels last, of the plans of bench/speed.py and one of larger volumes, with all
and with half of their features. Keeping and not keeping, which leaves glibc to itself, take turns,
each time and for each plan in a fresh process, since glibc learns from what is freed. The fastest
step of each counts, and the fewest pages that a step takes from the system. One JSON line is added
to bench/results/freed.jsonl, and a table is printed.

`row` is for folds and variants: trainings one after the other in one process, each of which leaves
many small blocks in the heap, as evaluation and proof would. Added and printed are, for each
training, the median of the pages that a step takes from the system, and its fastest step.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import product
from pathlib import Path
from typing import Any

from speed import CONFIGURATION, DESCRIPTION, make_plans
from speed import PLANS as SMALL_PLANS

from nnunet_medseg.nnunet.environment import prepare

RESULTS = Path(__file__).resolve().parent / "results" / "freed.jsonl"
WAYS = ("left to glibc", "kept")
# With blocks of 75 MB and more.
PLANS = SMALL_PLANS | {"large volumes ": ((64, 96, 96), (32, 64, 128, 256, 320))}
ROUNDS = 2
STEPS = 10
COLD_STEPS = 2
WIDTHS = (1.0, 0.5)
TRAININGS = 8
BLOCK_BYTES, BLOCKS = 200_000, 600  # of which every second is left


def main() -> None:
    if sys.argv[1:2] == ["--inside"]:
        way, shape, width = sys.argv[2:]
        print(json.dumps(measure(way == "kept", shape, float(width))))
        return
    if sys.argv[1:2] == ["row"]:
        add({"row": train_in_a_row(int(sys.argv[2]) if len(sys.argv) > 2 else TRAININGS)})
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
    add({"ways": best, "rounds": rounds})
    show(best)


def add(record: dict[str, Any]) -> None:
    record |= {"date": time.strftime("%Y-%m-%d"), "numbers": numbers()}
    record |= {"cores": len(os.sched_getaffinity(0))}
    with RESULTS.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record, sort_keys=True) + "\n")


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
    with make_setup() as setup, keep() if is_kept else nullcontext():
        times, pages = time_steps(make_plans(*PLANS[shape], width), setup)
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of KiB
    measured = {"s": round(min(times), 4), "pages": min(pages)}
    return measured | {"peak_mb": peak_bytes // 10**6}


def train_in_a_row(trainings: int) -> list[dict[str, float]]:
    """Time steps of several trainings in this process."""
    plan = make_plans(*PLANS[""], 1.0)
    measured, left = [], []
    with make_setup() as setup:
        for _ in range(trainings):
            with keep():
                times, pages = time_steps(plan, setup)
            gc.collect()
            measured.append({"s": round(min(times), 4), "pages": statistics.median(pages)})
            print(measured[-1], flush=True)
            left.append([bytearray(BLOCK_BYTES) for _ in range(BLOCKS)][::2])
    return measured


@contextmanager
def make_setup() -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as folder:
        prepare({f"nnUNet_{name}": Path(folder) for name in ("raw", "preprocessed", "results")})
        from nnunet_medseg.budget.recipe import choose_recipe
        from nnunet_medseg.hardware import choose_device
        from nnunet_medseg.nnunet.trainer import TrainingSetup

        yield TrainingSetup(
            device=choose_device("cpu"), asked_s=600.0, seed=0, train=(), watched=(),
            checkpoint=Path(folder, "c"), history=Path(folder, "h"), log=Path(folder, "log.txt"),
            recipe=choose_recipe(0), prepared=Path(folder), channels_last=True,
        )  # fmt: skip


def keep() -> AbstractContextManager[None]:
    from nnunet_medseg.hardware import freed_memory_kept

    return freed_memory_kept()


def time_steps(plan: dict[str, Any], setup: Any) -> tuple[list[float], list[int]]:
    """Return the seconds of steps after the cold start, and the pages that each took anew."""
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
    return times[COLD_STEPS:], pages[COLD_STEPS:]


if __name__ == "__main__":
    main()
