"""Worker processes, and what becomes of them."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection

import psutil
import pytest

from nnunet_medseg import parallel
from nnunet_medseg.errors import DatasetError, TrainingError
from nnunet_medseg.parallel import cool_down, map_in_workers, run_in_fresh_process, warm_up

PATIENCE_S = 10.0

# The parent is killed while both workers are busy.
PARENT = """
import os, sys, time
from pathlib import Path
from nnunet_medseg.parallel import map_in_workers

def work(name):
    Path(sys.argv[1], name).write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    map_in_workers(work, ["first", "second"], workers=2)
"""


def square(number: int) -> int:
    # The first item is the slowest, so that results come in another order than items.
    time.sleep(0.2 if number == 0 else 0.0)
    return number * number


def refuse(number: int) -> int:
    problem = f"Case {number} is damaged."
    raise DatasetError(problem, fix="Export it again.")


def fail(number: int) -> int:
    raise ZeroDivisionError


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def tell(text: str) -> int:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    return os.getpid()


def read_pids(folder) -> list[int]:
    """Wait until both workers have written their process ids."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        texts = [path.read_text() for path in folder.iterdir() if path.name in {"first", "second"}]
        if len(texts) == 2 and all(texts):
            return [int(text) for text in texts]
        time.sleep(0.02)
    pytest.fail("the workers did not start")


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended; a zombie that nobody waits for has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_items(workers):
    counted = []

    results = map_in_workers(square, range(6), workers=workers, on_result=counted.append)

    assert results == [0, 1, 4, 9, 16, 25]
    assert counted == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_for_the_user_reaches_the_caller_as_itself(workers):
    with pytest.raises(DatasetError) as caught:
        map_in_workers(refuse, [7, 7], workers=workers)

    assert caught.value.problem == "Case 7 is damaged."
    assert caught.value.fix == "Export it again."


def test_any_other_error_reaches_the_caller_too():
    with pytest.raises(ZeroDivisionError):
        map_in_workers(fail, [1, 2], workers=2)


def test_a_killed_worker_is_an_error_and_no_gap():
    with pytest.raises(TrainingError, match="memory ran out"):
        map_in_workers(die, [1, 2], workers=2)


def test_what_workers_print_goes_to_the_log(tmp_path, capfd):
    log = tmp_path / "log.txt"

    pids = map_in_workers(tell, ["one", "two"], workers=2, log=log)

    assert sorted(log.read_text().split()) == ["one", "two"]
    assert os.getpid() not in pids
    assert capfd.readouterr().out == ""


def test_one_item_is_done_in_this_process():
    assert map_in_workers(tell, ["hello"], workers=2) == [os.getpid()]


def test_no_items_have_no_results():
    assert map_in_workers(square, [], workers=2) == []


def test_no_worker_outlives_a_killed_program(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    pids = read_pids(tmp_path)

    parent.kill()
    parent.wait()

    end = time.monotonic() + PATIENCE_S
    while not all(map(is_gone, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    assert all(map(is_gone, pids))


def test_a_fresh_process_returns_its_result_and_prints_to_the_log(tmp_path):
    log = tmp_path / "log.txt"

    pid = run_in_fresh_process(tell, "hello", log=log).result()

    assert pid != os.getpid()
    assert log.read_text() == "hello\n"


def test_a_fresh_process_hands_over_its_error(tmp_path):
    done = run_in_fresh_process(refuse, 3, log=tmp_path / "log.txt")

    assert isinstance(done.exception(), DatasetError)


def test_a_fresh_process_that_was_killed_is_an_error(tmp_path):
    done = run_in_fresh_process(die, 3, log=tmp_path / "log.txt")

    assert isinstance(done.exception(), BrokenProcessPool)


def die_in_writing(number: int) -> int:
    """Write a part of the result, and be killed."""

    def send(connection, content):
        connection._send(struct.pack("!i", len(content)))
        os.kill(os.getpid(), signal.SIGKILL)

    if number == 0:
        Connection._send_bytes = send
    return number


def test_a_worker_that_is_killed_in_writing_its_result_is_an_error(monkeypatch):
    monkeypatch.setattr(parallel, "WATCH_S", 0.2)

    with pytest.raises(TrainingError, match="was killed"):
        map_in_workers(die_in_writing, [0, 1, 2], workers=2)


GROUP = """
import os, signal
from multiprocessing import forkserver
from nnunet_medseg.parallel import map_in_workers, warm_up

if __name__ == "__main__":
    warm_up([])
    signal.signal(signal.SIGTERM, lambda *_: None)
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGTERM)
    print(sum(map_in_workers(abs, [-1, 2, -3], workers=2)))
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs signals that wait")
def test_workers_start_after_a_scheduler_has_sent_sigterm_to_all_processes(tmp_path):
    program = tmp_path / "group.py"
    program.write_text(GROUP)

    for _ in range(3):
        done = subprocess.run(
            [sys.executable, str(program)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout.strip()) == (0, "6"), done.stderr


def say_nothing(_: int) -> str:
    return "still here"


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs signals that wait")
def test_a_sigterm_that_waited_does_not_end_a_fresh_process(tmp_path, monkeypatch):
    # The worker starts with signals that wait, and one is waiting: it is sent before the worker
    # gets to say that it is deaf.
    start = parallel.ProcessPoolExecutor

    class Early(start):  # type: ignore[misc, valid-type]
        def submit(self, *arguments):
            future = super().submit(*arguments)
            for process in self._processes.values():
                os.kill(process.pid, signal.SIGTERM)
            return future

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", Early)

    done = run_in_fresh_process(say_nothing, 1, log=tmp_path / "log.txt")

    assert done.exception() is None
    assert done.result() == "still here"


def test_the_fork_server_ends_when_nobody_needs_it_and_the_next_workers_start_another():
    warm_up(["json"])
    (server,) = (child for child in psutil.Process().children() if is_fork_server(child))

    cool_down()
    cool_down()

    assert is_gone(server.pid)
    assert map_in_workers(square, [1, 2], workers=2) == [1, 4]


def is_fork_server(process: psutil.Process) -> bool:
    return any("forkserver" in word for word in process.cmdline())
