"""Writing whole files only, and deleting only what was listed and is unchanged."""

from __future__ import annotations

import errno
import json
import os
import stat

import pytest

from nnunet_medseg.files import (
    ListedFile,
    copy_listed,
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


def test_a_file_that_is_known_by_size_and_time_is_not_read_again(tmp_path, monkeypatch):
    make_tree(tmp_path)
    known = list_files(tmp_path, hashed=True)
    os.utime(tmp_path / "a.txt", ns=(1, 1))
    (tmp_path / "sub" / "b.txt").write_text("longer than it was before")
    make_tree(tmp_path, "new.txt")
    read = []
    monkeypatch.setattr(
        "nnunet_medseg.files.hash_file", lambda path: read.append(path.name) or hash_file(path)
    )

    listed = list_files(tmp_path, hashed=True, known=known)

    assert sorted(read) == ["a.txt", "b.txt", "new.txt"]
    assert all(item.sha256 == hash_file(tmp_path / item.path) for item in listed)


def test_a_file_that_is_known_without_a_hash_is_read(tmp_path):
    make_tree(tmp_path)

    listed = list_files(tmp_path, hashed=True, known=list_files(tmp_path))

    assert all(item.sha256 == hash_file(tmp_path / item.path) for item in listed)


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


@pytest.mark.parametrize("keep_root", [True, False])
def test_a_dataset_folder_that_became_a_link_to_the_original_is_left_alone(tmp_path, keep_root):
    folder = make_tree(tmp_path / "set")
    listed = list_files(folder, hashed=True)
    folder.rename(tmp_path / "original")
    folder.symlink_to(tmp_path / "original")

    kept = delete_listed(folder, listed, keep_root=keep_root)

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


# --- copies ------------------------------------------------------------------------------------


def copy_tree(folder, target, *, listed=None, may_link=False, on_file=lambda _: None):
    """Copy all files of a folder as they are now, unless they were listed before."""
    listed = list_files(folder, hashed=True) if listed is None else listed
    return copy_listed(folder, listed, target, may_link=may_link, on_file=on_file)


@pytest.mark.parametrize("may_link", [False, True])
def test_listed_files_are_copied_with_their_folders_and_times(tmp_path, may_link):
    folder = make_tree(tmp_path / "set")
    os.utime(folder / "a.txt", ns=(10**18, 10**18))
    counted = []

    is_copied = copy_tree(folder, tmp_path / "copy", may_link=may_link, on_file=counted.append)

    assert is_copied
    assert list_files(tmp_path / "copy", hashed=True) == list_files(folder, hashed=True)
    assert counted == [1, 2, 3]


def test_a_copy_does_not_follow_what_is_written_later(tmp_path):
    folder = make_tree(tmp_path / "set", "a.txt")
    copy_tree(folder, tmp_path / "copy")

    with (folder / "a.txt").open("a") as stream:
        stream.write(" and more")

    assert (tmp_path / "copy" / "a.txt").read_text() == "content of a.txt"


def test_files_that_will_be_deleted_are_shared_with_their_copies(tmp_path):
    folder = make_tree(tmp_path / "set", "a.txt")

    copy_tree(folder, tmp_path / "copy", may_link=True)

    assert (tmp_path / "copy" / "a.txt").samefile(folder / "a.txt")


def test_where_the_disk_shares_no_files_they_are_copied(tmp_path, monkeypatch):
    folder = make_tree(tmp_path / "set", "a.txt")
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("other disk")))

    assert copy_tree(folder, tmp_path / "copy", may_link=True)

    assert (tmp_path / "copy" / "a.txt").read_text() == "content of a.txt"
    assert not (tmp_path / "copy" / "a.txt").samefile(folder / "a.txt")


def change_content(path):
    """Write as many other bytes at the same time."""
    times = path.stat()
    path.write_bytes(path.read_bytes().upper())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def become_a_link(path):
    path.rename(path.with_name("twin"))
    path.symlink_to(path.with_name("twin"))


@pytest.mark.parametrize("may_link", [False, True])
@pytest.mark.parametrize(
    ("change", "name"),
    [
        (os.utime, "sub/b.txt"),
        (change_content, "sub/b.txt"),
        (os.remove, "sub/b.txt"),
        (become_a_link, "sub/b.txt"),
        (become_a_link, "sub"),
    ],
)
def test_a_file_that_is_not_what_it_was_ends_the_copying(tmp_path, change, name, may_link):
    folder = make_tree(tmp_path / "set")
    listed = list_files(folder, hashed=True)
    change(folder / name)

    is_copied = copy_tree(folder, tmp_path / "copy", listed=listed, may_link=may_link)

    assert not is_copied
    assert [item.path for item in list_files(tmp_path / "copy")] == ["a.txt"]


def test_a_file_that_was_listed_without_a_hash_is_not_copied(tmp_path):
    folder = make_tree(tmp_path / "set", "a.txt")

    assert not copy_tree(folder, tmp_path / "copy", listed=list_files(folder))


def test_links_are_left_out_of_a_copy_and_new_files_too(tmp_path):
    folder = make_tree(tmp_path / "set", "a.txt")
    (folder / "to_file").symlink_to(folder / "a.txt")
    (folder / "to_folder").symlink_to(make_tree(tmp_path / "outside"))
    listed = list_files(folder, hashed=True)
    make_tree(folder, "new.txt")

    assert copy_tree(folder, tmp_path / "copy", listed=listed)

    assert [item.path for item in list_files(tmp_path / "copy")] == ["a.txt"]


def test_nothing_is_copied_into_a_folder_that_is_there(tmp_path):
    folder = make_tree(tmp_path / "set", "a.txt")
    (tmp_path / "copy").mkdir()

    with pytest.raises(FileExistsError):
        copy_tree(folder, tmp_path / "copy")
