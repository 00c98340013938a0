"""Who trains and who is evaluated: splits by patient.

With patients marked as held out, these are evaluated and all others train. Without them, `all`
trains on every patient and evaluates nobody, a number picks one of at most five seeded folds, and
`cv` (cross-validation) takes them all, so that every patient is evaluated once. All images of a
patient are on one side, and each fold has about as many cases with each label as the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_medseg.dataset.case import Case
from nnunet_medseg.errors import DatasetError, UsageError

__all__ = ["FOLDS", "Split", "check_fold", "split_cases", "split_folds"]

MAX_FOLDS = 5  # as nnU-Net; crossval_split.py of 2.8.1
# Label values that each case has, by its name.
Classes = Mapping[str, frozenset[int]]

FOLDS = ("all", *(str(number) for number in range(MAX_FOLDS)), "cv")


@dataclass(frozen=True)
class Split:
    """Names of the cases that train, and of those that are evaluated."""

    train: tuple[str, ...]
    evaluate: tuple[str, ...]


def check_fold(text: str) -> str:
    """Return the fold as it is written everywhere.

    Raises:
        UsageError: When there is no such fold.
    """
    fold = text.strip().lower()
    if fold not in FOLDS:
        problem = f"-f {text} is not a fold."
        raise UsageError(problem, fix="Use all, cv, or a number from 0 to 4.")
    return fold


def split_folds(cases: Sequence[Case], classes: Classes, fold: str, seed: int) -> dict[str, Split]:
    """Return the split of each fold that is to be trained, by the name of the fold.

    Args:
        cases: All cases.
        classes: Label values that each case has, by its name.
        fold: "all", "0" … "4", or "cv" for as many folds as there are.
        seed: Decides the folds.

    Raises:
        DatasetError: When the fold does not exist for these cases, or nobody is left to train.
    """
    if fold != "cv":
        return {fold: split_cases(cases, classes, fold, seed)}
    owners = {case.owner for case in cases}
    held_out = _held_out_patients(cases)
    if held_out or len(owners) < 2:
        raise _no_folds(held_out)
    number = min(MAX_FOLDS, len(owners))
    return {str(place): split_cases(cases, classes, str(place), seed) for place in range(number)}


def _held_out_patients(cases: Sequence[Case]) -> int:
    return len({case.owner for case in cases if case.is_held_out})


def _no_folds(held_out: int) -> DatasetError:
    if not held_out:
        problem = "-f cv: one patient cannot be split into folds."
        return DatasetError(problem, fix="Use -f all, or add patients.")
    problem = (
        f"-f cv does not go with this dataset: {held_out} patients are marked for validation "
        "(their label map is called validate), so there is one split only."
    )
    return DatasetError(problem, fix="Use -f 0; or rename validate to train to use folds.")


def split_cases(cases: Sequence[Case], classes: Classes, fold: str, seed: int) -> Split:
    """Split the cases for one fold.

    Args:
        cases: All cases.
        classes: Label values that each case has, by its name.
        fold: "all" or "0" … "4".
        seed: Decides the folds.

    Raises:
        DatasetError: When the fold does not exist for these cases, or nobody is left to train.
    """
    held_out = tuple(case.name for case in cases if case.is_held_out)
    others = tuple(case.name for case in cases if not case.is_held_out)
    if not others:
        problem = "No patient is left to train on: every label map is called validate."
        raise DatasetError(problem, fix="Rename the label maps of most patients to train.")
    if held_out:
        _require_one_split(fold, _held_out_patients(cases))
        return Split(others, held_out)
    if fold == "all":
        return Split(others, ())
    return _fold(cases, classes, int(fold), seed)


def _require_one_split(fold: str, held_out: int) -> None:
    if fold not in {"all", "0"}:
        problem = (
            f"-f {fold} does not go with this dataset: {held_out} patients are marked for "
            "validation (their label map is called validate), so there is one split only."
        )
        fix = "Use -f 0 or -f all; or rename validate to train to use folds."
        raise DatasetError(problem, fix=fix)


def _fold(cases: Sequence[Case], classes: Classes, fold: int, seed: int) -> Split:
    owners = sorted({case.owner for case in cases})
    folds = min(MAX_FOLDS, len(owners))
    if folds < 2:
        problem = f"-f {fold}: one patient cannot be split into a training and a validation part."
        raise DatasetError(problem, fix="Use -f all, or add patients.")
    if fold >= folds:
        problem = (
            f"-f {fold}: with {len(owners)} patients there are {folds} folds, 0 to {folds - 1}."
        )
        raise DatasetError(problem, fix=f"Use a fold from 0 to {folds - 1}, or -f all.")
    places = _stratify(cases, classes, folds, seed)
    return Split(
        tuple(case.name for case in cases if places[case.owner] != fold),
        tuple(case.name for case in cases if places[case.owner] == fold),
    )


def _stratify(cases: Sequence[Case], classes: Classes, folds: int, seed: int) -> dict[str, int]:
    """Return the fold of each owner: as many owners in each, and as many with each label.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011, doi:10.1007/978-3-642-23808-6_10):
    the rarest label is shared out first, each owner to the fold that lacks it most. Here no fold
    gets more than its share of owners, so that folds differ by one at most.

    Args:
        cases: All cases.
        classes: Label values that each case has, by its name.
        folds: Number of folds, at most that of the owners.
        seed: Decides the order of the owners, and which fold gets one too many.
    """
    labels: dict[str, frozenset[int]] = {}
    for case in cases:
        labels[case.owner] = labels.get(case.owner, frozenset()) | classes.get(
            case.name, frozenset()
        )
    rng = np.random.default_rng(seed)
    owners = [sorted(labels)[place] for place in rng.permutation(len(labels))]
    room = [len(part) for part in np.array_split(range(len(owners)), folds)]
    counts = Counter(label for owner in owners for label in labels[owner])
    wanted = [{label: count / folds for label, count in counts.items()} for _ in range(folds)]
    found: dict[str, int] = {}
    while len(found) < len(owners):
        left = [owner for owner in owners if owner not in found]
        remaining = Counter(label for owner in left for label in labels[owner])
        rarest = min(remaining, key=lambda label: (remaining[label], label), default=None)
        for owner in left:
            if rarest is not None and rarest not in labels[owner]:
                continue
            open_folds = [place for place in range(folds) if room[place]]
            place = max(
                open_folds, key=lambda place: (wanted[place].get(rarest or 0, 0.0), room[place])
            )
            found[owner] = place
            room[place] -= 1
            for label in labels[owner]:
                wanted[place][label] -= 1
    return found
