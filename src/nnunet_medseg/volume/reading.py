"""Reading: what a file announces is checked before memory is taken, what it holds after."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnunet_medseg.volume.formats import NIFTI, TIFF, Family, family_of
from nnunet_medseg.volume.grid import Volume
from nnunet_medseg.volume.nifti import read_nifti, read_nifti_header
from nnunet_medseg.volume.nrrd import header_of
from nnunet_medseg.volume.problems import (
    VolumeError,
    check_name,
    count_lost,
    not_finite,
    too_large,
    unreadable,
)
from nnunet_medseg.volume.segments import Segment, merge_layers, segments_in
from nnunet_medseg.volume.shear import READING_COPIES, at_right_angles
from nnunet_medseg.volume.stack import Announced, Stack, stack_of, voxels_of
from nnunet_medseg.volume.tiff import read_tiff

__all__ = ["read_frames", "read_volume", "segment_names", "silence_readers"]

# Sizes of voxels and places of origins beyond any scanner or microscope: a damaged header.
SIDE_RANGE_MM = (1e-6, 1e6)
FARTHEST_ORIGIN_MM = 1e9


@dataclass(frozen=True)
class _Wish:
    """What a caller wants of a file: see `read_volume` and `read_frames`."""

    memory_bytes: float
    is_label: bool
    allow_lost: bool
    allow_frames: bool


def read_volume(
    path: Path,
    *,
    memory_bytes: float = float("inf"),
    is_label: bool = False,
    allow_lost: bool = False,
) -> Volume:
    """Read one 3D scalar image.

    Axes of length 1 beyond the third are removed, and axes that are not at right angles are
    brought onto a grid whose axes are: `Volume.notes` says so.

    Args:
        path: File with one of the known extensions.
        memory_bytes: What reading may take; the header is asked before memory is.
        is_label: Whether it is a label map: where it is resampled, its values stay what they are.
        allow_lost: Whether NaN and infinite values are left in the array.

    Raises:
        VolumeError: When the file is unreadable, truncated, not 3D, has several values a voxel,
            is too large for the free memory, has axes that are far from right angles, or values
            that are no numbers.
    """
    wish = _Wish(memory_bytes, is_label, allow_lost, allow_frames=False)
    return _read(path, wish)[0]


def read_frames(
    path: Path,
    *,
    memory_bytes: float = float("inf"),
    is_label: bool = False,
    allow_lost: bool = False,
) -> tuple[Volume, ...]:
    """Read the 3D images of a file: one, or the frames of a 4D one, in their order.

    Args:
        path: File with one of the known extensions.
        memory_bytes: What reading may take, with all frames.
        is_label: As for `read_volume`.
        allow_lost: As for `read_volume`.

    Raises:
        VolumeError: As `read_volume` does, but not over several frames.
    """
    return _read(path, _Wish(memory_bytes, is_label, allow_lost, allow_frames=True))


def segment_names(path: Path) -> dict[int, str]:
    """Return the names of the segments of a `.seg.nrrd`, by label value; empty otherwise.

    The values are those that `read_volume` brings.

    Raises:
        VolumeError: When the header is damaged.
    """
    if not family_of(path).has_segments:
        return {}
    check_name(path)
    return {segment.value: segment.name for segment in _segments_of(path)}


def _segments_of(path: Path) -> tuple[Segment, ...]:
    try:
        header = header_of(path)
    except OSError as cause:
        raise unreadable() from cause
    if header is None:
        raise unreadable()
    return segments_in(header)


def silence_readers() -> None:
    """Let SimpleITK read without warnings in this process: they name the file with all folders.

    What matters of a header is checked and said by `read_volume`.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)


def _read(path: Path, wish: _Wish) -> tuple[Volume, ...]:
    check_name(path)
    silence_readers()
    family = family_of(path)
    segments = _segments_of(path) if family.has_segments else ()
    # What has layers becomes one label map.
    wish = replace(wish, allow_frames=True) if segments else wish
    try:
        if not family.starts_well(path):
            raise unreadable()
        stack = _read_stack(path, family, wish)
        stack = merge_layers(stack, segments) if segments else stack
    except VolumeError:
        raise
    # What is no number, and what is no stream of the format.
    except (RuntimeError, MemoryError, ValueError, ArithmeticError, LookupError) as cause:
        raise unreadable() from cause
    except (OSError, EOFError, struct.error, zlib.error) as cause:
        raise unreadable() from cause
    return tuple(_check(volume, wish, is_exact=stack.is_exact) for volume in stack.frames())


def _read_stack(path: Path, family: Family, wish: _Wish) -> Stack:
    import SimpleITK as sitk

    if family is TIFF:
        return read_tiff(path, lambda announced: _check_announced(announced, wish))
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(family.reader)
    try:
        reader.ReadImageInformation()
    except RuntimeError as cause:
        if family is not NIFTI or "orthonormal" not in str(cause).lower():
            raise
        return _read_refused(path, wish)
    announced = family.announced(path, reader)
    _check_announced(announced, wish)
    looked = family.look(path, reader)
    _check_lost(looked.lost, wish)
    array = looked.array
    if array is None and looked.lost:
        array = read_nifti(path).array
    if array is None:
        array = voxels_of(reader.Execute())
    return stack_of(array, reader, announced.notes)


def _read_refused(path: Path, wish: _Wish) -> Stack:
    """Read a NIfTI file whose axes SimpleITK refuses."""
    announced, lost = read_nifti_header(path)
    _check_announced(announced, wish)
    _check_lost(lost, wish)
    return replace(read_nifti(path), notes=announced.notes)


def _check_announced(announced: Announced, wish: _Wish) -> None:
    size = announced.size
    shown = " x ".join(map(str, size))
    if len(size) < 3:
        problem = f"the image has {len(size)} dimensions ({shown}), not three"
        raise VolumeError("2D", problem, "Save it as a volume with one slice (z = 1).")
    if announced.values != 1:
        problem = f"the image has {announced.values} values a voxel (colour or vectors)"
        raise VolumeError("RGB", problem, "Save one grey value a voxel.")
    is_several = sum(side != 1 for side in size[3:]) > (1 if wish.allow_frames else 0)
    if is_several:
        number = {4: "four", 5: "five"}.get(len(size), str(len(size)))
        problem = f"the image has {number} dimensions ({shown})"
        raise VolumeError("4D", problem, "Save each time point or channel as a 3D file.")
    if min(size) < 1:
        raise VolumeError("empty", "the image has no voxels", "Export the file again.")
    if math.prod(float(side) for side in size) * 8 * READING_COPIES > wish.memory_bytes:
        raise too_large(size)


def _check_lost(lost: int, wish: _Wish) -> None:
    if lost and not wish.allow_lost:
        raise not_finite(lost)


def _check(volume: Volume, wish: _Wish, *, is_exact: bool) -> Volume:
    """Check what was read, and bring it onto a grid at right angles."""
    if volume.array.dtype.kind == "f":
        _check_lost(count_lost(volume.array), wish)
    low_mm, high_mm = SIDE_RANGE_MM
    is_sane = (
        np.isfinite(volume.affine).all()
        and all(low_mm <= side <= high_mm for side in volume.spacing_mm)
        and np.abs(volume.affine[:3, 3]).max() <= FARTHEST_ORIGIN_MM
    )
    if not is_sane:
        problem = "the spacing, origin or direction in the header is no usable number"
        raise VolumeError("header", problem, "Export the file again.")
    return at_right_angles(
        volume, is_label=wish.is_label, memory_bytes=wish.memory_bytes, is_exact=is_exact
    )
