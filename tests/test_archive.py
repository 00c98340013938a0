"""Archives: every harmful kind of entry is refused before anything is written."""

from __future__ import annotations

import shutil
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strange_files import GOOD, WEIGHTS, claim, entry_of, write_with_entry, write_zip

from nnunet_medseg import archive
from nnunet_medseg.archive import unpack_archive
from nnunet_medseg.errors import ModelError


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if not path.is_dir()
    }


# --- what is unpacked --------------------------------------------------------------------------


def test_the_files_of_a_model_are_unpacked_at_any_depth_and_no_others(tmp_path):
    inside = {f"Dataset1/Trainer/{name}": content for name, content in GOOD.items()}
    others = {"Dataset1/Trainer/debug.json": b"{}", "setup.py": b"", "fold_0/code.pth": b""}

    unpack_archive(write_zip(tmp_path / "model.zip", inside | others), tmp_path / "target")

    assert files_in(tmp_path / "target") == inside


def test_names_that_begin_with_the_archives_own_folder_are_read(tmp_path):
    path = write_zip(tmp_path / "model.zip", {"./": b"", "./plans.json": b"{}"})

    unpack_archive(path, tmp_path / "target")

    assert files_in(tmp_path / "target") == {"plans.json": b"{}"}


def test_what_is_unpacked_is_for_the_users_eyes_only(tmp_path):
    unpack_archive(write_zip(tmp_path / "model.zip", GOOD), tmp_path / "target")

    paths = [tmp_path / "target", *(tmp_path / "target").rglob("*")]
    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in paths}
    assert modes == {(True, 0o700), (False, 0o600)}


def test_rights_and_dates_of_entries_are_not_taken_over(tmp_path):
    entry = zipfile.ZipInfo("fold_1/checkpoint_final.pth")
    entry.external_attr = (stat.S_IFREG | stat.S_ISUID | 0o777) << 16

    unpack_archive(write_with_entry(tmp_path / "model.zip", entry), tmp_path / "target")

    assert stat.S_IMODE((tmp_path / "target" / entry.filename).stat().st_mode) == 0o600


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (entry_of("../plans.json"), "leads out"),
        (entry_of("fold_0/../../../plans.json"), "leads out"),
        (entry_of("/etc/plans.json"), "absolute"),
        (entry_of("//server/plans.json"), "absolute"),
        (entry_of("C:/plans.json"), "drive letter"),
        (entry_of("c:plans.json"), "drive letter"),
        (entry_of("..\\plans.json"), "backslash"),
        (entry_of("plans.json:stream"), "colon"),
        (entry_of("plans\n.json"), "does not print"),
        (entry_of("a" * 300 + "/plans.json"), "too long"),
        (entry_of("ä" * 200 + "/plans.json"), "too long"),
        (entry_of("d/" * 600 + "plans.json"), "too long"),
        (entry_of("fold_1/checkpoint_final.pth", mode=stat.S_IFLNK | 0o777), "symbolic link"),
        (entry_of("fold_1", mode=stat.S_IFLNK | 0o777), "symbolic link"),
        (entry_of("fold_1/checkpoint_best.pth", mode=stat.S_IFIFO), "neither a file nor a folder"),
        (entry_of("fold_1/checkpoint_best.pth", mode=stat.S_IFCHR), "neither a file nor a folder"),
        (entry_of(WEIGHTS + "/plans.json"), "both a file and a folder"),
    ],
    ids=lambda value: value.filename[:30] if isinstance(value, zipfile.ZipInfo) else value,
)
def test_an_entry_that_is_not_accepted_refuses_the_whole(tmp_path, entry, reason):
    path = write_with_entry(tmp_path / "model.zip", entry, b"/etc/passwd")

    with pytest.raises(ModelError, match=reason):
        unpack_archive(path, tmp_path / "deep" / "target")

    assert list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_entry(tmp_path):
    path = write_with_entry(tmp_path / "model.zip", entry_of("../../evil.json"))

    with pytest.raises(ModelError, match=r"'\.\./\.\./evil\.json' leads out of the archive"):
        unpack_archive(path, tmp_path / "target")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("name", ["plans.json", "./plans.json", "fold_0//checkpoint_final.pth"])
def test_two_entries_of_one_name_are_refused(tmp_path, name):
    path = write_with_entry(tmp_path / "model.zip", entry_of(name))

    with pytest.raises(ModelError, match="comes twice"):
        unpack_archive(path, tmp_path / "target")


def test_a_name_with_a_zero_in_it_is_refused(tmp_path):
    path = write_zip(tmp_path / "model.zip", {"plans.jsonX.py": b"{}"})
    path.write_bytes(path.read_bytes().replace(b"plans.jsonX.py", b"plans.json\0.py"))

    with pytest.raises(ModelError, match="does not print"):
        unpack_archive(path, tmp_path / "target")


