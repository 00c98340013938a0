"""Peak memory of a program and of everything it starts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


@contextmanager
def peak_memory(every_s: float = 1.0) -> Iterator[list[int]]:
    """Watch this process and its children: proportional shares in MB, summed, at the peak.

    Args:
        every_s: How often to look. A look takes milliseconds a process.

    Yields:
        The peak of all, of this process alone, and of its children together, each at its time.
    """
    peaks, over = [0, 0, 0], threading.Event()

    def watch() -> None:
        is_over = False
        while not is_over:
            own = _held_mb([psutil.Process()])
            others = _held_mb(psutil.Process().children(recursive=True))
            for place, held in enumerate((own + others, own, others)):
                peaks[place] = max(peaks[place], round(held))
            is_over = over.wait(every_s)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def _held_mb(processes: list[psutil.Process]) -> float:
    total = 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 1e6
