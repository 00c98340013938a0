"""A command that finds an unfinished run of its name."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from nnunet_medseg.errors import ResumeError
from nnunet_medseg.files import list_files, write_json
from nnunet_medseg.run_folder import RunFolder
from nnunet_medseg.workflows.options import TrainOptions
from nnunet_medseg.workflows.train import _open

ASKED = TrainOptions(dataset_name="M", minutes=5)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "work" / "runs" / "M")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "Data"
    path.mkdir(parents=True)
    (path / "img.nii.gz").write_bytes(b"image")
    return path


def checkpoint_of(folder: RunFolder) -> Path:
    return folder.training("training").checkpoint_file


def begin(folder: RunFolder, dataset: Path, *, trained: bool) -> None:
    """Make a run whose check is finished, and which may have a checkpoint."""
    _open(folder, dataset, ASKED, resume=False)
    listed = list_files(dataset, hashed=True)
    write_json(folder.inventory_file, [item.to_json() for item in listed])
    with folder.recording("check"):
        pass
    if trained:
        checkpoint_of(folder).parent.mkdir()
        zipfile.ZipFile(checkpoint_of(folder), "w").close()


def test_the_same_command_goes_on(folder, dataset):
    begin(folder, dataset, trained=True)

    options = _open(folder, dataset, ASKED, resume=False)

    assert options == ASKED
    assert checkpoint_of(folder).exists()


def test_other_options_are_asked_about_when_training_would_be_lost(folder, dataset):
    begin(folder, dataset, trained=True)

    with pytest.raises(ResumeError, match="minutes: 5 then, 7 now"):
        _open(folder, dataset, TrainOptions(dataset_name="M", minutes=7), resume=False)

    assert checkpoint_of(folder).exists()


def test_resume_goes_on_as_the_run_began(folder, dataset):
    begin(folder, dataset, trained=True)

    options = _open(folder, dataset, TrainOptions(dataset_name="M", minutes=7), resume=True)

    assert options.minutes == 5


def test_other_files_are_asked_about_even_with_resume(folder, dataset):
    begin(folder, dataset, trained=True)
    (dataset / "img.nii.gz").write_bytes(b"another image")

    with pytest.raises(ResumeError, match=r"img\.nii\.gz"):
        _open(folder, dataset, ASKED, resume=True)


def test_before_any_training_another_time_keeps_what_is_prepared(folder, dataset):
    begin(folder, dataset, trained=False)

    options = _open(folder, dataset, TrainOptions(dataset_name="M", minutes=7), resume=False)

    assert options.minutes == 7
    assert list(folder.finished_stages()) == ["check"]
    assert folder.journal().options["minutes"] == 7


def test_before_any_training_another_label_starts_over_and_says_so(folder, dataset, capsys):
    begin(folder, dataset, trained=False)

    options = _open(folder, dataset, TrainOptions(dataset_name="M", label="2"), resume=False)

    assert options.label == "2"
    assert folder.finished_stages() == {}
    assert "label: NONE then, 2 now" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 99}', b"\xff\xfe"])
def test_a_damaged_journal_is_explained_when_training_would_be_lost(folder, dataset, content):
    begin(folder, dataset, trained=True)
    folder.journal_file.write_bytes(content)

    with pytest.raises(ResumeError, match="--fresh"):
        _open(folder, dataset, ASKED, resume=False)

    assert checkpoint_of(folder).exists()


@pytest.mark.parametrize("name", ["check.json", "trainings/training/checkpoint.pth"])
@pytest.mark.parametrize("is_trained", [True, False])
def test_a_damaged_file_of_the_run_is_named_or_the_run_starts_over(
    folder, dataset, name, is_trained
):
    begin(folder, dataset, trained=is_trained)
    damaged = folder.root / name
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(b'{"cases": [')

    if folder.has_checkpoint():
        with pytest.raises(ResumeError, match=f"{name} of the run: damaged") as refused:
            _open(folder, dataset, ASKED, resume=True)
        assert "--fresh" in refused.value.fix
    else:
        _open(folder, dataset, ASKED, resume=False)
        assert folder.finished_stages() == {}


def test_before_any_training_another_time_is_planned_for_again(folder, dataset):
    begin(folder, dataset, trained=False)
    for stage in ("plan", "preprocess"):
        with folder.recording(stage):
            pass

    _open(folder, dataset, TrainOptions(dataset_name="M", minutes=7), resume=False)

    assert list(folder.finished_stages()) == ["check"]


def test_a_variant_that_failed_is_trained_again_with_other_minutes(folder, dataset):
    begin(folder, dataset, trained=False)
    for stage in ("plan", "preprocess", "train variant 1", "evaluate variant 1"):
        with folder.recording(stage):
            pass
    failed = folder.training("variant_1").failed_file
    failed.parent.mkdir()
    write_json(failed, {"problem": "too short"})

    _open(folder, dataset, TrainOptions(dataset_name="M", minutes=7), resume=False)

    assert list(folder.finished_stages()) == ["check"]
    assert not failed.exists()


def test_what_resume_does_not_take_over_is_named(folder, dataset, capsys):
    begin(folder, dataset, trained=True)

    asked = TrainOptions(dataset_name="M", minutes=5, keep_dataset=True)
    _open(folder, dataset, asked, resume=True)

    assert "keep_dataset: False then, True now" in capsys.readouterr().out
