"""Writers of small datasets in each layout; the images are those of `makers`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dicom_makers import LIVER, PATIENT_SHAPE, add_patient
from makers import make_image, make_label, make_volume, write_patients, write_raw

from nnunet_medseg.files import write_json
from nnunet_medseg.volume import write_volume
from nnunet_medseg.volume.dicom.series import read_series


def write_decathlon(folder: Path, *, cases: int = 3, modality=("CT",), listed: bool = True) -> Path:
    """Write cases `t1`, `t2` … and a dataset.json as the Decathlon has it."""
    names = [f"t{number}" for number in range(1, cases + 1)]
    for seed, name in enumerate(names):
        write_pair(folder, f"imagesTr/{name}.nii.gz", f"labelsTr/{name}.nii.gz", seed=seed)
    paths = [(f"./imagesTr/{name}.nii.gz", f"./labelsTr/{name}.nii.gz") for name in names]
    write_json(
        folder / "dataset.json",
        {
            "modality": {str(number): name for number, name in enumerate(modality)},
            "labels": {"0": "background", "1": "Anterior"},
            "training": [{"image": image, "label": label} for image, label in paths if listed],
        },
    )
    return folder


def write_flat(folder: Path, *, cases: int = 3, names=("images", "labels")) -> Path:
    """Write `images/f1.nii.gz` and `labels/f1.nii.gz` …"""
    for number in range(1, cases + 1):
        name = f"f{number}.nii.gz"
        write_pair(folder, f"{names[0]}/{name}", f"{names[1]}/{name}", seed=number)
    return folder


def write_class_masks(
    folder: Path, *, cases: int = 3, classes=("liver", "aorta"), place: str = "segmentations"
) -> Path:
    """Write `s1/ct.nii.gz` and `s1/segmentations/liver.nii.gz` …; masks do not overlap."""
    for number in range(1, cases + 1):
        patient = folder / f"s{number}"
        (patient / place).mkdir(parents=True)
        write_volume(patient / "ct.nii.gz", make_image(number))
        for layer, name in enumerate(classes, start=1):
            mask = make_label(range(1, layer + 1)).array == layer
            write_volume(patient / place / f"{name}.nii.gz", make_volume(mask.astype("uint8")))
    return folder


def write_bids(folder: Path, *, cases: int = 3, channels=("T1w",), sessions=("",)) -> Path:
    """Write `sub-01/[ses-1/]anat` and the label maps in `derivatives/labels`."""
    for number in range(1, cases + 1):
        for session in sessions:
            parts = [f"sub-{number:02d}", *([session] if session else [])]
            place, start = "/".join(parts), "_".join(parts)
            anat, derived = (folder / root / place / "anat" for root in (".", "derivatives/labels"))
            for seed, channel in enumerate(channels):
                anat.mkdir(parents=True, exist_ok=True)
                image = make_image(seed_of(start) + seed)
                write_volume(anat / f"{start}_{channel}.nii.gz", image)
            derived.mkdir(parents=True)
            write_volume(derived / f"{start}_dseg.nii.gz", make_label())
    return folder


def seed_of(text: str) -> int:
    """Return a number that differs between texts, the same in every process."""
    return int.from_bytes(text.encode(), "little") % 1_000_003


def write_pair(folder: Path, image: str, label: str, *, seed: int = 0) -> None:
    """Write an image and a label map at paths below a folder."""
    for path in (folder / image, folder / label):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(folder / image, make_image(seed))
    write_volume(folder / label, make_label())


def touch(folder: Path, *paths: str) -> Path:
    """Make empty files, for what is decided by names alone."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def write_dicom(folder: Path, *, cases: int = 3) -> Path:
    """Write series `d1/study/CT` …, each with an RTSTRUCT beside it."""
    for number in range(1, cases + 1):
        add_patient(folder, number, {"Liver": LIVER}, f"d{number}")
    return folder


def write_dicom_with_label_maps(folder: Path, *, cases: int = 3) -> Path:
    """Write series `d1/study/CT` …, each with `d1/seg.nii.gz`."""
    for number in range(1, cases + 1):
        place = folder / f"d{number}"
        add_patient(folder, number, {}, place.name)
        grid = read_series(tuple((place / "study" / "CT").iterdir()))
        label = np.zeros(PATIENT_SHAPE, np.uint8)
        label[LIVER] = 1
        write_volume(place / "seg.nii.gz", grid.with_array(label))
    return folder


WRITERS = {
    "bids": write_bids,
    "class_masks": write_class_masks,
    "decathlon": write_decathlon,
    "dicom": write_dicom,
    "dicom_with_label_maps": write_dicom_with_label_maps,
    "flat": write_flat,
    "nnunet_raw": write_raw,
    "patient_folders": write_patients,
}
