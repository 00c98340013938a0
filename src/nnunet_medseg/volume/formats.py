"""The table of formats: endings, the reader behind each, and what is looked at before it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_medseg.volume.meta import beside_header, has_few_dimensions, look_into_meta
from nnunet_medseg.volume.nifti import announced_by_nifti, look_into_nifti, starts_like_nifti
from nnunet_medseg.volume.nrrd import announced_by_nrrd, has_voxels_inside
from nnunet_medseg.volume.stack import Announced, Looked, announced_by
from nnunet_medseg.volume.tiff import spacing_file, starts_like_tiff

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["EXTENSIONS", "NIFTI", "TIFF", "Family", "extension_of", "family_of", "files_of"]


@dataclass(frozen=True)
class Family:
    """A kind of file.

    Attributes:
        reader: The one part of SimpleITK that reads and writes it: left to choose, it hands a
            strange file to every parser it has, and misses `.MHA`.
        starts_well: Looks at what SimpleITK would act on while it reads the header.
        announced: Returns what the header says, from what SimpleITK found in it.
        look: Looks whether all voxels are there and can be unpacked, where SimpleITK does not.
        has_segments: Whether frames are layers of segments, as 3D Slicer writes them.
    """

    reader: str
    starts_well: Callable[[Path], bool]
    announced: Callable[[Path, sitk.ImageFileReader], Announced]
    look: Callable[[Path, sitk.ImageFileReader], Looked]
    has_segments: bool = False


def _no_look(_path: Path, _reader: sitk.ImageFileReader) -> Looked:
    return Looked()


NIFTI = Family("NiftiImageIO", starts_like_nifti, announced_by_nifti, look_into_nifti)
NRRD = Family("NrrdImageIO", has_voxels_inside, announced_by_nrrd, _no_look)
# With segments, which the header names.
SEGMENTS = replace(NRRD, has_segments=True)
META = Family(
    "MetaImageIO", has_few_dimensions, lambda _path, reader: announced_by(reader), look_into_meta
)
# Not read by SimpleITK, which loses half of what the format may hold; see tiff.py.
TIFF = Family("", starts_like_tiff, lambda _path, reader: announced_by(reader), _no_look)

# Endings of files with images in them; the longer of two that fit stands first.
FORMATS = {
    ".nii.gz": NIFTI,
    ".nii": NIFTI,
    ".seg.nrrd": SEGMENTS,
    ".nrrd": NRRD,
    ".mha": META,
    ".mhd": META,
    ".tif": TIFF,
    ".tiff": TIFF,
}
EXTENSIONS = tuple(FORMATS)


def extension_of(path: Path) -> str | None:
    """Return the image extension of a file name, or None when it is not one we read.

    Examples:
        >>> extension_of(Path("a/img.NII.gz")), extension_of(Path("notes.txt"))
        ('.nii.gz', None)
    """
    name = path.name.lower()
    return next((ending for ending in EXTENSIONS if name.endswith(ending)), None)


def family_of(path: Path) -> Family:
    """Return the kind of an image file, by its ending."""
    return FORMATS[str(extension_of(path))]


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the files that hold an image: itself, and what belongs to it beside it.

    That is the data file of an `.mhd`, and the JSON file that tells the voxel size of a `.tif`.
    """
    extension = extension_of(path)
    beside = None
    if extension == ".mhd":
        beside = beside_header(path)
    elif extension in (".tif", ".tiff"):
        beside = spacing_file(path)
    return (path,) if beside is None else (path, beside)
