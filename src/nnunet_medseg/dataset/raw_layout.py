"""nnU-Net's raw folder and its dataset.json, read and written here only."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_medseg.dataset.case import Finding
from nnunet_medseg.dataset.labels import LabelMap
from nnunet_medseg.files import read_json, write_json
from nnunet_medseg.run_folder import DATASET_NAME

__all__ = [
    "FILE_ENDING",
    "Description",
    "RawCase",
    "image_path",
    "label_path",
    "read_cases",
    "read_description",
    "write_description",
]

FILE_ENDING = ".nii.gz"
# Brings every 3D image to RAS and segmentations back; nnU-Net's default ignores directions.
READER = "SimpleITKIOWithReorient"
IMAGES, LABELS = "imagesTr", "labelsTr"


@dataclass(frozen=True)
class Description:
    """What a dataset.json of the user says.

    Attributes:
        channels: Channel names in order; empty when it names none.
        labels: Names by label value, without the background.
        findings: What cannot be used.
        training: Image and label map of each case for training, as written; empty when not listed.
    """

    channels: tuple[str, ...] = ()
    labels: dict[int, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    training: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class RawCase:
    """A converted case.

    Attributes:
        name: Such as `case_0001`.
        images: One file a channel.
        label: The label map with values 0 … n.
    """

    name: str
    images: tuple[Path, ...]
    label: Path


def read_description(folder: Path) -> Description:
    """Read the names of channels and labels from `dataset.json`, which may be missing."""
    path = folder / "dataset.json"
    if not path.is_file() or path.is_symlink():
        return Description()
    try:
        content = read_json(path)
        channels = content.get("channel_names", content.get("modality", {}))
        names = tuple(str(channels[key]) for key in sorted(channels, key=int))
        # What is no name is as good as none.
        names = tuple(name if _is_name(name) else "" for name in names)
        labels, findings = _read_labels(content.get("labels", {}))
        training = _read_training(content.get("training", []))
    except (
        *(OSError, ValueError, RecursionError),  # no file, no JSON, or brackets without end
        *(AttributeError, TypeError, LookupError, OverflowError),  # JSON, but not what is expected
    ):
        return Description(findings=(_damaged(),))
    return Description(names, labels, findings, training)


def _read_training(listed: Any) -> tuple[tuple[str, str], ...]:
    # Others write other things under this name, which the files themselves tell better.
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        return ()
    pairs = [(item.get("image"), item.get("label")) for item in listed]
    return tuple((image, label) for image, label in pairs if _are_text(image, label))


def _are_text(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _damaged() -> Finding:
    message = "dataset.json is not the JSON that nnU-Net describes"
    fix = "Correct dataset.json, or remove it; then names come from -l and -i."
    return Finding("error", "", "dataset.json", message, fix)


def _read_labels(labels: dict[str, Any]) -> tuple[dict[int, str], tuple[Finding, ...]]:
    found: dict[int, set[str]] = {}
    findings = []
    # Version 1 and the Decathlon write value -> name, version 2 writes name -> value.
    by_value = all(re.fullmatch(r"-?\d+", key) for key in labels)
    for key, value in labels.items():
        name, number = (value, key) if by_value else (key, value)
        if isinstance(number, list) or str(name).lower() == "ignore":
            findings.append(_unusable(str(name)))
        elif _whole(number) != 0:
            found.setdefault(_whole(number), set()).add(str(name))
    names = {value: min(called) for value, called in found.items()}
    findings += [_reserved(value) for value, name in names.items() if name.lower() == "background"]
    findings += [_nameless(value) for value, name in names.items() if not _is_name(name)]
    findings += [_named_twice(value, called) for value, called in found.items() if len(called) > 1]
    return names, tuple(findings)


def _whole(number: Any) -> int:
    whole = int(number)
    # A text of digits is one too; 1.5 is none.
    if not isinstance(number, str) and whole != number:
        problem = f"{number} is no label value"
        raise ValueError(problem)
    return whole


def _is_name(text: str) -> bool:
    """Tell whether a text can be the name of a label or a channel."""
    return bool(text.strip()) and text.isprintable()


def _nameless(value: int) -> Finding:
    message = f"dataset.json gives the label value {value} a name that is empty or not printable"
    fix = "Give the value a name in dataset.json."
    return Finding("error", "", "label kind", message, fix)


def _named_twice(value: int, names: set[str]) -> Finding:
    message = f"dataset.json gives the label value {value} {len(names)} names: "
    message += ", ".join(sorted(names))
    fix = "Leave one name for each value in dataset.json."
    return Finding("error", "", "label kind", message, fix)


def _unusable(name: str) -> Finding:
    message = (
        f"the label {name} of dataset.json is a region of several values or marks voxels to ignore"
    )
    fix = "Write one value a structure into the label maps and name these in dataset.json."
    return Finding("error", "", "label kind", message, fix)


def _reserved(value: int) -> Finding:
    message = f"dataset.json calls the label value {value} background, which is the value 0"
    fix = "Give the value another name in dataset.json."
    return Finding("error", "", "label kind", message, fix)


def image_path(raw: Path, case: str, channel: int) -> Path:
    """Return the file of a channel of a case."""
    return raw / DATASET_NAME / IMAGES / f"{case}_{channel:04d}{FILE_ENDING}"


def label_path(raw: Path, case: str) -> Path:
    """Return the file of the label map of a case."""
    return raw / DATASET_NAME / LABELS / f"{case}{FILE_ENDING}"


def write_description(
    raw: Path, labels: LabelMap, channels: tuple[str, ...], planned: tuple[str, ...]
) -> None:
    """Write the dataset.json that nnU-Net reads, with every file named in it.

    The list of files spares nnU-Net a search with twelve processes.

    Args:
        raw: The folder of raw datasets.
        labels: What to segment.
        channels: Channel names in training order.
        planned: Names of the cases that the plans are made for.
    """
    base = raw / DATASET_NAME
    files = {
        case: {
            "images": [
                image_path(raw, case, number).relative_to(base).as_posix()
                for number in range(len(channels))
            ],
            "label": label_path(raw, case).relative_to(base).as_posix(),
        }
        for case in planned
    }
    write_json(
        base / "dataset.json",
        {
            "channel_names": {str(number): name for number, name in enumerate(channels)},
            "labels": {"background": 0} | {label.name: label.index for label in labels},
            "numTraining": len(planned),
            "file_ending": FILE_ENDING,
            "overwrite_image_reader_writer": READER,
            "dataset": files,
        },
    )


def read_cases(raw: Path) -> tuple[RawCase, ...]:
    """List the converted cases, sorted by name."""
    images, labels = (raw / DATASET_NAME / folder for folder in (IMAGES, LABELS))
    # In one pass: a search for each case would look at every file of every other.
    channels: dict[str, list[Path]] = {}
    for image in sorted(images.glob(f"*_[0-9][0-9][0-9][0-9]{FILE_ENDING}")):
        channels.setdefault(image.name[: -len(f"_0000{FILE_ENDING}")], []).append(image)
    cases = []
    for label in sorted(labels.glob(f"*{FILE_ENDING}")):
        name = label.name[: -len(FILE_ENDING)]
        cases.append(RawCase(name, tuple(channels.get(name, ())), label))
    return tuple(cases)


def describe_json(raw: Path) -> dict[str, Any]:
    """Return the dataset.json written by `write_description`, without the list of files."""
    content: dict[str, Any] = json.loads((raw / DATASET_NAME / "dataset.json").read_text("utf-8"))
    del content["dataset"]
    return content
