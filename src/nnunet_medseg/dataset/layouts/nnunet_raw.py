"""nnU-Net's raw folder: `imagesTr/CASE_0000.EXT`, `labelsTr/CASE.EXT` and `dataset.json`."""

from __future__ import annotations

from pathlib import Path

from nnunet_medseg.dataset.case import Case, Dataset, Finding, number_cases
from nnunet_medseg.dataset.layouts.listing import image_files, stem_of, subfolders
from nnunet_medseg.dataset.layouts.pairing import (
    alone,
    are_numbered,
    group_channels,
    twins,
    without_channels,
)
from nnunet_medseg.dataset.raw_layout import read_description

__all__ = ["DESCRIPTION", "NAME", "read", "recognise"]

NAME = "nnU-Net raw"
DESCRIPTION = "imagesTr/CASE_0000.nii.gz (_0001 …), labelsTr/CASE.nii.gz, dataset.json"


def recognise(folder: Path, extensions: tuple[str, ...]) -> str:
    """Tell whether there are images and labels for training under nnU-Net's names."""
    if not {"imagesTr", "labelsTr"} <= {path.name for path in subfolders(folder)}:
        return ""
    images = image_files(folder / "imagesTr", extensions)
    if not images:
        return "imagesTr and labelsTr"
    if not are_numbered(images, image_files(folder / "labelsTr", extensions)):
        return ""
    return "imagesTr and labelsTr, and image names that end in a channel number such as _0000"


def read(folder: Path, extensions: tuple[str, ...]) -> Dataset:
    """List the cases, and what does not fit the convention."""
    description = read_description(folder)
    image_paths = image_files(folder / "imagesTr", extensions)
    label_paths = image_files(folder / "labelsTr", extensions)
    findings = [*description.findings, *twins(image_paths), *twins(label_paths)]
    images, strays = group_channels(image_paths)
    labels = {stem_of(path): path for path in label_paths}
    findings += [_stray(path) for path in strays]
    findings += [
        alone(case, labels[case], "label map", "image")
        for case in sorted(labels.keys() - images.keys())
    ]
    findings += [
        alone(case, next(iter(images[case].values())), "image", "label map")
        for case in sorted(images.keys() - labels.keys())
    ]
    paired = {case: images[case] for case in sorted(images.keys() & labels.keys())}
    count, lacking = without_channels(paired)
    cases = [
        Case("", case, tuple(channels[number] for number in range(count)), labels[case])
        for case, channels in paired.items()
        if set(channels) == set(range(count))
    ]
    named = len(description.channels) == count
    names = description.channels if named else ("",) * count
    findings += lacking
    return Dataset(folder, NAME, number_cases(cases), names, description.labels, tuple(findings))


def _stray(path: Path) -> Finding:
    message = f"imagesTr/{path.name} does not end in a channel number such as _0000"
    return Finding("error", path.name, "file name", message, "Rename it to CASE_0000 and so on.")
