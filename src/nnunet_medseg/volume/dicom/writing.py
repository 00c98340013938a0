"""Label maps out, as DICOM that refers to the series they were found on: SEG and RTSTRUCT.

Promises: what was written is read back, and lies on the very voxels of the label map, or an error
is raised; patient and study are those of the series.
Does not promise: labels of a tilted gantry's straightened image to come back voxel for voxel; each
pixel of the series gets the nearest voxel's.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_medseg.volume.dicom.codes import meaning_of
from nnunet_medseg.volume.dicom.frames import Frame, Source, labels_on, read_source
from nnunet_medseg.volume.dicom.opening import damage_told, open_dataset
from nnunet_medseg.volume.dicom.structures import CONTOURS_UID
from nnunet_medseg.volume.grid import Volume
from nnunet_medseg.volume.problems import VolumeError

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["WRITERS", "require_references", "write_contours", "write_segmentation"]

MAKER, MODEL = "nnunet-medseg", "nnU-Net v2"
ALGORITHM = "nnU-Net"
DESCRIPTION = "Automatic segmentation, to be checked"
SERIES_NUMBER = 9000  # beyond those of scanners
LONGEST_LABEL = 64  # of the value representation LO
MM_DECIMALS = 4
UTF_8 = "ISO_IR 192"
TAKE_NIFTI = "Take --output_format nifti."
# Without these no archive knows what a file belongs to (type 1 of PS3.3).
NEEDED = {
    "FrameOfReferenceUID": "frame of reference",
    "StudyInstanceUID": "study",
    "SOPInstanceUID": "instance numbers",
}
# RGB of regions, in turn: Okabe and Ito's palette, as in the pictures.
COLOURS = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (204, 121, 167))


def write_segmentation(
    path: Path, labels: Volume, names: Mapping[int, str], series: Sequence[Path], version: str
) -> None:
    """Write a label map as a binary DICOM-SEG.

    Args:
        path: The file.
        labels: On the grid of the series as `read_series` brings it, with values of `names` or 0.
        names: Names of the labels by value; their order gives the numbers of the segments.
        series: The files of the series that was segmented.
        version: Of what has segmented it.

    Raises:
        VolumeError: When the label map does not lie on the series.
    """
    source = _source_of(series)
    found = labels_on(source, labels)
    numbers = np.zeros(found.shape, np.uint8 if len(names) < 256 else np.uint16)
    for number, value in enumerate(names, start=1):
        numbers[found == value] = number
    with _refusals_told():
        segmentation = _segmentation(source, numbers, names, version)
        segmentation.save_as(path, enforce_file_format=True)


@contextmanager
def _refusals_told() -> Iterator[None]:
    """Turn what highdicom and pydicom say about headers they cannot refer to into one error.

    Nothing of what they say is told: they quote the patient's name.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (AttributeError, LookupError, TypeError, ValueError) as cause:
            problem = "the headers of the series do not allow a file that refers to it"
            raise VolumeError("header", problem, TAKE_NIFTI) from cause


def _segmentation(
    source: Source, numbers: np.ndarray[Any, Any], names: Mapping[int, str], version: str
) -> Dataset:
    import highdicom

    segmentation: Dataset = highdicom.seg.Segmentation(
        source_images=list(source.headers),
        pixel_array=numbers,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _described(number, name, version) for number, name in enumerate(names.values(), 1)
        ],
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MODEL,
        software_versions=version,
        # Of a machine nothing is told.
        device_serial_number="0",
        series_description=DESCRIPTION,
        content_label="SEGMENTATION",
        omit_empty_frames=bool(numbers.any()),
    )
    # highdicom does not say so when the images do not.
    segmentation.SpecificCharacterSet = UTF_8
    return segmentation


def _source_of(series: Sequence[Path]) -> Source:
    """Read the headers of a series, with everything that must be there in a file that refers to it.

    Anonymisers take away what has to be there, though it may be empty (type 2 of PS3.3), or write
    what may not be. Letters are those of all languages, since names of labels have any.
    """
    source = read_source(series)
    with damage_told():
        for header in source.headers:
            _require_references(header)
            for name in OF_PATIENT_AND_STUDY:
                if name not in header or not _is_allowed(name, header.get(name)):
                    setattr(header, name, "")
            # What was asked for above was decoded by the letters of the series.
            header.SpecificCharacterSet = UTF_8
            if not header.get("SliceThickness"):
                header.SliceThickness = _distance_mm(source)
    return source


