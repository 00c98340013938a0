"""DICOM-SEG in: each frame goes to the voxels where the file says it lies in the patient.

Frames are placed one by one, by their own position, because files may leave out empty frames,
hold them in any order, and need no even distances; highdicom's reader, which wants a regular
volume, is the reference in the tests.

Promises: a voxel is set where a frame has it, or the file is refused; no frame is resampled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_medseg.volume.dicom.frames import geometry_of, group_of
from nnunet_medseg.volume.grid import GRID_TOLERANCE, Volume
from nnunet_medseg.volume.problems import VolumeError, too_large, unreadable

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["PLANE_TOLERANCE", "read_segments"]

# How far a frame or contour may lie from the middle of its slice, as a share of the distance of
# slices: positions are rounded, and planning systems round them again. At a half, it would be
# open which slice is meant.
PLANE_TOLERANCE = 0.25
LARGEST_FRAME = 8192  # voxels a side; detectors and reconstructions stay far below
BIG_ENDIAN = "1.2.840.10008.1.2.2"
HALF = 0.5  # of the largest value of a fractional segment: from here on a voxel belongs to it


def read_segments(
    dataset: Dataset, grid: Volume, numbers: set[int]
) -> dict[int, np.ndarray[Any, Any]]:
    """Read segments of a SEG, binary, fractional or label map, onto a grid.

    In a fractional segment, voxels belong to it from half of the largest value on.

    Raises:
        VolumeError: When a frame that is not empty does not lie on voxels of the grid.
    """
    masks = {number: np.zeros(grid.array.shape, bool) for number in sorted(numbers)}
    inverse = np.linalg.inv(grid.affine)
    for place, frame in _frames(dataset):
        for number, pixels in _segments_in(dataset, place, frame, masks):
            if pixels.any():
                x, y, z = _voxels(pixels, geometry_of(dataset, place), inverse, grid)
                masks[number][z, y, x] = True
    return masks


def _frames(dataset: Dataset) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
    from pydicom.pixels.utils import iter_pixels

    rows, columns = int(dataset.Rows), int(dataset.Columns)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if max(rows, columns) > LARGEST_FRAME:
        raise too_large((columns, rows, frames))
    described = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if frames != max(1, len(described)):
        raise unreadable()
    if int(dataset.BitsAllocated) == 1 and dataset.file_meta.TransferSyntaxUID == BIG_ENDIAN:
        problem = "its single bits are stored big endian, which readers do not agree on"
        raise VolumeError("big endian", problem, "Export it little endian, as all programs can.")
    if int(dataset.BitsAllocated) == 1 and rows * columns % 8 and _is_native(dataset):
        yield from enumerate(_unpacked(dataset, (frames, rows, columns)))
        return
    # A label map may have a palette, which is for screens.
    yield from enumerate(iter_pixels(dataset, raw=True))


def _is_native(dataset: Dataset) -> bool:
    return not dataset.file_meta.TransferSyntaxUID.is_encapsulated


def _unpacked(dataset: Dataset, shape: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    """Return frames of single bits that begin within a byte, which pydicom 3.0 cannot read.

    Bits follow each other without gaps, the lowest of a byte first (PS3.5, 8.1.1).
    """
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    count = shape[0] * shape[1] * shape[2]
    if len(bits) < count:
        raise unreadable()
    return bits[:count].reshape(shape)


def _segments_in(
    dataset: Dataset,
    place: int,
    frame: np.ndarray[Any, Any],
    masks: dict[int, np.ndarray[Any, Any]],
) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
    if dataset.get("SegmentationType") == "LABELMAP":
        for value in np.unique(frame).tolist():
            if value in masks:
                yield value, frame == value
        return
    number = int(group_of(dataset, place, "SegmentIdentificationSequence").ReferencedSegmentNumber)
    if number in masks:
        largest = int(dataset.get("MaximumFractionalValue") or 1)
        yield number, frame >= max(1.0, HALF * largest)


def _voxels(
    pixels: np.ndarray[Any, Any],
    geometry: np.ndarray[Any, Any],
    inverse: np.ndarray[Any, Any],
    grid: Volume,
) -> np.ndarray[Any, Any]:
    """Return the voxels x, y, z of the pixels that are set, shape `(3, n)`."""
    steps = inverse[:3, :3] @ geometry[:, :2]
    first = inverse[:3, :3] @ geometry[:, 2] + inverse[:3, 3]
    whole = np.rint(steps)
    start = np.rint(first)
    # At the far end of the frame, errors in steps add up.
    far = np.abs(steps - whole) @ (np.array(pixels.shape[::-1]) - 1) + np.abs(first - start)
    across = int(np.argmin(np.abs(whole).sum(axis=1)))
    allowed = np.full(3, GRID_TOLERANCE)
    allowed[across] = PLANE_TOLERANCE
    is_turned = np.abs(whole).sum(axis=0).tolist() != [1, 1] or np.abs(whole).sum(axis=1).max() > 1
    if not np.isfinite(far).all() or is_turned or (far > allowed).any():
        raise _elsewhere("lie between the voxels of the image, or are of another size")
    down, along = np.nonzero(pixels)
    places = (whole @ np.stack([along, down]) + start[:, None]).astype(np.int64)
    if (places < 0).any() or (places >= np.array(grid.array.shape[::-1])[:, None]).any():
        raise _elsewhere("lie outside of the image")
    return np.asarray(places)


def _elsewhere(where: str) -> VolumeError:
    problem = f"voxels of the segmentation {where}"
    fix = "Export the segmentation on the grid of its images, with the series it was drawn on."
    return VolumeError("grid", problem, fix)
