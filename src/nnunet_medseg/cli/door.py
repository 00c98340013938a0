"""The one error door: every command goes through it, and every error becomes words and a status."""

from __future__ import annotations

import argparse
import errno
import os
import platform
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

from nnunet_medseg import console
from nnunet_medseg.errors import (
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    FolderError,
    Stopped,
    TrainingError,
    UsageError,
    UserError,
)
from nnunet_medseg.signals import handled

__all__ = ["Parser", "through_the_door"]

FULL_DISK = {errno.ENOSPC, errno.EDQUOT}
MORE_MEMORY = "Close other programs or take a machine with more, then run the same command again."
NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ours: one paragraph with the fix."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        problem = f"{self.prog}: {message}."
        raise UsageError(problem, fix=f"{self.prog} --help lists the options.")


def through_the_door(command: Callable[[], int]) -> int:
    """Run a command; print its error, if any, and return the exit status."""
    console.attach()
    try:
        with _stopped_by_the_system():
            return command()
    except UserError as error:
        return _tell(error)
    except KeyboardInterrupt as interrupt:
        return _tell_interrupted(interrupt)
    except MemoryError:
        return _tell(TrainingError("The memory ran out.", fix=MORE_MEMORY))
    except OSError as error:
        known = _folder_error(error)
        return _tell(known) if known is not None else _tell_ours(error)
    except Exception as error:  # noqa: BLE001 the last door: what nobody foresaw
        return _tell_ours(error)


@contextmanager
def _stopped_by_the_system() -> Iterator[None]:
    """End in order on SIGTERM, which schedulers send before they kill, and on a closed terminal."""
    with handled(("SIGINT",), signal.default_int_handler), handled(("SIGTERM", "SIGHUP"), _stop):
        yield


def _stop(number: int, _: object) -> NoReturn:
    raise Stopped(number)


def _tell_interrupted(interrupt: KeyboardInterrupt) -> int:
    problem, status = "Interrupted.", EXIT_INTERRUPTED
    if isinstance(interrupt, Stopped):
        # As shells report a signal.
        problem, status = "The system ended the command.", 128 + interrupt.signal
    fix = "Nothing is lost: a training or prediction goes on where it was with the same command."
    console.error(problem, fix)
    return status


def _tell(error: UserError) -> int:
    console.error(error.problem, error.fix)
    return error.exit_code


def _folder_error(error: OSError) -> FolderError | None:
    place = error.filename or "the output or the work folder"
    if error.errno in FULL_DISK:
        problem = f"No space is left on the disk of {place}."
        return FolderError(problem, fix="Make room, then run the same command again; it goes on.")
    if error.errno == errno.EFBIG:
        problem = f"{place} may not become larger: the system limits the size of files."
        fix = "Raise the limit (ulimit -f), then run the same command again; it goes on."
        return FolderError(problem, fix=fix)
    if error.errno in NOT_ALLOWED:
        problem = f"{place} may not be read or written: {error.strerror}."
        return FolderError(problem, fix="Give yourself the right, then run the same command again.")
    return None


def _tell_ours(error: Exception) -> int:
    path = _write_log(error)
    console.error(
        f"The program failed: {type(error).__name__}. This is our fault.",
        f"Please report it with {path}, which holds versions and no names of patients or folders.",
    )
    return EXIT_INTERNAL


def _write_log(error: Exception) -> Path:
    lines = [f"{name} {_version(name)}" for name in ("nnunet-medseg", "nnunetv2", "torch")]
    lines += [f"python {platform.python_version()}, {platform.system()} {platform.machine()}"]
    cause: BaseException | None = error
    while cause is not None:
        frames = traceback.extract_tb(cause.__traceback__)
        # Messages hold names of patients in forms that nobody foresees; kind and place tell enough.
        lines += ["", type(cause).__name__]
        lines += [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
        cause = cause.__cause__
    prefix = f"medseg-error-{time.strftime('%Y%m%d-%H%M%S')}-"
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as log:
        log.write("\n".join(lines) + "\n")
    return Path(name)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "is not installed"
