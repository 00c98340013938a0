"""A dataset that has passed its check: what later stages read of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_medseg.dataset.case import Case, Dataset, Finding
from nnunet_medseg.dataset.channels import ChannelPlan, choose_channels
from nnunet_medseg.dataset.checks import Inspection, inspect_cases
from nnunet_medseg.dataset.dataset_rules import (
    judge_channels,
    judge_dataset,
    usual_channels,
)
from nnunet_medseg.dataset.facts import CaseFacts, facts_from_json
from nnunet_medseg.dataset.labels import Label, LabelMap, LabelWish, resolve_labels
from nnunet_medseg.dataset.splits import Split, split_folds
from nnunet_medseg.dataset.structures import number_structures
from nnunet_medseg.errors import DatasetError, UsageError, UserError
from nnunet_medseg.files import read_json, write_json

__all__ = ["Checked", "Inspector", "Wishes", "check_dataset", "load_checked", "save_checked"]

MAX_SHOWN_VALUES = 10

Inspector = Callable[[Sequence[Case], Callable[[int], None]], list[Inspection]]


@dataclass(frozen=True)
class Wishes:
    """What the user asks of a dataset: `-l`, `-i`, `-f` and the seed, parsed."""

    labels: tuple[LabelWish, ...]
    image_types: tuple[str, ...]
    fold: str
    seed: int


@dataclass(frozen=True)
class Checked:
    """A dataset ready to be converted.

    Attributes:
        cases: With their images in training order.
        facts: One a case, in the same order.
        labels: What to segment.
        channels: Channel names in training order.
        folds: Who trains and who is evaluated, for each fold that is to be trained.
    """

    cases: tuple[Case, ...]
    facts: tuple[CaseFacts, ...]
    labels: LabelMap
    channels: tuple[str, ...]
    folds: dict[str, Split]

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Names of the cases that are evaluated in some fold, each once."""
        return tuple(name for split in self.folds.values() for name in split.evaluate)

    @property
    def open_to_training(self) -> tuple[str, ...]:
        """Names of the cases that may be trained on: all but those marked as held out."""
        return tuple(case.name for case in self.cases if not case.is_held_out)

    @property
    def owners(self) -> dict[str, str]:
        """Whose image each case is, by the name of the case."""
        return {case.name: case.owner for case in self.cases}

    def count_patients(self, names: Iterable[str]) -> int:
        """Return of how many patients these cases are."""
        owners = self.owners
        return len({owners[name] for name in names})

    @property
    def megavoxels(self) -> float:
        """Millions of voxels of all images."""
        voxels = sum(fact.shape[0] * fact.shape[1] * fact.shape[2] for fact in self.facts)
        return voxels * len(self.channels) / 1e6


@dataclass(frozen=True)
class CheckOutcome:
    """What a check tells.

    Attributes:
        checked: None when there are errors.
        findings: Worst first.
        channel_reason: Where the channel names come from.
        error: The one error that is not about the files, when it is the only one.
    """

    checked: Checked | None
    findings: tuple[Finding, ...]
    channel_reason: str = ""
    error: UserError | None = None


def check_dataset(
    dataset: Dataset,
    wishes: Wishes,
    on_case: Callable[[int], None] = lambda _: None,
    inspect: Inspector = inspect_cases,
) -> CheckOutcome:
    """Find all problems of a dataset, and settle labels, channels and split.

    Args:
        dataset: From `read_dataset`.
        wishes: What the user asks.
        on_case: Called with the number of cases that are done.
        inspect: Reads the cases; one that remembers what it has read may stand in.
    """
    if not dataset.cases and not dataset.findings:
        problem = f"There is no case in {dataset.folder} ({dataset.layout})."
        raise DatasetError(problem, fix="Copy the images and label maps into it.")
    try:
        dataset, labels = number_structures(dataset, wishes.labels)
    except UsageError as error:
        finding = Finding("error", "", "options", error.problem, error.fix)
        return CheckOutcome(None, _worst_first([*dataset.findings, finding]), error=error)
    wishes = replace(wishes, labels=labels)
    inspections = inspect(dataset.cases, on_case)
    facts = [item.facts for item in inspections if item.facts is not None]
    findings = list(dataset.findings)
    findings += [finding for item in inspections for finding in item.findings]
    findings += judge_dataset(dataset.cases, facts)
    findings += _wrong_frames(dataset, wishes, facts)
    has_errors = any(finding.severity == "error" for finding in findings)
    if not facts:
        # What can be said about labels and folds without a readable case misleads.
        return CheckOutcome(None, _worst_first(findings))
    try:
        checked, reason = _settle(dataset, wishes, facts)
    except UserError as error:
        findings.append(Finding("error", "", "options", error.problem, error.fix))
        return CheckOutcome(None, _worst_first(findings), error=None if has_errors else error)
    findings += _crossed_names(checked.labels, dataset.label_names)
    findings += _remapped(checked.labels)
    findings += _unasked_labels(dataset.cases, facts, checked.labels)
    sources = {case.name: case.source for case in dataset.cases}
    findings += judge_channels(sources, checked.facts, checked.channels)
    return CheckOutcome(None if has_errors else checked, _worst_first(findings), reason)


