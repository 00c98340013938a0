"""Stages and the loop that runs them: order, time, resume, journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_medseg import console
from nnunet_medseg.hardware import Device
from nnunet_medseg.run_folder import RunFolder, TrainingFolder
from nnunet_medseg.workflows.ending import Ending
from nnunet_medseg.workflows.options import Folders, TrainOptions

__all__ = ["Run", "Stage", "Training", "run_stages"]


@dataclass(frozen=True)
class Run:
    """Everything a stage may look at beside the files of earlier stages.

    Attributes:
        folder: Where the run's files are.
        dataset_folder: Where the user's dataset is.
        folders: Where the command reads and writes.
        options: What was asked for.
        device: What computes.
        store: Where prepared data lies: the run's own folder, or that of a kept dataset.
        ending: When the command has to be over, and whether it was asked to end early.
    """

    folder: RunFolder
    dataset_folder: Path
    folders: Folders
    options: TrainOptions
    device: Device
    store: Path
    ending: Ending = field(default_factory=Ending)


@dataclass(frozen=True)
class Training:
    """One of the trainings of a run: a fold, a variant, or the only one.

    Attributes:
        name: Of its folder, and as the user sees it; "training" for the only one.
        fold: Whose split holds.
        options: What was asked of this one.
        minutes: Its share of the time.
        folder: Where its files are.
    """

    name: str
    fold: str
    options: TrainOptions
    minutes: float
    folder: TrainingFolder

    @property
    def title(self) -> str:
        """The name as people read it."""
        return self.name.replace("_", " ")

    @property
    def asked_s(self) -> float:
        """The training duration in seconds."""
        return self.minutes * 60


@dataclass(frozen=True)
class Stage:
    """One step of a workflow.

    Attributes:
        name: A verb, as the user sees it in the progress line and the journal.
        work: Reads files of earlier stages from the run folder and writes its own.
        least_s: Seconds that these files say it took, when it is finished.
    """

    name: str
    work: Callable[[Run], None]
    least_s: Callable[[], float] = lambda: 0.0


def run_stages(
    stages: Iterable[Stage], run: Run, expected_s: Callable[[str, Run], float | None]
) -> None:
    """Run the stages in order, skipping those the journal says are finished.

    Args:
        stages: The workflow; the later ones may be found when the earlier ones are finished.
        run: What they work on.
        expected_s: How long a stage should take, where somebody can tell.
    """
    finished = run.folder.finished_stages()
    if finished:
        console.detail(f"going on after: {', '.join(finished)}")
    for stage in stages:
        if stage.name not in finished:
            expected = expected_s(stage.name, run)
            started = time.monotonic()
            with run.folder.recording(stage.name, stage.least_s):
                stage.work(run)
            console.stage_line(stage.name, time.monotonic() - started, expected)
