"""Look at a dataset: recognise it, find every problem, settle labels, channels and split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nnunet_medseg import console
from nnunet_medseg.dataset.case import Case, Dataset, Finding
from nnunet_medseg.dataset.channels import parse_image_types
from nnunet_medseg.dataset.checked import (
    Checked,
    CheckOutcome,
    Inspector,
    Wishes,
    check_dataset,
)
from nnunet_medseg.dataset.checks import inspect_cases
from nnunet_medseg.dataset.intake import find_dataset, read_dataset
from nnunet_medseg.dataset.labels import parse_labels
from nnunet_medseg.errors import DatasetError, UserError
from nnunet_medseg.volume import extension_of
from nnunet_medseg.workflows.options import TrainOptions, read_train_options

__all__ = ["check", "describe", "examine", "show_findings"]

MAX_SHOWN = 200  # rows of findings; more are counted only
MAX_ALIKE, TOLD_ALIKE, MAX_NAMED = 5, 3, 50  # findings of one kind, those told whole, cases named
MAX_PAIRS = 10  # cases whose files are shown


def check(dataset: Path, **options: object) -> Checked:
    """Check a dataset without changing or training anything, and show what is read as what.

    Args:
        dataset: The folder with the dataset.
        options: `label`, `image_type`, `fold`, `extension`, `layout`, `seed`, as for training.

    Returns:
        The dataset as it would be trained on.

    Raises:
        DatasetError: When there are problems; all have been shown.
    """
    asked = read_train_options(**options)
    found = _read(find_dataset(Path(dataset), asked.layout), asked)
    _show_pairs(found)
    checked, _ = _examine(found, asked, inspect_cases)
    return checked


def examine(
    folder: Path, options: TrainOptions, inspect: Inspector = inspect_cases
) -> tuple[Checked, tuple[Finding, ...]]:
    """Check the dataset in a folder, and show what was found.

    Args:
        folder: From `find_dataset`.
        options: What was asked.
        inspect: As for `check_dataset`.

    Returns:
        The dataset as it would be trained on, and the warnings.

    Raises:
        UserError: When there are problems; all have been shown.
    """
    return _examine(_read(folder, options), options, inspect)


def describe(dataset: Path, **options: object) -> tuple[dict[str, Any], int]:
    """Check a dataset without changing or showing anything.

    Args:
        dataset: The folder with the dataset.
        options: As for `check`.

    Returns:
        What was found, in types of JSON, and the exit status: 0, or that of the error.
    """
    content: dict[str, Any] = {"ready": False, "folder": None, "layout": None, "reason": ""}
    content |= {"cases": [], "labels": [], "channels": [], "folds": {}, "findings": []}
    try:
        asked = read_train_options(**options)
        found = read_dataset(
            find_dataset(Path(dataset), asked.layout), asked.extension, asked.layout
        )
        content |= {"folder": str(found.folder), "layout": found.layout, "reason": found.reason}
        content["cases"] = [_case_json(case, found.folder) for case in found.cases]
        outcome = check_dataset(found, _wishes_of(asked))
        content["findings"] = [asdict(finding) for finding in outcome.findings]
        if outcome.checked is None:
            raise _refusal(outcome)
    except UserError as error:
        if not content["findings"]:
            alone = Finding("error", "", "dataset", error.problem, error.fix)
            content["findings"] = [asdict(alone)]
        return content, error.exit_code
    return content | _checked_json(outcome.checked, found.folder), 0


def _checked_json(checked: Checked, folder: Path) -> dict[str, Any]:
    return {
        "ready": True,
        "cases": [_case_json(case, folder) for case in checked.cases],
        "labels": [{"name": label.name, "value": label.value} for label in checked.labels],
        "channels": list(checked.channels),
        "folds": {fold: asdict(split) for fold, split in checked.folds.items()},
    }


def _case_json(case: Case, folder: Path) -> dict[str, Any]:
    return {
        "name": case.name,
        "source": case.source,
        "owner": case.owner,
        "held_out": case.is_held_out,
        "images": [_below(path, folder) for path in case.images],
        "frames": list(case.frames),
        "label": None if case.masks else _below(case.label, folder),
        "masks": {str(value): _below(path, folder) for value, path in case.masks},
        "series": [[_below(path, folder) for path in files] for files in case.series],
        "structures": [
            {"value": value, "file": _below(path, folder), "number": number}
            for value, path, number in case.structures
        ],
    }


def _wishes_of(options: TrainOptions) -> Wishes:
    return Wishes(
        parse_labels(options.label),
        parse_image_types(options.image_type),
        options.fold,
        options.seed,
    )


def _read(folder: Path, options: TrainOptions) -> Dataset:
    dataset = read_dataset(folder, options.extension, options.layout)
    console.detail(f"layout: {dataset.layout} ({dataset.reason})")
    return dataset


def _show_pairs(dataset: Dataset) -> None:
    """Print which files the first cases are of."""
    rows = [
        [
            case.source + (" (held out)" if case.is_held_out else ""),
            _images_of(case, dataset.folder),
            _below(case.label, dataset.folder)
            + (f" ({len(case.masks)} masks)" if case.masks else "")
            + (f" ({len(case.structures)} structures)" if case.structures else ""),
        ]
        for case in dataset.cases[:MAX_PAIRS]
    ]
    if rows:
        console.table("", ["case", "images", "label map"], rows)
    if len(dataset.cases) > MAX_PAIRS:
        console.detail(f"… and {len(dataset.cases) - MAX_PAIRS} more")


def _images_of(case: Case, folder: Path) -> str:
    if not case.series:
        return ", ".join(_below(path, folder) for path in case.images)
    return ", ".join(
        f"{_below(files[0].parent, folder)} ({len(files)} files)" for files in case.series
    )


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _examine(
    dataset: Dataset, options: TrainOptions, inspect: Inspector
) -> tuple[Checked, tuple[Finding, ...]]:
    with console.progress("Reading images", len(dataset.cases), "cases") as bar:
        outcome = check_dataset(dataset, _wishes_of(options), bar.update, inspect)
    show_findings(outcome.findings)
    if outcome.checked is None:
        raise _refusal(outcome)
    # DICOM is what has no ending of ours.
    kinds = {extension_of(path) or "DICOM files" for case in dataset.cases for path in case.files}
    shown = ", ".join(sorted(kinds))
    console.detail(f"{console.counted(len(dataset.cases), 'case')} ({shown})")
    _show_plan(outcome.checked, outcome.channel_reason)
    return outcome.checked, outcome.findings


def _refusal(outcome: CheckOutcome) -> UserError:
    if outcome.error is not None:
        return outcome.error
    count = sum(finding.severity == "error" for finding in outcome.findings)
    problem = f"The dataset has {console.counted(count, 'problem')}, listed above."
    if not count:
        problem = "The dataset has no case that can be used."
    fix = "Put them right in the copy and run the same command again. Nothing was deleted."
    return DatasetError(problem, fix=fix)


def show_findings(findings: tuple[Finding, ...]) -> None:
    """Print the findings as a table, unless the error that follows says the only one."""
    only_options = len(findings) == 1 and findings[0].rule == "options"
    if not findings or only_options:
        return
    shown = [row for group in _alike(findings) for row in _rows(group)]
    console.table("", ["", "case", "rule", "what was found, and what to do"], shown[:MAX_SHOWN])
    if len(shown) > MAX_SHOWN:
        console.detail(f"… and {len(shown) - MAX_SHOWN} more")


def _alike(findings: tuple[Finding, ...]) -> list[list[Finding]]:
    """Return the findings by severity, rule and fix, in the order in which these come first."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for item in findings:
        groups.setdefault((item.severity, item.rule, item.fix), []).append(item)
    return list(groups.values())


