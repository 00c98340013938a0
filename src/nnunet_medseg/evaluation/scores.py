"""Everything that is measured of one case: a segmentation against its label map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_medseg.evaluation.components import count_components
from nnunet_medseg.evaluation.overlap import dice_by_label
from nnunet_medseg.evaluation.surface import surface_by_label, tolerance_for

__all__ = ["CaseScore", "LabelScore", "score_maps"]


@dataclass(frozen=True)
class LabelScore:
    """A label of a case.

    Attributes:
        dice: In [0, 1]; NaN where neither map has the label.
        hd95_mm: As `SurfaceScore`: NaN where neither map has the label, infinite where one has.
        nsd: As `SurfaceScore`, in [0, 1].
        mean_distance_mm: As `SurfaceScore.mean_mm`.
        tolerance_mm: Of the NSD.
        truth_ml: Volume in the label map.
        predicted_ml: Volume in the segmentation.
        components: Number of components in the label map.
        found: Those of them that the segmentation touches.
        false: Components of the segmentation that touch none of the label map.
    """

    dice: float
    hd95_mm: float
    nsd: float
    mean_distance_mm: float
    tolerance_mm: float
    truth_ml: float
    predicted_ml: float
    components: int
    found: int
    false: int

    @property
    def volume_error_ml(self) -> float:
        """Volume of the segmentation minus that of the label map."""
        return self.predicted_ml - self.truth_ml


@dataclass(frozen=True)
class CaseScore:
    """What was measured of a case, by label name."""

    case: str
    labels: dict[str, LabelScore]

    @property
    def dice(self) -> dict[str, float]:
        """Dice by label name; NaN where neither map has the label."""
        return {name: score.dice for name, score in self.labels.items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CaseScore:
        """Return what `dataclasses.asdict` and JSON leave of a score."""
        labels = {name: LabelScore(**score) for name, score in content["labels"].items()}
        return cls(content["case"], labels)


def score_maps(
    truth: np.ndarray[Any, Any],
    prediction: np.ndarray[Any, Any],
    labels: Mapping[str, int],
    spacing_mm: Sequence[float],
    tolerance_mm: float | None = None,
) -> dict[str, LabelScore]:
    """Measure a segmentation against a label map.

    Args:
        truth: Integer label map, shape `(z, y, x)`.
        prediction: Integer label map of the same shape.
        labels: Values by name.
        spacing_mm: `(z, y, x)` in mm.
        tolerance_mm: Of the NSD; None takes `tolerance_for` these voxels.

    Raises:
        ValueError: When the shapes differ.
    """
    tolerance_mm = tolerance_for(spacing_mm) if tolerance_mm is None else tolerance_mm
    values = list(labels.values())
    dice = dice_by_label(truth, prediction, values)
    surfaces = surface_by_label(truth, prediction, values, spacing_mm, tolerance_mm)
    components = count_components(truth, prediction, values)
    voxel_ml = math.prod(spacing_mm) / 1000
    return {
        name: LabelScore(
            dice[value],
            surfaces[value].hd95_mm,
            surfaces[value].nsd,
            surfaces[value].mean_mm,
            tolerance_mm,
            float((truth == value).sum() * voxel_ml),
            float((prediction == value).sum() * voxel_ml),
            components[value].truth,
            components[value].found,
            components[value].false,
        )
        for name, value in labels.items()
    }
