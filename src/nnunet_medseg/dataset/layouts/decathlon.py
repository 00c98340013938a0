"""Medical Segmentation Decathlon: `imagesTr/CASE.EXT`, `labelsTr/CASE.EXT` and `dataset.json`.

An image with several modalities is one file with a frame each, named by `modality`. Where
dataset.json lists the cases for training, only these are taken.
"""

from __future__ import annotations

from pathlib import Path

from nnunet_medseg.dataset.case import Case, Dataset, Finding, number_cases
from nnunet_medseg.dataset.layouts.listing import image_files, stem_of, subfolders
from nnunet_medseg.dataset.layouts.pairing import alone, are_numbered, twins
from nnunet_medseg.dataset.raw_layout import read_description

__all__ = ["DESCRIPTION", "NAME", "read", "recognise"]

NAME = "Decathlon"
DESCRIPTION = "imagesTr/CASE.nii.gz, labelsTr/CASE.nii.gz of the same names, dataset.json"
MAX_SHOWN = 5  # names


def recognise(folder: Path, extensions: tuple[str, ...]) -> str:
    """Tell whether there is a dataset.json beside images and labels of the same names."""
    if not {"imagesTr", "labelsTr"} <= {path.name for path in subfolders(folder)}:
        return ""
    description = folder / "dataset.json"
    if not description.is_file() or description.is_symlink():
        return ""
    images = image_files(folder / "imagesTr", extensions)
    labels = image_files(folder / "labelsTr", extensions)
    same = {stem_of(path) for path in images} & {stem_of(path) for path in labels}
    if not same or are_numbered(images, labels):
        return ""
    return "dataset.json, and imagesTr and labelsTr with files of the same names"


def read(folder: Path, extensions: tuple[str, ...]) -> Dataset:
    """List the cases, and what does not fit the convention."""
    description = read_description(folder)
    image_paths = image_files(folder / "imagesTr", extensions)
    label_paths = image_files(folder / "labelsTr", extensions)
    images = {stem_of(path): path for path in image_paths}
    labels = {stem_of(path): path for path in label_paths}
    listed = {_case_of(image): _case_of(label) for image, label in description.training}
    asked = listed or {case: case for case in images.keys() | labels.keys()}
    cases = [
        Case("", case, (images[case],), labels[label])
        for case, label in asked.items()
        if case in images and label in labels
    ]
    findings = [*description.findings, *twins(image_paths), *twins(label_paths)]
    findings += [
        _incomplete(case, images.get(case), labels.get(label))
        for case, label in sorted(asked.items())
        if case not in images or label not in labels
    ]
    if listed:
        others = (images.keys() | labels.keys()) - listed.keys() - set(listed.values())
        findings += _unlisted(sorted(others))
    channels = description.channels or ("",)
    cases_found = number_cases(cases)
    return Dataset(folder, NAME, cases_found, channels, description.labels, tuple(findings))


def _case_of(path: str) -> str:
    """Return the name that a path of dataset.json ends in; its folders are those of the layout."""
    return stem_of(Path(path.replace("\\", "/").rpartition("/")[2]))


def _incomplete(case: str, image: Path | None, label: Path | None) -> Finding:
    if image is not None:
        return alone(case, image, "image", "label map")
    if label is not None:
        return alone(case, label, "label map", "image")
    message = "dataset.json lists it for training, but its files are not there"
    fix = "Add its image and label map, or take it out of dataset.json."
    return Finding("error", case, "no image", message, fix)


def _unlisted(names: list[str]) -> list[Finding]:
    if not names:
        return []
    shown = ", ".join(names[:MAX_SHOWN]) + (" …" if len(names) > MAX_SHOWN else "")
    message = f"dataset.json does not list {len(names)} for training; left out"
    # Names stand in the fix, which is shown and gets into no report.
    fix = f"Right if they are for something else; otherwise add to its list `training`: {shown}."
    return [Finding("warning", "", "unlisted files", message, fix)]
