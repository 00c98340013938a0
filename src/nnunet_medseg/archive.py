"""Zip archives of models: looked at as a whole first, then unpacked without trust.

Promises: nothing is written unless every entry was accepted; nothing is written outside of the
folder, over a file that is there, or beyond what an entry claims; only the files that a model is
made of are written, and what a failure leaves half written is deleted.
Does not promise: that what was unpacked is a model.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from nnunet_medseg.errors import ModelError
from nnunet_medseg.files import NEW_FILE

__all__ = ["unpack_archive"]

# Five folds of nnU-Net's largest preset with three checkpoints each are about 12 GB.
MAX_BYTES = 20 * 10**9
MAX_ENTRIES = 10_000
MAX_DIRECTORY_BYTES = 1 << 24  # of the list of entries; 1.6 kB each
MAX_RATIO = 100  # weights do not compress; the JSON files beside them do, about tenfold
MAX_NAME, MAX_PATH = 255, 1024  # bytes of a part and of the whole, as file systems take them
BLOCK_BYTES = 1 << 20


# What zip tools write; other methods take memory as the file pleases.
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
ENCRYPTED = 0x1 | 0x40 | 0x2000  # bits of the flags (APPNOTE.TXT 6.3.10, 4.4.4)
MODEL_FILES = re.compile(
    r"(?:.*/)?(?:(?:plans|dataset|manifest)\.json|fold_[^/]+/checkpoint_[^/]+\.pth)"
)

# What zipfile raises on files that are damaged or made to harm.
UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
)


class _Stream(io.FileIO):
    """A file that does not hand out an absurdly long list of entries in one piece."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            problem = "the list of entries is too long"
            raise ValueError(problem)
        return super().read(size) or b""


def unpack_archive(path: Path, target: Path) -> None:
    """Unpack the files that a model is made of from a zip.

    Writes `plans.json`, `dataset.json`, `manifest.json` and `fold_*/checkpoint_*.pth` at any
    depth, for the user's eyes only. All other entries are checked, but not written.

    Args:
        path: The zip.
        target: Folder to unpack into; made when it is not there.

    Raises:
        ModelError: When the file is no zip, is damaged, or has an entry that is not accepted.
        OSError: When the disk does not take the files.
    """
    if not path.is_file():
        raise _unreadable(path)
    try:
        with _Stream(path) as stream, zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            _check_entries(path, entries, shutil.disk_usage(_existing(target)).free)
            wanted = [entry for entry in entries if _is_wanted(entry)]
            _unpack(archive, wanted, target)
    except UNREADABLE as cause:
        # Only an error of our disk names a file. Where upper and lower case are one, two entries
        # may meet in one file, which is the archive's doing.
        is_ours = isinstance(cause, OSError) and cause.filename is not None
        if is_ours and not isinstance(cause, FileExistsError):
            raise
        raise _unreadable(path) from cause


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _is_wanted(entry: zipfile.ZipInfo) -> bool:
    return not entry.is_dir() and MODEL_FILES.fullmatch(_place(entry).as_posix()) is not None


def _place(entry: zipfile.ZipInfo) -> PurePosixPath:
    return PurePosixPath(entry.filename)


# --- what is accepted --------------------------------------------------------------------------


def _check_entries(path: Path, entries: Sequence[zipfile.ZipInfo], free_bytes: int) -> None:
    """Refuse the archive when one of its entries, or all together, are not accepted."""
    if len(entries) > MAX_ENTRIES:
        raise _refused(path, f"it has {len(entries)} entries; {MAX_ENTRIES} are accepted")
    total = 0
    for entry in entries:
        total += entry.file_size
        reason = _objection(entry)
        if reason:
            raise _refused(path, f"its entry {entry.orig_filename[:120]!r} {reason}")
    _check_total(path, total, free_bytes)
    _check_places(path, entries)


