"""What the stages beside training will take, for the line "expected", and the limit of evaluation.

The rates were measured on a 2-core CPU machine (bench/RESULTS.md); they tell minutes from hours,
no more, and nothing depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Workload", "closing_s", "evaluation_limit_s", "expected_s"]

MIN_EVALUATION_S = 120.0
EVALUATION_SHARE = 0.5  # of the training time


@dataclass(frozen=True)
class Workload:
    """The size of a dataset.

    Attributes:
        cases: Number of cases that are preprocessed.
        megavoxels: Millions of voxels of these, all channels counted.
        evaluated: Number of cases that are evaluated.
        cores: Number of cores.
    """

    cases: int
    megavoxels: float
    evaluated: int
    cores: int


START_AND_REFERENCE_S = 6.0  # imports before the clock starts, a segmentation after it ends

# Seconds: fixed, a case, a million voxels (one core).
RATES = {
    "convert": (0.2, 0.005, 0.1),
    "plan": (6.0, 0.01, 0.15),
    "preprocess": (1.5, 0.05, 1.0),
    "report": (0.1, 0.0, 0.0),
    "bundle": (0.5, 0.0, 0.0),
    "verify": (9.0, 0.0, 0.0),
    "deliver": (0.1, 0.0, 0.0),
    "keep": (0.2, 0.002, 0.01),
    "clean": (0.2, 0.002, 0.01),
}


def expected_s(stage: str, work: Workload, training_s: float) -> float | None:
    """Return how long a stage will take, in seconds, or None when nobody can tell.

    Args:
        stage: Name of the stage.
        work: The size of the dataset.
        training_s: The training duration.
    """
    if stage == "train":
        return training_s + START_AND_REFERENCE_S
    if stage not in RATES:
        return None
    fixed, a_case, a_megavoxel = RATES[stage]
    return fixed + (a_case * work.cases + a_megavoxel * work.megavoxels) / work.cores


def closing_s(work: Workload) -> float:
    """Return how long everything takes that follows the evaluation, but for segmenting a case."""
    closing = ("report", "bundle", "verify", "deliver", "keep", "clean")
    return sum(expected_s(stage, work, 0.0) or 0.0 for stage in closing)


def evaluation_limit_s(training_s: float) -> float:
    """Return how long the evaluation may take: the larger of 2 minutes and half of the training.

    Examples:
        >>> evaluation_limit_s(60.0), evaluation_limit_s(3600.0)
        (120.0, 1800.0)
    """
    return max(MIN_EVALUATION_S, EVALUATION_SHARE * training_s)
