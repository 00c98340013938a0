"""Grids whose axes are not at right angles, brought onto one whose axes are.

The new axes are the nearest ones at right angles (the polar decomposition of the old), with the
same spacing and the same centre. What is almost at right angles keeps its voxels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nnunet_medseg.volume.grid import Volume
from nnunet_medseg.volume.problems import sheared, too_large

__all__ = ["READING_COPIES", "TILTED", "at_right_angles", "was_sheared"]

# Cosine of the angle between two axes, above which a grid counts as sheared: a third of a
# millimetre over a body, and far above rounding in headers.
SHEAR_TOLERANCE = 1e-3
# Of a direction matrix. A gantry that is tilted by 40 degrees has 0.6; below 0.5 it is more
# likely that the header is damaged.
SMALLEST_SINGULAR_VALUE = 0.5
LENGTH_TOLERANCE = 0.1  # of the columns of a direction matrix, which are 1
# nnU-Net's readers hold float32 copies of image and label; reading alone needs one more.
READING_COPIES = 3
# A corner this far beyond the last voxel, in voxels, is rounding.
ROUNDING = 1e-3
SNAPPED = "rounding in the direction of the axes removed"
RESAMPLED = "sheared axes resampled onto a grid at right angles"
TILTED = "the gantry was tilted; resampled onto a grid at right angles"  # of DICOM


def at_right_angles(
    volume: Volume, *, is_label: bool, memory_bytes: float, is_exact: bool = False
) -> Volume:
    """Return a volume on a grid that SimpleITK and nnU-Net can hold.

    Args:
        volume: Its affine is finite.
        is_label: Whether values are labels, which are taken from the nearest voxel.
        memory_bytes: What resampling may take.
        is_exact: Whether rounding in the directions is removed too.

    Raises:
        VolumeError: When the axes are too far from right angles, or the grid is too large.
    """
    lengths = np.linalg.norm(volume.affine[:3, :3], axis=0)
    if np.abs(lengths / volume.spacing_mm[::-1] - 1).max() > LENGTH_TOLERANCE:
        raise sheared()
    direction = volume.affine[:3, :3] / lengths
    left, stretch, right = np.linalg.svd(direction)
    if stretch.min() < SMALLEST_SINGULAR_VALUE:
        raise sheared()
    unit = volume.affine[:3, :3] / volume.spacing_mm[::-1]
    if np.abs(unit.T @ unit - np.eye(3)).max() <= SHEAR_TOLERANCE:
        return _snapped(volume, (left @ right) * lengths) if is_exact else volume
    return _resampled(volume, (left @ right) * lengths, is_label, memory_bytes)


def was_sheared(volume: Volume) -> bool:
    """Tell whether a volume was resampled since its axes were not at right angles."""
    return not {RESAMPLED, TILTED}.isdisjoint(volume.notes)


def _centred(volume: Volume, axes: np.ndarray[Any, Any], size: np.ndarray[Any, Any]) -> Any:
    """Return the affine of a grid of a size `(x, y, z)` that has the centre of the volume."""
    middle = (np.array(volume.array.shape[::-1]) - 1) / 2
    centre = volume.affine[:3, :3] @ middle + volume.affine[:3, 3]
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = centre - axes @ ((size - 1) / 2)
    return affine


def _on(
    array: np.ndarray[Any, Any], affine: np.ndarray[Any, Any], notes: tuple[str, ...]
) -> Volume:
    x, y, z = (float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    return Volume(array, (z, y, x), affine, notes)


def _snapped(volume: Volume, axes: np.ndarray[Any, Any]) -> Volume:
    affine = _centred(volume, axes, np.array(volume.array.shape[::-1]))
    # Said even where nothing moves: SimpleITK, and so nnU-Net, cannot read the file itself.
    return _on(volume.array, affine, (*volume.notes, SNAPPED))


def _resampled(
    volume: Volume, axes: np.ndarray[Any, Any], is_label: bool, memory_bytes: float
) -> Volume:
    from scipy.ndimage import affine_transform

    last = np.array(volume.array.shape[::-1], dtype=float) - 1
    corners = np.array(np.meshgrid(*[(0.0, size) for size in last])).reshape(3, -1)
    places = np.linalg.solve(axes, volume.affine[:3, :3] @ corners)
    extent = places.max(axis=1) - places.min(axis=1)
    size = np.ceil(extent - ROUNDING) + 1
    if float(np.prod(size)) * 8 * READING_COPIES > memory_bytes:
        raise too_large(size.astype(int).tolist())
    affine = _centred(volume, axes, size)
    # From voxels of the new grid to those of the old; arrays are (z, y, x).
    back = np.linalg.inv(volume.affine) @ affine
    kind = volume.array.dtype
    fine = np.float64 if kind.itemsize > 2 and kind != np.float32 else np.float32
    array = affine_transform(
        volume.array,
        back[2::-1, 2::-1],
        offset=back[2::-1, 3],
        output_shape=tuple(int(side) for side in size[::-1]),
        output=kind if is_label else fine,
        order=0 if is_label else 1,
        cval=0 if is_label else _lowest(volume.array),
    )
    if kind.kind in "iu" and not is_label:
        np.rint(array, out=array)
    return _on(array.astype(kind, copy=False), affine, (*volume.notes, RESAMPLED))


def _lowest(array: np.ndarray[Any, Any]) -> float:
    """Return the lowest value that is a number: of an image, the background."""
    if array.dtype.kind != "f":
        return float(array.min())
    lowest = np.min(array, where=np.isfinite(array), initial=np.inf)
    return float(lowest) if np.isfinite(lowest) else 0.0
