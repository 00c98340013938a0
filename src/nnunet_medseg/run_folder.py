"""The folder of a run: every path in it by name, the journal of its stages, and the lock.

Promises: a stage is in the journal only when all it writes has been written; the lock of a
process that died is no lock; no command works, and so deletes, in a folder that is not its own.
Does not promise: two machines that share a folder without file locks being kept apart.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from nnunet_medseg.errors import FolderError, ResumeError
from nnunet_medseg.files import read_json, write_json

__all__ = [
    "DATASET_NAME",
    "HISTORIES_NAME",
    "Journal",
    "RunFolder",
    "StageRecord",
    "TrainingFolder",
    "claim",
    "find_runs",
    "is_locked",
    "lock",
    "locked_at",
    "remove_run",
    "require_writable",
    "sweep",
]

# nnU-Net wants a number and a name; the user's name is not used, since it would travel in plans.
DATASET_NAME = "Dataset001_medseg"

HISTORIES_NAME = "training.jsonl"  # the epochs of all trainings, beside the model

REMOVED = ".removed-"  # a run folder that is being removed; no dataset can be called so
SCRATCH = "scratch-"  # temporary folders of a prediction
LOCK = "lock"
MARKER = "made-by-medseg"  # a work folder has it from its first moment on
SOCKETS = "sockets"  # names the temporary folder through which a command talks to its workers
# What work folders hold that are older than the marker.
OWN_NAMES = frozenset(
    {LOCK, SOCKETS, "runs", "datasets", "predict-log.txt", "compare-log.txt", "predicted.json"}
)
# What systems put into any folder, beside what has a name that begins with a dot.
LITTER = frozenset({"lost+found", "Thumbs.db", "desktop.ini"})
# The path of a socket has at most 107 bytes (unix(7)), and names below the folder take 32.
MAX_TEMPORARY_BYTES = 75
SHORT_TEMPORARY = Path("/tmp")  # noqa: S108 the folder made in it has a random name and is private
SOCKETS_PREFIX = "pymp-"  # multiprocessing/util.py of Python 3.10 to 3.13, get_temp_dir

BEFORE_PLANNING = ("model", "check", "convert")

FORMAT = 6
LOCK_WAIT_S = 3.0  # workers of a process that was just killed hold its lock this long at most


class StageRecord(BaseModel):
    """A finished stage: its name and the seconds it took, in all attempts together."""

    name: str
    seconds: float


class Journal(BaseModel):
    """What a run was asked to do, and which stages are finished.

    Attempts are seconds of stages that are not finished, by name. Older programs wrote none.
    """

    format: int = FORMAT
    program_version: str
    options: dict[str, Any]
    dataset_folder: str
    stages: list[StageRecord] = Field(default_factory=list)
    attempts: dict[str, float] = Field(default_factory=dict)


class TrainingFolder:
    """Paths of one training of a run.

    Attributes:
        root: The folder; it holds plans beside the files named here.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.plan_file = root / "plan.json"
        self.start_file = root / "start.pth"
        self.checkpoint_file = root / "checkpoint.pth"
        self.history_file = root / "history.jsonl"
        self.training_file = root / "training.json"
        self.failed_file = root / "failed.json"
        self.reference_file = root / "reference.npz"
        self.evaluation_file = root / "evaluation.jsonl"
        self.trained_on_file = root / "trained_on.jsonl"
        self.segmentations = root / "segmentations"

    def segmentation_file(self, case: str) -> Path:
        """Return where the segmentation of a held-out case is."""
        return self.segmentations / f"{case}.npz"


