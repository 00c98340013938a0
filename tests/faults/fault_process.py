"""The real command in a forked process, so that hundreds of runs do not each pay the imports.

What the program would start afresh, it forks here: the fork server of the workers is a fork of the
command that has not computed anything yet, and the fresh process of the proof is a child of it.
Everything else is the command as a user starts it, in a session of its own.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import importlib
import multiprocessing
import multiprocessing.util
import os
import re
import resource
import signal
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 120.0  # a run that takes longer is stuck: the longest takes 20 s on a quiet machine
LINGERING_S = 15.0
IMPORTED = (
    "nnunetv2.inference.predict_from_raw_data",
    "nnunet_medseg.cli.main",
    "nnunet_medseg.nnunet.inference",
    "nnunet_medseg.nnunet.planning",
    "nnunet_medseg.nnunet.sizing",
    "nnunet_medseg.nnunet.trainer",
    "nnunet_medseg.report.summary",
    "nnunet_medseg.workflows.predict",
    "nnunet_medseg.workflows.train",
)
OURS = re.compile(r"from multiprocessing\.(forkserver|resource_tracker) ")


@dataclass
class Ended:
    """A command that has ended.

    Attributes:
        code: Exit status; negative for a signal; None when it had to be killed.
        seconds: How long it took.
        text: All it printed.
        leftover: What was still alive of its session.
    """

    code: int | None
    seconds: float
    text: str
    leftover: tuple[str, ...]


def import_everything() -> None:
    """Import what the command imports, without any computation.

    Threads of an operation would not survive a fork.
    """
    from nnunet_medseg.nnunet.environment import prepare

    prepare()
    for name in IMPORTED:
        importlib.import_module(name)
    # What lives by now lives for ever: no child has to look at it, nor to copy it.
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Command:
    """A command in progress."""

    pid: int
    output: Path
    started: float

    def is_over(self) -> bool:
        """Tell whether the main process has ended, without waiting for it."""
        return psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE

    def send(self, kind: signal.Signals, *, to_group: bool = False) -> None:
        """Send a signal to the main process, or to its whole group."""
        (os.killpg if to_group else os.kill)(self.pid, kind)

    def _ask_where(self) -> None:
        """Let a command that hangs, and its workers, print where they are."""
        for process in session_of(self.pid):
            if _prints_stack(process.pid):
                process.send_signal(signal.SIGUSR1)
        time.sleep(1.0)

    def wait(self, patience_s: float = PATIENCE_S) -> Ended:
        """Wait for the end of the command and of all processes that it started."""
        deadline, code = self.started + patience_s, None
        while code is None and time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if pid else None
            time.sleep(0.02)
        seconds = time.monotonic() - self.started
        if code is None:
            self._ask_where()
        leftover = wait_for_session(self.pid, LINGERING_S if code is not None else 0.0)
        kill_session(self.pid)
        if code is None:
            os.waitpid(self.pid, 0)
        text = self.output.read_text(encoding="utf-8", errors="replace")
        return Ended(code, seconds, text, leftover if code is not None else ())


def _prints_stack(pid: int) -> bool:
    """Tell whether a process catches the signal that lets it print its stack."""
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            mask = int(line.split()[1], 16) if line.startswith("SigCgt:") else 0
            if mask & (1 << (signal.SIGUSR1 - 1)):
                return True
    return False


def session_of(pid: int) -> list[psutil.Process]:
    """Return the living processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def wait_for_session(pid: int, patience_s: float) -> tuple[str, ...]:
    """Return what is still alive of a session after so long, by state and command."""
    deadline = time.monotonic() + patience_s
    while (alive := session_of(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return tuple(f"{process.pid} {_state_of(process)}" for process in alive)


def _state_of(process: psutil.Process) -> str:
    try:
        return f"{process.status()} {' '.join(process.cmdline())[:60]}"
    except psutil.Error:
        return "gone"


def kill_session(pid: int) -> None:
    """End what a command has left over."""
    for process in session_of(pid):
        process.kill()


def fork_command(
    call: Callable[[], int], output: Path, temporary: Path, prepare: Callable[[], None]
) -> Command:
    """Start a command in a forked process.

    Args:
        call: The door of the command.
        output: Takes all it prints.
        temporary: Its folder for temporary files.
        prepare: Called in the new process before the command; installs a fault.
    """
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            _become_a_command(output, temporary)
            prepare()
            code = _call(call)
        except BaseException:  # noqa: BLE001 the harness itself: the command has a door
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    return Command(pid, output, started)


def _call(call: Callable[[], int]) -> int:
    try:
        code = call()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    # As exe_train.py ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As the interpreter ends.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _become_a_command(output: Path, temporary: Path) -> None:
    from nnunet_medseg.nnunet import trainer
    from nnunet_medseg.workflows.stages import training

    os.setsid()
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, handle), (2, handle)):
        os.dup2(source, target)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 the process's own
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115 the process's own
    os.environ["TMPDIR"] = str(temporary)
    tempfile.tempdir = None
    multiprocessing.process._current_process._config.pop("tempdir", None)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    # Two commands run beside each other, whose threads would wait for each other.
    trainer.core_count = lambda: 1
    # A fork server that is ended before the training would be forked again for the proof, from a
    # process that has computed.
    training.cool_down = lambda: None
    # Workers import the main module again; ours is none of the program.
    sys.modules["__main__"] = types.ModuleType("__main__")
    multiprocessing.util.spawnv_passfds = _fork_in_place_of_starting
    original = multiprocessing.get_context

    def get_context(method: str | None = None) -> Any:
        return original("forkserver" if method == "spawn" else method)

    multiprocessing.get_context = get_context


def _fork_in_place_of_starting(_: Any, arguments: Sequence[str], fds: Sequence[int]) -> int:
    code = arguments[-1]
    if not OURS.match(code):
        message = f"the harness knows no process {code}"
        raise AssertionError(message)
    pid = os.fork()
    if pid:
        return pid
    try:
        # As an exec leaves them: what is ignored stays ignored, handlers are gone.
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if callable(signal.getsignal(kind)):
                signal.signal(kind, signal.SIG_DFL)
        _close_all_but({0, 1, 2, *map(int, fds)})
        multiprocessing.process._current_process._config.pop("tempdir", None)
        atexit._clear()
        exec(code, {})
    finally:
        os._exit(0)
    return 0


def _close_all_but(kept: set[int]) -> None:
    for number in (int(path.name) for path in list(Path("/proc/self/fd").iterdir())):
        if number not in kept:
            with suppress(OSError):
                os.close(number)
