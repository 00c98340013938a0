"""Connected components of a label map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cc3d
import numpy as np

__all__ = ["typical_object_voxels"]


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
