"""What a run is doing, seen from another process: it reads, and changes nothing.

Promises: nothing is written, in the run folder or elsewhere; a file that is missing, half
written, or gone in the moment it is read makes the answer shorter and is no error.
Does not promise: that a process on another machine, which shares the disk without file locks, is
seen to be alive. The time of the last sign of life is told beside it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from nnunet_medseg.budget.estimate import (
    START_AND_REFERENCE_S,
    closing_s,
    evaluation_limit_s,
    expected_s,
)
from nnunet_medseg.bundle.manifest import MANIFEST_NAME, Manifest, read_manifest
from nnunet_medseg.errors import UserError
from nnunet_medseg.files import read_cache
from nnunet_medseg.hardware import Device
from nnunet_medseg.nnunet.history import Epoch, read_histories, read_history
from nnunet_medseg.run_folder import (
    HISTORIES_NAME,
    SCRATCH,
    RunFolder,
    find_runs,
    is_locked,
    locked_at,
)
from nnunet_medseg.workflows.options import Folders, TrainOptions, command_of
from nnunet_medseg.workflows.stage import Run, Training
from nnunet_medseg.workflows.stages.common import evaluates_all, split_of, trainings_of
from nnunet_medseg.workflows.stages.forecast import workload
from nnunet_medseg.workflows.train import stages_of

__all__ = ["ModelStatus", "RunStatus", "Status", "TrainingStatus", "read_status", "to_json"]

# States of a run, and of a training: the last two only of a training.
RUNNING, STOPPED, UNKNOWN, UNREADABLE = "running", "interrupted", "unknown", "unreadable"
WAITING, FINISHED, FAILED = "waiting", "finished", "failed"

# What any file of a run may do to a reader that does not hold the lock.
TROUBLE = (OSError, ValueError, TypeError, KeyError, LookupError, UserError)
# Nothing is computed here; asking the real device would load torch.
NO_DEVICE = Device("cpu", 0, "", has_fast_bf16=False)


@dataclass(frozen=True)
class TrainingStatus:
    """One training of a run: the only one, a fold, or a variant.

    Attributes:
        name: As people read it.
        state: "waiting", "running", "interrupted", "finished", "failed", or "unknown".
        asked_s: Its time in seconds.
        used_s: What it has used.
        problem: Why it failed; empty otherwise.
        epochs: Its history.
    """

    name: str
    state: str
    asked_s: float
    used_s: float = 0.0
    problem: str = ""
    epochs: tuple[Epoch, ...] = ()

    @property
    def share(self) -> float:
        """How far it is, in [0, 1]."""
        return 1.0 if self.state == FINISHED else min(1.0, self.used_s / self.asked_s)


@dataclass(frozen=True)
class RunStatus:
    """A run that is not finished.

    Attributes:
        name: Of the dataset, as `-d` said it.
        state: "running", "interrupted", "unknown" (whether a process is alive), or "unreadable".
        last_sign_s: Seconds since it wrote something.
        command: That asks for the same; empty when it cannot be read.
        finished: Seconds of each finished stage.
        stage: The one it is at, as in "train fold 2"; empty when it cannot be told.
        stage_s: Seconds since that stage began; None when nobody knows.
        expected_s: How long the stage should take.
        share: How far the stage is, in [0, 1]; None when nobody knows.
        cases: How many cases are evaluated, and of how many; None in other stages.
        trainings: In order; empty before the dataset was checked.
        training_ends_at: When the training at work, or the next one, ends; in seconds since the
            epoch, like the next two.
        last_training_ends_at: When the last one ends, beside an evaluation without a limit.
        done_by: When all is over at the latest; None where the evaluation has no limit.
    """

    name: str
    state: str
    last_sign_s: float
    command: str = ""
    finished: dict[str, float] = field(default_factory=dict)
    stage: str = ""
    stage_s: float | None = None
    expected_s: float | None = None
    share: float | None = None
    cases: tuple[int, int] | None = None
    trainings: tuple[TrainingStatus, ...] = ()
    training_ends_at: float | None = None
    last_training_ends_at: float | None = None
    done_by: float | None = None

    @property
    def current(self) -> TrainingStatus | None:
        """The training that the run is at, or was at last; None before the first one."""
        begun = [one for one in self.trainings if one.epochs or one.state == RUNNING]
        at_work = [one for one in begun if one.state in {RUNNING, STOPPED, UNKNOWN}]
        return next(reversed(at_work or begun), None)


@dataclass(frozen=True)
class ModelStatus:
    """A model that a run has delivered.

    Attributes:
        name: Of its folder.
        delivered_at: Seconds since the epoch.
        manifest: Every figure of it.
        trainings: With their histories, where these lie beside the model.
    """

    name: str
    delivered_at: float
    manifest: Manifest
    trainings: tuple[TrainingStatus, ...] = ()


@dataclass(frozen=True)
class Status:
    """What there is to see.

    Attributes:
        work_folder: Where the runs are.
        output_folder: Where the models are.
        is_locked: Whether a command is at work in the work folder; None when nobody can tell.
        is_predicting: Whether that command is a prediction or a comparison.
        runs: Those that are not finished, the one that wrote last first.
        models: Those that were delivered, the latest first.
    """

    work_folder: Path
    output_folder: Path
    is_locked: bool | None
    is_predicting: bool
    runs: tuple[RunStatus, ...]
    models: tuple[ModelStatus, ...]


def read_status(
    work_folder: Path, output_folder: Path, name: str | None = None, now: float | None = None
) -> Status:
    """Return what there is to see in a work folder and an output folder.

    Args:
        work_folder: Where the runs are; it may be missing.
        output_folder: Where the models are; it may be missing.
        name: Of the dataset; None for all of them.
        now: Seconds since the epoch; None for now.
    """
    now = time.time() if now is None else now
    held = is_locked(work_folder)
    is_predicting = held is True and any(work_folder.glob(f"{SCRATCH}*"))
    folders = [run for run in find_runs(work_folder) if name in {None, run.root.name}]
    folders.sort(key=_last_sign, reverse=True)
    # One command holds the folder: the run that wrote last is its run.
    at_work = None if is_predicting else next((run.root for run in _newest(work_folder)), None)
    states = {True: RUNNING, False: STOPPED, None: UNKNOWN}
    runs = []
    for folder in folders:
        state = states[held] if folder.root == at_work or held is None else STOPPED
        runs.append(
            _describe(folder, state, Folders(output_folder, output_folder, work_folder), now)
        )
    models = tuple(_models(output_folder, name))
    shown = tuple(run for run in runs if run is not None)
    return Status(work_folder, output_folder, held, is_predicting, shown, models)


def _newest(work_folder: Path) -> list[RunFolder]:
    return sorted(find_runs(work_folder), key=_last_sign, reverse=True)


def _last_sign(run: RunFolder) -> float:
    """Return when a run wrote last, in seconds since the epoch."""
    patterns = ("*", "trainings/*/*", "prepared/*")
    try:
        places = [path for pattern in patterns for path in run.root.glob(pattern)]
    except OSError:
        # A folder that is removed while it is looked through.
        places = []
    return max((_written_at(path) or 0.0 for path in (run.root, *places)), default=0.0)


def _written_at(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


# --- one run -----------------------------------------------------------------------------------


def _describe(folder: RunFolder, state: str, folders: Folders, now: float) -> RunStatus | None:
    """Return what a run is doing; None when it is gone by now."""
    bare = RunStatus(folder.root.name, state, max(0.0, now - _last_sign(folder)))
    try:
        journal = folder.journal()
        options = TrainOptions(**journal.options)
    except TROUBLE:
        return replace(bare, state=UNREADABLE) if folder.root.is_dir() else None
    run = Run(folder, Path(journal.dataset_folder), folders, options, NO_DEVICE, folder.root)
    known = replace(
        bare,
        command=command_of(options),
        finished={stage.name: stage.seconds for stage in journal.stages},
    )
    known = replace(known, stage=_next_stage(run, known.finished))
    try:
        return _with_trainings(run, known, now)
    except TROUBLE:
        return known


def _next_stage(run: Run, finished: dict[str, float]) -> str:
    """Return the first stage that is not finished; empty when it cannot be told."""
    return next((name for name in _stage_names(run) if name not in finished), "")


def _stage_names(run: Run) -> Iterator[str]:
    """Yield the names of the stages, as many as can be told already."""
    try:
        for stage in stages_of(run):
            yield stage.name
    except TROUBLE:
        # Which trainings there are is known when the dataset has been checked.
        return


def _with_trainings(run: Run, known: RunStatus, now: float) -> RunStatus:
    trainings = trainings_of(run)
    began_at = locked_at(run.folders.work) or 0.0
    stages = [f"train {one.title}" if len(trainings) > 1 else "train" for one in trainings]
    found = tuple(
        _training(one, known, stage, began_at, now)
        for one, stage in zip(trainings, stages, strict=True)
    )
    at = _training_of_stage(trainings, known.stage)
    told = replace(known, trainings=found, **_stage(run, at, found, known, now))
    if told.state != RUNNING:
        return told
    return replace(told, **_ends(run, trainings, told, now))


def _training_of_stage(trainings: tuple[Training, ...], stage: str) -> int:
    """Return the place of the training that a stage is about; the first for one of the run."""
    title = stage.partition(" ")[2]
    return next((place for place, one in enumerate(trainings) if one.title == title), 0)


def _training(
    training: Training, known: RunStatus, stage: str, began_at: float, now: float
) -> TrainingStatus:
    """Return how far a training is.

    Args:
        training: The training.
        known: Of its run.
        stage: The stage that trains it.
        began_at: When the command began that is at work, in seconds since the epoch.
        now: Seconds since the epoch.
    """
    epochs = tuple(read_history(training.folder.history_file))
    last = epochs[-1] if epochs else None
    used_s = last.used_s if last else 0.0
    asked_s = (last.asked_s if last else None) or training.asked_s
    problem = str(read_cache(training.folder.failed_file).get("problem", ""))
    state = WAITING
    if problem:
        state = FAILED
    elif stage in known.finished:
        state = FINISHED
    elif stage == known.stage:
        state = known.state
        if state == RUNNING and last:
            # What has passed since the last line counts too.
            written_at = max(began_at, _written_at(training.folder.history_file) or 0.0)
            used_s = min(asked_s, used_s + max(0.0, now - written_at))
    return TrainingStatus(training.title, state, asked_s, used_s, problem, epochs)


def _stage(
    run: Run, at: int, found: tuple[TrainingStatus, ...], known: RunStatus, now: float
) -> dict[str, Any]:
    """Return how far the stage is that the run is at."""
    kind = known.stage.partition(" ")[0]
    began_at = max(_written_at(run.folder.journal_file) or 0.0, locked_at(run.folders.work) or 0.0)
    stage_s = max(0.0, now - began_at) if known.state == RUNNING else None
    training = trainings_of(run)[at]
    if kind == "train":
        share = found[at].share
        return {"stage_s": stage_s, "expected_s": found[at].asked_s, "share": share}
    if kind == "evaluate":
        done, of = _evaluated(run, training)
        part = done / of if of else None
        return {"stage_s": stage_s, "cases": (done, of), "share": part}
    expected = expected_s(kind, workload(run, training), 0.0)
    passed = min(0.99, stage_s / expected) if expected and stage_s is not None else None
    return {"stage_s": stage_s, "expected_s": expected, "share": passed}


def _evaluated(run: Run, training: Training) -> tuple[int, int]:
    """Return how many cases have been evaluated, and how many are held out."""
    try:
        done = training.folder.evaluation_file.read_bytes().count(b"\n")
    except OSError:
        done = 0
    return done, len(split_of(run, training).evaluate)


def _ends(run: Run, trainings: tuple[Training, ...], told: RunStatus, now: float) -> dict[str, Any]:
    """Return when the trainings end, and when all is over at the latest."""
    ends: list[float] = []
    at, is_bounded = now, True
    for name in (name for name in _stage_names(run) if name not in told.finished):
        kind = name.partition(" ")[0]
        place = _training_of_stage(trainings, name)
        left_s = _left_s(run, trainings[place], told, name, told.trainings[place])
        is_bounded = is_bounded and math.isfinite(left_s)
        at += left_s if math.isfinite(left_s) else 0.0
        if kind == "train":
            ends.append(at)
    return {
        "training_ends_at": ends[0] if ends else None,
        "last_training_ends_at": ends[-1] if ends else None,
        "done_by": at if is_bounded else None,
    }


def _left_s(
    run: Run, training: Training, told: RunStatus, stage: str, status: TrainingStatus
) -> float:
    """Return how long a stage still takes at most; infinite when nobody can tell."""
    kind = stage.partition(" ")[0]
    passed_s = (told.stage_s or 0.0) if stage == told.stage else 0.0
    if kind == "train":
        started_s = 0.0 if status.epochs else START_AND_REFERENCE_S
        return started_s + status.asked_s - status.used_s
    if kind in {"evaluate", "assess"}:
        if not split_of(run, training).evaluate:
            return 0.0
        limit_s = math.inf if evaluates_all(run) else evaluation_limit_s(training.asked_s)
        return max(0.0, limit_s - passed_s)
    work = workload(run, training)
    # The rest after the evaluation, once.
    expected = closing_s(work) if kind == "report" else expected_s(kind, work, 0.0)
    if kind in {"bundle", "verify", "deliver", "keep", "clean"} and stage != told.stage:
        expected = 0.0
    return max(0.0, (expected or 0.0) - passed_s)


# --- models ------------------------------------------------------------------------------------


def _models(output_folder: Path, name: str | None) -> list[ModelStatus]:
    """Return the delivered models; with a name, those of that dataset."""
    found = []
    for path in output_folder.glob(f"*/model/{MANIFEST_NAME}"):
        folder, written_at = path.parent.parent, _written_at(path)
        try:
            manifest = read_manifest(path.parent)
        except UserError:
            continue
        # While it is built, the folder has a hidden name.
        if manifest is None or written_at is None or folder.name.startswith("."):
            continue
        if name in {None, folder.name, manifest.name}:
            trainings = _finished_trainings(folder / HISTORIES_NAME)
            found.append(ModelStatus(folder.name, written_at, manifest, trainings))
    return sorted(found, key=lambda model: model.delivered_at, reverse=True)


def _finished_trainings(path: Path) -> tuple[TrainingStatus, ...]:
    try:
        histories = read_histories(path)
    except OSError:
        return ()
    return tuple(
        TrainingStatus(
            name.replace("_", " "),
            FINISHED,
            epochs[-1].asked_s or epochs[-1].used_s,
            epochs[-1].used_s,
            epochs=tuple(epochs),
        )
        for name, epochs in histories.items()
    )


# --- for programs ------------------------------------------------------------------------------


def to_json(status: Status) -> dict[str, Any]:
    """Return a status as plain types; times of day in ISO 8601, shares in [0, 1]."""
    return {
        "work_folder": str(status.work_folder),
        "output_folder": str(status.output_folder),
        "is_locked": status.is_locked,
        "is_predicting": status.is_predicting,
        "runs": [_run_json(run) for run in status.runs],
        "models": [
            {
                "name": model.name,
                "delivered_at": _clock(model.delivered_at),
                "training": model.manifest.training.model_dump(mode="json"),
                "evaluation": model.manifest.evaluation.model_dump(mode="json"),
                "trainings": [asdict(training) for training in model.trainings],
            }
            for model in status.models
        ],
    }


def _run_json(run: RunStatus) -> dict[str, Any]:
    content = asdict(run)
    for name in ("training_ends_at", "last_training_ends_at", "done_by"):
        content[name] = None if content[name] is None else _clock(content[name])
    for written, training in zip(content["trainings"], run.trainings, strict=True):
        written["share"] = training.share
    return content


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")
