"""A short part of the fuzz: a spoilt dataset is read or refused; `make fuzz` tries more."""

from __future__ import annotations

import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "hostile")]

from fuzz import MORE_BYTES, SHARES, judge, plan  # noqa: E402
from fuzz_datasets import LAYOUTS  # noqa: E402
from fuzz_inputs import draw, kinds, make  # noqa: E402

from nnunet_medseg.volume import EXTENSIONS  # noqa: E402

GOOD = {"status": 0, "seen": [], "cpu_s": 0.1, "grown_bytes": 10}


def test_spoilt_datasets_are_read_or_refused():
    command = [sys.executable, str(HERE / "fuzz.py"), "--count", "100"]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
    assert "is refused" in ended.stdout
    assert "FAILS" not in ended.stdout


def test_every_format_layout_and_description_is_spoilt():
    assert {f"file{ending}" for ending in EXTENSIONS} <= set(kinds())
    assert {f"names.{name}" for name in LAYOUTS} <= set(kinds())
    assert {kind.partition(".")[0] for kind in kinds()} == set(SHARES)
    assert sum(plan(2400, None).values()) >= 2400


@pytest.mark.parametrize("kind", ["file.nii.gz", "file.frame", "json.raw", "names.raw", "tree"])
def test_the_same_seed_gives_the_same_inputs_at_any_time(kind, monkeypatch):
    # What is packed may hold the second in which it was.
    monkeypatch.setattr("time.time", count(1_000_000_000).__next__)

    first, again, other = draw(kind, 20, 1), draw(kind, 20, 1), draw(kind, 20, 2)

    assert len(first) == 20
    assert [make(kind, drawn) for drawn in first] == [make(kind, drawn) for drawn in again]
    assert [make(kind, drawn) for drawn in first] != [make(kind, drawn) for drawn in other]


@pytest.mark.parametrize(
    ("report", "shown", "why"),
    [
        (GOOD, "ready", ""),
        (GOOD | {"status": 3}, "error: img.nii.gz is short.\nWhat to do: copy it", ""),
        ({"died": "SIGSEGV"}, "", "the check died: SIGSEGV"),
        (GOOD | {"status": 70}, "a mistake of ours", "it ended with status 70"),
        (GOOD, "Traceback (most recent call last)", "it ended with status 0"),
        (
            GOOD | {"status": 3},
            "img.nii.gz\nWhat to do: copy it",
            "a refusal does not name img.nii.gz",
        ),
        (GOOD | {"status": 3}, "Error: img.nii.gz", "a refusal says no fix"),
        (GOOD | {"cpu_s": 11.0}, "ready", "it took 11.0 s"),
        (GOOD | {"grown_bytes": 2 * MORE_BYTES}, "ready", "it took 600 MB, honest 0 MB"),
        (GOOD, "\x1b[31m", "it shows characters that drive a terminal"),
        (GOOD | {"seen": ["os.system"]}, "ready", "it did what it must not"),
    ],
)
def test_what_must_not_be_is_told(report, shown, why):
    found = judge(report, shown, "img.nii.gz", 0)

    assert found.startswith(why)
    assert bool(found) == bool(why)
