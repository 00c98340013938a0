"""Pictures of the worst, the median and the best held-out case, for the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnunet_medseg import console
from nnunet_medseg.dataset.checked import load_checked
from nnunet_medseg.dataset.labels import Label
from nnunet_medseg.dataset.raw_layout import RawCase
from nnunet_medseg.evaluation.scores import CaseScore
from nnunet_medseg.evaluation.summaries import mean_dice_of
from nnunet_medseg.nnunet.plans import reorients
from nnunet_medseg.report.overlay import COLOURS, Mask, draw_planes, middle_of, window_of
from nnunet_medseg.report.page import Picture
from nnunet_medseg.volume import Volume, read_volume, to_ras
from nnunet_medseg.workflows.stage import Run, Training
from nnunet_medseg.workflows.stages.common import cases_of, handed_over
from nnunet_medseg.workflows.stages.evaluation import read_scores

__all__ = ["draw_pictures"]

MAX_LABELS = len(COLOURS)  # more outlines cannot be told apart


def draw_pictures(run: Run) -> list[Picture]:
    """Draw the worst, the median and the best of the held-out cases, or as many as there are."""
    ranked = _ranked(run)
    pictures = []
    with console.progress("Drawing pictures", len(ranked), "cases") as bar:
        for number, (rank, score, training) in enumerate(ranked, start=1):
            pictures.append(_picture(run, training, rank, score))
            bar.update(number)
    return pictures


def _ranked(run: Run) -> list[tuple[str, CaseScore, Training]]:
    measured = [
        (score, training)
        for training in handed_over(run)
        for score in read_scores(training.folder.evaluation_file)
        if not math.isnan(mean_dice_of(score))
    ]
    measured.sort(key=lambda item: mean_dice_of(item[0]))
    last = len(measured) - 1
    places = {"Worst": 0, "Median": last // 2, "Best": last}
    if last < 2:
        places = {"Worst": 0, "Best": 1} if last == 1 else {"The only one": 0}
    return [(rank, *measured[place]) for rank, place in places.items() if measured]


def _picture(run: Run, training: Training, rank: str, score: CaseScore) -> Picture:
    checked = load_checked(run.folder.check_file)
    case = cases_of(run, [score.case])[0]
    stored = read_volume(case.images[0])
    image = to_ras(stored)
    truth = to_ras(read_volume(case.label, is_label=True)).array
    predicted = _predicted(training, case, stored)
    worst_first = sorted(checked.labels, key=lambda label: _or_last(score.labels[label.name].dice))
    # In the dataset's order, so that a label keeps its colour from picture to picture.
    shown = [label for label in checked.labels if label in worst_first[:MAX_LABELS]]
    masks = _masks(truth, predicted, shown)
    wrong = Mask(truth != predicted, "", "")
    # Without any disagreement through the middle of what is marked.
    at = middle_of([wrong] if wrong.array.any() else masks, image.array.shape)
    window = window_of(checked.channels[0], image.array)
    return Picture(rank, score.case, _text(score), draw_planes(image, masks, at, window))


def _or_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _predicted(training: Training, case: RawCase, image: Volume) -> np.ndarray[Any, Any]:
    """Return a segmentation in RAS, however the reader of the model lays it."""
    from nnunet_medseg.nnunet.planning import configuration_of

    with np.load(training.folder.segmentation_file(case.name)) as content:
        labels: np.ndarray[Any, Any] = content["labels"]
    plans, _ = configuration_of(training.folder.root)
    return labels if reorients(plans) else to_ras(image.with_array(labels)).array


def _masks(
    truth: np.ndarray[Any, Any], predicted: np.ndarray[Any, Any], labels: Sequence[Label]
) -> list[Mask]:
    masks = []
    for label, colour in zip(labels, COLOURS, strict=False):
        masks.append(Mask(truth == label.index, colour, label.name))
        masks.append(Mask(predicted == label.index, colour, "", dashed=True))
    if masks:
        last = masks[-1]
        masks[-1] = Mask(last.array, last.colour, "the model", dashed=True)
    return masks


def _text(score: CaseScore) -> str:
    """Say what there is to see."""
    parts = []
    for name, label in score.labels.items():
        if math.isnan(label.dice):
            continue
        more = "too much" if label.volume_error_ml > 0 else "too little"
        size = f"{abs(label.volume_error_ml):.1f} ml {more} of {label.truth_ml:.1f} ml"
        distance = f", HD95 {label.hd95_mm:.1f} mm" if math.isfinite(label.hd95_mm) else ""
        parts.append(f"{name}: Dice {label.dice:.2f}{distance}, {size}")
    return "; ".join(parts) + "."
