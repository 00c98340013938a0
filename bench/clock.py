"""Whether trainings end when they were told to, also with another program on one of the cores.

    .venv/bin/python bench/clock.py DATASET [busy] [--minutes 1,5,20]

DATASET is a name of bench/datasets.py. Each of the minutes is one whole command. With `busy`
another process computes on one core for half of the time, 20 s on and 20 s off. One line a command
is added to bench/results/clock.jsonl.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from budget import add, run_ours

from nnunet_medseg.budget.epochs import tolerance_s

RESULTS = Path(__file__).resolve().parent / "results" / "clock.jsonl"
HALF_S = 20.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("busy", nargs="?", choices=("busy",))
    parser.add_argument("--minutes", default="1,5,20")
    given = parser.parse_args()
    is_busy = given.busy is not None
    for minutes in (float(text) for text in given.minutes.split(",")):
        with other_program(is_busy=is_busy):
            run = run_ours(given.dataset, minutes, seed=1)
        record = {"busy": is_busy, "asked_s": 60 * minutes}
        record |= {name: run[name] for name in ("dataset", "used_s", "steps", "dice")}
        record["off_s"] = round(record["used_s"] - record["asked_s"], 2)
        record["allowed_s"] = tolerance_s(record["asked_s"], record["used_s"] / record["steps"])
        add(record, RESULTS)


@contextmanager
def other_program(*, is_busy: bool) -> Iterator[None]:
    """Let another process compute on one core for half of the time."""
    if not is_busy:
        yield
        return
    process = multiprocessing.Process(target=compute_half_of_the_time, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def compute_half_of_the_time() -> None:
    while True:
        end = time.monotonic() + HALF_S
        while time.monotonic() < end:
            sum(range(10_000))
        time.sleep(HALF_S)


if __name__ == "__main__":
    main()
