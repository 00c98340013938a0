"""Rules on one case: each yields findings on what has been read and repaired.

The first line of each docstring says what the rule demands, and stands in the documentation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cc3d
import numpy as np

from nnunet_medseg.dataset.case import Case, Finding
from nnunet_medseg.dataset.contents import Contents, Part
from nnunet_medseg.dataset.facts import guess_image_type
from nnunet_medseg.dataset.repairs import LARGEST_WHOLE, WHOLE_TOLERANCE, distance_to_whole
from nnunet_medseg.volume import GRID_TOLERANCE, grid_shift
from nnunet_medseg.volume.shear import was_sheared

__all__ = ["CASE_RULES"]

# nnU-Net computes in float32, where the squares of what is larger are infinite.
LARGEST_VALUE, MAY_BE_LARGE_BYTES = 1e18, 4
SPECK_VOXELS = 3
BESIDE = 100  # times as large is the structure that specks lie beside
SMALL_ARRAY = 4096  # voxels
MOST = 0.5  # of an image
EMPTY_SHARE = 0.99  # of what is labelled
AIR_HU = -900.0  # air is -1000 by definition of the scale; lung is about -850, with vessels
SAMPLE_SIDE, BRIGHT = 64, 99.0  # voxels on each axis, percentile
EMPTY_RANGE = 0.01  # of the range of values, above the smallest: what surrounds the patient


def numbers_only(case: Case, contents: Contents) -> Iterator[Finding]:
    """Images hold numbers wherever something is labelled, no NaN, nothing infinite or so large."""
    fix = "Replace them by the value of the background."
    for part in contents.channels:
        is_float = part.array.dtype.kind == "f"
        lost = int(part.array.size - np.isfinite(part.array).sum()) if is_float else 0
        if lost:
            message = f"{part.name}: {lost} voxels are NaN or infinite"
            yield Finding("error", case.source, "NaN or Inf", message, fix)
        elif part.array.dtype.itemsize >= MAY_BE_LARGE_BYTES and _farthest(part) > LARGEST_VALUE:
            message = f"{part.name} holds values beyond {LARGEST_VALUE:g}, as damage leaves"
            yield Finding("error", case.source, "NaN or Inf", message, fix)


def _farthest(part: Part) -> float:
    """Return how far the values of an image go from 0."""
    return max(float(part.array.max()), -float(part.array.min()))


def one_grid(case: Case, contents: Contents) -> Iterator[Finding]:
    """All files of a case lie on the grid of its first image."""
    if not contents.channels:
        return
    grid = contents.channels[0]
    for part in contents.parts[1:]:
        what = "label map" if part is contents.label else "image"
        if part.array.shape != grid.array.shape:
            doubt, fix = _doubt(grid, part, is_label=part is contents.label)
            message = (
                f"the {what} {part.name} has shape {_times(part.array.shape)} (z, y, x), where "
                f"{grid.name} has {_times(grid.array.shape)}{doubt}"
            )
            yield Finding("error", case.source, "shape mismatch", message, fix)
        elif (shift := grid_shift(grid.volume, part.volume)) > GRID_TOLERANCE:
            message = (
                f"the {what} {part.name} lies {shift:.2f} voxels away from {grid.name} "
                f"(spacing, origin or direction differ; {GRID_TOLERANCE} is tolerated)"
            )
            fix = "Resample one onto the grid of the other, for example in 3D Slicer."
            yield Finding("error", case.source, "geometry mismatch", message, fix)


def _doubt(image: Part, part: Part, *, is_label: bool) -> tuple[str, str]:
    """Return why a part of another shape is not brought onto the image's grid, and what to do."""
    fix = "Export both on the same grid."
    sheared = [each.name for each in (image, part) if was_sheared(each.volume)]
    if is_label and len(sheared) == 1:
        doubt = (
            f", and only {sheared[0]} has sheared axes, as of a tilted gantry: the header of the "
            "other may have lost them, so that it lies elsewhere"
        )
        fix = (
            "Give the label map the affine of the image that it was drawn on, with its shear (the "
            "sform of NIfTI), or export it as DICOM SEG."
        )
        return doubt, fix
    doubt = ", and its own header does not say for sure where it lies in the image"
    return doubt if is_label else "", fix


def varying_images(case: Case, contents: Contents) -> Iterator[Finding]:
    """Images hold more than one value."""
    for part in contents.channels:
        if part.array.min() == part.array.max():
            message = f"{part.name} is {float(part.array.min()):g} everywhere"
            fix = "Export the image again, or remove the patient."
            yield Finding("error", case.source, "constant image", message, fix)


