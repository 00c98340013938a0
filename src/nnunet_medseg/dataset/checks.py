"""Problems of a dataset, found before an hour is spent: every case is read once.

Promises: every file is read once; all problems are found in one go; nothing is changed.
Does not promise: that the labels are drawn well.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_medseg.dataset.case import Case, Finding
from nnunet_medseg.dataset.case_rules import CASE_RULES
from nnunet_medseg.dataset.contents import Contents, read_contents
from nnunet_medseg.dataset.facts import CaseFacts, signature_of
from nnunet_medseg.dataset.repairs import repair
from nnunet_medseg.hardware import workers_for
from nnunet_medseg.parallel import map_in_workers
from nnunet_medseg.volume import Volume, orientation_code

__all__ = ["Inspection", "inspect_case", "inspect_cases"]

ENDS = ("RL", "AP", "SI")  # of the axes of a body
# Starting workers costs about a second; below this size one process has read everything by then.
SMALL_DATASET_BYTES = 200e6
# Compressed medical images unpack to about this many times their size, and reading needs copies.
UNPACKED_FACTOR = 10


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
    """Read the files of a case, repair what may be, and apply every rule that looks at one case."""
    contents, unreadable = read_contents(case)
    repaired, repairs = repair(case, contents)
    # What can be read is judged all the same, so that everything is said in one go.
    findings = [*unreadable, *(one for rule in CASE_RULES for one in rule(case, repaired))]
    if any(finding.severity == "error" for finding in findings):
        return Inspection(None, tuple(findings))
    return Inspection(_facts(case, repaired), (*repairs, *findings))


def _facts(case: Case, contents: Contents) -> CaseFacts:
    first, label = contents.channels[0].volume, contents.parts[-1]
    z, y, x = first.array.shape
    return CaseFacts(
        name=case.name,
        shape=(z, y, x),
        spacing_mm=first.spacing_mm,
        orientation=orientation_code(first),
        value_ranges=tuple(
            (float(part.array.min()), float(part.array.max())) for part in contents.channels
        ),
        label_voxels=_count_values(label.array),
        changed_parts=tuple(place for place, part in enumerate(contents.parts) if part.is_changed),
        content=_hash(contents),
        signature=signature_of(_towards_ras(first)),
    )


def _towards_ras(volume: Volume) -> np.ndarray[Any, Any]:
    """Return a view of the voxels, shape `(z, y, x)`, with axes that point as those of RAS."""
    code = orientation_code(volume)
    places = [next(place for place, ends in enumerate(ENDS) if end in ends) for end in code]
    view = np.transpose(volume.array.T, np.argsort(places))
    ends = sorted(code, key=lambda end: places[code.index(end)])
    flips = tuple(slice(None, None, 1 if end in "RAS" else -1) for end in ends)
    turned: np.ndarray[Any, Any] = view[flips].T
    return turned


def _hash(contents: Contents) -> str:
    # Of the first image: two patients may have the same second one, as an empty map.
    array = np.ascontiguousarray(contents.channels[0].array)
    return hashlib.sha256(array.data).hexdigest()


def _count_values(array: np.ndarray[Any, Any]) -> dict[int, int]:
    counts: Counter[int] = Counter()
    # Slice by slice: sorting a whole volume would need a second copy of it.
    for slice_ in array:
        if slice_.dtype == np.uint8:
            numbers = np.bincount(slice_.ravel())
            values = np.flatnonzero(numbers)
            numbers = numbers[values]
        else:
            values, numbers = np.unique(slice_, return_counts=True)
        for value, number in zip(values, numbers, strict=True):
            counts[round(float(value))] += int(number)
    return {value: counts[value] for value in sorted(counts) if value != 0}
