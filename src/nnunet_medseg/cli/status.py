"""`medseg status`: what a run is doing, from another terminal."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_medseg import console
from nnunet_medseg.cli.train import OUTPUT
from nnunet_medseg.console import duration

if TYPE_CHECKING:
    from nnunet_medseg.nnunet.history import Epoch
    from nnunet_medseg.workflows.status import ModelStatus, RunStatus, Status, TrainingStatus

__all__ = ["HELP", "add_options", "run"]

HELP = "show what a run is doing, from another terminal; changes nothing"
WATCH_S = 2.0
MAX_MODELS = 5  # shown when nothing is at work
USUAL_SHARE = 0.95  # of the epochs, whose losses a curve shows; higher ones lie on its border
LABEL_WIDTH = 8  # of the values beside a curve
STATES = {
    "running": "at work",
    "interrupted": "interrupted: no process is at work on it",
    "unknown": "whether a process is at work on it cannot be told on this disk",
    "unreadable": "not readable by this version",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add where to look, and how to show it."""
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="of the dataset, as -d said it; default: all")
    add(
        "--root",
        default=".",
        metavar="FOLDER",
        help="folder of exe_train.py, with the folders beside it; default: the current one",
    )
    add(
        "--work_dir",
        default=None,
        metavar="FOLDER",
        help="folder for work in progress; default: .medseg in --root",
    )
    add(
        "--output",
        default=None,
        metavar="FOLDER",
        help=f"folder that takes the models; default: {OUTPUT} in --root",
    )
    add("--watch", action="store_true", help=f"show it again every {WATCH_S:g} s while it works")
    add("--json", action="store_true", help="print one JSON object for programs")


def run(options: argparse.Namespace) -> int:
    """Run `medseg status`."""
    from nnunet_medseg.workflows.status import read_status, to_json

    root = Path(options.root)
    work, output = Path(options.work_dir or root / ".medseg"), Path(options.output or root / OUTPUT)

    def show() -> Status:
        status = read_status(work.absolute(), output.absolute(), options.name)
        if options.json:
            console.raw(json.dumps(to_json(status), ensure_ascii=False))
        else:
            if options.watch:
                console.clear()
            _show(status)
        return status

    if options.watch:
        _watch(show)
    else:
        show()
    return 0


def _watch(show: Callable[[], Status]) -> None:
    """Show again until nothing is at work any more; Ctrl-C ends the look, not the run."""
    try:
        while _is_at_work(show()):
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        console.detail("the look has ended; the run goes on")


def _is_at_work(status: Status) -> bool:
    return any(one.state in {"running", "unknown"} for one in status.runs) or status.is_predicting


def _show(status: Status) -> None:
    if status.is_predicting:
        console.heading(f"A prediction or comparison is at work in {status.work_folder}")
    for run_status in status.runs:
        _show_run(run_status)
    if not status.runs:
        console.detail(f"no run is at work or interrupted in {status.work_folder}")
    if status.models and not _is_at_work(status):
        _show_models(status)


# --- a run -------------------------------------------------------------------------------------


def _show_run(run_status: RunStatus) -> None:
    console.heading(f"{run_status.name}: {_headline(run_status)}")
    ago = f"last sign {duration(run_status.last_sign_s)} ago"
    console.detail(f"{STATES[run_status.state]}; {ago}")
    if run_status.command:
        console.detail(f"began with: {run_status.command}")
    if run_status.finished:
        done = ", ".join(f"{name} {duration(s)}" for name, s in run_status.finished.items())
        console.detail(f"finished: {done}")
    _show_what_to_do(run_status)
    if len(run_status.trainings) > 1:
        _show_trainings(run_status.trainings)
    if run_status.current is not None:
        _show_training(run_status.current)
    _show_ends(run_status)


def _headline(run_status: RunStatus) -> str:
    """Return the stage, the place of its training and how far it is."""
    if not run_status.stage:
        return "no stage is known"
    parts = [run_status.stage]
    current = run_status.current
    if len(run_status.trainings) > 1 and current is not None:
        place = run_status.trainings.index(current) + 1
        parts.append(f"training {place} of {len(run_status.trainings)}")
    if run_status.cases is not None:
        parts.append("{} of {} cases".format(*run_status.cases))
    if run_status.share is not None:
        parts.append(f"{run_status.share:.0%}")
    if run_status.stage_s is not None and not run_status.stage.startswith("train"):
        parts.append(f"for {duration(run_status.stage_s)}")
        if run_status.expected_s is not None:
            parts.append(f"expected about {duration(run_status.expected_s)}")
    return ", ".join(parts)


def _show_what_to_do(run_status: RunStatus) -> None:
    name = shlex.quote(run_status.name)
    if run_status.state == "interrupted":
        console.warn(
            "run the same command again: it goes on after the last finished stage, a training at "
            f"its last checkpoint. To give it up: medseg clean {name}"
        )
    elif run_status.state == "unreadable":
        console.warn(f"to begin anew: the same command with --fresh, or medseg clean {name}")


