"""Hostile models and datasets: each is refused or made harmless, and nothing else happens.

Each entry of the corpus goes through the real command in a child process that is watched.
Covered: what it runs, reads, writes, deletes and shows; its memory and its time.
Not covered: files that are hard links, which no program can tell from others; images that claim
no more voxels than fit into the free memory, which are read.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from corpus import CHECK, KEPT, MODEL, PREDICT, PRETRAINED, TRAIN, Hostile, Place, command_of
from hostile_archives import ARCHIVES
from hostile_images import IMAGES
from hostile_kept import KEPT_DATASETS
from hostile_models import MODELS
from hostile_names import LINKS, NAMES
from makers import hashes_of

CORPUS: tuple[Hostile, ...] = (*ARCHIVES, *MODELS, *IMAGES, *NAMES, *LINKS, *KEPT_DATASETS)
TRIES = [(entry, door) for entry in CORPUS for door in entry.doors]

MEMORY_BYTES = 500 * 10**6
CPU_S = 10.0
OLD, NEW = (
    10**18,
    2 * 10**18,
)  # in nanoseconds: an access time before a change is renewed on reading


def mark_unread(folder: Path) -> list[Path]:
    """Give every file in a folder an access time that the first reading renews."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    for path in paths:
        os.utime(path, ns=(OLD, NEW))
    return paths


def read_since(marked: list[Path]) -> list[str]:
    """Return what was read since it was marked."""
    return [str(path) for path in marked if path.lstat().st_atime_ns != OLD]


def described(folder: Path) -> dict[str, tuple]:
    """Return all that lies in a folder, with kind, size and the place of links."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            status = path.lstat()
            link = str(path.readlink()) if path.is_symlink() else ""
            found[str(path)] = (status.st_mode, 0 if path.is_dir() else status.st_size, link)
    return found


def shown_of(root: Path) -> str:
    """Return all that the command has shown."""
    both = (root / "said.txt").read_bytes() + (root / "errors.txt").read_bytes()
    return both.decode("utf-8", errors="surrogateescape")


def log_texts(place: Place) -> str:
    """Return the logs and reports that are left over."""
    kinds = (".txt", ".log", ".md")
    folders = [place.work, place.root / "out", place.root / "tmp"]
    paths = [path for folder in folders for path in folder.rglob("*") if path.suffix in kinds]
    return "".join(path.read_text("utf-8", errors="surrogateescape") for path in paths)


def test_the_corpus_is_large_and_its_names_are_unique():
    names = [entry.name for entry in CORPUS]

    assert len(set(names)) == len(names) >= 40
    assert {door for _, door in TRIES} == {CHECK, TRAIN, PRETRAINED, MODEL, PREDICT, KEPT}


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize(
    ("entry", "door"),
    TRIES,
    ids=[f"{door}-{entry.name}".replace(" ", "_") for entry, door in TRIES],
)
def test_it_is_refused_or_harmless(entry: Hostile, door: str, place, nursery, good):
    given = entry.make(place)
    sentinels = hashes_of(place.outside) | hashes_of(good)
    around = [place.given, place.outside, good]
    before = [described(folder) for folder in around]
    contents = hashes_of(place.given)
    marked = mark_unread(place.outside)

    report = nursery.run(place.root, command_of(door, place, given, good))

    was_read = read_since(marked)
    assert "died" not in report, report
    shown = shown_of(place.root)
    expected = 0 if entry.error is None else entry.error.exit_code
    assert report["status"] == expected, shown
    assert [piece for piece in entry.says if piece not in shown] == [], shown
    assert (expected == 0) == ("What to do:" not in shown), shown
    assert "Traceback" not in shown
    assert "mismatch" not in shown, "the hostile part was not what was refused"
    strange = {letter for letter in shown + log_texts(place) if not letter.isprintable()}
    assert strange <= {"\n", "\t"}, shown
    assert not place.marker.exists()
    assert report["seen"] == []
    assert was_read == [] or not reading_is_seen(place.root), was_read
    assert [described(folder) for folder in around] == before
    assert hashes_of(place.outside) | hashes_of(good) == sentinels
    assert hashes_of(place.given) == contents
    assert list((place.root / "cwd").iterdir()) == []
    assert report["grown_bytes"] < MEMORY_BYTES
    assert report["cpu_s"] < CPU_S


def reading_is_seen(root: Path) -> bool:
    """Tell whether this disk renews access times, as most do after a change."""
    (root / "probe").mkdir()
    (root / "probe" / "file").write_text("x")
    marked = mark_unread(root / "probe")
    (root / "probe" / "file").read_text()
    return read_since(marked) != []
