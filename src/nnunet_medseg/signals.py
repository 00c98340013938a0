"""Handlers of signals, set and put back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

__all__ = ["handled"]

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
