"""Datasets that are kept for another training: the user's files, and what was prepared of them.

Promises: a dataset is there whole or not at all; two datasets never share a name; what was
prepared for other parameters is never overwritten, since it lies under a hash of what made it.
Does not promise: room on the disk; `medseg forget` makes some.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from nnunet_medseg.errors import DatasetError, UsageError
from nnunet_medseg.files import ListedFile, copy_listed, list_files, read_json, write_json

__all__ = [
    "INSPECTIONS",
    "Keeping",
    "KeptDataset",
    "KeptRecord",
    "files_of_kept",
    "find_kept",
    "forget_kept",
    "is_kept",
    "keep_dataset",
    "list_kept",
    "now_text",
    "sweep_kept",
]

FOLDER = "datasets"
RECORD = "kept.json"
FILES = "files"
FORMAT = 1
HIDDEN = ".unfinished-"
# What a run has prepared that later ones can use.
INSPECTIONS = "inspections.json"
PREPARED = ("prepared", "fingerprints", "speeds.json", INSPECTIONS)


class KeptRecord(BaseModel):
    """What is known of a kept dataset beside its files."""

    format: int = FORMAT
    kept_at: str
    cases: int
    options: dict[Literal["label", "image_type", "extension", "layout"], str | None]
    inventory: list[ListedFile]


@dataclass(frozen=True)
class KeptDataset:
    """A dataset that is kept.

    Attributes:
        root: Its folder; private to the user, since it holds images of patients.
        record: What is known of it.
    """

    root: Path
    record: KeptRecord

    @property
    def name(self) -> str:
        """The name it is kept under."""
        return self.root.name

    @property
    def files(self) -> Path:
        """The folder with the user's files, as they were copied in."""
        return self.root / FILES

    @property
    def size_bytes(self) -> int:
        """What it takes on the disk."""
        return sum(item.size_bytes for item in list_files(self.root))

    @property
    def inventory(self) -> tuple[ListedFile, ...]:
        """The user's files with their hashes."""
        return tuple(self.record.inventory)

    def holds(self, listed: Iterable[ListedFile]) -> bool:
        """Tell whether these are the same files, whatever their times."""
        return _contents(self.inventory) == _contents(listed)


def _contents(listed: Iterable[ListedFile]) -> set[tuple[str, int, str]]:
    return {(item.path, item.size_bytes, item.sha256) for item in listed if not item.is_link}


def find_kept(work_folder: Path, name: str) -> KeptDataset | None:
    """Return the dataset that is kept under a name; None when there is none.

    Raises:
        DatasetError: When it cannot be read.
    """
    root = work_folder / FOLDER / name
    if not (root / RECORD).is_file():
        return None
    if (root / RECORD).is_symlink():
        raise _unreadable(root)
    try:
        record = KeptRecord.model_validate(read_json(root / RECORD))
    except (OSError, ValueError, ValidationError, RecursionError) as cause:
        raise _unreadable(root) from cause
    if record.format != FORMAT or not _has_options(record):
        raise _unreadable(root)
    return KeptDataset(root, record)


def _has_options(record: KeptRecord) -> bool:
    # Of these only the ending may be left open.
    return all(value is not None for key, value in record.options.items() if key != "extension")


def _unreadable(root: Path) -> DatasetError:
    problem = f"The kept dataset in {root} cannot be read by this version."
    fix = f"Copy the dataset in again, and remove the kept one with: medseg forget {root.name}"
    return DatasetError(problem, fix=fix)


def list_kept(
    work_folder: Path, on_unreadable: Callable[[DatasetError], None] = lambda _: None
) -> tuple[KeptDataset, ...]:
    """Return all kept datasets, by name.

    Args:
        work_folder: Where they are.
        on_unreadable: Called for each one that this version cannot read.
    """
    folder = work_folder / FOLDER
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = []
    for name in names:
        try:
            kept = None if name.startswith(HIDDEN) else find_kept(work_folder, name)
        except DatasetError as error:
            on_unreadable(error)
            continue
        found += [kept] if kept is not None else []
    return tuple(found)


def is_kept(folder: Path) -> bool:
    """Tell whether a folder holds the files of a kept dataset, by whatever path it is reached."""
    return folder.name == FILES and (folder.parent / RECORD).is_file()


def files_of_kept(work_folder: Path, name: str) -> Path:
    """Return where the files of a dataset of that name are, readable or not."""
    return work_folder / FOLDER / name / FILES


@dataclass(frozen=True)
class Keeping:
    """What is to be kept.

    Attributes:
        folder: With the user's files.
        listed: Their records, with hashes.
        record: What is known of the dataset; the inventory is filled in.
        prepared_in: Folder that the prepared data is moved out of.
        may_link: Whether the files may be shared with the copy, which will be deleted.
    """

    folder: Path
    listed: Sequence[ListedFile]
    record: KeptRecord
    prepared_in: Path
    may_link: bool


def keep_dataset(
    work_folder: Path, name: str, what: Keeping, on_file: Callable[[int], None] = lambda _: None
) -> bool:
    """Keep a dataset with all that was prepared of it.

    Args:
        work_folder: Takes it.
        name: To keep it under; nothing may be kept under it yet.
        what: The dataset.
        on_file: Called with the number of files that are done.

    Returns:
        False when a file has changed since it was listed; nothing is kept then.
    """
    folder = work_folder / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    hidden = folder / f"{HIDDEN}{secrets.token_hex(4)}"
    hidden.mkdir(mode=0o700)
    if not copy_listed(
        what.folder, what.listed, hidden / FILES, may_link=what.may_link, on_file=on_file
    ):
        shutil.rmtree(hidden)
        return False
    for part in PREPARED:
        if (what.prepared_in / part).exists():
            (what.prepared_in / part).rename(hidden / part)
    # Times differ where a file had to be copied to another disk.
    hashes = {item.path: item.sha256 for item in what.listed}
    inventory = [replace(item, sha256=hashes[item.path]) for item in list_files(hidden / FILES)]
    full = what.record.model_copy(update={"inventory": inventory})
    write_json(hidden / RECORD, full.model_dump(), mode=0o600)
    hidden.rename(folder / name)
    return True


def sweep_kept(work_folder: Path) -> None:
    """Remove what was cut off in keeping or forgetting; call it while holding the lock."""
    for leftover in (work_folder / FOLDER).glob(f"{HIDDEN}*"):
        shutil.rmtree(leftover)


def now_text() -> str:
    """Return the date and time as they are shown."""
    return datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")


def forget_kept(work_folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Delete kept datasets, with all that was prepared of them.

    Args:
        work_folder: Where they are; the caller holds its lock.
        names: Which ones.

    Returns:
        The names.

    Raises:
        UsageError: When one is not there; nothing is deleted then.
    """
    folder = work_folder / FOLDER
    paths = folder.iterdir() if folder.is_dir() else ()
    there = {path.name for path in paths if path.is_dir() and not path.name.startswith(HIDDEN)}
    missing = [name for name in names if name not in there]
    if missing:
        problem = f"No dataset is kept under the name {', '.join(missing)} in {work_folder}."
        raise UsageError(problem, fix=f"There is: {', '.join(sorted(there)) or 'none'}.")
    once = tuple(dict.fromkeys(names))
    for name in once:
        doomed = folder / f"{HIDDEN}{secrets.token_hex(4)}"
        (folder / name).rename(doomed)
        shutil.rmtree(doomed)
    return once
