"""Grids: the axis rule, how far two grids are apart, and the way to RAS and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = [
    "GRID_TOLERANCE",
    "Volume",
    "from_sitk",
    "grid_shift",
    "orientation_code",
    "restore_orientation",
    "to_ras",
    "to_sitk",
]

# Two grids agree when no corner is further apart than this share of the smallest voxel side:
# a tenth of a voxel is far below what a label map resolves, and far above rounding in headers.
GRID_TOLERANCE = 0.1


@dataclass(frozen=True)
class Volume:
    """A 3D image or label map on its grid.

    Attributes:
        array: Voxels, shape `(z, y, x)`.
        spacing_mm: Voxel size `(z, y, x)` in mm, positive.
        affine: Shape `(4, 4)`; voxel index `(x, y, z, 1)` to LPS mm.
        notes: What was put right or assumed in reading, for people.
    """

    array: np.ndarray[Any, Any]
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray[Any, Any]
    notes: tuple[str, ...] = ()

    def with_array(self, array: np.ndarray[Any, Any]) -> Volume:
        """Return another array on the same grid."""
        return replace(self, array=array)


def from_sitk(image: sitk.Image) -> Volume:
    """Return a 3D image of SimpleITK as a volume."""
    import SimpleITK as sitk

    spacing = np.array(image.GetSpacing())
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * spacing
    affine[:3, 3] = image.GetOrigin()
    z, y, x = (float(value) for value in spacing[::-1])
    return Volume(sitk.GetArrayFromImage(image), (z, y, x), affine)


def to_sitk(volume: Volume) -> sitk.Image:
    """Return a volume as an image of SimpleITK."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(volume.array)
    spacing = np.array(volume.spacing_mm[::-1])
    image.SetSpacing([float(value) for value in spacing])
    image.SetOrigin([float(value) for value in volume.affine[:3, 3]])
    image.SetDirection([float(value) for value in (volume.affine[:3, :3] / spacing).ravel()])
    return image


def grid_shift(first: Volume, second: Volume) -> float:
    """Return how far two grids of the same shape are apart.

    Returns:
        The largest distance between corresponding corners, in units of the smallest voxel side of
        the first; infinity when the shapes differ.
    """
    if first.array.shape != second.array.shape:
        return float("inf")
    last = np.array(first.array.shape[::-1], dtype=float) - 1
    corners = np.array(np.meshgrid(*[(0.0, size) for size in last])).reshape(3, -1)
    homogeneous = np.vstack([corners, np.ones(corners.shape[1])])
    apart = (first.affine - second.affine) @ homogeneous
    return float(np.linalg.norm(apart[:3], axis=0).max() / min(first.spacing_mm))


def orientation_code(volume: Volume) -> str:
    """Return where the axes x, y, z point, as three letters such as `LPS`."""
    import SimpleITK as sitk

    direction = (volume.affine[:3, :3] / np.array(volume.spacing_mm[::-1])).ravel()
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(
        [float(value) for value in direction]
    )
    return str(code)


def to_ras(volume: Volume) -> Volume:
    """Return the volume with its axes flipped and permuted to RAS, as nnU-Net's reader does."""
    import SimpleITK as sitk

    oriented = from_sitk(sitk.DICOMOrient(to_sitk(volume), "RAS"))
    return replace(oriented, notes=volume.notes)


def restore_orientation(array: np.ndarray[Any, Any], like: Volume) -> Volume:
    """Bring an array that lies on `to_ras(like)` back onto the grid of `like`.

    Args:
        array: Shape of `to_ras(like).array`.
        like: The volume as it was before reorientation.

    Returns:
        The array on exactly the grid of `like`.
    """
    import SimpleITK as sitk

    oriented = to_ras(like).with_array(array)
    restored = sitk.DICOMOrient(to_sitk(oriented), orientation_code(like))
    return like.with_array(sitk.GetArrayFromImage(restored))