def require_references(series: Sequence[Path], output_format: str) -> None:
    """Tell before a series is segmented when no DICOM file can refer to it.

    Args:
        series: The files of the series; one stands for all.
        output_format: One of `WRITERS`.

    Raises:
        VolumeError: When what it is referred to by is missing.
    """
    with damage_told():
        header = open_dataset(series[0], header_only=True)
        _require_references(header)
    is_parted = len(series) > 1 and "PerFrameFunctionalGroupsSequence" in header
    if is_parted and WRITERS[output_format] is write_segmentation:
        problem = (
            "the series has several files of many frames, which no DICOM-SEG here can refer to"
        )
        raise VolumeError("header", problem, "Take --output_format rtstruct or nifti.")


def _require_references(header: Dataset) -> None:
    for name, word in NEEDED.items():
        if not header.get(name):
            problem = f"the series has no {word}, so that no DICOM file can refer to it"
            raise VolumeError("header", problem, TAKE_NIFTI)


def _is_allowed(name: str, value: Any) -> bool:
    """Tell whether a value of the patient or study is as DICOM wants it."""
    from pydicom.valuerep import DA, TM

    text = str(value or "")
    if name == "PatientSex":
        return text in ("", "M", "F", "O")
    kinds = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM}
    try:
        if text and name in kinds:
            kinds[name](text)
    except ValueError:
        return False
    return True


def _distance_mm(source: Source) -> float:
    """Return the usual distance of slices; 1 where there is one only."""
    first = source.frames[0].geometry
    across = np.cross(first[:, 0], first[:, 1])
    heights = [float(frame.geometry[:, 2] @ across) for frame in source.frames]
    gaps = np.diff(np.sort(heights)) / np.linalg.norm(across)
    return round(float(np.median(gaps)), MM_DECIMALS) if len(gaps) else 1.0


def _written(name: str) -> str:
    """Return the name of a label as a file can hold it: a backslash would make two of it."""
    return name.replace("\\", "/")[:LONGEST_LABEL]


def _described(number: int, name: str, version: str) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes

    meaning = meaning_of(name)
    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=_written(name),
        segmented_property_category=meaning.category,
        segmented_property_type=meaning.kind,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=ALGORITHM, version=version, family=codes.cid7162.ArtificialIntelligence
        ),
        tracking_uid=highdicom.UID(),
        tracking_id=_written(name),
    )
    if meaning.side is not None:
        side = highdicom.sr.CodedConcept.from_code(meaning.side)
        description.SegmentedPropertyTypeCodeSequence[
            0
        ].SegmentedPropertyTypeModifierCodeSequence = [side]
    return description


def write_contours(
    path: Path, labels: Volume, names: Mapping[int, str], series: Sequence[Path], version: str
) -> None:
    """Write a label map as an RTSTRUCT: the outlines of each label, slice by slice.

    Outlines run half way between the centres of voxels inside and outside, and a hole is a contour
    of its own, so that centres tell inside from outside just as the label map does.

    Args:
        path: The file.
        labels: As for `write_segmentation`.
        names: As for `write_segmentation`; their order gives the numbers of the regions.
        series: As for `write_segmentation`.
        version: As for `write_segmentation`.

    Raises:
        VolumeError: When the label map does not lie on the series.
    """
    source = _source_of(series)
    found = labels_on(source, labels)
    structures = _empty_structures(source, version)
    reference = str(source.headers[0].FrameOfReferenceUID)
    for number, (value, name) in enumerate(names.items(), start=1):
        structures.StructureSetROISequence.append(_region(number, name, reference, version))
        structures.RTROIObservationsSequence.append(_observed(number))
        contours = [
            contour
            for frame, plane in zip(source.frames, found == value, strict=True)
            for contour in _outlines(frame, plane)
        ]
        structures.ROIContourSequence.append(_drawn(number, contours))
    with _refusals_told():
        structures.save_as(path, enforce_file_format=True)


