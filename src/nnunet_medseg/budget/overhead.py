"""An allowance for what is not training, so that it costs a known share of the time."""

from __future__ import annotations

__all__ = ["Allowance"]


class Allowance:
    """Lets a side job run only while its cost stays within a share of the time used.

    Args:
        share: The share of the time it may take, in [0, 1].
        spent_s: What it has taken before an interruption.
    """

    def __init__(self, share: float, spent_s: float = 0.0) -> None:
        self._share = share
        self._spent_s = spent_s
        self._last_cost_s: float | None = None

    @property
    def spent_s(self) -> float:
        """Seconds spent so far."""
        return self._spent_s

    def permits(self, used_s: float, guess_s: float) -> bool:
        """Tell whether the job, if it costs what it did last time, stays within the share.

        Args:
            used_s: Seconds of the budget used so far.
            guess_s: What the job may cost, as long as it has not run.
        """
        return self._spent_s + self.cost_s(guess_s) <= self._share * used_s

    def cost_s(self, guess_s: float) -> float:
        """Return what the job cost last time, or the guess as long as it has not run."""
        return guess_s if self._last_cost_s is None else self._last_cost_s

    def spend(self, cost_s: float) -> None:
        """Account for a run of the job."""
        self._spent_s += cost_s
        self._last_cost_s = cost_s
