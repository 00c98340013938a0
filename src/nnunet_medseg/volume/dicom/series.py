"""A DICOM series in: files in any order become one volume, or are refused with the reason.

Slices are sorted by where they lie in the patient, never by the names or numbers of files, and the
distance between them is measured, never taken from a header.

Promises: no slice is left out, doubled or moved in silence; values are those of the scanner, with
the rescale slope and intercept of each slice.
Does not promise: to guess which of two images in one place is meant.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_medseg.volume.dicom.frames import SAME_PLACE, geometry_of, group_of
from nnunet_medseg.volume.dicom.index import is_localizer
from nnunet_medseg.volume.dicom.opening import damage_told, open_dataset
from nnunet_medseg.volume.grid import GRID_TOLERANCE, Volume
from nnunet_medseg.volume.problems import (
    VolumeError,
    check_name,
    count_lost,
    not_finite,
    too_large,
    unreadable,
)
from nnunet_medseg.volume.shear import TILTED, at_right_angles

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["read_series", "straightened"]

ANGLE_TOLERANCE = 1e-3  # between direction cosines of slices: a third of a millimetre over a body
MISSING_FROM = 1.5  # times the usual distance of slices: here at least one is missing
LARGEST_SIDE = 16_384  # pixels; detectors and reconstructions stay far below
LARGEST_FRAMES = 65_536
COPIES = 3  # of the voxels while reading, in 4 bytes each
# Transfer syntaxes that pydicom decodes by itself, in Python: native ones and RLE.
IN_PYTHON = {
    *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1"),
    *("1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"),
}
DOUBLED = "slices that were there twice, voxel for voxel, taken once"
LOCALIZERS = "localiser images in the series left out"


@dataclass(frozen=True)
class _Slice:
    """One frame of one file.

    Attributes:
        path: The file.
        header: Its header.
        place: Number of the frame in the file, from 0.
        geometry: As `frames.Frame.geometry`, in LPS mm.
    """

    path: Path
    header: Dataset
    place: int
    geometry: np.ndarray[Any, Any]

    @property
    def origin(self) -> np.ndarray[Any, Any]:
        """The centre of the first pixel, in mm."""
        return self.geometry[:, 2]


def read_series(
    files: Sequence[Path], *, memory_bytes: float = float("inf"), straighten: bool = True
) -> Volume:
    """Read the files of a series as one volume.

    Args:
        files: All files of one series, in any order; one file may hold many frames.
        memory_bytes: What reading may take; headers are asked before memory is.
        straighten: Whether a tilted gantry's slices are resampled onto a grid at right angles;
            else the affine is sheared, as the slices lie.

    Returns:
        The axes x and y are rows and columns as stored, and z goes along their cross product.

    Raises:
        VolumeError: When the files cannot be read, hold no slices in space or colours, are not
            one stack, or when slices are missing or in one place with different values.
    """
    with damage_told():
        slices, notes = _without_localizers([one for path in files for one in _named(path)])
        _require_grey(slices)
        _require_one_stack(slices)
        _require_one_scale(slices)
        rows, columns = int(slices[0].header.Rows), int(slices[0].header.Columns)
        if rows * columns * len(slices) * 4 * COPIES > memory_bytes:
            raise too_large((columns, rows, len(slices)))
        slices, doubled = _in_order(slices)
        affine, spacing_mm = _grid(slices)
        array = _voxels(slices)
        if lost := count_lost(array):
            raise not_finite(lost)
        volume = Volume(array, spacing_mm, affine, (*notes, *doubled))
        return straightened(volume, memory_bytes=memory_bytes) if straighten else volume


def straightened(volume: Volume, *, memory_bytes: float, is_label: bool = False) -> Volume:
    """Return a volume on a grid at right angles; only a tilted gantry's is resampled.

    Args:
        volume: From `read_series` with `straighten=False`, or labels on its grid.
        memory_bytes: What resampling may take.
        is_label: Whether values are labels, which are taken from the nearest voxel.

    Raises:
        VolumeError: When the slices are tilted beyond what a gantry can be.
    """
    straight = at_right_angles(volume, is_label=is_label, memory_bytes=memory_bytes)
    return volume if straight is volume else replace(straight, notes=(*volume.notes, TILTED))


# --- headers -----------------------------------------------------------------------------------


def _named(path: Path) -> list[_Slice]:
    """Return the slices of a file; what is wrong with it is told with its name."""
    with _name_told(path):
        check_name(path)
        return list(_slices_in(path))


@contextmanager
def _name_told(path: Path) -> Iterator[None]:
    try:
        with damage_told():
            yield
    except VolumeError as error:
        raise VolumeError(error.rule, f"{path.name}: {error.problem}", error.fix) from error


def _slices_in(path: Path) -> Iterator[_Slice]:
    header = open_dataset(path, header_only=True)
    frames = int(header.get("NumberOfFrames") or 1)
    rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    if not 0 < frames <= LARGEST_FRAMES or not 0 < min(rows, columns) <= max(rows, columns):
        raise unreadable()
    if max(rows, columns) > LARGEST_SIDE:
        raise too_large((columns, rows, frames))
    if frames > 1 and "PerFrameFunctionalGroupsSequence" not in header:
        raise _without_place()
    for place in range(frames):
        try:
            geometry = geometry_of(header, place)
        except (AttributeError, VolumeError) as cause:
            raise _without_place() from cause
        sides = np.linalg.norm(geometry[:, :2], axis=0)
        if not np.isfinite(geometry).all() or not (sides > 0).all():
            problem = "the header tells no usable position, direction or pixel size of a slice"
            raise VolumeError("header", problem, "Export the series again.")
        yield _Slice(path, header, place, geometry)


def _without_place() -> VolumeError:
    return VolumeError(
        "no place",
        "its images do not say where in the patient they lie, as those of ultrasound, screenshots "
        "and scanned paper",
        "Take the series that the scanner has reconstructed; remove this one.",
    )


def _without_localizers(slices: list[_Slice]) -> tuple[list[_Slice], tuple[str, ...]]:
    """Leave out overviews that a scanner has put into the series of the images themselves."""
    kept = [one for one in slices if not is_localizer(one.header)]
    if not kept or len(kept) == len(slices):
        return slices, ()
    return kept, (f"{len(slices) - len(kept)} {LOCALIZERS}",)


def _require_grey(slices: Sequence[_Slice]) -> None:
    for one in slices:
        kind = str(one.header.get("PhotometricInterpretation", ""))
        if kind == "MONOCHROME1":
            problem = "its shades are stored inverted (MONOCHROME1)"
            fix = "Take the series that the scanner has reconstructed, or convert it to NIfTI."
            raise VolumeError("inverted", problem, fix)
        if int(one.header.get("SamplesPerPixel") or 1) != 1 or kind != "MONOCHROME2":
            problem = f"its pixels are {kind or 'of an unknown kind'}, not shades of grey"
            fix = "Take the series that the scanner has reconstructed, not a screenshot of it."
            raise VolumeError("colour", problem, fix)


def _require_one_stack(slices: Sequence[_Slice]) -> None:
    if not slices:
        raise unreadable()
    if len({str(one.header.get("FrameOfReferenceUID") or "") for one in slices} - {""}) > 1:
        problem = "its slices lie in several frames of reference, so that no distance is known"
        raise VolumeError("several stacks", problem, "Export each stack as a series of its own.")
    first = slices[0]
    sizes = {(int(one.header.Rows), int(one.header.Columns)) for one in slices}
    if len(sizes) > 1:
        shown = ", ".join(f"{columns} x {rows}" for rows, columns in sorted(sizes))
        problem = f"its slices have different sizes: {shown} pixels"
        raise VolumeError("several stacks", problem, "Export each stack as a series of its own.")
    steps = first.geometry[:, :2]
    sides = np.linalg.norm(steps, axis=0)
    if abs(float((steps[:, 0] / sides[0]) @ (steps[:, 1] / sides[1]))) > ANGLE_TOLERANCE:
        problem = "rows and columns of its slices are not at right angles"
        raise VolumeError("header", problem, "Export the series again.")
    for one in slices:
        apart = np.abs((one.geometry[:, :2] - steps) / sides).max()
        if apart > ANGLE_TOLERANCE:
            problem = "its slices have different directions or pixel sizes"
            fix = "Export each stack as a series of its own, without localisers."
            raise VolumeError("several stacks", problem, fix)


def _require_one_scale(slices: Sequence[_Slice]) -> None:
    """Refuse a series where some slices say how values are scaled, and others do not."""
    if any("ModalityLUTSequence" in one.header for one in slices):
        problem = "its values are given by a table (modality LUT), which is not read"
        fix = "Export it with a rescale slope and intercept, or convert it to NIfTI."
        raise VolumeError("header", problem, fix)
    without = [one for one in slices if one.header.get("RescaleIntercept") is None]
    if without and len(without) < len(slices):
        problem = f"{without[0].path.name} lacks the rescale intercept that its other slices have"
        raise VolumeError("header", problem, "Export the series again.")


# --- order and grid ----------------------------------------------------------------------------


def _normal(one: _Slice) -> np.ndarray[Any, Any]:
    across = np.cross(one.geometry[:, 0], one.geometry[:, 1])
    return np.asarray(across / np.linalg.norm(across))


def _in_order(slices: Sequence[_Slice]) -> tuple[list[_Slice], tuple[str, ...]]:
    """Sort slices along their normal, and take those that are there twice once."""
    normal = _normal(slices[0])
    ordered = sorted(slices, key=lambda one: float(one.origin @ normal))
    near_mm = SAME_PLACE * float(np.linalg.norm(slices[0].geometry[:, 0]))
    kept = ordered[:1]
    for one in ordered[1:]:
        if float((one.origin - kept[-1].origin) @ normal) > near_mm:
            kept.append(one)
            continue
        if not np.array_equal(_pixels(one), _pixels(kept[-1])):
            problem = (
                f"{kept[-1].path.name} and {one.path.name} lie in one place and differ, as slices "
                "of several phases or echoes"
            )
            fix = "Export each phase, echo or time point as a series of its own."
            raise VolumeError("doubled slices", problem, fix)
    doubled = len(slices) - len(kept)
    return kept, (f"{doubled} {DOUBLED}",) if doubled else ()


def _grid(
    slices: Sequence[_Slice],
) -> tuple[np.ndarray[Any, Any], tuple[float, float, float]]:
    """Return affine and spacing `(z, y, x)` of sorted slices, whose distances must be even."""
    first = slices[0]
    along, down = np.linalg.norm(first.geometry[:, :2], axis=0)
    if len(slices) == 1:
        step = _normal(first) * _thickness(first)
    else:
        step = (slices[-1].origin - first.origin) / (len(slices) - 1)
        _require_even(slices, step, float(min(along, down)))
    affine = np.eye(4)
    affine[:3, :2], affine[:3, 2], affine[:3, 3] = first.geometry[:, :2], step, first.origin
    # The distance along the way from slice to slice, as the affine has it.
    return affine, (float(np.linalg.norm(step)), float(down), float(along))


def _thickness(one: _Slice) -> float:
    measures: Any = one.header
    if "PerFrameFunctionalGroupsSequence" in one.header:
        measures = group_of(one.header, one.place, "PixelMeasuresSequence")
    thickness = float(measures.get("SliceThickness") or 0)
    if not np.isfinite(thickness) or thickness <= 0:
        problem = "it is a single slice that does not say how thick it is"
        raise VolumeError("single slice", problem, "Export the whole series.")
    return thickness


def _require_even(slices: Sequence[_Slice], step: np.ndarray[Any, Any], side_mm: float) -> None:
    normal = _normal(slices[0])
    heights = np.array([float(one.origin @ normal) for one in slices])
    gaps = np.diff(heights)
    usual_mm = float(np.median(gaps))
    wide = np.flatnonzero(gaps > MISSING_FROM * usual_mm)
    if len(wide):
        missing = sum(max(1, round(float(gaps[place]) / usual_mm) - 1) for place in wide)
        after = ", ".join(f"{heights[place]:.1f}" for place in wide[:5])
        problem = (
            f"about {missing} slices are missing: after {after} mm along the stack there is a gap "
            f"of {gaps[wide[0]]:.2f} mm, where slices are {usual_mm:.2f} mm apart"
        )
        raise VolumeError("missing slices", problem, "Export the whole series again.")
    expected = slices[0].origin + np.arange(len(slices))[:, None] * step
    apart = np.linalg.norm(np.array([one.origin for one in slices]) - expected, axis=1)
    if apart.max() > GRID_TOLERANCE * min(side_mm, usual_mm):
        problem = (
            f"its slices do not lie at even distances: {gaps.min():.2f} to {gaps.max():.2f} mm, "
            f"and up to {apart.max():.2f} mm beside a straight line"
        )
        fix = "Reconstruct or resample the series at even distances, for example in 3D Slicer."
        raise VolumeError("uneven slices", problem, fix)


# --- values ------------------------------------------------------------------------------------


def _voxels(slices: Sequence[_Slice]) -> np.ndarray[Any, Any]:
    planes = [_pixels(one) for one in slices]
    kind = np.result_type(*{plane.dtype for plane in planes})
    return np.stack(planes).astype(np.float32 if kind.kind == "f" else kind, copy=False)


def _pixels(one: _Slice) -> np.ndarray[Any, Any]:
    """Return the values of a slice, shape `(y, x)`, whole numbers where they are."""
    with _name_told(one.path):
        syntax = str(one.header.file_meta.TransferSyntaxUID)
        if syntax in IN_PYTHON or "PerFrameFunctionalGroupsSequence" in one.header:
            stored = _stored(one)
            slope, intercept = _rescale(one)
            return _rescaled(stored, slope, intercept)
        plane = _decoded(one.path)
        if plane.shape != (int(one.header.Rows), int(one.header.Columns)):
            raise unreadable()
        return plane


def _stored(one: _Slice) -> np.ndarray[Any, Any]:
    from pydicom.pixels.utils import pixel_array

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            array = pixel_array(one.path, index=one.place)
        except RuntimeError as cause:
            # What pydicom raises for damage, and where no decoder is there for a compressed file.
            if str(one.header.file_meta.TransferSyntaxUID) in IN_PYTHON:
                raise unreadable() from cause
            problem = "its frames are compressed in a way that is read in files of one slice only"
            fix = "Export it uncompressed, or as one file a slice."
            raise VolumeError("compressed", problem, fix) from cause
    if array.shape != (int(one.header.Rows), int(one.header.Columns)):
        raise unreadable()
    return np.asarray(array)


def _rescale(one: _Slice) -> tuple[float, float]:
    source: Any = one.header
    if "PerFrameFunctionalGroupsSequence" in one.header:
        try:
            source = group_of(one.header, one.place, "PixelValueTransformationSequence")
        except VolumeError:
            return 1.0, 0.0
    slope, intercept = source.get("RescaleSlope"), source.get("RescaleIntercept")
    return (1.0 if slope is None else float(slope), float(intercept or 0))


def _rescaled(stored: np.ndarray[Any, Any], slope: float, intercept: float) -> np.ndarray[Any, Any]:
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        problem = "the header gives no usable rescale slope and intercept"
        raise VolumeError("header", problem, "Export the series again.")
    if stored.dtype.kind in "iu" and slope.is_integer() and intercept.is_integer():
        values = stored.astype(np.int64) * int(slope) + int(intercept)
        low, high = int(values.min()), int(values.max())
        fits = np.iinfo(np.int16).min <= low <= high <= np.iinfo(np.int16).max
        return values.astype(np.int16 if fits else np.int32)
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def _decoded(path: Path) -> np.ndarray[Any, Any]:
    """Return the rescaled values of a compressed slice: by GDCM, as SimpleITK brings it."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        array = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as cause:
        raise unreadable() from cause
    plane = array[0] if array.ndim == 3 else array
    return np.asarray(plane.astype(np.float32) if plane.dtype.kind == "f" else plane)
