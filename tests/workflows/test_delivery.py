"""Delivery and cleaning, and what happens when they are cut off."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnunet_medseg.files import list_files, write_json
from nnunet_medseg.hardware import Device
from nnunet_medseg.run_folder import Journal, RunFolder
from nnunet_medseg.workflows.clean import discard_run
from nnunet_medseg.workflows.options import Folders, TrainOptions
from nnunet_medseg.workflows.stage import Run
from nnunet_medseg.workflows.stages import delivery


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that has built its model folder, on a dataset of two files."""
    folders = Folders(tmp_path / "in", tmp_path / "out", tmp_path / "work")
    dataset = folders.input / "wrapped" / "Data"
    (dataset / "Patient").mkdir(parents=True)
    (dataset / "Patient" / "img.nii.gz").write_bytes(b"image")
    (dataset / "notes.txt").write_bytes(b"notes")
    folders.output.mkdir()
    options = TrainOptions(dataset_name="M", delete_input=True)
    folder = RunFolder(folders.work / "runs" / "M")
    folder.create(
        Journal(program_version="0", options=options.to_json(), dataset_folder=str(dataset))
    )
    listed = list_files(dataset, hashed=True)
    write_json(folder.inventory_file, [item.to_json() for item in listed])
    run = Run(folder, dataset, folders, options, Device("cpu", 0, "CPU", False))
    delivery._name_hidden(run)
    (delivery._hidden(run) / "model").mkdir(parents=True)
    monkeypatch.setattr(delivery, "read_manifest", lambda path: path.is_dir() or None)
    return run


def test_a_model_is_renamed_into_place_and_never_over_another(run):
    for name in ("M", "M_2"):
        (run.folders.output / name).mkdir()
        (run.folders.output / name / "mine").touch()

    delivery.deliver(run)

    assert (run.folders.output / "M_3" / "model").is_dir()
    assert (run.folders.output / "M" / "mine").exists()
    assert not [path for path in run.folders.output.iterdir() if path.name.startswith(".")]


def test_a_delivery_that_was_cut_off_after_the_renaming_is_not_done_twice(run):
    delivery.deliver(run)

    delivery.deliver(run)

    assert [path.name for path in run.folders.output.iterdir()] == ["M"]
    assert delivery.delivered_folder(run.folder) == run.folders.output / "M"


def test_the_copy_is_deleted_with_the_folders_it_leaves_empty(run):
    delivery.deliver(run)

    delivery.clean(run)

    assert list(run.folders.input.iterdir()) == []


def test_files_that_came_or_changed_are_kept_and_named(run, capsys):
    (run.dataset_folder / "Patient" / "new.nii.gz").write_bytes(b"came later")
    (run.dataset_folder / "notes.txt").write_bytes(b"NOTES")
    (run.folders.input / "beside").mkdir()
    delivery.deliver(run)

    delivery.clean(run)

    left = {str(item.path) for item in list_files(run.dataset_folder)}
    shown = capsys.readouterr().out
    assert left == {"Patient/new.nii.gz", "notes.txt"}
    assert "Patient/new.nii.gz" in shown
    assert "beside" in shown


def test_a_file_of_the_same_size_and_time_but_other_content_is_kept(run):
    path = run.dataset_folder / "notes.txt"
    before = path.stat()
    path.write_bytes(b"stone")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    delivery.deliver(run)

    delivery.clean(run)

    assert path.read_bytes() == b"stone"


def test_nothing_is_deleted_when_the_delivered_model_is_gone(run):
    delivery.deliver(run)
    (run.folders.output / "M" / "model").rmdir()

    with pytest.raises(Exception, match="gone"):
        delivery.clean(run)

    assert (run.dataset_folder / "Patient" / "img.nii.gz").exists()


def test_discarding_a_run_removes_what_it_had_begun_to_build(run):
    discard_run(run.folder)

    assert list(run.folders.output.iterdir()) == []
    assert not run.folder.root.exists()
    assert (run.dataset_folder / "notes.txt").exists()


def test_discarding_a_run_keeps_what_it_has_delivered(run):
    delivery.deliver(run)

    discard_run(run.folder)

    assert (run.folders.output / "M" / "model").is_dir()
