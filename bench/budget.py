"""Dice against minutes: this program beside stock nnU-Net, on the same cases, split and device.

    .venv/bin/python bench/budget.py stock DATASET [--minutes 1,2,5,10,20] [--seed 1] [--as_cores 2]
    .venv/bin/python bench/budget.py stock_1epoch DATASET [--seed 1] [--as_cores 2]
    .venv/bin/python bench/budget.py stock_10000epochs DATASET [--minutes 1,2,5,10,20] [--seed 1]
    .venv/bin/python bench/budget.py ours  DATASET [--minutes 1,2,5,10] [--seed 1] [--plan auto]
    .venv/bin/python bench/budget.py folds DATASET [--minutes 10] [--seed 1]
    .venv/bin/python bench/budget.py table

DATASET is a name of bench/datasets.py, or a folder of patient folders with `train.*` and
`validate.*` labels. `ours` is one whole command a budget, and so is `folds`, with `-f cv`: the
patients that train are cut into five folds, which share the minutes, and the ensemble of the five
segments those held out. `stock` is one run of nnU-Net's own trainer with its own plans, whose
weights are evaluated at each of the minutes with the clock stopped: its schedule does not know when
it ends. `stock_1epoch` is nnU-Net's own short trainer, one epoch of 250 steps, however long that
takes; `stock_10000epochs` plans for ten times as many epochs as stock, which in few epochs is the
same. All are scored on whole held-out images on their own grid by the same code. Each result is one
line in bench/results/budget.jsonl; `table` prints those of a device, for each dataset, trainer and
number of minutes those of the last day. CPUs with AMX, with bfloat16 in AVX-512 and with neither
are never in one table: `--cpu` is amx_bf16, avx512_bf16 or avx2, else that of the last line.
`--figure` draws docs/images/budget.svg from the table, of datasets with two points of each.

All take `--device cuda`, and `--results FILE` for another file of lines. With `--as_cores N` the
time of stock on a CPU is not that of a clock on the wall, but of the computing of its process,
divided by N: as if N cores shared the work without any loss, and its workers needed none of them.
Its threads then wait passively, since waiting would count as computing. Other programs cost it
little then, and it is faster than it can be.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import OPTIONS, write_dataset
from memory import peak_memory

from nnunet_medseg.evaluation.overlap import dice_by_label, mean_dice
from nnunet_medseg.hardware import choose_device
from nnunet_medseg.run_folder import DATASET_NAME

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "budget.jsonl"
STOCK_EPOCHS = {"stock": 1000, "stock_1epoch": 1, "stock_10000epochs": 10_000}
CPUS = ("avx2", "avx512_bf16", "amx_bf16")  # each is faster than the one before
FIGURE = HERE.parent / "docs" / "images" / "budget.svg"

# Lines by dataset, trainer and minutes.
Runs = dict[tuple[str, str, float], list[dict[str, Any]]]


def main() -> None:
    given = read_command()
    if given.what == "table":
        runs = newest_runs(read_lines(given.device, given.cpu, given.results))
        show(runs)
        if given.figure:
            draw(runs)
    else:
        measure(given)


def read_command() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("ours", "folds", *STOCK_EPOCHS, "table"))
    parser.add_argument("dataset", nargs="?")
    parser.add_argument("--minutes", default=None)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plan", default="auto")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--cpu", choices=CPUS, help="the CPU of a table")
    parser.add_argument("--figure", action="store_true", help="draw the table too")
    parser.add_argument("--as_cores", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--inside", action="store_true", help="in the process of stock nnU-Net")
    return parser.parse_args()


def measure(given: argparse.Namespace) -> None:
    """Add the lines that the command asks for."""
    usual = {"ours": "1,2,5,10", "folds": "10"}.get(given.what, "1,2,5,10,20")
    minutes = [float(text) for text in (given.minutes or usual).split(",")]
    if given.what == "ours":
        for each in minutes:
            add(run_ours(given.dataset, each, given.seed, given.plan, given.device), given.results)
    elif given.what == "folds":
        for each in minutes:
            add(run_folds(given.dataset, each, given.seed, given.device), given.results)
    elif not given.inside:
        run_stock_apart(given.device, given.as_cores > 0)
    else:
        facts = {"what": given.what, "seed": given.seed, "device": given.device}
        if given.as_cores:
            facts |= {"cores": given.as_cores, "clock": "work"}
        run_stock(given.dataset, minutes, facts, given.results)


def add(record: dict[str, Any], results: Path) -> None:
    record = {"cores": len(os.sched_getaffinity(0))} | record
    if record.get("device", "cpu") == "cpu":
        # What the machine can; stock computes in float32 on every CPU.
        record["numbers"] = "bfloat16" if choose_device("cpu").has_fast_bf16 else "float32"
        record["cpu"] = best_instructions()
    record["date"] = time.strftime("%Y-%m-%d")
    results.parent.mkdir(exist_ok=True)
    with results.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record, sort_keys=True) + "\n")
    shown = {key: value for key, value in record.items() if key != "cases"}
    print(json.dumps(shown, sort_keys=True), flush=True)


def best_instructions() -> str:
    """Return which of `CPUS` this machine is, or nothing."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return next((kind for kind in reversed(CPUS) if kind in flags), "")


