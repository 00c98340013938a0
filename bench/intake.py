"""Seconds and memory of check and convert, against stock nnU-Net's check of the same files.

Ours: the stages check and convert of a training, with the hashes of all files, nothing kept from
before. Stock's: what `nnUNetv2_plan_and_preprocess --verify_dataset_integrity` does before it
plans, with as many processes as ours has. Both are whole programs, with their imports, and read
one nnU-Net raw folder of phantoms; the order changes from pair to pair.

    .venv/bin/python bench/intake.py                       200 cases of 96 voxels a side, 3 pairs
    .venv/bin/python bench/intake.py large --pairs 1       2 cases of 400 x 512 x 512
    .venv/bin/python bench/intake.py --cases 20 --side 48  smaller, to try it

Each pair is one line in bench/results/intake.jsonl; writing the phantoms is not in the times.
Memory is that of all processes of a program together, shared pages counted once, at its peak.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from memory import peak_memory

from nnunet_medseg.phantom import PhantomSpec, write_nnunet_raw

RESULTS = Path(__file__).resolve().parent / "results" / "intake.jsonl"
CORES = 2  # for both: ours takes a process a core
LOOK_EVERY_S = 0.1
LARGE = (400, 512, 512)
VOXEL_BYTES = 3  # of the image two, of the label map one
AIM = 0.5
STOCK = """
import sys
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints
if __name__ == "__main__":
    extract_fingerprints([1], num_processes=int(sys.argv[1]), check_dataset_integrity=True)
"""
OURS = """
import sys
from pathlib import Path
from nnunet_medseg.hardware import choose_device
from nnunet_medseg.run_folder import Journal, RunFolder
from nnunet_medseg.workflows.options import Folders, read_train_options
from nnunet_medseg.workflows.stage import Run
from nnunet_medseg.workflows.stages.checking import check, convert
if __name__ == "__main__":
    source, root = map(Path, sys.argv[1:])
    folder = RunFolder(root / "work" / "run")
    folder.create(Journal(program_version="", options={}, dataset_folder=""))
    places = Folders(source.parent, root / "out", root / "work")
    run = Run(folder, source, places, read_train_options(), choose_device("cpu"), folder.root)
    check(run)
    convert(run)
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--side", type=int, default=96, help="voxels along each axis")
    parser.add_argument("what", nargs="?", choices=("many", "large"), default="many")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--extension", default=".nii.gz")
    parser.add_argument("--note", default="", help="of the lines, such as what else was running")
    given = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    cases, shape = (2, LARGE) if given.what == "large" else (given.cases, (given.side,) * 3)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "nnUNet_raw" / "Dataset001_Intake"
        spec = PhantomSpec(shape, (1.0, 0.8, 0.8), seed=21, varied_orientation=False)
        write_nnunet_raw(raw, spec, cases=cases, extension=given.extension)
        stored = sum(path.stat().st_size for path in raw.rglob("*") if path.is_file())
        about = {
            "cases": cases, "shape": shape, "extension": given.extension, "note": given.note,
            "stored_mb": round(stored / 1e6), "date": time.strftime("%Y-%m-%d"),
            "unpacked_case_mb": round(math.prod(shape) * VOXEL_BYTES / 1e6, 1),
        }  # fmt: skip
        print(json.dumps(about), flush=True)
        pairs = [measure_pair(raw, turn) for turn in range(given.pairs)]
    with RESULTS.open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(about | pair, sort_keys=True) + "\n" for pair in pairs)
    show(pairs)
    held = max(pair["ours"]["peak_mb"] for pair in pairs) / min(CORES, cases)
    unpacked = about["unpacked_case_mb"]
    print(f"ours holds {held:.0f} MB a case at work, which has {unpacked} MB unpacked")


def measure_pair(raw: Path, turn: int) -> dict[str, dict[str, float]]:
    """Run both programs, the first one first in every other turn."""
    pair = {}
    for name in ("ours", "stock") if turn % 2 == 0 else ("stock", "ours"):
        # On the disk of the data, so that links and copies are what they are for a user.
        with tempfile.TemporaryDirectory(dir=raw.parents[1]) as folder:
            pair[name] = measure(name, raw, Path(folder))
        print(f"{name}: {json.dumps(pair[name])}", flush=True)
    return pair


def measure(name: str, raw: Path, folder: Path) -> dict[str, float]:
    """Run one program from its start to its end."""
    script = folder / f"{name}.py"
    script.write_text(OURS if name == "ours" else STOCK)
    arguments = [str(raw), str(folder)] if name == "ours" else [str(CORES)]
    places = {name: str(folder / name) for name in ("nnUNet_preprocessed", "nnUNet_results")}
    places["nnUNet_raw"] = str(raw.parent)
    load, started = os.getloadavg()[0], time.monotonic()
    with peak_memory(LOOK_EVERY_S) as peaks:
        ended = subprocess.run(
            [sys.executable, str(script), *arguments],
            env=os.environ | places,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - started
    if ended.returncode:
        sys.exit(f"{name} has failed:\n{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}")
    return {"seconds": round(seconds, 2), "peak_mb": peaks[2], "load_before": round(load, 1)}


def show(pairs: list[dict[str, dict[str, float]]]) -> None:
    """Print each pair as a row of a table, and the median of the ratios."""
    print("\n| pair | ours | stock nnU-Net | ratio | memory, ours | stock | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    ratios = []
    for number, pair in enumerate(pairs, start=1):
        ours, stock = pair["ours"], pair["stock"]
        times = ours["seconds"] / stock["seconds"]
        memory = ours["peak_mb"] / stock["peak_mb"]
        ratios.append(times)
        cells = [f"{ours['seconds']:.1f} s", f"{stock['seconds']:.1f} s", f"{times:.2f}"]
        cells += [f"{ours['peak_mb']} MB", f"{stock['peak_mb']} MB", f"{memory:.2f}"]
        print(f"| {number} | " + " | ".join(cells) + " |")
    median = statistics.median(ratios)
    verdict = "reached" if median <= AIM else "missed"
    print(f"\nmedian ratio ours/stock: {median:.2f}; at most {AIM} was the aim: {verdict}")


if __name__ == "__main__":
    main()
