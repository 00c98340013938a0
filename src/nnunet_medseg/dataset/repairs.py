"""What is put right in the converted copy of a case, never in the user's files.

Only what keeps the meaning is repaired; the rules refuse the rest. The first line of each
function's docstring says what it does, and stands in the documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nnunet_medseg.dataset.case import Case, Finding
from nnunet_medseg.dataset.contents import Contents, Part
from nnunet_medseg.volume import GRID_TOLERANCE, Volume, grid_shift
from nnunet_medseg.volume.grid import from_sitk, to_sitk
from nnunet_medseg.volume.shear import was_sheared

__all__ = [
    "LARGEST_WHOLE",
    "REPAIRS",
    "SAME_GRID",
    "WHOLE_TOLERANCE",
    "distance_to_whole",
    "put_smallest",
    "repair",
    "whole_numbers",
]

# Two grids that are equal to this share of a voxel differ by rounding in the header only.
SAME_GRID = 1e-3
# Whole numbers that went through a float32 or a scale in the header are off by less than this.
WHOLE_TOLERANCE = 1e-3
LARGEST_WHOLE = np.iinfo(np.uint32).max
# A voxel beyond the outermost centre belongs to the image by half; the rest is rounding.
MARGIN_VOXELS = 0.5 + GRID_TOLERANCE

Repaired = tuple[Contents, list[Finding]]


def repair(case: Case, contents: Contents) -> tuple[Contents, tuple[Finding, ...]]:
    """Apply every repair, and return what was done as findings of severity "repair"."""
    findings: list[Finding] = []
    for each in REPAIRS:
        contents, done = each(case, contents)
        findings += done
    return contents, tuple(findings)


def reading(case: Case, contents: Contents) -> Repaired:
    """Axes of length 1 are removed, and slightly sheared axes are brought to right angles."""
    done = [
        _done(case, "reading", f"{part.name}: {note}")
        for part in contents.parts
        for note in part.volume.notes
    ]
    return contents, done


def lost_values(case: Case, contents: Contents) -> Repaired:
    """NaN and infinite values where nothing is labelled become the smallest value of the image."""
    label = contents.label
    if label is None:
        return contents, []
    channels, done = list(contents.channels), []
    for place, part in enumerate(channels):
        if part.array.dtype.kind != "f" or part.array.shape != label.array.shape:
            continue
        found = np.isfinite(part.array)
        number = int(found.size - np.count_nonzero(found))
        if number in {0, found.size} or not found[label.array != 0].all():
            continue
        put_smallest(part.array, found)
        channels[place] = part.with_volume(part.volume)
        text = f"{part.name}: {number} voxels without a number, none of them labelled"
        done.append(_done(case, "NaN or Inf", f"{text}, became the smallest value"))
    return replace(contents, channels=tuple(channels)), done


def put_smallest(array: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> None:
    """Put the smallest value of an image where it holds no number.

    In place: it was read for one case, and a copy may not fit beside it.

    Args:
        array: The image.
        found: Where it holds a number, as it must somewhere.
    """
    smallest = np.min(array, where=found, initial=np.inf)
    np.copyto(array, smallest, where=~found)


def whole_labels(case: Case, contents: Contents) -> Repaired:
    """Label values that are whole numbers stored as floating point become whole numbers."""
    label = contents.label
    if label is None or label.array.dtype.kind != "f":
        return contents, []
    whole = whole_numbers(label.array)
    if whole is None:
        return contents, []
    volume = label.volume.with_array(whole)
    text = f"{label.name}: whole numbers stored as {label.array.dtype} became {whole.dtype}"
    return replace(contents, label=label.with_volume(volume)), [_done(case, "label type", text)]


def whole_numbers(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Return values stored as floating point as the labels that they are, or None where not."""
    low, high = float(array.min()), float(array.max())
    if distance_to_whole(array) > WHOLE_TOLERANCE or low < -WHOLE_TOLERANCE:
        return None
    if round(high) > LARGEST_WHOLE:
        return None
    whole = np.empty(array.shape, np.min_scalar_type(max(0, round(high))))
    for slice_, rounded in zip(array, whole, strict=True):
        rounded[:] = np.rint(slice_)
    return whole


def distance_to_whole(array: np.ndarray[Any, Any]) -> float:
    """Return how far the value that is farthest from a whole number is from it, at most 0.5.

    Slice by slice: the differences of a whole map would take several times its memory.
    """
    return max(float(np.abs(slice_ - np.rint(slice_)).max()) for slice_ in array)


