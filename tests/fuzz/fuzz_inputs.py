"""What the fuzz tries: kinds of inputs, drawn by hypothesis, and what each does to a dataset.

A kind is `file.nrrd`, `json.raw`, `names.bids` or `tree`: what is spoilt, and of which dataset. An
input is a list of edits of plain values, so that it can be printed and read.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import fuzz_dicom
from fuzz_datasets import (
    DESCRIBED,
    LAYOUTS,
    PATIENTS,
    Tree,
    endings,
    image,
    label,
    patient_folders,
    strange_nifti,
)
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

HEADER_BYTES = 600  # where a change of one byte means most
NUMBER = re.compile(rb"[-+]?\d[\d.e+-]*")
WORD = re.compile(rb"[A-Za-z_]{3,}")

Edits = list[list[Any]]

# --- edits of bytes ------------------------------------------------------------------------------

places = st.one_of(st.integers(0, HEADER_BYTES), st.integers(0, 1 << 20))
numbers = st.one_of(
    st.sampled_from(
        (
            *("0", "-1", "1", "2", "4", "17", "65535", "2147483648", "18446744073709551632"),
            *("1e9", "1e308", "-1e-300", "nan", "inf", "", "x", "0x10", "3 3", "1,5", "00016"),
        )
    ),
    st.integers(-10_000, 10_000).map(str),
    st.floats(-1000, 1000).map(repr),
)
pieces = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.sampled_from([b"\0", b"\xff", b"\0\0\0\x80", b"\xff\xff\xff\x7f", b"\n", b"\n\n", b"\r\n"]),
    st.sampled_from([b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\x7f", b"\0\x80", b"%d", b"..", b"/"]),
)
byte_edit = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 1)),
    st.tuples(st.just("cut at"), places),
    st.tuples(st.just("flip"), places, st.integers(0, 7)),
    st.tuples(st.just("flip"), places, st.integers(0, 7)),
    st.tuples(st.just("write"), places, pieces),
    st.tuples(st.just("insert"), places, pieces),
    st.tuples(st.just("remove"), places, st.integers(1, 5000)),
    st.tuples(st.just("repeat"), places, st.integers(1, 5000)),
    st.tuples(st.just("number"), st.integers(0, 40), numbers),
    st.tuples(st.just("word"), st.integers(0, 40), st.sampled_from([b"", b"raw", b"gzip", b"x"])),
    st.tuples(st.just("become"), st.sampled_from(["nothing", *endings()])),
)
file_edits = st.tuples(
    st.integers(0, 7),  # which file of the patient
    st.booleans(),  # inside of what is packed
    st.lists(byte_edit, min_size=1, max_size=3),
)


def edit_bytes(content: bytes, edit: list[Any]) -> bytes:
    """Return the content with one change."""
    what, *how = edit
    return BYTE_EDITS[what](content, *how)


def _cut(content: bytes, share: float) -> bytes:
    return content[: int(len(content) * share)]


def _flip(content: bytes, place: int, bit: int) -> bytes:
    at = place % max(1, len(content))
    return (
        content[:at] + bytes(byte ^ 1 << bit for byte in content[at : at + 1]) + content[at + 1 :]
    )


def _write(content: bytes, place: int, piece: bytes) -> bytes:
    at = place % max(1, len(content))
    return content[:at] + piece + content[at + len(piece) :]


def _insert(content: bytes, place: int, piece: bytes) -> bytes:
    at = place % (len(content) + 1)
    return content[:at] + piece + content[at:]


def _remove(content: bytes, place: int, length: int) -> bytes:
    at = place % max(1, len(content))
    return content[:at] + content[at + length :]


def _repeat(content: bytes, place: int, length: int) -> bytes:
    at = place % max(1, len(content))
    return content[: at + length] + content[at:]


def _replace(pattern: re.Pattern[bytes], content: bytes, which: int, new: bytes) -> bytes:
    found = list(pattern.finditer(content[:2000]))
    if not found:
        return content
    start, end = found[which % len(found)].span()
    return content[:start] + new + content[end:]


def _become(content: bytes, ending: str) -> bytes:
    return b"" if ending == "nothing" else _first(image(1, ending.replace(".seg.", ".")))


def _first(files: Tree) -> bytes:
    return next(iter(files.values()))


BYTE_EDITS: dict[str, Callable[..., bytes]] = {
    "cut": _cut,
    "cut at": lambda content, place: content[: place % (len(content) + 1)],
    "flip": _flip,
    "write": _write,
    "insert": _insert,
    "remove": _remove,
    "repeat": _repeat,
    "number": lambda content, which, new: _replace(NUMBER, content, which, new.encode()),
    "word": lambda content, which, new: _replace(WORD, content, which, new),
    "become": _become,
}


def spoil_file(tree: Tree, drawn: tuple[int, bool, list[Any]]) -> tuple[Tree, str]:
    """Return the dataset with one file of its second patient changed, and that file's name."""
    which, inside, edits = drawn
    mine = [path for path in tree if path.startswith(f"{PATIENTS[1]}/")]
    path = mine[which % len(mine)]
    content = tree[path]
    packed = inside and content.startswith(b"\x1f\x8b")
    content = gzip.decompress(content) if packed else content
    for edit in edits:
        content = edit_bytes(content, edit)
    spoilt = gzip.compress(content, 1, mtime=0) if packed else content
    return tree | {path: spoilt}, path.rpartition("/")[2]


