"""How many threads train on a CPU."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["MIN_CORES", "choose_threads"]

# Of logical cores two may share one unit of arithmetic, and layers of small patches may have too
# little work for many. With fewer cores than these all of them are used, and nothing is measured.
MIN_CORES = 4


def choose_threads(cores: int, measure: Callable[[int], float]) -> tuple[int, float] | None:
    """Return the fastest number of threads, of a half of the cores, a quarter and so on.

    Args:
        cores: How many there are.
        measure: Returns the seconds that a step takes with a number of threads. It is asked for
            half as many as long as that was faster.

    Returns:
        The number and the seconds of a step; None when a thread on each core is fastest.

    Examples:
        >>> choose_threads(16, {16: 0.5, 8: 0.4, 4: 0.6}.__getitem__)
        (8, 0.4)
    """
    if cores < MIN_CORES:
        return None
    best, best_s = cores, measure(cores)
    while best > 1 and (half_s := measure(best // 2)) < best_s:
        best, best_s = best // 2, half_s
    return None if best == cores else (best, best_s)
