"""When a command has to be over, and whether it was asked to end early."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from nnunet_medseg.errors import Stopped
from nnunet_medseg.signals import handled

__all__ = ["CTRL_C", "GRACE_S", "SIGTERM", "Ending"]

GRACE_S = 25.0  # most schedulers kill 30 s after they have asked
CTRL_C, SIGTERM, HANGUP = "Ctrl-C", "SIGTERM", "a closed terminal"


def seconds_awake_or_not() -> float:
    """Return the seconds of a clock that no change of the time turns, and no sleep stops.

    Python's monotonic clock stands still on Linux while the machine sleeps. Other systems have
    none that does not, or are not known to.
    """
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Ending:
    """Takes Ctrl-C, SIGTERM and a closed terminal while a run is at work.

    Before the training there is nothing to hand over, so that the run stops at once; what it has
    done stays for the next command. From the training on, the first Ctrl-C or SIGTERM asks for the
    model so far, and a second stops at once. After SIGTERM the command is over when the grace is,
    one way or the other. A closed terminal asks for nothing but a checkpoint.

    Args:
        deadline_s: Seconds from now until the command has to be over; infinity for none.
        grace_s: Seconds that SIGTERM leaves.
        now: A clock in seconds; tests turn it by hand.

    Attributes:
        cause: What asked for an early end: "Ctrl-C", "SIGTERM"; empty for nothing.
        has_deadline: Whether there is a deadline.
    """

    def __init__(
        self,
        deadline_s: float = math.inf,
        grace_s: float = GRACE_S,
        now: Callable[[], float] = seconds_awake_or_not,
    ) -> None:
        self.cause = ""
        self.has_deadline = math.isfinite(deadline_s)
        self._grace_s = grace_s
        self._now = now
        self._end = now() + deadline_s
        self._has_begun = self._is_training = False

    @property
    def left_s(self) -> float:
        """Seconds until the command has to be over; infinity when nothing bounds it."""
        return self._end - self._now()

    def is_asked(self) -> bool:
        """Tell whether an early end was asked for."""
        return bool(self.cause)

    def stop_if_hung_up(self) -> None:
        """Stop when the terminal was closed: nobody is there to take a model."""
        if self.cause == HANGUP:
            raise Stopped(signal.SIGHUP)

    def stop(self) -> None:
        """Stop now, without a model."""
        if self.cause == SIGTERM:
            raise Stopped(signal.SIGTERM)
        raise KeyboardInterrupt

    def begin(self) -> None:
        """From now on there may be something to hand over."""
        self._has_begun = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals while the block runs."""
        with (
            handled(("SIGINT",), self._on_ctrl_c),
            handled(("SIGTERM",), self._on_sigterm),
            handled(("SIGHUP",), self._on_hangup),
            handled(("SIGALRM",), self._on_end_of_grace),
        ):
            try:
                yield
            finally:
                self._set_alarm(0.0)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Let the block ask `is_asked` after each iteration."""
        self._is_training = True
        self.begin()
        try:
            yield
        finally:
            self._is_training = False

    def _on_ctrl_c(self, _: int, __: FrameType | None) -> None:
        if self.cause or not self._has_begun:
            raise KeyboardInterrupt
        self.cause = CTRL_C

    def _on_sigterm(self, number: int, _: FrameType | None) -> None:
        if self.cause or not self._has_begun:
            raise Stopped(number)
        self.cause = SIGTERM
        self._end = min(self._end, self._now() + self._grace_s)
        self._set_alarm(self._grace_s)

    def _on_hangup(self, number: int, _: FrameType | None) -> None:
        if self.cause or not self._is_training:
            raise Stopped(number)
        self.cause = HANGUP

    def _on_end_of_grace(self, _: int, __: FrameType | None) -> None:
        raise Stopped(signal.SIGTERM)

    @staticmethod
    def _set_alarm(seconds: float) -> None:
        # Windows has no such alarm, and no scheduler that sends SIGTERM.
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, seconds)
