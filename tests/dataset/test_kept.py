"""Kept datasets: whole or not at all, never mixed up, and refused when their record is damaged."""

from __future__ import annotations

import json
import os
import random
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import hashes_of

from nnunet_medseg.dataset.kept import (
    Keeping,
    KeptDataset,
    KeptRecord,
    find_kept,
    forget_kept,
    keep_dataset,
    list_kept,
    sweep_kept,
)
from nnunet_medseg.errors import DatasetError, UsageError
from nnunet_medseg.files import list_files, read_json, write_json

RECORD = KeptRecord(
    kept_at="2026-01-01 12:00", cases=2, options={"label": "1", "extension": None}, inventory=[]
)


def make_dataset(folder: Path) -> Path:
    """Make a folder with two patients, of which only the bytes count here."""
    for name in ("p1", "p2"):
        (folder / name).mkdir(parents=True)
        (folder / name / "img.nii.gz").write_bytes(f"image of {name}".encode())
    return folder


def make_prepared(folder: Path) -> Path:
    """Make what a run has prepared of a dataset, and a file that is none of it."""
    for name in ("prepared", "fingerprints"):
        (folder / name).mkdir(parents=True)
        (folder / name / "content").write_text(name)
    (folder / "speeds.json").write_text("{}")
    (folder / "log.txt").touch()
    return folder


def make_keeping(dataset: Path, **changes) -> Keeping:
    listed = list_files(dataset, hashed=True)
    empty = dataset.parent / "nothing prepared"
    return replace(Keeping(dataset, listed, RECORD, empty, may_link=False), **changes)


def keep(work: Path, name: str = "Liver") -> KeptDataset:
    """Keep a small dataset under a name."""
    dataset = make_dataset(work.parent / f"dataset of {name}")
    work.mkdir(exist_ok=True)
    assert keep_dataset(work, name, make_keeping(dataset))
    return find_kept(work, name)


# --- keeping and finding -----------------------------------------------------------------------


def test_a_dataset_is_found_as_it_was_kept(tmp_path):
    kept = keep(tmp_path / "work")

    assert kept.name == "Liver"
    assert (kept.record.cases, kept.record.options) == (RECORD.cases, RECORD.options)
    assert hashes_of(kept.files) == hashes_of(tmp_path / "dataset of Liver")
    assert kept.inventory == list_files(kept.files, hashed=True)
    assert kept.size_bytes > 2 * len("image of p1")


def test_what_was_prepared_of_a_dataset_is_kept_with_it_and_nothing_else_of_the_run(tmp_path):
    run = make_prepared(tmp_path / "run")
    keeping = make_keeping(make_dataset(tmp_path / "set"), prepared_in=run)

    keep_dataset(tmp_path, "Liver", keeping)

    root = find_kept(tmp_path, "Liver").root
    assert sorted(path.name for path in root.iterdir()) == [
        "files",
        "fingerprints",
        "kept.json",
        "prepared",
        "speeds.json",
    ]
    assert [path.name for path in run.iterdir()] == ["log.txt"]


def test_a_kept_dataset_is_for_its_owner_only(tmp_path):
    kept = keep(tmp_path / "work")

    for folder in (kept.root.parent, kept.root):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((kept.root / "kept.json").stat().st_mode) == 0o600


def test_files_that_are_kept_are_counted(tmp_path):
    counted = []

    keep_dataset(tmp_path, "A", make_keeping(make_dataset(tmp_path / "set")), counted.append)

    assert counted == [1, 2]


def test_a_file_name_that_is_no_utf8_is_kept(tmp_path):
    dataset = make_dataset(tmp_path / "set")
    (dataset / os.fsdecode(b"m\xfcller.txt")).touch()

    keep_dataset(tmp_path, "Liver", make_keeping(dataset))

    kept = find_kept(tmp_path, "Liver")
    assert kept.holds(list_files(dataset, hashed=True))


def test_a_file_that_has_changed_since_it_was_listed_leaves_nothing_kept(tmp_path):
    dataset = make_dataset(tmp_path / "set")
    run = make_prepared(tmp_path / "run")
    keeping = make_keeping(dataset, prepared_in=run)
    (dataset / "p2" / "img.nii.gz").write_bytes(b"another image")

    is_kept = keep_dataset(tmp_path, "Liver", keeping)

    assert not is_kept
    assert find_kept(tmp_path, "Liver") is None
    assert list((tmp_path / "datasets").iterdir()) == []
    assert (run / "prepared" / "content").exists()


