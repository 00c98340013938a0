"""Records of a dataset as the user brings it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Case", "Dataset", "Finding"]


@dataclass(frozen=True)
class Finding:
    """A problem of the dataset.

    Attributes:
        severity: "error" stops the run; "warning" does not.
        case: The user's name of the case; empty when the whole dataset is meant.
        rule: Short name of what is wrong.
        message: What was found.
        fix: What to do about it.
    """

    severity: str
    case: str
    rule: str
    message: str
    fix: str


@dataclass(frozen=True)
class Case:
    """One patient.

    Attributes:
        name: Our name, such as `case_0001`, which says nothing about the patient.
        source: The user's name of it, as in the folder that was copied in.
        images: One file a channel, in channel order.
        label: The label map.
        is_held_out: Whether the user marked it as never to be trained on.
    """

    name: str
    source: str
    images: tuple[Path, ...]
    label: Path
    is_held_out: bool = False


@dataclass(frozen=True)
class Dataset:
    """A dataset as its layout tells it.

    Attributes:
        folder: The folder that holds it.
        layout: What the convention is called.
        cases: In the order of their names.
        channels: Channel names as the files or dataset.json give them; empty strings if unnamed.
        label_names: Names by label value, where the dataset has them.
        findings: What was wrong with files and names.
    """

    folder: Path
    layout: str
    cases: tuple[Case, ...]
    channels: tuple[str, ...]
    label_names: dict[int, str]
    findings: tuple[Finding, ...] = ()


def number_cases(cases: list[Case]) -> tuple[Case, ...]:
    """Return the cases sorted by the user's name, and numbered."""
    ordered = sorted(cases, key=lambda case: case.source)
    return tuple(
        Case(f"case_{number:04d}", case.source, case.images, case.label, case.is_held_out)
        for number, case in enumerate(ordered, start=1)
    )
