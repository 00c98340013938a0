"""How long what is still to come takes: what a deadline and an early end reckon with."""

from __future__ import annotations

import math

from nnunet_medseg.budget.deadline import segmentation_s, training_that_fits_s, windows
from nnunet_medseg.budget.estimate import START_AND_REFERENCE_S, Workload, closing_s, expected_s
from nnunet_medseg.dataset.checked import load_checked
from nnunet_medseg.dataset.raw_layout import RawCase
from nnunet_medseg.dataset.splits import Split
from nnunet_medseg.errors import BudgetError
from nnunet_medseg.files import read_json
from nnunet_medseg.hardware import core_count
from nnunet_medseg.workflows.stage import Run, Training
from nnunet_medseg.workflows.stages.common import cases_of, split_of, trainings_of

__all__ = [
    "MIN_TRAINING_S",
    "closing_time_s",
    "reference_case",
    "reference_s",
    "training_time_s",
    "workload",
]

MIN_TRAINING_S = 5.0


def workload(run: Run, training: Training) -> Workload:
    """Return the size of the dataset, as far as it tells how long stages take."""
    checked = load_checked(run.folder.check_file)
    held_out = len(split_of(run, training).evaluate)
    return Workload(len(checked.cases), checked.megavoxels, held_out, core_count())


def reference_case(run: Run, split: Split) -> RawCase:
    """Return the smallest case: it is segmented after the training, and again in the proof."""
    facts = {item.name: item for item in load_checked(run.folder.check_file).facts}
    cases = cases_of(run, split.evaluate or split.train)
    return min(cases, key=lambda case: math.prod(facts[case.name].shape))


def reference_s(run: Run, training: Training) -> float:
    """Return how long the reference segmentation takes: as it took, else as can be forecast."""
    from nnunet_medseg.nnunet.planning import configuration_of

    if training.folder.training_file.exists():
        return float(read_json(training.folder.training_file)["reference_s"])
    if not training.folder.plan_file.exists():
        return 0.0
    planned = read_json(training.folder.plan_file)
    plans, name = configuration_of(training.folder.root)
    chosen = plans["configurations"][name]
    case = reference_case(run, split_of(run, training)).name
    facts = {item.name: item for item in load_checked(run.folder.check_file).facts}[case]
    patch_mm = [side * mm for side, mm in zip(chosen["patch_size"], chosen["spacing"], strict=True)]
    flips = 2 ** len(patch_mm) if planned["recipe"]["mirroring"] else 1
    patches = windows(facts.shape, facts.spacing_mm, patch_mm) * flips
    return segmentation_s(patches, chosen["batch_size"], planned["step_s"] or 0.0)


def closing_time_s(run: Run, training: Training) -> float:
    """Return how long it takes from the last evaluation to the end of the command."""
    proof_s = 0.0 if training.folder.failed_file.exists() else reference_s(run, training)
    if run.options.fold == "cv":
        # All folds segment the case, before the proof and in it.
        done = [each for each in trainings_of(run) if each.folder.training_file.exists()]
        count = len(done) if run.ending.is_asked() else len(trainings_of(run))
        proof_s *= 2 * count if count > 1 else 1
    return closing_s(workload(run, training)) + proof_s


def training_time_s(run: Run, training: Training, used_s: float = 0.0) -> float:
    """Return how long a training takes: as long as was asked, or what the deadline leaves.

    Args:
        run: The run.
        training: The training; those after it get as much.
        used_s: Seconds that it has used before an interruption.

    Raises:
        BudgetError: When the deadline leaves nothing.
    """
    if not run.ending.has_deadline or used_s >= training.asked_s:
        return training.asked_s
    work, finished = workload(run, training), run.folder.finished_stages()
    coming = [each for each in trainings_of(run) if not each.folder.evaluation_file.exists()]
    ahead_s = sum(
        expected_s(stage, work, 0.0) or 0.0
        for stage in ("convert", "plan", "preprocess")
        if stage not in finished
    )
    count = max(1, len(coming))
    case_s = reference_s(run, training)
    others_s = ahead_s + closing_time_s(run, training) + count * (START_AND_REFERENCE_S + case_s)
    is_evaluated = bool(split_of(run, training).evaluate)
    fits_s = training_that_fits_s(run.ending.left_s, others_s, count, is_evaluated=is_evaluated)
    if fits_s < MIN_TRAINING_S:
        needed = (MIN_TRAINING_S - fits_s) * count * 1.2 + run.ending.left_s
        problem = (
            f"The deadline leaves {max(0.0, run.ending.left_s):.0f} s, which do not suffice for a "
            f"training beside about {others_s:.0f} s for all else."
        )
        fix = f"Give --deadline {math.ceil(needed / 6) / 10:g} at least from now on, or none."
        raise BudgetError(problem, fix=fix)
    return min(training.asked_s, used_s + fits_s)