def _wrong_frames(
    dataset: Dataset, wishes: Wishes, facts: Sequence[CaseFacts]
) -> Iterator[Finding]:
    """The frames of a file are channels only when as many image types are named."""
    by_name = {case.name: case for case in dataset.cases}
    for fact in facts:
        case = by_name[fact.name]
        count = len(fact.value_ranges)
        if count > len(case.images) > 1:
            message = f"its {len(case.images)} images have {count} frames together (one is 4D)"
            fix = "Save each frame that is to be a channel as a 3D file, for every patient alike."
            yield Finding("error", case.source, "4D", message, fix)
        elif count > len(case.images) and count not in {
            len(wishes.image_types),
            len(dataset.channels),
        }:
            message = f"the image has {count} frames (it is 4D)"
            fix = (
                f"If each frame is an image type, name all {count} with -i, as -i T1,T2; if they "
                "are points in time, save the one to train on as a 3D file."
            )
            yield Finding("error", case.source, "4D", message, fix)


def _crossed_names(labels: LabelMap, names: Mapping[int, str]) -> Iterator[Finding]:
    """A name that `-l` gives to a value is not the dataset's name of another one."""
    values = {name.lower(): value for value, name in names.items()}
    for label in labels:
        other = values.get(label.name.lower(), label.value)
        if other != label.value:
            message = (
                f"-l calls the value {label.value} {label.name}, the name of the value {other}"
            )
            message += " in the dataset"
            fix = "Right if the dataset is wrong; otherwise leave the values out: -l takes names."
            yield Finding("warning", "", "label names", message, fix)


def _remapped(labels: LabelMap) -> Iterator[Finding]:
    """The values of labels that are not 1 … n become so for training."""
    others = [label for label in labels if label.value != label.index]
    if others:
        shown = ", ".join(f"{label.value} to {label.index}" for label in others[:MAX_SHOWN_VALUES])
        more = " …" if len(others) > MAX_SHOWN_VALUES else ""
        message = f"values of labels are changed for training: {shown}{more}"
        fix = "Segmentations come with your own values; your own files stay as they are."
        yield Finding("repair", "", "label values", message, fix)


def _unasked_labels(
    cases: Sequence[Case], facts: Sequence[CaseFacts], labels: LabelMap
) -> Iterator[Finding]:
    asked = {label.value for label in labels}
    others = {value for fact in facts for value in fact.label_voxels} - asked
    if others:
        shown = ", ".join(str(value) for value in sorted(others)[:MAX_SHOWN_VALUES])
        more = " …" if len(others) > MAX_SHOWN_VALUES else ""
        message = f"the label maps also hold {shown}{more}, which -l does not ask for"
        fix = "Right if these are to be background; otherwise name them with -l."
        yield Finding("warning", "", "other labels", message, fix)
    sources = {case.name: case.source for case in cases}
    for fact in facts:
        if fact.label_voxels and not asked.intersection(fact.label_voxels):
            message = "its label map has none of the labels that -l asks for"
            fix = "Right if the patient has none; otherwise look at the values of the label map."
            yield Finding("warning", sources[fact.name], "other labels", message, fix)


