"""Stages and the loop that runs them: order, time, resume, journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_medseg import console
from nnunet_medseg.hardware import Device
from nnunet_medseg.run_folder import RunFolder
from nnunet_medseg.workflows.options import Folders, TrainOptions

__all__ = ["Run", "Stage", "run_stages"]


@dataclass(frozen=True)
class Run:
    """Everything a stage may look at beside the files of earlier stages.

    Attributes:
        folder: Where the run's files are.
        dataset_folder: Where the user's dataset is.
        folders: Where the command reads and writes.
        options: What was asked for.
        device: What computes.
    """

    folder: RunFolder
    dataset_folder: Path
    folders: Folders
    options: TrainOptions
    device: Device


@dataclass(frozen=True)
class Stage:
    """One step of a workflow.

    Attributes:
        name: A verb, as the user sees it in the progress line and the journal.
        work: Reads files of earlier stages from the run folder and writes its own.
    """

    name: str
    work: Callable[[Run], None]


def run_stages(
    stages: Sequence[Stage], run: Run, expected_s: Callable[[str, Run], float | None]
) -> None:
    """Run the stages in order, skipping those the journal says are finished.

    Args:
        stages: The workflow.
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
            with run.folder.recording(stage.name):
                stage.work(run)
            console.stage_line(stage.name, time.monotonic() - started, expected)
