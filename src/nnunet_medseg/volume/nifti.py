"""NIfTI: what is looked at before SimpleITK reads, and what nibabel reads in its place."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import numpy as np

from nnunet_medseg.volume.problems import count_lost, not_finite

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["is_whole_nifti", "starts_like_nifti"]

BLOCK_BYTES = 1 << 16  # of compressed data: unpacked it is a thousand times as much at most
GZIP_MAGIC = b"\x1f\x8b"
NIFTI_HEADER_BYTES = (348, 540)  # versions 1 and 2; it is the header's own first number
# What the voxels of a file of their own begin with, its place, and that of where they begin.
NIFTI_MARKS = {348: (b"n+1\0", 344, "f", 108), 540: (b"n+2\0", 4, "q", 168)}
# Between header and voxels are notes of other programs; what stands there is read into memory.
NIFTI_NOTES_BYTES = 1 << 26
NIFTI_FLOAT_BYTES = {"16": 4, "64": 8}  # codes of nifti1.h


def starts_like_nifti(path: Path) -> bool:
    """Tell whether voxels are announced in the file itself, not far behind its header."""
    with _open_nifti(path) as stream:
        header = stream.read(max(NIFTI_HEADER_BYTES))
    for order in "<>":
        (length,) = struct.unpack_from(f"{order}i", header)
        if length in NIFTI_MARKS:
            mark, place, kind, offset_place = NIFTI_MARKS[length]
            (offset,) = struct.unpack_from(f"{order}{kind}", header, offset_place)
            is_alone = header[place : place + len(mark)] == mark
            return is_alone and 0 <= offset <= NIFTI_NOTES_BYTES
    return False


def _open_nifti(path: Path) -> IO[bytes]:
    with path.open("rb") as raw:
        is_packed = raw.read(2) == GZIP_MAGIC
    return cast("IO[bytes]", gzip.open(path)) if is_packed else path.open("rb")


def is_whole_nifti(path: Path, reader: sitk.ImageFileReader) -> bool:
    """Tell whether all voxels are there, and are numbers.

    SimpleITK fills a short file with zeros, and puts a zero for every NaN, without a word.
    """
    missing = math.prod(reader.GetSize()) * int(reader.GetMetaData("bitpix")) // 8
    voxel_bytes = NIFTI_FLOAT_BYTES.get(reader.GetMetaData("datatype"))
    lost = 0
    with _open_nifti(path) as stream:
        order = "<" if int.from_bytes(stream.read(4), "little") in NIFTI_HEADER_BYTES else ">"
        stream.seek(math.ceil(float(reader.GetMetaData("vox_offset"))))
        while missing > 0 and (block := stream.read(min(BLOCK_BYTES, missing))):
            missing -= len(block)
            if voxel_bytes is not None:
                whole = block[: len(block) // voxel_bytes * voxel_bytes]
                lost += count_lost(np.frombuffer(whole, dtype=f"{order}f{voxel_bytes}"))
        # The end of a packed file brings its checksum.
        stream.read(1)
    if lost:
        raise not_finite(lost)
    return bool(missing == 0)
