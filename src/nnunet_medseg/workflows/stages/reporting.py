"""Report: scores of all trainings, which one is handed over, and what people read about it."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from nnunet_medseg import console
from nnunet_medseg.bundle.manifest import (
    ComparedFacts,
    CurveFacts,
    DataFacts,
    EvaluationFacts,
    LabelFacts,
    PretrainedFacts,
    TrainedOnFacts,
)
from nnunet_medseg.dataset.checked import Checked, load_checked
from nnunet_medseg.errors import TrainingError
from nnunet_medseg.evaluation.overlap import mean_dice
from nnunet_medseg.evaluation.scores import CaseScore
from nnunet_medseg.evaluation.statistics import Interval, bootstrap_mean_of_labels
from nnunet_medseg.evaluation.summaries import summarise
from nnunet_medseg.files import read_json, write_json
from nnunet_medseg.nnunet.history import read_history, write_histories
from nnunet_medseg.report.comparison import (
    Comparison,
    Entry,
    compare_entries,
    table_rows,
    write_comparison,
)
from nnunet_medseg.report.summary import write_case_key, write_metrics, write_split
from nnunet_medseg.run_folder import HISTORIES_NAME
from nnunet_medseg.workflows.likeness import describe_cases
from nnunet_medseg.workflows.options import variants_of
from nnunet_medseg.workflows.stage import Run, Training
from nnunet_medseg.workflows.stages.common import handed_over, split_of, trainings_of
from nnunet_medseg.workflows.stages.evaluation import read_scores

__all__ = ["report"]

FLATTERED = (
    "The best was chosen on the same cases that measure it, so that its Dice is somewhat flattered."
)
MAX_CURVE_POINTS = 200  # more than a picture of the width of a page can show
GIVEN, TUNED, SCRATCH = "the given model", "fine-tuned", "from scratch"


def report(run: Run) -> None:
    """Compare the trainings, and write the figures of what is handed over.

    Of variants the best is handed over, of folds all, and of a training that is compared with one
    from scratch the training itself.
    """
    checked = load_checked(run.folder.check_file)
    for path in run.folder.report.iterdir():
        # Of an earlier command, which had ended the trainings early.
        path.unlink()
    comparison = _compare(run)
    if run.options.vary:
        write_json(run.folder.chosen_file, {"training": _choose(run, comparison)})
    scores = [
        score
        for training in handed_over(run)
        for score in read_scores(training.folder.evaluation_file)
    ]
    labels = [label.name for label in checked.labels]
    write_metrics(run.folder.report / "metrics.csv", labels, scores)
    write_split(run.folder.report / "split.csv", checked.folds)
    write_histories(
        run.folder.report / HISTORIES_NAME,
        {each.name: read_history(each.folder.history_file) for each in trainings_of(run)},
    )
    if run.options.key:
        sources = {case.name: case.source for case in checked.cases}
        write_case_key(run.folder.report / "case_key.csv", sources)
    facts = _evaluation_facts(checked, scores, run.options.seed)
    content: dict[str, Any] = {
        "evaluation": facts.model_dump(mode="json"),
        "curves": [_curve(training).model_dump(mode="json") for training in handed_over(run)],
        "trained_on": _trained_on(run).model_dump(mode="json"),
        "data": _data_facts(run, checked).model_dump(mode="json"),
    }
    if comparison is not None:
        content["compared"] = [item.model_dump(mode="json") for item in _compared(comparison)]
        content["verdict"] = _verdict(run, comparison)
    if run.options.pretrained is not None:
        content["pretrained"] = _pretrained_facts(run).model_dump(mode="json")
    write_json(run.folder.quality_file, content)


def _evaluation_facts(checked: Checked, scores: Sequence[CaseScore], seed: int) -> EvaluationFacts:
    names = [label.name for label in checked.labels]
    by_label = {name: mean_dice([score.dice[name] for score in scores]) for name in names}
    mean = _mean_of_labels(checked, scores, seed)
    held_out = set(checked.evaluated)
    return EvaluationFacts(
        mean_dice=_or_none(mean.mean),
        low=_or_none(mean.low),
        high=_or_none(mean.high),
        dice={name: None if math.isnan(dice) else dice for name, dice in by_label.items()},
        cases=len(scores),
        of_cases=len(held_out),
        patients=checked.count_patients(score.case for score in scores),
        of_patients=checked.count_patients(held_out),
        measures={name: _label_facts(checked, scores, name, seed) for name in names}
        if scores
        else {},
    )


def _mean_of_labels(checked: Checked, scores: Sequence[CaseScore], seed: int) -> Interval:
    owners = checked.owners
    rows = [list(score.dice.values()) for score in scores]
    whose = [owners[score.case] for score in scores]
    return bootstrap_mean_of_labels(rows, owners=whose, seed=seed)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _curve(training: Training) -> CurveFacts:
    from nnunet_medseg.nnunet.history import read_history

    epochs = read_history(training.folder.history_file)
    # The last one is always among them.
    step = math.ceil(len(epochs) / MAX_CURVE_POINTS)
    chosen = epochs[::-1][::step][::-1] if step else []
    return CurveFacts(
        training=training.title,
        minutes=[epoch.used_s / 60 for epoch in chosen],
        loss=[epoch.loss for epoch in chosen],
        learning_rate=[epoch.learning_rate for epoch in chosen],
        patch_dice=[epoch.patch_dice for epoch in chosen],
    )


def _trained_on(run: Run) -> TrainedOnFacts:
    """Return how often cases were seen, and what the model makes of a few of them."""
    checked = load_checked(run.folder.check_file)
    seen: Counter[str] = Counter()
    scores = []
    for training in handed_over(run):
        counts = read_json(training.folder.training_file)["seen"]
        seen.update(dict(zip(split_of(run, training).train, counts, strict=True)))
        scores += read_scores(training.folder.trained_on_file)
    interval = _mean_of_labels(checked, scores, run.options.seed)
    return TrainedOnFacts(
        fewest=min(seen.values()),
        mean=statistics.fmean(seen.values()),
        most=max(seen.values()),
        cases=len(scores),
        patients=checked.count_patients(score.case for score in scores),
        mean_dice=_or_none(interval.mean),
        low=_or_none(interval.low),
        high=_or_none(interval.high),
    )


def _data_facts(run: Run, checked: Checked) -> DataFacts:
    """Return what the cases were like that what is handed over was trained on."""
    from nnunet_medseg.nnunet.planning import configuration_of

    trainings = handed_over(run)
    trained = {name for training in trainings for name in split_of(run, training).train}
    facts = [fact for fact in checked.facts if fact.name in trained]
    plans, _ = configuration_of(trainings[0].folder.root)
    # A given model's plans hold what its own cases were like.
    is_own = run.options.pretrained is None
    measured = plans.get("foreground_intensity_properties_per_channel", {}) if is_own else {}
    return describe_cases(facts, measured)


def _label_facts(checked: Checked, scores: Sequence[CaseScore], name: str, seed: int) -> LabelFacts:
    plain = asdict(summarise(scores, name, owners=checked.owners, seed=seed))
    interval = plain.pop("dice")
    plain |= {"dice_low": interval["low"], "dice_high": interval["high"]}
    plain["patients"] = checked.count_patients(
        score.case for score in scores if not math.isnan(score.dice[name])
    )
    return LabelFacts.model_validate(
        {name: value if math.isfinite(value) else None for name, value in plain.items()}
    )


# --- several trainings side by side ------------------------------------------------------------


def _compare(run: Run) -> Comparison | None:
    """Compare what was measured on the same cases, show it, and write it down."""
    entries = _entries(run)
    if not entries or (len(entries) < 2 and not run.options.vary):
        return None
    cases = set.intersection(*(set(entry.scores) for entry in entries))
    entries = [
        replace(entry, scores={case: entry.scores[case] for case in entry.scores if case in cases})
        for entry in entries
    ]
    if not cases:
        return None
    owners = load_checked(run.folder.check_file).owners
    comparison = compare_entries(entries, owners=owners, seed=run.options.seed)
    title = f"On the same {len(cases)} held-out cases, with intervals of 95 %"
    console.table(title, *table_rows(comparison))
    console.detail(_verdict(run, comparison))
    write_comparison(run.folder.report / "comparison.csv", comparison, entries)
    return comparison


def _choose(run: Run, comparison: Comparison | None) -> str:
    """Return the name of the best variant's training."""
    names = _variant_names(run)
    if comparison is None:
        failed = [each for each in trainings_of(run) if each.folder.failed_file.exists()]
        without = {each.name for each in failed}
        trained = [each.name for each in trainings_of(run) if each.name not in without]
        if trained:
            console.warn("no variant was measured for lack of time: the first one is handed over")
            return trained[0]
        first = read_json(failed[0].folder.failed_file)["problem"]
        for training in failed:
            # The same command tries again.
            run.folder.forget(f"train {training.title}", f"evaluate {training.title}")
            training.folder.failed_file.unlink()
        problem = f"No variant could be trained and measured. The first: {first}"
        raise TrainingError(problem, fix="Start again with --fresh, more minutes or other values.")
    return next(name for name, shown in names.items() if shown == comparison.best)