class RunFolder:
    """Paths and journal of one run.

    Attributes:
        root: The folder; private to the user, since it holds images of patients.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.journal_file = root / "journal.json"
        self.inventory_file = root / "inventory.json"
        self.check_file = root / "check.json"
        self.findings_file = root / "findings.json"
        self.raw = root / "nnUNet_raw"
        self.preprocessed = root / "nnUNet_preprocessed"
        self.dataset = self.preprocessed / DATASET_NAME
        self.results = root / "nnUNet_results"
        self.trainings = root / "trainings"
        self.given_file = root / "given.pth"
        self.given_evaluation_file = root / "given.jsonl"
        self.reference_file = root / "reference.npz"
        self.chosen_file = root / "chosen.json"
        self.quality_file = root / "quality.json"
        self.report = root / "report"
        self.delivery_file = root / "delivery.json"
        self.log_file = root / "log.txt"

    def create(self, journal: Journal) -> None:
        """Make the folder, with an empty list of finished stages."""
        self.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.mkdir(mode=0o700)
        for folder in (self.raw, self.preprocessed, self.results, self.trainings, self.report):
            folder.mkdir()
        self._write(journal)

    def training(self, name: str) -> TrainingFolder:
        """Return the folder of a training."""
        return TrainingFolder(self.trainings / name)

    def has_checkpoint(self) -> bool:
        """Tell whether any training has begun that would be lost with the folder."""
        return any(self.trainings.glob("*/checkpoint.pth"))

    def journal(self) -> Journal:
        """Read the journal.

        Raises:
            ResumeError: When it is damaged or was written by another version's format.
        """
        problem = f"The unfinished run in {self.root} cannot be read by this version."
        fix = "Use --fresh to discard it and start again; nothing of the dataset is touched."
        try:
            journal = Journal.model_validate(read_json(self.journal_file))
        except (OSError, ValueError, ValidationError) as cause:
            raise ResumeError(problem, fix=fix) from cause
        if journal.format != FORMAT:
            raise ResumeError(problem, fix=fix)
        return journal

    def _write(self, journal: Journal) -> None:
        write_json(self.journal_file, journal.model_dump(), mode=0o600)

    def damaged_files(self) -> tuple[str, ...]:
        """Name the files that cannot be read any more, as after a disk failed or was full.

        Stages replace their files as a whole, so that none is ever seen half written otherwise.
        """
        tables = [*self.root.glob("*.json"), *self.trainings.glob("*/*.json")]
        tables += [*self.raw.glob("*/*.json"), *self.root.glob("fingerprints/*/*.json")]
        packed = [*self.root.glob("*.npz"), *self.root.glob("*.pth")]
        packed += [*self.trainings.glob("*/*.npz"), *self.trainings.glob("*/*.pth")]
        # One that was being written has a name that begins with a dot.
        tables = [path for path in tables if not path.parent.name.startswith(".")]
        damaged = [path for path in tables if not _is_json(path)]
        damaged += [path for path in packed if not zipfile.is_zipfile(path)]
        return tuple(
            f"file {path.relative_to(self.root).as_posix()} of the run: damaged"
            for path in sorted(damaged)
        )

    def finished_stages(self) -> dict[str, float]:
        """Return the seconds of each finished stage, by name."""
        return {stage.name: stage.seconds for stage in self.journal().stages}

    def change_options(self, options: dict[str, Any]) -> None:
        """Go on with other options; the finished stages must not depend on what changed."""
        journal = self.journal()
        journal.options = options
        self._write(journal)

    def forget(self, *stages: str) -> None:
        """Let stages run again; the time that they took counts with that of the next attempt."""
        journal = self.journal()
        journal.attempts |= {
            record.name: record.seconds for record in journal.stages if record.name in stages
        }
        journal.stages = [record for record in journal.stages if record.name not in stages]
        self._write(journal)

    def forget_plans(self) -> None:
        """Take planning and all that follows out of the journal, with the trainings."""
        journal = self.journal()
        journal.stages = [record for record in journal.stages if record.name in BEFORE_PLANNING]
        kept = journal.attempts.keys() & set(BEFORE_PLANNING)
        journal.attempts = {name: journal.attempts[name] for name in kept}
        self._write(journal)
        shutil.rmtree(self.trainings)
        self.trainings.mkdir()

    @contextmanager
    def recording(self, stage: str, least_s: Callable[[], float] = lambda: 0.0) -> Iterator[None]:
        """Write the stage into the journal when the block ends without an error.

        After an error its seconds are written, and count with those of the next attempt.

        Args:
            stage: Its name.
            least_s: Seconds that its own files say it took, when it is finished: after a kill
                nothing else tells of an attempt.
        """
        started = time.monotonic()
        try:
            yield
        except BaseException:
            # The error itself is to be told, not that a full disk does not take its time.
            with suppress(OSError, ResumeError):
                journal = self.journal()
                journal.attempts[stage] = _total_s(journal, stage, started)
                self._write(journal)
            raise
        journal = self.journal()
        seconds = max(_total_s(journal, stage, started), least_s())
        journal.attempts.pop(stage, None)
        journal.stages.append(StageRecord(name=stage, seconds=seconds))
        self._write(journal)


def _total_s(journal: Journal, stage: str, started: float) -> float:
    """Return the seconds of all attempts at a stage, with the one that started last."""
    return journal.attempts.get(stage, 0.0) + time.monotonic() - started


def _is_json(path: Path) -> bool:
    try:
        read_json(path)
    except ValueError:
        return False
    return True


def remove_run(run: RunFolder) -> None:
    """Remove a run folder; one that is cut off in removing is no run any more."""
    doomed = run.root.with_name(f"{REMOVED}{secrets.token_hex(4)}")
    run.root.rename(doomed)
    shutil.rmtree(doomed)


def sweep(work_folder: Path) -> None:
    """Finish removals that were cut off; call it while holding the lock."""
    for pattern in (f"runs/{REMOVED}*", f"{SCRATCH}*"):
        for folder in work_folder.glob(pattern):
            shutil.rmtree(folder)


def find_runs(work_folder: Path) -> tuple[RunFolder, ...]:
    """Return the unfinished runs in a work folder, by name."""
    runs = work_folder / "runs"
    if not runs.is_dir():
        return ()
    folders = (path for path in sorted(runs.iterdir()) if path.is_dir())
    return tuple(RunFolder(path) for path in folders if not path.name.startswith(REMOVED))


@contextmanager
def lock(work_folder: Path) -> Iterator[None]:
    """Hold the work folder, so that two commands do not work in it at once.

    Raises:
        FolderError: When it is there, but no work folder: it has files, and none of ours.
        ResumeError: When another living process holds it.
    """
    from filelock import FileLock, Timeout

    claim(work_folder)
    held = FileLock(work_folder / LOCK)
    try:
        held.acquire(timeout=LOCK_WAIT_S)
    except Timeout as cause:
        problem = f"Another command is at work in {work_folder}."
        fix = "Wait until it has finished, or give this one a folder of its own with --work_dir."
        raise ResumeError(problem, fix=fix) from cause
    try:
        with _sockets_noted(work_folder / SOCKETS):
            yield
    finally:
        held.release()


def is_locked(work_folder: Path) -> bool | None:
    """Tell whether a living process holds a work folder; nothing is written.

    Returns:
        None where the system cannot tell, as on disks without file locks.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        with (work_folder / LOCK).open("rb") as file:
            # Let go of at once; a command that begins just now tries again for seconds.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return False


