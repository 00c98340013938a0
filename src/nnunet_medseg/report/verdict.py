"""How good a model is, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnunet_medseg.bundle.manifest import Manifest
from nnunet_medseg.evaluation.scores import CaseScore
from nnunet_medseg.evaluation.summaries import mean_dice_of

__all__ = ["verdict"]


def verdict(manifest: Manifest, scores: Sequence[CaseScore]) -> str:
    """Say in a sentence how good a model is, how sure that is, and where it is weakest.

    Args:
        manifest: Every figure of the model.
        scores: Of the held-out cases.
    """
    evaluation = manifest.evaluation
    if not evaluation.of_cases:
        return "Nothing was held out, so nobody knows how good this model is."
    if not evaluation.cases:
        return (
            f"None of the {evaluation.of_cases} held-out patients was measured for lack of time, "
            "so nobody knows how good this model is."
        )
    if evaluation.mean_dice is None:
        return (
            f"On {_patients(manifest)}, neither the label maps nor the segmentations show any of "
            "the labels, so nobody knows how good this model is."
        )
    return (
        f"On {_patients(manifest)} the mean Dice is {evaluation.mean_dice:.2f}"
        f"{_interval(manifest)}{_weakest(manifest, scores)}."
    )


def _patients(manifest: Manifest) -> str:
    count, of_all = manifest.evaluation.cases, manifest.evaluation.of_cases
    if count < of_all:
        return f"{count} of {of_all} held-out patients"
    return "the one held-out patient" if count == 1 else f"{count} held-out patients"


def _interval(manifest: Manifest) -> str:
    evaluation = manifest.evaluation
    if evaluation.cases == 1:
        return ", which one patient alone cannot vouch for"
    if evaluation.low is None or evaluation.high is None:
        return ""
    return f" (95 % interval {evaluation.low:.2f} to {evaluation.high:.2f})"


def _weakest(manifest: Manifest, scores: Sequence[CaseScore]) -> str:
    parts = []
    dice = {name: value for name, value in manifest.evaluation.dice.items() if value is not None}
    if len(dice) > 1:
        name = min(dice, key=lambda label: dice[label])
        parts.append(f"the weakest label is {name} with {dice[name]:.2f}")
    measured = [score for score in scores if not math.isnan(mean_dice_of(score))]
    if len(measured) > 1:
        worst = min(measured, key=mean_dice_of)
        parts.append(f"the weakest patient {worst.case} with {mean_dice_of(worst):.2f}")
    if len(parts) == 1 and len(dice) <= 1:
        parts = [parts[0].replace("the weakest patient", "the weakest patient is")]
    return f"; {', '.join(parts)}" if parts else ""
