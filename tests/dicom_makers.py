"""DICOM series as scanners write them, and as they should not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"
AXIAL = np.diag([2.0, 2.0, 3.0, 1.0])
SHAPE = (6, 10, 8)


def numbers(shape: Sequence[int] = SHAPE) -> np.ndarray:
    """Voxels that are all different."""
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape) - 100


def make_slice(plane: np.ndarray, geometry: np.ndarray, **tags: object) -> pydicom.Dataset:
    """One image whose columns of geometry are a step along a row, one down a column, the origin."""
    dataset = pydicom.Dataset()
    along, down = (float(np.linalg.norm(geometry[:, axis])) for axis in (0, 1))
    cosines = [*(geometry[:, 0] / along), *(geometry[:, 1] / down)]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = UID(CT)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content = {
        "SOPClassUID": CT,
        "SOPInstanceUID": generate_uid(),
        "PatientID": "0815471199",
        "PatientName": "Zwetschgenbaum^Aenne",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.4",
        "FrameOfReferenceUID": "1.2.3.5",
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Rows": plane.shape[0],
        "Columns": plane.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "ImageOrientationPatient": [round(float(value), 10) for value in cosines],
        "ImagePositionPatient": [round(float(value), 6) for value in geometry[:, 2]],
        "PixelSpacing": [down, along],
        "SliceThickness": 3.0,
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
    }
    for name, value in (content | tags).items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PixelData = plane.astype(np.int16).tobytes()
    return dataset


def make_series(
    array: np.ndarray,
    affine: np.ndarray = AXIAL,
    change: Callable[[int, pydicom.Dataset], pydicom.Dataset | None] = lambda _, one: one,
    **tags: object,
) -> list[pydicom.Dataset]:
    """One image a slice of a volume; a change may bend one, or leave it out."""
    made = []
    for place, plane in enumerate(array):
        geometry = affine[:3, [0, 1, 3]].copy()
        geometry[:, 2] += place * affine[:3, 2]
        made.append(change(place, make_slice(plane, geometry, **tags)))
    return [one for one in made if one is not None]


def write_all(folder: Path, datasets: Sequence[pydicom.Dataset], seed: int = 0) -> list[Path]:
    """Write images under names that say nothing about their order."""
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(seed).permutation(len(datasets))
    paths = []
    for number, place in enumerate(order):
        paths.append(folder / f"IM{number:04d}")
        datasets[place].save_as(paths[-1], enforce_file_format=True)
    return paths


def oblique(affine: np.ndarray = AXIAL, degrees: float = 25.0) -> np.ndarray:
    """Turn a grid about an axis that lies along none of its own, and move it."""
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14.0)
    across = np.cross(np.eye(3), axis)
    angle = np.radians(degrees)
    turn = np.eye(3) + np.sin(angle) * across + (1 - np.cos(angle)) * across @ across
    turned = affine.copy()
    turned[:3, :3] = turn @ affine[:3, :3]
    turned[:3, 3] = [-31.0, 17.5, 803.25]
    return turned


PATIENT_SHAPE = (8, 16, 12)
OBLIQUE = oblique()


def make_image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, PATIENT_SHAPE).astype(np.int16)


def make_contours(uids: dict[str, str], boxes: dict[str, tuple[slice, slice, slice]]):
    """An RTSTRUCT with the outline of each box, its regions numbered in the order given."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    dataset.SOPInstanceUID = generate_uid()
    dataset.Modality = "RTSTRUCT"
    for name, value in uids.items():
        setattr(dataset, name, value)
    frame, study, series = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    series.SeriesInstanceUID = uids["SeriesInstanceUID"]
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = "1.2.3.5"
    frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.SeriesInstanceUID = generate_uid()
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, box) in enumerate(boxes.items(), start=1):
        region, drawn = pydicom.Dataset(), pydicom.Dataset()
        region.ROINumber = drawn.ReferencedROINumber = number
        region.ROIName, region.ReferencedFrameOfReferenceUID = name, "1.2.3.5"
        drawn.ContourSequence = [_contour(z, box) for z in range(PATIENT_SHAPE[0])[box[0]]]
        dataset.StructureSetROISequence.append(region)
        dataset.ROIContourSequence.append(drawn)
    return dataset


def _contour(z: int, box: tuple[slice, slice, slice]) -> pydicom.Dataset:
    low = (box[2].start - 0.5, box[1].start - 0.5)
    high = (box[2].stop - 0.5, box[1].stop - 0.5)
    corners = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    points = [(OBLIQUE @ [x, y, z, 1])[:3] for x, y in corners]
    item = pydicom.Dataset()
    item.ContourGeometricType = "CLOSED_PLANAR"
    item.NumberOfContourPoints = len(points)
    item.ContourData = [round(float(value), 5) for point in points for value in point]
    return item


LIVER = (slice(1, 5), slice(2, 8), slice(2, 8))
TUMOUR = (slice(5, 7), slice(9, 12), slice(3, 9))
INSIDE = (slice(2, 4), slice(3, 5), slice(3, 5))


def add_patient(root, number: int, boxes: dict, folder: str | None = None, **uids: str) -> None:
    known = {
        "PatientID": f"id{number}",
        "PatientName": f"Zwetschgenbaum^{number}",
        "StudyInstanceUID": f"1.2.{number}",
        "SeriesInstanceUID": f"1.2.{number}.7",
    } | uids
    place = root / (folder or f"patient {number}") / "study"
    write_all(place / "CT", make_series(make_image(number), OBLIQUE, **known))
    if boxes:
        structures = make_contours(known, boxes)
        structures.save_as(place / f"RS{number}", enforce_file_format=True)
