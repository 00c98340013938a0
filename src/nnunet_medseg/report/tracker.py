"""Events for TensorBoard, an optional extra: the figures of each epoch, and nothing else.

Promises: whatever goes wrong here (the package missing, a full disk, a folder that is gone) is
told once, and the training goes on; the events hold figures of epochs and no name of a case, a
file or the machine. The folders are called as `-d` and the training are.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nnunet_medseg.files import NEW_FILE
from nnunet_medseg.nnunet.history import Epoch, read_history

__all__ = ["EventFile", "Tracker", "figures_of", "start_tracker"]

VERSION = "brain.Event:2"  # of the format; event_file_writer.py of tensorboard 2.21
# TensorBoard knows an event file by "tfevents" in its name; its own writer adds the machine's.
PREFIX = "events.out.tfevents"


def _load() -> tuple[Any, Any, Any]:
    """Return the modules of the package that know the format."""
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer import record_writer

    return event_pb2, summary_pb2, record_writer


def figures_of(epoch: Epoch) -> dict[str, float]:
    """Return what is told of an epoch, by the name under which TensorBoard shows it."""
    figures = {
        "loss/training": epoch.loss,
        "Dice/patches, smoothed": epoch.patch_dice,
        "rate/learning rate": epoch.learning_rate,
        "time/minutes used": epoch.used_s / 60,
        "time/seconds an iteration": epoch.iteration_s,
        "time/share waiting for data": epoch.waited_share,
    }
    return {name: value for name, value in figures.items() if value is not None}


class EventFile:
    """A file of events, written at once and without a thread of its own.

    Args:
        folder: Takes the file; made when it is not there.
        first_step: Iterations before the first event; what TensorBoard has of later ones, from a
            training that was cut off, is then left out.

    Raises:
        ImportError: When the package is not installed.
        OSError: When the file cannot be made.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        event_pb2, summary_pb2, record_writer = _load()
        self._event, self._summary = event_pb2, summary_pb2
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{PREFIX}.{time.time_ns()}.medseg"
        handle = os.open(path, NEW_FILE, 0o666)
        self._records = record_writer.RecordWriter(os.fdopen(handle, "wb"))
        now = time.time()
        self._write(event_pb2.Event(wall_time=now, file_version=VERSION))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(event_pb2.Event(wall_time=now, step=first_step, session_log=start))

    def write(self, epoch: Epoch) -> None:
        """Add the figures of an epoch; its step is the number of iterations."""
        values = [
            self._summary.Summary.Value(tag=name, simple_value=value)
            for name, value in figures_of(epoch).items()
        ]
        summary = self._summary.Summary(value=values)
        self._write(
            self._event.Event(wall_time=time.time(), step=epoch.iterations, summary=summary)
        )

    def _write(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
        self._records.flush()

    def close(self) -> None:
        """Close the file."""
        self._records.close()


class Tracker:
    """Tells each epoch to something that may fail; after the first failure it is silent.

    Args:
        opened: Returns what is told; called at the first epoch.
        on_trouble: Called once with a sentence for the user when anything fails.
    """

    def __init__(self, opened: Callable[[], EventFile], on_trouble: Callable[[str], None]) -> None:
        self._open: Callable[[], EventFile] | None = opened
        self._file: EventFile | None = None
        self._on_trouble = on_trouble

    def tell(self, epoch: Epoch) -> None:
        """Tell an epoch; nothing that goes wrong gets out."""
        if self._open is None:
            return
        try:
            if self._file is None:
                self._file = self._open()
            self._file.write(epoch)
        except Exception as error:  # noqa: BLE001 no tracker ends a training
            self._open = None
            self._on_trouble(_trouble(error))

    def close(self) -> None:
        """Close what was opened."""
        try:
            if self._file is not None:
                self._file.close()
        except Exception as error:  # noqa: BLE001 no tracker ends a training
            if self._open is not None:
                self._on_trouble(_trouble(error))
        self._open = self._file = None


def _trouble(error: Exception) -> str:
    reason = type(error).__name__
    if isinstance(error, ImportError):
        reason = "it is not installed (pip install '.[tensorboard]')"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    return f"nothing more is written for TensorBoard: {reason}; the training goes on"


def start_tracker(
    folder: Path | None, names: Sequence[str], history: Path, on_trouble: Callable[[str], None]
) -> Tracker | None:
    """Return a tracker for a training; None when no folder was asked for.

    Args:
        folder: What TensorBoard is to be given as --logdir.
        names: Of the dataset, and of the training where there are several.
        history: Of the training: one that was interrupted goes on in its folder, behind the
            epochs that hold; any other training begins a folder of its own.
        on_trouble: Called once with a sentence for the user when anything fails.
    """
    if folder is None:
        return None

    def opened() -> EventFile:
        # The last line is the epoch that is told now.
        before = read_history(history)[:-1]
        place = _place(folder, names, is_new=not before)
        return EventFile(place, before[-1].iterations + 1 if before else 0)

    # Before the clock of the training starts; what fails is told with the first epoch.
    with suppress(Exception):
        _load()
    return Tracker(opened, on_trouble)


def _place(folder: Path, names: Sequence[str], *, is_new: bool) -> Path:
    """Return the folder of a training: a free one, or the last that is taken."""
    last: Path | None = None
    for number in itertools.count(1):
        name = names[0] if number == 1 else f"{names[0]}_{number}"
        place = folder.joinpath(name, *names[1:])
        if not place.exists():
            break
        last = place
    return place if is_new or last is None else last
