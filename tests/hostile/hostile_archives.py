"""Archives that are named as a model to start from."""

from __future__ import annotations

import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from corpus import PRETRAINED, Hostile, Place
from strange_files import claim, entry_of

from nnunet_medseg.errors import ModelError

WEIGHTS = "fold_1/checkpoint_final.pth"
FIFO, DEVICE, LINK = stat.S_IFIFO | 0o644, stat.S_IFBLK | 0o644, stat.S_IFLNK | 0o777


def zip_of(
    place: Place, *entries: tuple[zipfile.ZipInfo | str, bytes], method: int = zipfile.ZIP_STORED
) -> Path:
    """Zip the good model, with more entries at its end."""
    path = place.given / "model.zip"
    with zipfile.ZipFile(path, "w", method) as made:
        for file in sorted(place.stock.rglob("*")):
            if file.name in {"plans.json", "dataset.json", "checkpoint_final.pth"}:
                made.write(file, f"Stock/{file.relative_to(place.stock).as_posix()}")
        for entry, content in entries:
            made.writestr(entry, content)
    return path


def with_entry(name: str, content: bytes = b"{}", **options: int) -> Callable[[Place], Path]:
    """Return a maker of a good archive with one bad entry."""
    return lambda place: zip_of(
        place, (entry_of(name.format(outside=place.outside), **options), content)
    )


def through_a_link(place: Place) -> Path:
    link = entry_of("Stock/fold_2", mode=LINK)
    behind = "Stock/fold_2/checkpoint_final.pth"
    return zip_of(place, (link, str(place.outside).encode()), (behind, b"overwritten"))


def hard_link(place: Place) -> Path:
    """Name a hard link as the zip of Unix does, in a field of the entry (APPNOTE.TXT, 4.5.7)."""
    entry = entry_of("Stock/inner/plans.json")
    target = str(place.outside / "secret.json").encode()
    entry.extra = struct.pack("<HHIIHH", 0x000D, 12 + len(target), 0, 0, 0, 0) + target
    path = place.given / "model.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(entry, b"")
        made.writestr("Stock/inner/fold_0/checkpoint_final.pth", b"")
    return path


def ratio_bomb(place: Place) -> Path:
    path = zip_of(place)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as made,
        made.open(f"Stock/{WEIGHTS}", "w") as stream,
    ):
        for _ in range(400):
            stream.write(bytes(1 << 20))
    return path


def lying_bomb(place: Place) -> Path:
    """Hold far more than the list of entries claims."""
    return claim(ratio_bomb(place), f"Stock/{WEIGHTS}", 1000)


def count_bomb(place: Place) -> Path:
    return zip_of(place, *((f"Stock/{number}", b"") for number in range(10_001)))


def overlapping_bomb(place: Place) -> Path:
    """Let two hundred entries share one packed piece, as David Fifield's bomb of 2019 does."""
    path = place.given / "model.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("plans.json", bytes(1 << 20))
        first = made.infolist()[0]
        for number in range(200):
            twin = entry_of(f"fold_{number}/checkpoint_final.pth")
            for field in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
                setattr(twin, field, getattr(first, field))
            made.filelist.append(twin)
            made.NameToInfo[twin.filename] = twin
    return path


def endless_list(place: Place) -> Path:
    """Claim a list of entries of 4 GB."""
    path = zip_of(place)
    content = bytearray(path.read_bytes())
    end = content.rindex(b"PK\x05\x06")
    struct.pack_into("<HHII", content, end + 8, 0xFFFE, 0xFFFE, 0xFFFFFFF0, 0)
    path.write_bytes(content)
    return path


def encrypted(place: Place) -> Path:
    path = zip_of(place)
    content = bytearray(path.read_bytes())
    # The name stands in the list of entries too, 46 bytes after where its record begins.
    struct.pack_into("<H", content, content.rindex(b"Stock/plans.json") - 46 + 8, 0x1)
    path.write_bytes(content)
    return path


def tar_of(name: str, kind: bytes, target: str, mode: str = "w:gz") -> Callable[[Place], Path]:
    """Return a maker of a tar with a link in it, under any name."""

    def make(place: Place) -> Path:
        path = place.given / name
        with tarfile.open(path, mode) as made:
            made.add(place.stock, "Stock")
            member = tarfile.TarInfo(target.format(outside=place.outside))
            member.type = kind
            member.linkname = str(place.outside / "secret.json")
            made.addfile(member, io.BytesIO())
        return path

    return make


def entry(name: str, make: Callable[[Place], Path], *says: str) -> Hostile:
    """Return an archive that is refused as a model."""
    return Hostile(name, (PRETRAINED,), make, ModelError, says)


ARCHIVES = (
    entry("zip traversal", with_entry("../../outside/secret.json"), "leads out", "model.zip"),
    entry("zip traversal inside", with_entry("Stock/../../outside/x.json"), "leads out"),
    entry("zip absolute path", with_entry("{outside}/secret.json"), "absolute name"),
    entry("zip drive letter", with_entry("C:/Windows/plans.json"), "drive letter"),
    entry("zip backslashes", with_entry("..\\..\\outside\\secret.json"), "backslash"),
    entry("zip symbolic link", with_entry("Stock/x.json", b"/etc/passwd", mode=LINK), "link"),
    entry("zip write through a link", through_a_link, "symbolic link"),
    entry("zip hard link", hard_link, "model.zip"),
    entry("zip pipe", with_entry("Stock/x.json", mode=FIFO), "neither a file nor a folder"),
    entry("zip device", with_entry("Stock/x.json", mode=DEVICE), "neither a file nor a folder"),
    entry("zip bomb by ratio", ratio_bomb, "times its size", "model.zip"),
    entry("zip bomb that lies", lying_bomb, "model.zip"),
    entry("zip bomb by count", count_bomb, "entries", "model.zip"),
    entry("zip bomb by overlap", overlapping_bomb, "model.zip"),
    entry("zip endless list of entries", endless_list, "model.zip"),
    entry("zip duplicate entry", with_entry("Stock/plans.json"), "comes twice"),
    entry("zip duplicate entry by other spelling", with_entry("Stock/./plans.json"), "comes twice"),
    entry("zip file that is a folder too", with_entry("Stock/plans.json/x"), "both a file and"),
    entry("zip escape codes", with_entry("Stock/\x1b[2J\x1b]0;owned\x07.json"), r"\x1b[2J"),
    entry("zip newline", with_entry("Stock/a\nError: all is lost.json"), "does not print"),
    entry("zip name of 300 bytes", with_entry("n" * 300 + "/plans.json"), "too long"),
    entry("zip encrypted", encrypted, "is encrypted", "model.zip"),
    entry("tar with a symbolic link", tar_of("model.tar.gz", tarfile.SYMTYPE, "x"), "model.tar.gz"),
    entry("tar with a hard link", tar_of("model.tar", tarfile.LNKTYPE, "x", "w"), "model.tar"),
    entry("tar absolute", tar_of("model.tgz", tarfile.REGTYPE, "{outside}/new"), "model.tgz"),
    entry("tar called zip", tar_of("model.zip", tarfile.LNKTYPE, "../x"), "not a zip archive"),
    entry("tar called pth", tar_of("model.pth", tarfile.SYMTYPE, "../x", "w"), "not a checkpoint"),
)
