"""Handlers of signals, set and put back, and signals that wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

__all__ = ["handled", "signals_later"]

ENDS = ("SIGINT", "SIGTERM", "SIGHUP")  # what asks a program to end

Handler = Callable[[int, FrameType | None], object]


@contextmanager
def handled(names: Sequence[str], handler: Handler | signal.Handlers) -> Iterator[None]:
    """Let a handler take signals while the block runs.

    SIGHUP stays ignored where it was, which is how `nohup` keeps a command going. Outside of the
    main thread, where Python allows no handlers, and for signals that the system does not know,
    nothing changes.

    Args:
        names: Of signals: "SIGINT", "SIGTERM", "SIGHUP", "SIGALRM".
        handler: Called in the main thread with the number of the signal and the frame.
    """
    is_main = threading.current_thread() is threading.main_thread()
    known = [getattr(signal, name) for name in names if hasattr(signal, name)]
    heard = [number for number in known if is_main and not _is_kept_going(number)]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _is_kept_going(number: int) -> bool:
    is_hangup = number == getattr(signal, "SIGHUP", None)
    return is_hangup and signal.getsignal(number) == signal.SIG_IGN


@contextmanager
def signals_later() -> Iterator[None]:
    """Let what asks this program to end wait while processes are started.

    A process that had started, but was not in any list yet, would be left over. In the processes
    themselves the signals wait for good: a terminal sends Ctrl-C to all of them, and one that is
    still importing would print a traceback.
    """
    noted: list[int] = []
    # A mask alone is not enough: another thread takes the signal, and Python runs its handler in
    # the main thread all the same.
    try:
        with handled(ENDS, lambda number, _: noted.append(number)), _masked():
            yield
    finally:
        for number in noted:
            signal.raise_signal(number)


@contextmanager
def _masked() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Not on Windows.
    from multiprocessing import resource_tracker

    numbers = {getattr(signal, name) for name in ENDS}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        # Started by the first lock, it would let signals through again (Python's own
        # multiprocessing/resource_tracker.py), and SIGTERM to all would end the fork server.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