def _rows(group: list[Finding]) -> Iterator[list[str]]:
    """Tell the first of findings that are alike one by one, and name the cases of the others."""
    is_long = len(group) > MAX_ALIKE
    told = group[:TOLD_ALIKE] if is_long else group
    for item in told:
        yield [item.severity, item.case or "all", item.rule, f"{item.message}. {item.fix}"]
    others = [item.case or "all" for item in group[len(told) :]]
    if others:
        names = ", ".join(others[:MAX_NAMED]) + (" …" if len(others) > MAX_NAMED else "")
        first = group[0]
        yield [first.severity, f"{len(others)} more", first.rule, f"the like in {names}"]


def _show_plan(checked: Checked, channel_reason: str) -> None:
    labels = ", ".join(f"{label.name} = {label.value}" for label in checked.labels)
    console.detail(f"labels: {labels}; images: {', '.join(checked.channels)} ({channel_reason})")
    if len(checked.folds) > 1:
        each = f"{len(checked.folds)} folds: each of {len(checked.cases)} cases is held out once"
        console.detail(each)
        return
    (split,) = checked.folds.values()
    trained = console.counted(len(split.train), "case")
    console.detail(f"to train: {trained}; held out: {len(split.evaluate)}")
    if not split.evaluate:
        console.warn("nothing is held out: no Dice will be measured (use -f 0 for one)")