def test_a_copy_does_not_follow_what_is_written_later(tmp_path):
    dataset = make_dataset(tmp_path / "set")
    keep_dataset(tmp_path, "Liver", make_keeping(dataset))

    with (dataset / "p1" / "img.nii.gz").open("ab") as stream:
        stream.write(b" and more")

    kept = find_kept(tmp_path, "Liver")
    assert (kept.files / "p1" / "img.nii.gz").read_bytes() == b"image of p1"


def test_files_that_are_deleted_after_success_take_no_room_twice(tmp_path):
    dataset = make_dataset(tmp_path / "set")

    keep_dataset(tmp_path, "Liver", make_keeping(dataset, may_link=True))

    kept = find_kept(tmp_path, "Liver")
    assert (kept.files / "p1" / "img.nii.gz").samefile(dataset / "p1" / "img.nii.gz")


def test_the_same_files_are_known_whatever_their_times(tmp_path):
    kept = keep(tmp_path / "work")
    dataset = tmp_path / "dataset of Liver"
    os.utime(dataset / "p1" / "img.nii.gz", ns=(1, 1))

    assert kept.holds(list_files(dataset, hashed=True))


@pytest.mark.parametrize("change", ["content", "name", "fewer", "more"])
def test_other_files_are_not_those_that_are_kept(tmp_path, change):
    kept = keep(tmp_path / "work")
    dataset = tmp_path / "dataset of Liver"
    path = dataset / "p1" / "img.nii.gz"
    if change == "content":
        path.write_bytes(b"image of pX")
    elif change == "name":
        path.rename(path.with_name("other.nii.gz"))
    elif change == "fewer":
        path.unlink()
    else:
        (dataset / "more.txt").touch()

    assert not kept.holds(list_files(dataset, hashed=True))


# --- several, and unfinished ones --------------------------------------------------------------


def test_kept_datasets_are_listed_by_name(tmp_path):
    for name in ("Lung", "Brain"):
        keep(tmp_path / "work", name)
    (tmp_path / "work" / "datasets" / "stray.txt").touch()
    (tmp_path / "work" / "datasets" / "empty").mkdir()

    assert [kept.name for kept in list_kept(tmp_path / "work")] == ["Brain", "Lung"]


@pytest.mark.parametrize("name", ["Liver", "no such folder"])
def test_nothing_is_kept_in_a_work_folder_without_datasets(tmp_path, name):
    assert list_kept(tmp_path / name) == ()
    assert find_kept(tmp_path / name, "Liver") is None


def make_unfinished(work: Path) -> Path:
    """Make what a kill leaves just before a dataset gets its name."""
    kept = keep(work, "Cut")
    unfinished = kept.root.with_name(".unfinished-0815")
    kept.root.rename(unfinished)
    return unfinished


def test_a_dataset_whose_keeping_was_cut_off_is_no_kept_dataset(tmp_path):
    unfinished = make_unfinished(tmp_path / "work")

    assert list_kept(tmp_path / "work") == ()
    assert find_kept(tmp_path / "work", "Cut") is None
    with pytest.raises(UsageError):
        forget_kept(tmp_path / "work", [unfinished.name])


def test_what_was_cut_off_is_swept_away_and_what_is_kept_stays(tmp_path):
    unfinished = make_unfinished(tmp_path / "work")
    keep(tmp_path / "work")

    sweep_kept(tmp_path / "work")

    assert not unfinished.exists()
    assert [kept.name for kept in list_kept(tmp_path / "work")] == ["Liver"]


@pytest.mark.parametrize("name", ["work", "missing"])
def test_a_work_folder_without_datasets_has_nothing_to_sweep(tmp_path, name):
    (tmp_path / "work").mkdir()

    sweep_kept(tmp_path / name)

    assert list((tmp_path / "work").iterdir()) == []


# --- forgetting --------------------------------------------------------------------------------


def test_a_forgotten_dataset_is_gone_with_all_that_was_prepared_and_others_stay(tmp_path):
    gone, stays = keep(tmp_path / "work", "Gone"), keep(tmp_path / "work", "Stays")
    make_prepared(gone.root)

    assert forget_kept(tmp_path / "work", ["Gone"]) == ("Gone",)

    assert list((tmp_path / "work" / "datasets").iterdir()) == [stays.root]


def test_forgetting_shared_files_leaves_those_of_the_user(tmp_path):
    dataset = make_dataset(tmp_path / "set")
    keep_dataset(tmp_path, "Liver", make_keeping(dataset, may_link=True))

    forget_kept(tmp_path, ["Liver"])

    assert (dataset / "p1" / "img.nii.gz").read_bytes() == b"image of p1"


