"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from nnunet_medseg import console

# As the program sets it for itself, before anything imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

# The same examples in every run: what is green stays green until the code changes.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

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
