"""Segment a case whose truth is known, and score it.

Truth and segmentation are read in the orientation of the model's own reader, so that models of
any reader are scored alike: a Dice does not depend on where the axes point.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_medseg.dataset.labels import LabelMap
from nnunet_medseg.dataset.raw_layout import RawCase
from nnunet_medseg.evaluation.scores import CaseScore, score_maps

__all__ = ["predicted_values", "score_segmentation", "segment_case"]


def segment_case(
    segmenter: Any, case: RawCase, log: Path, index_of: Mapping[int, int] | None = None
) -> np.ndarray[Any, Any]:
    """Return the segmentation of a case in the indices of the dataset.

    Args:
        segmenter: A `Segmenter`.
        case: A converted case.
        log: File that takes what nnU-Net prints.
        index_of: As for `predicted_values`.
    """
    from nnunet_medseg.nnunet.environment import chatter

    with chatter(log):
        return predicted_values(segmenter.segment(case.images), index_of)


def score_segmentation(
    segmenter: Any,
    case: RawCase,
    predicted: np.ndarray[Any, Any],
    labels: LabelMap,
    log: Path,
) -> CaseScore:
    """Compare the segmentation of a case with its label map.

    Args:
        segmenter: What made it.
        case: A converted case; its label map holds the indices of the labels.
        predicted: From `segment_case`.
        labels: The labels to score.
        log: File that takes what nnU-Net prints.
    """
    from nnunet_medseg.nnunet.environment import chatter

    with chatter(log):
        truth, spacing_mm = segmenter.read_truth(case.label)
    values = {label.name: label.index for label in labels}
    return CaseScore(case.name, score_maps(truth, predicted, values, spacing_mm))


def predicted_values(
    predicted: np.ndarray[Any, Any], index_of: Mapping[int, int] | None = None
) -> np.ndarray[Any, Any]:
    """Return a segmentation in the indices of the dataset.

    Args:
        predicted: What a model writes, any shape.
        index_of: From the model's index to the dataset's; an index that is not in it becomes
            background. None when both number the labels alike.

    Examples:
        >>> predicted_values(np.array([0, 1, 2, 3]), {1: 2, 2: 1})
        array([0, 2, 1, 0], dtype=uint16)
    """
    if index_of is None:
        return predicted
    values = np.zeros(predicted.shape, dtype=np.uint16)
    for index, ours in index_of.items():
        values[predicted == index] = ours
    return values
