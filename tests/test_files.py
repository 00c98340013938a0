"""Writing whole files only, and deleting only what was listed and is unchanged."""

from __future__ import annotations

import errno
import json
import os
import stat

import pytest

from nnunet_medseg.files import (
    ListedFile,
    delete_listed,
    hash_file,
    list_files,
    read_json,
    write_atomic,
    write_json,
)


def make_tree(folder, *names):
    for name in names or ("a.txt", "sub/b.txt", "sub/deep/c.txt"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
    return folder


def test_a_file_that_fails_to_be_written_leaves_the_old_one_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomic(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"new")

    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_gets_the_mode_that_is_asked_for(tmp_path):
    write_atomic(tmp_path / "private", b"x", mode=0o600)

    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600


def test_json_comes_back_as_it_was_with_umlauts_readable_and_keys_sorted(tmp_path):
    path = tmp_path / "a.json"

    write_json(path, {"ü": 1, "a": [None, 2.5]})

    assert read_json(path) == {"ü": 1, "a": [None, 2.5]}
    assert path.read_text(encoding="utf-8").index('"a"') < path.read_text("utf-8").index('"ü"')


def test_json_holds_a_file_name_that_is_no_utf8(tmp_path):
    name = os.fsdecode(b"m\xfcller.nii")

    write_json(tmp_path / "a.json", [name])

    assert read_json(tmp_path / "a.json") == [name]
    assert json.loads((tmp_path / "a.json").read_bytes().decode("utf-8")) == [name]


def test_json_with_the_mark_of_windows_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[1]")

    assert read_json(tmp_path / "a.json") == [1]


def test_all_files_are_listed_with_size_time_and_hash(tmp_path):
    make_tree(tmp_path)

    listed = list_files(tmp_path, hashed=True)

    assert [item.path for item in listed] == ["a.txt", "sub/b.txt", "sub/deep/c.txt"]
    assert all(item.sha256 == hash_file(tmp_path / item.path) for item in listed)
    assert all(item.size_bytes == (tmp_path / item.path).stat().st_size for item in listed)
    assert ListedFile(**listed[0].to_json()) == listed[0]


def test_a_link_is_listed_as_such_and_not_followed(tmp_path):
    outside = make_tree(tmp_path / "outside")
    inside = make_tree(tmp_path / "inside", "a.txt")
    (inside / "to_folder").symlink_to(outside)
    (inside / "to_file").symlink_to(outside / "a.txt")

    listed = {item.path: item for item in list_files(inside, hashed=True)}

    assert set(listed) == {"a.txt", "to_file", "to_folder"}
    assert listed["to_file"].is_link
    assert listed["to_folder"].sha256 == ""


def test_a_pipe_is_listed_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    (record,) = list_files(tmp_path, hashed=True)

    assert record.is_link


def test_what_was_listed_is_deleted_with_the_folders_left_empty(tmp_path):
    folder = make_tree(tmp_path / "set")
    listed = list_files(folder, hashed=True)
    seen = []

    kept = delete_listed(folder, listed, keep_root=False, on_file=seen.append)

    assert kept == ()
    assert not folder.exists()
    assert seen == list(listed)


def test_the_folder_itself_stays_when_asked(tmp_path):
    folder = make_tree(tmp_path / "set")

    delete_listed(folder, list_files(folder, hashed=True), keep_root=True)

    assert list(folder.iterdir()) == []


def test_an_empty_folder_that_held_no_listed_file_stays(tmp_path):
    folder = make_tree(tmp_path / "set")
    (folder / "never used").mkdir()

    kept = delete_listed(folder, list_files(folder, hashed=True), keep_root=False)

    assert kept == ()
    assert (folder / "never used").is_dir()


def test_a_changed_and_a_new_file_are_kept_and_named(tmp_path):
    folder = make_tree(tmp_path / "set")
    listed = list_files(folder, hashed=True)
    (folder / "sub" / "b.txt").write_text("changed")
    (folder / "sub" / "new.txt").write_text("new")

    kept = delete_listed(folder, listed, keep_root=False)

    assert kept == ("sub/b.txt", "sub/new.txt")
    assert not (folder / "a.txt").exists()
    assert not (folder / "sub" / "deep").exists()


def test_a_file_with_other_content_but_the_same_size_and_time_is_kept(tmp_path):
    folder = make_tree(tmp_path / "set", "a.txt")
    listed = list_files(folder, hashed=True)
    times = (folder / "a.txt").stat()
    (folder / "a.txt").write_text("content of a.TXT")
    os.utime(folder / "a.txt", ns=(times.st_atime_ns, times.st_mtime_ns))

    assert delete_listed(folder, listed, keep_root=False) == ("a.txt",)


def test_a_file_that_was_listed_without_a_hash_is_kept(tmp_path):
    folder = make_tree(tmp_path / "set", "a.txt")

    assert delete_listed(folder, list_files(folder), keep_root=False) == ("a.txt",)


def test_a_file_that_is_gone_is_no_problem(tmp_path):
    folder = make_tree(tmp_path / "set")
    listed = list_files(folder, hashed=True)
    (folder / "a.txt").unlink()

    assert delete_listed(folder, listed, keep_root=False) == ()


def test_a_folder_that_became_a_file_is_kept(tmp_path):
    folder = make_tree(tmp_path / "set", "sub/b.txt")
    listed = list_files(folder, hashed=True)
    (folder / "sub" / "b.txt").unlink()
    (folder / "sub").rmdir()
    (folder / "sub").write_text("now a file")

    assert delete_listed(folder, listed, keep_root=False) == ("sub",)


def test_a_link_is_neither_deleted_nor_followed(tmp_path):
    outside = make_tree(tmp_path / "outside")
    folder = make_tree(tmp_path / "set", "a.txt")
    (folder / "link").symlink_to(outside / "a.txt")
    listed = list_files(folder, hashed=True)

    kept = delete_listed(folder, listed, keep_root=False)

    assert kept == ("link",)
    assert (outside / "a.txt").exists()


@pytest.mark.parametrize("name", ["a.txt", "sub"])
def test_what_became_a_link_to_its_own_twin_is_not_followed(tmp_path, name):
    folder = make_tree(tmp_path / "set")
    listed = list_files(folder, hashed=True)
    (folder / name).rename(tmp_path / "twin")
    (folder / name).symlink_to(tmp_path / "twin")

    kept = delete_listed(folder, listed, keep_root=False)

    assert kept == (name,)
    assert (tmp_path / "twin").exists()
    assert len(list_files(tmp_path)) == (2 if name == "a.txt" else 3)


def test_a_dataset_folder_that_became_a_link_to_the_original_is_left_alone(tmp_path):
    folder = make_tree(tmp_path / "set")
    listed = list_files(folder, hashed=True)
    folder.rename(tmp_path / "original")
    folder.symlink_to(tmp_path / "original")

    kept = delete_listed(folder, listed, keep_root=False)

    assert kept == ("a.txt", "sub/b.txt", "sub/deep/c.txt")
    assert len(list_files(tmp_path / "original")) == 3


def test_a_full_disk_is_told_with_the_file_that_did_not_fit(tmp_path, monkeypatch):
    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)

    with pytest.raises(OSError, match="No space") as caught:
        write_atomic(tmp_path / "model.pth", b"weights")

    assert caught.value.filename == str(tmp_path / "model.pth")
    assert list(tmp_path.iterdir()) == []
