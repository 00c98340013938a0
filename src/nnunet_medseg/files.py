"""Writing without half-written files, hashing, and deleting only what was agreed on.

Promises: a file written here is either the old one or the new one, never a part; a file is
deleted only when it is still the one that was listed; no symbolic link is ever followed.
Does not promise: safety against another process that changes a file between check and deletion.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "NEW_FILE",
    "ListedFile",
    "copy_listed",
    "delete_listed",
    "has_link",
    "hash_file",
    "list_files",
    "read_cache",
    "read_json",
    "write_atomic",
    "write_json",
    "write_text",
]

BLOCK_BYTES = 1 << 20
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class ListedFile:
    """A file as it was when it was listed.

    Attributes:
        path: Relative to the listed folder, with forward slashes.
        size_bytes: Size in bytes.
        modified_ns: Modification time in nanoseconds since the epoch.
        sha256: Hexadecimal hash of the content; empty when it was not asked for.
        is_link: Symbolic links are listed, never followed and never deleted.
    """

    path: str
    size_bytes: int
    modified_ns: int
    sha256: str = ""
    is_link: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain types."""
        return asdict(self)

    def same_stamp(self, other: ListedFile) -> bool:
        """Tell whether path, size, time and kind agree; the content is not compared."""
        ours = (self.path, self.size_bytes, self.modified_ns, self.is_link)
        return ours == (other.path, other.size_bytes, other.modified_ns, other.is_link)


