"""Opening a DICOM file that may be damaged: what goes wrong becomes a VolumeError."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_medseg.volume.problems import VolumeError, unreadable

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["damage_told", "first_item", "open_dataset", "printable"]

# What pydicom raises on files that were cut short, bent or made wrongly.
DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    EOFError,
    struct.error,
    zlib.error,
)
DEFLATED = "1.2.840.10008.1.2.1.99"
# Of a file that is packed as a whole, which no scanner writes; far above one slice.
LARGEST_UNPACKED = 1 << 28
BLOCK = 1 << 20
NOT_PRINTED = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]+")
LONGEST_NAME = 200


@contextmanager
def damage_told() -> Iterator[None]:
    """Turn what pydicom says about a damaged file into one error, and its warnings into nothing."""
    from pydicom.errors import BytesLengthException

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except VolumeError:
            raise
        except FileNotFoundError:
            raise
        except (*DAMAGE, BytesLengthException, ValueError) as cause:
            raise unreadable() from cause


def open_dataset(
    path: Path, *, header_only: bool = False, tags: list[str] | None = None
) -> Dataset:
    """Read a DICOM file; call it, and look into what it returns, within `damage_told`.

    Args:
        path: The file.
        header_only: Whether to stop before the pixels.
        tags: What is asked of the header; None for all.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        _require_small(path)
        return pydicom.dcmread(path, stop_before_pixels=header_only, specific_tags=tags)
    except InvalidDicomError as cause:
        raise unreadable() from cause


def _require_small(path: Path) -> None:
    """Refuse a file that is packed as a whole and unpacks to more than any slice holds."""
    from pydicom.filereader import _read_file_meta_info as read_meta  # leaves the file at its end
    from pydicom.filereader import read_preamble

    with path.open("rb") as stream:
        read_preamble(stream, force=False)
        if read_meta(stream).get("TransferSyntaxUID") != DEFLATED:
            return
        unpacker, unpacked = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not unpacker.eof:
            packed = unpacker.unconsumed_tail or stream.read(BLOCK)
            if not packed:
                return
            unpacked += len(unpacker.decompress(packed, BLOCK))
            if unpacked > LARGEST_UNPACKED:
                problem = "the file is packed as a whole, and would fill the memory"
                raise VolumeError("too large", problem, "Export it uncompressed.")


def first_item(dataset: Any, name: str) -> Any:
    """Return the first item of a sequence, or None when the sequence is missing or empty."""
    items = dataset.get(name) if dataset is not None else None
    return items[0] if items else None


def printable(text: Any) -> str:
    """Return a name from a file as people can read it, on one line."""
    return NOT_PRINTED.sub(" ", str(text or "")).strip()[:LONGEST_NAME]
