"""Writing of every format."""

from __future__ import annotations

import tempfile
from pathlib import Path

from nnunet_medseg.volume.formats import TIFF, extension_of, family_of, files_of
from nnunet_medseg.volume.grid import Volume, to_sitk
from nnunet_medseg.volume.tiff import write_tiff

__all__ = ["write_volume"]


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

    if family_of(path) is TIFF:
        write_tiff(path, volume)
        return
    packed = extension_of(path) != ".nii"
    sitk.WriteImage(
        to_sitk(volume), str(path), useCompression=packed, imageIO=family_of(path).reader
    )
