"""What is known of files that were read before: of the same files only, and never mixed up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from makers import make_image, make_label, write_patients

from nnunet_medseg.dataset import inspected
from nnunet_medseg.dataset.case import Case
from nnunet_medseg.dataset.checks import inspect_cases
from nnunet_medseg.dataset.inspected import InspectionRecord
from nnunet_medseg.dataset.intake import read_dataset
from nnunet_medseg.files import hash_file
from nnunet_medseg.volume import write_volume


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_patients(tmp_path / "set", cases=3)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list that the names of the cases go to whose files are read."""
    names: list[str] = []

    def inspect(cases, on_case):
        names.extend(case.name for case in cases)
        return inspect_cases(cases, on_case)

    monkeypatch.setattr(inspected, "inspect_cases", inspect)
    return names


def cases_of(folder: Path) -> tuple[Case, ...]:
    return read_dataset(folder, None).cases


def inspect(folder: Path, record: Path, **options):
    """Inspect the cases of a dataset as a command of its own does."""
    hashes = {path: hash_file(path) for path in folder.rglob("*.nii.gz")}
    return InspectionRecord(record, hashes).inspect(cases_of(folder), **options)


def test_cases_are_read_once_and_known_as_they_were_found(dataset, tmp_path, read):
    first = inspect(dataset, tmp_path / "record.json")

    second = inspect(dataset, tmp_path / "record.json")

    assert read == ["case_0001", "case_0002", "case_0003"]
    assert second == first == inspect_cases(cases_of(dataset))


@pytest.mark.parametrize("name", ["img.nii.gz", "train.nii.gz"])
def test_a_case_of_which_a_file_has_changed_is_read_again(dataset, tmp_path, read, name):
    inspect(dataset, tmp_path / "record.json")
    read.clear()
    changed = make_image(77) if name.startswith("img") else make_label((2,))
    write_volume(dataset / "p2" / name, changed)

    found = inspect(dataset, tmp_path / "record.json")

    assert read == ["case_0002"]
    assert found == inspect_cases(cases_of(dataset))


def test_a_case_that_is_called_otherwise_now_is_known_under_its_new_name(dataset, tmp_path, read):
    inspect(dataset, tmp_path / "record.json")
    read.clear()
    (dataset / "p1").rename(dataset / "p9")

    found = inspect(dataset, tmp_path / "record.json")

    assert read == []
    assert found == inspect_cases(cases_of(dataset))


def test_the_same_files_in_two_cases_mix_up_no_other_case(dataset, tmp_path):
    for name in ("img.nii.gz", "train.nii.gz"):
        (dataset / "p2" / name).write_bytes((dataset / "p1" / name).read_bytes())
    write_volume(dataset / "p3" / "train.nii.gz", make_label((5,)))
    expected = inspect_cases(cases_of(dataset))

    first = inspect(dataset, tmp_path / "record.json")
    second = inspect(dataset, tmp_path / "record.json")

    assert first == expected
    assert second == expected


def test_a_case_with_an_error_is_read_every_time(dataset, tmp_path, read):
    (dataset / "p2" / "img.nii.gz").write_bytes(b"no image")
    inspect(dataset, tmp_path / "record.json")
    read.clear()

    found = inspect(dataset, tmp_path / "record.json")

    assert read == ["case_0002"]
    assert found[1].facts is None


def test_a_file_without_a_hash_is_read_every_time(dataset, tmp_path, read):
    for _ in range(2):
        InspectionRecord(tmp_path / "record.json", {}).inspect(cases_of(dataset))

    assert len(read) == 6


def test_a_record_of_another_version_is_an_empty_one(dataset, tmp_path, read):
    (tmp_path / "record.json").write_text('{"format": 99}')

    found = inspect(dataset, tmp_path / "record.json")

    assert len(read) == 3
    assert found == inspect_cases(cases_of(dataset))


def test_cases_that_are_done_are_counted(dataset, tmp_path):
    first, second = [], []

    inspect(dataset, tmp_path / "record.json", on_case=first.append)
    write_volume(dataset / "p3" / "img.nii.gz", make_image(77))
    inspect(dataset, tmp_path / "record.json", on_case=second.append)

    assert first == [1, 2, 3]
    assert second[-1] == 3


def test_the_record_is_for_its_owner_only(dataset, tmp_path):
    inspect(dataset, tmp_path / "record.json")

    assert (tmp_path / "record.json").stat().st_mode & 0o077 == 0


def test_a_file_that_is_called_otherwise_now_is_read_again(dataset, tmp_path, read):
    write_volume(dataset / "p2" / "train.nii.gz", make_label(dtype=np.float32))
    inspect(dataset, tmp_path / "record.json")
    read.clear()
    (dataset / "p2" / "train.nii.gz").rename(dataset / "p2" / "label.nii.gz")

    found = inspect(dataset, tmp_path / "record.json")

    assert read == ["case_0002"]
    assert found[1].findings[0].message.startswith("label.nii.gz")
