"""Frames of DICOM images: where each lies in the patient, in files of one frame and of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_medseg.volume.dicom.index import is_localizer
from nnunet_medseg.volume.dicom.opening import damage_told, first_item, open_dataset
from nnunet_medseg.volume.grid import GRID_TOLERANCE, Volume
from nnunet_medseg.volume.problems import VolumeError
from nnunet_medseg.volume.shear import SHEAR_TOLERANCE

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "SAME_PLACE",
    "Frame",
    "Source",
    "geometry_of",
    "group_of",
    "labels_on",
    "on_slices",
    "read_source",
]

SAME_PLACE = 0.01  # of a voxel's side: two slices nearer than this lie in one place


@dataclass(frozen=True)
class Frame:
    """One frame of a series.

    Attributes:
        kind: SOP class of its file.
        uid: SOP instance of its file.
        number: From 1, in a file of many frames; None in a file of one.
        geometry: Columns in LPS mm, shape `(3, 3)`: a step along a row, a step down a column,
            and the centre of the first pixel.
    """

    kind: str
    uid: str
    number: int | None
    geometry: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Source:
    """The headers and frames of a series, in the order in which its files were given."""

    headers: tuple[Dataset, ...]
    frames: tuple[Frame, ...]
    shape: tuple[int, int]


def group_of(dataset: Any, place: int, name: str) -> Any:
    """Return what is said of one frame, or of all frames alike.

    Raises:
        VolumeError: When it is said nowhere.
    """
    described = dataset.get("PerFrameFunctionalGroupsSequence")
    item = first_item(described[place], name) if described else None
    item = item or first_item(first_item(dataset, "SharedFunctionalGroupsSequence"), name)
    if item is None:
        problem = "the header does not say where the frames lie, or what they show"
        raise VolumeError("header", problem, "Export the file again.")
    return item


def geometry_of(dataset: Any, place: int) -> np.ndarray[Any, Any]:
    """Return where a frame lies, as in `Frame.geometry`."""
    if "PerFrameFunctionalGroupsSequence" in dataset or "ImagePositionPatient" not in dataset:
        plane = group_of(dataset, place, "PlaneOrientationSequence")
        measures = group_of(dataset, place, "PixelMeasuresSequence")
        position = group_of(dataset, place, "PlanePositionSequence")
    else:
        plane = measures = position = dataset
    cosines = np.array(plane.ImageOrientationPatient, dtype=float).reshape(2, 3)
    down, along = (float(side) for side in measures.PixelSpacing)
    first = np.array(position.ImagePositionPatient, dtype=float)
    return np.stack([cosines[0] * along, cosines[1] * down, first], axis=1)


def read_source(files: Sequence[Path]) -> Source:
    """Read the headers of a series; its pixels stay where they are.

    As `read_series` does, it leaves out localisers, and takes slices once that are there twice.

    Raises:
        VolumeError: When a file cannot be read, or the files are not one series.
    """
    with damage_told():
        read = [open_dataset(path, header_only=True) for path in files]
        headers = [one for one in read if not is_localizer(one)] or read
        shapes = {(int(header.Rows), int(header.Columns)) for header in headers}
        series = {str(header.SeriesInstanceUID) for header in headers}
        if len(shapes) != 1 or len(series) != 1:
            problem = "the files are not the images of one series"
            raise VolumeError("series", problem, "Give the files of one series only.")
        kept = _in_places_of_their_own([(header, _frames(header)) for header in headers])
        frames = [frame for _, of in kept for frame in of]
        return Source(tuple(header for header, _ in kept), tuple(frames), shapes.pop())


def _in_places_of_their_own(
    files: Sequence[tuple[Dataset, list[Frame]]],
) -> list[tuple[Dataset, list[Frame]]]:
    """Leave out files of one slice that lies where that of an earlier file does."""
    first = files[0][1][0].geometry
    across = np.cross(first[:, 0], first[:, 1])
    # One height a file: of many frames, that of the first.
    heights = np.array([of[0].geometry[:, 2] for _, of in files]) @ across / np.linalg.norm(across)
    order = np.argsort(heights, kind="stable")
    near_mm = SAME_PLACE * float(np.linalg.norm(first[:, 0]))
    left_out, last = set(), -np.inf
    for place in order.tolist():
        if heights[place] - last <= near_mm and len(files[place][1]) == 1:
            left_out.add(place)
        else:
            last = heights[place]
    return [file for place, file in enumerate(files) if place not in left_out]


def _frames(header: Dataset) -> list[Frame]:
    kind, uid = str(header.SOPClassUID), str(header.SOPInstanceUID)
    if "PerFrameFunctionalGroupsSequence" not in header:
        return [Frame(kind, uid, None, geometry_of(header, 0))]
    count = len(header.PerFrameFunctionalGroupsSequence)
    return [Frame(kind, uid, place + 1, geometry_of(header, place)) for place in range(count)]


def labels_on(source: Source, labels: Volume) -> np.ndarray[Any, Any]:
    """Return the label map as the frames of the series see it.

    Where the gantry was tilted, labels of the straightened image are taken from the nearest voxel.

    Returns:
        Values, shape `(frame, y, x)`.

    Raises:
        VolumeError: When the label map does not lie on the voxels of the series, or reaches
            beyond it.
    """
    inverse = np.linalg.inv(labels.affine)
    seen = np.zeros((len(source.frames), *source.shape), labels.array.dtype)
    worst = 0.0
    for plane, frame in zip(seen, source.frames, strict=True):
        indices, rest = _nearest(inverse, frame.geometry, source.shape)
        worst = max(worst, rest)
        inside = np.ones(source.shape, bool)
        for axis, size in zip(indices, labels.array.shape[::-1], strict=True):
            inside &= (axis >= 0) & (axis < size)
        x, y, z = (axis[inside] for axis in indices)
        plane[inside] = labels.array[z, y, x]
    if not _is_tilted(source):
        if worst > GRID_TOLERANCE:
            raise _elsewhere("does not lie on the voxels of the series")
        if np.count_nonzero(seen) != np.count_nonzero(labels.array):
            raise _elsewhere("does not show the same slices as the series")
    return seen


def on_slices(labels: Volume, grid: Volume) -> Volume:
    """Return labels of a straightened series on its slices as they lie, from the nearest voxels.

    Args:
        labels: On the grid of `read_series`.
        grid: From `read_series` with `straighten=False`.
    """
    sides, step = grid.affine[:3, :2], grid.affine[:3, 2]
    frames = [
        Frame("", "", None, np.column_stack([sides, grid.affine[:3, 3] + place * step]))
        for place in range(len(grid.array))
    ]
    _, rows, columns = grid.array.shape
    return grid.with_array(labels_on(Source((), tuple(frames), (rows, columns)), labels))


def _nearest(
    inverse: np.ndarray[Any, Any], geometry: np.ndarray[Any, Any], shape: tuple[int, int]
) -> tuple[list[np.ndarray[Any, Any]], float]:
    """Return indices x, y, z of the voxels nearest to the pixels, and how far away they are."""
    steps = inverse[:3, :3] @ geometry
    steps[:, 2] += inverse[:3, 3]
    down, along = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    places = [row[0] * along + row[1] * down + row[2] for row in steps]
    indices = [np.rint(axis) for axis in places]
    rest = max(
        float(np.abs(axis - index).max()) for axis, index in zip(places, indices, strict=True)
    )
    return [index.astype(np.int64) for index in indices], rest


def _is_tilted(source: Source) -> bool:
    """Tell whether `read_series` has resampled the series onto a grid at right angles."""
    first = source.frames[0].geometry
    ways = np.array([frame.geometry[:, 2] for frame in source.frames]) - first[:, 2]
    lengths = np.linalg.norm(ways, axis=1)
    farthest = int(np.argmax(lengths))
    if lengths[farthest] == 0:
        return False
    sides = first[:, :2] / np.linalg.norm(first[:, :2], axis=0)
    return bool(np.abs(ways[farthest] @ sides).max() > SHEAR_TOLERANCE * lengths[farthest])


def _elsewhere(where: str) -> VolumeError:
    fix = "Give the label map that was predicted for this series."
    return VolumeError("grid", f"the label map {where}", fix)