def _objection(entry: zipfile.ZipInfo) -> str:
    """Return why an entry is not accepted; empty when it is."""
    # A field of the entry may replace the name that stands in the list.
    for name in (entry.orig_filename, entry.filename):
        reason = _objection_to_name(name)
        if reason:
            return reason
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "is a symbolic link"
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        return "is neither a file nor a folder"
    if entry.flag_bits & ENCRYPTED:
        return "is encrypted"
    if entry.compress_type not in METHODS:
        return "is packed by a method that is not accepted"
    if entry.file_size > MAX_BYTES:
        return f"claims {entry.file_size / 1e9:.0f} GB"
    return ""


def _objection_to_name(name: str) -> str:
    parts = PurePosixPath(name).parts
    if re.match("[A-Za-z]:", name):
        return "begins with a drive letter"
    if "\\" in name or ":" in name or not name.isprintable():
        return "has a backslash, a colon or a character that does not print in its name"
    if name.startswith("/"):
        return "has an absolute name"
    if ".." in parts:
        return "leads out of the archive"
    sizes = [len(part.encode()) for part in parts]
    if not name or len(name.encode()) > MAX_PATH or max(sizes, default=0) > MAX_NAME:
        return "has a name that is empty or too long"
    return ""


def _check_total(path: Path, total: int, free_bytes: int) -> None:
    size = path.stat().st_size
    if total > MAX_BYTES:
        raise _refused(path, f"it claims to hold {total / 1e9:.0f} GB")
    if total > MAX_RATIO * size:
        raise _refused(path, f"it claims to hold {total // size} times its size, as no model does")
    if total > free_bytes:
        problem = f"it needs {total / 1e9:.1f} GB, and {free_bytes / 1e9:.1f} GB are free"
        raise _refused(path, problem)


def _check_places(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse two entries of one name, and a file that other entries lie in."""
    files = [_place(entry) for entry in entries if not entry.is_dir()]
    known = set(files)
    if len(known) < len(files):
        ((twice, _),) = Counter(files).most_common(1)
        raise _refused(path, f"its entry {str(twice)[:120]!r} comes twice")
    inside = (name for entry in entries for name in _place(entry).parents if name in known)
    both = next(inside, None)
    if both is not None:
        raise _refused(path, f"its entry {str(both)[:120]!r} is both a file and a folder")


# --- writing -----------------------------------------------------------------------------------


def _unpack(archive: zipfile.ZipFile, entries: Sequence[zipfile.ZipInfo], target: Path) -> None:
    written: list[Path] = []
    _make_folder(target)
    try:
        for entry in entries:
            place = target / _place(entry)
            _make_folder(place.parent)
            with os.fdopen(os.open(place, NEW_FILE, mode=0o600), "wb") as stream:
                written.append(place)
                for block in _blocks(archive, entry):
                    _write(stream, block, place)
    except BaseException:
        for place in written:
            place.unlink(missing_ok=True)
        raise


def _make_folder(folder: Path) -> None:
    # `Path.mkdir` gives its mode to the last folder only.
    for place in reversed((folder, *folder.parents)):
        if not place.exists():
            place.mkdir(mode=0o700)


def _write(stream: IO[bytes], block: bytes, place: Path) -> None:
    try:
        stream.write(block)
        stream.flush()
    except OSError as cause:
        # A full disk is told by the system without saying which.
        cause.filename = cause.filename or str(place)
        raise


def _blocks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """Read an entry block by block, and no more than it claims."""
    left = entry.file_size
    with archive.open(entry) as stream:
        while left >= 0 and (block := stream.read(BLOCK_BYTES)):
            left -= len(block)
            if left >= 0:
                yield block
    if left != 0:
        problem = "an entry is shorter or longer than it claims"
        raise ValueError(problem)


def _refused(path: Path, reason: str) -> ModelError:
    problem = f"The archive {path} is not accepted: {reason}."
    return ModelError(problem, fix="Unpack it yourself, look at it, and name the model folder.")


def _unreadable(path: Path) -> ModelError:
    problem = f"{path} is not a zip archive that can be read; it may be damaged."
    return ModelError(problem, fix="Copy the file again, or take another model.")
