"""Looks for words in files as somebody would who wants to find them.

Promises: a word is found in names of files and targets of links, and in content, in upper and lower
case, composed, decomposed or without its marks, in the usual encodings of text, escaped as JSON,
Python, HTML or an address writes it, in base64 at any offset, in strings of a pickle, in entries of
zips, and in gzip and zlib streams wherever they begin; of these in each other too.
Does not promise: words that are encrypted, split, or drawn in pixels.
"""

from __future__ import annotations

import base64
import html
import io
import json
import pickletools
import re
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from nnunet_medseg.archive import UNREADABLE

MAX_DEPTH = 6  # archives in archives
MAX_UNPACKED_BYTES = 1 << 28
MIN_LETTERS = 6  # a shorter word stands in weights by chance
ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "latin-1", "cp1252", "mac-roman")
STREAM = re.compile(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]")  # gzip, and zlib of four strengths


@dataclass(frozen=True)
class Hit:
    """A word, and the file, entry or stream that it was found in."""

    word: str
    place: str


def search_folder(folder: Path, words: Iterable[str]) -> list[Hit]:
    """Search all files below a folder, whatever their names, and the names."""
    hits = []
    for path in sorted(folder.rglob("*")):
        hits += search_file(path, words, path.relative_to(folder).as_posix())
    return hits


def search_file(path: Path, words: Iterable[str], place: str | None = None) -> list[Hit]:
    """Search a file, its name (or the place given) and, for a link, its target."""
    place = path.name if place is None else place
    hits = search_bytes(place.encode(errors="surrogateescape"), words, f"name of {place}")
    if path.is_symlink():
        return hits + search_bytes(str(path.readlink()).encode(), words, f"target of {place}")
    return hits + (search_bytes(path.read_bytes(), words, place) if path.is_file() else [])


def search_bytes(content: bytes, words: Iterable[str], place: str) -> list[Hit]:
    """Search bytes and all that is packed in them."""
    words = tuple(words)
    hits = []
    for where, piece in _unpack(content, place, MAX_DEPTH):
        folded = piece.lower()
        hits += [Hit(word, where) for word in words if _is_in(word, piece, folded)]
    return list(dict.fromkeys(hits))


def _is_in(word: str, content: bytes, folded: bytes) -> bool:
    plain, packed = forms_of(word)
    return any(form in folded for form in plain) or any(form in content for form in packed)


@cache
def forms_of(word: str) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """Return the bytes that stand for a word: those to look for in folded bytes, and in all."""
    if len(word) < MIN_LETTERS:
        problem = f"{word!r} is too short to be told from chance."
        raise ValueError(problem)
    plain: set[bytes] = set()
    packed: set[bytes] = set()
    for text in _spellings(word):
        for encoded in _encoded(text):
            plain.add(encoded.lower())
            packed |= {encoded, *_in_base64(encoded)}
        plain |= {escaped.encode().lower() for escaped in _escaped(text)}
    return frozenset(plain), frozenset(packed)


def _spellings(word: str) -> set[str]:
    cases = {word, word.lower(), word.upper(), word.title(), word.casefold()}
    composed = {unicodedata.normalize(form, text) for text in cases for form in ("NFC", "NFD")}
    bare = {"".join(letter for letter in text if not unicodedata.combining(letter))
            for text in composed}  # fmt: skip
    return composed | bare


def _encoded(text: str) -> Iterator[bytes]:
    for encoding in ENCODINGS:
        try:
            yield text.encode(encoding)
        except UnicodeEncodeError:
            continue


def _escaped(text: str) -> Iterator[str]:
    yield json.dumps(text)[1:-1]
    yield repr(text)[1:-1]
    yield ascii(text)[1:-1]
    yield text.replace("'", "\\'")
    yield repr(text.encode())[2:-1]
    yield text.encode("ascii", "xmlcharrefreplace").decode()
    yield html.escape(text)
    yield "".join(f"&{name};" if (name := html.entities.codepoint2name.get(ord(c))) else c
                  for c in text)  # fmt: skip
    for encoding in ("utf-8", "latin-1"):
        yield quote(text, encoding=encoding, errors="ignore")
        yield quote_plus(text, encoding=encoding, errors="ignore")
    yield quote(text, safe="'")


def _in_base64(content: bytes) -> Iterator[bytes]:
    for offset in range(3):
        for alphabet in (b"+/", b"-_"):
            shown = base64.b64encode(bytes(offset) + content, altchars=alphabet)
            # The first and the last letter hold bits of the neighbours.
            last = (offset + len(content)) * 8 // 6
            yield shown[(offset * 8 + 5) // 6 : last]


# --- what is packed ----------------------------------------------------------------------------


def _unpack(content: bytes, place: str, depth: int) -> Iterator[tuple[str, bytes]]:
    yield place, content
    if depth == 0:
        return
    for name, part in (*_zip_entries(content), *_streams(content)):
        yield f"name in {place}", name.encode(errors="surrogateescape")
        yield from _unpack(part, f"{place} > {name}", depth - 1)
    for part in _pickled(content):
        yield from _unpack(part, f"{place} > pickle", depth - 1)


def _zip_entries(content: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as stream:
                    yield entry.filename, stream.read(MAX_UNPACKED_BYTES)
    except UNREADABLE:
        return


def _streams(content: bytes) -> Iterator[tuple[str, bytes]]:
    view = memoryview(content)
    for start in (match.start() for match in STREAM.finditer(content)):
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
        try:
            part = unpacker.decompress(view[start:], MAX_UNPACKED_BYTES)
        except zlib.error:
            # A damaged stream is unpacked as far as it goes.
            part = _what_unpacks(view[start:])
        if len(part) >= MIN_LETTERS:
            yield f"stream at {start}", part


def _what_unpacks(content: memoryview) -> bytes:
    unpacker, parts = zlib.decompressobj(zlib.MAX_WBITS | 32), []
    try:
        for start in range(0, len(content), 64):
            parts.append(unpacker.decompress(content[start : start + 64]))
    except zlib.error:
        pass
    return b"".join(parts)


def _operations(content: bytes) -> Iterator[Any]:
    # Weights may look like a pickle by chance, and then like one with a wrong escape.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield from pickletools.genops(content)


def _pickled(content: bytes) -> Iterator[bytes]:
    if not content.startswith((b"\x80", b"(", b"]", b"}", b"V", b"c")):
        return
    try:
        for _, argument, _ in _operations(content):
            if isinstance(argument, bytes):
                yield argument
            elif isinstance(argument, str):
                yield argument.encode(errors="surrogatepass")
                # Old protocols write bytes as a text of as many letters.
                if all(ord(letter) < 256 for letter in argument):
                    yield argument.encode("latin-1")
    except UNREADABLE:
        return
