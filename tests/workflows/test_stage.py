from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nnunet_medseg.hardware import Device
from nnunet_medseg.run_folder import Journal, RunFolder
from nnunet_medseg.workflows.options import Folders, TrainOptions
from nnunet_medseg.workflows.stage import Run, Stage, run_stages


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = RunFolder(tmp_path / "work" / "runs" / "X")
    folder.create(Journal(program_version="0", options={}, dataset_folder="d"))
    folders = Folders(tmp_path / "in", tmp_path / "out", tmp_path / "work")
    device = Device("cpu", 0, "CPU", False)
    return Run(folder, tmp_path / "in", folders, TrainOptions(), device, store=folder.root)


def nothing_expected(*_: object) -> None:
    return None


def test_stages_run_in_order_and_are_written_down(run):
    seen: list[str] = []
    stages = [Stage(name, lambda _, name=name: seen.append(name)) for name in ("a", "b", "c")]

    run_stages(stages, run, nothing_expected)

    assert seen == ["a", "b", "c"]
    assert list(run.folder.finished_stages()) == ["a", "b", "c"]


def test_an_interrupted_run_resumes_at_the_stage_that_failed(run):
    seen: list[str] = []

    def fail_once(_: Run) -> None:
        seen.append("b")
        if seen.count("b") == 1:
            raise RuntimeError

    stages = [
        Stage("a", lambda _: seen.append("a")),
        Stage("b", fail_once),
        Stage("c", lambda _: seen.append("c")),
    ]
    with pytest.raises(RuntimeError):
        run_stages(stages, run, nothing_expected)

    run_stages(stages, run, nothing_expected)

    assert seen == ["a", "b", "b", "c"]


def test_the_line_of_a_stage_tells_its_time_and_the_expected_one(run, capsys):
    run_stages([Stage("plan", lambda _: None)], run, lambda *_: 75.0)

    shown = capsys.readouterr().out
    assert "plan" in shown
    assert "expected about 1 min 15 s" in shown


def test_later_stages_are_found_when_earlier_ones_are_finished(run):
    found: list[str] = []

    def tell() -> Iterator[Stage]:
        yield Stage("count", lambda _: found.extend(["fold 0", "fold 1"]))
        for name in found:
            yield Stage(f"train {name}", lambda _: None)

    run_stages(tell(), run, nothing_expected)

    assert list(run.folder.finished_stages()) == ["count", "train fold 0", "train fold 1"]
