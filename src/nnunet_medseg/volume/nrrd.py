"""NRRD: what is looked at before SimpleITK reads."""

from __future__ import annotations

import re
from pathlib import Path

from nnunet_medseg.volume.problems import VolumeError

__all__ = ["has_voxels_inside"]

NRRD_HEADER_BYTES = 1 << 20  # the same, with what the user keeps in it


def has_voxels_inside(path: Path) -> bool:
    """Tell whether an NRRD file names no other file that holds its voxels."""
    with path.open("rb") as stream:
        start = stream.read(NRRD_HEADER_BYTES)
    end = re.search(rb"\n\r?\n", start)
    if end is None:
        return False
    if re.search(rb"(?:^|[\r\n])\s*data ?file\s*:", start[: end.start()], re.IGNORECASE):
        problem = "the header names another file, or several, with the voxels"
        fix = "Save the image as one file (in 3D Slicer: as .nrrd, not as .nhdr)."
        raise VolumeError("no data file", problem, fix)
    return True
