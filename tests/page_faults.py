"""Pages of memory that a step takes from the system."""

from __future__ import annotations

import platform
import resource
from dataclasses import dataclass

import pytest

from nnunet_medseg import hardware

STEP_BYTES = 160 << 20
PAGES = STEP_BYTES // resource.getpagesize()

# Where a kernel or a sandbox counts no pages, nothing can be seen.
only_with_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not resource.getrusage(resource.RUSAGE_SELF).ru_minflt,
    reason="other C libraries have no mallopt",
)


@dataclass
class WatchedMemory:
    """Stands in for glibc, and tells whether freed memory is kept just now."""

    is_kept: bool = False

    def mallopt(self, parameter: int, value: int) -> None:
        if parameter == hardware.M_TRIM_THRESHOLD:
            self.is_kept = value == hardware.NEVER

    def malloc_trim(self, _: int) -> None:
        """Give nothing back."""

    def madvise(self, *_: object) -> None:
        """Advise nothing."""


def watch_memory(monkeypatch: pytest.MonkeyPatch) -> WatchedMemory:
    """Put the stand-in in the place of glibc.

    What glibc does of it shows in a fresh process only: in a heap that other tests have cut up some
    pages are new in each step.
    """
    watched = WatchedMemory()
    monkeypatch.setattr(hardware, "_glibc", lambda: watched)
    return watched


def pages_of_a_step(blocks: int = 10) -> int:
    """Take and free 160 MiB in a number of blocks; return how many pages were new."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    taken = [bytes([1]) * (STEP_BYTES // blocks) for _ in range(blocks)]
    del taken
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
