"""The processes that load patches: dead, hanging, and started again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest

from nnunet_medseg.nnunet import loading
from nnunet_medseg.nnunet.loading import LoadingError, PatchWorkers


class Numbers:
    """A loader whose batches are numbers."""

    def __init__(self) -> None:
        self.number = 0

    def set_thread_id(self, _: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def __next__(self) -> dict[str, int]:
        self.number += 1
        return {"number": self.number, "process": os.getpid()}


@pytest.fixture
def workers():
    made = PatchWorkers(Numbers(), None, 1, num_cached=2, seeds=[0], wait_time=0.002)
    yield made
    made.stop()


def exhaust(workers: PatchWorkers) -> None:
    """Take all that was loaded ahead, and go on until nothing comes."""
    while True:
        next(workers)


def test_batches_come_in_order_from_one_process(workers):
    assert [next(workers)["number"] for _ in range(5)] == [1, 2, 3, 4, 5]


def test_added_processes_load_too_and_end_with_the_others(workers):
    next(workers)

    workers.add([1, 2])

    loading, until_s = set(), time.monotonic() + 60
    while len(loading) < 3 and time.monotonic() < until_s:
        loading.add(next(workers)["process"])
    assert loading == {process.pid for process in multiprocessing.active_children()}
    workers.stop()
    assert multiprocessing.active_children() == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_added_process_that_is_killed_is_an_error_too(workers):
    next(workers)
    workers.add([1])
    os.kill(workers._processes[-1].pid, signal.SIGKILL)

    with pytest.raises(LoadingError):
        exhaust(workers)


def test_what_is_broken_off_at_the_end_is_no_error(monkeypatch):
    ended = []

    def break_off(_, __, is_over, *___):
        while not is_over.is_set():
            time.sleep(0.01)
        ended.append(True)
        raise ConnectionResetError

    monkeypatch.setattr(loading, "results_loop", break_off)
    workers = PatchWorkers(Numbers(), None, 1, num_cached=2, seeds=[0], wait_time=0.002)
    workers._start()

    # An error in a thread fails a test.
    workers.stop()

    assert ended


# The thread of batchgenerators that watches the processes says so by an error of its own.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_killed_process_is_an_error_and_no_endless_wait(workers):
    # Many times: one that is killed while it holds a lock must not be waited for either.
    for _ in range(12):
        next(workers)
        os.kill(workers._processes[0].pid, signal.SIGKILL)

        with pytest.raises(LoadingError):
            exhaust(workers)
        workers.stop()


def test_a_hanging_process_is_an_error_when_it_takes_far_longer_than_before(workers, monkeypatch):
    monkeypatch.setattr(loading, "MIN_WAIT_S", 0.3)
    next(workers)
    os.kill(workers._processes[0].pid, signal.SIGSTOP)

    with pytest.raises(LoadingError):
        exhaust(workers)


def test_a_hanging_process_that_ignores_sigterm_is_ended(workers):
    next(workers)
    os.kill(workers._processes[0].pid, signal.SIGSTOP)
    started = time.monotonic()

    workers.stop()

    assert multiprocessing.active_children() == []
    assert time.monotonic() - started < 8
