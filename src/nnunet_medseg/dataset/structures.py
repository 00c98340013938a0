"""Structures of DICOM files as labels: which name gets which value, and one label map of them all.

A structure has a number within its file only. What makes it the same label in all patients is its
name, whatever its case and the blanks around it.
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_medseg.dataset.case import Case, Dataset, Finding
from nnunet_medseg.dataset.labels import LabelWish
from nnunet_medseg.errors import UsageError
from nnunet_medseg.volume import Volume, VolumeError

__all__ = ["merge_structures", "name_key", "name_structures", "number_structures"]

MAX_SHOWN = 30  # names
# Of the free memory, for masks of a byte a voxel: image and label map need theirs too.
MASKS_SHARE = 0.25

MOST_APART = 2  # slices that may have nothing between them

_Mask = np.ndarray[Any, np.dtype[np.bool_]]


def name_key(name: str) -> str:
    """Return what names have in common that mean the same.

    Examples:
        >>> name_key(" Left  Kidney")
        'left kidney'
    """
    # Letters with accents are written in two ways that look the same.
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def name_structures(names: Sequence[str]) -> dict[str, int]:
    """Return a value for each name, as its key, by the order of the alphabet.

    Args:
        names: All names of all files, with repetitions.
    """
    return {key: value for value, key in enumerate(sorted({name_key(n) for n in names}), start=1)}


def usual_names(names: Sequence[str]) -> dict[str, str]:
    """Return how each key is written most often."""
    found = Counter(" ".join(name.split()) for name in names)
    ordered = sorted(found, key=lambda name: (found[name], name))
    return {name_key(name): name for name in ordered}


def number_structures(
    dataset: Dataset, wishes: tuple[LabelWish, ...]
) -> tuple[Dataset, tuple[LabelWish, ...]]:
    """Give structures the values that `-l` asks for, and leave out those that it does not.

    A wish is a name, or a pattern as regular expressions are written, `GTV.*`, that all of a name
    must match, upper or lower case alike. What one pattern matches becomes one label. Without a
    value, labels are numbered in the order of the wishes. Where two structures overlap, the later
    wish wins.

    Args:
        dataset: Any; without structures it stays as it is.
        wishes: From `parse_labels`; empty for every structure.

    Returns:
        The dataset, and wishes that name its values.

    Raises:
        UsageError: When a wish matches no name, or two match the same one.
    """
    if not any(case.structures for case in dataset.cases):
        return dataset, wishes
    if not wishes:
        found = _drawn_twice(dataset, set(dataset.label_names))
        return replace(dataset, findings=(*dataset.findings, *found)), wishes
    matched = [_matches(wish, dataset.label_names) for wish in wishes]
    _require_distinct(wishes, matched, dataset.label_names)
    findings = (
        *dataset.findings,
        *_drawn_twice(dataset, {value for found in matched for value in found}),
        *(item for wish, found in zip(wishes, matched, strict=True)
          for item in _not_drawn(dataset, wish, found)),
    )  # fmt: skip
    given = {wish.value for wish in wishes if wish.value is not None}
    free = (value for value in range(1, len(wishes) + len(given) + 1) if value not in given)
    values = [next(free) if wish.value is None else wish.value for wish in wishes]
    names = [
        _label_name(wish, [dataset.label_names[value] for value in found])
        for wish, found in zip(wishes, matched, strict=True)
    ]
    new_value = {
        old: (place, value)
        for place, (value, found) in enumerate(zip(values, matched, strict=True))
        for old in found
    }
    cases = tuple(_renumbered(case, new_value) for case in dataset.cases)
    asked = tuple(LabelWish(name, value) for name, value in zip(names, values, strict=True))
    numbered = replace(
        dataset,
        cases=cases,
        label_names=dict(zip(values, names, strict=True)),
        findings=findings,
    )
    return numbered, asked


def _drawn_twice(dataset: Dataset, asked: set[int]) -> Iterator[Finding]:
    """Tell of structures that were drawn on one series in several files."""
    for case in dataset.cases:
        files: dict[int, set[Path]] = {}
        for value, path, _ in case.structures:
            files.setdefault(value, set()).add(path)
        for value, paths in files.items():
            if len(paths) > 1 and value in asked:
                shown = ", ".join(sorted(path.name for path in paths))
                message = f"{dataset.label_names[value]} is drawn in several files: {shown}"
                fix = "Leave one of the files there."
                yield Finding("error", case.source, "several label maps", message, fix)


def _not_drawn(dataset: Dataset, wish: LabelWish, asked: list[int]) -> Iterator[Finding]:
    """Tell of cases where nothing has the name that a wish means; it may have another there."""
    for case in dataset.cases:
        values = {value for value, _, _ in case.structures}
        if not values & set(asked):
            others = sorted(dataset.label_names[value] for value in values)
            shown = ", ".join(others[:MAX_SHOWN]) + " …" * (len(others) > MAX_SHOWN)
            message = f"no structure is called {wish.name or wish.value} here; there are: {shown}"
            fix = "Right if it is not there. If it has another name, take a pattern: -l 'A|B=1'."
            yield Finding("warning", case.source, "not drawn", message, fix)


def _matches(wish: LabelWish, names: dict[int, str]) -> list[int]:
    if wish.name is None:
        found = [value for value in names if value == wish.value]
    else:
        key = name_key(wish.name)
        found = [value for value, name in names.items() if name_key(name) == key]
        found = found or [value for value, name in names.items() if _fits(wish.name, name)]
    if not found:
        shown = ", ".join(sorted(names.values())[:MAX_SHOWN]) + (" …" * (len(names) > MAX_SHOWN))
        problem = f"No structure is called {wish.name or wish.value}. There are: {shown}."
        fix = "Name one of them with -l, or several by a pattern, for example -l 'GTV.*=1'."
        raise UsageError(problem, fix=fix)
    return found


def _fits(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name.strip(), re.IGNORECASE) is not None
    except (re.error, RecursionError, OverflowError) as cause:
        problem = f"-l: {pattern} is no name of a structure, and as a pattern it is: {cause}."
        raise UsageError(problem, fix="Write for example -l 'GTV.*=1'.") from cause


def _require_distinct(
    wishes: Sequence[LabelWish], matched: Sequence[list[int]], names: dict[int, str]
) -> None:
    counts = Counter(value for found in matched for value in found)
    twice = [names[value] for value, count in counts.items() if count > 1]
    if twice:
        shown = ", ".join(str(wish.name or wish.value) for wish in wishes)
        problem = f"-l {shown}: {twice[0]} is meant by two of them."
        raise UsageError(problem, fix="Let each structure be meant by one.")


def _label_name(wish: LabelWish, matched: Sequence[str]) -> str:
    """Return the name of a label: the user's, or what the matched names have in common."""
    if wish.name is not None and re.escape(wish.name) == wish.name.replace(" ", r"\ "):
        return wish.name
    shortest = min((name.strip() for name in matched), key=len)
    shared = [length for length in range(len(shortest) + 1)
              if all(name.strip().startswith(shortest[:length]) for name in matched)]  # fmt: skip
    return shortest[: max(shared)].rstrip(" _-.") or str(wish.name or matched[0])