def _settle(dataset: Dataset, wishes: Wishes, facts: Sequence[CaseFacts]) -> tuple[Checked, str]:
    found = Counter(value for fact in facts for value in fact.label_voxels)
    by_value = {value: found[value] for value in sorted(found)}
    labels = resolve_labels(wishes.labels, by_value, dataset.label_names)
    count = usual_channels(facts)
    # The others are an error of their own.
    # Signatures have been compared; of 1,000 cases they are most of a record that is often read.
    alike = [replace(fact, signature=()) for fact in facts if len(fact.value_ranges) == count]
    # Frames have no names of their own, unless the dataset names as many.
    listed = dataset.channels if len(dataset.channels) == count else ("",) * count
    is_alone = len({case.owner for case in dataset.cases}) == 1
    channels = choose_channels(wishes.image_types, listed, alike, of_one_patient=is_alone)
    classes = {fact.name: frozenset(fact.label_voxels) for fact in facts}
    folds = split_folds(dataset.cases, classes, wishes.fold, wishes.seed)
    expanded = tuple(_expand(case, count) for case in dataset.cases)
    cases, ordered = _in_order(expanded, alike, channels)
    for split in folds.values():
        _require_foreground(facts, labels, split)
    return Checked(cases, ordered, labels, channels.names, folds), channels.reason


def _require_foreground(facts: Sequence[CaseFacts], labels: LabelMap, split: Split) -> None:
    values = {label.value for label in labels}
    names = set(split.train)
    trained = [fact for fact in facts if fact.name in names]
    missing = [
        label.name
        for label in labels
        if not any(label.value in fact.label_voxels for fact in trained)
    ]
    if trained and values and missing:
        problem = f"No patient that trains has the label {', '.join(missing)}."
        fix = "Ask for other labels with -l, take another fold, or add such patients."
        raise DatasetError(problem, fix=fix)


def _expand(case: Case, count: int) -> Case:
    """Return a case with one entry a channel, where its one file holds them as frames."""
    if len(case.images) != 1 or count == 1:
        return case
    return replace(case, images=case.images * count, frames=tuple(range(count)))


def _in_order(
    cases: Sequence[Case], facts: Sequence[CaseFacts], channels: ChannelPlan
) -> tuple[tuple[Case, ...], tuple[CaseFacts, ...]]:
    if channels.order == tuple(range(len(channels.order))):
        return tuple(cases), tuple(facts)
    # Another image comes first, so that all places in the facts move.
    reordered = tuple(
        replace(
            case,
            images=tuple(case.images[place] for place in channels.order),
            frames=tuple(case.frames[place] for place in channels.order if case.frames),
        )
        for case in cases
    )
    last = len(channels.order)
    moved = tuple(
        replace(
            fact,
            value_ranges=tuple(fact.value_ranges[place] for place in channels.order),
            # Whoever differed from the old first image is written on the new one's grid.
            changed_parts=tuple(range(last + 1)) if fact.changed_parts else (),
        )
        for fact in facts
    )
    return reordered, moved


def _worst_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    order = {"error": 0, "warning": 1}
    return tuple(sorted(findings, key=lambda item: (order.get(item.severity, 2), item.case)))


def save_checked(path: Path, checked: Checked) -> None:
    """Write the record; it names the user's folders and is private."""
    content = asdict(checked)
    for case in content["cases"]:
        case["images"] = [str(image) for image in case["images"]]
        case["label"] = str(case["label"])
        case["masks"] = [(value, str(path)) for value, path in case["masks"]]
        case["series"] = [[str(path) for path in files] for files in case["series"]]
        case["structures"] = [(value, str(path), n) for value, path, n in case["structures"]]
    write_json(path, content, mode=0o600)


def load_checked(path: Path) -> Checked:
    """Read the record."""
    content = read_json(path)
    return Checked(
        cases=tuple(_case(item) for item in content["cases"]),
        facts=tuple(facts_from_json(item) for item in content["facts"]),
        labels=tuple(Label(**item) for item in content["labels"]),
        channels=tuple(content["channels"]),
        folds={
            fold: Split(tuple(split["train"]), tuple(split["evaluate"]))
            for fold, split in content["folds"].items()
        },
    )


def _case(item: dict[str, Any]) -> Case:
    paths = {
        "images": tuple(Path(image) for image in item["images"]),
        "label": Path(item["label"]),
        "masks": tuple((value, Path(path)) for value, path in item["masks"]),
        "frames": tuple(item["frames"]),
        "series": tuple(tuple(map(Path, files)) for files in item["series"]),
        "structures": tuple((value, Path(path), n) for value, path, n in item["structures"]),
    }
    return Case(**(item | paths))
