"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from nnunet_medseg import console
from nnunet_medseg.hardware import core_count

# As the program sets it for itself, before anything imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

# The same examples in every run: what is green stays green until the code changes.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

MAX_PROCESSES = 4  # each holds up to 2 GB in whole trainings


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes test with `-n auto`: at most one for each core."""
    return min(MAX_PROCESSES, core_count())


def share_cores() -> None:
    """Give each of several test processes cores of its own: what it starts inherits them.

    Trainings on all cores at once would keep each other from the steps that their minutes need.
    """
    name, count = os.environ.get("PYTEST_XDIST_WORKER"), os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if not name or not count or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))[int(name.removeprefix("gw")) :: int(count)]
    # None is left where somebody asks for more processes than there are cores.
    if cores:
        os.sched_setaffinity(0, cores)


share_cores()

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def console_of_this_test() -> Iterator[None]:
    """Let the first line of each test bind the output anew: pytest changes the streams."""
    console._consoles.clear()
    yield
    # Fixtures of a whole module run before those of its tests, and would print to a closed stream.
    console._consoles.clear()


@pytest.fixture
def real_data() -> Path:
    """The folder of real cases beside the checkout; the test is skipped where it is missing."""
    if not SHARED.is_dir():
        pytest.skip("the real cases in ../shared/data are not on this machine")
    return SHARED