def _renumbered(case: Case, new_value: dict[int, tuple[int, int]]) -> Case:
    kept = [item for item in case.structures if item[0] in new_value]
    kept.sort(key=lambda item: new_value[item[0]][0])
    structures = tuple((new_value[old][1], path, number) for old, path, number in kept)
    return replace(case, structures=structures, is_layered=len(set(new_value.values())) > 1)


def merge_structures(case: Case, grid: Volume, *, memory_bytes: float = math.inf) -> Volume:
    """Return the label map of a case's structures on the grid of its image.

    Args:
        case: With structures; none of them in this case makes an empty map.
        grid: The image as its slices lie.
        memory_bytes: What the masks may take; beyond it, files are read again for the others.

    Raises:
        VolumeError: When one cannot be read or put on the grid, or two of different labels overlap
            and the user has not said which one wins.
    """
    merged = np.zeros(grid.array.shape, dtype=np.uint16)
    share = memory_bytes * MASKS_SHARE / max(1, merged.size)
    at_once = int(min(max(1, share), max(1, len(case.structures))))
    for start in range(0, len(case.structures), at_once):
        batch = case.structures[start : start + at_once]
        masks = _read_masks(batch, grid)
        for value, path, number in batch:
            _require_whole(masks[path, number], path, value)
            _merge(merged, masks[path, number], value, None if case.is_layered else path)
    # What was said of the image is no news of the label map.
    return replace(grid.with_array(merged), notes=())


def _read_masks(
    structures: Sequence[tuple[int, Path, int]], grid: Volume
) -> dict[tuple[Path, int], _Mask]:
    from nnunet_medseg.volume.dicom.structures import read_structures

    masks: dict[tuple[Path, int], _Mask] = {}
    for path in dict.fromkeys(path for _, path, _ in structures):
        numbers = [number for _, other, number in structures if other == path]
        try:
            found = read_structures(path, grid, numbers)
        except VolumeError as error:
            raise VolumeError(error.rule, f"{path.name}: {error.problem}", error.fix) from error
        masks |= {(path, number): mask for number, mask in found.items()}
    return masks


def _require_whole(mask: _Mask, path: Path, value: int) -> None:
    """Refuse what was drawn on every second or third slice only, for a program to fill the rest."""
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    left_out = [
        bool((mask[low] & mask[high]).any())
        for low, high in itertools.pairwise(slices.tolist())
        if high > low + 1
    ]
    # Small things far from each other lie above each other by chance only.
    if len(slices) > MOST_APART and 2 * sum(left_out) >= len(slices):
        span = int(slices[-1] - slices[0]) + 1
        problem = (
            f"{path.name}: the structure of label {value} is drawn on {len(slices)} of {span} "
            "slices only, and lies above itself where it is left out"
        )
        fix = "Let the program that it was drawn with fill the slices between; export it again."
        raise VolumeError("slices between", problem, fix)


def _merge(merged: np.ndarray[Any, Any], mask: _Mask, value: int, told: Path | None) -> None:
    """Set a value; where another label is in its way, tell of the file, unless there is none."""
    others = mask & (merged != 0) & (merged != value)
    if told is not None and others.any():
        problem = (
            f"{told.name}: the structure of label {value} overlaps with that of label "
            f"{int(merged[others].max())} in {int(others.sum())} voxels"
        )
        fix = "Name what is to be segmented with -l; where two overlap, the later one wins."
        raise VolumeError("overlapping structures", problem, fix)
    merged[mask] = value
