"""The main job on a real dataset: time of every stage, Dice, memory, size, and stock's agreement.

    .venv/bin/python bench/main_job.py DATASET -l Anterior=1,Posterior=2 -i MRI -t 10 -f 0

DATASET is copied; the rest are options of exe_train.py. One JSON line is added to
bench/main_job.jsonl. The held-out images (`validate.*`) are segmented once more by stock nnU-Net,
with the command of the manifest, and by exe_predict.py; the share of equal voxels is reported.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from memory import peak_memory

from nnunet_medseg.volume import read_volume

HERE = Path(__file__).resolve().parent
STAGE = re.compile(r"✓ (\w+) +(?:(\d+) h )?(?:(\d+) min )?([\d.]+) (s|min)")


def main() -> None:
    source, options = Path(sys.argv[1]), sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("exe_train.py", "exe_predict.py"):
            shutil.copy(HERE.parent / name, root / name)
        shutil.copytree(source, root / "Input_nnUNet_train" / source.name)
        record = train(root, options)
        record |= compare_with_stock(root, source)
    record |= {"date": time.strftime("%Y-%m-%d"), "options": " ".join(options)}
    record |= {"cores": len(os.sched_getaffinity(0)), "dataset": source.name}
    with (HERE / "main_job.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record) + "\n")
    print(json.dumps(record, indent=2))


def train(root: Path, options: list[str]) -> dict[str, object]:
    command = [sys.executable, str(root / "exe_train.py"), "-d", "Bench", *options]
    started = time.monotonic()
    with peak_memory() as peak:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    folder = root / "Output_nnUNet_train" / "Bench"
    manifest = json.loads((folder / "model" / "manifest.json").read_text())
    stages = {match[1]: match[0] for match in STAGE.finditer(done.stdout)}
    return {
        "total_s": round(time.monotonic() - started, 1),
        "stages": {name: line.split(maxsplit=2)[2] for name, line in stages.items()},
        "training": manifest["training"],
        "evaluation": manifest["evaluation"],
        "peak_memory_mb": peak[0],
        "model_mb": round(sum(f.stat().st_size for f in (folder / "model").rglob("*")) / 1e6, 1),
    }


def compare_with_stock(root: Path, source: Path) -> dict[str, object]:
    model = root / "Output_nnUNet_train" / "Bench" / "model"
    manifest = json.loads((model / "manifest.json").read_text())
    ours, stock, results = (root / name for name in ("Input_nnUNet_predict", "stock", "results"))
    ours.mkdir(exist_ok=True)
    stock.mkdir()
    for label in sorted(source.glob("*/validate.nii.gz")):
        image, name = label.with_name("img.nii.gz"), label.parent.name
        shutil.copy(image, ours / f"{name}.nii.gz")
        shutil.copy(image, stock / f"{name}_0000.nii.gz")
    command = [sys.executable, str(root / "exe_predict.py"), "--model", str(model)]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    our_s, started = time.monotonic() - started, time.monotonic()
    places = {"IMAGES": str(stock), "SEGMENTATIONS": str(results), "MODEL": str(model)}
    words = [places.get(word, word) for word in manifest["stock_command"].split()]
    words[0] = str(Path(sys.executable).with_name(words[0]))
    subprocess.run(words, check=True, capture_output=True, env=os.environ | {"nnUNet_compile": "f"})
    stock_s = time.monotonic() - started
    values = np.zeros(65536, dtype=np.int64)
    for label in manifest["labels"]:
        values[label["index"]] = label["value"]
    shares = []
    for path in sorted((root / "Output_nnUNet_predict").glob("*.nii.gz")):
        found = values[read_volume(results / path.name).array.astype(np.int64)]
        shares.append(float((found == read_volume(path).array).mean()))
    return {
        "stock_agreement_min": min(shares),
        "predict_s": {"ours": round(our_s, 1), "stock": round(stock_s, 1)},
    }


if __name__ == "__main__":
    main()
