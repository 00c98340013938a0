"""Images and label maps: the axis rule, and reading and writing of file formats.

The axis rule: arrays are `(z, y, x)`, with channels `(c, z, y, x)`; spacing is `(z, y, x)` in mm.
The affine maps a voxel index `(x, y, z, 1)` to mm in LPS (x to the left, y to the back, z to the
head of the patient), the convention of DICOM and of ITK; NIfTI files, which use RAS, are
converted on the way in and out by SimpleITK.

Promises of reading: only the file itself is read, and for `.mhd` the one data file that lies beside
it and is no link; a header is asked what it announces before memory is taken.
Does not promise: to refuse an image that fits into the memory, however small it is when packed.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import stat
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

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
    "read_frames",
    "read_volume",
    "restore_orientation",
    "silence_readers",
    "to_ras",
    "write_volume",
]

# Formats that hold one 3D image in a file, and the one part of SimpleITK that reads and writes
# each: left to choose, it hands a strange file to every parser it has, and misses `.MHA`.
FORMATS = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
EXTENSIONS = tuple(FORMATS)

# Two grids agree when no corner is further apart than this share of the smallest voxel side:
# a tenth of a voxel is far below what a label map resolves, and far above rounding in headers.
GRID_TOLERANCE = 0.1

# Cosine of the angle between two axes, above which a grid counts as sheared: a third of a
# millimetre over a body, and far above rounding in headers.
SHEAR_TOLERANCE = 1e-3
# Sizes of voxels and places of origins beyond any scanner or microscope: a damaged header.
SIDE_RANGE_MM = (1e-6, 1e6)
FARTHEST_ORIGIN_MM = 1e9

META_HEADER_BYTES = 1 << 16  # it is text of a few lines
NRRD_HEADER_BYTES = 1 << 20  # the same, with what the user keeps in it
# Names of a data file that stand for something else (metaImage.cxx of ITK 5.4): for the file with
# the header itself, for a list of files that follows, and for files that are counted.
META_LOCAL = {"LOCAL", "Local", "local"}
META_SEVERAL = re.compile("LIST|.*%", re.DOTALL)
# ITK ends the whole process over a number of dimensions that is negative or huge.
META_DIMENSIONS = re.compile(rb"NDims[^\w.+-]*([\w.+-]*)")
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")  # in a name; a header cannot hold some of them
BLOCK_BYTES = 1 << 16  # of compressed data: unpacked it is a thousand times as much at most
GZIP_MAGIC = b"\x1f\x8b"
NIFTI_HEADER_BYTES = (348, 540)  # versions 1 and 2; it is the header's own first number
# What the voxels of a file of their own begin with, its place, and that of where they begin.
NIFTI_MARKS = {348: (b"n+1\0", 344, "f", 108), 540: (b"n+2\0", 4, "q", 168)}
# Between header and voxels are notes of other programs; what stands there is read into memory.
NIFTI_NOTES_BYTES = 1 << 26
NIFTI_FLOAT_BYTES = {"16": 4, "64": 8}  # codes of nifti1.h

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


def _format_of(path: Path) -> str:
    return FORMATS[str(extension_of(path))]


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the files that hold an image: itself, and for `.mhd` the data file beside it."""
    if extension_of(path) != ".mhd":
        return (path,)
    beside = _data_beside(path, _read_meta_header(path).data_file)
    return (path,) if beside is None else (path, beside)


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


def _data_beside(path: Path, name: str) -> Path | None:
    if META_SEVERAL.match(name):
        return None
    try:
        beside = path.with_name(name)
        is_file = stat.S_ISREG(beside.lstat().st_mode)
    # A damaged header may name anything, even what cannot be a name.
    except (OSError, ValueError):
        return None
    return beside if is_file else None


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
    reader.SetImageIO(_format_of(path))
    try:
        reader.ReadImageInformation()
        _check_header(reader, memory_bytes)
        _check_content(path, reader)
        image = reader.Execute()
    except (RuntimeError, MemoryError, OverflowError) as cause:
        raise _explain(str(cause)) from cause
    return _check_values(_check_grid(_from_sitk(image)))


