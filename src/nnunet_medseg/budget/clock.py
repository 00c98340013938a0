"""The training clock: running time against the minutes the user gave."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["TrainingClock"]


class TrainingClock:
    """Counts running time from `start`, on top of what was used before an interruption.

    The monotonic clock is used: it does not jump when the time of day is set, and on Linux it
    stands still while the machine sleeps.

    Args:
        asked_s: The training duration in seconds.
        used_before_s: What an interrupted run had used at its last checkpoint.
        now: A monotonic clock in seconds; tests turn it by hand.
    """

    def __init__(
        self, asked_s: float, used_before_s: float = 0.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.asked_s = asked_s
        self._used_before_s = used_before_s
        self._now = now
        self._share_before = used_before_s / asked_s
        self._share_from_s = used_before_s
        self._started: float | None = None

    def start(self, used_before_s: float | None = None, share_before: float | None = None) -> None:
        """Start counting; a second call starts over, with another time used before.

        Args:
            used_before_s: Seconds used before.
            share_before: Where the schedule was then. It goes on from there, also when the whole
                duration is another one now, so that a learning rate does not jump.
        """
        if used_before_s is not None:
            self._used_before_s = self._share_from_s = used_before_s
            self._share_before = used_before_s / self.asked_s
        if share_before is not None:
            self._share_before = share_before
        self._started = self._now()

    @property
    def used_s(self) -> float:
        """Seconds used so far."""
        running_s = 0.0 if self._started is None else self._now() - self._started
        return self._used_before_s + running_s

    @property
    def left_s(self) -> float:
        """Seconds left; negative when the time is over."""
        return self.asked_s - self.used_s

    @property
    def share(self) -> float:
        """How far the schedule is, in [0, 1]: without interruptions the share that is used."""
        left_then_s = self.asked_s - self._share_from_s
        if left_then_s <= 0:
            return 1.0
        passed = (self.used_s - self._share_from_s) / left_then_s
        return min(1.0, self._share_before + (1.0 - self._share_before) * passed)
