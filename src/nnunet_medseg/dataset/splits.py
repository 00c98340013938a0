"""Who trains and who is evaluated: splits by patient.

With patients marked as held out, these are evaluated and all others train. Without them, `all`
trains on every patient and evaluates nobody, a number picks one of at most five seeded folds, and
`cv` (cross-validation) takes them all, so that every patient is evaluated once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_medseg.dataset.case import Case
from nnunet_medseg.errors import DatasetError, UsageError

__all__ = ["FOLDS", "Split", "check_fold", "split_cases", "split_folds"]

MAX_FOLDS = 5  # as nnU-Net; crossval_split.py of 2.8.1
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


def split_folds(cases: Sequence[Case], fold: str, seed: int) -> dict[str, Split]:
    """Return the split of each fold that is to be trained, by the name of the fold.

    Args:
        cases: All cases, one a patient.
        fold: "all", "0" … "4", or "cv" for as many folds as there are.
        seed: Decides the folds.

    Raises:
        DatasetError: When the fold does not exist for these cases, or nobody is left to train.
    """
    if fold != "cv":
        return {fold: split_cases(cases, fold, seed)}
    others = [case for case in cases if not case.is_held_out]
    if len(others) < len(cases) or len(others) < 2:
        raise _no_folds(len(cases) - len(others))
    number = min(MAX_FOLDS, len(cases))
    return {str(place): split_cases(cases, str(place), seed) for place in range(number)}


def _no_folds(held_out: int) -> DatasetError:
    if not held_out:
        problem = "-f cv: one patient cannot be split into folds."
        return DatasetError(problem, fix="Use -f all, or add patients.")
    problem = (
        f"-f cv does not go with this dataset: {held_out} patients are marked for validation "
        "(their label map is called validate), so there is one split only."
    )
    return DatasetError(problem, fix="Use -f 0; or rename validate to train to use folds.")


def split_cases(cases: Sequence[Case], fold: str, seed: int) -> Split:
    """Split the cases for one fold.

    Args:
        cases: All cases, one a patient.
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
        return _keep_held_out(others, held_out, fold)
    if fold == "all":
        return Split(others, ())
    return _fold(others, int(fold), seed)


def _keep_held_out(others: tuple[str, ...], held_out: tuple[str, ...], fold: str) -> Split:
    if fold not in {"all", "0"}:
        problem = (
            f"-f {fold} does not go with this dataset: {len(held_out)} patients are marked for "
            "validation (their label map is called validate), so there is one split only."
        )
        fix = "Use -f 0 or -f all; or rename validate to train to use folds."
        raise DatasetError(problem, fix=fix)
    return Split(others, held_out)


def _fold(names: tuple[str, ...], fold: int, seed: int) -> Split:
    folds = min(MAX_FOLDS, len(names))
    if folds < 2:
        problem = f"-f {fold}: one patient cannot be split into a training and a validation part."
        raise DatasetError(problem, fix="Use -f all, or add patients.")
    if fold >= folds:
        problem = (
            f"-f {fold}: with {len(names)} patients there are {folds} folds, 0 to {folds - 1}."
        )
        raise DatasetError(problem, fix=f"Use a fold from 0 to {folds - 1}, or -f all.")
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = {int(place) for place in np.array_split(order, folds)[fold]}
    return Split(
        tuple(name for place, name in enumerate(names) if place not in chosen),
        tuple(name for place, name in enumerate(names) if place in chosen),
    )
