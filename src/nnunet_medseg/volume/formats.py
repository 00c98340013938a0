"""The table of formats: endings, the reader behind each, and what is looked at before it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_medseg.volume.meta import beside_header, has_few_dimensions, is_whole_meta
from nnunet_medseg.volume.nifti import is_whole_nifti, starts_like_nifti
from nnunet_medseg.volume.nrrd import has_voxels_inside

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["EXTENSIONS", "Family", "extension_of", "family_of", "files_of"]


@dataclass(frozen=True)
class Family:
    """A kind of file.

    Attributes:
        reader: The one part of SimpleITK that reads and writes it: left to choose, it hands a
            strange file to every parser it has, and misses `.MHA`.
        starts_well: Looks at what SimpleITK would act on while it reads the header.
        is_whole: Looks whether all voxels are there and can be unpacked; None where SimpleITK does.
    """

    reader: str
    starts_well: Callable[[Path], bool]
    is_whole: Callable[[Path, sitk.ImageFileReader], bool] | None = None


NIFTI = Family("NiftiImageIO", starts_like_nifti, is_whole_nifti)
NRRD = Family("NrrdImageIO", has_voxels_inside)
META = Family("MetaImageIO", has_few_dimensions, is_whole_meta)

# Endings of files with images in them; the longer of two that fit stands first.
FORMATS = {".nii.gz": NIFTI, ".nii": NIFTI, ".nrrd": NRRD, ".mha": META, ".mhd": META}
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
    """Return the files that hold an image: itself, and for `.mhd` the data file beside it."""
    beside = beside_header(path) if extension_of(path) == ".mhd" else None
    return (path,) if beside is None else (path, beside)
