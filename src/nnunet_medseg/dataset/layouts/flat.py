"""A folder of images and one of label maps, or all of them in one folder.

`images/NAME.EXT` goes with `labels/NAME.EXT`; a word for image or label map at either end of a name
is passed over (`NAME_seg`, `mask_NAME`, `img07` and `label07`). Several images a case are numbered
as in nnU-Net's raw folder: `NAME_0000`, `NAME_0001`.
"""

from __future__ import annotations

import re
from pathlib import Path

from nnunet_medseg.dataset.case import Case, Dataset, Finding, number_cases
from nnunet_medseg.dataset.layouts import decathlon, nnunet_raw
from nnunet_medseg.dataset.layouts.listing import (
    LABELS,
    holds_dicom,
    image_files,
    is_group_folder,
    is_image_folder,
    is_label_folder,
    stem_of,
    subfolders,
)
from nnunet_medseg.dataset.layouts.pairing import (
    alone,
    are_numbered,
    group_channels,
    is_label_map,
    pair,
    pair_beside,
    several_label_maps,
    twins,
    without_channels,
)

__all__ = ["DESCRIPTION", "NAME", "read", "recognise"]

NAME = "flat"
DESCRIPTION = (
    "images/NAME.nii.gz and labels/NAME.nii.gz (or masks, segmentations …), or NAME.nii.gz beside "
    "NAME_seg.nii.gz in one folder"
)


def recognise(folder: Path, extensions: tuple[str, ...]) -> str:
    """Tell whether there is a folder of images and one of label maps, or pairs side by side."""
    if nnunet_raw.recognise(folder, extensions) or decathlon.recognise(folder, extensions):
        return ""
    images, labels = _folders(folder)
    if images and labels and _is_ours(images, labels, extensions):
        return f"a folder of images ({images[0].name}) and one of label maps ({labels[0].name})"
    if pair_beside(image_files(folder, extensions)):
        return "images and label maps side by side, whose names differ by a word such as seg"
    return ""


def _is_ours(images: list[Path], labels: list[Path], extensions: tuple[str, ...]) -> bool:
    if any(image_files(below, extensions) for below in images):
        return True
    # Label maps of DICOM images are of another layout; without any image, they are told as alone.
    has_labels = any(image_files(below, extensions) for below in labels)
    return has_labels and not any(holds_dicom(below) for below in images)


def _folders(folder: Path) -> tuple[list[Path], list[Path]]:
    below = subfolders(folder)
    return [path for path in below if is_image_folder(path)], [
        path for path in below if is_label_folder(path)
    ]


def read(folder: Path, extensions: tuple[str, ...]) -> Dataset:
    """List the cases, and what does not fit the convention."""
    image_folders, label_folders = _folders(folder)
    if image_folders and label_folders:
        images = image_files(image_folders[0], extensions)
        labels = image_files(label_folders[0], extensions)
        findings = [*_further(image_folders), *_further(label_folders)]
        findings += _passed_over(folder, [*image_folders, *label_folders], extensions)
    else:
        files = image_files(folder, extensions)
        labels = [path for path in files if is_label_map(path)]
        images = [path for path in files if path not in labels]
        findings = []
    findings += [*twins(images), *twins(labels)]
    cases, count, unpaired = _pair_all(images, labels)
    findings += unpaired
    return Dataset(folder, NAME, number_cases(cases), ("",) * count, {}, tuple(findings))


def _further(folders: list[Path]) -> list[Finding]:
    if len(folders) == 1:
        return []
    message = f"several folders of one kind: {', '.join(path.name for path in folders)}"
    fix = "Keep one folder of images and one of label maps."
    return [Finding("error", "", "several folders", message, fix)]


def _passed_over(folder: Path, used: list[Path], extensions: tuple[str, ...]) -> list[Finding]:
    """Name folders for testing or validation that have label maps, which nothing is done with."""
    others = [
        path.name
        for path in subfolders(folder)
        if path not in used and is_group_folder(path) and image_files(path, extensions)
    ]
    # Images alone are for predicting; a label map is work that somebody may want to be used.
    if not any(re.match(LABELS, name, re.I) for name in others):
        return []
    message = f"passed over: {', '.join(others)}, by the name not meant for training"
    fix = (
        "Right if they are to stay out. To train on them as well, move their files to the others; "
        "to be measured on some patients of your own choice, see how patients are held out."
    )
    return [Finding("warning", "", "passed over", message, fix)]


def _pair_all(images: list[Path], labels: list[Path]) -> tuple[list[Case], int, list[Finding]]:
    strays: list[Path] = []
    grouped = {stem_of(path): {0: path} for path in images}
    if are_numbered(images, labels):
        grouped, strays = group_channels(images)
    found, left = pair(grouped, labels)
    findings = [_stray(path) for path in strays]
    findings += [alone(stem_of(path), path, "label map", "image") for path in left]
    for case in sorted(grouped.keys() - found.keys()):
        findings.append(alone(case, next(iter(grouped[case].values())), "image", "label map"))
    paired = {case: grouped[case] for case in sorted(found)}
    count, lacking = without_channels(paired)
    findings += lacking
    for case, paths in sorted(found.items()):
        if len(paths) > 1:
            findings.append(several_label_maps(case, [path.name for path in paths]))
    cases = [
        Case("", case, tuple(channels[number] for number in range(count)), found[case][0])
        for case, channels in paired.items()
        if set(channels) == set(range(count)) and len(found[case]) == 1
    ]
    return cases, count, findings


def _stray(path: Path) -> Finding:
    message = f"{path.parent.name}/{path.name} does not end in a channel number, as most images do"
    return Finding("error", stem_of(path), "file name", message, "Rename it to NAME_0000.")