def read_frames(path: Path, *, memory_bytes: float = float("inf")) -> tuple[Volume, ...]:
    """Read the 3D images of a file: one, or the frames of a 4D one, in their order.

    Args:
        path: File with one of the known extensions.
        memory_bytes: What reading may take.

    Raises:
        VolumeError: As `read_volume` does.
    """
    return (read_volume(path, memory_bytes=memory_bytes),)


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
    rule = START_RULES.get(_format_of(path))
    try:
        is_sane = rule is None or rule(path)
    except VolumeError:
        raise
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as cause:
        raise _unreadable() from cause
    if not is_sane:
        raise _unreadable()


def _starts_like_nifti(path: Path) -> bool:
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


def _has_few_dimensions(path: Path) -> bool:
    """Tell whether a MetaImage file announces a number of dimensions of one digit."""
    with path.open("rb") as stream:
        start = stream.read(META_HEADER_BYTES)
    numbers = META_DIMENSIONS.findall(start.partition(b"ElementDataFile")[0])
    return bool(numbers) and all(re.fullmatch(rb"[1-9]", number) for number in numbers)


def _has_voxels_inside(path: Path) -> bool:
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


START_RULES: dict[str, Callable[[Path], bool]] = {
    "NiftiImageIO": _starts_like_nifti,
    "NrrdImageIO": _has_voxels_inside,
    "MetaImageIO": _has_few_dimensions,
}


def _explain(cause: str) -> VolumeError:
    return _sheared() if "orthonormal" in cause.lower() else _unreadable()


def _sheared() -> VolumeError:
    return VolumeError(
        "axes not at right angles",
        "the axes of the image are not at right angles to each other (a sheared affine)",
        "Resample the image onto a regular grid, for example in 3D Slicer.",
    )


def _unreadable() -> VolumeError:
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


def _check_content(path: Path, reader: sitk.ImageFileReader) -> None:
    """Look whether all voxels are there and can be unpacked.

    SimpleITK fills a short NIfTI file with zeros, and puts a zero for every NaN in one, without
    a word; and it never comes back from some damaged MetaImage files.
    """
    rule = CONTENT_RULES.get(_format_of(path))
    try:
        is_whole = rule is None or rule(path, reader)
    except VolumeError:
        raise
    # What is no number, and what is no stream of the format.
    except (ValueError, OverflowError, OSError, EOFError, zlib.error) as cause:
        raise _unreadable() from cause
    if not is_whole:
        raise _unreadable()


def _is_whole_nifti(path: Path, reader: sitk.ImageFileReader) -> bool:
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
                lost += _count_lost(np.frombuffer(whole, dtype=f"{order}f{voxel_bytes}"))
        # The end of a packed file brings its checksum.
        stream.read(1)
    if lost:
        raise _not_finite(lost)
    return bool(missing == 0)


def _is_whole_meta(path: Path, reader: sitk.ImageFileReader) -> bool:
    import SimpleITK as sitk

    header = _read_meta_header(path)
    is_local = header.data_file in META_LOCAL
    data = path if is_local else _data_beside(path, header.data_file)
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


CONTENT_RULES: dict[str, Callable[[Path, sitk.ImageFileReader], bool]] = {
    "NiftiImageIO": _is_whole_nifti,
    "MetaImageIO": _is_whole_meta,
}


def _count_lost(values: np.ndarray[Any, Any]) -> int:
    return int(values.size - np.isfinite(values).sum())


def _not_finite(voxels: int) -> VolumeError:
    problem = f"{voxels} voxels are NaN or infinite"
    return VolumeError("NaN or Inf", problem, "Replace them by the value of the background.")


def _check_values(volume: Volume) -> Volume:
    if volume.array.dtype.kind == "f" and (lost := _count_lost(volume.array)):
        raise _not_finite(lost)
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
        raise _sheared()
    return volume


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
    extension = str(extension_of(path))
    if path.name.endswith(extension):
        _write(path, volume)
        return
    # SimpleITK knows endings in small letters only, and writes `.MHA` under another name.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        written = Path(folder, path.name[: -len(extension)] + extension)
        _write(written, volume)
        for part in files_of(written)[1:]:
            part.replace(path.with_name(part.name))
        written.replace(path)


def _write(path: Path, volume: Volume) -> None:
    import SimpleITK as sitk

    packed = extension_of(path) != ".nii"
    sitk.WriteImage(_to_sitk(volume), str(path), useCompression=packed, imageIO=_format_of(path))


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
