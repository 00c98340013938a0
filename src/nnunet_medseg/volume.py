"""Images and label maps: the axis rule, and reading and writing of file formats.

The axis rule: arrays are `(z, y, x)`, with channels `(c, z, y, x)`; spacing is `(z, y, x)` in mm.
The affine maps a voxel index `(x, y, z, 1)` to mm in LPS (x to the left, y to the back, z to the
head of the patient), the convention of DICOM and of ITK; NIfTI files, which use RAS, are
converted on the way in and out by SimpleITK.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = [
    "EXTENSIONS",
    "GRID_TOLERANCE",
    "Volume",
    "VolumeError",
    "extension_of",
    "files_of",
    "grid_shift",
    "orientation_code",
    "read_volume",
    "restore_orientation",
    "to_ras",
    "write_volume",
]

# Formats that hold one 3D image in a file that SimpleITK reads and writes.
EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")

# Two grids agree when no corner is further apart than this share of the smallest voxel side:
# a tenth of a voxel is far below what a label map resolves, and far above rounding in headers.
GRID_TOLERANCE = 0.1

# nnU-Net's readers hold float32 copies of image and label; reading alone needs one more.
READING_COPIES = 3


class VolumeError(ValueError):
    """A file that is not one 3D image.

    Attributes:
        rule: Short name of what is wrong.
        problem: What was found, without the file's name.
        fix: What to do about it.
    """

    def __init__(self, rule: str, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.rule = rule
        self.problem = problem
        self.fix = fix


@dataclass(frozen=True)
class Volume:
    """A 3D image or label map on its grid.

    Attributes:
        array: Voxels, shape `(z, y, x)`.
        spacing_mm: Voxel size `(z, y, x)` in mm, positive.
        affine: Shape `(4, 4)`; voxel index `(x, y, z, 1)` to LPS mm.
    """

    array: np.ndarray[Any, Any]
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray[Any, Any]

    def with_array(self, array: np.ndarray[Any, Any]) -> Volume:
        """Return another array on the same grid."""
        return Volume(array, self.spacing_mm, self.affine)


def extension_of(path: Path) -> str | None:
    """Return the image extension of a file name, or None when it is not one we read.

    Examples:
        >>> extension_of(Path("a/img.NII.gz")), extension_of(Path("notes.txt"))
        ('.nii.gz', None)
    """
    name = path.name.lower()
    return next((ending for ending in EXTENSIONS if name.endswith(ending)), None)


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the files that hold an image: itself, and for `.mhd` the data file beside it."""
    if extension_of(path) != ".mhd":
        return (path,)
    # The header is text of a few lines; a damaged one may be anything.
    for line in path.read_bytes()[:65536].decode("latin-1").splitlines():
        key, _, value = line.partition("=")
        name = value.strip()
        if key.strip() == "ElementDataFile" and name == Path(name).name:
            beside = path.with_name(name)
            return (path, beside) if beside.is_file() and not beside.is_symlink() else (path,)
    return (path,)


def read_volume(path: Path, *, memory_bytes: float = float("inf")) -> Volume:
    """Read one 3D scalar image.

    Args:
        path: File with one of the known extensions.
        memory_bytes: What reading may take; the header is asked before memory is.

    Raises:
        VolumeError: When the file is unreadable, truncated, not 3D, has several values a voxel,
            is too large for the free memory, or has axes that are not at right angles.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _check_header(reader, memory_bytes)
        image = reader.Execute()
    except (RuntimeError, MemoryError, OverflowError) as cause:
        raise _explain(str(cause)) from cause
    return _from_sitk(image)


def _explain(cause: str) -> VolumeError:
    if "orthonormal" in cause.lower():
        return VolumeError(
            "axes not at right angles",
            "the axes of the image are not at right angles to each other (a sheared affine)",
            "Resample the image onto a regular grid, for example in 3D Slicer.",
        )
    return VolumeError(
        "unreadable",
        "the file cannot be read: it is damaged, cut short, or not of the format its name says",
        "Export or copy the file again.",
    )


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


def _from_sitk(image: sitk.Image) -> Volume:
    import SimpleITK as sitk

    spacing = np.array(image.GetSpacing())
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * spacing
    affine[:3, 3] = image.GetOrigin()
    z, y, x = (float(value) for value in spacing[::-1])
    return Volume(sitk.GetArrayFromImage(image), (z, y, x), affine)


def _to_sitk(volume: Volume) -> sitk.Image:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(volume.array)
    spacing = np.array(volume.spacing_mm[::-1])
    image.SetSpacing([float(value) for value in spacing])
    image.SetOrigin([float(value) for value in volume.affine[:3, 3]])
    image.SetDirection([float(value) for value in (volume.affine[:3, :3] / spacing).ravel()])
    return image


def write_volume(path: Path, volume: Volume) -> None:
    """Write a volume, compressed where the format allows; the ending decides the format."""
    import SimpleITK as sitk

    sitk.WriteImage(_to_sitk(volume), str(path), useCompression=path.suffix != ".nii")


def grid_shift(first: Volume, second: Volume) -> float:
    """Return how far two grids of the same shape are apart.

    Returns:
        The largest distance between corresponding corners, in units of the smallest voxel side of
        the first; infinity when the shapes differ.
    """
    if first.array.shape != second.array.shape:
        return float("inf")
    last = np.array(first.array.shape[::-1], dtype=float) - 1
    corners = np.array(np.meshgrid(*[(0.0, size) for size in last])).reshape(3, -1)
    homogeneous = np.vstack([corners, np.ones(corners.shape[1])])
    apart = (first.affine - second.affine) @ homogeneous
    return float(np.linalg.norm(apart[:3], axis=0).max() / min(first.spacing_mm))


def orientation_code(volume: Volume) -> str:
    """Return where the axes x, y, z point, as three letters such as `LPS`."""
    import SimpleITK as sitk

    direction = (volume.affine[:3, :3] / np.array(volume.spacing_mm[::-1])).ravel()
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(
        [float(value) for value in direction]
    )
    return str(code)


def to_ras(volume: Volume) -> Volume:
    """Return the volume with its axes flipped and permuted to RAS, as nnU-Net's reader does."""
    import SimpleITK as sitk

    return _from_sitk(sitk.DICOMOrient(_to_sitk(volume), "RAS"))


def restore_orientation(array: np.ndarray[Any, Any], like: Volume) -> Volume:
    """Bring an array that lies on `to_ras(like)` back onto the grid of `like`.

    Args:
        array: Shape of `to_ras(like).array`.
        like: The volume as it was before reorientation.

    Returns:
        The array on exactly the grid of `like`.
    """
    import SimpleITK as sitk

    oriented = to_ras(like).with_array(array)
    restored = sitk.DICOMOrient(_to_sitk(oriented), orientation_code(like))
    return like.with_array(sitk.GetArrayFromImage(restored))
