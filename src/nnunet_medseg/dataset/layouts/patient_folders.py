"""Patient folders: `PATIENT/img.EXT` with `train.EXT`, `validate.EXT`, or `label|seg|mask….EXT`.

Several images a patient are `img_T1.EXT`, `img_FLAIR.EXT`; the part after the underscore names the
channel. Whatever else lies in the folders is left alone.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from nnunet_medseg.dataset.case import Case, Dataset, Finding, number_cases
from nnunet_medseg.dataset.layouts.listing import image_files, stem_of, subfolders

__all__ = ["NAME", "read", "recognise"]

NAME = "patient folders"
HELD_OUT_STEMS = {"validate", "validation"}
LABEL_STEM = re.compile(
    r"(train|validate|validation|labels?|seg|segmentations?|masks?|gt|ground_?truth)(\W|_|$)", re.I
)
IMAGE_STEM = re.compile(r"(?:img|image)(?:_(?P<channel>.+))?$", re.I)


def recognise(folder: Path, extensions: tuple[str, ...]) -> bool:
    """Tell whether some folder directly below holds a label map or an image under these names."""
    return any(_looks_like_patient(patient, extensions) for patient in subfolders(folder))


def _looks_like_patient(folder: Path, extensions: tuple[str, ...]) -> bool:
    stems = [stem_of(path) for path in image_files(folder, extensions)]
    labels = [stem for stem in stems if LABEL_STEM.match(stem)]
    return bool(labels) or any(IMAGE_STEM.match(stem) for stem in stems)


def read(folder: Path, extensions: tuple[str, ...]) -> Dataset:
    """List the patients, and what does not fit the convention."""
    cases: list[Case] = []
    findings: list[Finding] = []
    channels: dict[str, tuple[str, ...]] = {}
    for patient in subfolders(folder):
        found = _read_patient(patient, extensions)
        if isinstance(found, Finding):
            findings.append(found)
        else:
            case, channels[patient.name] = found
            cases.append(case)
    expected = _most_frequent(list(channels.values()))
    for source, names in channels.items():
        if names != expected:
            findings.append(_other_channels(source, names, expected))
    kept = [case for case in cases if channels[case.source] == expected]
    return Dataset(folder, NAME, number_cases(kept), expected, {}, tuple(findings))


def _most_frequent(names: list[tuple[str, ...]]) -> tuple[str, ...]:
    return max(names, key=names.count, default=())


def _other_channels(source: str, names: tuple[str, ...], expected: tuple[str, ...]) -> Finding:
    def show(channels: tuple[str, ...]) -> str:
        return ", ".join(name or "img" for name in channels)

    message = f"its images are {show(names)}, where most patients have {show(expected)}"
    return Finding("error", source, "channels", message, "Give every patient the same images.")


def _read_patient(
    folder: Path, extensions: tuple[str, ...]
) -> tuple[Case, tuple[str, ...]] | Finding:
    files = image_files(folder, extensions)
    labels = [path for path in files if LABEL_STEM.match(stem_of(path))]
    others = [path for path in files if path not in labels]
    images = [path for path in others if IMAGE_STEM.match(stem_of(path))] or others
    problem = _pairing_problem(folder, labels, images)
    if problem is not None:
        return problem
    images = sorted(images, key=lambda path: stem_of(path).lower())
    channels = _channel_names([stem_of(path) for path in images])
    return Case("", folder.name, tuple(images), labels[0], _is_held_out(labels[0])), channels


def _is_held_out(label: Path) -> bool:
    match = LABEL_STEM.match(stem_of(label))
    return match is not None and match[1].lower() in HELD_OUT_STEMS


def _channel_names(stems: list[str]) -> tuple[str, ...]:
    """Return what tells the images of a patient apart; nothing for a single one.

    What all of them begin with is the patient's, as in Miller_T1 and Miller_FLAIR, and must not
    get into a model.
    """
    if len(stems) == 1:
        return ("",)
    matches = [IMAGE_STEM.match(stem) for stem in stems]
    if any(matches):
        return tuple((match and match["channel"]) or "img" for match in matches)
    common = os.path.commonprefix(stems)  # noqa: RUF071 letter by letter is what is meant
    start = max(common.rfind(separator) for separator in "_- .") + 1
    return tuple(stem[start:] or stem for stem in stems)


def _pairing_problem(folder: Path, labels: list[Path], images: list[Path]) -> Finding | None:
    if not labels and not images:
        message = "the folder holds no image and no label map"
        fix = "Remove the folder, or copy the patient's files into it."
        return Finding("error", folder.name, "empty folder", message, fix)
    if not images:
        message = f"there is a label map ({labels[0].name}) but no image"
        return Finding("error", folder.name, "no image", message, "Add the image as img.EXT.")
    if not labels:
        message = f"there is an image ({images[0].name}) but no label map"
        fix = "Add the label map as train.EXT (or validate.EXT), or remove the patient."
        return Finding("error", folder.name, "no label map", message, fix)
    if len(labels) > 1:
        message = f"several label maps: {', '.join(path.name for path in labels)}"
        fix = "Keep one label map a patient, with one value a structure."
        return Finding("error", folder.name, "several label maps", message, fix)
    return None
