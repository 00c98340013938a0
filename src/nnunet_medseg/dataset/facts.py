"""What one pass over the files of a case tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["CaseFacts", "facts_from_json", "guess_image_type", "signature_of"]

# Air is -1000 HU and dense bone about 2000 HU by definition of the scale (Hounsfield 1973,
# doi:10.1259/0007-1285-46-552-1016); metal and padding values lie outside.
CT_MINIMUM_HU = (-4100.0, -850.0)
CT_MAXIMUM_HU = (200.0, 32767.0)

SIGNATURE_SIDE = 8  # voxels on each axis that stand for an image


@dataclass(frozen=True)
class CaseFacts:
    """What one pass over the files of a case tells.

    Attributes:
        name: Our name of the case.
        shape: `(z, y, x)` of the first image as stored.
        spacing_mm: `(z, y, x)` in mm as stored.
        value_ranges: Smallest and largest value of each channel.
        label_voxels: Number of voxels by label value, the background left out.
        changed_parts: Places, channels first and the label map last, of what is not what its file
            holds: it was repaired, is a frame of several, or is merged from masks.
        content: Hash of the voxels of the first image.
        orientation: Where the axes x, y, z of the first image point, such as `LPS`.
        signature: Some voxels of the first image, spread evenly, in the order of RAS; their mean is
            0 and their norm 1.
    """

    name: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    value_ranges: tuple[tuple[float, float], ...]
    label_voxels: dict[int, int]
    changed_parts: tuple[int, ...]
    content: str
    orientation: str = ""
    signature: tuple[float, ...] = ()


def facts_from_json(item: dict[str, Any]) -> CaseFacts:
    """Return the facts of a case from plain types, as `dataclasses.asdict` and JSON leave them."""
    return CaseFacts(
        name=item["name"],
        shape=tuple(item["shape"]),
        spacing_mm=tuple(item["spacing_mm"]),
        value_ranges=tuple((low, high) for low, high in item["value_ranges"]),
        label_voxels={int(value): count for value, count in item["label_voxels"].items()},
        changed_parts=tuple(item["changed_parts"]),
        content=item["content"],
        orientation=item["orientation"],
        signature=tuple(item["signature"]),
    )


def signature_of(array: np.ndarray[Any, Any]) -> tuple[float, ...]:
    """Return some voxels of an image, spread evenly, with mean 0 and norm 1; zeros if all equal.

    Args:
        array: Shape `(z, y, x)`.
    """
    places = [
        np.linspace(0, side - 1, min(side, SIGNATURE_SIDE)).round().astype(int)
        for side in array.shape
    ]
    sample = array[np.ix_(*places)].astype(np.float64).ravel()
    sample -= sample.mean()
    norm = np.linalg.norm(sample)
    return tuple(float(value) for value in (sample / norm if norm else sample).round(4))


def guess_image_type(ranges: Sequence[tuple[float, float]]) -> str:
    """Return "CT" when most images have the range of Hounsfield units, else "MRI".

    Args:
        ranges: Smallest and largest value of a channel, one a case.

    Examples:
        >>> guess_image_type([(-1024.0, 1800.0), (-1000.0, 2200.0)])
        'CT'
        >>> guess_image_type([(0.0, 900.0)])
        'MRI'
    """
    like_ct = [
        CT_MINIMUM_HU[0] <= low <= CT_MINIMUM_HU[1] and CT_MAXIMUM_HU[0] <= high <= CT_MAXIMUM_HU[1]
        for low, high in ranges
    ]
    return "CT" if sum(like_ct) * 2 > len(like_ct) else "MRI"
