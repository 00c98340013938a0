"""Pages of memory that a step takes from the system."""

from __future__ import annotations

import platform
import resource

import pytest

PAGES = 10 * (16 << 20) // resource.getpagesize()

# Where a kernel or a sandbox counts no pages, nothing can be seen.
only_with_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not resource.getrusage(resource.RUSAGE_SELF).ru_minflt,
    reason="other C libraries have no mallopt",
)


def pages_of_a_step() -> int:
    """Take and free memory in ten blocks of 16 MiB; return how many pages were new."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytes([1]) * (16 << 20) for _ in range(10)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
