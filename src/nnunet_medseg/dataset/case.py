"""Records of a dataset as the user brings it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

__all__ = ["Case", "Dataset", "Finding", "number_cases", "tell_without_names"]


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
    """One image of a patient, with its channels and its label map.

    Attributes:
        name: Our name, such as `case_0001`, which says nothing about the patient.
        source: The user's name of it, as in the folder that was copied in.
        images: One file a channel, in channel order; a file with several frames comes once for
            each frame that is a channel.
        label: The label map; with masks, the folder that they lie in.
        is_held_out: Whether the user marked it as never to be trained on.
        masks: Where there is one binary mask a class in place of a label map: each with the value
            of its class.
        frames: For each of the images, which frame of the file it is; empty when each file holds
            one.
        patient: Whose image it is, where a patient may have several; empty for `source`.
        series: The files behind each of the images where these are DICOM series; the images are
            then the first file of each.
        structures: Value, file and number of each structure of DICOM-SEG or RTSTRUCT files that
            stand for the label map; the label is then the first of the files.
        is_layered: Whether a later structure wins where two overlap, as the user has ordered them.
    """

    name: str
    source: str
    images: tuple[Path, ...]
    label: Path
    is_held_out: bool = False
    masks: tuple[tuple[int, Path], ...] = ()
    frames: tuple[int, ...] = ()
    patient: str = ""
    series: tuple[tuple[Path, ...], ...] = ()
    structures: tuple[tuple[int, Path, int], ...] = ()
    is_layered: bool = False

    @property
    def label_files(self) -> tuple[Path, ...]:
        """The label map, or the masks or files of structures that stand for it."""
        masks = tuple(path for _, path in self.masks)
        structures = tuple(dict.fromkeys(path for _, path, _ in self.structures))
        return masks or structures or (self.label,)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read, each once: images, then the label map or masks."""
        images = (path for files in self.series for path in files) if self.series else self.images
        return (*dict.fromkeys(images), *self.label_files)

    @property
    def meanings(self) -> tuple[object, ...]:
        """What the files stand for, beside what they hold: another reading of the same files."""
        numbers = tuple((value, number) for value, _, number in self.structures)
        values = tuple(value for value, _ in self.masks)
        return (self.frames, values, numbers, self.is_layered)

    @property
    def owner(self) -> str:
        """Whose image it is: images of one owner never train and are evaluated both."""
        return self.patient or self.source


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
        reason: What the layout was recognised by, for people.
    """

    folder: Path
    layout: str
    cases: tuple[Case, ...]
    channels: tuple[str, ...]
    label_names: dict[int, str]
    findings: tuple[Finding, ...] = ()
    reason: str = ""


def number_cases(cases: list[Case]) -> tuple[Case, ...]:
    """Return the cases sorted by the user's name, and numbered."""
    ordered = sorted(cases, key=lambda case: case.source)
    return tuple(
        replace(case, name=f"case_{number:04d}") for number, case in enumerate(ordered, start=1)
    )


def tell_without_names(finding: Finding, cases: Sequence[Case]) -> str:
    """Return what was found, with our names of cases in place of the user's names and files.

    Args:
        finding: Of a check of these cases.
        cases: All cases, numbered.
    """
    case = next((case for case in cases if case.source == finding.case), None)
    if case is None and finding.case:
        # It names files that are no case's, and which ones is not known here.
        return f"dataset: {finding.rule}"
    # The other one of two cases stands at the end; whole, since its name may hold that of a file.
    others = [other for other in cases if finding.message.endswith(f" of {other.source}")]
    other = max(others, key=lambda each: len(each.source), default=None)
    text = finding.message if other is None else finding.message.removesuffix(other.source)
    roles = {} if case is None else _roles(case)
    # Longest first, since one name may be part of another.
    for name in sorted(roles, key=len, reverse=True):
        text = text.replace(name, roles[name])
    told = text if other is None else f"{text}{other.name}"
    return f"{'dataset' if case is None else case.name}: {told}"


def _roles(case: Case) -> dict[str, str]:
    """Return what to call the files that a finding may name, by their names."""
    # A series of several files is called by none of them, and these may be called 1, 2 …
    images = () if case.series and len(case.series[0]) > 1 else dict.fromkeys(case.images)
    roles = {path.name: f"image {place}" for place, path in enumerate(images, start=1)}
    roles[case.label.name] = "its file" if case.label.name in roles else "label map"
    return roles