def label_values(case: Case, contents: Contents) -> Iterator[Finding]:
    """Label maps hold whole numbers that are neither negative nor huge."""
    if contents.label is None:
        return
    array = contents.label.array
    is_float = array.dtype.kind == "f"
    if is_float and distance_to_whole(array) > WHOLE_TOLERANCE:
        message = f"{contents.label.name} holds values that are not whole numbers"
        fix = "Export it as a label map without interpolation (nearest neighbour)."
        yield Finding("error", case.source, "label values", message, fix)
    elif array.min() < 0:
        message = f"{contents.label.name} holds the negative value {array.min():g}"
        yield Finding("error", case.source, "label values", message, "Use values from 0 upwards.")
    elif array.max() > LARGEST_WHOLE:
        message = f"{contents.label.name} holds the value {array.max():g}, too large for a label"
        yield Finding("error", case.source, "label values", message, "Use small whole numbers.")


def specks(case: Case, contents: Contents) -> Iterator[Finding]:
    """Labels have no specks of a few voxels beside a structure a hundred times as large."""
    if contents.label is None or contents.label.array.dtype.kind == "f":
        return
    found = _specks_by_label(contents.label.array)
    if found:
        shown = ", ".join(f"{count} of label {label}" for label, count in sorted(found.items()))
        message = f"specks of at most {SPECK_VOXELS} voxels beside a large structure: {shown}"
        fix = (
            "Right if they are drawn on purpose; otherwise remove them, as in 3D Slicer (Islands)."
        )
        yield Finding("warning", case.source, "specks", message, fix)


def _specks_by_label(array: np.ndarray[Any, Any]) -> dict[int, int]:
    """Return the number of specks of each label that has a large structure too."""
    if not array.any() or array.min() < 0:
        return {}
    cropped = array[_box_around(array)].astype(_smallest_kind(int(array.max())))
    if cropped.size < SMALL_ARRAY:
        # Without a border cc3d 4.1 fails on arrays of a few voxels.
        cropped = np.pad(cropped, 1)
    components = cc3d.connected_components(cropped)
    facts = cc3d.statistics(components)
    sizes, boxes = facts["voxel_counts"], facts["bounding_boxes"]
    if not (sizes[1:] <= SPECK_VOXELS).any():
        return {}
    # No table of the labels of all voxels: it would take several times the memory of the map.
    found: Counter[int] = Counter()
    largest: Counter[int] = Counter()
    for number in range(1, len(sizes)):
        inside = components[boxes[number]] == number
        label = int(cropped[boxes[number]].ravel()[np.argmax(inside)])
        largest[label] = max(largest[label], int(sizes[number]))
        found[label] += int(sizes[number] <= SPECK_VOXELS)
    return {
        label: count
        for label, count in found.items()
        if count and largest[label] >= BESIDE * SPECK_VOXELS
    }


def _box_around(array: np.ndarray[Any, Any]) -> tuple[slice, ...]:
    places = [
        np.flatnonzero(array.any(axis=tuple(other for other in range(3) if other != axis)))
        for axis in range(3)
    ]
    return tuple(slice(place[0], place[-1] + 1) for place in places)


def _smallest_kind(largest: int) -> type[np.unsignedinteger[Any]]:
    kinds = (np.uint8, np.uint16, np.uint32)
    return next((kind for kind in kinds if largest <= np.iinfo(kind).max), np.uint64)


def not_everything(case: Case, contents: Contents) -> Iterator[Finding]:
    """A label covers at most half of its image."""
    if contents.label is None:
        return
    array = contents.label.array
    share = np.count_nonzero(array) / array.size
    if share > MOST:
        message = f"{contents.label.name} marks {share:.0%} of the image"
        fix = "Right for images cut to the structure; otherwise look whether 0 is the background."
        yield Finding("warning", case.source, "label covers most", message, fix)


def on_the_patient(case: Case, contents: Contents) -> Iterator[Finding]:
    """What is labelled lies on the patient, not on the empty space around."""
    if not contents.channels or contents.label is None:
        return
    image, label = contents.channels[0].array, contents.label.array
    if image.shape != label.shape or not np.any(label):
        return
    values = image[label != 0]
    low, high = float(image.min()), float(image.max())
    if not np.isfinite(high - low) or high == low:
        return
    # Of a sample, and not the highest value, which may be a spike or what gathers a tracer.
    sample = image[tuple(slice(None, None, 1 + side // SAMPLE_SIDE) for side in image.shape)]
    empty = low + EMPTY_RANGE * (float(np.percentile(sample, BRIGHT)) - low)
    if guess_image_type([(low, high)]) == "CT":
        # However noisy, and whatever far lower value fills what the scanner does not see.
        empty = max(empty, AIR_HU)
    share = float((values <= empty).mean())
    if share > EMPTY_SHARE:
        message = f"{share:.0%} of what {contents.label.name} marks is empty space in the image"
        fix = "Look whether it is the label map of another patient, or mirrored or shifted."
        yield Finding("warning", case.source, "label off the patient", message, fix)


CASE_RULES: Sequence[Callable[[Case, Contents], Iterator[Finding]]] = (
    numbers_only,
    one_grid,
    varying_images,
    label_values,
    specks,
    not_everything,
    on_the_patient,
)


def _times(shape: Sequence[int]) -> str:
    return " x ".join(str(size) for size in shape)
