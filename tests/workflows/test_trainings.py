"""The trainings of a run: folds, variants, or one; and what stands for the dataset itself."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from layout_makers import write_bids
from makers import write_patients
from tiny_model import DESCRIPTION
from tiny_training import make_training_plans

from nnunet_medseg.budget.clock import TrainingClock
from nnunet_medseg.budget.recipe import Recipe
from nnunet_medseg.dataset.channels import parse_image_types
from nnunet_medseg.dataset.checked import Checked, Wishes, check_dataset, load_checked, save_checked
from nnunet_medseg.dataset.intake import read_dataset
from nnunet_medseg.dataset.labels import parse_labels
from nnunet_medseg.errors import BudgetError, DivergedError, Stopped, TrainingError
from nnunet_medseg.evaluation.scores import CaseScore, LabelScore
from nnunet_medseg.evaluation.statistics import bootstrap_mean
from nnunet_medseg.files import list_files, read_json, write_json
from nnunet_medseg.hardware import Device
from nnunet_medseg.nnunet import probe
from nnunet_medseg.nnunet.history import Epoch, append_epoch
from nnunet_medseg.nnunet.weights import write_checkpoint
from nnunet_medseg.run_folder import Journal, RunFolder
from nnunet_medseg.workflows.ending import Ending
from nnunet_medseg.workflows.options import Folders, TrainOptions, read_train_options
from nnunet_medseg.workflows.stage import Run, Stage, Training, run_stages
from nnunet_medseg.workflows.stages import training as training_stage
from nnunet_medseg.workflows.stages.common import (
    content_key,
    diverged_folds,
    ended_early,
    evaluates_all,
    handed_over,
    other_ended_early,
    others_failed,
    recipe_of,
    split_of,
    trainings_of,
)
from nnunet_medseg.workflows.stages.delivery import _split_facts
from nnunet_medseg.workflows.stages.evaluation import read_scores
from nnunet_medseg.workflows.stages.forecast import closing_time_s, training_time_s
from nnunet_medseg.workflows.stages.reporting import (
    _choose,
    _compare,
    _evaluation_facts,
    _trained_on,
)
from nnunet_medseg.workflows.stages.training import (
    _announce,
    _begin_smaller,
    _is_worth_it,
    _used_before_s,
    _what_follows,
    train,
    train_variant,
)
from nnunet_medseg.workflows.train import _reopen, stages_of

CPU = Device("cpu", 0, "CPU", has_fast_bf16=False)


def make_run(root: Path, *, cases: int = 6, **options) -> Run:
    """Make a run whose dataset has been listed and checked."""
    asked = read_train_options(**options)
    folders = Folders(root / "in", root / "out", root / "work")
    if not folders.input.exists():
        write_patients(folders.input, cases=cases)
    folder = RunFolder(folders.work / "runs" / f"run_{len(list(root.glob('work/runs/*')))}")
    folder.create(Journal(program_version="0", options={}, dataset_folder=str(folders.input)))
    listed = list_files(folders.input, hashed=True)
    write_json(folder.inventory_file, [item.to_json() for item in listed])
    wishes = Wishes(
        parse_labels(asked.label), parse_image_types(asked.image_type), asked.fold, asked.seed
    )
    outcome = check_dataset(read_dataset(folders.input, None), wishes)
    save_checked(folder.check_file, outcome.checked)
    return Run(folder, folders.input, folders, asked, CPU, store=folder.root)


def change_checked(run: Run, **changes) -> None:
    checked: Checked = load_checked(run.folder.check_file)
    save_checked(run.folder.check_file, replace(checked, **changes))


def names_of(run: Run) -> list[str]:
    return [training.name for training in trainings_of(run)]


def handed_over_by(run: Run) -> list[str]:
    return [training.name for training in handed_over(run)]


# --- one training ------------------------------------------------------------------------------


def test_a_run_is_one_training_with_all_of_the_minutes(tmp_path):
    run = make_run(tmp_path, fold="2", minutes=5)

    (training,) = trainings_of(run)

    assert (training.name, training.title, training.fold) == ("training", "training", "2")
    assert (training.minutes, training.asked_s) == (5, 300)
    assert training.options == run.options
    assert training.folder.root == run.folder.root / "trainings" / "training"
    assert handed_over_by(run) == ["training"]


# --- folds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cases", "folds"), [(2, 2), (4, 4), (6, 5)])
def test_a_cross_validation_is_a_training_a_fold_that_share_the_minutes(tmp_path, cases, folds):
    run = make_run(tmp_path, cases=cases, fold="cv", minutes=10)

    trainings = trainings_of(run)

    assert [training.name for training in trainings] == [f"fold_{fold}" for fold in range(folds)]
    assert [training.fold for training in trainings] == [str(fold) for fold in range(folds)]
    assert {training.minutes for training in trainings} == {10 / folds}
    assert len({training.folder.root for training in trainings}) == folds
    assert handed_over_by(run) == names_of(run)


def test_the_trainings_of_a_cross_validation_evaluate_every_case_once(tmp_path):
    run = make_run(tmp_path, fold="cv")

    evaluated = [
        case for training in trainings_of(run) for case in split_of(run, training).evaluate
    ]

    assert sorted(evaluated) == [f"case_{number:04d}" for number in range(1, 7)]
    assert evaluates_all(run)


@pytest.mark.parametrize(
    ("options", "expected"), [({"fold": "0"}, False), ({"fold": "0", "evaluate_all": True}, True)]
)
def test_one_fold_is_evaluated_whole_only_when_asked(tmp_path, options, expected):
    assert evaluates_all(make_run(tmp_path, **options)) is expected


# --- variants ----------------------------------------------------------------------------------

VARY = "learning_rate=0.05,0.01 seed=1,2"


def test_variants_are_trainings_on_one_split_that_share_the_minutes(tmp_path):
    run = make_run(tmp_path, vary=VARY, fold="1", minutes=8, oversampling="0.5")

    trainings = trainings_of(run)

    assert names_of(run) == [f"variant_{number}" for number in (1, 2, 3, 4)]
    assert trainings[0].title == "variant 1"
    assert {training.fold for training in trainings} == {"1"}
    assert {training.minutes for training in trainings} == {2}
    assert [(training.options.learning_rate, training.options.seed) for training in trainings] == [
        (0.05, 1),
        (0.05, 2),
        (0.01, 1),
        (0.01, 2),
    ]


def test_a_variant_differs_from_what_was_asked_in_what_is_varied_only(tmp_path):
    run = make_run(tmp_path, vary="mirroring=on,off", fold="0", minutes=4, oversampling="0.5")

    for training, mirroring in zip(trainings_of(run), ("on", "off"), strict=True):
        assert training.options == replace(run.options, vary="", mirroring=mirroring)


@pytest.mark.parametrize("chosen", ["variant_1", "variant_3"])
def test_of_variants_the_one_that_the_report_chose_is_handed_over(tmp_path, chosen):
    run = make_run(tmp_path, vary=VARY, fold="0")
    write_json(run.folder.chosen_file, {"training": chosen})

    assert handed_over_by(run) == [chosen]


# --- beside a training from a model ------------------------------------------------------------


def test_a_training_from_a_model_stands_beside_one_from_scratch_with_as_many_minutes(tmp_path):
    run = make_run(
        tmp_path,
        pretrained="model",
        map_labels="a=b",
        against_scratch=True,
        fold="0",
        minutes=3,
        batch_size=4,
    )

    tuned, scratch = trainings_of(run)

    assert (tuned.name, scratch.name) == ("fine-tuning", "scratch")
    assert (tuned.minutes, scratch.minutes) == (3, 3)
    assert tuned.fold == scratch.fold == "0"
    assert tuned.options == run.options
    assert scratch.options == replace(
        run.options, pretrained=None, map_labels="", against_scratch=False
    )
    assert handed_over_by(run) == ["fine-tuning"]


def test_a_training_from_a_model_alone_is_one_training(tmp_path):
    assert names_of(make_run(tmp_path, pretrained="model")) == ["training"]


# --- the story ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["train", "evaluate"]),
        (
            {"fold": "cv"},
            [f"{verb} fold {fold}" for fold in (0, 1) for verb in ("train", "evaluate")],
        ),
        (
            {"vary": "seed=1,2", "fold": "0"},
            [f"{verb} variant {number}" for number in (1, 2) for verb in ("train", "evaluate")],
        ),
        ({"pretrained": "model"}, ["assess", "train", "evaluate"]),
    ],
    ids=["one", "folds", "variants", "from a model"],
)
def test_every_training_is_followed_by_its_evaluation(tmp_path, options, expected):
    run = make_run(tmp_path, cases=2, **options)

    names = [stage.name for stage in stages_of(run)]

    start = names.index("preprocess") + 1
    assert names[start : start + len(expected)] == expected
    assert names[start + len(expected) :] == [
        "report", "bundle", "verify", "deliver", "keep", "clean",
    ]  # fmt: skip
    assert (names[0] == "model") is ("pretrained" in options)
    assert len(names) == len(set(names))


# --- what stands for the dataset ---------------------------------------------------------------


def test_the_same_files_and_labels_have_the_same_key_in_every_run(tmp_path):
    first = make_run(tmp_path / "one", fold="0")
    second = make_run(tmp_path / "two", fold="0")

    assert content_key(first) == content_key(second)


@pytest.mark.parametrize(
    "options",
    [{"fold": "1"}, {"fold": "cv"}, {"fold": "all"}, {"seed": 7}, {"minutes": 1}, {"label": "1"}],
    ids=str,
)
def test_the_key_does_not_change_with_what_is_trained_on(tmp_path, options):
    own = make_run(tmp_path, fold="0")
    other = make_run(tmp_path, **({"fold": "0"} | options))

    assert content_key(own) == content_key(other)


@pytest.mark.parametrize("name", ["img.nii.gz", "train.nii.gz"])
def test_the_key_changes_with_the_content_of_a_file(tmp_path, name):
    run = make_run(tmp_path)
    before = content_key(run)
    listed = read_json(run.folder.inventory_file)
    for item in listed:
        if item["path"] == f"p3/{name}":
            item["sha256"] = "0" * 64
    write_json(run.folder.inventory_file, listed)

    assert content_key(run) != before


def test_the_key_does_not_change_with_the_time_of_a_file(tmp_path):
    run = make_run(tmp_path)
    before = content_key(run)
    listed = read_json(run.folder.inventory_file)
    write_json(run.folder.inventory_file, [item | {"modified_ns": 1} for item in listed])

    assert content_key(run) == before


@pytest.mark.parametrize("change", [{"index": 2}, {"value": 7}])
def test_the_key_changes_with_the_index_or_the_value_of_a_label(tmp_path, change):
    run = make_run(tmp_path)
    before = content_key(run)

    (label,) = load_checked(run.folder.check_file).labels
    change_checked(run, labels=(replace(label, **change),))

    assert content_key(run) != before


def test_the_key_does_not_change_with_the_name_of_a_label(tmp_path):
    run = make_run(tmp_path, label="liver=1")
    other = make_run(tmp_path, label="LIVER=1")

    assert content_key(run) == content_key(other)


def test_the_key_changes_with_the_name_of_a_case_and_the_order_of_images(tmp_path):
    run = make_run(tmp_path)
    before = content_key(run)
    first, second, *rest = load_checked(run.folder.check_file).cases

    change_checked(
        run,
        cases=(replace(first, images=second.images), replace(second, images=first.images), *rest),
    )
    exchanged = content_key(run)
    change_checked(run, cases=(replace(first, name="case_9999"), second, *rest))

    assert len({before, exchanged, content_key(run)}) == 3


def test_options_of_a_run_come_back_from_its_journal():
    options = read_train_options(vary=VARY, fold="0", batch_size="4", spacing="1x1x1")

    assert TrainOptions(**options.to_json()) == options


# --- a memory that does not suffice ------------------------------------------------------------


@pytest.fixture
def crowded(tmp_path, monkeypatch) -> Run:
    """Return a run on a CPU whose memory holds one patch of the tiny plans, not two."""
    monkeypatch.setattr(training_stage, "describe_json", lambda _: DESCRIPTION)
    monkeypatch.setattr(
        probe,
        "fits_memory",
        lambda plans, name, _: plans["configurations"][name]["batch_size"] < 2,
    )
    return make_run(tmp_path, fold="0")


def test_a_training_of_a_plan_that_did_not_fit_begins_smaller_and_says_so(crowded, capsys):
    (training,) = trainings_of(crowded)
    plans = make_training_plans()

    smaller = _begin_smaller(crowded, training, plans, "3d_fullres")

    assert smaller["configurations"]["3d_fullres"]["batch_size"] == 1
    assert plans == make_training_plans()
    assert "beginning with batch 1 and patch 16 x 16 x 16" in capsys.readouterr().out


def test_a_training_that_goes_on_keeps_what_its_checkpoint_says(crowded):
    (training,) = trainings_of(crowded)
    training.folder.root.mkdir()
    training.folder.checkpoint_file.touch()

    assert _begin_smaller(crowded, training, make_training_plans(), "3d_fullres") == (
        make_training_plans()
    )


def test_a_gpu_tells_by_itself_what_does_not_fit(crowded):
    run = replace(crowded, device=replace(CPU, kind="cuda"))
    (training,) = trainings_of(run)

    assert _begin_smaller(run, training, make_training_plans(), "3d_fullres") == (
        make_training_plans()
    )


# --- trainings that were ended early -----------------------------------------------------------


def finish(run: Run, *stages: str) -> None:
    for stage in stages:
        with run.folder.recording(stage):
            pass


def end_early(run: Run, *causes: str | None) -> None:
    """Leave what a command leaves: trained for None, left out for a cause, diverged for ""."""
    for training, cause in zip(trainings_of(run), causes, strict=True):
        training.folder.root.mkdir()
        training.folder.evaluation_file.touch()
        if cause is not None:
            record = {"problem": "cut off", "ended_early": cause}
            write_json(training.folder.failed_file, record)
        else:
            write_json(training.folder.training_file, {"ended_early": "", "reference_s": 1.0})
        finish(run, f"train {training.title}", f"evaluate {training.title}")


DIVERGED = DivergedError("The training diverged 4 times.", fix="Start again.")


def let_training_fail(monkeypatch, failing: dict[str, Exception]) -> None:
    """Let trainings of these names raise, and others leave what a finished training leaves."""

    def train_to_the_end(_: Run, training: Training) -> None:
        training.folder.root.mkdir()
        if training.name in failing:
            raise failing[training.name]
        write_json(training.folder.training_file, {"ended_early": "", "reference_s": 1.0})

    monkeypatch.setattr(training_stage, "_train_to_the_end", train_to_the_end)


@pytest.mark.parametrize("name", ["fold_0", "fold_4"], ids=["first", "last"])
def test_a_fold_that_diverged_is_left_out_and_that_is_said(tmp_path, monkeypatch, capsys, name):
    run = make_run(tmp_path, cases=6, fold="cv")
    let_training_fail(monkeypatch, {name: DIVERGED})

    for training in trainings_of(run):
        train(run, training)

    assert handed_over_by(run) == [f"fold_{fold}" for fold in range(5) if f"fold_{fold}" != name]
    assert (diverged_folds(run), ended_early(run)) == (1, "")
    assert "The training diverged 4 times. It is left out." in capsys.readouterr().out


def test_when_every_fold_diverged_the_last_error_stands(tmp_path, monkeypatch):
    run = make_run(tmp_path, cases=6, fold="cv")
    *first, last = trainings_of(run)
    let_training_fail(monkeypatch, {training.name: DIVERGED for training in (*first, last)})
    for training in first:
        train(run, training)

    with pytest.raises(DivergedError):
        train(run, last)

    assert not last.folder.failed_file.exists()


def test_a_training_without_folds_that_diverged_is_an_error(tmp_path, monkeypatch):
    run = make_run(tmp_path, fold="0")
    let_training_fail(monkeypatch, {"training": DIVERGED})

    with pytest.raises(DivergedError):
        train(run, trainings_of(run)[0])


def let_it_diverge(monkeypatch, iterations: int, good_epochs: int) -> list[SimpleNamespace]:
    """Let trainings diverge after a number of iterations; return those that are recorded."""
    recorded: list[SimpleNamespace] = []
    trainer = SimpleNamespace(
        is_cut_off=False,
        divergence=DIVERGED,
        current_epoch=good_epochs,
        progress=SimpleNamespace(iterations=iterations),
    )

    def diverge(*_) -> int:
        raise DIVERGED

    stand_ins = {
        "_make_trainer": lambda *_: trainer,
        "_train_with_bar": diverge,
        "_record_training": lambda *given: recorded.append(given[2]),
    }
    for name in ("_announce", "_say_speed"):
        stand_ins[name] = lambda *_: None
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(training_stage, name, stand_in)
    return recorded


def test_the_last_good_weights_of_a_training_that_diverged_late_are_the_model(
    tmp_path, monkeypatch, capsys
):
    run = make_run(tmp_path, fold="0")
    recorded = let_it_diverge(monkeypatch, iterations=500, good_epochs=20)

    train(run, trainings_of(run)[0])

    (trainer,) = recorded
    assert training_stage._cause(run, trainer) == "divergence"
    assert "The last good weights are handed over" in capsys.readouterr().out


@pytest.mark.parametrize(("iterations", "good_epochs"), [(10, 2), (500, 0)])
def test_a_training_that_diverged_at_once_has_no_model(
    tmp_path, monkeypatch, iterations, good_epochs
):
    run = make_run(tmp_path, fold="0")
    let_it_diverge(monkeypatch, iterations, good_epochs)

    with pytest.raises(DivergedError):
        train(run, trainings_of(run)[0])


@pytest.mark.parametrize("options", [{"fold": "cv"}, {"fold": "0", "vary": "seed=1,2"}])
def test_what_diverged_beside_others_is_left_out(tmp_path, monkeypatch, options):
    run = make_run(tmp_path, **options)
    recorded = let_it_diverge(monkeypatch, iterations=500, good_epochs=20)
    first = trainings_of(run)[0]
    first.folder.root.mkdir()

    train_variant(run, first)

    assert recorded == []
    assert first.folder.failed_file.exists()


def test_epochs_before_a_divergence_are_told_to_tensorboard(tmp_path, monkeypatch):
    run = make_run(tmp_path, fold="0")
    closed: list[bool] = []
    tracker = SimpleNamespace(close=lambda: closed.append(True))
    monkeypatch.setattr(training_stage, "_tracker", lambda *_: tracker)

    def diverge(*_) -> None:
        raise DIVERGED

    trainer = SimpleNamespace(clock=TrainingClock(60.0), run_training=diverge)

    with pytest.raises(DivergedError):
        training_stage._train_with_bar(run, trainings_of(run)[0], trainer)

    assert closed == [True]


def test_a_training_that_diverged_is_not_begun_again_by_the_same_command(tmp_path):
    run = make_run(tmp_path, fold="0")
    finish(run, "check")
    (training,) = trainings_of(run)
    training.folder.root.mkdir()
    write_json(training.folder.training_file, {"ended_early": "divergence"})
    finish(run, "train")

    _reopen(run)

    assert "train" in run.folder.finished_stages()


@pytest.mark.parametrize("error", [DIVERGED, BudgetError("Too short.", fix="Give more.")], ids=type)
def test_a_training_from_scratch_that_fails_is_left_out(tmp_path, monkeypatch, capsys, error):
    run = make_run(tmp_path, fold="0", pretrained="model", against_scratch=True)
    let_training_fail(monkeypatch, {"scratch": error})

    for stage in stages_of(run):
        if stage.name.startswith("train"):
            stage.work(run)

    assert handed_over_by(run) == ["fine-tuning"]
    assert trainings_of(run)[1].folder.failed_file.exists()
    assert (others_failed(run), other_ended_early(run)) == (1, "")
    assert f"scratch failed, the others go on: {error.problem}" in capsys.readouterr().out


def test_a_model_that_was_trained_to_its_end_does_not_say_it_was_interrupted(tmp_path):
    run = make_run(tmp_path, fold="0", vary="seed=1,2,3")
    end_early(run, None, None, "the deadline")
    write_json(run.folder.chosen_file, {"training": "variant_1"})

    assert (ended_early(run), other_ended_early(run)) == ("", "the deadline")
    assert others_failed(run) == 0


def test_a_fold_that_could_go_on_with_more_memory_is_not_left_out(tmp_path, monkeypatch):
    run = make_run(tmp_path, cases=6, fold="cv")
    let_training_fail(monkeypatch, {"fold_0": TrainingError("Memory.", fix="Run it again.")})

    with pytest.raises(TrainingError, match="Memory"):
        train(run, trainings_of(run)[0])


def test_an_early_end_with_nothing_to_hand_over_stops_the_folds(tmp_path, monkeypatch):
    run = make_run(tmp_path, cases=6, fold="cv")
    first, second, *_ = trainings_of(run)
    let_training_fail(monkeypatch, {"fold_0": DIVERGED})
    train(run, first)
    run.ending.cause = "SIGTERM"

    with pytest.raises(Stopped):
        train(run, second)

    assert not second.folder.failed_file.exists()


def test_a_fold_that_diverged_is_not_trained_again_by_the_same_command(tmp_path):
    run = make_run(tmp_path, cases=6, fold="cv")
    finish(run, "check", "preprocess")
    end_early(run, "", None, None, "Ctrl-C", "Ctrl-C")

    _reopen(run)

    assert "train fold 0" in run.folder.finished_stages()
    assert handed_over_by(run) == [f"fold_{fold}" for fold in range(1, 5)]


def test_a_signal_and_a_fold_that_diverged_are_told_apart(tmp_path):
    run = make_run(tmp_path, cases=6, fold="cv")
    end_early(run, "", None, "SIGTERM", "SIGTERM", "SIGTERM")

    assert (diverged_folds(run), ended_early(run)) == (1, "SIGTERM")


def test_folds_that_were_left_out_are_not_handed_over(tmp_path):
    run = make_run(tmp_path, cases=6, fold="cv")
    end_early(run, None, None, "SIGTERM", "SIGTERM", "SIGTERM")

    assert handed_over_by(run) == ["fold_0", "fold_1"]
    assert ended_early(run) == "SIGTERM"


def test_the_same_command_goes_on_with_the_folds_that_were_left_out_only(tmp_path):
    run = make_run(tmp_path, cases=6, fold="cv")
    finish(run, "check", "preprocess")
    end_early(run, None, None, "Ctrl-C", "Ctrl-C", "Ctrl-C")
    finish(run, "report", "bundle")

    _reopen(run)

    assert list(run.folder.finished_stages()) == [
        "check",
        "preprocess",
        *(f"{verb} fold {fold}" for fold in (0, 1) for verb in ("train", "evaluate")),
    ]
    assert handed_over_by(run) == [f"fold_{fold}" for fold in range(5)]
    assert ended_early(run) == ""


def test_a_model_that_has_its_name_already_is_not_trained_further(tmp_path):
    run = make_run(tmp_path, fold="0")
    finish(run, "check")
    (training,) = trainings_of(run)
    training.folder.root.mkdir()
    write_json(training.folder.training_file, {"ended_early": "Ctrl-C"})
    finish(run, "train", "evaluate", "report", "bundle", "verify")
    # Killed between the renaming and the journal.
    (tmp_path / "out" / "M").mkdir(parents=True)
    record = {"hidden": str(tmp_path / "gone"), "target": str(tmp_path / "out" / "M")}
    write_json(run.folder.delivery_file, record)

    _reopen(run)

    assert "train" in run.folder.finished_stages()
    assert training.folder.training_file.exists()


def test_without_any_measure_the_first_variant_that_was_trained_is_handed_over(tmp_path, capsys):
    run = make_run(tmp_path, fold="0", vary="seed=1,2,3")
    end_early(run, "SIGTERM", None, None)

    assert _choose(run, None) == "variant_2"
    assert "no variant was measured" in capsys.readouterr().out


# --- several images of a patient ---------------------------------------------------------------


def measure(path: Path, dice: dict[str, float]) -> None:
    """Write scores as an evaluation does."""
    scores = [
        CaseScore(case, {"label_1": LabelScore(value, 1.0, 0.9, 0.5, 2.0, 9.0, 9.5, 1, 1, 0)})
        for case, value in dice.items()
    ]
    rows = (json.dumps(asdict(score) | {"seconds": 1.0}) for score in scores)
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def make_run_of_sessions(root: Path, **options) -> Run:
    """Make a run on 10 patients of two sessions each, of whom 2 are held out."""
    write_bids(root / "in", cases=10, sessions=("ses-1", "ses-2"))
    run = make_run(root, fold="0", **options)
    for place, training in enumerate(trainings_of(run)):
        split = split_of(run, training)
        values = [0.9 - place / 50, 0.8 - place / 50, 0.5, 0.4]
        measure(training.folder.evaluation_file, dict(zip(split.evaluate, values, strict=True)))
        measure(training.folder.trained_on_file, dict.fromkeys(split.train[:3], 0.95))
        record = {"seen": [5] * 16, "used_s": 60.0, "memory_bytes": 1e9}
        write_json(training.folder.training_file, record)
    return run


def test_images_and_patients_are_counted_apart_and_nobody_is_named(tmp_path):
    run = make_run_of_sessions(tmp_path)
    checked = load_checked(run.folder.check_file)
    (training,) = trainings_of(run)

    measured = _evaluation_facts(checked, read_scores(training.folder.evaluation_file), 7)
    trained, split = _trained_on(run), _split_facts(run, checked)

    assert (
        (measured.cases, measured.patients) == (measured.of_cases, measured.of_patients) == (4, 2)
    )
    assert measured.measures["label_1"].patients == 2
    assert (trained.cases, trained.patients) == (3, 2)
    assert (split.train_cases, split.train_patients) == (16, 8)
    assert (split.held_out_cases, split.held_out_patients) == (4, 2)
    assert "sub-" not in "".join(each.model_dump_json() for each in (measured, trained, split))


def test_intervals_of_a_model_are_over_patients(tmp_path):
    run = make_run_of_sessions(tmp_path)
    (training,) = trainings_of(run)
    scores = read_scores(training.folder.evaluation_file)

    found = _evaluation_facts(load_checked(run.folder.check_file), scores, 7)

    expected = bootstrap_mean([0.9, 0.8, 0.5, 0.4], owners=["a", "a", "b", "b"], seed=7)
    label = found.measures["label_1"]
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (label.dice_low, label.dice_high) == (expected.low, expected.high)


def test_trainings_of_a_run_are_compared_by_patients(tmp_path):
    run = make_run_of_sessions(tmp_path, vary="seed=1,2")

    comparison = _compare(run)

    assert "With 4 images of 2 patients no difference could be significant" in comparison.verdict


# --- what stages took --------------------------------------------------------------------------


def write_seconds(path: Path, *seconds: float) -> None:
    lines = (json.dumps({"case": f"case_{n}", "seconds": s}) for n, s in enumerate(seconds))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def test_after_a_kill_stages_took_at_least_what_the_clocks_of_training_and_evaluation_say(tmp_path):
    run = make_run(tmp_path, cases=6, fold="cv")
    for training, used_s in zip(trainings_of(run)[:2], (3600.0, 1800.0), strict=True):
        training.folder.root.mkdir()
        write_json(training.folder.training_file, {"used_s": used_s})
    first = trainings_of(run)[0].folder
    write_seconds(first.evaluation_file, 20.0, 30.0)
    write_seconds(first.trained_on_file, 5.0)
    stages = [
        Stage(stage.name, lambda _: None, stage.least_s)
        for stage in stages_of(run)
        if stage.name.startswith(("train", "evaluate"))
    ]

    run_stages(stages, run, lambda *_: None)

    took = run.folder.finished_stages()
    assert (took["train fold 0"], took["evaluate fold 0"]) == (3600, 55)
    assert (took["train fold 1"], took["evaluate fold 1"] < 1) == (1800, True)
    # Left out, so that no record tells.
    assert took["train fold 4"] < 1


# --- a deadline --------------------------------------------------------------------------------


def with_deadline(run: Run, seconds: float) -> Run:
    return replace(run, ending=Ending(seconds, now=lambda: 0.0))


def test_without_a_deadline_a_training_takes_what_was_asked_for(tmp_path):
    run = make_run(tmp_path, minutes="10")

    assert training_time_s(run, trainings_of(run)[0]) == 600


def test_a_far_deadline_changes_nothing_and_a_near_one_shrinks_the_training(tmp_path):
    run = make_run(tmp_path, minutes="10")
    (training,) = trainings_of(run)

    assert training_time_s(with_deadline(run, 6000), training) == 600
    assert 30 < training_time_s(with_deadline(run, 100), training) < 90


def test_finished_stages_leave_more_of_the_deadline(tmp_path):
    run = with_deadline(make_run(tmp_path, minutes="10"), 100)
    (training,) = trainings_of(run)
    before = training_time_s(run, training)

    finish(run, "convert", "plan", "preprocess")

    assert training_time_s(run, training) > before + 5


def test_folds_share_what_a_deadline_leaves(tmp_path):
    run = with_deadline(make_run(tmp_path, cases=6, fold="cv", minutes="100"), 400)
    finish(run, "convert", "plan", "preprocess")
    first, *_, last = trainings_of(run)
    shared = training_time_s(run, first)
    for training in trainings_of(run)[:-1]:
        training.folder.root.mkdir()
        training.folder.evaluation_file.touch()

    assert 5 * shared < 400
    assert training_time_s(run, last) > 4 * shared


def test_a_deadline_that_leaves_nothing_is_refused_with_the_fix(tmp_path):
    run = with_deadline(make_run(tmp_path), 15)

    with pytest.raises(BudgetError, match="leaves 15 s") as refused:
        training_time_s(run, trainings_of(run)[0])

    assert "--deadline" in refused.value.fix


def test_time_used_before_an_interruption_comes_on_top(tmp_path):
    run = with_deadline(make_run(tmp_path, minutes="10"), 100)
    (training,) = trainings_of(run)

    fresh = training_time_s(run, training)

    assert training_time_s(run, training, used_s=60.0) == pytest.approx(fresh + 60)
    assert training_time_s(with_deadline(run, 1.0), training, used_s=600.0) == 600


# --- what is said before a training ------------------------------------------------------------

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def what_follows(run: Run) -> str:
    return _what_follows(run, trainings_of(run)[0], NOON, NOON)


def test_where_nobody_is_held_out_the_end_of_everything_is_said(tmp_path):
    run = make_run(tmp_path, fold="all")
    by = NOON + timedelta(seconds=closing_time_s(run, trainings_of(run)[0]))

    assert what_follows(run) == f", all is done by about {by:%H:%M:%S}"
    assert by > NOON


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"fold": "0", "minutes": 10}, ", evaluation by 12:05:00 at the latest, the rest"),
        ({"fold": "0", "evaluate_all": True}, ", then every held-out case is evaluated"),
        ({"fold": "cv"}, ", then every held-out case is evaluated"),
    ],
)
def test_where_patients_are_held_out_their_evaluation_is_said(tmp_path, options, expected):
    assert what_follows(make_run(tmp_path, **options)).startswith(expected)


def test_with_a_deadline_its_end_is_said(tmp_path):
    run = with_deadline(make_run(tmp_path, fold="all"), 90)

    assert what_follows(run) == ", all else by 12:01:30"


def test_an_interrupted_training_has_used_what_its_checkpoint_says(tmp_path):
    run = make_run(tmp_path)
    (training,) = trainings_of(run)
    training.folder.root.mkdir()
    assert _used_before_s(run, training) == 0.0
    content = {"network_weights": {"weight": torch.zeros(1)}, "used_s": 20.0}
    write_checkpoint(training.folder.checkpoint_file, content)
    # Written after the checkpoint: it is trained again.
    append_epoch(training.folder.history_file, Epoch(2, 20, 50.0, 0.5, 0.1, 0.01, None))

    assert _used_before_s(run, training) == 20.0


def test_the_end_of_an_interrupted_training_is_reckoned_from_what_it_has_used(
    tmp_path, monkeypatch, capsys
):
    run = make_run(tmp_path)
    setup = SimpleNamespace(channels_last=True)
    trainer = SimpleNamespace(clock=TrainingClock(600.0), threads=2, setup=setup)
    clock = SimpleNamespace(now=lambda: NOON)
    monkeypatch.setattr("nnunet_medseg.workflows.stages.training.datetime", clock)

    _announce(run, trainings_of(run)[0], trainer, used_s=540.0)

    end = NOON.astimezone() + timedelta(minutes=1)
    shown = capsys.readouterr().out
    assert "2 threads, channels last\n" in shown
    assert f"training ends at {end:%H:%M:%S}, all is done" in shown


# --- the recipe of a training ------------------------------------------------------------------


def test_a_patch_that_was_asked_for_is_the_one_that_is_trained_on():
    chosen = Recipe(growth=0.6)

    assert recipe_of(read_train_options(), chosen).growth == 0.6
    assert recipe_of(read_train_options(patch_size="32x32x32"), chosen).growth == 0


@pytest.mark.parametrize(("iterations", "epochs"), [(19, 3), (50, 0)])
def test_a_training_cut_off_without_a_good_epoch_is_stopped_and_not_handed_over(
    tmp_path, iterations, epochs
):
    run = make_run(tmp_path)
    trainer = SimpleNamespace(current_epoch=epochs, progress=SimpleNamespace(iterations=iterations))

    with pytest.raises(KeyboardInterrupt):
        _is_worth_it(run, trainings_of(run)[0], trainer)
