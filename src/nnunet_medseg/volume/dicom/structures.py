"""Structures in DICOM files, whether drawn as voxels (SEG) or as contours (RTSTRUCT).

Numbers of structures hold within one file only; from patient to patient, names say what is what.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_medseg.volume.dicom.opening import damage_told, first_item, open_dataset, printable
from nnunet_medseg.volume.grid import Volume
from nnunet_medseg.volume.problems import VolumeError, check_name

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "CONTOURS_UID",
    "SEGMENTATION_UIDS",
    "Structure",
    "read_structures",
    "structures_of",
]

SEGMENTATION_UIDS = (
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation Storage
    "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation Storage
)
CONTOURS_UID = "1.2.840.10008.5.1.4.1.1.481.3"  # RT Structure Set Storage


@dataclass(frozen=True)
class Structure:
    """One structure of a file.

    Attributes:
        number: Of the segment or region in its file.
        name: For people, and printable.
        series_uid: The series of images it was drawn on; empty when the file does not say, or
            names several.
        frame_uid: The frame of reference of its coordinates; empty when the file does not say.
        image_uid: Of the image that its first contour was drawn on; empty when it is not said.
    """

    number: int
    name: str
    series_uid: str
    frame_uid: str = ""
    image_uid: str = ""


def structures_of(path: Path) -> tuple[Structure, ...]:
    """Return the structures that the header of a SEG or RTSTRUCT tells of, in its order.

    Raises:
        VolumeError: When the file is no SEG or RTSTRUCT, or cannot be read.
    """
    with damage_told():
        dataset = open_dataset(path, header_only=True)
        is_segmentation = _kind(dataset) in SEGMENTATION_UIDS
        found = _segments(dataset) if is_segmentation else _regions(dataset)
        if len({item.number for item in found}) < len(found):
            problem = (
                "two of its structures have the same number, so that nobody can tell which is meant"
            )
            raise VolumeError("same number", problem, "Export the structures again.")
        return found


def read_structures(
    path: Path, grid: Volume, numbers: Collection[int] | None = None
) -> dict[int, np.ndarray[Any, Any]]:
    """Read structures onto the grid of an image.

    Args:
        path: A SEG or RTSTRUCT.
        grid: The image; its axes may be oblique, sheared, and left-handed.
        numbers: Which structures; None for all. What is not asked for cannot be wrong.

    Returns:
        A mask `(z, y, x)` of bool on the grid for each number.

    Raises:
        VolumeError: When a structure cannot be put on that grid, or the file cannot be read or has
            a name that is no text.
    """
    check_name(path)
    with damage_told():
        dataset = open_dataset(path)
        read = _reader(_kind(dataset))
        asked = {item.number for item in structures_of(path)}
        if numbers is not None:
            asked &= set(numbers)
        return read(dataset, grid, asked)


def _reader(
    kind: str,
) -> Callable[[Dataset, Volume, set[int]], dict[int, np.ndarray[Any, Any]]]:
    from nnunet_medseg.volume.dicom.contours import read_contours
    from nnunet_medseg.volume.dicom.segmentation import read_segments

    return read_contours if kind == CONTOURS_UID else read_segments


def _kind(dataset: Dataset) -> str:
    kind = str(dataset.get("SOPClassUID", ""))
    if kind not in (*SEGMENTATION_UIDS, CONTOURS_UID):
        problem = "the DICOM file is neither a segmentation (SEG) nor contours (RTSTRUCT)"
        raise VolumeError("no structures", problem, "Export the labels as SEG or as RTSTRUCT.")
    return kind


def _segments(dataset: Dataset) -> tuple[Structure, ...]:
    series = {str(item.SeriesInstanceUID) for item in dataset.get("ReferencedSeriesSequence", [])}
    uid = series.pop() if len(series) == 1 else ""
    found = [
        (int(item.SegmentNumber), printable(item.get("SegmentLabel")))
        for item in dataset.get("SegmentSequence", [])
    ]
    frame_uid = str(dataset.get("FrameOfReferenceUID") or "")
    # A label map may describe its background as segment 0.
    return tuple(
        Structure(number, name or f"label_{number}", uid, frame_uid)
        for number, name in found
        if number > 0
    )


def _regions(dataset: Dataset) -> tuple[Structure, ...]:
    series = _series_by_frame_of_reference(dataset)
    anywhere = set().union(*series.values()) if series else set()
    images = _first_images(dataset)
    found = []
    for item in dataset.get("StructureSetROISequence", []):
        number = int(item.ROINumber)
        frame_uid = str(item.get("ReferencedFrameOfReferenceUID") or "")
        uids = series.get(frame_uid, anywhere)
        uid = next(iter(uids)) if len(uids) == 1 else ""
        name = printable(item.get("ROIName")) or f"label_{number}"
        found.append(Structure(number, name, uid, frame_uid, images.get(number, "")))
    return tuple(found)


def _first_images(dataset: Dataset) -> dict[int, str]:
    """Return the image that the first contour of each region was drawn on, where it is said."""
    found: dict[int, str] = {}
    for region in dataset.get("ROIContourSequence") or []:
        contour = first_item(region, "ContourSequence")
        image = first_item(contour, "ContourImageSequence")
        if image is not None:
            found[int(region.ReferencedROINumber)] = str(image.get("ReferencedSOPInstanceUID", ""))
    return found


def _series_by_frame_of_reference(dataset: Dataset) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for frame in dataset.get("ReferencedFrameOfReferenceSequence", []):
        uids = found.setdefault(str(frame.get("FrameOfReferenceUID", "")), set())
        for study in frame.get("RTReferencedStudySequence", []):
            for series in study.get("RTReferencedSeriesSequence", []):
                uids.add(str(series.SeriesInstanceUID))
    return found
