"""How many threads train on a CPU."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["MIN_CORES", "choose_threads"]

# Of logical cores two may share one unit of arithmetic, and layers of small patches may have too
# little work for many. With fewer cores than these all of them are used, and nothing is measured.
MIN_CORES = 4


def choose_threads(cores: int, measure: Callable[[int], float]) -> int:
    """Return the fastest number of threads: as many as cores, a half, a quarter and so on.

    Args:
        cores: How many there are.
        measure: Returns the seconds that a step takes with a number of threads. It is asked for
            half as many as long as that was faster.

    Examples:
        >>> choose_threads(16, {16: 0.5, 8: 0.4, 4: 0.6}.__getitem__), choose_threads(2, min)
        (8, 2)
    """
    best = cores
    if cores < MIN_CORES:
        return best
    best_s = measure(best)
    while best > 1 and (half_s := measure(best // 2)) < best_s:
        best, best_s = best // 2, half_s
    return best
