"""Honest DICOM datasets of three patients, and what the fuzz does to the elements of one file.

An element is found by walking the bytes, as a reader does, so that a change lands in a tag, a
length or a value and not somewhere in the voxels.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

import dicom_makers
import numpy as np
import pydicom
from hypothesis import strategies as st
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

Tree = dict[str, bytes]

SPOILT_PATIENT = "bert"
PATIENTS = ("anna", SPOILT_PATIENT, "cleo")
BOXES = {"Liver": dicom_makers.LIVER, "Tumour": dicom_makers.TUMOUR}
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
START = 132  # bytes of preamble and magic
LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"OD", b"OL", b"UC", b"UR")
UNDEFINED = 0xFFFFFFFF
DEEPEST = 3000  # sequences in each other: more than Python nests calls

# --- datasets ------------------------------------------------------------------------------------


@cache
def contours() -> Tree:
    """Return series with an RTSTRUCT each."""
    return _patients(lambda uids, _: dicom_makers.make_contours(uids, BOXES))


@cache
def segments() -> Tree:
    """Return series with a SEG each."""
    return _patients(_segmentation)


def _patients(make: Callable[[dict[str, str], list[Any]], Any]) -> Tree:
    tree: Tree = {}
    for number, patient in enumerate(PATIENTS):
        uids = {
            "PatientID": f"id{number}",
            "StudyInstanceUID": f"1.2.{number}",
            "SeriesInstanceUID": f"1.2.{number}.7",
        }
        image = dicom_makers.make_image(number)
        slices = dicom_makers.make_series(image, dicom_makers.OBLIQUE, **uids)
        for place, one in enumerate((make(uids, slices), *slices)):
            # The same bytes for each run.
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = (
                f"1.2.{number}.7.{place}"
            )
            if place == 0:
                one.SeriesInstanceUID = f"1.2.{number}.8"
            tree[f"{patient}/IM{place}"] = _stored(one)
    return tree


def _stored(dataset: Any) -> bytes:
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _segmentation(uids: dict[str, str], slices: list[Any]) -> Any:
    """Return a binary SEG with a frame a slice."""
    made = pydicom.Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.Modality, made.SegmentationType = SEGMENTATION, "SEG", "BINARY"
    for name, value in uids.items():
        setattr(made, name, value)
    made.ReferencedSeriesSequence = [_item(SeriesInstanceUID=uids["SeriesInstanceUID"])]
    made.SegmentSequence, made.PerFrameFunctionalGroupsSequence = [], []
    first = slices[0]
    shared = _item()
    shared.PixelMeasuresSequence = [_item(PixelSpacing=first.PixelSpacing, SliceThickness=3.0)]
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=first.ImageOrientationPatient)]
    made.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number, (name, box) in enumerate(BOXES.items(), start=1):
        made.SegmentSequence.append(_item(SegmentNumber=number, SegmentLabel=name))
        mask = np.zeros(dicom_makers.PATIENT_SHAPE, np.uint8)
        mask[box] = 1
        for place in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
            frames.append(mask[place])
            position = slices[place].ImagePositionPatient
            group = _item(PlanePositionSequence=[_item(ImagePositionPatient=position)])
            group.SegmentIdentificationSequence = [_item(ReferencedSegmentNumber=number)]
            made.PerFrameFunctionalGroupsSequence.append(group)
    made.NumberOfFrames = len(frames)
    made.Rows, made.Columns = frames[0].shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 1, 1, 0, 0
    made.PixelData = np.packbits(np.stack(frames).ravel(), bitorder="little").tobytes()
    made["PixelData"].VR = "OB"
    return made


def _item(**tags: Any) -> Any:
    item = pydicom.Dataset()
    for name, value in tags.items():
        setattr(item, name, value)
    return item


# --- elements ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Element:
    """Where an element lies in a file: its tag, its value, and its end."""

    start: int
    value: int
    end: int


def elements(content: bytes) -> list[Element]:
    """Return all elements of a file in explicit little endian, those in sequences too."""
    return list(_walk(content, START))


def _walk(content: bytes, place: int) -> Iterator[Element]:
    while place + 12 <= len(content):
        group, _ = struct.unpack_from("<HH", content, place)
        kind = content[place + 4 : place + 6]
        is_long = kind in LONG
        value = place + (8 if group == 0xFFFE or not is_long else 12)
        if group == 0xFFFE or is_long:
            (length,) = struct.unpack_from("<I", content, value - 4)
        else:
            (length,) = struct.unpack_from("<H", content, value - 2)
        is_nested = group == 0xFFFE or kind == b"SQ" or length == UNDEFINED
        end = value if is_nested else value + length
        yield Element(place, value, end)
        place = end


odd_values = st.one_of(
    st.sampled_from(
        (b"", b"0", b"-1", b"1e308", b"nan", b"inf", b"1\\2", b"1.2.3", b"CT", b"x" * 70)
    ),
    st.sampled_from((b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.4.70")),
    st.sampled_from((b"1.2.840.10008.1.2.5", b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.80")),
    st.sampled_from((b"1.2.1.7", b"1.2.0.7", b"id0", b"id1", b"\x1b[31m", b"\xff\xff", b"\0\0")),
    st.sampled_from((b"\xff\xff\xff\x7f", b"MONOCHROME1", b"RGB", b"LABELMAP", b"FRACTIONAL")),
    st.binary(max_size=8),
    st.floats(-1000, 1000).map(lambda value: f"{value:.6g}".encode()),
)
which = st.integers(0, 400)
element_edit = st.one_of(
    st.tuples(st.just("drop element"), which),
    st.tuples(st.just("double element"), which),
    st.tuples(st.just("value"), which, odd_values),
    st.tuples(st.just("value"), which, odd_values),
    st.tuples(st.just("value of that length"), which, odd_values),
    st.tuples(st.just("length"), which, st.sampled_from((0, 1, 7, 65535, 1 << 24, UNDEFINED))),
    st.tuples(st.just("kind"), which, st.sampled_from((b"SQ", b"UN", b"DS", b"US", b"FD", b"??"))),
    st.tuples(st.just("nest"), which, st.sampled_from((1, 40, DEEPEST))),
)


def edit_elements(content: bytes, edit: list[Any]) -> bytes:
    """Return the content with one element changed."""
    what, number, *how = edit
    found = elements(content)
    if not found:
        return content
    return ELEMENT_EDITS[what](content, found[number % len(found)], *how)


def _value(content: bytes, at: Element, new: bytes) -> bytes:
    new += b" " * (len(new) % 2)
    if at.value - at.start == 8:
        length = struct.pack("<H", len(new))
    else:
        length = struct.pack("<I", len(new))
    return content[: at.value - len(length)] + length + new + content[at.end :]


def _value_of_that_length(content: bytes, at: Element, new: bytes) -> bytes:
    length = at.end - at.value
    return content[: at.value] + new[:length].ljust(length) + content[at.end :]


def _length(content: bytes, at: Element, length: int) -> bytes:
    is_short = at.value - at.start == 8 and content[at.start : at.start + 2] != b"\xfe\xff"
    packed = struct.pack("<H", length & 0xFFFF) if is_short else struct.pack("<I", length)
    return content[: at.value - len(packed)] + packed + content[at.value :]


def _nest(content: bytes, at: Element, depth: int) -> bytes:
    """Put sequences that do not end into each other."""
    sequence = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, UNDEFINED)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
    return content[: at.start] + (sequence + item) * depth + content[at.start :]


ELEMENT_EDITS: dict[str, Callable[..., bytes]] = {
    "drop element": lambda content, at: content[: at.start] + content[at.end :],
    "double element": lambda content, at: content[: at.end] + content[at.start :],
    "value": _value,
    "value of that length": _value_of_that_length,
    "length": _length,
    "kind": lambda content, at, kind: content[: at.start + 4] + kind + content[at.start + 6 :],
    "nest": _nest,
}