def test_an_encrypted_entry_is_refused(tmp_path):
    path = write_zip(tmp_path / "model.zip", GOOD)
    content = bytearray(path.read_bytes())
    struct.pack_into("<H", content, content.rindex(WEIGHTS.encode()) - 46 + 8, 0x1)
    path.write_bytes(content)

    with pytest.raises(ModelError, match="is encrypted"):
        unpack_archive(path, tmp_path / "target")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_to_pack_are_refused(tmp_path, method):
    path = write_zip(tmp_path / "model.zip", GOOD, method)

    with pytest.raises(ModelError, match="packed by a method"):
        unpack_archive(path, tmp_path / "target")


def test_a_bomb_is_refused(tmp_path):
    path = tmp_path / "bomb.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made,
        made.open(WEIGHTS, "w") as stream,
    ):
        for _ in range(256):
            stream.write(bytes(1 << 20))

    with pytest.raises(ModelError, match="times its size, as no model does"):
        unpack_archive(path, tmp_path / "target")

    assert path.stat().st_size < 3_000_000
    assert not (tmp_path / "target").exists()


def test_entries_that_claim_more_than_any_model_are_refused(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "model.zip", GOOD)
    monkeypatch.setattr(archive, "MAX_BYTES", 5_000)

    with pytest.raises(ModelError, match="claims"):
        unpack_archive(path, tmp_path / "target")


def test_entries_that_together_claim_more_than_any_model_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_BYTES", 6_000)
    second = {"fold_1/checkpoint_final.pth": GOOD[WEIGHTS]}
    path = write_zip(tmp_path / "model.zip", GOOD | second)

    with pytest.raises(ModelError, match="claims to hold"):
        unpack_archive(path, tmp_path / "target")


def test_more_than_the_disk_holds_is_refused(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "model.zip", GOOD)
    free = shutil._ntuple_diskusage(10**9, 10**9, 1_000)
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: free)

    with pytest.raises(ModelError, match="are free"):
        unpack_archive(path, tmp_path / "target")


def test_more_entries_than_any_model_are_refused(tmp_path):
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as made:
        for number in range(archive.MAX_ENTRIES + 1):
            made.writestr(str(number), b"")

    with pytest.raises(ModelError, match="has 10001 entries"):
        unpack_archive(path, tmp_path / "target")


def test_an_endless_list_of_entries_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_DIRECTORY_BYTES", 1 << 12)
    path = write_zip(tmp_path / "model.zip", {f"{number:0200}": b"" for number in range(100)})

    with pytest.raises(ModelError, match="not a zip archive that can be read"):
        unpack_archive(path, tmp_path / "target")


@pytest.mark.parametrize("size_bytes", [0, 10, 5_119, 5_121, 100_000])
def test_an_entry_that_gives_more_or_less_than_it_claims_leaves_nothing(tmp_path, size_bytes):
    path = claim(write_zip(tmp_path / "model.zip", GOOD), WEIGHTS, size_bytes)

    with pytest.raises(ModelError):
        unpack_archive(path, tmp_path / "target")

    assert not (tmp_path / "target").exists() or files_in(tmp_path / "target") == {}


# --- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06", b"\x1f\x8b no zip", b"\0" * 1000])
def test_what_is_no_zip_is_refused(tmp_path, content):
    path = tmp_path / "model.zip"
    path.write_bytes(content)

    with pytest.raises(ModelError, match="not a zip archive that can be read"):
        unpack_archive(path, tmp_path / "target")


def test_a_folder_and_a_missing_file_are_no_zip(tmp_path):
    for path in (tmp_path, tmp_path / "missing.zip"):
        with pytest.raises(ModelError, match="not a zip archive that can be read"):
            unpack_archive(path, tmp_path / "target")


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "plans.json").write_bytes(b"ours")

    with pytest.raises(ModelError):
        unpack_archive(write_zip(tmp_path / "model.zip", GOOD), tmp_path / "target")

    assert files_in(tmp_path / "target") == {"plans.json": b"ours"}


def test_a_disk_that_takes_no_files_is_told_apart_from_a_bad_archive(tmp_path):
    path = write_zip(tmp_path / "model.zip", GOOD)
    (tmp_path / "target").write_bytes(b"a file where a folder should be")

    with pytest.raises(OSError, match="target"):
        unpack_archive(path, tmp_path / "target")


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    return write_zip(tmp_path_factory.mktemp("good") / "model.zip", GOOD).read_bytes()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_is_refused_or_harmless(tmp_path, good, data):
    content = bytearray(good[: data.draw(st.integers(0, len(good)) | st.just(len(good)))])
    # The list of entries, at the end, is where most can go wrong.
    places = st.integers(0, len(content)) | st.integers(max(0, len(content) - 320), len(content))
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=4)):
        content[place : place + 1] = bytes([value])
    path, target = tmp_path / "model.zip", tmp_path / "target"
    path.write_bytes(content)
    shutil.rmtree(target, ignore_errors=True)

    try:
        unpack_archive(path, target)
    except ModelError:
        assert not target.exists() or files_in(target) == {}
    else:
        assert all(content in GOOD.values() for content in files_in(target).values())
    assert set(tmp_path.iterdir()) <= {path, target}
