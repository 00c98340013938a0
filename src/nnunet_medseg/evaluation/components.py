"""Connected components of a label map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np

__all__ = ["ComponentCount", "count_components", "largest_component", "typical_object_voxels"]


def typical_object_voxels(label_map: np.ndarray[Any, Any], labels: Sequence[int]) -> dict[int, int]:
    """Return for each label the size of the object that a voxel of it typically lies in.

    It is the median over the label's voxels of the size of their component (26 neighbours), so that
    specks beside an organ do not count, while many small lesions do.

    Args:
        label_map: Integer label map, shape `(z, y, x)`.
        labels: Label values to measure.

    Returns:
        Voxels for each label; labels that are not there are left out.

    Examples:
        >>> label_map = np.zeros((8, 8, 8), np.uint8)
        >>> label_map[:4], label_map[7, 7, 7] = 1, 1
        >>> typical_object_voxels(label_map, [1, 2])
        {1: 256}
    """
    # Neighbours with different labels lie in different components.
    components = cc3d.connected_components(np.asarray(label_map, dtype=np.int32)).ravel()
    voxels = np.bincount(components)
    labels_of = np.zeros(len(voxels), dtype=np.int64)
    labels_of[components] = np.asarray(label_map).ravel()
    found: dict[int, int] = {}
    for label in labels:
        sizes = np.sort(voxels[1:][labels_of[1:] == label])
        if len(sizes):
            middle = np.searchsorted(np.cumsum(sizes), sizes.sum() / 2)
            found[label] = int(sizes[middle])
    return found


def largest_component(mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return where the voxels of the largest component of a mask are (26 neighbours).

    Args:
        mask: Bool, shape `(z, y, x)`, with at least one voxel.

    Returns:
        Indices, shape `(n, 3)`.

    Examples:
        >>> mask = np.zeros((8, 8, 8), bool)
        >>> mask[0, 0, 0] = mask[4, 4, 4] = mask[4, 4, 5] = True
        >>> largest_component(mask).tolist()
        [[4, 4, 4], [4, 4, 5]]
    """
    components = cc3d.connected_components(mask.astype(np.uint8))
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return np.argwhere(components == sizes.argmax())


@dataclass(frozen=True)
class ComponentCount:
    """How many components of a label were found; components touch by a side, edge or corner.

    Attributes:
        truth: Components of the truth.
        found: Those of them that the prediction touches with at least one voxel of the label.
        false: Components of the prediction that touch none of the truth.
    """

    truth: int
    found: int
    false: int


def count_components(
    truth: np.ndarray[Any, Any], prediction: np.ndarray[Any, Any], labels: Sequence[int]
) -> dict[int, ComponentCount]:
    """Return for each label how many components were found, and how many are false.

    Args:
        truth: Integer label map, shape `(z, y, x)`.
        prediction: Integer label map of the same shape.
        labels: Label values to count.

    Examples:
        >>> truth, prediction = np.zeros((2, 8, 8, 8), np.uint8)
        >>> truth[1, 1, 1] = truth[6, 6, 6] = prediction[6, 6, 5:] = prediction[3, 3, 3] = 1
        >>> count_components(truth, prediction, [1])
        {1: ComponentCount(truth=2, found=1, false=1)}
    """
    counts = {}
    for label in labels:
        # Without a border cc3d 4.1 fails on arrays of a few voxels.
        in_truth, in_prediction = np.pad(truth == label, 1), np.pad(prediction == label, 1)
        both = in_truth & in_prediction
        parts = cc3d.connected_components(in_truth)
        found = len(np.unique(parts[both]))
        predicted = cc3d.connected_components(in_prediction)
        touching = len(np.unique(predicted[both]))
        counts[label] = ComponentCount(int(parts.max()), found, int(predicted.max()) - touching)
    return counts
