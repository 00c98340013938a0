"""`medseg status` as it is typed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnunet_medseg import console
from nnunet_medseg.cli import status as command
from nnunet_medseg.cli.main import main
from nnunet_medseg.nnunet.history import Epoch, append_epoch
from nnunet_medseg.run_folder import Journal, RunFolder, StageRecord, claim, lock
from nnunet_medseg.workflows.options import TrainOptions


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of the two commands with a run that is at its training."""
    claim(tmp_path / ".medseg")
    folder = RunFolder(tmp_path / ".medseg" / "runs" / "My Liver")
    stages = [StageRecord(name=name, seconds=1.0) for name in ("convert", "plan")]
    options = TrainOptions(dataset_name="My Liver", minutes=2, fold="0").to_json()
    folder.create(Journal(program_version="0", options=options, dataset_folder="in", stages=stages))
    return tmp_path


def give_it_a_history(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run have been checked, and let it train."""
    from nnunet_medseg.dataset.splits import Split
    from nnunet_medseg.workflows import status
    from nnunet_medseg.workflows.stage import Training

    folder = RunFolder(root / ".medseg" / "runs" / "My Liver").training("training")
    folder.root.mkdir()
    for number in range(1, 6):
        epoch = Epoch(number, number * 9, number * 10.0, 0.5, 1 / number, 0.01, 0.7, 120.0, 0.02)
        append_epoch(folder.history_file, epoch)

    def trainings(run) -> tuple[Training, ...]:
        return (Training("training", "0", run.options, 2.0, folder),)

    monkeypatch.setattr(status, "trainings_of", trainings)
    monkeypatch.setattr(status, "_stage_names", lambda _: iter(["convert", "plan", "train"]))
    monkeypatch.setattr(status, "split_of", lambda *_: Split(("a",), ("b",)))


def test_an_interrupted_run_says_what_to_do(root, capsys, monkeypatch):
    give_it_a_history(root, monkeypatch)

    assert main(["status", "--root", str(root)]) == 0

    text = capsys.readouterr().out
    assert "My Liver: train, 42%" in text
    assert "no process is at work on it" in text
    assert "run the same command again" in text
    assert "medseg clean 'My Liver'" in text
    assert "-d 'My Liver' -t 2 -f 0" in text
    assert "50 s of 2 min 00 s" in text
    assert "Dice of patches (not of whole images): 0.700" in text
    assert "⠤" in text or "⠒" in text


def test_a_terminal_without_unicode_gets_ascii(root, monkeypatch):
    give_it_a_history(root, monkeypatch)
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)

    assert main(["status", "--root", str(root)]) == 0

    out.seek(0)
    text = out.read()
    assert "*" in text
    assert "?" not in text


def test_the_work_folder_may_be_named(root, capsys):
    assert main(["status", "--work_dir", str(root / ".medseg"), "--root", "elsewhere"]) == 0

    assert "My Liver: " in capsys.readouterr().out


def test_a_name_that_is_not_there_shows_nothing(root, capsys):
    assert main(["status", "Spleen", "--root", str(root)]) == 0

    assert "no run is at work or interrupted" in capsys.readouterr().out


def test_programs_get_one_object(root, capsys):
    assert main(["status", "--json", "--root", str(root)]) == 0

    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["name"], run["state"]) == ("My Liver", "interrupted")


def test_watching_ends_with_the_run(root, capsys, monkeypatch):
    held = lock(root / ".medseg")
    held.__enter__()
    looks = []

    def sleep(_: float) -> None:
        looks.append(1)
        if len(looks) == 2:
            held.__exit__(None, None, None)

    monkeypatch.setattr(command.time, "sleep", sleep)

    assert main(["status", "--watch", "--root", str(root)]) == 0

    assert len(looks) == 2
    assert capsys.readouterr().out.count("My Liver: ") == 3


def test_ctrl_c_ends_the_look_only(root, capsys, monkeypatch):
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", interrupt)
    with lock(root / ".medseg"):
        assert main(["status", "--watch", "--root", str(root)]) == 0

    assert "the run goes on" in capsys.readouterr().out


def test_the_look_loads_no_torch(root):
    program = (
        "import sys; from nnunet_medseg.cli.main import main\n"
        f"main(['status', '--root', {str(root)!r}])\n"
        "print([name for name in ('torch', 'nnunetv2', 'SimpleITK') if name in sys.modules])"
    )

    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert "My Liver" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_console_knows_what_it_can_show():
    console.attach(io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))

    assert console.can_show("ä")
    assert not console.can_show("⠁")


def test_a_model_says_what_is_missing_of_its_training():
    from nnunet_medseg.workflows.status import ModelStatus

    facts = {"used_s": 60.0, "asked_s": 300.0, "iterations": 9}
    training = SimpleNamespace(**facts, ended_early="Ctrl-C", diverged_folds=1)
    manifest = SimpleNamespace(training=training, evaluation=SimpleNamespace(mean_dice=None))

    row = command._model_row(ModelStatus("Liver", 0.0, manifest))

    assert row[-1] == "Ctrl-C, 1 fold diverged"
