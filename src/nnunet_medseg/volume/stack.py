"""What a file holds, before it is known to be one image: a header's claims, and frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_medseg.volume.grid import Volume
from nnunet_medseg.volume.problems import VolumeError

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["Announced", "Looked", "Stack", "announced_by", "stack_of", "voxels_of"]

SQUEEZED = "an axis of length 1 removed"
MIXED_TOLERANCE = 1e-6  # of a direction matrix, between space and what is not space


@dataclass(frozen=True)
class Announced:
    """What a header says.

    Attributes:
        size: Voxels along each axis, `(x, y, z, …)`; the further axes count frames.
        values: Values a voxel, when they are colours or vectors, else 1.
        axes: How many axes the file has, with those of length 1 that its reader drops.
    """

    size: tuple[int, ...]
    values: int = 1
    axes: int = 3

    @property
    def frames(self) -> int:
        """How many 3D images there are."""
        return math.prod(self.size[3:])

    @property
    def notes(self) -> tuple[str, ...]:
        """What is put right to have three axes."""
        return (SQUEEZED,) if self.frames == 1 and max(self.axes, len(self.size)) > 3 else ()


@dataclass(frozen=True)
class Looked:
    """What a look at the voxels has brought, before SimpleITK reads them.

    Attributes:
        lost: How many are no numbers, and would become others in silence.
        array: The voxels, shape `(…, z, y, x)`, when they need not be read again.
    """

    lost: int = 0
    array: np.ndarray[Any, Any] | None = None


@dataclass(frozen=True)
class Stack:
    """Frames on one grid.

    Attributes:
        array: Shape `(…, z, y, x)`.
        spacing_mm: As of a `Volume`.
        affine: As of a `Volume`.
        notes: As of a `Volume`.
        is_exact: Whether even rounding in the directions must be removed.
    """

    array: np.ndarray[Any, Any]
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray[Any, Any]
    notes: tuple[str, ...] = ()
    is_exact: bool = False

    def frames(self) -> tuple[Volume, ...]:
        """Return each frame as a volume."""
        frames = self.array.reshape(-1, *self.array.shape[-3:])
        return tuple(
            Volume(np.ascontiguousarray(frame), self.spacing_mm, self.affine, self.notes)
            for frame in frames
        )


def announced_by(reader: sitk.ImageFileReader) -> Announced:
    """Return what a reader of SimpleITK found in a header."""
    size = tuple(int(side) for side in reader.GetSize())
    return Announced(size, int(reader.GetNumberOfComponents()), len(size))


def voxels_of(image: sitk.Image) -> np.ndarray[Any, Any]:
    """Return the voxels of an image of SimpleITK, with several values a voxel as frames."""
    import SimpleITK as sitk

    array: np.ndarray[Any, Any] = sitk.GetArrayFromImage(image)
    return np.moveaxis(array, -1, 0) if array.ndim > image.GetDimension() else array


def stack_of(
    array: np.ndarray[Any, Any], reader: sitk.ImageFileReader, notes: tuple[str, ...]
) -> Stack:
    """Return voxels on the grid that SimpleITK found in a header.

    Raises:
        VolumeError: When the axes of space are mixed with others.
    """
    axes = reader.GetDimension()
    direction = np.array(reader.GetDirection()).reshape(axes, axes)
    mixed = np.concatenate([direction[:3, 3:].ravel(), direction[3:, :3].ravel()])
    if np.abs(mixed).max(initial=0) > MIXED_TOLERANCE:
        problem = "the axes of space are mixed with the others in the header"
        raise VolumeError("header", problem, "Save each time point or channel as a 3D file.")
    spacing = np.array(reader.GetSpacing()[:3])
    affine = np.eye(4)
    affine[:3, :3] = direction[:3, :3] * spacing
    affine[:3, 3] = reader.GetOrigin()[:3]
    z, y, x = (float(value) for value in spacing[::-1])
    return Stack(array, (z, y, x), affine, notes)