def locked_at(work_folder: Path) -> float | None:
    """Return when the work folder was locked last, in seconds since the epoch; None for never."""
    try:
        return (work_folder / SOCKETS).stat().st_mtime
    except OSError:
        return None


@contextmanager
def _sockets_noted(note: Path) -> Iterator[None]:
    """Note where the sockets of this process are, and remove those of a command that was killed."""
    # No command fails for want of a note: one may be there to make room on a full disk.
    with suppress(OSError):
        _remove_sockets(note)
        note.write_bytes(os.fsencode(_sockets_folder()))
    try:
        yield
    finally:
        with suppress(OSError):
            note.unlink()


def _sockets_folder() -> str:
    """Return where this process and its workers have their sockets; it is made the first time."""
    from multiprocessing.util import get_temp_dir

    usual = tempfile.gettempdir()
    if len(os.fsencode(usual)) > MAX_TEMPORARY_BYTES and SHORT_TEMPORARY.is_dir():
        tempfile.tempdir = str(SHORT_TEMPORARY)
    try:
        return get_temp_dir()
    finally:
        tempfile.tempdir = usual


def _remove_sockets(note: Path) -> None:
    if not note.is_file():
        return
    folder = Path(os.fsdecode(note.read_bytes()))
    if folder.name.startswith(SOCKETS_PREFIX) and folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)


def claim(folder: Path) -> None:
    """Make a work folder, or make sure that it is one.

    Runs and temporary folders are known by their names, and removed; somebody else's may have the
    same ones.

    Raises:
        FolderError: When there are files in it, and none of ours, or it cannot be made.
    """
    require_writable(folder, 0o700)
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - LITTER
    if MARKER in names:
        return
    # Before there were markers there was a lock.
    others = {name for name in names - OWN_NAMES if not name.startswith(SCRATCH)}
    if others or (names and LOCK not in names):
        shown = ", ".join(sorted(others or names)[:3])
        problem = f"{folder} is no work folder: there is {shown} in it."
        fix = f"Give a folder that is new or empty, as --work_dir {folder / '.medseg'}."
        raise FolderError(problem, fix=fix)
    with suppress(PermissionError):
        folder.chmod(0o700)
    (folder / MARKER).touch()


def require_writable(folder: Path, mode: int = 0o777) -> None:
    """Make a folder, unless it is there, and make sure that files can be made in it.

    Raises:
        FolderError: When one of the two is not possible.
    """
    try:
        folder.mkdir(mode, parents=True, exist_ok=True)
    except OSError as cause:
        problem = f"The folder {folder} cannot be made: {cause.strerror}."
        raise FolderError(problem, fix="Choose a folder that you may write to.") from cause
    probe = folder / f".writable-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as cause:
        problem = f"The folder {folder} cannot be written to."
        fix = "Give yourself the right to write there, or choose another folder."
        raise FolderError(problem, fix=fix) from cause