def _verdict(run: Run, comparison: Comparison) -> str:
    """Return the verdict of the comparison, and what it does not say by itself."""
    if run.options.vary:
        failed = [
            shown
            for name, shown in _variant_names(run).items()
            if run.folder.training(name).failed_file.exists()
        ]
        text = f" Failed or left out: {', '.join(failed)}." if failed else ""
        return f"{comparison.verdict} {FLATTERED}{text}"
    dice = {item.name: item.mean.mean for item in comparison.standings}
    shared = ", ".join(comparison.standings[0].dice)
    steps = [
        f"{_direction(dice[other], dice[TUNED])} {dice[other]:.3f} {of}"
        for other, of in ((GIVEN, "of the given model"), (SCRATCH, "from scratch"))
        if other in dice
    ]
    text = f"Mean Dice of {shared} after fine-tuning {dice[TUNED]:.3f}: {', '.join(steps)}."
    if any(training.folder.failed_file.exists() for training in trainings_of(run)):
        text += " The training from scratch failed or was left out."
    worse = [other for other in (GIVEN, SCRATCH) if dice.get(other, 0.0) > dice[TUNED]]
    if worse:
        text += f" Fine-tuning did not help here: {' and '.join(worse)} had a higher Dice."
    return f"{text} {comparison.verdict}"


