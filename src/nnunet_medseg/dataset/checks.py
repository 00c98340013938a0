"""Problems of a dataset, found before an hour is spent: one function a rule.

Promises: every file is read once; all problems are found in one go; nothing is changed.
Does not promise: that the labels are drawn well.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_medseg.dataset.case import Case, Finding
from nnunet_medseg.hardware import free_memory_bytes, workers_for
from nnunet_medseg.parallel import map_in_workers
from nnunet_medseg.volume import (
    GRID_TOLERANCE,
    Volume,
    VolumeError,
    grid_shift,
    read_volume,
)

__all__ = ["CaseFacts", "Inspection", "guess_image_type", "inspect_cases", "judge_dataset"]

# Starting workers costs about a second; below this size one process has read everything by then.
SMALL_DATASET_BYTES = 200e6
# Compressed medical images unpack to about this many times their size, and reading needs copies.
UNPACKED_FACTOR = 10

# Air is -1000 HU and dense bone about 2000 HU by definition of the scale (Hounsfield 1973,
# doi:10.1259/0007-1285-46-552-1016); metal and padding values lie outside.
CT_MINIMUM_HU = (-4100.0, -850.0)
CT_MAXIMUM_HU = (200.0, 32767.0)

# Two grids that are equal to this share of a voxel differ by rounding in the header only.
SAME_GRID = 1e-3


@dataclass(frozen=True)
class CaseFacts:
    """What one pass over the files of a case tells.

    Attributes:
        name: Our name of the case.
        shape: `(z, y, x)` of the first image as stored.
        spacing_mm: `(z, y, x)` in mm as stored.
        value_ranges: Smallest and largest value of each channel.
        label_voxels: Number of voxels by label value, the background left out.
        shifted_files: Places in `images + (label,)` whose header differs from the first image's by
            less than the tolerance.
        content: Hash of the voxels of the first image.
    """

    name: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    value_ranges: tuple[tuple[float, float], ...]
    label_voxels: dict[int, int]
    shifted_files: tuple[int, ...]
    content: str


@dataclass(frozen=True)
class Inspection:
    """Facts of a case, None when it cannot be used, and what was found wrong with it."""

    facts: CaseFacts | None
    findings: tuple[Finding, ...]


def inspect_cases(
    cases: Sequence[Case], on_case: Callable[[int], None] = lambda _: None
) -> list[Inspection]:
    """Read every case once, in several processes when that is faster.

    Args:
        cases: What to read.
        on_case: Called with the number of cases that are done.
    """
    sizes = [sum(path.stat().st_size for path in case.files) for case in cases]
    workers = 1
    if sum(sizes) > SMALL_DATASET_BYTES:
        workers = workers_for(UNPACKED_FACTOR * max(sizes), len(cases))
    return map_in_workers(inspect_case, cases, workers=workers, on_result=on_case)


def inspect_case(case: Case) -> Inspection:
    """Read the files of a case and apply every rule that looks at one case."""
    volumes: dict[Path, Volume] = {}
    findings: list[Finding] = []
    for path in (*case.images, case.label):
        try:
            volumes[path] = read_volume(path, memory_bytes=free_memory_bytes())
        except VolumeError as problem:
            message = f"{path.name}: {problem.problem}"
            findings.append(Finding("error", case.source, problem.rule, message, problem.fix))
    # What can be read is judged all the same, so that everything is said in one go.
    findings += [finding for rule in CASE_RULES for finding in rule(case, volumes)]
    if any(finding.severity == "error" for finding in findings):
        return Inspection(None, tuple(findings))
    return Inspection(_facts(case, list(volumes.values())), tuple(findings))


def _facts(case: Case, volumes: Sequence[Volume]) -> CaseFacts:
    first = volumes[0]
    shifts = [grid_shift(first, other) for other in volumes]
    z, y, x = first.array.shape
    return CaseFacts(
        name=case.name,
        shape=(z, y, x),
        spacing_mm=first.spacing_mm,
        value_ranges=tuple(
            (float(image.array.min()), float(image.array.max())) for image in volumes[:-1]
        ),
        label_voxels=_count_values(volumes[-1].array),
        shifted_files=tuple(place for place, shift in enumerate(shifts) if shift > SAME_GRID),
        content=hashlib.sha256(first.array.tobytes()).hexdigest(),
    )


def _count_values(array: np.ndarray[Any, Any]) -> dict[int, int]:
    counts: Counter[int] = Counter()
    # Slice by slice: sorting a whole volume would need a second copy of it.
    for slice_ in array:
        values, numbers = np.unique(slice_, return_counts=True)
        for value, number in zip(values, numbers, strict=True):
            counts[round(float(value))] += int(number)
    return {value: counts[value] for value in sorted(counts) if value != 0}


# --- rules on one case -------------------------------------------------------------------------


def one_grid(case: Case, volumes: Mapping[Path, Volume]) -> Iterator[Finding]:
    """All files of a case lie on the grid of its first image."""
    grid = case.images[0]
    if grid not in volumes:
        return
    first = volumes[grid]
    for path, other in volumes.items():
        what = "label map" if path == case.label else "image"
        if other.array.shape != first.array.shape:
            message = (
                f"the {what} {path.name} has shape {_times(other.array.shape)}, the image "
                f"{grid.name} has {_times(first.array.shape)} (z, y, x)"
            )
            fix = "Export both on the same grid."
            yield Finding("error", case.source, "shape mismatch", message, fix)
        elif (shift := grid_shift(first, other)) > GRID_TOLERANCE:
            message = (
                f"the {what} {path.name} lies {shift:.2f} voxels away from {grid.name} "
                f"(spacing, origin or direction differ; {GRID_TOLERANCE} is tolerated)"
            )
            fix = "Resample one onto the grid of the other, for example in 3D Slicer."
            yield Finding("error", case.source, "geometry mismatch", message, fix)


def varying_images(case: Case, volumes: Mapping[Path, Volume]) -> Iterator[Finding]:
    """Images hold more than one value."""
    for path in case.images:
        image = volumes.get(path)
        if image is not None and image.array.min() == image.array.max():
            message = f"{path.name} is {float(image.array.min()):g} everywhere"
            fix = "Export the image again, or remove the patient."
            yield Finding("error", case.source, "constant image", message, fix)


def whole_labels(case: Case, volumes: Mapping[Path, Volume]) -> Iterator[Finding]:
    """Label maps hold whole numbers that are not negative."""
    if case.label not in volumes:
        return
    array = volumes[case.label].array
    if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        message = f"{case.label.name} holds values that are not whole numbers"
        fix = "Export it as a label map without interpolation (nearest neighbour)."
        yield Finding("error", case.source, "label values", message, fix)
    elif array.min() < 0:
        message = f"{case.label.name} holds the negative value {array.min():g}"
        yield Finding("error", case.source, "label values", message, "Use values from 0 upwards.")


CASE_RULES: tuple[Callable[[Case, Mapping[Path, Volume]], Iterator[Finding]], ...] = (
    one_grid,
    varying_images,
    whole_labels,
)


# --- rules on the whole dataset ----------------------------------------------------------------


def judge_dataset(cases: Sequence[Case], facts: Sequence[CaseFacts]) -> list[Finding]:
    """Apply every rule that looks at all cases together."""
    sources = {case.name: case.source for case in cases}
    rules = (_twice, _no_foreground, _nothing_to_learn)
    return [finding for rule in rules for finding in rule(facts, sources)]


def _twice(facts: Sequence[CaseFacts], sources: Mapping[str, str]) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for fact in facts:
        twin = first.setdefault(fact.content, fact.name)
        if twin != fact.name:
            message = f"its image is the same as that of {sources[twin]}"
            fix = "Remove one of the two: an image that trains and is evaluated flatters the model."
            yield Finding("error", sources[fact.name], "same image twice", message, fix)


def _no_foreground(facts: Sequence[CaseFacts], sources: Mapping[str, str]) -> Iterator[Finding]:
    for fact in facts:
        if not fact.label_voxels:
            message = "the label map is background only"
            fix = "Right if the patient is healthy; otherwise draw the label or remove the patient."
            yield Finding("warning", sources[fact.name], "empty label map", message, fix)


def _nothing_to_learn(facts: Sequence[CaseFacts], _: Mapping[str, str]) -> Iterator[Finding]:
    if facts and not any(fact.label_voxels for fact in facts):
        message = "no label map marks anything"
        fix = "Draw what is to be segmented, with values from 1 upwards."
        yield Finding("error", "", "no foreground", message, fix)


def _times(shape: Sequence[int]) -> str:
    return " x ".join(str(size) for size in shape)


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
