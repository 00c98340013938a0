"""NIfTI: what is looked at before SimpleITK reads, and what nibabel reads in its place.

SimpleITK refuses axes that are not at right angles, and puts a zero for every NaN.
"""

from __future__ import annotations

import gzip
import logging
import math
import struct
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, cast

import numpy as np

from nnunet_medseg.volume.problems import count_lost, unreadable
from nnunet_medseg.volume.stack import Announced, Looked, Stack, announced_by

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = [
    "announced_by_nifti",
    "look_into_nifti",
    "read_nifti",
    "read_nifti_header",
    "starts_like_nifti",
]

BLOCK_BYTES = 1 << 20  # of compressed data: unpacked it is a thousand times as much at most
GZIP_MAGIC = b"\x1f\x8b"
NIFTI_HEADER_BYTES = (348, 540)  # versions 1 and 2; it is the header's own first number
# What the voxels of a file of their own begin with, its place, and that of where they begin.
NIFTI_MARKS = {348: (b"n+1\0", 344, "f", 108), 540: (b"n+2\0", 4, "q", 168)}
# Between header and voxels are notes of other programs; what stands there is read into memory.
NIFTI_NOTES_BYTES = 1 << 26
# Codes of nifti1.h.
NIFTI_FLOAT_BYTES = {16: 4, 64: 8}
NIFTI_KINDS = {
    **{2: np.uint8, 4: np.int16, 8: np.int32, 16: np.float32, 64: np.float64},
    **{256: np.int8, 512: np.uint16, 768: np.uint32, 1024: np.int64, 1280: np.uint64},
}
LARGEST_VALUE_BYTES = 8
MM_IN_UNIT = {"meter": 1000.0, "micron": 1e-3}
RAS_TO_LPS_SIGNS = np.array([-1.0, -1.0, 1.0, 1.0])


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


def announced_by_nifti(_path: Path, reader: sitk.ImageFileReader) -> Announced:
    """Return what the header says, with the axes of length 1 that SimpleITK drops."""
    found = announced_by(reader)
    return Announced(found.size, found.values, int(reader.GetMetaData("dim[0]")))


def look_into_nifti(path: Path, reader: sitk.ImageFileReader) -> Looked:
    """Read the voxels where they stand as they are, else count those that are no numbers.

    SimpleITK fills a short file with zeros, and puts a zero for every NaN, without a word; and
    what had to be unpacked to be looked at need not be unpacked again.

    Raises:
        VolumeError: When voxels are missing.
    """
    size = reader.GetSize()
    size_bytes = math.prod(size) * int(reader.GetMetaData("bitpix")) // 8
    code = int(reader.GetMetaData("datatype"))
    start = math.ceil(float(reader.GetMetaData("vox_offset")))
    slope, shift = (float(reader.GetMetaData(f"scl_{name}")) for name in ("slope", "inter"))
    kind = NIFTI_KINDS.get(code)
    if kind is None or slope not in (0, 1) or shift != 0:
        return Looked(_lost_in(path, start, size_bytes, code))
    content: Any = np.empty(size_bytes, np.uint8)
    with _open_nifti(path) as stream:
        stored = np.dtype(kind).newbyteorder(_order_of(stream))
        stream.seek(start)
        for place in range(0, size_bytes, BLOCK_BYTES):
            block = memoryview(content[place : place + BLOCK_BYTES])
            if stream.readinto(block) != len(block):  # type: ignore[attr-defined]
                raise unreadable()
        # The end of a packed file brings its checksum.
        stream.read(1)
    array = content.view(stored).reshape(size[::-1]).astype(kind, copy=False)
    return Looked(count_lost(array) if array.dtype.kind == "f" else 0, array)


def _order_of(stream: IO[bytes]) -> Literal["<", ">"]:
    return "<" if int.from_bytes(stream.read(4), "little") in NIFTI_HEADER_BYTES else ">"


def _lost_in(path: Path, start: int, missing_bytes: int, code: int) -> int:
    value_bytes = NIFTI_FLOAT_BYTES.get(code)
    lost = 0
    with _open_nifti(path) as stream:
        order = _order_of(stream)
        stream.seek(start)
        while missing_bytes > 0 and (block := stream.read(min(BLOCK_BYTES, missing_bytes))):
            missing_bytes -= len(block)
            if value_bytes is not None:
                whole = block[: len(block) // value_bytes * value_bytes]
                lost += count_lost(np.frombuffer(whole, dtype=f"{order}f{value_bytes}"))
        stream.read(1)
    if missing_bytes:
        raise unreadable()
    return lost


def _image_in(stream: IO[bytes]) -> Any:
    import nibabel
    from nibabel import imageglobals
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    # It would name the file's faults on the terminal.
    imageglobals.logger.setLevel(logging.CRITICAL + 1)
    start = stream.read(4)
    stream.seek(0)
    second = NIFTI_HEADER_BYTES[1]
    is_second = second in (int.from_bytes(start, "little"), int.from_bytes(start, "big"))
    kind = nibabel.Nifti2Image if is_second else nibabel.Nifti1Image
    try:
        with warnings.catch_warnings():
            # Over notes of other programs that are of an odd length.
            warnings.simplefilter("ignore")
            return kind.from_stream(stream)
    except (HeaderDataError, ImageFileError) as cause:
        raise unreadable() from cause


def read_nifti_header(path: Path) -> tuple[Announced, int]:
    """Return what nibabel finds in a header, and how many voxels are no numbers.

    Raises:
        VolumeError: When the header is damaged, or voxels are missing.
    """
    with _open_nifti(path) as stream:
        image = _image_in(stream)
        header, kind = image.header, image.get_data_dtype()
        if kind.itemsize > LARGEST_VALUE_BYTES and kind.kind == "f":
            raise unreadable()
        size = tuple(int(side) for side in header.get_data_shape())
        offset = int(image.dataobj.offset)
    values = 1 if kind.kind in "iuf" else 2
    trimmed = size
    while len(trimmed) > 3 and trimmed[-1] == 1:
        trimmed = trimmed[:-1]
    if int(header["intent_code"]) == 1007:
        values = 3
    announced = Announced(trimmed, values, len(size))
    lost = _lost_in(path, offset, math.prod(size) * kind.itemsize, int(header["datatype"]))
    return announced, lost


def read_nifti(path: Path) -> Stack:
    """Read a file with nibabel, as it is: sheared axes, NaN and all."""
    with _open_nifti(path) as stream:
        image = _image_in(stream)
        data = image.dataobj
        is_scaled = data.slope not in (1, 0) or data.inter != 0
        array = np.asarray(data, np.float32) if is_scaled else np.asarray(data.get_unscaled())
    # The other way round on some machines.
    array = array.astype(array.dtype.newbyteorder("="), copy=False).T
    array = array.reshape(-1, *array.shape[-3:])
    unit = MM_IN_UNIT.get(image.header.get_xyzt_units()[0], 1.0)
    affine = np.array(image.affine, dtype=float) * RAS_TO_LPS_SIGNS[:, None]
    affine[:3] *= unit
    x, y, z = (float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    return Stack(array, (z, y, x), affine, is_exact=True)
