"""Patient folders: `PATIENT/img.EXT` with `train.EXT`, `validate.EXT`, or `label|seg|mask….EXT`.

Several images a patient are `img_T1.EXT`, `img_FLAIR.EXT`; the part after the underscore names the
channel. Where no file is called so, `NAME_seg.EXT` beside `NAME_T1.EXT` is a label map too.
Whatever else lies in the folders is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from nnunet_medseg.dataset.case import Case, Dataset, Finding, number_cases
from nnunet_medseg.dataset.layouts.listing import (
    holds_dicom,
    image_files,
    is_group_folder,
    is_label_folder,
    stem_of,
    subfolders,
)
from nnunet_medseg.dataset.layouts.pairing import (
    channel_names,
    is_label_map,
    most_frequent,
    other_channels,
    pair_beside,
    several_label_maps,
    twins,
)

__all__ = [
    "DESCRIPTION",
    "LABEL_STEM",
    "NAME",
    "begins_as_held_out",
    "images_of",
    "name_channels",
    "read",
    "recognise",
]

NAME = "patient folders"
DESCRIPTION = (
    "one folder a patient, PATIENT/img.nii.gz (or img_T1.nii.gz, img_FLAIR.nii.gz) and "
    "PATIENT/train.nii.gz, or validate.nii.gz for a patient to be kept out of training"
)
HELD_OUT_STEMS = {"validate", "validation"}
LABEL_STEM = re.compile(
    r"(train|validate|validation|labels?|seg|segmentations?|masks?|gt|ground_?truth)(\W|_|$)", re.I
)
IMAGE_STEM = re.compile(r"(?:img|image)(?:_(?P<channel>.+))?$", re.I)


def recognise(folder: Path, extensions: tuple[str, ...]) -> str:
    """Tell whether some folder directly below holds a label map or an image under these names."""
    signs = (_sign_of_patient(patient, extensions) for patient in subfolders(folder))
    sign = next(filter(None, signs), "")
    return f"folders with {sign}" if sign else ""


def _sign_of_patient(folder: Path, extensions: tuple[str, ...]) -> str:
    """Return what shows that this is a patient's folder, without a name; nothing otherwise."""
    files = image_files(folder, extensions)
    # Folders of images and of label maps, and several pairs in one folder, are another layout.
    if is_group_folder(folder) or len(pair_beside(files)) > 1:
        return ""
    labels = _label_maps(files)
    # Of DICOM images: another layout.
    if labels and len(labels) == len(files) and holds_dicom(folder):
        return ""
    for label in labels:
        match = LABEL_STEM.match(stem_of(label))
        return f"a label map called {match[1]}" if match else "a label map called …_seg or so"
    if any(is_label_folder(path) and image_files(path, extensions) for path in subfolders(folder)):
        return ""
    return "an image called img" if any(IMAGE_STEM.match(stem_of(path)) for path in files) else ""


def read(folder: Path, extensions: tuple[str, ...]) -> Dataset:
    """List the patients, and what does not fit the convention."""
    cases: list[Case] = []
    findings: list[Finding] = []
    channels: dict[str, tuple[str, ...]] = {}
    for patient in subfolders(folder):
        files = image_files(patient, extensions)
        found, problems = _read_patient(patient, files)
        findings += problems
        if found is not None:
            cases.append(found)
            channels[patient.name] = name_channels(found.images, patient)
    expected = most_frequent(list(channels.values()))
    findings += [
        other_channels(source, names, expected)
        for source, names in channels.items()
        if names != expected
    ]
    kept = [case for case in cases if channels[case.source] == expected]
    return Dataset(folder, NAME, number_cases(kept), expected, {}, tuple(findings))


def images_of(files: Sequence[Path]) -> tuple[Path, ...]:
    """Return the images among the files of a patient, in the order of their names."""
    others = [path for path in files if path not in _label_maps(files)]
    named = [path for path in others if IMAGE_STEM.match(stem_of(path)) and not is_label_map(path)]
    images = named or [path for path in others if not is_label_map(path)]
    return tuple(sorted(images, key=lambda path: stem_of(path).lower()))


def name_channels(images: Sequence[Path], patient: Path) -> tuple[str, ...]:
    """Return the names of a patient's channels, as `pairing.channel_names` has them."""
    stems = [stem_of(path) for path in images]
    matches = [IMAGE_STEM.match(stem) for stem in stems]
    if len(stems) > 1 and any(matches):
        return tuple((match and match["channel"]) or "img" for match in matches)
    return channel_names(stems, patient.name)


def _label_maps(files: Sequence[Path]) -> list[Path]:
    # Only where no name says it at once: a brain_mask may lie beside the label map.
    named = [path for path in files if LABEL_STEM.match(stem_of(path))]
    return named or [path for path in files if is_label_map(path)]


def _read_patient(folder: Path, files: Sequence[Path]) -> tuple[Case | None, list[Finding]]:
    labels, images = _label_maps(files), images_of(files)
    problems = [*_pairing_problems(folder, labels, images), *twins(images, folder.name)]
    if problems:
        return None, problems
    return Case("", folder.name, images, labels[0], _is_held_out(labels[0])), []


def begins_as_held_out(label: Path) -> bool:
    """Tell whether the first word of a file's name marks its patient as held out."""
    return re.split(r"[\W_]", stem_of(label).lower())[0] in HELD_OUT_STEMS


def _is_held_out(label: Path) -> bool:
    match = LABEL_STEM.match(stem_of(label))
    return match is not None and match[1].lower() in HELD_OUT_STEMS


def _pairing_problems(
    folder: Path, labels: Sequence[Path], images: Sequence[Path]
) -> list[Finding]:
    if not labels and not images:
        message = "the folder holds no image and no label map"
        fix = "Remove the folder, or copy the patient's files into it."
        return [Finding("error", folder.name, "empty folder", message, fix)]
    problems = []
    if not images:
        message = f"there is a label map ({labels[0].name}) but no image"
        fix = "Add the image as img.EXT."
        problems.append(Finding("error", folder.name, "no image", message, fix))
    if not labels:
        message = f"there is an image ({images[0].name}) but no label map"
        fix = "Add the label map as train.EXT (or validate.EXT), or remove the patient."
        problems.append(Finding("error", folder.name, "no label map", message, fix))
    if len(labels) > 1:
        problems.append(several_label_maps(folder.name, [path.name for path in labels]))
    return problems
