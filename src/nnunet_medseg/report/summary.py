"""The plain report: `summary.txt`, `metrics.csv` and `case_key.csv`, for the house only."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_medseg.bundle.manifest import Manifest, TrainingFacts
from nnunet_medseg.console import counted, duration
from nnunet_medseg.dataset.splits import Split
from nnunet_medseg.evaluation.scores import CaseScore
from nnunet_medseg.files import write_text
from nnunet_medseg.report.counts import patients_in_words

__all__ = [
    "early_end",
    "quality_line",
    "write_case_key",
    "write_metrics",
    "write_split",
    "write_summary",
]

# Columns of metrics.csv: what is measured of a label in a case, under the names of `LabelScore`.
METRICS = (
    "dice",
    "hd95_mm",
    "nsd",
    "tolerance_mm",
    "mean_distance_mm",
    "truth_ml",
    "predicted_ml",
    "volume_error_ml",
    "components",
    "found",
    "false",
)

HOUSE_ONLY = (
    "For the house only: this file counts or names patients. To be given away: the folder model."
)


def quality_line(manifest: Manifest) -> str:
    """Return in one sentence how good the model is, or why nobody knows."""
    sentences = (early_end(manifest.training), _measured(manifest))
    return " ".join(filter(None, sentences))


def early_end(training: TrainingFacts) -> str:
    """Return in a sentence or two what is missing from the training; empty for nothing."""
    sentences = []
    if training.ended_early:
        sentences.append(
            f"Interrupted by {training.ended_early} after {duration(training.used_s)} of "
            f"{duration(training.asked_s)} asked for: the model so far, trained no further."
        )
    if training.other_ended_early:
        sentences.append(
            f"A training to compare with was interrupted by {training.other_ended_early}."
        )
    if training.others_failed:
        sentences.append(f"{counted(training.others_failed, 'training')} to compare with failed.")
    if training.diverged_folds:
        sentences.append(
            f"Without {counted(training.diverged_folds, 'fold')} that diverged: the model is the "
            "ensemble of the others, and the patients held out there were not measured."
        )
    return " ".join(sentences)


def _measured(manifest: Manifest) -> str:
    evaluation = manifest.evaluation
    if evaluation.cases == 0:
        if evaluation.of_cases:
            return (
                f"None of {evaluation.of_cases} held-out cases was measured for lack of time, so "
                "nobody knows how good the model is."
            )
        return (
            "Nothing was held out, so nobody knows how good the model is. For a measured Dice "
            "train with -f 0, or call some label maps validate."
        )
    cases = f"{evaluation.cases} of {evaluation.of_cases} held-out cases"
    if evaluation.of_patients != evaluation.of_cases:
        of_all = patients_in_words(evaluation.of_cases, evaluation.of_patients, "held-out patient")
        cases = f"{evaluation.cases} of {of_all}"
    if evaluation.mean_dice is None:
        return (
            f"No Dice: on {cases}, neither the label maps nor the model's segmentations show any "
            "of the labels, so nobody knows how good the model is."
        )
    by_label = ", ".join(
        f"{label.name} {'none' if dice is None else f'{dice:.3f}'}"
        for label in manifest.labels
        for dice in [evaluation.dice.get(label.name)]
    )
    line = f"Mean Dice {evaluation.mean_dice:.3f} on {cases}, whole images ({by_label})."
    if manifest.split.fold == "cv":
        line += " Each by the fold that had not seen it; the ensemble itself is not measured."
    return line


def write_summary(
    path: Path, manifest: Manifest, stage_seconds: Mapping[str, float], findings: Sequence[str]
) -> None:
    """Write the summary that people read.

    Args:
        path: Where to.
        manifest: Every figure of the model.
        stage_seconds: What each stage took.
        findings: Warnings of the check, one line each.
    """
    training, split = manifest.training, manifest.split
    trained = patients_in_words(split.train_cases, split.train_patients)
    held_out = patients_in_words(split.held_out_cases, split.held_out_patients)
    lines = [
        f"{manifest.name}: {', '.join(label.name for label in manifest.labels)}",
        HOUSE_ONLY,
        "",
        quality_line(manifest),
        "",
        f"Training    {duration(training.used_s)} of {duration(training.asked_s)} asked for, "
        f"{training.iterations} iterations in {training.epochs} epochs",
        *_deadline_lines(manifest),
        f"            on {training.device} in {training.precision}, seed {training.seed}, "
        f"configuration {manifest.configuration}",
        *_plan_lines(manifest),
        *_start_lines(manifest),
        f"Patients    {trained} trained, {held_out} held out (fold {split.fold})",
        f"Images      {', '.join(manifest.channels)}",
        "Labels      " + ", ".join(f"{label.name} = {label.value}" for label in manifest.labels),
        "",
        *_measure_lines(manifest),
        *_comparison_lines(manifest),
        "Time of each stage",
        *(f"  {name:<20}{duration(seconds):>12}" for name, seconds in stage_seconds.items()),
        "",
        "Findings of the check",
        *(f"  {finding}" for finding in findings or ["none"]),
        "",
        "With stock nnU-Net",
        f"  {manifest.stock_command}",
        f"  {manifest.stock_note}",
        "",
        f"Made with {manifest.program}; "
        + ", ".join(f"{name} {number}" for name, number in manifest.versions.items()),
        manifest.intended_use,
    ]
    write_text(path, "\n".join(lines) + "\n")


def _deadline_lines(manifest: Manifest) -> list[str]:
    planned_s = manifest.training.planned_s
    if early_end(manifest.training) or planned_s is None or planned_s >= manifest.training.asked_s:
        return []
    return [f"            the deadline left {duration(planned_s)}"]


def _plan_lines(manifest: Manifest) -> list[str]:
    if manifest.plan is None:
        return []
    recipe = manifest.training.recipe
    mirroring = "with" if recipe.get("mirroring") else "without"
    lines = [
        f"Plan        {manifest.plan.size}, {mirroring} mirroring",
        f"            {manifest.plan.reason}",
    ]
    if recipe.get("growth"):
        lines.append(
            f"            smaller patches for the first {recipe['growth']:.0%} of the time"
        )
    return lines


def _start_lines(manifest: Manifest) -> list[str]:
    if manifest.pretrained is None:
        return []
    first, *rest = manifest.pretrained.lines
    return [f"Start       {first}", *(f"            {line}" for line in rest)]


def _measure_lines(manifest: Manifest) -> list[str]:
    measures = manifest.evaluation.measures
    if not measures:
        return []
    lines = ["Measured on the held-out cases, by label"]
    for name, facts in measures.items():
        dice = manifest.evaluation.dice.get(name)
        interval = f" (95 % interval {_figure(facts.dice_low)} to {_figure(facts.dice_high)})"
        lines += [
            f"  {name}: Dice {_figure(dice)}{interval if facts.patients > 1 else ''}, "
            f"HD95 {_figure(facts.hd95_mm, 1)} mm, NSD {_figure(facts.nsd)}, "
            f"volume off by {_figure(facts.volume_error_ml, 2)} ml",
            f"    in {facts.cases} cases; missed in {facts.missed}, invented in {facts.invented}",
        ]
    return [*lines, "  HD95 is a median; what each figure means: docs/reference/evaluation.md", ""]


def _figure(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _comparison_lines(manifest: Manifest) -> list[str]:
    if not manifest.compared:
        return []
    rows = [
        f"  {'-' if item.mean_dice is None else f'{item.mean_dice:.3f}'}  {item.name}"
        for item in manifest.compared
    ]
    return ["Compared, mean Dice on the same held-out cases", *rows, f"  {manifest.verdict}", ""]


def write_metrics(path: Path, labels: Sequence[str], scores: Sequence[CaseScore]) -> None:
    """Write one row a case and label.

    Nothing stands where there is nothing to measure, because neither map has the label; a distance
    is "inf" where one of them has.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["case", "label", *METRICS])
    for score in scores:
        for label in labels:
            measured = score.labels[label]
            values = {name: getattr(measured, name) for name in METRICS}
            writer.writerow([score.case, label, *map(_shown, values.values())])
    write_text(path, table.getvalue())


def _shown(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "" if math.isnan(value) else f"{value:.6g}"


def write_split(path: Path, folds: Mapping[str, Split]) -> None:
    """Write which case trained and which was held out, a row for each fold and case."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["fold", "case", "part"])
    for fold, split in folds.items():
        parts = dict.fromkeys(split.train, "train") | dict.fromkeys(split.evaluate, "held out")
        writer.writerows([fold, case, part] for case, part in sorted(parts.items()))
    write_text(path, table.getvalue())


def write_case_key(path: Path, sources: Mapping[str, str]) -> None:
    """Write which case is which folder of the user; readable by the owner only."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["case", "folder"])
    writer.writerows(sorted(sources.items()))
    write_text(path, table.getvalue(), mode=0o600)
