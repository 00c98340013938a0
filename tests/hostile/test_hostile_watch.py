"""The watch over the corpus: it lets good things pass, and it would see bad ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from corpus import CHECK, MODEL, PREDICT, command_of
from nursery import Watch
from test_hostile_input import mark_unread, read_since, reading_is_seen, shown_of

HERE = Path(__file__).parent


@pytest.mark.parametrize("door", [CHECK, PREDICT, MODEL])
def test_good_things_pass_through_each_door(door, place, nursery, good):
    given = {CHECK: good / "patients", PREDICT: good / "images", MODEL: good / "model"}[door]

    report = nursery.run(place.root, command_of(door, place, given, good))

    assert report["status"] == 0, shown_of(place.root)
    assert report["seen"] == []
    made = [] if door == CHECK else sorted(path.name for path in (place.root / "out").iterdir())
    assert door == CHECK or made == ["a.nii.gz", "volumes.csv"]


def test_writing_elsewhere_starting_programs_and_connecting_are_seen(tmp_path):
    watch = Watch(tmp_path / "allowed")
    watch.is_on = True

    watch("open", (str(tmp_path / "outside"), "w", os.O_WRONLY))
    watch("os.remove", (str(tmp_path / "outside"), -1))
    watch("os.rename", (str(tmp_path / "allowed" / "a"), str(tmp_path / "outside"), -1, -1))
    watch("os.system", ("true",))
    watch("socket.connect", (None, ("127.0.0.1", 9)))
    watch("pickle.find_class", ("os", "system"))
    watch("open", (str(tmp_path / "allowed" / "a"), "w", os.O_WRONLY))
    watch("open", (str(tmp_path / "outside"), "r", os.O_RDONLY))

    assert [line.split()[0] for line in watch.seen] == [
        *("open", "os.remove", "os.rename"),
        *("os.system", "socket.connect", "pickle.find_class"),
    ]


def test_a_file_outside_that_is_read_is_seen(place):
    if not reading_is_seen(place.root):
        pytest.skip("this disk does not tell when a file was read")
    marked = mark_unread(place.outside)

    (place.outside / "secret.json").read_text()

    assert read_since(marked) == [str(place.outside / "secret.json")]


def test_a_module_that_is_imported_by_its_name_leaves_a_mark(tmp_path):
    marker = tmp_path / "marker"

    command = [sys.executable, "-c", "import planted"]
    environment = os.environ | {"PYTHONPATH": str(HERE), "HOSTILE_MARKER": str(marker)}
    subprocess.run(command, env=environment, check=True)

    assert marker.exists()
