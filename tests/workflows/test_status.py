"""What a run is doing, seen from outside: by another process, which writes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from makers import write_patients
from tiny_model import make_facts

from nnunet_medseg.bundle.manifest import Manifest, write_manifest
from nnunet_medseg.dataset.channels import parse_image_types
from nnunet_medseg.dataset.checked import Wishes, check_dataset, save_checked
from nnunet_medseg.dataset.intake import read_dataset
from nnunet_medseg.dataset.labels import parse_labels
from nnunet_medseg.files import write_json
from nnunet_medseg.nnunet.history import Epoch, append_epoch, write_histories
from nnunet_medseg.run_folder import HISTORIES_NAME, Journal, RunFolder, StageRecord, claim, lock
from nnunet_medseg.workflows.options import read_train_options
from nnunet_medseg.workflows.status import read_status, to_json

BEFORE_TRAINING = ("check", "convert", "plan", "preprocess")


def make_run(
    work: Path, name: str = "Liver", finished: tuple[str, ...] = BEFORE_TRAINING, **options: Any
) -> RunFolder:
    """Make the folder of a run as it is when some stages are finished."""
    claim(work)
    asked = read_train_options(dataset_name=name, **({"minutes": 2, "fold": "0"} | options))
    folder = RunFolder(work / "runs" / name)
    journal = Journal(
        program_version="0",
        options=asked.to_json(),
        dataset_folder="in",
        stages=[StageRecord(name=stage, seconds=1.5) for stage in finished],
    )
    folder.create(journal)
    if "check" in finished:
        dataset = work.parent / "datasets_of_tests" / name
        write_patients(dataset, cases=6)
        wishes = Wishes(
            parse_labels(asked.label), parse_image_types(asked.image_type), asked.fold, asked.seed
        )
        save_checked(folder.check_file, check_dataset(read_dataset(dataset, None), wishes).checked)
    return folder


def train_for(folder: RunFolder, used_s: float, training: str = "training", **facts: Any) -> Path:
    """Write one epoch more into the history of a training."""
    place = folder.training(training)
    place.root.mkdir(parents=True, exist_ok=True)
    epoch = {"number": 1, "iterations": 40, "used_s": used_s, "iteration_s": 0.5, "loss": -0.3}
    epoch |= {"learning_rate": 0.01, "patch_dice": 0.7, "asked_s": 120.0, "waited_share": 0.02}
    append_epoch(place.history_file, Epoch(**(epoch | facts)))
    return place.history_file


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    found = {str(path): path.stat() for path in folder.rglob("*")}
    return {path: (stat.st_mtime_ns, stat.st_size) for path, stat in found.items()}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_where_nothing_is_there_is_nothing_to_see(work, out):
    status = read_status(work, out)

    assert (status.runs, status.models, status.is_locked) == ((), (), False)
    assert not work.exists()


def test_a_run_at_work_tells_stage_share_and_ends(work, out):
    folder = make_run(work)
    with lock(work):
        train_for(folder, 60.0)
        now = time.time()
        (run,) = read_status(work, out, now=now).runs

    assert (run.name, run.state, run.stage) == ("Liver", "running", "train")
    assert run.current.state == "running"
    assert run.share == pytest.approx(0.5, abs=0.02)
    assert run.training_ends_at - now == pytest.approx(60, abs=3)
    # The evaluation may take two minutes, and the rest some seconds.
    assert 120 < run.done_by - run.training_ends_at < 180
    assert run.finished == dict.fromkeys(BEFORE_TRAINING, 1.5)


def test_the_time_since_the_last_line_counts(work, out):
    folder = make_run(work)
    with lock(work):
        train_for(folder, 60.0)
        (run,) = read_status(work, out, now=time.time() + 30).runs

    assert run.current.used_s == pytest.approx(90, abs=2)


def test_a_run_whose_process_is_gone_is_interrupted(work, out):
    train_for(make_run(work), 30.0)
    program = (
        "import os, sys, pathlib; from nnunet_medseg.run_folder import lock\n"
        "with lock(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(work)], check=False)

    (run,) = read_status(work, out).runs

    assert (work / "lock").exists()
    assert (run.state, run.stage, run.current.state) == ("interrupted", "train", "interrupted")
    assert run.share == pytest.approx(0.25)
    assert run.training_ends_at is None


def test_only_the_run_that_wrote_last_is_at_work(work, out):
    for name, age_s in (("Old", 3600), ("New", 0)):
        folder = make_run(work, name)
        train_for(folder, 30.0)
        for path in (folder.root, *folder.root.rglob("*")):
            os.utime(path, (time.time() - age_s,) * 2)

    with lock(work):
        states = {run.name: run.state for run in read_status(work, out).runs}
        (asked,) = read_status(work, out, "Old").runs

    assert states == {"New": "running", "Old": "interrupted"}
    assert asked.state == "interrupted"


def test_a_prediction_is_not_taken_for_the_run_that_lies_there(work, out):
    train_for(make_run(work), 30.0)
    with lock(work):
        (work / "scratch-abc").mkdir()
        status = read_status(work, out)

    assert status.is_predicting
    assert [run.state for run in status.runs] == ["interrupted"]


def test_folds_are_told_one_by_one(work, out):
    done = (*BEFORE_TRAINING, "train fold 0", "evaluate fold 0")
    folder = make_run(work, finished=done, fold="cv", minutes=10)
    with lock(work):
        train_for(folder, 120.0, "fold_0")
        train_for(folder, 30.0, "fold_1")
        (run,) = read_status(work, out).runs

    assert run.stage == "train fold 1"
    assert [one.state for one in run.trainings] == ["finished", "running", *["waiting"] * 3]
    assert run.current.name == "fold 1"
    assert run.last_training_ends_at - run.training_ends_at > 3 * 120
    # Every case is evaluated, however long that takes.
    assert run.done_by is None


def test_a_variant_that_failed_says_why(work, out):
    done = (*BEFORE_TRAINING, "train variant 1", "evaluate variant 1")
    folder = make_run(work, finished=done, vary="seed=1,2")
    failed = folder.training("variant_1")
    failed.root.mkdir()
    write_json(failed.failed_file, {"problem": "it diverged"})

    (run,) = read_status(work, out).runs

    assert [(one.state, one.problem) for one in run.trainings] == [
        ("failed", "it diverged"),
        ("interrupted", ""),
    ]


def test_the_evaluation_is_told_by_cases(work, out):
    folder = make_run(work, finished=(*BEFORE_TRAINING, "train"), fold="0")
    train_for(folder, 120.0)
    folder.training("training").evaluation_file.write_text('{"case": "case_0001"}\n{"case": "c')
    with lock(work):
        (run,) = read_status(work, out).runs

    assert (run.stage, run.cases) == ("evaluate", (1, 2))
    assert run.current.state == "finished"


def test_before_the_check_is_over_only_the_stage_is_known(work, out):
    make_run(work, finished=())
    with lock(work):
        (run,) = read_status(work, out).runs

    assert (run.stage, run.trainings, run.training_ends_at) == ("check", (), None)


@pytest.mark.parametrize("damaged", ["check.json", "trainings/training/history.jsonl"])
def test_a_file_that_is_cut_short_shortens_the_answer_only(work, out, damaged):
    folder = make_run(work)
    train_for(folder, 30.0)
    train_for(folder, 60.0, number=2)
    path = folder.root / damaged
    path.write_bytes(path.read_bytes()[:-30])

    (run,) = read_status(work, out).runs

    if damaged == "check.json":
        # Which trainings there are cannot be told then.
        assert (run.stage, run.trainings) == ("", ())
    else:
        assert run.stage == "train"
        assert [epoch.number for epoch in run.current.epochs] == [1]


def test_a_journal_that_cannot_be_read_is_said(work, out):
    folder = make_run(work)
    folder.journal_file.write_text('{"for')

    (run,) = read_status(work, out).runs

    assert (run.name, run.state) == ("Liver", "unreadable")


def test_a_run_of_a_later_version_is_no_error(work, out):
    folder = make_run(work)
    content = json.loads(folder.journal_file.read_text())
    content["options"]["something_new"] = 1
    folder.journal_file.write_text(json.dumps(content))

    assert [run.state for run in read_status(work, out).runs] == ["unreadable"]


def test_looking_writes_nothing(work, out):
    folder = make_run(work)
    with lock(work):
        train_for(folder, 30.0)
        before = files_of(work)
        read_status(work, out)

        assert files_of(work) == before
    assert not out.exists()


def test_the_command_that_began_is_told(work, out):
    make_run(work, "A b", vary="seed=1,2", keep_dataset=True)

    (run,) = read_status(work, out).runs

    assert run.command.startswith("medseg vary --vary seed=1,2 -d 'A b'")
    assert "--keep_dataset" in run.command


def test_the_answer_for_programs_is_plain(work, out):
    folder = make_run(work)
    with lock(work):
        train_for(folder, 30.0)
        content = to_json(read_status(work, out))

    again = json.loads(json.dumps(content, allow_nan=False))
    (run,) = again["runs"]
    assert run["trainings"][0]["epochs"][0]["patch_dice"] == 0.7
    assert run["training_ends_at"][10] == "T"


def test_a_history_beside_a_model_is_shown_with_it(out, work):
    manifest = Manifest(
        program="nnunet-medseg 0.1.0",
        versions={},
        configuration="3d_fullres",
        stock_command="",
        stock_note="",
        files={},
        **make_facts(),
    )
    for name in ("Liver", ".hidden"):
        (out / name / "model").mkdir(parents=True)
        write_manifest(out / name / "model", manifest)
    epoch = Epoch(1, 40, 60.0, 0.5, -0.3, 0.01, None, 60.0, 0.02)
    write_histories(out / "Liver" / HISTORIES_NAME, {"fold_0": [epoch], "fold_1": [epoch]})

    (model,) = read_status(work, out).models

    assert (model.name, model.manifest.training.used_s) == ("Liver", 601.5)
    assert [asdict(one)["name"] for one in model.trainings] == ["fold 0", "fold 1"]
    assert {one.share for one in model.trainings} == {1.0}
    assert read_status(work, out, "Spleen").models == ()


def test_a_manifest_that_is_no_manifest_is_passed_over(work, out):
    (out / "Liver" / "model").mkdir(parents=True)
    (out / "Liver" / "model" / "manifest.json").write_text("{")

    assert read_status(work, out).models == ()


def test_a_run_that_is_removed_while_it_is_looked_at_is_no_error(work, out, monkeypatch):
    folder = make_run(work)
    train_for(folder, 30.0)
    journal = RunFolder.journal

    def read_and_remove(self: RunFolder) -> Journal:
        content = journal(self)
        shutil.rmtree(self.root)
        return content

    monkeypatch.setattr(RunFolder, "journal", read_and_remove)

    (run,) = read_status(work, out).runs

    assert (run.name, run.trainings) == ("Liver", ())
    assert read_status(work, out).runs == ()
