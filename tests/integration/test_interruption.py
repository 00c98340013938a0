"""A run that is cut off goes on; nothing is lost, and no process is left over."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from desk import Desk, copy_in

pytestmark = pytest.mark.slow

OPTIONS = ("-d", "Cut", "-l", "liver=1", "-i", "CT", "-t", "0.5", "-f", "0")
PATIENCE_S = 120


def start_and_wait_for_training(desk: Desk, epochs: int, *more: str) -> subprocess.Popen[str]:
    """Start the command, and return once so many epochs are in its history."""
    process = subprocess.Popen(
        desk.command("train", *OPTIONS, *more),
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
    change_plan(desk, lambda planned: planned.update(threads=1, channels_last=True))

    started = time.monotonic()
    again = desk.run("train", *OPTIONS)
    took_s = time.monotonic() - started

    assert again.returncode == 0, again.stderr
    assert "going on after: check, convert, plan, preprocess" in again.stdout
    assert ", 1 thread, channels last\n" in again.stdout
    manifest = json.loads((desk.output / "Cut" / "model" / "manifest.json").read_text())
    assert abs(manifest["training"]["used_s"] - 30) <= 5
    assert used_before_s > 0
    # Only what was left of the training was done again; the rest of the time is start and proof.
    assert took_s < 30 - used_before_s + 45
    assert not run_folder(desk).exists()


def test_a_training_that_an_older_program_planned_goes_on(desk):
    copy_in(desk.input / "Data", cases=5)
    process = start_and_wait_for_training(desk, epochs=1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (run_folder(desk) / "trainings" / "training" / "checkpoint.pth").unlink()
    change_plan(desk, write_as_first_versions)

    again = desk.run("train", *OPTIONS)

    assert again.returncode == 0, again.stderr
    assert "going on after: check, convert, plan, preprocess" in again.stdout
    assert manifest_of(desk)["training"]["recipe"]["optimizer"] == "sgd"


def write_as_first_versions(planned: dict[str, Any]) -> None:
    del planned["threads"]
    recipe = {"optimizer": "sgd", "peak_rate": 0.05, "schedule": "linear", "mirroring": False}
    planned["recipe"] = recipe


def change_plan(desk: Desk, change: Callable[[dict[str, Any]], object]) -> None:
    plan = run_folder(desk) / "trainings" / "training" / "plan.json"
    planned = json.loads(plan.read_text())
    change(planned)
    plan.write_text(json.dumps(planned))


def manifest_of(desk: Desk) -> dict[str, Any]:
    return json.loads((desk.output / "Cut" / "model" / "manifest.json").read_text())


@pytest.mark.parametrize(
    ("number", "name", "status"),
    [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)],
)
def test_one_request_to_end_hands_over_the_model_so_far(desk, number, name, status):
    copy_in(desk.input / "Data", cases=5)
    before = snapshot(desk.input)
    # Far from its end, and with a grace that suffices on a busy machine too.
    process = start_and_wait_for_training(desk, 3, "-t", "4", "--grace", "90")

    process.send_signal(number)
    out, err = process.communicate(timeout=120)

    assert process.returncode == status, err
    training = manifest_of(desk)["training"]
    assert training["ended_early"] == name
    assert 0 < training["used_s"] < training["asked_s"] == 240
    assert manifest_of(desk)["evaluation"]["cases"] == 1
    assert f"Interrupted by {name}" in (desk.output / "Cut" / "summary.txt").read_text()
    assert f"Interrupted by {name}" in out
    assert snapshot(desk.input) == before
    assert not run_folder(desk).exists()


def test_a_grace_that_does_not_suffice_keeps_everything(desk):
    copy_in(desk.input / "Data", cases=5)
    process = start_and_wait_for_training(desk, 3, "-t", "4", "--grace", "1")

    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    out, err = process.communicate(timeout=60)

    assert process.returncode == 143
    assert time.monotonic() - started < 15
    assert "--grace" in out
    assert "goes on" in err
    assert (run_folder(desk) / "trainings" / "training" / "checkpoint.pth").exists()
    assert not (desk.output / "Cut").exists()


def test_a_deadline_shrinks_the_training_and_is_kept(desk):
    copy_in(desk.input / "Data", cases=5)
    # Twice what it takes on a quiet machine, since others may be at work on this one.
    minutes = 1.6
    started = time.monotonic()

    finished = desk.run("train", *OPTIONS, "-t", "600", "--deadline", str(minutes))

    assert finished.returncode == 0, finished.stderr
    assert time.monotonic() - started < 60 * minutes + 10
    training = manifest_of(desk)["training"]
    assert training["asked_s"] == 36000
    assert 5 < training["planned_s"] < 60 * minutes
    assert abs(training["used_s"] - training["planned_s"]) <= 5
    assert training["ended_early"] == ""
    assert manifest_of(desk)["evaluation"]["cases"] == 1


def test_a_second_ctrl_c_keeps_everything_and_another_time_is_asked_about(desk):
    copy_in(desk.input / "Data", cases=5)
    before = snapshot(desk.input)
    process = start_and_wait_for_training(desk, epochs=2)
    family = psutil.Process(process.pid).children(recursive=True)

    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
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
