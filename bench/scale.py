"""Time a case and peak memory of check, convert, plan and preprocess, against the number of cases.

    .venv/bin/python bench/scale.py run 50 200 1000     phantoms of 32 voxels a side
    .venv/bin/python bench/scale.py run 50 --side 64 --extension .nrrd
    .venv/bin/python bench/scale.py table               all lines, side by side

Every number of cases runs in a process of its own, with the loop and the stages of a training. The
plan is nnU-Net's own with a batch of two: measuring steps for other plans takes seconds that do not
depend on the cases, and nnU-Net's batch, with what a step holds in memory, grows with them. Files
other than .nii.gz are converted; of those, links serve. Each run is one line in
bench/results/scale.jsonl; the time to write the phantoms is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import Any

from datasets import PHANTOMS
from memory import peak_memory

from nnunet_medseg.phantom import write_patient_folders

RESULTS = Path(__file__).resolve().parent / "results" / "scale.jsonl"
STAGES = 4  # check, convert, plan, preprocess: the first of a training
LOOK_EVERY_S = 0.1
KINDS = ("side", "extension", "date", "cores")  # what lines have in common that are compared


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("run", "table", "_one"))
    parser.add_argument("cases", nargs="*", type=int)
    parser.add_argument("--side", type=int, default=32, help="voxels along each axis")
    parser.add_argument("--extension", default=".nii.gz")
    parser.add_argument("--note", default="", help="of the line, such as what else was running")
    given = parser.parse_args()
    if given.what == "table":
        show()
    elif given.what == "_one":
        add(measure(given.cases[0], given.side, given.extension) | {"note": given.note})
    else:
        for cases in given.cases or (50, 200, 1000):
            words = ["--side", str(given.side), "--extension", given.extension]
            command = [sys.executable, __file__, "_one", str(cases), *words, "--note", given.note]
            subprocess.run(command, check=True)


def add(record: dict[str, Any]) -> None:
    stamp = {"date": time.strftime("%Y-%m-%d"), "cores": len(os.sched_getaffinity(0))}
    with RESULTS.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(stamp | record, sort_keys=True) + "\n")
    print(json.dumps(stamp | record, sort_keys=True), flush=True)


def measure(cases: int, side: int, extension: str) -> dict[str, Any]:
    """Run the stages on so many phantoms, and return what each took."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        spec = replace(PHANTOMS["organs"].spec, shape=(side,) * 3, spacing_mm=(1.5,) * 3)
        write_patient_folders(root / "in" / "Data", spec, cases=cases, extension=extension)
        stages = run_stages_of(root)
        run = root / "work" / "runs" / "scale"
        taken = sum(path.stat().st_size for path in run.rglob("*")
            if path.is_file() and not path.is_symlink())  # fmt: skip
    return {
        "cases": cases, "side": side, "extension": extension, "stages": stages,
        "disk_mb": round(taken / 1e6, 1),
    }  # fmt: skip


def run_stages_of(root: Path) -> dict[str, dict[str, float]]:
    from nnunet_medseg.hardware import choose_device
    from nnunet_medseg.nnunet.environment import prepare
    from nnunet_medseg.parallel import warm_up
    from nnunet_medseg.run_folder import Journal, RunFolder
    from nnunet_medseg.workflows.options import Folders, read_train_options
    from nnunet_medseg.workflows.stage import Run, run_stages
    from nnunet_medseg.workflows.train import stages_of

    asked = {"image_type": "CT", "fold": "all", "plan": "default", "batch_size": "2"}
    options = read_train_options(dataset_name="scale", **asked)
    folder = RunFolder(root / "work" / "runs" / "scale")
    prepare({"nnUNet_raw": folder.raw, "nnUNet_preprocessed": folder.preprocessed,
        "nnUNet_results": folder.results})  # fmt: skip
    warm_up(["nnunet_medseg.nnunet.planning"])
    folder.create(Journal(program_version="", options={}, dataset_folder=""))
    places = Folders(root / "in", root / "out", root / "work")
    run = Run(folder, root / "in" / "Data", places, options, choose_device("cpu"), folder.root)
    measured: dict[str, dict[str, float]] = {}
    for stage in islice(stages_of(run), STAGES):
        with peak_memory(LOOK_EVERY_S) as peaks:
            run_stages([stage], run, lambda *_: None)
        names = ("peak_mb", "main_mb", "workers_mb")
        seconds = round(folder.finished_stages()[stage.name], 2)
        measured[stage.name] = {"seconds": seconds} | dict(zip(names, peaks, strict=True))
    return measured


def show() -> None:
    lines = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    lines.sort(key=lambda line: ([str(line[key]) for key in KINDS], line["cases"]))
    for kind, group in groupby(lines, key=lambda line: [line[key] for key in KINDS]):
        side, extension, date, cores = kind
        print(f"\n{side} voxels a side, {extension}, {cores} cores, {date}\n")
        show_group(list(group))


def show_group(lines: list[dict[str, Any]]) -> None:
    """Print a row a run: ms a case of each stage, and the peaks of the main process and workers."""
    names = list(lines[0]["stages"])
    head = ["cases", *(f"{name}, ms a case" for name in names)]
    head += ["ms a case", "peak, main", "peak, workers", "disk a case", "note"]
    print("| " + " | ".join(head) + " |")
    print("| --- " * len(head) + "|")
    for line in lines:
        cases, stages = line["cases"], line["stages"]
        times = [1000 * stages[name]["seconds"] / cases for name in names]
        peaks = [max(stage[key] for stage in stages.values()) for key in ("main_mb", "workers_mb")]
        cells = [str(cases), *(f"{ms:.0f}" for ms in (*times, sum(times)))]
        cells += [f"{peak} MB" for peak in peaks]
        cells += [f"{line['disk_mb'] / cases:.2f} MB", line["note"]]
        print("| " + " | ".join(cells) + " |")
    # What a case more takes: fixed costs of a stage, such as the start of workers, are not in it.
    for less, more in pairwise(lines):
        added = more["cases"] - less["cases"]
        if added:
            costs = {name: more["stages"][name]["seconds"] - less["stages"][name]["seconds"]
                for name in names}  # fmt: skip
            shown = ", ".join(f"{name} {1000 * cost / added:.0f}" for name, cost in costs.items())
            print(f"\n{less['cases']} to {more['cases']}: ms of a case more: {shown}")


if __name__ == "__main__":
    main()
