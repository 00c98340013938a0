"""Opening a DICOM file that may be damaged: what goes wrong becomes a VolumeError."""

from __future__ import annotations

import re
import struct
import warnings
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
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    EOFError,
    struct.error,
)
NOT_PRINTED = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]+")
LONGEST_NAME = 200


@contextmanager
def damage_told() -> Iterator[None]:
    """Turn what pydicom says about a damaged file into one error, and its warnings into nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except VolumeError:
            raise
        except FileNotFoundError:
            raise
        except (*DAMAGE, ValueError) as cause:
            raise unreadable() from cause


def open_dataset(path: Path, *, header_only: bool = False) -> Dataset:
    """Read a DICOM file; call it, and look into what it returns, within `damage_told`."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        return pydicom.dcmread(path, stop_before_pixels=header_only)
    except InvalidDicomError as cause:
        raise unreadable() from cause


def first_item(dataset: Any, name: str) -> Any:
    """Return the first item of a sequence, or None when the sequence is missing or empty."""
    items = dataset.get(name) if dataset is not None else None
    return items[0] if items else None


def printable(text: Any) -> str:
    """Return a name from a file as people can read it, on one line."""
    return NOT_PRINTED.sub(" ", str(text or "")).strip()[:LONGEST_NAME]
