"""Makers of small data: volumes of 16³ voxels, patients, and whole datasets."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from nnunet_medseg.dataset.case import Case
from nnunet_medseg.files import write_json
from nnunet_medseg.volume import Volume, write_volume

SIDE = 16
SPACING_MM = (2.0, 1.0, 1.5)


def make_affine(origin_mm=(0.0, 0.0, 0.0)) -> np.ndarray:
    affine = np.diag([*SPACING_MM[::-1], 1.0])
    affine[:3, 3] = origin_mm
    return affine


def make_volume(array: np.ndarray, *, origin_mm=(0.0, 0.0, 0.0)) -> Volume:
    return Volume(array, SPACING_MM, make_affine(origin_mm))


def make_image(seed: int = 0, *, dtype=np.int16, origin_mm=(0.0, 0.0, 0.0)) -> Volume:
    """Make noise without a zero, so that voxels that went missing are seen."""
    values = np.random.default_rng(seed).integers(1, 900, (SIDE, SIDE, SIDE))
    return make_volume(values.astype(dtype), origin_mm=origin_mm)


def make_label(values=(1,), *, dtype=np.uint8, origin_mm=(0.0, 0.0, 0.0)) -> Volume:
    """Make a label map with one slab a value."""
    array = np.zeros((SIDE, SIDE, SIDE), dtype=dtype)
    for place, value in enumerate(values):
        array[1 + place, 4:12, 4:12] = value
    return make_volume(array, origin_mm=origin_mm)


def write_patient(
    folder: Path,
    *,
    seed: int = 0,
    channels=("",),
    values=(1,),
    label: str = "train",
    extension: str = ".nii.gz",
) -> Path:
    """Write a patient folder: `img.EXT` or `img_CHANNEL.EXT`, and the label map."""
    folder.mkdir(parents=True)
    for place, channel in enumerate(channels):
        name = f"img_{channel}" if channel else "img"
        write_volume(folder / f"{name}{extension}", make_image(100 * seed + place))
    write_volume(folder / f"{label}{extension}", make_label(values))
    return folder


def write_patients(folder: Path, *, cases: int = 3, **options) -> Path:
    """Write a dataset of patient folders, `p1`, `p2` …"""
    for number in range(1, cases + 1):
        write_patient(folder / f"p{number}", seed=number, **options)
    return folder


def write_raw(
    folder: Path, *, cases: int = 3, channels: int = 1, values=(1,), description=None
) -> Path:
    """Write a dataset in nnU-Net's raw layout, with cases `c1`, `c2` …"""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for number in range(1, cases + 1):
        for channel in range(channels):
            image = make_image(100 * number + channel)
            write_volume(folder / "imagesTr" / f"c{number}_{channel:04d}.nii.gz", image)
        write_volume(folder / "labelsTr" / f"c{number}.nii.gz", make_label(values))
    if description is not None:
        write_json(folder / "dataset.json", description)
    return folder


def write_case(
    folder: Path,
    image: Volume | None = None,
    label: Volume | None = None,
    *,
    extension: str = ".nii.gz",
) -> Case:
    """Write one patient and return its case, `case_0001` of the patient `Müller`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = (folder / f"img{extension}", folder / f"train{extension}")
    write_volume(paths[0], make_image() if image is None else image)
    write_volume(paths[1], make_label() if label is None else label)
    return Case("case_0001", "Müller", (paths[0],), paths[1])


def hashes_of(folder: Path) -> dict[str, str]:
    """Return the hash of every file below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
