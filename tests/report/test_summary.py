"""The plain report."""

from __future__ import annotations

import csv
import math
import os
import stat

import pytest
from tiny_model import make_facts

from nnunet_medseg.bundle.manifest import (
    EvaluationFacts,
    LabelFacts,
    Manifest,
    PlanFacts,
    SplitFacts,
    stock_command,
)
from nnunet_medseg.dataset.splits import Split
from nnunet_medseg.evaluation.scores import CaseScore, LabelScore
from nnunet_medseg.report.summary import (
    HOUSE_ONLY,
    quality_line,
    write_case_key,
    write_metrics,
    write_split,
    write_summary,
)


def make_manifest(**changes) -> Manifest:
    return Manifest(
        program="nnunet-medseg 0.1.0",
        versions={"torch": "2.13.0"},
        configuration="3d_fullres",
        stock_command=stock_command(["0"], "cpu"),
        stock_note="",
        files={},
        **(make_facts() | changes),
    )


def evaluated(mean: float | None, cases: int, of_cases: int, **dice) -> EvaluationFacts:
    return EvaluationFacts(mean_dice=mean, dice=dice, cases=cases, of_cases=of_cases)


def make_score(case: str, liver: float, lesion: float) -> CaseScore:
    return CaseScore(
        case,
        {
            "liver": LabelScore(liver, 3.5, 0.75, 1.25, 2.0, 1200.0, 1100.25, 2, 1, 3),
            "lesion": LabelScore(lesion, math.inf, 0.0, math.nan, 2.0, 0.0, 0.00004, 0, 0, 1),
        },
    )


def read_rows(path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as table:
        return list(csv.reader(table))


# --- how good it is ----------------------------------------------------------------------------


def test_the_quality_is_told_by_label_in_the_order_of_the_user():
    line = quality_line(make_manifest())

    assert line == (
        "Mean Dice 0.850 on 1 of 2 held-out cases, whole images "
        "(liver 0.950, lesion 0.750, kidney none)."
    )


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"ended_early": "Ctrl-C"}, ["Interrupted by Ctrl-C after "]),
        (
            {"other_ended_early": "the deadline"},
            ["A training to compare with was interrupted by the deadline."],
        ),
        ({"others_failed": 2}, ["2 trainings to compare with failed."]),
        ({"diverged_folds": 1}, ["Without 1 fold that diverged: the model is the ensemble"]),
        (
            {"diverged_folds": 2, "ended_early": "SIGTERM"},
            ["Interrupted by SIGTERM after ", "Without 2 folds that diverged: "],
        ),
    ],
)
def test_what_is_missing_of_a_training_is_told_before_the_quality(facts, words):
    whole = make_manifest()
    early = whole.model_copy(update={"training": whole.training.model_copy(update=facts)})

    line = quality_line(early)

    assert line.startswith(words[0])
    assert all(word in line for word in words)
    assert line.endswith(f". {quality_line(whole)}")


def test_without_held_out_cases_the_line_says_how_to_get_a_measured_dice():
    line = quality_line(make_manifest(evaluation=evaluated(None, 0, 0)))

    assert "Nothing was held out" in line
    assert "-f 0" in line


def test_held_out_cases_without_any_label_are_not_called_none():
    manifest = make_manifest(evaluation=evaluated(None, 2, 2, liver=None))

    line = quality_line(manifest)

    assert "Nothing was held out" not in line
    assert "2 of 2 held-out cases" in line


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({}, "on 3 of 4 held-out cases, whole images"),
        (
            {"patients": 2, "of_patients": 2},
            "on 3 of 4 images of 2 held-out patients, whole images",
        ),
    ],
)
def test_the_quality_says_of_how_many_patients_the_images_are(counts, words):
    evaluation = evaluated(0.9, 3, 4, liver=0.9).model_copy(update=counts)

    assert words in quality_line(make_manifest(evaluation=evaluation))


# --- files -------------------------------------------------------------------------------------


def test_metrics_have_a_row_a_case_and_label(tmp_path):
    path = tmp_path / "metrics.csv"

    write_metrics(path, ["lesion", "liver"], [make_score("case_0001", 0.9, math.nan)])

    assert read_rows(path) == [
        [
            *("case", "label", "dice", "hd95_mm", "nsd", "tolerance_mm", "mean_distance_mm"),
            *("truth_ml", "predicted_ml", "volume_error_ml", "components", "found", "false"),
        ],
        ["case_0001", "lesion", "", "inf", "0", "2", "", "0", "4e-05", "4e-05", "0", "0", "1"],
        [
            *("case_0001", "liver", "0.9", "3.5", "0.75", "2", "1.25"),
            *("1200", "1100.25", "-99.75", "2", "1", "3"),
        ],
    ]


def test_the_split_has_a_row_a_fold_and_case(tmp_path):
    folds = {"0": Split(("case_0002",), ("case_0001",)), "1": Split(("case_0001", "case_0002"), ())}

    write_split(tmp_path / "split.csv", folds)

    assert read_rows(tmp_path / "split.csv") == [
        ["fold", "case", "part"],
        ["0", "case_0001", "held out"],
        ["0", "case_0002", "train"],
        ["1", "case_0001", "train"],
        ["1", "case_0002", "train"],
    ]


def test_metrics_of_no_case_have_a_head_only(tmp_path):
    write_metrics(tmp_path / "metrics.csv", ["liver"], [])

    assert len(read_rows(tmp_path / "metrics.csv")) == 1


