"""What the scores of many cases say together, label by label."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nnunet_medseg.evaluation.scores import CaseScore, LabelScore
from nnunet_medseg.evaluation.statistics import Interval, bootstrap_mean

__all__ = ["LabelSummary", "mean_dice_of", "summarise"]


@dataclass(frozen=True)
class LabelSummary:
    """A label over all cases.

    Attributes:
        cases: Number of cases in which one of the maps has the label; all below is over these.
        missed: Cases in which only the label map has it.
        invented: Cases in which only the segmentation has it.
        dice: Mean in [0, 1] with its interval; NaN without cases.
        hd95_mm: Median, since one case without a segmentation makes every mean infinite.
        nsd: Mean in [0, 1].
        mean_distance_mm: Median.
        volume_error_ml: Mean of the size of the error, whichever its sign.
        bias_ml: Mean of segmentation minus label map.
        components: Mean number of components in the label maps.
        sensitivity: Share of all components of the label maps that were found; NaN without any.
        false_per_case: Mean number of components that touch none of the label map's, over all
            cases that were measured, also those without the label.
    """

    cases: int
    missed: int
    invented: int
    dice: Interval
    hd95_mm: float
    nsd: float
    mean_distance_mm: float
    volume_error_ml: float
    bias_ml: float
    components: float
    sensitivity: float
    false_per_case: float


def summarise(
    scores: Sequence[CaseScore],
    label: str,
    *,
    owners: Mapping[str, str] | None = None,
    seed: int = 0,
) -> LabelSummary:
    """Return what all cases say about a label.

    Args:
        scores: One a case.
        label: Its name; a case that was not scored for it is left out.
        owners: Whose each case is, by its name; None where each has another one.
        seed: Of the resamples of the interval.
    """
    scored = [score for score in scores if label in score.labels]
    measured = [score.labels[label] for score in scored]
    whose = None if owners is None else [owners[score.case] for score in scored]
    present = [score for score in measured if not math.isnan(score.dice)]
    components = sum(score.components for score in present)

    def mean(value: Callable[[LabelScore], float]) -> float:
        return statistics.fmean(map(value, present)) if present else math.nan

    def median(value: Callable[[LabelScore], float]) -> float:
        return statistics.median(map(value, present)) if present else math.nan

    return LabelSummary(
        cases=len(present),
        missed=sum(score.predicted_ml == 0 for score in present),
        invented=sum(score.truth_ml == 0 for score in present),
        dice=bootstrap_mean([score.dice for score in measured], owners=whose, seed=seed),
        hd95_mm=median(lambda score: score.hd95_mm),
        nsd=mean(lambda score: score.nsd),
        mean_distance_mm=median(lambda score: score.mean_distance_mm),
        volume_error_ml=mean(lambda score: abs(score.volume_error_ml)),
        bias_ml=mean(lambda score: score.volume_error_ml),
        components=mean(lambda score: score.components),
        sensitivity=sum(score.found for score in present) / components if components else math.nan,
        false_per_case=statistics.fmean(score.false for score in measured)
        if measured
        else math.nan,
    )


def mean_dice_of(score: CaseScore) -> float:
    """Return the mean Dice of a case over its labels; NaN where neither map has any."""
    numbers = [dice for dice in score.dice.values() if not math.isnan(dice)]
    return statistics.fmean(numbers) if numbers else math.nan
