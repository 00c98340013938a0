"""The searcher finds a word wherever it is hidden, so that it never finds nothing by mistake."""

from __future__ import annotations

import base64
import gzip
import io
import json
import pickle
import random
import unicodedata
import zipfile
import zlib
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch
from searcher import Hit, forms_of, search_bytes, search_file, search_folder

from nnunet_medseg.volume import write_volume

WORD = "O'Zwetschgen-Güll"
AROUND = "before {} after"


def zipped(content: bytes, name: str = "entry", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr(name, content)
    return packed.getvalue()


def checkpoint(content: object) -> bytes:
    packed = io.BytesIO()
    torch.save(content, packed)
    return packed.getvalue()


def arrays(**content: np.ndarray) -> bytes:
    packed = io.BytesIO()
    np.savez_compressed(packed, **content)
    return packed.getvalue()


TEXT = AROUND.format(WORD)
PLACES = {
    **{encoding: TEXT.encode(encoding)
       for encoding in ("utf-8", "utf-16-le", "utf-16-be", "utf-16", "utf-32-le", "latin-1",
                        "cp1252", "mac-roman")},
    "NFC": unicodedata.normalize("NFC", TEXT).encode(),
    "NFD": unicodedata.normalize("NFD", TEXT).encode(),
    "upper case": TEXT.upper().encode(),
    "upper case in utf-16": TEXT.upper().encode("utf-16-le"),
    "lower case": TEXT.lower().encode("latin-1"),
    "mixed case": b"o'zWETSCHGEN-g\xc3\xbcLL",
    "without marks": TEXT.replace("ü", "u").encode(),
    "JSON": json.dumps({"name": TEXT}).encode(),
    "Python": repr(TEXT.encode()).encode(),
    "HTML": TEXT.replace("ü", "&uuml;").encode(),
    "percent": quote(TEXT).encode(),
    "percent of latin-1": quote(TEXT, encoding="latin-1").lower().encode(),
    "percent without the apostrophe": quote(TEXT, safe="'").encode(),
    **{f"base64 at {start}": base64.b64encode((b"x" * start) + TEXT.encode())
       for start in range(3)},
    "base64 of utf-16": base64.b64encode(TEXT.encode("utf-16-le")),
    "base64 of an address": base64.urlsafe_b64encode(TEXT.encode()),
    "gzip": gzip.compress(TEXT.encode()),
    "the second of two gzips": gzip.compress(b"nothing") + gzip.compress(TEXT.encode()),
    "name in a gzip": b"\x1f\x8b\x08\x08\0\0\0\0\0\x03" + TEXT.encode() + b"\0",
    "zlib": zlib.compress(TEXT.encode(), 9),
    "zlib after a header": b"ElementDataFile = LOCAL\n" + zlib.compress(TEXT.encode()),
    "damaged zlib": zlib.compress((TEXT * 500).encode() + random.Random(0).randbytes(5000))[:-900]
    + b"\xff" * 300,
    "zip": zipped(TEXT.encode()),
    "stored zip": zipped(TEXT.encode(), method=zipfile.ZIP_STORED),
    "name in a zip": zipped(b"", name=TEXT),
    "zip in a zip": zipped(zipped(zipped(gzip.compress(TEXT.encode("utf-16-le"))))),
    "gzip in a zip in a gzip": gzip.compress(zipped(gzip.compress(TEXT.encode()))),
    "key of a checkpoint": checkpoint({TEXT: torch.zeros(3)}),
    "value in a checkpoint": checkpoint({"init_args": {"plans": [(TEXT,)]}}),
    "bytes in a checkpoint": checkpoint({"raw": TEXT.encode("utf-16-be")}),
    "tensor of a checkpoint": checkpoint(torch.tensor(list(TEXT.encode()), dtype=torch.uint8)),
    "text in a npz": arrays(text=np.array([TEXT])),
    "name in a npz": arrays(**{WORD: np.zeros(2)}),
    **{f"pickle {protocol}": pickle.dumps([{"a": TEXT}], protocol) for protocol in range(5)},
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_word_is_found(place):
    # Among noise, as weights are.
    noise = random.Random(1).randbytes(999) if "pickle" not in place and "zip" not in place else b""

    hits = search_bytes(PLACES[place] + noise, [WORD], "file")

    assert {hit.word for hit in hits} == {WORD}


@pytest.mark.parametrize("place", PLACES)
def test_another_word_is_not_found(place):
    assert search_bytes(PLACES[place], ["Zwetschgendatschi"], "file") == []


@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"])
def test_a_word_in_voxels_is_found_whatever_the_format(tmp_path, make_bytes_volume, extension):
    path = tmp_path / f"image{extension}"
    write_volume(path, make_bytes_volume(TEXT.encode()))

    assert search_folder(tmp_path, [WORD])


def test_names_of_files_folders_and_targets_of_links_are_searched(tmp_path):
    (tmp_path / "sub" / WORD).mkdir(parents=True)
    (tmp_path / f"{WORD}.txt").touch()
    (tmp_path / "link").symlink_to(Path("/nowhere") / WORD)

    hits = search_folder(tmp_path, [WORD])

    places = (f"name of {WORD}.txt", "target of link", f"name of sub/{WORD}")
    assert set(hits) == {Hit(WORD, place) for place in places}


def test_the_place_of_a_hit_is_named(tmp_path):
    (tmp_path / "model.pth").write_bytes(checkpoint({"a": TEXT}))

    hits = search_file(tmp_path / "model.pth", [WORD])

    assert any(hit.place.startswith("model.pth > ") and "data.pkl" in hit.place for hit in hits)


@pytest.mark.parametrize("word", ["1953-07-21", "0815471199", "/data/Güll/x"])
def test_dates_numbers_and_paths_are_found(word):
    assert search_bytes(gzip.compress(f"<{word}>".encode()), [word], "file")


def test_weights_hold_no_word_by_chance():
    noise = random.Random(2).randbytes(1 << 20)

    assert search_bytes(noise, [WORD, "1953-07-21", "0815471199", "Zwetsch"], "file") == []


def test_a_word_that_chance_would_write_is_refused():
    with pytest.raises(ValueError, match="too short"):
        forms_of("root")