def _direction(before: float, after: float) -> str:
    if round(before, 3) == round(after, 3):
        return "the same as"
    return "up from" if after > before else "down from"


def _entries(run: Run) -> list[Entry]:
    if run.options.vary:
        names = _variant_names(run)
        entries = [
            _entry(names[training.name], training)
            for training in trainings_of(run)
            if not training.folder.failed_file.exists()
        ]
        # One that was not measured for lack of time cannot be compared.
        return [entry for entry in entries if entry.scores]
    if run.options.pretrained is None:
        return []
    tuned, *scratch = trainings_of(run)
    entries = [_entry(TUNED, tuned)]
    entries += [_entry(SCRATCH, one) for one in scratch if one.folder.training_file.exists()]
    given = read_scores(run.folder.given_evaluation_file)
    if given:
        # Only what the given model can say.
        known = set(given[0].dice)
        entries = [_restricted(entry, known) for entry in entries]
        entries.append(Entry(GIVEN, {score.case: score.dice for score in given}))
    if not entries[0].scores:
        # Without the model that is handed over there is nothing to compare with.
        return []
    return [entry for entry in entries if entry.scores]


def _entry(name: str, training: Training) -> Entry:
    record = read_json(training.folder.training_file)
    scores = read_scores(training.folder.evaluation_file)
    return Entry(
        name,
        {score.case: score.dice for score in scores},
        record["used_s"],
        record["memory_bytes"],
    )


def _restricted(entry: Entry, labels: set[str]) -> Entry:
    scores = {
        case: {label: value for label, value in dice.items() if label in labels}
        for case, dice in entry.scores.items()
    }
    return replace(entry, scores=scores)


def _variant_names(run: Run) -> dict[str, str]:
    """Return what people call each variant, by the name of its training."""
    shown = [
        " ".join(f"{name}={value}" for name, value in changes.items())
        for changes in variants_of(run.options)
    ]
    return dict(zip((training.name for training in trainings_of(run)), shown, strict=True))


def _compared(comparison: Comparison) -> list[ComparedFacts]:
    return [
        ComparedFacts(
            name=standing.name,
            mean_dice=None if math.isnan(standing.mean.mean) else standing.mean.mean,
            low=None if math.isnan(standing.mean.low) else standing.mean.low,
            high=None if math.isnan(standing.mean.high) else standing.mean.high,
            p_value=standing.below_best.p_value if standing.below_best else None,
            used_s=standing.seconds,
            memory_bytes=standing.memory_bytes,
        )
        for standing in comparison.standings
    ]


def _pretrained_facts(run: Run) -> PretrainedFacts:
    start = read_json(trainings_of(run)[0].folder.plan_file)["start"]
    return PretrainedFacts.model_validate(start)
