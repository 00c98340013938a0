"""A short part of the faults: whatever goes wrong, nothing is lost; `make faults` runs them all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).with_name("faults.py")


@pytest.mark.slow
def test_nothing_is_lost_whatever_goes_wrong(tmp_path: Path) -> None:
    # A process of its own: it forks the command, and must not have computed before.
    results = tmp_path / "results.jsonl"
    command = [sys.executable, str(HARNESS), "--short", "--results", str(results)]

    told = subprocess.run(command, capture_output=True, text=True, check=False)

    assert told.returncode == 0, told.stdout + told.stderr
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert {row["outcome"] for row in rows} <= {"ok", "skipped"}
    assert len(rows) >= 8


def test_the_plan_is_large_and_every_row_is_repeatable_alone() -> None:
    command = [sys.executable, str(HARNESS), "--list"]

    told = subprocess.run(command, capture_output=True, text=True, check=True)

    *names, count = told.stdout.splitlines()
    assert count == f"{len(names)} faults"
    assert len(set(names)) == len(names) >= 200
    assert sum(name.startswith("cold-") for name in names) >= 20