def write_atomic(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Write bytes so that readers see the old file or the whole new one.

    Args:
        path: Target; its folder must exist.
        content: The whole content.
        mode: Permission bits; None leaves those of the process.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    # The umask of the process cuts the rights.
    handle = os.open(temporary, NEW_FILE, 0o666)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if mode is not None:
            temporary.chmod(mode)
        temporary.replace(path)
    except BaseException as cause:
        temporary.unlink(missing_ok=True)
        if isinstance(cause, OSError) and cause.errno is not None and cause.filename is None:
            # A full disk is told by the system without saying which.
            cause.filename = str(path)
        raise


def write_text(path: Path, text: str, *, mode: int | None = None) -> None:
    """Write a text as UTF-8, atomically."""
    # Half a surrogate stands for a byte of a file name that is no UTF-8.
    write_atomic(path, text.encode(errors="backslashreplace"), mode=mode)


def write_json(path: Path, content: Any, *, mode: int | None = None) -> None:
    """Write UTF-8 JSON with sorted keys, atomically."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    # The escape of half a surrogate is one of JSON too.
    write_text(path, text + "\n", mode=mode)


def read_json(path: Path) -> Any:
    """Read UTF-8 JSON, with or without the mark that Windows puts before it."""
    return json.loads(path.read_text(encoding="utf-8-sig"))


def read_cache(path: Path) -> dict[str, Any]:
    """Read a JSON table that can be made again: empty when it is missing or damaged."""
    try:
        content = read_json(path)
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def list_files(
    folder: Path,
    *,
    hashed: bool = False,
    known: Iterable[ListedFile] = (),
    on_file: Callable[[ListedFile], None] = lambda _: None,
) -> tuple[ListedFile, ...]:
    """List every file under a folder, sorted by path, without following links.

    Args:
        folder: The folder to walk.
        hashed: Whether to read every file for its hash.
        known: Records with hashes; a file with the same size and time as its record is not read.
        on_file: Called after each file, for a progress bar.
    """
    listed = []
    before = {record.path: record for record in known}
    for path in _walk(folder):
        record = _describe(folder, path, hashed=False)
        if hashed and not record.is_link:
            then = before.get(record.path)
            is_same = then is not None and then.same_stamp(record) and then.sha256
            record = then if then and is_same else _describe(folder, path, hashed=True)
        on_file(record)
        listed.append(record)
    return tuple(sorted(listed, key=lambda record: record.path))


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda item: item.name):
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(path)
        else:
            yield path


def _describe(folder: Path, path: Path, *, hashed: bool) -> ListedFile:
    status = path.lstat()
    is_regular = stat.S_ISREG(status.st_mode)
    return ListedFile(
        path=path.relative_to(folder).as_posix(),
        size_bytes=status.st_size,
        modified_ns=status.st_mtime_ns,
        sha256=hash_file(path) if hashed and is_regular else "",
        is_link=not is_regular,
    )


def has_link(folder: Path, top: Path) -> bool:
    """Tell whether a folder is reached by a link: itself, or one above it up to a top folder.

    Args:
        folder: The top folder, or one below it.
        top: What lies above it does not count.
    """
    between = [parent for parent in folder.parents if parent == top or top in parent.parents]
    return any(path.is_symlink() for path in (folder, *between))


def copy_listed(
    folder: Path,
    listed: Iterable[ListedFile],
    target: Path,
    *,
    may_link: bool,
    on_file: Callable[[int], None] = lambda _: None,
) -> bool:
    """Copy the listed files, which must be unchanged; links are left out.

    Args:
        folder: The folder that was listed.
        listed: Records with hashes.
        target: Folder that takes them; it must not exist.
        may_link: Whether a file may be shared with its copy where the disk allows it, which takes
            no time and no room; only for files that nobody will write to.
        on_file: Called with the number of files that are done.

    Returns:
        False as soon as a file is not what it was; the target is incomplete then.
    """
    target.mkdir()
    for number, record in enumerate(listed, start=1):
        path, copy = folder / record.path, target / record.path
        if not record.is_link:
            if not _is_unchanged(folder, path, record):
                return False
            copy.parent.mkdir(parents=True, exist_ok=True)
            _copy(path, copy, may_link=may_link)
        on_file(number)
    return True


def _copy(path: Path, copy: Path, *, may_link: bool) -> None:
    if may_link:
        try:
            os.link(path, copy)
        except OSError:
            # Another disk, or one that knows no such links.
            shutil.copy2(path, copy)
        return
    shutil.copy2(path, copy)


def delete_listed(
    folder: Path,
    listed: Iterable[ListedFile],
    *,
    keep_root: bool,
    on_file: Callable[[ListedFile], None] = lambda _: None,
) -> tuple[str, ...]:
    """Delete the listed files that are unchanged, and the folders this leaves empty.

    Args:
        folder: The folder that was listed. A link is left alone with all that it leads to.
        listed: Records with hashes. A file whose size, time or content differs is kept, so is a
            link, and so is whatever was never listed. A file already gone is no problem.
        keep_root: Whether the folder itself stays even when it is empty.
        on_file: Called after each record, for a progress bar.

    Returns:
        Paths, relative to the folder, of all that is still there.
    """
    if folder.is_symlink():
        return tuple(record.path for record in listed)
    parents: set[Path] = set()
    for record in listed:
        path = folder / record.path
        if _is_unchanged(folder, path, record):
            path.unlink()
        parents.update(_parents_below(folder, path))
        on_file(record)
    # Deepest first, so that a folder is empty by the time it is looked at.
    for parent in sorted(parents, key=lambda item: len(item.parts), reverse=True):
        _remove_if_empty(parent)
    if not folder.exists():
        return ()
    kept = tuple(record.path for record in list_files(folder))
    if not kept and not keep_root:
        _remove_if_empty(folder)
    return kept


def _is_unchanged(folder: Path, path: Path, record: ListedFile) -> bool:
    # A parent that became a link since the listing would lead out of the dataset.
    if record.is_link or any(parent.is_symlink() for parent in _parents_below(folder, path)):
        return False
    try:
        now = _describe(folder, path, hashed=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return now.same_stamp(record) and hash_file(path) == record.sha256


def _parents_below(folder: Path, path: Path) -> list[Path]:
    return [parent for parent in path.parents if folder in parent.parents]


def _remove_if_empty(folder: Path) -> None:
    if folder.is_symlink() or not folder.is_dir() or any(folder.iterdir()):
        return
    folder.rmdir()
