"""What lies in a folder of DICOM files: series of images, and the structures drawn on them.

Only headers are read. Who a patient is stays a hash here: it tells patients apart, and no more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_medseg.volume.dicom.opening import damage_told, open_dataset
from nnunet_medseg.volume.dicom.structures import (
    CONTOURS_UID,
    SEGMENTATION_UIDS,
    Structure,
    structures_of,
)
from nnunet_medseg.volume.problems import VolumeError, unreadable

__all__ = ["Index", "Series", "StructureFile", "index_files", "is_dicom", "is_localizer"]

PREAMBLE_BYTES = 128
MAGIC = b"DICM"
# Storage of images of CT, MR and PET, enhanced ones and old ones.
STORAGE = "1.2.840.10008.5.1.4.1.1."
SCANS = tuple(f"{STORAGE}{number}." for number in ("2", "4", "128", "130"))
# Images that nobody has scanned: of radiotherapy (simulated, dose), and screenshots. Some programs
# save volumes as the latter too, and then say where these lie.
PLANNED = (f"{STORAGE}481.1.", f"{STORAGE}481.2.")
SCREENSHOTS = f"{STORAGE}7."
# All that is asked of an image's header; others are skipped.
TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "Rows",
    "ImageType",
    "ImagePositionPatient",
    "SharedFunctionalGroupsSequence",
]


@dataclass(frozen=True)
class Series:
    """A series of images.

    Attributes:
        uid: Of the series.
        study_uid: Of its study.
        frame_uid: Of its frame of reference: where two have the same, they lie in one space.
        patient: A hash that tells patients apart.
        modality: As DICOM says it: CT, MR, PT …
        files: All of its files, sorted by path.
        is_overview: Whether it holds nothing but localisers.
        is_scan: Whether it may be a volume, and is no dose, simulated image or screenshot.
        image_uids: SOP instances of its files.
    """

    uid: str
    study_uid: str
    frame_uid: str
    patient: str
    modality: str
    files: tuple[Path, ...]
    is_overview: bool = False
    is_scan: bool = True
    image_uids: frozenset[str] = frozenset()


@dataclass(frozen=True)
class StructureFile:
    """A SEG or RTSTRUCT.

    Attributes:
        path: The file.
        study_uid: Of its study.
        patient: A hash that tells patients apart.
        structures: What it holds.
    """

    path: Path
    study_uid: str
    patient: str
    structures: tuple[Structure, ...]


@dataclass
class Index:
    """What was found.

    Attributes:
        series: Series of images, sorted by their first file.
        structures: Files with structures, sorted by path.
        damaged: DICOM files that cannot be read, with the reason.
    """

    series: list[Series] = field(default_factory=list)
    structures: list[StructureFile] = field(default_factory=list)
    damaged: list[tuple[Path, VolumeError]] = field(default_factory=list)


def is_dicom(path: Path) -> bool:
    """Tell whether a file begins as DICOM files do, whatever its name."""
    try:
        with path.open("rb") as stream:
            return stream.read(PREAMBLE_BYTES + len(MAGIC))[PREAMBLE_BYTES:] == MAGIC
    except OSError:
        return False


def index_files(paths: Iterable[Path]) -> Index:
    """Read the headers of DICOM files and sort them by series.

    Files without images or structures, such as a DICOMDIR or a report, are passed over.

    Args:
        paths: Files that `is_dicom` accepts.
    """
    index = Index()
    images: dict[str, list[tuple[Path, Any]]] = {}
    for path in sorted(paths):
        try:
            with damage_told():
                _sort_in(path, index, images)
        except VolumeError as problem:
            index.damaged.append((path, problem))
    for uid, members in images.items():
        if len({_patient(header) for _, header in members}) > 1:
            index.damaged.append((members[0][0], _of_several_patients()))
        index.series.append(_series(uid, members))
    index.series.sort(key=lambda series: series.files[0])
    return index


def _sort_in(path: Path, index: Index, images: dict[str, list[tuple[Path, Any]]]) -> None:
    header = open_dataset(path, header_only=True, tags=TAGS)
    # Of a file that was cut short, its first lines may be left.
    kind = str(header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID", ""))
    if not kind:
        raise unreadable()
    if kind in (*SEGMENTATION_UIDS, CONTOURS_UID):
        patient, study = _patient(header), str(header.get("StudyInstanceUID", ""))
        index.structures.append(StructureFile(path, study, patient, structures_of(path)))
    elif f"{kind}.".startswith(SCANS) and not {"Rows", "SeriesInstanceUID"} <= set(header.dir()):
        # Cut short: without this slice nobody would know why the series has a gap.
        raise unreadable()
    elif header.get("Rows") is not None and "SeriesInstanceUID" in header:
        images.setdefault(str(header.SeriesInstanceUID), []).append((path, header))


def is_localizer(header: Any) -> bool:
    """Tell whether an image is an overview that a scan was planned on."""
    return "LOCALIZER" in [str(item).upper() for item in header.get("ImageType") or []]


def _series(uid: str, members: list[tuple[Path, Any]]) -> Series:
    first = members[0][1]
    return Series(
        uid=uid,
        study_uid=str(first.get("StudyInstanceUID", "")),
        frame_uid=str(first.get("FrameOfReferenceUID", "")),
        patient=_patient(first),
        modality=str(first.get("Modality", "")),
        files=tuple(path for path, _ in members),
        is_overview=all(is_localizer(header) for _, header in members),
        is_scan=any(_is_scan(header) for _, header in members),
        image_uids=frozenset(str(header.get("SOPInstanceUID", "")) for _, header in members),
    )


def _is_scan(header: Any) -> bool:
    kind = f"{header.get('SOPClassUID', '')}."
    if kind.startswith(SCREENSHOTS):
        return "ImagePositionPatient" in header or "SharedFunctionalGroupsSequence" in header
    return not kind.startswith(PLANNED)


def _of_several_patients() -> VolumeError:
    problem = "images of several patients have the same series UID, as some anonymisers write it"
    fix = "Export or anonymise them again, with a UID of its own for each series."
    return VolumeError("several patients", problem, fix)


def _patient(header: Any) -> str:
    # A name is the same in capitals, and without the empty parts at its end.
    known = [
        str(header.get(name) or "").rstrip(" ^=").strip().casefold()
        for name in ("PatientID", "PatientName", "PatientBirthDate")
    ]
    # Without any of them a study stands for a patient.
    words = known if any(known) else [str(header.get("StudyInstanceUID", ""))]
    return hashlib.sha256("\x1f".join(words).encode(errors="replace")).hexdigest()[:16]
