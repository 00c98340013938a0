"""Look at a dataset: recognise it, find every problem, settle labels, channels and split."""

from __future__ import annotations

from pathlib import Path

from nnunet_medseg import console
from nnunet_medseg.dataset.case import Finding
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
from nnunet_medseg.errors import DatasetError
from nnunet_medseg.volume import extension_of
from nnunet_medseg.workflows.options import TrainOptions, read_train_options

__all__ = ["check", "examine", "show_findings"]

MAX_SHOWN = 200  # findings; more are counted only


def check(dataset: Path, **options: object) -> Checked:
    """Check a dataset without changing or training anything.

    Args:
        dataset: The folder with the dataset.
        options: `label`, `image_type`, `fold`, `extension`, `seed`, as for training.

    Returns:
        The dataset as it would be trained on.

    Raises:
        DatasetError: When there are problems; all have been shown.
    """
    checked, _ = examine(find_dataset(Path(dataset)), read_train_options(**options))
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
    dataset = read_dataset(folder, options.extension)
    wishes = Wishes(
        parse_labels(options.label),
        parse_image_types(options.image_type),
        options.fold,
        options.seed,
    )
    with console.progress("Reading images", len(dataset.cases), "cases") as bar:
        outcome = check_dataset(dataset, wishes, bar.update, inspect)
    show_findings(outcome.findings)
    if outcome.checked is None:
        raise _refusal(outcome)
    kinds = {extension_of(case.label) for case in dataset.cases}
    console.detail(
        f"{dataset.layout}, {len(dataset.cases)} cases ({', '.join(sorted(map(str, kinds)))})"
    )
    _show_plan(outcome.checked, outcome.channel_reason)
    return outcome.checked, outcome.findings


def _refusal(outcome: CheckOutcome) -> Exception:
    if outcome.error is not None:
        return outcome.error
    count = sum(finding.severity == "error" for finding in outcome.findings)
    problem = f"The dataset has {count} problem{'s' * (count != 1)}, listed above."
    fix = "Put them right in the copy and run the same command again. Nothing was deleted."
    return DatasetError(problem, fix=fix)


def show_findings(findings: tuple[Finding, ...]) -> None:
    """Print the findings as a table, unless the error that follows says the only one."""
    only_options = len(findings) == 1 and findings[0].rule == "options"
    if not findings or only_options:
        return
    rows = [
        [item.severity, item.case or "all", item.rule, f"{item.message}. {item.fix}"]
        for item in findings[:MAX_SHOWN]
    ]
    console.table("", ["", "case", "rule", "what was found, and what to do"], rows)
    if len(findings) > MAX_SHOWN:
        console.detail(f"… and {len(findings) - MAX_SHOWN} more")


def _show_plan(checked: Checked, channel_reason: str) -> None:
    labels = ", ".join(f"{label.name} = {label.value}" for label in checked.labels)
    console.detail(f"labels: {labels}; images: {', '.join(checked.channels)} ({channel_reason})")
    if len(checked.folds) > 1:
        each = f"{len(checked.folds)} folds: each of {len(checked.cases)} cases is held out once"
        console.detail(each)
        return
    (split,) = checked.folds.values()
    console.detail(f"{len(split.train)} cases train, {len(split.evaluate)} are held out")
    if not split.evaluate:
        console.warn("nothing is held out: no Dice will be measured (use -f 0 for one)")
