"""MetaImage (`.mha`, `.mhd` with its data file): what is looked at before SimpleITK reads."""

from __future__ import annotations

import math
import os
import re
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from nnunet_medseg.volume.problems import VolumeError, unreadable
from nnunet_medseg.volume.stack import Looked

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["beside_header", "has_few_dimensions", "look_into_meta"]

META_HEADER_BYTES = 1 << 16  # it is text of a few lines
# Names of a data file that stand for something else (metaImage.cxx of ITK 5.4): for the file with
# the header itself, for a list of files that follows, and for files that are counted.
META_LOCAL = {"LOCAL", "Local", "local"}
META_SEVERAL = re.compile("LIST|.*%", re.DOTALL)
# ITK ends the whole process over a number of dimensions that is negative or huge.
META_DIMENSIONS = re.compile(rb"NDims[^\w.+-]*([\w.+-]*)")
BLOCK_BYTES = 1 << 16  # of compressed data: unpacked it is a thousand times as much at most


@dataclass(frozen=True)
class _MetaHeader:
    """What the header of a MetaImage file (`.mha`, `.mhd`) says about its voxels.

    Attributes:
        data_file: Name of the file that holds them, or `LOCAL`; empty when it is not plain.
        is_packed: Whether they are compressed.
        packed_bytes: Their compressed length, empty when it is not told.
        end: Where the header ends, in bytes.
    """

    data_file: str
    is_packed: bool
    packed_bytes: str
    end: int


def _read_meta_header(path: Path) -> _MetaHeader:
    entries: dict[bytes, bytes] = {}
    with path.open("rb") as stream:
        while stream.tell() < META_HEADER_BYTES and b"ElementDataFile" not in entries:
            key, _, value = stream.readline(META_HEADER_BYTES).partition(b"=")
            entries[key.strip()] = value.strip()
            if not key:
                break
        end = stream.tell()
        stream.seek(0)
        # ITK also takes other marks between names and values, and other ends of lines.
        is_plain = stream.read(end).count(b"ElementDataFile") == 1
    return _MetaHeader(
        data_file=os.fsdecode(entries.get(b"ElementDataFile", b"")) if is_plain else "",
        is_packed=entries.get(b"CompressedData", b"").lower().startswith((b"t", b"1")),
        packed_bytes=entries.get(b"CompressedDataSize", b"").decode("latin-1"),
        end=end,
    )


def beside_header(path: Path) -> Path | None:
    """Return the data file that the header of an `.mhd` names, when it lies beside it."""
    return _data_file(path, _read_meta_header(path).data_file)


def _data_file(path: Path, name: str) -> Path | None:
    if META_SEVERAL.match(name):
        return None
    try:
        beside = path.with_name(name)
        is_file = stat.S_ISREG(beside.lstat().st_mode)
    # A damaged header may name anything, even what cannot be a name.
    except (OSError, ValueError):
        return None
    return beside if is_file else None


def has_few_dimensions(path: Path) -> bool:
    """Tell whether a MetaImage file announces a number of dimensions of one digit."""
    with path.open("rb") as stream:
        start = stream.read(META_HEADER_BYTES)
    numbers = META_DIMENSIONS.findall(start.partition(b"ElementDataFile")[0])
    return bool(numbers) and all(re.fullmatch(rb"[1-9]", number) for number in numbers)


def look_into_meta(path: Path, reader: sitk.ImageFileReader) -> Looked:
    """Look whether all voxels are there and unpack.

    Raises:
        VolumeError: When they are not; SimpleITK never comes back from some of these files.
    """
    if not _is_whole(path, reader):
        raise unreadable()
    return Looked()


def _is_whole(path: Path, reader: sitk.ImageFileReader) -> bool:
    import SimpleITK as sitk

    header = _read_meta_header(path)
    is_local = header.data_file in META_LOCAL
    data = path if is_local else _data_file(path, header.data_file)
    if data is None:
        problem = "the data file that the header names is not beside it"
        fix = "Copy the file with the voxels (.raw, .zraw) into the same folder."
        raise VolumeError("no data file", problem, fix)
    if not header.is_packed:
        return True
    voxel_bytes = sitk.Image([1, 1, 1], reader.GetPixelIDValue()).GetSizeOfPixelComponent()
    need = math.prod(reader.GetSize()) * voxel_bytes
    with data.open("rb") as stream:
        stream.seek(header.end if is_local else 0)
        return _unpacks(stream, int(header.packed_bytes or data.stat().st_size), need)


def _unpacks(stream: BinaryIO, packed_bytes: int, need_bytes: int) -> bool:
    """Tell whether so many bytes of a stream are one zlib stream of the length that is needed."""
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
    length = 0
    while not unpacker.eof and length <= need_bytes and packed_bytes > 0:
        block = stream.read(min(BLOCK_BYTES, packed_bytes))
        if not block:
            return False
        packed_bytes -= len(block)
        length += len(unpacker.decompress(block))
    return unpacker.eof and length >= need_bytes
