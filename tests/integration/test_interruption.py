"""A run that is cut off goes on; nothing is lost, and no process is left over."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from desk import Desk, copy_in

pytestmark = pytest.mark.slow

OPTIONS = ("-d", "Cut", "-l", "liver=1", "-i", "CT", "-t", "0.5", "-f", "0")
PATIENCE_S = 120


def start_and_wait_for_training(desk: Desk, epochs: int) -> subprocess.Popen[str]:
    """Start the command, and return once so many epochs are in its history."""
    process = subprocess.Popen(
        desk.command("train", *OPTIONS),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    history = run_folder(desk) / "trainings" / "training" / "history.jsonl"
    deadline = time.monotonic() + PATIENCE_S
    while not history.exists() or len(history.read_text().splitlines()) < epochs:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process


def run_folder(desk: Desk) -> Path:
    return desk.root / ".medseg" / "runs" / "Cut"


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait_until_gone(processes: list[psutil.Process]) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=15)
    return alive


def test_a_killed_training_goes_on_where_it_was(desk):
    copy_in(desk.input / "Data", cases=5)
    before = snapshot(desk.input)
    process = start_and_wait_for_training(desk, epochs=3)
    family = psutil.Process(process.pid).children(recursive=True)

    process.send_signal(signal.SIGKILL)
    process.communicate()

    assert family
    assert wait_until_gone(family) == []
    assert snapshot(desk.input) == before
    history = (
        (run_folder(desk) / "trainings" / "training" / "history.jsonl").read_text().splitlines()
    )
    used_before_s = json.loads(history[0])["used_s"]

    started = time.monotonic()
    again = desk.run("train", *OPTIONS)
    took_s = time.monotonic() - started

    assert again.returncode == 0, again.stderr
    assert "going on after: check, convert, plan, preprocess" in again.stdout
    manifest = json.loads((desk.output / "Cut" / "model" / "manifest.json").read_text())
    assert abs(manifest["training"]["used_s"] - 30) <= 5
    assert used_before_s > 0
    # Only what was left of the training was done again; the rest of the time is start and proof.
    assert took_s < 30 - used_before_s + 45
    assert not run_folder(desk).exists()


def test_ctrl_c_keeps_everything_and_another_time_is_asked_about(desk):
    copy_in(desk.input / "Data", cases=5)
    before = snapshot(desk.input)
    process = start_and_wait_for_training(desk, epochs=2)
    family = psutil.Process(process.pid).children(recursive=True)

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "same command" in err
    assert "Traceback" not in err
    assert wait_until_gone(family) == []
    assert snapshot(desk.input) == before
    assert (run_folder(desk) / "trainings" / "training" / "checkpoint.pth").exists()

    other_time = desk.run("train", *OPTIONS, "-t", "0.2")

    assert other_time.returncode == 6
    assert "--resume" in other_time.stderr
    assert "--fresh" in other_time.stderr
    assert snapshot(desk.input) == before

    fresh = desk.run("train", *OPTIONS, "-t", "0.2", "--fresh")

    assert fresh.returncode == 0, fresh.stderr
    manifest = json.loads((desk.output / "Cut" / "model" / "manifest.json").read_text())
    assert manifest["training"]["asked_s"] == pytest.approx(12)
