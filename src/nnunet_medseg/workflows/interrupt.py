"""Ctrl-C and SIGTERM as a flag: training finishes its iteration and writes a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["InterruptFlag"]


class InterruptFlag:
    """While entered: the first Ctrl-C or SIGTERM sets a flag, the second stops at once.

    Schedulers of batch systems send SIGTERM some seconds before they kill.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._before: dict[signal.Signals, Any] = {}

    def is_set(self) -> bool:
        """Tell whether Ctrl-C came."""
        return self._is_set

    def __enter__(self) -> InterruptFlag:
        # Python delivers signals to the main thread only; elsewhere the caller handles them.
        if threading.current_thread() is threading.main_thread():
            for kind in (signal.SIGINT, signal.SIGTERM):
                self._before[kind] = signal.signal(kind, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        if self._is_set:
            raise KeyboardInterrupt
        self._is_set = True
