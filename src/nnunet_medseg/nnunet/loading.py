"""The processes that cut and augment patches: watched, and ended for good.

Promises: a process that was killed or that hangs is an error within a minute or so, never a
training that waits for ever; none outlives the training.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterable
from multiprocessing.sharedctypes import RawValue
from queue import Empty
from queue import Queue as ThreadQueue
from typing import Any

import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import (
    NonDetMultiThreadedAugmenter,
    producer,
    results_loop,
)

__all__ = ["LoadingError", "PatchWorkers"]

FIRST_WAIT_S = 120.0  # start-up, and the first cases from a slow disk
MIN_WAIT_S = 20.0
LONGER = 10.0  # than the longest wait so far: a machine that is shared becomes that slow


class LoadingError(RuntimeError):
    """A process that loads patches has ended or hangs."""


class _Flag:
    """An event that all processes see, without a lock.

    The event of multiprocessing takes a lock to be looked at; a process that is killed in that
    moment keeps it, and every other one waits for ever.
    """

    def __init__(self) -> None:
        self._value = RawValue("b", 0)

    def set(self) -> None:
        """Raise the flag."""
        self._value.value = 1

    def is_set(self) -> bool:
        """Tell whether the flag is raised."""
        return bool(self._value.value)


class PatchWorkers(NonDetMultiThreadedAugmenter):
    """The processes of batchgenerators, with an end to waiting for them."""

    _limit_s = FIRST_WAIT_S
    _is_ending = False

    def _start(self) -> None:
        """Start the processes, as batchgenerators does, with flags in place of its events."""
        self._queue: Any = multiprocessing.Queue(self.num_cached)
        self.results_loop_queue: ThreadQueue[Any] = ThreadQueue(self.num_cached)
        self.abort_event, self.pause_event = _Flag(), _Flag()
        self._is_ending = False
        self.add(self.seeds)
        gpu = torch.cuda.current_device() if self.pin_memory else None
        queues = (self._queue, self.results_loop_queue)
        rest = (self.abort_event, self.pin_memory, self._processes, gpu, self.wait_time)
        self.results_loop_thread = threading.Thread(
            target=self._hand_on, args=(*queues, *rest), daemon=True
        )
        self.results_loop_thread.start()
        self.initialized = True

    def _hand_on(self, *work: Any) -> None:
        """Hand batches on from the processes, in a thread of its own."""
        try:
            results_loop(*work)
        except Exception:
            # One that is killed at the end breaks off in what it sends, which shows as many kinds
            # of error. Before the end each is raised, and its flag ends the training's wait.
            if not self._is_ending:
                raise

    def add(self, seeds: Iterable[int]) -> None:
        """Start more processes beside those that there are, one with each seed.

        Raises:
            LoadingError: When the system refuses one.
        """
        flags = (self.abort_event, self.pause_event, self.wait_time)
        for seed in seeds:
            number = len(self._processes)
            work = (self._queue, self.generator, self.transform, number, seed, *flags)
            process = multiprocessing.Process(target=producer, args=work, daemon=True)
            try:
                process.start()
            except OSError as error:
                problem = f"a process that loads patches cannot be started ({error.strerror})"
                raise LoadingError(problem) from error
            # Not before: the thread that watches takes what has not been started for dead.
            self._processes.append(process)

    def __next__(self) -> Any:
        """Return the next batch.

        Raises:
            LoadingError: When a process has ended, or none has made a batch for a long time.
        """
        if not self.initialized:
            self._start()
        started = time.monotonic()
        while not self.abort_event.is_set() and all(map(_is_alive, self._processes)):
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
        self._is_ending = True
        if self.abort_event is not None:
            self.abort_event.set()
        for process in self._processes:
            # One that was stopped by a signal hears no polite request.
            process.kill()
        if self._queue is not None:
            # One may have been killed in sending a batch: without a writer left the reader sees an
            # end, where it would wait for the rest for ever.
            self._queue._writer.close()
        self._finish()


def _is_alive(process: multiprocessing.Process) -> bool:
    return process.is_alive()
