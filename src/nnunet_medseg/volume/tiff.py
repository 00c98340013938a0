"""TIFF with one page a slice (`.tif`, `.tiff`), read and written with tifffile.

The format has no place for a grid. Its voxel size is taken, in this order, from what `write_tiff`
notes, from a JSON file beside it as nnU-Net's `Tiff3DIO` wants it (`{"spacing": [z, y, x]}`, named
as the image without `_0000`), and from the notes of ImageJ or OME.

Promises: no other file with voxels is opened, whatever a header names.
"""

from __future__ import annotations

import json
import logging
import re
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from nnunet_medseg.volume.grid import Volume
from nnunet_medseg.volume.problems import VolumeError, unreadable
from nnunet_medseg.volume.stack import Announced, Stack

__all__ = ["read_tiff", "spacing_file", "starts_like_tiff", "write_tiff"]

# Byte order and version: how offsets and numbers of entries are stored, and an entry's length.
MAGIC = {
    b"II*\0": ("<I", "<H", 12),
    b"MM\0*": (">I", ">H", 12),
    b"II+\0": ("<Q", "<Q", 20),
    b"MM\0+": (">Q", ">Q", 20),
}
FIRST_PAGE = {12: 4, 20: 8}  # where its place stands, by the length of an entry
MOST_PAGES = 1 << 16
MOST_ENTRIES = 1 << 12  # tags of a page; programs write a few dozen
SPACING_BYTES = 1 << 16  # of a JSON file
CHANNEL = re.compile(r"_\d{4}$")
MM_IN_UNIT = {
    **dict.fromkeys(("mm", "millimeter", "millimeters"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("µm", "μm", "um", "\\u00b5m", "micron", "microns", "micrometer"), 1e-3),
    "nm": 1e-6,
}
OME_FRAMES = re.compile(r"\bSize[CT]=\"(\d+)\"")
ASSUMED = "no voxel size in the file: 1 mm is assumed"
# What tifffile raises over damaged files, beside its own error.
DAMAGE = (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, AttributeError)
IO_DAMAGE = (OSError, EOFError, struct.error, MemoryError, AssertionError)


def starts_like_tiff(path: Path) -> bool:
    """Tell whether the pages follow each other to an end, without a loop."""
    with path.open("rb") as stream:
        layout = MAGIC.get(stream.read(4))
        if layout is None:
            return False
        offset_kind, count_kind, entry_bytes = layout
        stream.seek(FIRST_PAGE[entry_bytes])
        seen: set[int] = set()
        place = _number(stream, offset_kind)
        while place and place not in seen and len(seen) < MOST_PAGES:
            seen.add(place)
            stream.seek(place)
            entries = _number(stream, count_kind)
            if not 1 <= entries <= MOST_ENTRIES:
                return False
            stream.seek(entries * entry_bytes, 1)
            place = _number(stream, offset_kind)
    return bool(seen) and place == 0


def _number(stream: IO[bytes], kind: str) -> int:
    (number,) = struct.unpack(kind, stream.read(struct.calcsize(kind)))
    return int(number)


def read_tiff(path: Path, check: Callable[[Announced], None]) -> Stack:
    """Read a stack of pages.

    Args:
        path: The file.
        check: Is asked before memory is taken for the voxels.

    Raises:
        VolumeError: When the file is damaged, or its pages are no volume.
    """
    import tifffile

    # It would name the file's faults on the terminal.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    # Other dialects may lead to further files, or have pages of several kinds.
    dialects: Any = {
        f"is_{name}": False for name in tifffile.TIFF.FILE_FLAGS - {"imagej", "shaped"}
    }
    try:
        with tifffile.TiffFile(path, **dialects) as file:
            array = _voxels(file, path.stat().st_size, check)
            spacing, affine, notes = _grid(file, path)
    except (tifffile.TiffFileError, *DAMAGE, *IO_DAMAGE) as cause:
        if isinstance(cause, VolumeError):
            raise
        raise unreadable() from cause
    return Stack(array, spacing, affine, notes)


def _voxels(file: Any, file_bytes: int, check: Callable[[Announced], None]) -> Any:
    if len(file.series) != 1:
        problem = "the pages of the file are of different sizes or kinds"
        raise VolumeError("unreadable", problem, "Save one page a slice, all of one size.")
    series = file.series[0]
    is_shaped = series.kind == "shaped"
    # ImageJ names all axes, and those of length 1 mean nothing.
    shape, axes = series.get_shape(not is_shaped), series.get_axes(not is_shaped)
    page = file.pages[0]
    is_colour = "S" in axes or int(page.photometric) == 3 or series.dtype.kind not in "iufb"
    if is_colour:
        check(Announced((1, 1, 1), max(3, int(page.samplesperpixel))))
    _check_pages(file, file_bytes)
    order = _frames_first(axes)
    size = tuple(shape[axis] for axis in order)[::-1]
    check(Announced(size, 1, len(size)))
    array = series.asarray(squeeze=not is_shaped).transpose(order)
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _frames_first(axes: str) -> list[int]:
    """Return the order of the axes that has those that are neither z, y nor x first."""
    space = [axis for axis, name in enumerate(axes) if name in "ZYX"]
    others = [axis for axis, name in enumerate(axes) if name not in "ZYX"]
    return others + space


def _check_pages(file: Any, file_bytes: int) -> None:
    """Look whether each page has all its voxels; tifffile takes zeros for what is missing."""
    for page in file.pages:
        # Of many equal pages it keeps the places only.
        places = zip(page.dataoffsets, page.databytecounts, strict=True)
        if not all(start > 0 and 0 < length <= file_bytes - start for start, length in places):
            raise unreadable()
    told = file.imagej_metadata or {}
    first = file.pages[0]
    pages = file.series[0].size // (first.imagewidth * first.imagelength)
    if file.is_imagej and int(told.get("images", 1)) not in (1, pages):
        raise unreadable()
    if file.series[0].kind != "shaped" and file.pages[0].is_shaped:
        raise unreadable()


def _grid(
    file: Any, path: Path
) -> tuple[tuple[float, float, float], np.ndarray[Any, Any], tuple[str, ...]]:
    own = _own_notes(file)
    if own is not None:
        z, y, x = (float(side) for side in own["spacing_mm"])
        return (z, y, x), np.array(own["affine_lps_mm"], dtype=float).reshape(4, 4), ()
    beside = spacing_file(path)
    spacing = _spacing_in(beside) if beside else _told_spacing(file)
    z, y, x = spacing or (1.0, 1.0, 1.0)
    return (z, y, x), np.diag([x, y, z, 1.0]), () if spacing else (ASSUMED,)


def _own_notes(file: Any) -> dict[str, Any] | None:
    for told in file.shaped_metadata or ():
        if "spacing_mm" in told and "affine_lps_mm" in told:
            return dict(told)
    return None


def spacing_file(path: Path) -> Path | None:
    """Return the JSON file beside an image that tells its voxel size, when there is one."""
    stem = path.stem
    for name in (f"{CHANNEL.sub('', stem)}.json", f"{stem}.json"):
        beside = path.with_name(name)
        try:
            status = beside.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_size <= SPACING_BYTES:
                text = beside.read_bytes()
                # Another program's notes are none of ours.
                if re.search(rb'"spacing"\s*:', text):
                    return beside
        except (OSError, ValueError):
            continue
    return None


def _spacing_in(beside: Path) -> tuple[float, float, float]:
    try:
        z, y, x = (float(side) for side in json.loads(beside.read_bytes())["spacing"])
    except (ValueError, TypeError, LookupError, OSError, RecursionError) as cause:
        problem = f"{beside.name} beside it does not tell a voxel size"
        fix = 'Write {"spacing": [z, y, x]} into it, in mm.'
        raise VolumeError("header", problem, fix) from cause
    return z, y, x


def _told_spacing(file: Any) -> tuple[float, float, float] | None:
    """Return the voxel size that ImageJ or OME noted, if it did for all axes."""
    page = file.pages[0]
    if file.is_imagej:
        told = file.imagej_metadata or {}
        unit = MM_IN_UNIT.get(str(told.get("unit", "")).strip().lower())
        tags = [page.tags.get(name) for name in ("YResolution", "XResolution")]
        if unit is None or "spacing" not in told or None in tags:
            return None
        y, x = (unit * tag.value[1] / tag.value[0] for tag in tags)
        return float(told["spacing"]) * unit, float(y), float(x)
    return _ome_spacing(page.description) if "<OME" in page.description else None


def _ome_spacing(text: str) -> tuple[float, float, float] | None:
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", text)
    if pixels is None:
        return None
    if any(int(number) > 1 for number in OME_FRAMES.findall(pixels.group())):
        problem = "the file holds several channels or time points (OME)"
        raise VolumeError("4D", problem, "Save each time point or channel as a 3D file.")
    sides = []
    for axis in "ZYX":
        side = re.search(rf'\bPhysicalSize{axis}="([^"]*)"', pixels.group())
        unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]*)"', pixels.group())
        scale = MM_IN_UNIT.get(unit.group(1).lower() if unit else "µm")  # its default
        if side is None or scale is None:
            return None
        sides.append(float(side.group(1)) * scale)
    z, y, x = sides
    return z, y, x


def write_tiff(path: Path, volume: Volume) -> None:
    """Write a page a slice, packed, with the grid in a note that `read_tiff` understands."""
    import tifffile

    z, y, x = volume.spacing_mm
    tifffile.imwrite(
        path,
        np.ascontiguousarray(volume.array),
        photometric="minisblack",
        compression="zlib",
        resolution=(10 / x, 10 / y),
        resolutionunit="CENTIMETER",
        metadata={
            "axes": "ZYX",
            "spacing_mm": [z, y, x],
            "affine_lps_mm": np.asarray(volume.affine, dtype=float).tolist(),
        },
    )
