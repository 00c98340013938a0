"""How good a model is, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnunet_medseg.bundle.manifest import Manifest
from nnunet_medseg.evaluation.scores import CaseScore
from nnunet_medseg.evaluation.summaries import mean_dice_of
from nnunet_medseg.report.counts import patients_in_words

__all__ = ["verdict"]

HELD_OUT = "held-out patient"


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
        held_out = patients_in_words(evaluation.of_cases, evaluation.of_patients, HELD_OUT)
        return (
            f"None of the {held_out} was measured for lack of time, so nobody knows how good this "
            "model is."
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
    evaluation = manifest.evaluation
    held_out = patients_in_words(evaluation.of_cases, evaluation.of_patients, HELD_OUT)
    if evaluation.cases < evaluation.of_cases:
        return f"{evaluation.cases} of {held_out}"
    return "the one held-out patient" if evaluation.of_cases == 1 else held_out


def _interval(manifest: Manifest) -> str:
    evaluation = manifest.evaluation
    if evaluation.patients == 1:
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
        unit = "image" if manifest.split.has_several_images else "patient"
        # With one label alone the sentence has no verb yet.
        verb = "" if parts else " is"
        parts.append(f"the weakest {unit}{verb} {worst.case} with {mean_dice_of(worst):.2f}")
    return f"; {', '.join(parts)}" if parts else ""
