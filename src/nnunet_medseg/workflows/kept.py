"""Kept datasets as people see them: list them, forget them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnunet_medseg import console
from nnunet_medseg.dataset.kept import (
    KeptDataset,
    files_of_kept,
    forget_kept,
    list_kept,
    sweep_kept,
)
from nnunet_medseg.errors import ResumeError, UserError
from nnunet_medseg.run_folder import RunFolder, find_runs, lock

__all__ = ["datasets", "forget"]


def datasets(work_folder: Path) -> tuple[KeptDataset, ...]:
    """Return the datasets that are kept in a work folder, by name."""
    return list_kept(Path(work_folder).absolute(), lambda error: console.warn(str(error)))


def forget(work_folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Delete kept datasets, with all that was prepared of them.

    Args:
        work_folder: Where they are.
        names: Which ones.

    Returns:
        The names.

    Raises:
        UsageError: When one is not there; nothing is deleted then.
        ResumeError: When a command is at work in the folder, or an unfinished run needs one.
    """
    with lock(Path(work_folder).absolute()):
        sweep_kept(Path(work_folder).absolute())
        _require_unused(Path(work_folder).absolute(), names)
        return forget_kept(Path(work_folder).absolute(), names)


def _require_unused(work_folder: Path, names: Sequence[str]) -> None:
    for name in names:
        files = files_of_kept(work_folder, name)
        users = [run.root.name for run in find_runs(work_folder) if _reads(run, files)]
        if users:
            problem = f"An unfinished run, {users[0]}, reads the dataset {name}."
            fix = f"Finish it with the same command, or remove it: medseg clean {users[0]}"
            raise ResumeError(problem, fix=fix)


def _reads(run: RunFolder, folder: Path) -> bool:
    try:
        return run.journal().dataset_folder == str(folder)
    except UserError:
        # Of another version: it cannot go on anyway.
        return False