def name_and_options(dataset: str) -> tuple[str, dict[str, str]]:
    name = Path(dataset).name
    return name, OPTIONS.get(name, {})


def copy_dataset(dataset: str, folder: Path) -> None:
    if dataset in OPTIONS:
        write_dataset(dataset, folder)
    else:
        shutil.copytree(dataset, folder)


# --- ours --------------------------------------------------------------------------------------


def run_ours(
    dataset: str, minutes: float, seed: int, plan: str = "auto", device: str = "cpu"
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with peak_memory() as peak:
            manifest = train_here(root, dataset, minutes, seed=seed, plan=plan, device=device)
        rows = (root / "out" / "Bench" / "metrics.csv").read_text().splitlines()[1:]
    scores = {
        "dice": manifest["evaluation"]["mean_dice"], "labels": manifest["evaluation"]["dice"],
        "cases": cases_of(rows),
    }  # fmt: skip
    facts = {"what": "ours", "device": device, "dataset": Path(dataset).name, "minutes": minutes,
        "seed": seed, "plan": plan, "peak_mb": peak[0]}  # fmt: skip
    return facts | scores | facts_of(manifest)


def run_folds(dataset: str, minutes: float, seed: int, device: str = "cpu") -> dict[str, Any]:
    from nnunet_medseg.nnunet.inference import read_model

    name, options = name_and_options(dataset)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with peak_memory() as peak:
            manifest = train_here(
                root, dataset, minutes, keep="train", seed=seed, fold="cv", device=device
            )
        (root / "all").mkdir()
        raw = write_raw(dataset, root / "all", {"dataset_name": name, "fold": "0", **options})
        scores = evaluate(read_model(root / "out" / "Bench" / "model"), raw, device)
    facts = {"what": "folds", "device": device, "dataset": name, "minutes": minutes,
        "seed": seed, "peak_mb": peak[0]}  # fmt: skip
    return facts | scores | facts_of(manifest)


def facts_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return how a model was trained."""
    training = manifest["training"]
    return {
        "used_s": training["used_s"], "steps": training["iterations"],
        "planned": manifest["plan"], "recipe": training["recipe"],
        "in_steps": training["share_in_steps"], "waiting": training["share_waiting_for_data"],
    }  # fmt: skip


def train_here(
    root: Path,
    dataset: str,
    minutes: float,
    start: Sequence[str] = ("-m", "nnunet_medseg"),
    keep: str | None = None,
    **options: str | int,
) -> dict[str, Any]:
    """Run the whole command from root/in to root/out; return the manifest of the model.

    Args:
        root: An empty folder.
        dataset: A name of bench/datasets.py, or a folder.
        minutes: For the training.
        start: What Python is to start.
        keep: Name of the label maps, without their end, whose patients alone are given to the
            command.
        options: More of the command: seed, plan, device, fold.
    """
    name, known = name_and_options(dataset)
    copy_dataset(dataset, root / "in" / name)
    for patient in (root / "in" / name).iterdir():
        if keep is not None and patient.is_dir() and not any(patient.glob(f"{keep}.*")):
            shutil.rmtree(patient)
    command = [sys.executable, *start, "train", str(root / "in"), str(root / "out")]
    fixed = {"dataset_name": "Bench", "time": minutes, "work_dir": root / "work"}
    words = {"fold": 0} | options | known | fixed
    command += ["--evaluate_all", *(f"--{option}={word}" for option, word in words.items())]
    subprocess.run(command, check=True)
    manifest = json.loads((root / "out" / "Bench" / "model" / "manifest.json").read_text())
    return dict(manifest)


def cases_of(rows: list[str]) -> dict[str, float]:
    by_case: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        case, _, dice, *_ = row.split(",")
        by_case[case].append(float(dice or "nan"))
    return {case: round(mean_dice(values), 4) for case, values in sorted(by_case.items())}


# --- stock -------------------------------------------------------------------------------------


def run_stock_apart(device: str, is_by_work: bool) -> None:
    """Run in a fresh process, with the settings that nnU-Net reads when it is imported."""
    settings = {"nnUNet_n_proc_DA": str(len(os.sched_getaffinity(0)))}
    # On a CPU stock does not compile either.
    settings |= {"nnUNet_compile": "f"} if device == "cpu" else {}
    settings |= {"OMP_WAIT_POLICY": "PASSIVE"} if is_by_work else {}
    command = [sys.executable, *sys.argv, "--inside"]
    subprocess.run(command, env=os.environ | settings, check=True)


def run_stock(dataset: str, minutes: list[float], facts: dict[str, Any], results: Path) -> None:
    name, options = name_and_options(dataset)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        raw = write_raw(dataset, root, {"dataset_name": name, "fold": "0", **options})
        plans = plan_with_stock(root)
        train_stock(plans, raw, minutes, facts | {"dataset": name}, results)


def write_raw(dataset: str, root: Path, options: dict[str, str]) -> Path:
    """Bring a dataset into nnU-Net's raw layout with this program's first two stages."""
    from nnunet_medseg.hardware import Device
    from nnunet_medseg.run_folder import Journal, RunFolder
    from nnunet_medseg.workflows.options import Folders, read_train_options
    from nnunet_medseg.workflows.stage import Run
    from nnunet_medseg.workflows.stages import checking

    name = options["dataset_name"]
    copy_dataset(dataset, root / "in" / name)
    folders = Folders(root / "in" / name, root / "out", root / "work")
    device = Device("cpu", 0, "CPU", has_fast_bf16=False)
    run = Run(
        RunFolder(root / "work" / "runs" / name), folders.input, folders,
        read_train_options(**options), device, root,
    )  # fmt: skip
    folders.work.mkdir()
    run.folder.create(Journal(program_version="", options={}, dataset_folder=""))
    checking.check(run)
    checking.convert(run)
    for variable, path in {"raw": run.folder.raw, "preprocessed": root / "preprocessed",
        "results": root / "results"}.items():  # fmt: skip
        os.environ[f"nnUNet_{variable}"] = str(path)
    return run.folder.raw


def plan_with_stock(root: Path) -> dict[str, Any]:
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
        ExperimentPlanner,
    )
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    workers = len(os.sched_getaffinity(0))
    DatasetFingerprintExtractor(DATASET_NAME, workers).run(overwrite_existing=True)
    ExperimentPlanner(DATASET_NAME).plan_experiment()
    plans = json.loads((root / "preprocessed" / DATASET_NAME / "nnUNetPlans.json").read_text())
    name = configuration_of(plans)
    DefaultPreprocessor(verbose=False).run(DATASET_NAME, name, "nnUNetPlans", workers)
    return dict(plans)


def configuration_of(plans: dict[str, Any]) -> str:
    """Return the configuration that nnU-Net recommends to begin with: in 3D, if there is one."""
    return "3d_fullres" if "3d_fullres" in plans["configurations"] else "2d"


class TimeOverError(Exception):
    """The last of the minutes is over."""


def train_stock(
    plans: dict[str, Any],
    raw: Path,
    minutes: list[float],
    facts: dict[str, Any],
    results: Path,
) -> None:
    import torch

    from nnunet_medseg.dataset.raw_layout import describe_json
    from nnunet_medseg.nnunet.inference import Model

    def note(trainer: Any, at: float) -> None:
        # What is compiled wraps the network whose names a model has.
        network = getattr(trainer.network, "_orig_mod", trainer.network)
        state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        record = {"minutes": at, "used_s": trainer.used_s, "steps": trainer.steps}
        name = configuration_of(plans)
        # With mirroring, as nnU-Net predicts.
        axes = tuple(range(len(plans["configurations"][name]["patch_size"])))
        model = Model(plans, describe_json(raw), name, axes, (state,))
        scores = evaluate(model, raw, facts["device"])
        add(facts | record | scores | {"peak_mb": peak[0]}, results)

    torch.manual_seed(facts["seed"])
    np.random.seed(facts["seed"])
    # As nnU-Net's own command does (run_training.py of 2.8.1).
    torch.set_num_threads(1 if facts["device"] == "cuda" else len(os.sched_getaffinity(0)))
    torch.backends.cudnn.benchmark = facts["device"] == "cuda"
    epochs = STOCK_EPOCHS[facts["what"]]
    now = time.monotonic
    if facts.get("clock") == "work":

        def now() -> float:
            return time.process_time() / facts["cores"]

    # An epoch that is the only one is a whole training.
    trainer = make_clocked(
        plans, raw, [math.inf] if epochs == 1 else minutes, note, now, facts["device"]
    )
    trainer.num_epochs = epochs
    with peak_memory() as peak:
        try:
            trainer.run_training()
            note(trainer, round(trainer.used_s / 60, 1))
        except TimeOverError:
            for loader in (trainer.dataloader_train, trainer.dataloader_val):
                loader._finish()


def make_clocked(
    plans: dict[str, Any],
    raw: Path,
    minutes: list[float],
    note: Callable[[Any, float], None],
    now: Callable[[], float],
    device: str,
) -> Any:
    """Return stock nnU-Net's trainer, looked at from outside after each step."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class Clocked(nnUNetTrainer):  # type: ignore[misc]
        """Says at each of the minutes how good it is, with the clock stopped."""

        paused_s = 0.0
        steps = 0

        @property
        def used_s(self) -> float:
            return now() - started - self.paused_s

        def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
            done = super().train_step(batch)
            self.steps += 1
            while minutes and self.used_s >= minutes[0] * 60:
                before = now()
                note(self, minutes.pop(0))
                self.paused_s += now() - before
            if not minutes:
                raise TimeOverError
            return dict(done)

    description = json.loads((raw / DATASET_NAME / "dataset.json").read_text())
    trainer = Clocked(
        plans | {"continue_training": False},
        configuration_of(plans),
        "all",
        description,
        torch.device(device),
    )
    started = now()
    return trainer


def evaluate(model: Any, raw: Path, kind: str) -> dict[str, Any]:
    """Score a model, on whole held-out images of a raw dataset."""
    from nnunet_medseg.dataset.raw_layout import read_cases
    from nnunet_medseg.nnunet.inference import Segmenter

    device = choose_device(kind)
    segmenter = Segmenter(model, device, in_bfloat16=kind == "cpu" and device.has_fast_bf16)
    names = {value: name for name, value in model.description["labels"].items() if value}
    trained = json.loads((raw / DATASET_NAME / "dataset.json").read_text())["dataset"]
    scores = {
        case.name: dice_by_label(
            segmenter.read_truth(case.label)[0], segmenter.segment(case.images), list(names)
        )
        for case in read_cases(raw)
        if case.name not in trained
    }
    means = {
        name: mean_dice([score[value] for score in scores.values()])
        for value, name in names.items()
    }
    return {
        "dice": mean_dice(list(means.values())),
        "labels": means,
        "cases": {
            name: round(mean_dice(list(score.values())), 4) for name, score in scores.items()
        },
    }


# --- table and figure --------------------------------------------------------------------------


def read_lines(device: str, cpu: str | None, results: Path) -> list[dict[str, Any]]:
    """Return the lines of a device, in the order of their days."""
    every = [json.loads(line) for line in results.read_text().splitlines()]
    lines = [line for line in every if line.get("device", "cpu") == device]
    if device == "cpu":
        cpu = cpu or lines[-1]["cpu"]
        lines = [line for line in lines if line["cpu"] == cpu]
        print(f"CPU with {cpu}")
    # The machine of the last day counts, and of a day the clock on the wall.
    return sorted(lines, key=lambda line: (line["date"], line.get("clock") != "work"))


def newest_runs(lines: list[dict[str, Any]]) -> Runs:
    """Return those of the last day, by dataset, trainer and minutes."""
    # Of ours, those that are trained as it trains now: as the last one was.
    ours = [line["recipe"] for line in lines if line["what"] == "ours"]
    now = ours[-1] if ours else None
    # A run made again, after a change of the program, takes the place of the one before.
    newest = {
        (line["dataset"], line["what"], line["minutes"], line["seed"]): line
        for line in lines
        if line.get("plan", "auto") == "auto" and line.get("recipe", now) == now
    }
    found: dict[tuple[str, str, float], list[dict[str, Any]]] = defaultdict(list)
    for key, line in newest.items():
        found[key[:3]].append(line)
    # Other seeds of an earlier day are of another program, or of another machine.
    return {
        key: [line for line in group if line["date"] == max(each["date"] for each in group)]
        for key, group in found.items()
    }


def show(runs: Runs) -> None:
    print("| dataset | minutes | stock | ours | difference, paired by case (95 %) | faster |")
    print("| --- | --- | --- | --- | --- | --- |")
    for dataset in dict.fromkeys(key[0] for key in runs):
        known = {key[2] for key in runs if key[0] == dataset and key[1] in ("stock", "ours")}
        for minutes in sorted(known):
            row(runs, dataset, minutes)
    for (dataset, what, minutes), group in runs.items():
        if what not in ("stock", "ours"):
            print(f"{what}, {dataset}, {minutes:g} minutes: {described(group)}")
    print("†: by the computing of the process, with --as_cores\n")
    print(
        "| dataset | asked for | seed | training ended at | plan | in steps, of that waiting "
        "| peak memory |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for (dataset, what, minutes), group in sorted(runs.items()):
        for line in group if what == "ours" else []:
            print(f"| {dataset} | {60 * minutes:g} s | {line['seed']} | {described_course(line)} |")


def described_course(line: dict[str, Any]) -> str:
    """Return how a training of ours went, in cells."""
    waiting = line["waiting"] / line["in_steps"]
    shares = f"{line['in_steps']:.1%}, {waiting:.1%}"
    size = line["planned"]["size"]
    return f"{line['used_s']:.1f} s | {size} | {shares} | {line['peak_mb'] / 1000:.1f} GB"


def row(runs: Runs, dataset: str, minutes: float) -> None:
    stock, ours = (runs.get((dataset, what, minutes), []) for what in ("stock", "ours"))
    cells = [described(stock), described(ours), "", ""]
    if stock and ours:
        cells[2] = paired(ours, stock)
    if ours:
        cells[3] = faster(runs, dataset, minutes, statistics.mean(run["dice"] for run in ours))
    print(f"| {dataset} | {minutes:g} | " + " | ".join(cells) + " |")


def described(runs: list[dict[str, Any]]) -> str:
    if not runs:
        return ""
    values = [run["dice"] for run in runs]
    steps = round(statistics.mean(run["steps"] for run in runs))
    spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    mark = "†" if any(run.get("clock") == "work" for run in runs) else ""
    return f"{statistics.mean(values):.3f}{mark}{spread}, {steps} steps"


def paired(ours: list[dict[str, Any]], stock: list[dict[str, Any]]) -> str:
    def means(runs: list[dict[str, Any]]) -> dict[str, float]:
        names = runs[0]["cases"]
        return {case: statistics.mean(run["cases"][case] for run in runs) for case in names}

    first, second = means(ours), means(stock)
    differences = np.array([first[case] - second[case] for case in first])
    # A case without a label has no Dice.
    differences = differences[np.isfinite(differences)]
    rng = np.random.default_rng(0)
    draws = rng.choice(differences, (2000, len(differences))).mean(axis=1)
    low, high = np.percentile(draws, (2.5, 97.5))
    return f"{differences.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def faster(runs: Runs, dataset: str, minutes: float, dice: float) -> str:
    """Return how many times as long stock takes to the Dice that ours has at these minutes."""
    line = sorted(
        (key[2], statistics.mean(run["dice"] for run in found))
        for key, found in runs.items()
        if key[:2] == (dataset, "stock")
    )
    if not line:
        return ""
    if line[-1][0] < minutes and max(value for _, value in line) < dice:
        return "stock not run as long"
    for (before, low), (after, high) in zip([(0.0, 0.0), *line], line, strict=False):
        if high >= dice:
            at = before + (after - before) * (dice - low) / (high - low)
            return f"{at / minutes:.1f} times"
    return f"more than {line[-1][0] / minutes:.0f} times"


def draw(runs: Runs) -> None:
    from matplotlib import pyplot

    points_of = Counter(key[:2] for key in runs)
    # A single point is no curve.
    datasets = [
        dataset
        for dataset in dict.fromkeys(key[0] for key in runs)
        if min(points_of[dataset, who] for who in ("ours", "stock")) > 1
    ]
    if not datasets:
        return
    figure, axes = pyplot.subplots(
        1, len(datasets), figsize=(3.4 * len(datasets), 3.2), sharey=True, squeeze=False
    )
    for axis, dataset in zip(axes[0], datasets, strict=True):
        for what, colour in (("ours", "#0b6e4f"), ("stock", "#b0413e")):
            points = sorted(
                (key[2], found) for key, found in runs.items() if key[:2] == (dataset, what)
            )
            if not points:
                continue
            minutes = [point[0] for point in points]
            dice = [statistics.mean(run["dice"] for run in point[1]) for point in points]
            bounds = [interval(point[1]) for point in points]
            label = "nnUNet_medseg" if what == "ours" else "stock nnU-Net"
            axis.plot(minutes, dice, "o-", color=colour, label=label)
            axis.fill_between(minutes, *zip(*bounds, strict=True), color=colour, alpha=0.2)
        axis.set(title=dataset, xlabel="minutes", xscale="log", ylim=(0, 1))
        ticks = [0.5, 1, 2, 5, 10, 20]
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
    axes[0][0].set_ylabel("Dice, held-out cases")
    axes[0][0].legend(loc="lower right", frameon=False)
    figure.tight_layout()
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None})
    print(f"drawn: {FIGURE.relative_to(HERE.parent)}")


def interval(runs: list[dict[str, Any]]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean over cases, seeds averaged."""
    cases = np.array([[run["cases"][case] for case in sorted(run["cases"])] for run in runs])
    values = np.nanmean(cases, axis=0)
    draws = np.random.default_rng(0).choice(values, (2000, len(values))).mean(axis=1)
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)


if __name__ == "__main__":
    main()
