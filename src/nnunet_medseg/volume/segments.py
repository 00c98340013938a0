"""Segmentations of 3D Slicer (`.seg.nrrd`): segments by name, in one layer or in several.

Segments that overlap lie in layers of their own, each a label map; values may come again in
another layer. Here all become one label map, with a value of its own for each segment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnunet_medseg.volume.problems import VolumeError
from nnunet_medseg.volume.stack import Stack

__all__ = ["Segment", "merge_layers", "segments_in"]

ENTRY = re.compile(rb"^Segment(\d{1,6})_(Name|LabelValue|Layer):=(.*)$", re.MULTILINE)
NOT_PRINTED = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]+")
LONGEST_NAME = 200
LARGEST_VALUE = 65535
MERGED = "{} layers of segments merged into one label map"


@dataclass(frozen=True)
class Segment:
    """One structure.

    Attributes:
        name: For people, and printable.
        layer: Which of the label maps of the file it is in.
        stored: Its value there.
        value: Its value in the one label map that is made of them.
    """

    name: str
    layer: int
    stored: int
    value: int


def segments_in(header: bytes) -> tuple[Segment, ...]:
    """Return the segments that the header of a file tells of, in its order.

    Values stay what they are, except where two layers use the same one: the later segment gets
    the next that is free.

    Raises:
        VolumeError: When a value or a layer is no number that a label map can hold.
    """
    entries: dict[int, dict[bytes, bytes]] = {}
    for number, key, text in ENTRY.findall(header):
        entries.setdefault(int(number), {})[key] = text.strip()
    plain = []
    for number, entry in sorted(entries.items()):
        # Before version 4.11, each segment had a layer of its own, with ones in it.
        is_old = b"LabelValue" not in entry
        stored = 1 if is_old else _number(entry[b"LabelValue"], 1)
        layer = number if is_old else _number(entry.get(b"Layer", b"0"), 0)
        plain.append(Segment(_printable(entry.get(b"Name", b"")), layer, stored, stored))
    return _named_apart(_valued_apart(plain))


def _number(text: bytes, smallest: int) -> int:
    if not re.fullmatch(rb"\d{1,5}", text) or not smallest <= int(text) <= LARGEST_VALUE:
        problem = "the header gives a segment a value or a layer that is no usable number"
        raise VolumeError("header", problem, "Save the segmentation again in 3D Slicer.")
    return int(text)


def _printable(name: bytes) -> str:
    # NRRD writes line breaks and backslashes with a backslash.
    text = name.decode("utf-8", "replace").replace("\\n", " ").replace("\\\\", "\\")
    return NOT_PRINTED.sub(" ", text).strip()[:LONGEST_NAME]


def _valued_apart(segments: list[Segment]) -> list[Segment]:
    taken: set[int] = set()
    seen: set[tuple[int, int]] = set()
    free = max((segment.stored for segment in segments), default=0) + 1
    apart = []
    for segment in segments:
        if (segment.layer, segment.stored) in seen:
            continue
        seen.add((segment.layer, segment.stored))
        value = segment.stored
        if value in taken:
            value, free = free, free + 1
        taken.add(value)
        apart.append(replace(segment, value=value))
    return apart


def _named_apart(segments: list[Segment]) -> tuple[Segment, ...]:
    taken: set[str] = set()
    apart = []
    for segment in segments:
        plain = name = segment.name or f"label_{segment.value}"
        number = 1
        while name in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name)
        apart.append(replace(segment, name=name))
    return tuple(apart)


def merge_layers(stack: Stack, segments: tuple[Segment, ...]) -> Stack:
    """Make one label map of the layers of a file.

    Raises:
        VolumeError: When segments overlap, or a layer has values that no segment has.
    """
    layers: np.ndarray[Any, Any] = stack.array.reshape(-1, *stack.array.shape[-3:])
    if len(layers) == 1:
        return stack
    largest = max((segment.value for segment in segments), default=0)
    merged = np.zeros(layers.shape[1:], np.min_scalar_type(largest))
    drawn = 0
    for segment in segments:
        if segment.layer >= len(layers):
            problem = f"the segment {segment.name} lies in a layer that the file does not have"
            raise VolumeError("header", problem, "Save the segmentation again in 3D Slicer.")
        mask = layers[segment.layer] == segment.stored
        if merged[mask].any():
            raise _overlapping(segment, segments, merged[mask])
        merged[mask] = segment.value
        drawn += int(np.count_nonzero(mask))
    if drawn != np.count_nonzero(layers):
        problem = "the layers have values that no segment has"
        raise VolumeError("header", problem, "Save the segmentation again in 3D Slicer.")
    return replace(stack, array=merged, notes=(*stack.notes, MERGED.format(len(layers))))


def _overlapping(
    segment: Segment, segments: tuple[Segment, ...], below: np.ndarray[Any, Any]
) -> VolumeError:
    covered = sorted(item.name for item in segments if item.value in set(np.unique(below)))
    problem = (
        f"the segment {segment.name} overlaps with {', '.join(covered)} "
        f"in {np.count_nonzero(below)} voxels"
    )
    fix = "Let no voxel belong to two segments, for example with Logical operators in 3D Slicer."
    return VolumeError("overlapping segments", problem, fix)