def label_on_image_grid(case: Case, contents: Contents) -> Repaired:
    """A label map on another grid of the same space is brought onto the image's, nearest voxel.

    Of another shape, as where it was cropped or drawn on finer slices; or of the same voxels in
    another order. Not where the shape is the same and the grid is not: then one of the headers is
    wrong, and nobody knows which. Not where anything labelled lies outside of the image, where a
    value would be lost, or where the header of the label map says nothing at all, or only what
    was copied from the image's: a part of it, saved so, would come back in its corner.
    """
    label = contents.label
    if label is None or not contents.channels:
        return contents, []
    image = contents.channels[0].volume
    if grid_shift(image, label.volume) <= GRID_TOLERANCE or not _is_sure(image, label.volume):
        return contents, []
    moved = _nearest(label.volume, image)
    if set(_values(moved.array)) != set(_values(label.array)):
        return contents, []
    shapes = [" x ".join(map(str, volume.array.shape)) for volume in (label.volume, image)]
    text = f"{label.name}: brought from its own grid ({shapes[0]}) onto the image's ({shapes[1]})"
    return replace(contents, label=label.with_volume(moved)), [_done(case, "label grid", text)]


def _is_sure(image: Volume, label: Volume) -> bool:
    """Tell whether the header of the label map tells without doubt where it lies."""
    if _has_no_place(image, label) or _is_one_sheared(image, label):
        return False
    is_inside = (
        not np.any(label.array)
        or _reach(label, image, *_foreground_box(label.array)) <= MARGIN_VOXELS
    )
    if sorted(label.array.shape) != sorted(image.array.shape):
        return is_inside
    # The same voxels in another order fill exactly the same box.
    last = np.array(label.array.shape) - 1
    return (
        is_inside
        and _reach(label, image, np.zeros(3), last) <= GRID_TOLERANCE
        and _fills(label, image)
    )


def _is_one_sheared(image: Volume, label: Volume) -> bool:
    """Tell whether one of two was brought to right angles, as a scan with a tilted gantry.

    A label map drawn on the voxels of the scan, whose header lost the shear, would come back moved.
    """
    return was_sheared(image) != was_sheared(label)


def _has_no_place(image: Volume, label: Volume) -> bool:
    """Tell whether the header of a label map says nothing of its own about where it lies."""
    rounding_mm = GRID_TOLERANCE * min(image.spacing_mm)
    has_no_origin = not label.affine[:3, 3].any()
    has_no_axes = np.allclose(np.abs(label.affine[:3, :3]), np.eye(3))
    is_copied = np.allclose(label.affine, image.affine, rtol=0, atol=rounding_mm)
    is_elsewhere = np.abs(image.affine[:3, 3]).max() > rounding_mm
    return bool(is_copied or (has_no_origin and (has_no_axes or is_elsewhere)))


def _fills(label: Volume, image: Volume) -> bool:
    last = np.array(image.array.shape) - 1
    return _reach(image, label, np.zeros(3), last) <= GRID_TOLERANCE


def _foreground_box(array: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], ...]:
    places = [
        np.flatnonzero(array.any(axis=tuple(other for other in range(3) if other != axis)))
        for axis in range(3)
    ]
    return np.array([place[0] for place in places]), np.array([place[-1] for place in places])


def _reach(
    volume: Volume, other: Volume, low: np.ndarray[Any, Any], high: np.ndarray[Any, Any]
) -> float:
    """Return how many voxels of another grid a box of voxels reaches beyond that grid."""
    # Indices are (z, y, x), affines take (x, y, z).
    corners = np.array(np.meshgrid(*zip(low[::-1], high[::-1], strict=True))).reshape(3, -1)
    homogeneous = np.vstack([corners, np.ones(corners.shape[1])])
    places = (np.linalg.inv(other.affine) @ volume.affine @ homogeneous)[:3]
    last = np.array(other.array.shape[::-1])[:, None] - 1
    return float(max((-places).max(), (places - last).max()))


def _nearest(label: Volume, image: Volume) -> Volume:
    import SimpleITK as sitk

    grid = to_sitk(replace(image, array=np.zeros(image.array.shape, np.uint8)))
    moved = sitk.Resample(to_sitk(label), grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return replace(image, array=from_sitk(moved).array, notes=label.notes)


def _values(array: np.ndarray[Any, Any]) -> list[float]:
    return [float(value) for value in np.unique(array)]


def header_noise(case: Case, contents: Contents) -> Repaired:
    """Grids less than a tenth of a voxel away from that of the first image become that one."""
    if not contents.channels:
        return contents, []
    first = contents.channels[0].volume
    done = []

    def aligned(part: Part) -> Part:
        shift = grid_shift(first, part.volume)
        if not SAME_GRID < shift <= GRID_TOLERANCE:
            return part
        text = f"{part.name}: {shift:.3f} voxels away from {contents.channels[0].name}, as rounding"
        done.append(_done(case, "header noise", f"{text} in a header leaves it; put on its grid"))
        return part.with_volume(replace(first, array=part.array, notes=part.volume.notes))

    channels = tuple(map(aligned, contents.channels))
    label = None if contents.label is None else aligned(contents.label)
    return replace(contents, channels=channels, label=label), done


def _done(case: Case, rule: str, message: str) -> Finding:
    return Finding("repair", case.source, rule, message, "Your own file stays as it is.")


REPAIRS: Sequence[Callable[[Case, Contents], Repaired]] = (
    reading,
    whole_labels,
    label_on_image_grid,
    # Only on one grid can be told what is labelled.
    lost_values,
    header_noise,
)
