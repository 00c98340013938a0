"""NRRD: what is looked at before SimpleITK reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_medseg.volume.problems import VolumeError
from nnunet_medseg.volume.stack import Announced, announced_by

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["announced_by_nrrd", "has_voxels_inside", "header_of"]

NRRD_HEADER_BYTES = 1 << 20  # the same, with what the user keeps in it


def has_voxels_inside(path: Path) -> bool:
    """Tell whether an NRRD file names no other file that holds its voxels."""
    header = header_of(path)
    if header is None:
        return False
    if re.search(rb"(?:^|[\r\n])\s*data ?file\s*:", header, re.IGNORECASE):
        problem = "the header names another file, or several, with the voxels"
        fix = "Save the image as one file (in 3D Slicer: as .nrrd, not as .nhdr)."
        raise VolumeError("no data file", problem, fix)
    return True


def header_of(path: Path) -> bytes | None:
    """Return the text before the voxels; None when it does not end."""
    with path.open("rb") as stream:
        start = stream.read(NRRD_HEADER_BYTES)
    end = re.search(rb"\n\r?\n", start)
    return start[: end.start()] if end else None


def announced_by_nrrd(path: Path, reader: sitk.ImageFileReader) -> Announced:
    """Return what the header says: an axis of the kind `list` counts frames."""
    found = announced_by(reader)
    header = header_of(path) or b""
    kinds = re.findall(rb"^kinds:(.*)$", header, re.MULTILINE | re.IGNORECASE)
    has_list = len(kinds) == 1 and b"list" in kinds[0].lower().split()
    dimension = re.findall(rb"^dimension:\s*(\d{1,2})\s*$", header, re.MULTILINE | re.IGNORECASE)
    axes = int(dimension[0]) if dimension else len(found.size)
    if has_list and found.values > 1 and len(found.size) == 3:
        return Announced((*found.size, found.values), 1, axes)
    return Announced(found.size, found.values, axes)
