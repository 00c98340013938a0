"""One binary mask a class: `PATIENT/ct.EXT` and `PATIENT/segmentations/liver.EXT`.

The classes are called as the masks are, and get the values 1 … n in the order of their names over
all patients. A patient without the mask of a class has nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_medseg.dataset.case import Case, Dataset, Finding, number_cases
from nnunet_medseg.dataset.layouts.class_names import class_findings
from nnunet_medseg.dataset.layouts.listing import (
    image_files,
    is_group_folder,
    is_label_folder,
    stem_of,
    subfolders,
)
from nnunet_medseg.dataset.layouts.pairing import most_frequent, other_channels, twins
from nnunet_medseg.dataset.layouts.patient_folders import images_of, name_channels

__all__ = ["DESCRIPTION", "NAME", "read", "recognise"]

NAME = "class masks"
DESCRIPTION = (
    "PATIENT/ct.nii.gz and one binary mask a class, PATIENT/segmentations/liver.nii.gz (or masks, "
    "labels)"
)


@dataclass(frozen=True)
class _Patient:
    folder: Path
    images: tuple[Path, ...]
    mask_folders: tuple[Path, ...]
    masks: tuple[Path, ...]

    @property
    def classes(self) -> dict[str, Path]:
        """Masks by the name of their class."""
        return {self._class_of(path): path for path in self.masks}

    def _class_of(self, mask: Path) -> str:
        stem = stem_of(mask)
        # What a name begins with that is the patient's or the image's must not get into a model.
        for prefix in (self.folder.name, *map(stem_of, self.images)):
            rest = stem[len(prefix) :].lstrip("_-. ")
            if stem.lower().startswith(prefix.lower()) and rest and not stem[len(prefix)].isalnum():
                return rest
        return stem


def recognise(folder: Path, extensions: tuple[str, ...]) -> str:
    """Tell whether some folder directly below holds an image and a folder of masks."""
    for patient in subfolders(folder):
        if is_group_folder(patient):
            continue
        found = _list_patient(patient, extensions)
        if found.images and found.masks:
            return f"folders with an image and a folder of masks ({found.mask_folders[0].name})"
    return ""


def read(folder: Path, extensions: tuple[str, ...]) -> Dataset:
    """List the patients, and what does not fit the convention."""
    patients = [_list_patient(patient, extensions) for patient in subfolders(folder)]
    findings = [finding for patient in patients for finding in _problems(patient)]
    usable = [patient for patient in patients if not any(_problems(patient))]
    names = sorted({name for patient in usable for name in patient.classes})
    values = {name: value for value, name in enumerate(names, start=1)}
    classes = {patient.folder.name: patient.classes for patient in usable}
    findings += class_findings(classes)
    channels = {
        patient.folder.name: name_channels(patient.images, patient.folder) for patient in usable
    }
    expected = most_frequent(list(channels.values()))
    findings += [
        other_channels(source, found, expected)
        for source, found in channels.items()
        if found != expected
    ]
    cases = [
        _case(patient, values) for patient in usable if channels[patient.folder.name] == expected
    ]
    names_by_value = {value: name for name, value in values.items()}
    return Dataset(folder, NAME, number_cases(cases), expected, names_by_value, tuple(findings))


def _list_patient(folder: Path, extensions: tuple[str, ...]) -> _Patient:
    mask_folders = tuple(
        path
        for path in subfolders(folder)
        if is_label_folder(path) and image_files(path, extensions)
    )
    masks = tuple(path for below in mask_folders[:1] for path in image_files(below, extensions))
    return _Patient(folder, images_of(image_files(folder, extensions)), mask_folders, masks)


def _case(patient: _Patient, values: Mapping[str, int]) -> Case:
    masks = tuple(sorted((values[name], path) for name, path in patient.classes.items()))
    return Case("", patient.folder.name, patient.images, patient.mask_folders[0], masks=masks)


def _problems(patient: _Patient) -> Iterator[Finding]:
    name = patient.folder.name
    if not patient.images and not patient.masks:
        message = "the folder holds no image and no masks"
        fix = "Remove the folder, or copy the patient's files into it."
        yield Finding("error", name, "empty folder", message, fix)
        return
    if not patient.images:
        message = f"there are masks ({patient.mask_folders[0].name}) but no image"
        yield Finding("error", name, "no image", message, "Add the image as img.EXT.")
    if not patient.masks:
        message = f"there is an image ({patient.images[0].name}) but no folder of masks beside it"
        fix = "Add them as segmentations/CLASS.EXT, or remove the patient."
        yield Finding("error", name, "no label map", message, fix)
    if len(patient.mask_folders) > 1:
        shown = ", ".join(path.name for path in patient.mask_folders)
        fix = "Keep one folder of masks a patient."
        yield Finding(
            "error", name, "several label maps", f"several folders of masks: {shown}", fix
        )
    yield from twins(patient.images, name)
    yield from twins(patient.masks, name)