def _show_trainings(trainings: Sequence[TrainingStatus]) -> None:
    rows = []
    for training in trainings:
        last = training.epochs[-1] if training.epochs else None
        rows.append(
            [
                training.name,
                training.state,
                f"{training.share:.0%}",
                f"{duration(training.used_s)} of {duration(training.asked_s)}",
                "" if last is None else str(last.iterations),
                "" if last is None else f"{last.loss:.3f}",
                "" if last is None or last.patch_dice is None else f"{last.patch_dice:.3f}",
                training.problem,
            ]
        )
    columns = ["training", "state", "done", "time", "iterations", "loss", "Dice of patches", ""]
    console.table("", columns, rows)


def _show_training(training: TrainingStatus) -> None:
    used = f"{duration(training.used_s)} of {duration(training.asked_s)}"
    console.detail(f"{_called(training)}: {used}, {training.share:.0%}")
    if not training.epochs:
        return
    last = training.epochs[-1]
    waiting = ""
    if last.waited_share is not None:
        waiting = f", {last.waited_share:.0%} of that waiting for data"
    console.detail(
        f"epoch {last.number}, {last.iterations} iterations, "
        f"{last.iteration_s:.2f} s each{waiting}; learning rate {last.learning_rate:.5f}"
    )
    losses = [(one.used_s, one.loss) for one in training.epochs]
    _show_curve("loss of training", training, losses, _usual([loss for _, loss in losses]))
    dice = _dice_points(training.epochs)
    if dice:
        _show_curve("Dice of patches (not of whole images)", training, dice, (0.0, 1.0))


def _usual(losses: Sequence[float]) -> tuple[float, float]:
    """Return limits that the first epochs, with their high losses, do not stretch."""
    return min(losses), sorted(losses)[int(USUAL_SHARE * (len(losses) - 1))]


def _called(training: TrainingStatus) -> str:
    return training.name if training.name == "training" else f"training {training.name}"


def _dice_points(epochs: Sequence[Epoch]) -> list[tuple[float, float]]:
    return [(one.used_s, one.patch_dice) for one in epochs if one.patch_dice is not None]


def _show_curve(
    title: str,
    training: TrainingStatus,
    points: Sequence[tuple[float, float]],
    limits: tuple[float, float],
) -> None:
    from nnunet_medseg.report.curve import BRAILLE, WIDTH, draw_curve

    in_ascii = not console.can_show(BRAILLE)
    bar = "|" if in_ascii else "│"
    lines = draw_curve(points, training.asked_s, limits=limits, in_ascii=in_ascii)
    labels = [""] * len(lines)
    labels[0], labels[-1] = f"{limits[1]:.3f}", f"{limits[0]:.3f}"
    console.detail(f"{title}: {points[-1][1]:.3f}")
    for label, line in zip(labels, lines, strict=True):
        console.detail(f"{label:>{LABEL_WIDTH}} {bar}{line}")
    end = f"{training.asked_s / 60:g} min"
    console.detail(f"{'0':>{LABEL_WIDTH + 3}}{end:>{WIDTH - 1}}")


def _show_ends(run_status: RunStatus) -> None:
    parts = []
    first, last = run_status.training_ends_at, run_status.last_training_ends_at
    if first is not None:
        parts.append(f"training ends at {_clock(first)}")
    if last is not None and last != first:
        beside = "" if run_status.done_by is not None else ", beside the time for evaluation"
        parts.append(f"the last one at about {_clock(last)}{beside}")
    if run_status.done_by is not None:
        parts.append(f"all is done by about {_clock(run_status.done_by)} at the latest")
    if parts:
        console.detail(", ".join(parts))


def _clock(at: float) -> str:
    then = datetime.fromtimestamp(at).astimezone()
    is_today = then.date() == datetime.now().astimezone().date()
    return f"{then:%H:%M:%S}" if is_today else f"{then:%Y-%m-%d %H:%M}"


# --- models ------------------------------------------------------------------------------------


def _show_models(status: Status) -> None:
    rows = [_model_row(model) for model in status.models[:MAX_MODELS]]
    console.heading(f"Delivered in {status.output_folder}")
    columns = ["model", "when", "trained", "iterations", "mean Dice", "ended early by"]
    console.table("", columns, rows)
    if len(status.models) > MAX_MODELS:
        console.detail(f"and {len(status.models) - MAX_MODELS} older ones")
    latest = status.models[0]
    if latest.trainings:
        console.heading(f"{latest.name}: done")
    if len(latest.trainings) > 1:
        _show_trainings(latest.trainings)
    for training in latest.trainings[-1:]:
        _show_training(training)


def _model_row(model: ModelStatus) -> list[str]:
    training, evaluation = model.manifest.training, model.manifest.evaluation
    dice = "not measured"
    if evaluation.mean_dice is not None:
        dice = f"{evaluation.mean_dice:.3f} ({evaluation.cases} of {evaluation.of_cases} cases)"
    folds = training.diverged_folds
    diverged = f"{console.counted(folds, 'fold')} diverged" if folds else ""
    return [
        model.name,
        _clock(model.delivered_at),
        f"{duration(training.used_s)} of {duration(training.asked_s)}",
        str(training.iterations),
        dice,
        ", ".join(filter(None, (training.ended_early, diverged))),
    ]
