"""Evaluate and report: how good the model is on held-out images."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_medseg import console
from nnunet_medseg.budget.estimate import evaluation_limit_s
from nnunet_medseg.bundle.manifest import (
    EvaluationFacts,
)
from nnunet_medseg.dataset.checked import Checked, load_checked
from nnunet_medseg.dataset.raw_layout import (
    RawCase,
    read_cases,
)
from nnunet_medseg.evaluation.overlap import dice_by_label, mean_dice
from nnunet_medseg.files import write_json
from nnunet_medseg.report.summary import (
    CaseScore,
    write_case_key,
    write_metrics,
)
from nnunet_medseg.workflows.stage import Run
from nnunet_medseg.workflows.stages.common import make_model, make_segmenter, require_dataset


def evaluate(run: Run) -> None:
    """Segment held-out images whole and score them, as many as the time limit allows."""
    from nnunet_medseg.nnunet.environment import chatter
    from nnunet_medseg.nnunet.weights import read_checkpoint

    require_dataset(run)
    checked = load_checked(run.folder.check_file)
    cases = read_cases(run.folder.raw, "evaluate")
    run.folder.evaluation_file.touch()
    if not cases:
        return
    done = {score["case"]: score["seconds"] for score in _read_lines(run.folder.evaluation_file)}
    order = np.random.default_rng(run.options.seed).permutation(len(cases))
    limit_s = math.inf if run.options.evaluate_all else evaluation_limit_s(run.options.minutes * 60)
    with chatter(run.folder.log_file):
        model = make_model(run, read_checkpoint(run.folder.checkpoint_file))
        is_fast = run.device.kind == "cpu" and run.device.has_fast_bf16
        segmenter = make_segmenter(model, run, in_bfloat16=is_fast)
    with console.progress("Evaluating", len(cases), "cases") as bar:
        for case in (cases[place] for place in order if cases[place].name not in done):
            if done and sum(done.values()) + max(done.values()) > limit_s:
                console.detail(
                    f"{len(done)} of {len(cases)} cases in the time; --evaluate_all: all"
                )
                break
            started = time.monotonic()
            score = _score(run, segmenter, case, checked)
            done[case.name] = time.monotonic() - started
            _append_line(run.folder.evaluation_file, asdict(score) | {"seconds": done[case.name]})
            bar.update(len(done))


def _score(run: Run, segmenter: Any, case: RawCase, checked: Checked) -> CaseScore:
    from nnunet_medseg.nnunet.environment import chatter
    from nnunet_medseg.nnunet.inference import read_truth

    with chatter(run.folder.log_file):
        predicted = segmenter.segment(case.images)
    truth = read_truth(case.label)
    spacing = next(item.spacing_mm for item in checked.facts if item.name == case.name)
    voxel_ml = math.prod(spacing) / 1000
    dice = dice_by_label(truth, predicted, [label.index for label in checked.labels])
    return CaseScore(
        case.name,
        {label.name: dice[label.index] for label in checked.labels},
        {label.name: float((truth == label.index).sum() * voxel_ml) for label in checked.labels},
        {
            label.name: float((predicted == label.index).sum() * voxel_ml)
            for label in checked.labels
        },
    )


def _append_line(path: Path, record: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record) + "\n")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            # A killed run leaves at most its last line cut short; that case is scored again.
            break
    if len(records) < len(lines):
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return records


def report(run: Run) -> None:
    """Write summary, metrics and the key of case names; the model's figures go to the manifest."""
    checked = load_checked(run.folder.check_file)
    scores = [
        CaseScore(row["case"], row["dice"], row["truth_ml"], row["predicted_ml"])
        for row in _read_lines(run.folder.evaluation_file)
    ]
    names = [label.name for label in checked.labels]
    write_metrics(run.folder.report / "metrics.csv", names, scores)
    if run.options.key:
        sources = {case.name: case.source for case in checked.cases}
        write_case_key(run.folder.report / "case_key.csv", sources)
    facts = _evaluation_facts(names, scores, len(checked.split.evaluate))
    write_json(run.folder.quality_file, facts.model_dump(mode="json"))


def _evaluation_facts(
    names: Sequence[str], scores: Sequence[CaseScore], of_cases: int
) -> EvaluationFacts:
    by_label = {name: mean_dice([score.dice[name] for score in scores]) for name in names}
    mean = mean_dice(list(by_label.values()))
    return EvaluationFacts(
        mean_dice=None if math.isnan(mean) else mean,
        dice={name: None if math.isnan(dice) else dice for name, dice in by_label.items()},
        cases=len(scores),
        of_cases=of_cases,
    )
