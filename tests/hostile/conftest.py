"""The nursery that hostile input is tried in, and the good things around it."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from corpus import Place, write_good, write_outside
from foreign_models import write_stock_folder

HERE = Path(__file__).parent
ANSWER_LIMIT_S = 60  # beyond what ends a child


class Nursery:
    """Sends commands to the program that runs them in children of its own."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "nursery.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdout.readline() == "ready\n"

    def run(self, root: Path, command: list[str]) -> dict:
        """Run `medseg` with arguments, and return what was seen."""
        self._process.stdin.write(json.dumps({"root": str(root), "command": command}) + "\n")
        self._process.stdin.flush()
        assert select.select([self._process.stdout], [], [], ANSWER_LIMIT_S)[0], "it hangs"
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the program."""
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Return the one nursery of all hostile tests."""
    started = Nursery()
    yield started
    started.close()


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a good dataset, image and model, that nothing is written to."""
    return write_good(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a good model of stock nnU-Net, to be copied and spoiled."""
    folder = write_stock_folder(tmp_path_factory.mktemp("stock") / "model")
    # What stock writes beside is not read, and would be copied hundreds of times.
    for name in ("fold_0/debug.json", "fold_0/progress.png", "dataset_fingerprint.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "fold_0" / "validation")
    return folder


@pytest.fixture(scope="session")
def outside(tmp_path_factory: pytest.TempPathFactory, stock: Path) -> Path:
    """Return what lies outside of each case, to be copied."""
    return write_outside(tmp_path_factory.mktemp("sentinels") / "outside", stock)


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory, stock: Path, outside: Path) -> Place:
    """Return the folders of one hostile case."""
    # Not in `tmp_path`: the name of a test in it makes names too long for sockets, and these would
    # lie elsewhere.
    place = Place(tmp_path_factory.mktemp("case"), stock)
    place.given.mkdir(parents=True)
    shutil.copytree(outside, place.outside)
    return place
