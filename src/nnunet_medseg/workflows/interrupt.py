"""Ctrl-C as a flag, so that training can finish its iteration and write a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["InterruptFlag"]


class InterruptFlag:
    """While entered: the first Ctrl-C sets a flag, the second stops at once."""

    def __init__(self) -> None:
        self._is_set = False
        self._before: Any = None

    def is_set(self) -> bool:
        """Tell whether Ctrl-C came."""
        return self._is_set

    def __enter__(self) -> InterruptFlag:
        # Python delivers signals to the main thread only; elsewhere the caller handles them.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        if self._is_set:
            raise KeyboardInterrupt
        self._is_set = True
