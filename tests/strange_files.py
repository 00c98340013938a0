"""Files that are made by hand, byte by byte, as no program of good will writes them."""

from __future__ import annotations

import gzip
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from makers import make_image

# --- archives ----------------------------------------------------------------------------------

WEIGHTS = "fold_0/checkpoint_final.pth"
GOOD = {"plans.json": b"{}", "dataset.json": b"{}", WEIGHTS: bytes(range(256)) * 20}


def write_zip(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as made:
        for name, content in entries.items():
            made.writestr(name, content)
    return path


def write_with_entry(path: Path, entry: zipfile.ZipInfo, content: bytes = b"content") -> Path:
    """Write a good archive with one more entry at its end."""
    write_zip(path, GOOD)
    with zipfile.ZipFile(path, "a") as made:
        made.writestr(entry, content)
    return path


def claim(path: Path, name: str, size_bytes: int) -> Path:
    """Change the unpacked size that the list of entries claims for one entry."""
    content = bytearray(path.read_bytes())
    place = content.rindex(name.encode())  # in the list, which comes last
    struct.pack_into("<I", content, place - 46 + 24, size_bytes)
    path.write_bytes(content)
    return path


def entry_of(name: str, *, mode: int = 0, flags: int = 0) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("placeholder")
    entry.filename = name
    entry.external_attr = mode << 16
    entry.flag_bits = flags
    return entry


# --- images ------------------------------------------------------------------------------------

META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "0 0 0",
    "ElementSpacing": "1 1 2",
    "DimSize": "4 4 4",
    "ElementType": "MET_UCHAR",
    "ElementDataFile": "LOCAL",
}


def write_plain(path, image=None):
    """Write an image without compression."""
    volume = make_image() if image is None else image
    sitk.WriteImage(sitk.GetImageFromArray(volume.array), str(path), useCompression=False)
    return path


def write_meta(path, **entries):
    """Write a MetaImage of 4³ voxels by hand."""
    entries = META | entries
    # Its place is the end: what follows is taken for voxels.
    entries["ElementDataFile"] = entries.pop("ElementDataFile")
    header = "".join(f"{key} = {value}\n" for key, value in entries.items())
    path.write_bytes(header.encode() + bytes(range(64)))
    return path


def write_nifti(path, **fields):
    """Write a NIfTI file of 16³ voxels with header fields of our choice."""
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(make_image().array.T, np.diag([1.5, 1.0, 2.0, 1.0]))
    header = image.header.copy()
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    for name, value in fields.items():
        header[name] = value
    content = header.binaryblock + bytes(4) + make_image().array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path