@pytest.mark.parametrize("wrong", ["Lung", "", ".", "..", "../runs", "Liver/files", "stray.txt"])
def test_nothing_is_forgotten_when_one_name_is_not_there(tmp_path, wrong):
    kept = keep(tmp_path / "work")
    (tmp_path / "work" / "datasets" / "stray.txt").touch()
    (tmp_path / "work" / "runs").mkdir()
    before = hashes_of(tmp_path / "work")

    with pytest.raises(UsageError, match="No dataset is kept under the name") as caught:
        forget_kept(tmp_path / "work", ["Liver", wrong])

    assert caught.value.fix == "There is: Liver."
    assert hashes_of(tmp_path / "work") == before
    assert kept.files.is_dir()


def test_a_work_folder_without_datasets_has_none_to_forget(tmp_path):
    with pytest.raises(UsageError) as caught:
        forget_kept(tmp_path, ["Liver"])

    assert caught.value.fix == "There is: none."


def test_a_name_that_is_given_twice_is_forgotten_once(tmp_path):
    keep(tmp_path / "work")

    assert forget_kept(tmp_path / "work", ["Liver", "Liver"]) == ("Liver",)


# --- damaged records ---------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = ["format", "kept_at", "cases", "options", "inventory"]
FILE_FIELDS = ["path", "size_bytes", "modified_ns", "sha256", "is_link"]


def use(work: Path) -> None:
    """Do with a kept dataset what commands do; a damaged one may only be refused."""
    try:
        kept = find_kept(work, "Liver")
    except DatasetError:
        return
    assert kept.holds(list_files(kept.files, hashed=True)) in {True, False}
    assert set(kept.record.options) <= {"label", "image_type", "extension", "layout"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"cases": 1' + b"0" * 5000 + b"}",
    ],
    ids=lambda content: repr(content[:20]),
)
def test_a_damaged_record_is_refused_with_the_command_that_removes_it(tmp_path, content):
    kept = keep(tmp_path / "work")
    (kept.root / "kept.json").write_bytes(content)

    with pytest.raises(DatasetError, match="cannot be read") as caught:
        find_kept(tmp_path / "work", "Liver")

    assert "medseg forget Liver" in caught.value.fix
    assert forget_kept(tmp_path / "work", ["Liver"]) == ("Liver",)


def test_a_damaged_record_hides_no_other_dataset_from_the_list(tmp_path):
    for name in ("Brain", "Liver", "Lung"):
        keep(tmp_path / "work", name)
    (tmp_path / "work" / "datasets" / "Liver" / "kept.json").write_text("{")
    unreadable = []

    found = list_kept(tmp_path / "work", unreadable.append)

    assert [kept.name for kept in found] == ["Brain", "Lung"]
    assert [error.fix.split()[-1] for error in unreadable] == ["Liver"]


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"format": None},
        {"cases": "many"},
        {"options": {"minutes": "5"}},
        {"options": {"label": ["1"]}},
        {"inventory": [{"name": "p1"}]},
        {"inventory": [{"path": "p1"}]},
        {"inventory": [{"path": ["p1"], "size_bytes": 1, "modified_ns": 1}]},
        {"inventory": {}},
    ],
    ids=str,
)
def test_a_record_of_another_kind_is_refused(tmp_path, change):
    kept = keep(tmp_path / "work")
    write_json(kept.root / "kept.json", read_json(kept.root / "kept.json") | change)

    with pytest.raises(DatasetError, match="cannot be read by this version"):
        find_kept(tmp_path / "work", "Liver")


def test_a_record_of_any_length_is_read_or_refused(tmp_path):
    kept = keep(tmp_path / "work")
    path = kept.root / "kept.json"
    whole = path.read_bytes()
    rng = random.Random(0)

    for _ in range(200):
        content = bytearray(whole)
        content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(bytes(content[: rng.randrange(1, len(content) + 1)]))
        use(tmp_path / "work")


@settings(max_examples=150, database=None)
@given(field=st.sampled_from(FIELDS), value=JSON)
def test_no_value_of_a_record_is_too_strange(tmp_path_factory, field, value):
    work = tmp_path_factory.mktemp("any") / "work"
    path = keep(work).root / "kept.json"

    path.write_text(json.dumps(read_json(path) | {field: value}))

    use(work)


@settings(max_examples=150, database=None)
@given(change=st.dictionaries(st.sampled_from(FILE_FIELDS) | st.text(max_size=3), JSON, min_size=1))
def test_no_value_of_a_file_in_a_record_is_too_strange(tmp_path_factory, change):
    work = tmp_path_factory.mktemp("any") / "work"
    path = keep(work).root / "kept.json"
    content = read_json(path)

    content["inventory"][0] |= change
    path.write_text(json.dumps(content))

    use(work)