def test_the_key_is_for_the_owner_only_and_keeps_any_name(tmp_path):
    path = tmp_path / "case_key.csv"
    sources = {"case_0002": 'Müller, "Anna"', "case_0001": "0815"}

    write_case_key(path, sources)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_rows(path) == [
        ["case", "folder"],
        ["case_0001", "0815"],
        ["case_0002", 'Müller, "Anna"'],
    ]


def test_a_name_that_is_no_text_is_written_as_an_escape(tmp_path):
    odd = os.fsdecode(b"m\xfcller")

    write_case_key(tmp_path / "case_key.csv", {"case_0001": odd})
    write_metrics(tmp_path / "metrics.csv", ["liver"], [make_score(odd, 0.9, 0.5)])
    write_split(tmp_path / "split.csv", {"0": Split((odd,), ())})
    write_summary(tmp_path / "summary.txt", make_manifest(), {}, [odd])

    for path in tmp_path.iterdir():
        assert r"m\udcfcller" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("findings", [[], ["case_0001: the image is constant"]])
def test_the_summary_tells_quality_training_labels_times_and_findings(tmp_path, findings):
    path = tmp_path / "summary.txt"

    write_summary(path, make_manifest(), {"check": 1.0, "train": 601.5}, findings)

    text = path.read_text(encoding="utf-8")
    assert HOUSE_ONLY in text
    assert quality_line(make_manifest()) in text
    assert "10 min 02 s of 10 min 00 s asked for, 1200 iterations in 50 epochs" in text
    assert "3 trained, 2 held out (fold 0)" in text
    assert "liver = 1, lesion = 5, kidney = 3" in text
    assert text.index("check ") < text.index("train ")
    assert (findings or ["none"])[0] in text
    assert stock_command(["0"], "cpu") in text


def test_the_summary_says_how_many_images_are_of_how_many_patients(tmp_path):
    split = SplitFacts(
        fold="0", train_cases=32, held_out_cases=8, train_patients=16, held_out_patients=4
    )

    write_summary(tmp_path / "summary.txt", make_manifest(split=split), {}, [])

    text = (tmp_path / "summary.txt").read_text(encoding="utf-8")
    assert "Patients    32 images of 16 trained, 8 images of 4 held out (fold 0)" in text


@pytest.mark.parametrize("growth", [0.6, 0.0])
def test_the_summary_says_for_how_long_patches_were_smaller_than_the_plans(tmp_path, growth):
    plan = PlanFacts(size="patch 28 x 40 x 40", reason="why", forecast_step_s=1, forecast_steps=600)
    recipe = {"mirroring": False, "growth": growth}
    training = make_facts()["training"].model_copy(update={"recipe": recipe})
    manifest = make_manifest(plan=plan, training=training)

    write_summary(tmp_path / "summary.txt", manifest, {}, [])

    text = (tmp_path / "summary.txt").read_text(encoding="utf-8")
    assert "Plan        patch 28 x 40 x 40, without mirroring\n            why\n" in text
    assert ("smaller patches for the first 60% of the time" in text) == (growth > 0)


def test_a_cross_validation_says_that_the_ensemble_was_not_measured():
    split = SplitFacts(fold="cv", train_cases=5, held_out_cases=5)
    manifest = make_manifest(evaluation=evaluated(0.9, 5, 5, liver=0.9), split=split)

    assert "the ensemble itself is not measured" in quality_line(manifest)


def test_the_summary_tells_what_was_measured_of_each_label(tmp_path):
    liver = LabelFacts(
        **{"cases": 5, "missed": 1, "invented": 0, "dice_low": 0.81, "dice_high": 0.93},
        **{"hd95_mm": 4.25, "nsd": 0.9, "mean_distance_mm": 1.0, "volume_error_ml": 12.5},
        **{"bias_ml": -3.0, "components": 1.0, "sensitivity": 0.8, "false_per_case": 0.2},
    )
    evaluation = evaluated(0.9, 5, 5, liver=0.9)
    evaluation.measures["liver"] = liver.model_copy()
    nowhere = {"cases": 0, "patients": 0, "hd95_mm": None}
    evaluation.measures["lesion"] = liver.model_copy(update=nowhere)

    write_summary(tmp_path / "summary.txt", make_manifest(evaluation=evaluation), {}, [])

    text = (tmp_path / "summary.txt").read_text(encoding="utf-8")
    assert "liver: Dice 0.900 (95 % interval 0.810 to 0.930), HD95 4.2 mm, NSD 0.900" in text
    assert "in 5 cases; missed in 1, invented in 0" in text
    assert "lesion: Dice -, HD95 - mm" in text


def test_several_images_of_one_patient_have_no_interval(tmp_path):
    liver = LabelFacts(
        **{"cases": 2, "patients": 1, "missed": 0, "invented": 0, "dice_low": 0.9},
        **{"dice_high": 0.9, "hd95_mm": 4.25, "nsd": 0.9, "mean_distance_mm": 1.0},
        **{"volume_error_ml": 12.5, "bias_ml": -3.0, "components": 1.0, "sensitivity": 0.8},
        false_per_case=0.2,
    )
    evaluation = evaluated(0.9, 2, 2, liver=0.9).model_copy(update={"measures": {"liver": liver}})

    write_summary(tmp_path / "summary.txt", make_manifest(evaluation=evaluation), {}, [])

    text = (tmp_path / "summary.txt").read_text(encoding="utf-8")
    assert "liver: Dice 0.900, HD95 4.2 mm" in text
