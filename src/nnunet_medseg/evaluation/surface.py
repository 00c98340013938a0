"""Distances between the surfaces of two label maps, in mm.

Surfaces are made of pieces at the corners between voxels, each weighed by its area, as in the
package surface-distance (Nikolov 2021, doi:10.2196/26151). It has had one release, which calls what
SciPy 2 will not have any more; its table of areas is used, and the tests hold the results against
its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["SurfaceScore", "surface_by_label", "tolerance_for"]

TOLERANCE_MM = 2.0
ROBUST_PERCENT = 95.0
ALL_AROUND = 255  # all eight voxels around a corner are marked: no surface


@dataclass(frozen=True)
class SurfaceScore:
    """How far two surfaces are apart.

    Where both maps lack the label there is nothing to measure, and all are NaN. Where only one of
    them has it, the distances are infinite and no surface is within the tolerance.

    Attributes:
        hd95_mm: 95th percentile of the distances from each surface to the other, the larger of
            both directions (Huttenlocher 1993, doi:10.1109/34.232073), from 0.
        nsd: Normalised surface distance, or surface Dice: share of both surfaces that is within
            the tolerance of the other, in [0, 1] (Nikolov 2021, doi:10.2196/26151).
        mean_mm: Mean distance over both surfaces, from 0 (Heimann 2009,
            doi:10.1109/TMI.2009.2013851).
    """

    hd95_mm: float
    nsd: float
    mean_mm: float


NOTHING = SurfaceScore(math.nan, math.nan, math.nan)
MISSED = SurfaceScore(math.inf, 0.0, math.inf)


def tolerance_for(spacing_mm: Sequence[float]) -> float:
    """Return the distance in mm that counts as none: 2 mm, or the diagonal of a larger voxel.

    Args:
        spacing_mm: Sides of a voxel in mm.

    Examples:
        >>> tolerance_for((1.0, 1.0, 1.0)), tolerance_for((4.0, 0.0, 3.0))
        (2.0, 5.0)
    """
    return max(TOLERANCE_MM, math.hypot(*spacing_mm))


def surface_by_label(
    truth: np.ndarray[Any, Any],
    prediction: np.ndarray[Any, Any],
    labels: Sequence[int],
    spacing_mm: Sequence[float],
    tolerance_mm: float,
) -> dict[int, SurfaceScore]:
    """Return how far the surfaces of each label are apart.

    Args:
        truth: Integer label map, shape `(z, y, x)`.
        prediction: Integer label map of the same shape.
        labels: Label values to measure.
        spacing_mm: `(z, y, x)` in mm.
        tolerance_mm: Distance up to which a surface counts as right.

    Raises:
        ValueError: When the shapes differ.
    """
    if truth.shape != prediction.shape:
        problem = f"shapes differ: {truth.shape} and {prediction.shape}"
        raise ValueError(problem)
    return {
        label: _measure(truth == label, prediction == label, spacing_mm, tolerance_mm)
        for label in labels
    }


def _measure(
    truth: np.ndarray[Any, Any],
    prediction: np.ndarray[Any, Any],
    spacing_mm: Sequence[float],
    tolerance_mm: float,
) -> SurfaceScore:
    if not truth.any() and not prediction.any():
        return NOTHING
    if not truth.any() or not prediction.any():
        return MISSED
    box = _box_around(truth | prediction)
    first, second = (_Surface.of(mask[box], spacing_mm) for mask in (truth, prediction))
    there, back = first.distances_to(second), second.distances_to(first)
    both_mm = np.concatenate([there, back])
    areas = np.concatenate([first.areas, second.areas])
    return SurfaceScore(
        max(_percentile(there, first.areas), _percentile(back, second.areas)),
        float(areas[both_mm <= tolerance_mm].sum() / areas.sum()),
        float(np.average(both_mm, weights=areas)),
    )


def _box_around(mask: np.ndarray[Any, Any]) -> tuple[slice, ...]:
    """Return the smallest box that holds all that is marked."""
    sides = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        places = np.flatnonzero(mask.any(axis=others))
        sides.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(sides)


@dataclass(frozen=True)
class _Surface:
    """The surface of a mask, in pieces at the corners between voxels.

    Attributes:
        pieces: Where there is one, shape of the mask and one more on each axis.
        areas: Of each piece in mm², in the order of the array.
        spacing_mm: `(z, y, x)` in mm.
    """

    pieces: np.ndarray[Any, Any]
    areas: np.ndarray[Any, Any]
    spacing_mm: tuple[float, ...]

    @classmethod
    def of(cls, mask: np.ndarray[Any, Any], spacing_mm: Sequence[float]) -> _Surface:
        # Late: most commands measure nothing.
        from surface_distance import lookup_tables

        # Which of the eight voxels around a corner are marked, as a number from 0 to 255.
        weights = lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
        padded = np.pad(mask.astype(np.uint8), 1)
        codes = np.zeros([side + 1 for side in mask.shape], np.uint8)
        for offset in np.ndindex(2, 2, 2):
            place = tuple(
                slice(start, start + side) for start, side in zip(offset, codes.shape, strict=True)
            )
            codes += padded[place] * np.uint8(weights[offset])
        pieces = (codes > 0) & (codes < ALL_AROUND)
        table = lookup_tables.create_table_neighbour_code_to_surface_area(tuple(spacing_mm))
        return cls(pieces, table[codes[pieces]], tuple(spacing_mm))

    def distances_to(self, other: _Surface) -> np.ndarray[Any, Any]:
        """Return the distance in mm from each piece to the nearest of another surface."""
        from scipy.ndimage import distance_transform_edt

        nearest = distance_transform_edt(~other.pieces, sampling=self.spacing_mm)
        return np.asarray(nearest[self.pieces])


def _percentile(distances_mm: np.ndarray[Any, Any], areas: np.ndarray[Any, Any]) -> float:
    """Return the distance that `ROBUST_PERCENT` of the area do not exceed."""
    order = np.argsort(distances_mm)
    share = np.cumsum(areas[order]) / areas.sum()
    place = min(int(np.searchsorted(share, ROBUST_PERCENT / 100)), len(order) - 1)
    return float(distances_mm[order][place])