dicom_edits = st.tuples(
    st.one_of(st.just(0), st.integers(0, 8)),  # which file of the patient; labels most often
    st.lists(st.one_of(fuzz_dicom.element_edit, byte_edit), min_size=1, max_size=3),
)


def spoil_dicom(tree: Tree, drawn: tuple[int, list[Any]]) -> tuple[Tree, str]:
    """Return the dataset with one file of its second patient changed, and that patient's name.

    A slice that gets lost is told by the name of its series, the folder.
    """
    number, edits = drawn
    path = f"{fuzz_dicom.SPOILT_PATIENT}/IM{number}"
    content = tree[path]
    for edit in edits:
        is_element = edit[0] in fuzz_dicom.ELEMENT_EDITS
        content = (fuzz_dicom.edit_elements if is_element else edit_bytes)(content, edit)
    return tree | {path: content}, fuzz_dicom.SPOILT_PATIENT


# --- edits of dataset.json -----------------------------------------------------------------------

odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 300),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["background", "0", "../../up", "/absolute", "\x1b[31m", "\ud800", "x" * 5000]),
)
odd_json = st.recursive(
    odd_values,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(st.text(max_size=8), st.sampled_from(["0", "1", "-1", "1.5", "image"])),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)
json_edit = st.one_of(
    st.tuples(st.just("set"), st.integers(0, 60), odd_json),
    st.tuples(st.just("drop"), st.integers(0, 60)),
    st.tuples(st.just("add"), st.integers(0, 60), st.text(max_size=8), odd_json),
    st.tuples(st.just("bytes"), byte_edit),
)
json_edits = st.lists(json_edit, min_size=1, max_size=3)


def spoil_description(tree: Tree, edits: list[Any]) -> tuple[Tree, str]:
    """Return the dataset with its description changed, and the name of that file."""
    path = next(path for path in tree if path.endswith(".json"))
    content = tree[path]
    for what, *how in edits:
        if what == "bytes":
            content = edit_bytes(content, how[0])
            continue
        try:
            value = json.loads(content)
        except ValueError:
            break
        content = json.dumps(edit_json(value, what, how)).encode("utf-8", "surrogatepass")
    return tree | {path: content}, path


def edit_json(value: Any, what: str, how: list[Any]) -> Any:
    """Return a JSON value with one of its parts replaced, left out or added."""
    parts = list(walk(value))
    if not parts:
        return how[-1] if what == "set" else value
    holder, key = parts[how[0] % len(parts)]
    if what == "drop":
        del holder[key]
    elif what == "set" or isinstance(holder, list):
        holder[key] = how[-1]
    else:
        holder[how[1]] = how[2]
    return value


