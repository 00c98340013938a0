"""A label map from binary masks, one file a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunet_medseg.volume import GRID_TOLERANCE, Volume, VolumeError, grid_shift, read_volume

__all__ = ["merge_masks"]


def merge_masks(masks: Sequence[tuple[int, Path]], *, memory_bytes: float = float("inf")) -> Volume:
    """Return the label map that masks make together: the value of a class where its mask is not 0.

    Args:
        masks: Value and file of each class; at least one.
        memory_bytes: What reading may take.

    Returns:
        The label map on the grid of the first mask.

    Raises:
        VolumeError: When a mask cannot be read, holds more than one value beside 0, lies on another
            grid, or overlaps with another: a voxel has one class.
    """
    merged: Volume | None = None
    taken: np.ndarray[tuple[int, ...], np.dtype[np.uint16]] | None = None
    for value, path in masks:
        mask = read_volume(path, memory_bytes=memory_bytes, is_label=True)
        is_inside = mask.array != 0
        if np.unique(mask.array[is_inside]).size > 1:
            problem = f"{path.name} holds several values, where a mask holds 0 and one other"
            raise VolumeError("mask", problem, "Save one binary mask a class.")
        if merged is None or taken is None:
            taken = np.zeros(mask.array.shape, dtype=np.uint16)
            merged = mask.with_array(taken)
        elif grid_shift(merged, mask) > GRID_TOLERANCE:
            problem = f"{path.name} does not lie on the grid of {masks[0][1].name}"
            raise VolumeError("mask", problem, "Export all masks of a patient on one grid.")
        if taken[is_inside].any():
            problem = (
                f"{path.name} overlaps with another mask in {np.count_nonzero(taken[is_inside])} "
                "voxels"
            )
            raise VolumeError("overlapping masks", problem, "Let each voxel have one class.")
        taken[is_inside] = value
    if merged is None:
        raise VolumeError("no mask", "there is no mask", "Add one a class.")
    return merged
