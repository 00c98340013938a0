"""Events for TensorBoard: what is in them, and that nothing of them harms a training."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from nnunet_medseg.nnunet.history import Epoch, append_epoch
from nnunet_medseg.report import tracker as tracking
from nnunet_medseg.report.tracker import Tracker, figures_of, start_tracker


def make_epoch(number: int = 1, **facts) -> Epoch:
    known = {"iterations": 10 * number, "used_s": 60.0 * number, "iteration_s": 0.5, "loss": -0.5}
    known |= {"learning_rate": 0.01, "patch_dice": 0.8, "asked_s": 600.0, "waited_share": 0.02}
    return Epoch(number=number, **(known | facts))


class Raising:
    """An event file that cannot be written to."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.tries = 0

    def write(self, _: Epoch) -> None:
        self.tries += 1
        raise self.error

    def close(self) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (ImportError("tensorboard"), "not installed"),
        (RuntimeError("/home/anna/secret"), "RuntimeError"),
    ],
)
def test_a_tracker_that_fails_says_so_once_and_is_silent(error, reason):
    said, file = [], Raising(error)
    tracker = Tracker(lambda: file, said.append)

    for number in range(1, 4):
        tracker.tell(make_epoch(number))
    tracker.close()

    (sentence,) = said
    assert reason in sentence
    assert "the training goes on" in sentence
    assert "anna" not in sentence
    assert file.tries == 1


def test_a_tracker_that_cannot_be_opened_is_tried_once():
    said, tries = [], []

    def opened():
        tries.append(1)
        raise PermissionError(errno.EACCES, "Permission denied")

    tracker = Tracker(opened, said.append)
    tracker.tell(make_epoch(1))
    tracker.tell(make_epoch(2))
    tracker.close()

    assert (len(said), len(tries)) == (1, 1)


def test_without_the_package_there_is_one_warning(tmp_path, monkeypatch):
    def load():
        raise ModuleNotFoundError("tensorboard")

    monkeypatch.setattr(tracking, "_load", load)
    said = []
    tracker = start_tracker(tmp_path / "events", ["Liver"], tmp_path / "h.jsonl", said.append)

    tracker.tell(make_epoch(1))
    tracker.tell(make_epoch(2))
    tracker.close()

    assert len(said) == 1
    assert "pip install" in said[0]
    assert not (tmp_path / "events").exists()


def test_without_a_folder_there_is_no_tracker(tmp_path):
    assert start_tracker(None, ["Liver"], tmp_path / "h.jsonl", print) is None


def test_what_was_not_measured_is_not_told():
    figures = figures_of(make_epoch(patch_dice=None, waited_share=None))

    assert not any("Dice" in name or "waiting" in name for name in figures)
    assert figures["loss/training"] == -0.5


# --- with the real package ---------------------------------------------------------------------


def train(tmp_path: Path, numbers: list[int], *names: str, keep: int = 0) -> list[str]:
    """Tell epochs as a training does that goes on after the first `keep` of its history."""
    history = tmp_path / f"{names[-1]}.jsonl"
    kept = history.read_text().splitlines(keepends=True)[:keep] if history.exists() else []
    history.write_text("".join(kept))
    said: list[str] = []
    tracker = start_tracker(tmp_path / "events", names, history, said.append)
    for number in numbers:
        append_epoch(history, make_epoch(number))
        tracker.tell(make_epoch(number))
    tracker.close()
    return said


def read_events(folder: Path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulators.EventAccumulator(str(folder))
    read.Reload()
    return read


@pytest.fixture
def _installed() -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")


@pytest.mark.usefixtures("_installed")
def test_tensorboard_reads_what_was_told(tmp_path):
    assert train(tmp_path, [1, 2, 3], "Liver") == []

    read = read_events(tmp_path / "events" / "Liver")

    assert set(read.Tags()["scalars"]) == set(figures_of(make_epoch()))
    dice = read.Scalars("Dice/patches, smoothed")
    assert [one.step for one in dice] == [10, 20, 30]
    assert [one.value for one in dice] == pytest.approx([0.8] * 3)


@pytest.mark.usefixtures("_installed")
def test_a_training_that_goes_on_replaces_what_it_does_again(tmp_path):
    train(tmp_path, [1, 2, 3, 4], "Liver")

    train(tmp_path, [3, 4, 5], "Liver", keep=2)

    read = read_events(tmp_path / "events" / "Liver")
    assert [one.step for one in read.Scalars("loss/training")] == [10, 20, 30, 40, 50]
    assert [path.name for path in (tmp_path / "events").iterdir()] == ["Liver"]


@pytest.mark.usefixtures("_installed")
def test_another_training_of_that_name_has_a_folder_of_its_own(tmp_path):
    for _ in range(2):
        for fold in ("fold_0", "fold_1"):
            train(tmp_path, [1, 2], "Liver", fold)

    found = sorted(
        path.relative_to(tmp_path / "events").as_posix()
        for path in (tmp_path / "events").glob("*/*")
    )
    assert found == ["Liver/fold_0", "Liver/fold_1", "Liver_2/fold_0", "Liver_2/fold_1"]


@pytest.mark.usefixtures("_installed")
def test_the_events_name_no_machine_and_no_folder(tmp_path):
    train(tmp_path, [1, 2], "Liver")

    (path,) = (tmp_path / "events" / "Liver").iterdir()

    content = path.read_bytes() + path.name.encode()
    assert socket.gethostname().encode() not in content
    assert str(tmp_path).encode() not in content


@pytest.mark.usefixtures("_installed")
def test_a_folder_that_is_a_file_is_told_once(tmp_path):
    (tmp_path / "events").write_text("a file")

    said = train(tmp_path, [1, 2, 3], "Liver")

    assert len(said) == 1
    assert (tmp_path / "events").read_text() == "a file"