def walk(value: Any) -> Any:
    """Yield each part of a JSON value as what holds it and its place there."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in list(items):
        yield value, key
        yield from walk(inner)


# --- edits of names ------------------------------------------------------------------------------

WORDS = (
    *("imagesTr", "labelsTr", "images", "labels", "masks", "segmentations", "derivatives", "anat"),
    *("sub-01", "sub-", "ses-1", "anna", "Anna", "bert", "img", "image", "train", "validate", "ct"),
    *("seg", "mask", "label", "liver", "tumor", "anna_0000", "anna_0001", "anna_seg", "anna-label"),
    *(
        "sub-01_T1w",
        "sub-01_label-lesion_mask",
        "T1",
        "a b",
        "ä",
        "🙂",
        "%d",
        "..x",
        "CON",
        "x" * 200,
    ),
    *("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini", "._img", "_0000", "0000", "-", "_seg"),
)
words = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(WORDS),
    st.text(
        st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=10
    ),
)
suffixes = st.sampled_from(["", ".txt", ".json", ".NII.GZ", ".nii.gz.gz", ".raw", *endings()])
contents = st.sampled_from(["image", "image", "label", "label", "nothing", "text", "json"])
names = st.builds(lambda word, suffix: word + suffix, words, suffixes)
name_edit = st.one_of(
    st.tuples(st.just("drop"), st.integers(0, 40)),
    st.tuples(st.just("rename"), st.integers(0, 40), st.integers(0, 4), names),
    st.tuples(st.just("copy"), st.integers(0, 40), names),
    st.tuples(st.just("move"), st.integers(0, 40), words),
    st.tuples(st.just("add"), st.lists(words, max_size=3), names, contents),
    st.tuples(st.just("wrap"), words),
    st.tuples(st.just("swap"), st.integers(0, 40), st.integers(0, 40)),
    st.tuples(st.just("file in place of a folder"), st.integers(0, 40)),
)
name_edits = st.lists(name_edit, min_size=1, max_size=4)
free_tree = st.lists(
    st.tuples(st.just("add"), st.lists(words, max_size=4), names, contents), min_size=1, max_size=9
)


def spoil_names(tree: Tree, edits: list[Any]) -> tuple[Tree, str]:
    """Return the dataset with its names changed."""
    for what, *how in edits:
        tree = NAME_EDITS[what](dict(tree), *how)
    return tree, ""


def _path(tree: Tree, which: int) -> str:
    return sorted(tree)[which % len(tree)]


def _drop(tree: Tree, which: int) -> Tree:
    tree.pop(_path(tree, which) if tree else "", None)
    return tree


def _rename(tree: Tree, which: int, level: int, name: str) -> Tree:
    if not tree:
        return tree
    old = _path(tree, which).split("/")
    level %= len(old)
    start, new = "/".join(old[: level + 1]), "/".join([*old[:level], name])
    return {
        new + path[len(start) :] if f"{path}/".startswith(f"{start}/") else path: content
        for path, content in tree.items()
    }


def _copy(tree: Tree, which: int, name: str) -> Tree:
    if tree:
        path = _path(tree, which)
        tree["/".join([*path.split("/")[:-1], name])] = tree[path]
    return tree


def _move(tree: Tree, which: int, folder: str) -> Tree:
    if tree:
        path = _path(tree, which)
        tree[f"{folder}/{path.rpartition('/')[2]}"] = tree.pop(path)
    return tree


def _add(tree: Tree, folders: list[str], name: str, content: str) -> Tree:
    made = {"nothing": b"", "text": b"notes\n", "json": b"[]"}
    drawn = {"image": lambda: image(len(tree)), "label": label}
    tree["/".join([*folders, name])] = (
        made[content] if content in made else _first(drawn[content]())
    )
    return tree


def _swap(tree: Tree, one: int, other: int) -> Tree:
    if tree:
        one_path, other_path = _path(tree, one), _path(tree, other)
        tree[one_path], tree[other_path] = tree[other_path], tree[one_path]
    return tree


def _flatten(tree: Tree, which: int) -> Tree:
    if not tree:
        return tree
    folder = _path(tree, which).rpartition("/")[0]
    kept = {path: content for path, content in tree.items() if not path.startswith(f"{folder}/")}
    return kept | ({folder: b"a file"} if folder else {})


NAME_EDITS: dict[str, Callable[..., Tree]] = {
    "drop": _drop,
    "rename": _rename,
    "copy": _copy,
    "move": _move,
    "add": _add,
    "wrap": lambda tree, name: {f"{name}/{path}": content for path, content in tree.items()},
    "swap": _swap,
    "file in place of a folder": _flatten,
}

# --- kinds ---------------------------------------------------------------------------------------


def kinds() -> dict[str, tuple[Any, Callable[[], Tree], Callable[..., tuple[Tree, str]]]]:
    """Return for each kind what is drawn, the honest dataset, and what applies the one to it."""
    found: dict[str, Any] = {
        f"file{ending}": (file_edits, partial(patient_folders, ending), spoil_file)
        for ending in endings()
    }
    for name, strange in (("sheared", {"sheared": True}), ("frame", {"frames": 1})):
        found[f"file.{name}"] = (file_edits, partial(strange_nifti, **strange), spoil_file)
    found |= {f"json.{name}": (json_edits, LAYOUTS[name], spoil_description) for name in DESCRIBED}
    found |= {f"names.{name}": (name_edits, LAYOUTS[name], spoil_names) for name in LAYOUTS}
    for name, honest in (("contours", fuzz_dicom.contours), ("segments", fuzz_dicom.segments)):
        found[f"dicom.{name}"] = (dicom_edits, honest, spoil_dicom)
    return found | {"tree": (free_tree, dict, spoil_names)}


def draw(kind: str, count: int, start: int) -> list[Any]:
    """Return so many inputs of a kind; the same ones for the same seed."""
    drawn: list[Any] = []
    first = 1000 * start + zlib.crc32(kind.encode())
    for extra in range(20):
        if len(drawn) < count:
            drawn += _draw_from(kinds()[kind][0], count - len(drawn), first + extra)
    return drawn[:count]


def _draw_from(strategy: Any, count: int, start: int) -> list[Any]:
    drawn: list[Any] = []

    @seed(start)
    @settings(
        max_examples=count,
        derandomize=False,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(value: Any) -> None:
        drawn.append(value)

    collect()
    return drawn


def make(kind: str, drawn: Any) -> tuple[Tree, str]:
    """Return the spoilt dataset, and the name of the file that is spoilt, where it is one."""
    _, honest, spoil = kinds()[kind]
    return spoil(honest(), drawn)
