"""Worker processes that die with the program.

Promises: no worker outlives the process that started it, even when that one is killed; Ctrl-C
reaches the main process alone; a worker that is killed is an error, never a silent gap.
Does not promise: an order in time; results come back in the order of the items.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import TypeVar

from nnunet_medseg.errors import TrainingError
from nnunet_medseg.signals import signals_later

__all__ = ["cool_down", "die_with_parent", "map_in_workers", "run_in_fresh_process", "warm_up"]

Item = TypeVar("Item")
Result = TypeVar("Result")

WATCH_S = 2.0  # between two looks at workers that have had nothing to say
UNHEARD = ("SIGINT", "SIGHUP")  # by workers


def die_with_parent(*, deaf_to_sigterm: bool = False) -> None:
    """In a worker: exit when the parent does, and leave Ctrl-C and a closed terminal to the parent.

    Args:
        deaf_to_sigterm: Whether SIGTERM, which schedulers send to all processes of a job, is left
            to the parent too.
    """
    _ignore(UNHEARD)
    # A handler of the main process, which a fork inherits, would only note the signal.
    signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf_to_sigterm else signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        # A worker that was started while signals were to wait would never hear SIGTERM. After the
        # line above: one that has been waiting must not end a worker that is deaf to it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    parent = multiprocessing.parent_process()
    if parent is not None:
        watcher = threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True)
        watcher.start()


def _exit_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    # Not sys.exit: a worker that is blocked in a queue would never get there.
    os._exit(1)


def _ignore(names: Sequence[str]) -> None:
    for name in names:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _start_worker(log: Path | None, deaf_to_sigterm: bool = False) -> None:
    die_with_parent(deaf_to_sigterm=deaf_to_sigterm)
    if log is not None:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(handle, 1)
        os.dup2(handle, 2)


def _context() -> BaseContext:
    # A fork server imports the heavy libraries once; forking the main process, with its threads,
    # is not safe, and spawning pays the imports once a worker.
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")


def warm_up(modules: Sequence[str]) -> None:
    """Import modules in the fork server, in the background, for the workers to come.

    The environment variables they read must be set before. Does nothing where there is no fork.
    """
    context = _context()
    if context.get_start_method() != "forkserver":
        return
    from multiprocessing import forkserver

    context.set_forkserver_preload(list(modules))
    with signals_later():
        forkserver.ensure_running()


def cool_down() -> None:
    """End the fork server, if there is one: it holds 0.3 GB of libraries that nobody may need.

    The next workers start a new one. None may be at work.
    """
    from multiprocessing import forkserver

    # Python's own tests end it so; there is no public way (forkserver.py of Python 3.11).
    server = forkserver._forkserver
    pid, stop = getattr(server, "_forkserver_pid", None), getattr(server, "_stop", None)
    if pid is None or stop is None:
        return
    # It may still import its libraries, and would hear nothing until it has. Somebody else may have
    # taken its exit status or its socket; the aim is reached all the same.
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)
        stop()


def map_in_workers(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    log: Path | None = None,
    on_result: Callable[[int], None] = lambda _: None,
) -> list[Result]:
    """Apply a function to all items.

    Args:
        function: A function of a module, not a lambda: it is sent to the workers by name.
        items: What to apply it to.
        workers: Number of processes; with 1 the work is done in this process.
        log: File that takes what the workers print; None leaves it to the terminal.
        on_result: Called with the number of finished items.

    Returns:
        The results, in the order of the items.

    Raises:
        TrainingError: When a worker was killed, as the system does when memory runs out.
    """
    if workers <= 1 or len(items) <= 1:
        results = []
        for item in items:
            results.append(function(item))
            on_result(len(results))
        return results
    pool = ProcessPoolExecutor(
        min(workers, len(items)), _context(), initializer=_start_worker, initargs=(log,)
    )
    try:
        with signals_later():
            futures = [pool.submit(function, item) for item in items]
        for done, future in enumerate(_as_completed(pool, futures), start=1):
            future.result()
            on_result(done)
        return [future.result() for future in futures]
    except BrokenProcessPool as broken:
        _kill(pool)
        problem = "A worker process was killed, most likely because the memory ran out."
        fix = "Close other programs or take a machine with more memory, then run the same command."
        raise TrainingError(problem, fix=fix) from broken
    except BaseException:
        # Not left to finish what nobody wants any more: a large case takes minutes.
        _kill(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _as_completed(
    pool: ProcessPoolExecutor, futures: Sequence[Future[Result]]
) -> Iterator[Future[Result]]:
    """Yield futures as they finish, and break the pool when a worker dies in writing its result.

    The pool would wait for the rest of that result for ever.
    """
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=WATCH_S, return_when=FIRST_COMPLETED)
        yield from done
        alive = list((pool._processes or {}).values())
        if not done and multiprocessing.connection.wait([each.sentinel for each in alive], 0):
            _kill(pool)


def _kill(pool: ProcessPoolExecutor) -> None:
    for process in list((pool._processes or {}).values()):  # its own way comes with Python 3.14
        process.kill()
    # One may have been killed in writing its result: without another writer the reader sees an
    # end, where it would wait for the rest for ever (concurrent/futures/process.py of Python 3.11).
    pool._result_queue._writer.close()  # type: ignore[attr-defined]


def run_in_fresh_process(
    function: Callable[[Item], Result], argument: Item, *, log: Path
) -> Future[Result]:
    """Apply a function in a new interpreter, which shares nothing with this process, and wait.

    Args:
        function: A function of a module.
        argument: What to apply it to.
        log: File that takes what the process prints.

    Returns:
        A finished future, which holds the result or the error: the function's own, or
        BrokenProcessPool when the process was killed.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, context, initializer=_start_worker, initargs=(log, True))
    with pool:
        try:
            # Also to SIGTERM: within its grace a model is proved and handed over.
            with signals_later():
                result = pool.submit(function, argument)
            result.exception()
        except BaseException:
            _kill(pool)
            raise
        return result