def _empty_structures(source: Source, version: str) -> Dataset:
    """Return an RTSTRUCT of the patient and study of a series, without regions."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    header, now = source.headers[0], datetime.now().astimezone()
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = UID(CONTOURS_UID)
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    for name in OF_PATIENT_AND_STUDY:
        setattr(made, name, header.get(name))
    made.SpecificCharacterSet = UTF_8
    made.Modality, made.SeriesInstanceUID = "RTSTRUCT", generate_uid()
    made.SeriesNumber, made.InstanceNumber = SERIES_NUMBER, 1
    made.SeriesDescription = DESCRIPTION
    made.Manufacturer, made.ManufacturerModelName = MAKER, MODEL
    made.SoftwareVersions, made.OperatorsName = version, ""
    made.StructureSetLabel = "SEGMENTATION"
    made.StructureSetDate = made.InstanceCreationDate = now.strftime("%Y%m%d")
    made.StructureSetTime = made.InstanceCreationTime = now.strftime("%H%M%S")
    made.FrameOfReferenceUID = header.FrameOfReferenceUID
    made.ApprovalStatus = "UNAPPROVED"
    made.ReferencedFrameOfReferenceSequence = [_referenced(source)]
    made.StructureSetROISequence = []
    made.ROIContourSequence = []
    made.RTROIObservationsSequence = []
    return made


OF_PATIENT_AND_STUDY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
    "ReferringPhysicianName",
)


def _referenced(source: Source) -> Dataset:
    from pydicom import Dataset

    header = source.headers[0]
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = header.SeriesInstanceUID
    series.ContourImageSequence = [_image(one) for one in source.frames]
    # The class of a detached study, which this attribute has always named (PS3.3 C.8.8.5).
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = header.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = header.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _image(frame: Frame) -> Dataset:
    from pydicom import Dataset

    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = frame.kind, frame.uid
    if frame.number is not None:
        image.ReferencedFrameNumber = frame.number
    return image


def _region(number: int, name: str, reference: str, version: str) -> Dataset:
    from pydicom import Dataset

    region = Dataset()
    region.ROINumber, region.ROIName = number, _written(name)
    region.ReferencedFrameOfReferenceUID = reference
    region.ROIGenerationAlgorithm = "AUTOMATIC"
    region.ROIGenerationDescription = f"{ALGORITHM} {version}"[:LONGEST_LABEL]
    return region


def _observed(number: int) -> Dataset:
    from pydicom import Dataset

    observed = Dataset()
    observed.ObservationNumber = observed.ReferencedROINumber = number
    observed.RTROIInterpretedType, observed.ROIInterpreter = "", ""
    return observed


def _drawn(number: int, contours: list[Dataset]) -> Dataset:
    from pydicom import Dataset

    drawn = Dataset()
    drawn.ROIDisplayColor = list(COLOURS[(number - 1) % len(COLOURS)])
    drawn.ReferencedROINumber = number
    if contours:
        drawn.ContourSequence = contours
    return drawn


def _outlines(frame: Frame, plane: np.ndarray[Any, Any]) -> Iterator[Dataset]:
    """Yield the outlines of a mask in a slice, in mm of the patient."""
    from pydicom import Dataset
    from skimage.measure import find_contours

    if not plane.any():
        return
    # A rim of background closes outlines at the border.
    for outline in find_contours(np.pad(plane, 1).astype(np.float32), 0.5):
        down, along = (outline[:-1] - 1).T
        points = frame.geometry @ np.stack([along, down, np.ones_like(down)])
        contour = Dataset()
        contour.ContourGeometricType = "CLOSED_PLANAR"
        contour.NumberOfContourPoints = points.shape[1]
        contour.ContourData = points.T.ravel().round(MM_DECIMALS).tolist()
        contour.ContourImageSequence = [_image(frame)]
        yield contour


# What `--output_format` calls each.
WRITERS = {"dicom_seg": write_segmentation, "rtstruct": write_contours}
