"""Unfinished runs: list them, remove them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_medseg.errors import UsageError, UserError
from nnunet_medseg.files import list_files, read_cache
from nnunet_medseg.run_folder import RunFolder, find_runs, lock, remove_run

__all__ = ["UnfinishedRun", "discard_run", "list_runs", "remove_runs"]


@dataclass(frozen=True)
class UnfinishedRun:
    """An unfinished run as people see it."""

    name: str
    stages: str
    size: str


def list_runs(work_folder: Path) -> tuple[UnfinishedRun, ...]:
    """List the unfinished runs in a work folder."""
    return tuple(
        UnfinishedRun(run.root.name, _stages(run), _size(run.root))
        for run in find_runs(work_folder)
    )


def _stages(run: RunFolder) -> str:
    try:
        return ", ".join(run.finished_stages()) or "none"
    except UserError:
        return "not readable by this version"


def _size(folder: Path) -> str:
    return f"{sum(item.size_bytes for item in list_files(folder)) / 1e6:.0f} MB"


def discard_run(run: RunFolder) -> None:
    """Remove an unfinished run, and what it had begun to build in the output folder."""
    # Empty when it is damaged: nobody knows then which folder was this run's.
    hidden = read_cache(run.delivery_file).get("hidden")
    # A delivered model has another name by now; it stays.
    if hidden is not None and Path(hidden).is_dir():
        shutil.rmtree(hidden)
    remove_run(run)


def remove_runs(work_folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Remove unfinished runs; the user's datasets are not touched.

    Args:
        work_folder: Where they are.
        names: Which ones.

    Returns:
        The names.

    Raises:
        UsageError: When one is not there; nothing is removed then.
        ResumeError: When a command is at work in the folder.
    """
    if not names:
        return ()
    with lock(work_folder):
        runs = {run.root.name: run for run in find_runs(work_folder)}
        missing = [name for name in names if name not in runs]
        if missing:
            problem = f"There is no unfinished run {', '.join(missing)} in {work_folder}."
            raise UsageError(problem, fix=f"There is: {', '.join(runs) or 'none'}.")
        for name in names:
            discard_run(runs[name])
    return tuple(names)
