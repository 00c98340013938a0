"""What the check hands to the reports names nobody, in layouts where folders and files do."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_makers import (
    LIVER,
    OBLIQUE,
    PATIENT_SHAPE,
    add_patient,
    make_contours,
    make_image,
    make_series,
    make_slice,
    write_all,
)
from layout_makers import write_decathlon
from searcher import search_bytes
from world import IMAGE, NAMES, PATIENTS

from nnunet_medseg.dataset.checks import Inspection
from nnunet_medseg.dataset.inspected import InspectionRecord
from nnunet_medseg.dataset.intake import read_dataset
from nnunet_medseg.files import list_files, read_json
from nnunet_medseg.hardware import Device
from nnunet_medseg.run_folder import Journal, RunFolder
from nnunet_medseg.volume import write_volume
from nnunet_medseg.volume.dicom.series import read_series
from nnunet_medseg.workflows.options import Folders, TrainOptions
from nnunet_medseg.workflows.stage import Run
from nnunet_medseg.workflows.stages import checking

TILTED = np.diag([2.0, 2.0, 3.0, 1.0])
TILTED[1, 2] = 3.0 * np.tan(np.radians(12.0))
CPU = Device("cpu", 0, "CPU", has_fast_bf16=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "in"


def findings_of(root: Path) -> list[str]:
    """Check a dataset as the first stage of a training, and return what is handed on."""
    place = root.parent
    folders = Folders(root, place / "out", place / "work")
    folder = RunFolder(folders.work / "runs" / "run")
    folder.create(Journal(program_version="0", options={}, dataset_folder=str(root)))
    checking.check(Run(folder, root, folders, TrainOptions(), CPU, store=folder.root))
    found: list[str] = read_json(folder.findings_file)
    assert search_bytes("\n".join(found).encode(), NAMES, "findings") == []
    return [line.partition(": ")[2] for line in found]


def uids_of(number: int) -> dict[str, str]:
    return {
        "PatientID": f"id{number}",
        "PatientName": f"Zwetschgenbaum^{number}",
        "StudyInstanceUID": f"1.2.{number}",
        "SeriesInstanceUID": f"1.2.{number}.7",
    }


def test_a_series_is_called_neither_by_its_folder_nor_by_its_files(root):
    for number, name in enumerate(PATIENTS[:3], start=1):
        add_patient(root, number, {"Liver": LIVER}, name)
    doubled, overview, drawn = (root / name / "study" for name in PATIENTS[:3])
    for study, name in zip((doubled, overview), PATIENTS, strict=False):
        (study / "CT").rename(study / name)
    shutil.copytree(doubled / PATIENTS[0], doubled / "again")
    tags = uids_of(2) | {"ImageType": ["ORIGINAL", "LOCALIZER"]}
    scout = make_slice(np.zeros(PATIENT_SHAPE[1:]), OBLIQUE[:3, [0, 1, 3]], **tags)
    for number, path in enumerate(sorted(overview.rglob("IM*")), start=1):
        path.rename(path.with_name(f"{number}"))
    scout.save_as(overview / PATIENTS[1] / "9", enforce_file_format=True)
    empty = make_contours(uids_of(3), {})
    empty.save_as(drawn / f"RS {PATIENTS[2]}.dcm", enforce_file_format=True)
    for path in (*doubled.rglob("IM*"), *doubled.glob("RS*")):
        path.rename(path.with_name(f"{PATIENTS[1]} {path.name}"))

    told = findings_of(root)

    assert "its series: 8 slices that were there twice, voxel for voxel, taken once" in told
    assert "its series: 1 localiser images in the series left out" in told
    assert "no structures" in told


def test_the_other_one_of_two_cases_is_called_by_our_name_whatever_is_in_its_own(root):
    for number, name in enumerate((f"Copy of {PATIENTS[3]}", f"Scan of {PATIENTS[3]}"), start=1):
        add_patient(root, 1, {"Liver": LIVER}, name, **uids_of(number))
        for place, path in enumerate(sorted((root / name).rglob("IM*"))):
            # Their names are digits, as in the names of the folders.
            path.rename(path.with_name(f"{place}"))
    twin = pydicom.dcmread(path.with_name("3"))
    pixels = twin.pixel_array.copy()
    pixels[3, 3] += 1
    twin.PixelData = pixels.tobytes()
    twin.save_as(path.with_name("3"))

    assert findings_of(root) == ["its image is almost that of case_0001"]


def add_with_label_map(
    folder: Path, number: int, affine: np.ndarray, shape: tuple[int, ...], moved_mm: float = 0.0
) -> None:
    """Write a series beside a label map that lies as far off as rounding leaves it."""
    image = make_image(number)[: shape[0]]
    files = write_all(folder, make_series(image, affine, **uids_of(number)))
    if len(files) == 1:
        files[0] = files[0].rename(files[0].with_name(IMAGE))
    grid = read_series(tuple(files))
    label = np.zeros(grid.array.shape, np.uint8)
    label[:, 4:8, 4:8] = 1
    moved = grid.affine.copy()
    moved[0, 3] += moved_mm
    path = folder / f"seg_{PATIENTS[1]}.nii.gz"
    write_volume(path, replace(grid, array=label, affine=moved))


def test_a_tilted_gantry_and_a_rounded_header_are_told_without_names(root):
    add_with_label_map(root / PATIENTS[0], 1, TILTED, PATIENT_SHAPE)
    add_with_label_map(root / PATIENTS[1], 2, OBLIQUE, PATIENT_SHAPE, moved_mm=0.1)
    add_with_label_map(root / PATIENTS[2], 3, OBLIQUE, (1, *PATIENT_SHAPE[1:]), moved_mm=0.1)

    told = findings_of(root)

    assert "its series: the gantry was tilted; resampled onto a grid at right angles" in told
    rounded = [line for line in told if "voxels away from" in line]
    assert [line.startswith("label map: 0.0") for line in rounded] == [True, True]
    assert [line.partition(" away from ")[2].partition(",")[0] for line in sorted(rounded)] == [
        "image 1",
        "its series",
    ]


def test_files_that_the_dataset_does_not_list_are_counted_only(root):
    write_decathlon(root, cases=2)
    for folder in ("imagesTr", "labelsTr"):
        path = root / folder / "t2.nii.gz"
        shutil.copy(path, path.with_name(f"{PATIENTS[1]}.nii.gz"))

    told = findings_of(root)

    assert "dataset.json does not list 1 for training; left out" in told


def test_a_series_that_is_remembered_is_not_told_under_the_old_name_of_its_folder(root):
    add_with_label_map(root / PATIENTS[0], 1, TILTED, PATIENT_SHAPE)
    add_with_label_map(root / "p2", 2, OBLIQUE, PATIENT_SHAPE)

    def inspect() -> list[Inspection]:
        hashes = {root / item.path: item.sha256 for item in list_files(root, hashed=True)}
        record = InspectionRecord(root.parent / "record.json", hashes)
        return record.inspect(read_dataset(root, None).cases)

    inspect()
    (root / PATIENTS[0]).rename(root / "p1")
    told = [finding.message for item in inspect() for finding in item.findings]

    assert any("gantry" in message for message in told)
    assert search_bytes("\n".join(told).encode(), NAMES, "findings") == []
