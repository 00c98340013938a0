"""The processes that cut and augment patches: watched, and ended for good.

Promises: a process that was killed or that hangs is an error within a minute or so, never a
training that waits for ever; none outlives the training.
"""

from __future__ import annotations

import time
from queue import Empty
from typing import Any

from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter

__all__ = ["LoadingError", "PatchWorkers"]

FIRST_WAIT_S = 120.0  # start-up, and the first cases from a slow disk
MIN_WAIT_S = 20.0
LONGER = 10.0  # than the longest wait so far: a machine that is shared becomes that slow


class LoadingError(RuntimeError):
    """A process that loads patches has ended or hangs."""


class PatchWorkers(NonDetMultiThreadedAugmenter):
    """The processes of batchgenerators, with an end to waiting for them."""

    _limit_s = FIRST_WAIT_S

    def __next__(self) -> Any:
        """Return the next batch.

        Raises:
            LoadingError: When a process has ended, or none has made a batch for a long time.
        """
        if not self.initialized:
            self._start()
        started = time.monotonic()
        while not self.abort_event.is_set():
            try:
                batch = self.results_loop_queue.get(timeout=self.wait_time)
            except Empty:
                if time.monotonic() - started > self._limit_s:
                    break
                continue
            self.results_loop_queue.task_done()
            self._learn(time.monotonic() - started)
            return batch
        problem = "a process that loads patches has ended or hangs"
        raise LoadingError(problem)

    def _learn(self, waited_s: float) -> None:
        seen_s = 0.0 if self._limit_s == FIRST_WAIT_S else self._limit_s
        self._limit_s = max(MIN_WAIT_S, LONGER * waited_s, seen_s)

    def stop(self) -> None:
        """End the processes at once: what they hold is of no more use."""
        if self.abort_event is not None:
            self.abort_event.set()
        for process in self._processes:
            # One that was stopped by a signal hears no polite request.
            process.kill()
        self._finish()
