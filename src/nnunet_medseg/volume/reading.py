"""Reading: what a file announces is checked before memory is taken, what it holds after."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_medseg.volume.formats import family_of
from nnunet_medseg.volume.grid import Volume, from_sitk
from nnunet_medseg.volume.problems import (
    VolumeError,
    count_lost,
    not_finite,
    sheared,
    unreadable,
)

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["read_frames", "read_volume", "segment_names", "silence_readers"]

# Cosine of the angle between two axes, above which a grid counts as sheared: a third of a
# millimetre over a body, and far above rounding in headers.
SHEAR_TOLERANCE = 1e-3
# Sizes of voxels and places of origins beyond any scanner or microscope: a damaged header.
SIDE_RANGE_MM = (1e-6, 1e6)
FARTHEST_ORIGIN_MM = 1e9

CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")  # in a name; a header cannot hold some of them
# nnU-Net's readers hold float32 copies of image and label; reading alone needs one more.
READING_COPIES = 3


def read_volume(path: Path, *, memory_bytes: float = float("inf")) -> Volume:
    """Read one 3D scalar image.

    Args:
        path: File with one of the known extensions.
        memory_bytes: What reading may take; the header is asked before memory is.

    Raises:
        VolumeError: When the file is unreadable, truncated, not 3D, has several values a voxel,
            is too large for the free memory, has axes that are not at right angles, or values
            that are no numbers.
    """
    import SimpleITK as sitk

    _check_name(path)
    _check_start(path)
    silence_readers()
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(family_of(path).reader)
    try:
        reader.ReadImageInformation()
        _check_header(reader, memory_bytes)
        _check_content(path, reader)
        image = reader.Execute()
    except (RuntimeError, MemoryError, OverflowError) as cause:
        raise _explain(str(cause)) from cause
    return _check_values(_check_grid(from_sitk(image)))


def read_frames(path: Path, *, memory_bytes: float = float("inf")) -> tuple[Volume, ...]:
    """Read the 3D images of a file: one, or the frames of a 4D one, in their order.

    Args:
        path: File with one of the known extensions.
        memory_bytes: What reading may take.

    Raises:
        VolumeError: As `read_volume` does.
    """
    return (read_volume(path, memory_bytes=memory_bytes),)


def segment_names(path: Path) -> dict[int, str]:
    """Return the names of the segments of a `.seg.nrrd`, by label value; empty otherwise."""
    del path
    return {}


def silence_readers() -> None:
    """Let SimpleITK read without warnings in this process: they name the file with all folders.

    What matters of a header is checked and said by `read_volume`.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)


def _check_name(path: Path) -> None:
    # SimpleITK ends the whole process over a name that is no text.
    try:
        str(path).encode()
    except UnicodeEncodeError as cause:
        problem = "the name of the file or of its folder holds characters that are no text"
        raise VolumeError("file name", problem, "Rename it.") from cause
    if CONTROLS.search(path.name):
        problem = "the name of the file holds a line break or another control character"
        raise VolumeError("file name", problem, "Rename it.")


def _check_start(path: Path) -> None:
    """Look at what SimpleITK would act on while it reads the header."""
    try:
        is_sane = family_of(path).starts_well(path)
    except VolumeError:
        raise
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as cause:
        raise unreadable() from cause
    if not is_sane:
        raise unreadable()


def _explain(cause: str) -> VolumeError:
    return sheared() if "orthonormal" in cause.lower() else unreadable()


def _check_header(reader: sitk.ImageFileReader, memory_bytes: float) -> None:
    size = reader.GetSize()
    components = reader.GetNumberOfComponents()
    if len(size) == 4 and components == 1:
        problem = f"the image has four dimensions ({' x '.join(map(str, size))})"
        raise VolumeError("4D", problem, "Save each time point or channel as a 3D file.")
    if len(size) != 3:
        problem = f"the image has {len(size)} dimensions ({' x '.join(map(str, size))}), not three"
        raise VolumeError("2D", problem, "Save it as a volume with one slice (z = 1).")
    if components != 1:
        problem = f"the image has {components} values a voxel (colour or vectors)"
        raise VolumeError("RGB", problem, "Save one grey value a voxel.")
    if min(size) < 1:
        raise VolumeError("empty", "the image has no voxels", "Export the file again.")
    need = float(np.prod(np.array(size, dtype=float))) * 8 * READING_COPIES
    if need > memory_bytes:
        problem = (
            f"the header announces {' x '.join(map(str, size))} voxels, more than memory holds"
        )
        raise VolumeError("too large", problem, "Crop or resample the image, or add memory.")


def _check_content(path: Path, reader: sitk.ImageFileReader) -> None:
    """Look whether all voxels are there and can be unpacked."""
    rule = family_of(path).is_whole
    try:
        is_whole = rule is None or rule(path, reader)
    except VolumeError:
        raise
    # What is no number, and what is no stream of the format.
    except (ValueError, OverflowError, OSError, EOFError, zlib.error) as cause:
        raise unreadable() from cause
    if not is_whole:
        raise unreadable()


def _check_values(volume: Volume) -> Volume:
    if volume.array.dtype.kind == "f" and (lost := count_lost(volume.array)):
        raise not_finite(lost)
    return volume


def _check_grid(volume: Volume) -> Volume:
    low_mm, high_mm = SIDE_RANGE_MM
    is_sane = (
        np.isfinite(volume.affine).all()
        and all(low_mm <= side <= high_mm for side in volume.spacing_mm)
        and np.abs(volume.affine[:3, 3]).max() <= FARTHEST_ORIGIN_MM
    )
    if not is_sane:
        problem = "the spacing, origin or direction in the header is no usable number"
        raise VolumeError("header", problem, "Export the file again.")
    direction = volume.affine[:3, :3] / np.array(volume.spacing_mm[::-1])
    if np.abs(direction.T @ direction - np.eye(3)).max() > SHEAR_TOLERANCE:
        raise sheared()
    return volume
