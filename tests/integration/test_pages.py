"""The pages as they are written: their commands, in their order, on phantoms and for seconds."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from desk import REPOSITORY, SPEC, Desk, copy_in

from nnunet_medseg.phantom import write_images

pytestmark = pytest.mark.slow
AT_LENGTH = pytest.mark.skipif(
    "PAGES" not in os.environ, reason="minutes of commands that other tests hold too: make pages"
)

DOCS = REPOSITORY / "docs"
MINUTES = "0.4"  # of a busy machine, too
PATIENCE_S = 120
FENCE = re.compile(r"^ *```\w*\n(.*?)^ *```$", re.M | re.S)
COMMAND = re.compile(r"^(?:python3 exe_\w+\.py|\.venv/bin/medseg)\b.*$", re.M)


def commands_of(page: str) -> list[str]:
    """Return the commands of a page; what they do may stand after three blanks."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = "\n".join(FENCE.findall(text))
    return [re.split(" {3,}", line)[0] for line in COMMAND.findall(blocks)]


def words_of(command: str) -> list[str]:
    """Return the words of a command as this machine calls it, with a short training."""
    command = re.sub(r"^python3 ", f"{sys.executable} ", command)
    command = re.sub(r"^\.venv/bin/medseg", f"{sys.executable} -m nnunet_medseg", command)
    return re.sub(r" -t [\d.]+", f" -t {MINUTES}", command).split()


def follow(desk: Desk, command: str) -> str:
    """Run a command in the folder of the program; return what it says."""
    done = subprocess.run(
        words_of(command), cwd=desk.root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def begin(desk: Desk, command: str) -> subprocess.Popen[str]:
    """Start a training, and return when it has trained for an epoch."""
    words = [*words_of(command)[:2], "-d", "Liver", "-t", "0.5", "-f", "0"]
    process = subprocess.Popen(
        words, cwd=desk.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    history = desk.root / ".medseg/runs/Liver/trainings/training/history.jsonl"
    end = time.monotonic() + PATIENCE_S
    # It is there, and empty, from the start of the training.
    while not history.exists() or not history.stat().st_size:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    return process


def test_get_started_leads_to_a_segmentation(desk):
    copy_in(desk.input / "Liver", cases=6, validate=2)
    images = desk.root / "Input_nnUNet_predict"
    write_images(images, desk.root / "truth", SPEC, cases=1, first=20)
    named = sorted(path.name for path in images.iterdir())

    said = {command: follow(desk, command) for command in commands_of("get-started.md")}

    assert len(said) == 5
    assert "Liver" in said[".venv/bin/medseg status"]
    made = {path.name for path in (desk.output / "Liver").iterdir()}
    page = (DOCS / "get-started.md").read_text(encoding="utf-8")
    assert all(f" {name}" in page for name in made)
    written = {path.name for path in (desk.root / "Output_nnUNet_predict").iterdir()}
    assert written == {*named, "volumes.csv"}


@AT_LENGTH
def test_the_page_about_interruptions_holds(desk):
    copy_in(desk.input / "Liver", cases=5)
    look, resume, fresh, _, remove = commands_of("how-to/interrupt-and-go-on.md")[:5]
    process = begin(desk, resume)
    process.send_signal(signal.SIGINT)
    # Two at once are one for the system.
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130

    assert "no process is at work on it" in follow(desk, look)
    # A shorter training than the one that was begun: what differs is asked for.
    asked = subprocess.run(words_of(fresh)[:-1], cwd=desk.root, capture_output=True, check=False)
    assert asked.returncode == 6
    assert "going on with the unfinished run as it began" in follow(desk, resume)

    copy_in(desk.input / "Liver", cases=5)
    process = begin(desk, fresh)
    process.kill()
    process.wait()
    assert "removed Liver" in follow(desk, remove)
    assert "no run is at work" in follow(desk, look)


@AT_LENGTH
def test_the_page_about_watching_holds(desk):
    copy_in(desk.input / "Liver", cases=5)
    *looks, train = commands_of("how-to/watch-a-training.md")
    follow(desk, train.replace("LIVER=1,TUMOR=2", "LIVER=1"))

    for look in looks:
        assert "Liver" in follow(desk, look.replace("/path/to/the/program", str(desk.root))) or (
            "--work_dir" in look
        )
    (told,) = json.loads(follow(desk, looks[-1]))["models"]
    assert told["trainings"][0]["epochs"]
    assert list((desk.root / "events" / "Liver").iterdir())
    (example,) = re.findall(
        r"```python\n(.*?)```", (DOCS / "how-to/watch-a-training.md").read_text(), re.S
    )
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=desk.root, capture_output=True, text=True, check=True
    )
    assert "loss" in done.stdout


@AT_LENGTH
def test_the_job_for_a_batch_system_runs(desk):
    copy_in(desk.root / "LIVER_COPY" / "Liver", cases=5)
    page = (DOCS / "how-to/batch-system.md").read_text(encoding="utf-8")
    (job,) = re.findall(r"```bash\n(.*?)```", page, re.S)
    job = job.replace(".venv/bin/medseg", f"{sys.executable} -m nnunet_medseg")
    job = job.replace("-t 75", f"-t {MINUTES}").replace("LIVER=1,TUMOR=2", "LIVER=1")
    (desk.root / "train.sh").write_text(job)

    done = subprocess.run(
        ["bash", "train.sh"], cwd=desk.root, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert Path(desk.root / "MODELS" / "Liver" / "model" / "manifest.json").is_file()
    (look,) = commands_of("how-to/batch-system.md")
    assert "Liver" in follow(desk, look)
