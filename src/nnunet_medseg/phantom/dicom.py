"""Phantoms as DICOM: series of CT or MRI, with what was drawn on them as SEG or RTSTRUCT.

Promises: slices lie where the phantom's affine says; names of files say nothing about their order;
structures have other numbers from patient to patient, as contours drawn by hand have.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_medseg.phantom.abdomen import LABELS, PhantomSpec, make_case
from nnunet_medseg.volume import Volume
from nnunet_medseg.volume.dicom.writing import WRITERS

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["write_dicom_patients", "write_series"]

STORAGE = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
ROOT = "1.2.826.0.1.3680043.8.498."  # of pydicom, for made-up identifiers


def write_series(folder: Path, image: Volume, *, modality: str = "CT", patient: int = 1) -> None:
    """Write a volume as a series of one file a slice.

    Args:
        folder: Where to; made when missing.
        image: Values are rounded to whole numbers of 16 bits.
        modality: "CT" or "MR".
        patient: Number of a made-up patient, 1 or more; of it follow all identifiers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    array = np.rint(image.array).astype(np.int16)
    order = np.random.default_rng(patient).permutation(len(array))
    for number, place in enumerate(order):
        one = _slice(array[place], image, int(place), modality, patient)
        one.save_as(folder / f"IM{number:05d}", enforce_file_format=True)


def _slice(
    plane: np.ndarray[Any, Any], image: Volume, place: int, modality: str, patient: int
) -> Dataset:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    _, down, along = image.spacing_mm
    cosines = image.affine[:3, :2] / (along, down)
    origin = image.affine[:3, 3] + place * image.affine[:3, 2]
    study = f"{ROOT}{patient}"
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = UID(STORAGE[modality])
    one.SOPInstanceUID = UID(f"{study}.1.{place + 1}")
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    one.Modality, one.ImageType = modality, ["DERIVED", "PRIMARY", "AXIAL"]
    one.PatientName, one.PatientID = f"Phantom^{patient}", f"PHANTOM{patient}"
    one.PatientBirthDate = one.PatientSex = one.AccessionNumber = ""
    one.StudyInstanceUID, one.SeriesInstanceUID = study, f"{study}.1"
    one.FrameOfReferenceUID, one.PositionReferenceIndicator = f"{study}.2", ""
    one.StudyID, one.StudyDate, one.StudyTime = str(patient), "", ""
    one.SeriesNumber, one.InstanceNumber, one.ReferringPhysicianName = 1, place + 1, ""
    one.ImagePositionPatient = [round(float(value), 6) for value in origin]
    one.ImageOrientationPatient = [round(float(value), 10) for value in cosines.T.ravel()]
    one.PixelSpacing, one.SliceThickness = [down, along], image.spacing_mm[0]
    one.Rows, one.Columns = plane.shape
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation = 15, 1
    one.RescaleSlope, one.RescaleIntercept = 1, 0
    one.PixelData = plane.tobytes()
    return one


def write_dicom_patients(
    folder: Path, spec: PhantomSpec, *, cases: int, drawn_as: str = "rtstruct", first: int = 0
) -> None:
    """Write one folder a patient: `patient_01/images/IM00000` … and `patient_01/structures.dcm`.

    Args:
        folder: Where to; made when missing.
        spec: What the dataset has in common; of several channels the first is written.
        cases: How many patients.
        drawn_as: "rtstruct" or "dicom_seg".
        first: Index of the first case; patients are numbered by index, from 1.
    """
    for index in range(first, first + cases):
        images, label = make_case(spec, index)
        patient = folder / f"patient_{index + 1:02d}"
        modality = "CT" if spec.modality == "CT" else "MR"
        write_series(patient / "images", images[0], modality=modality, patient=index + 1)
        names = _in_turn(list(LABELS.items()), index)
        series = sorted((patient / "images").iterdir())
        target = patient / "structures.dcm"
        WRITERS[drawn_as](target, label, {value: name for name, value in names}, series, "phantom")


def _in_turn(items: Sequence[tuple[str, int]], number: int) -> list[tuple[str, int]]:
    start = number % len(items)
    return [*items[start:], *items[:start]]
