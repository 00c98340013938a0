"""Evaluate: whole held-out images, segmented and scored, and a few that were trained on."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_medseg import console
from nnunet_medseg.budget.deadline import EVALUATION_RESERVE
from nnunet_medseg.budget.estimate import (
    MIN_EVALUATION_S,
    START_AND_REFERENCE_S,
    evaluation_limit_s,
)
from nnunet_medseg.dataset.checked import load_checked
from nnunet_medseg.dataset.raw_layout import RawCase
from nnunet_medseg.evaluation.scores import CaseScore
from nnunet_medseg.files import read_json
from nnunet_medseg.workflows.scoring import score_segmentation, segment_case
from nnunet_medseg.workflows.stage import Run, Training
from nnunet_medseg.workflows.stages.common import (
    cases_of,
    evaluates_all,
    make_model,
    make_segmenter,
    require_dataset,
    split_of,
    trainings_of,
    write_labels,
)
from nnunet_medseg.workflows.stages.forecast import closing_time_s, reference_case, reference_s
from nnunet_medseg.workflows.stages.pretraining import given_model

__all__ = ["evaluate", "evaluate_given", "evaluated_s", "read_lines", "read_scores"]

TRAINED_ON_CASES = 8  # that are measured too, to see what the model has learnt by heart
TRAINED_ON_SHARE = 0.25  # of the time that the held-out cases took
TRAINED_ON_MIN_S = 5.0  # also where that was less


def evaluate(run: Run, training: Training) -> None:
    """Segment held-out images whole and score them, as many as the time limit allows.

    A few that were trained on follow, in a quarter of that time or a few seconds.
    """
    from nnunet_medseg.nnunet.environment import chatter
    from nnunet_medseg.nnunet.weights import read_checkpoint

    require_dataset(run)
    cases = cases_of(run, split_of(run, training).evaluate)
    training.folder.evaluation_file.touch()
    if not cases or training.folder.failed_file.exists():
        return
    with chatter(run.folder.log_file):
        model = make_model(run, training, read_checkpoint(training.folder.checkpoint_file))
        segmenter = _fast_segmenter(run, model)
    folder = training.folder
    spent_s = _Scoring(run, training, segmenter, folder.evaluation_file).score(cases)
    if run.ending.is_asked():
        return
    trained_on = cases_of(run, split_of(run, training).train)
    order = np.random.default_rng(run.options.seed).permutation(len(trained_on))
    few = [trained_on[place] for place in order[:TRAINED_ON_CASES]]
    trained = _Scoring(run, training, segmenter, folder.trained_on_file)
    trained.score(few, max(TRAINED_ON_SHARE * spent_s, TRAINED_ON_MIN_S))


def evaluate_given(run: Run) -> None:
    """Score the model that the training is to start from, on the same cases, when its labels fit.

    Its plans and its reader are its own; only the labels it shares with the dataset are scored.
    """
    from nnunet_medseg.nnunet.environment import chatter

    require_dataset(run)
    training = trainings_of(run)[0]
    cases = cases_of(run, split_of(run, training).evaluate)
    run.folder.given_evaluation_file.touch()
    given = given_model(run)
    if not cases or given is None:
        console.detail("the given model is not measured: nothing is held out, or it does not fit")
        return
    with chatter(run.folder.log_file):
        segmenter = _fast_segmenter(run, given.model)
    path = run.folder.given_evaluation_file
    scoring = _Scoring(run, training, segmenter, path, given.index_of)
    scoring.score(
        [
            replace(case, images=tuple(case.images[place] for place in given.channels))
            for case in cases
        ]
    )


def _fast_segmenter(run: Run, model: Any) -> Any:
    is_fast = run.device.kind == "cpu" and run.device.has_fast_bf16
    return make_segmenter(model, run, in_bfloat16=is_fast)


class _Scoring:
    """Scores cases in seeded order, and writes each one down at once."""

    def __init__(
        self,
        run: Run,
        training: Training,
        segmenter: Any,
        path: Path,
        index_of: Mapping[int, int] | None = None,
    ) -> None:
        self._run = run
        self._training = training
        self._segmenter = segmenter
        self._path = path
        self._was_asked_to_end = run.ending.is_asked()
        self._index_of = index_of
        self._checked = load_checked(run.folder.check_file)

    def score(self, cases: Sequence[RawCase], limit_s: float | None = None) -> float:
        """Score cases, and return the seconds that it took, an earlier command's included.

        Args:
            cases: In any order.
            limit_s: Seconds that it may take, with no case if none fits; None for what the
                options allow, and then at least one.
        """
        self._path.touch()
        done = {score["case"]: score["seconds"] for score in read_lines(self._path)}
        order = np.random.default_rng(self._run.options.seed).permutation(len(cases))
        title = "Evaluating" if limit_s is None else "Evaluating a few that were trained on"
        with console.progress(title, len(cases), "cases") as bar:
            for case in (cases[place] for place in order if cases[place].name not in done):
                next_s = self._forecast_s(case, done)
                allowed_s = self._limit_s() if limit_s is None else limit_s
                is_optional = bool(done) or limit_s is not None
                if is_optional and sum(done.values()) + next_s > allowed_s:
                    break
                if next_s > self._left_s():
                    # A smaller one may still fit.
                    continue
                started = time.monotonic()
                score = self._score(case)
                done[case.name] = time.monotonic() - started
                _append_line(self._path, asdict(score) | {"seconds": done[case.name]})
                bar.update(len(done))
        if len(done) < len(cases) and limit_s is None:
            console.detail(f"{len(done)} of {len(cases)} cases in the time; --evaluate_all: all")
        return float(sum(done.values()))

    def _forecast_s(self, case: RawCase, done: Mapping[str, float]) -> float:
        """Return about how long a case takes: as the slowest so far, by the number of voxels."""
        voxels = {fact.name: math.prod(fact.shape) for fact in self._checked.facts}
        rates = [seconds / voxels[name] for name, seconds in done.items()]
        if not rates:
            smallest = reference_case(self._run, split_of(self._run, self._training)).name
            rates = [reference_s(self._run, self._training) / voxels[smallest]]
        return max(rates) * voxels[case.name]

    def _limit_s(self) -> float:
        if self._run.ending.is_asked():
            # Asked for in this evaluation, or in the training, and then measured shortly.
            return MIN_EVALUATION_S if self._was_asked_to_end else 0.0
        if evaluates_all(self._run):
            return math.inf
        return evaluation_limit_s(self._training.asked_s)

    def _left_s(self) -> float:
        """Return the seconds until all that follows must begin."""
        if math.isinf(self._run.ending.left_s):
            return math.inf
        left_s = self._run.ending.left_s - closing_time_s(self._run, self._training)
        if self._run.ending.is_asked():
            return left_s
        record_file = self._training.folder.training_file
        if not record_file.exists():
            # The model that a training is to start from: most of the time is for the training.
            return EVALUATION_RESERVE * left_s
        record = read_json(record_file)
        each_s: float = record["planned_s"] + START_AND_REFERENCE_S + record["reference_s"]
        later = [
            training
            for training in trainings_of(self._run)
            if not training.folder.evaluation_file.exists()
        ]
        return left_s - len(later) * each_s * (1.0 + EVALUATION_RESERVE)

    def _score(self, case: RawCase) -> CaseScore:
        labels, log = self._checked.labels, self._run.folder.log_file
        if self._index_of is not None:
            known = set(self._index_of.values())
            labels = tuple(label for label in labels if label.index in known)
        predicted = segment_case(self._segmenter, case, log, self._index_of)
        if self._path == self._training.folder.evaluation_file:
            # The report shows some of them.
            target = self._training.folder.segmentation_file(case.name)
            target.parent.mkdir(exist_ok=True)
            write_labels(target, predicted)
        return score_segmentation(self._segmenter, case, predicted, labels, log)


def read_scores(path: Path) -> list[CaseScore]:
    """Return the scores that were written down; none where nothing was evaluated."""
    if not path.exists():
        return []
    return [CaseScore.from_json(row) for row in read_lines(path)]


def evaluated_s(*paths: Path) -> float:
    """Return the seconds that the scores took that were written down."""
    return float(sum(row["seconds"] for path in paths if path.exists() for row in read_lines(path)))


def _append_line(path: Path, record: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file of lines, and cut off a last line that is not whole."""
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
