"""Delivery and cleaning, and what happens when they are cut off."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnunet_medseg.dataset.checked import Checked, save_checked
from nnunet_medseg.dataset.kept import find_kept
from nnunet_medseg.errors import DatasetError
from nnunet_medseg.files import list_files, write_json
from nnunet_medseg.hardware import Device
from nnunet_medseg.run_folder import Journal, RunFolder
from nnunet_medseg.workflows.clean import discard_run
from nnunet_medseg.workflows.options import Folders, TrainOptions
from nnunet_medseg.workflows.stage import Run
from nnunet_medseg.workflows.stages import checking, delivery


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
    device = Device("cpu", 0, "CPU", False)
    run = Run(folder, dataset, folders, options, device, store=folder.root)
    delivery._name_hidden(run)
    (delivery._hidden(run) / "model").mkdir(parents=True)
    facts = SimpleNamespace(ended_early="", other_ended_early="", others_failed=0, diverged_folds=0)
    manifest = SimpleNamespace(training=facts)
    monkeypatch.setattr(delivery, "read_manifest", lambda path: manifest if path.is_dir() else None)
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


@pytest.mark.parametrize("place", ["in", "in/wrapped", "in/wrapped/Data"])
def test_a_dataset_behind_a_link_to_the_original_is_left(run, tmp_path, capsys, place):
    (tmp_path / place).rename(tmp_path / "original")
    (tmp_path / place).symlink_to(tmp_path / "original", target_is_directory=True)
    delivery.deliver(run)

    delivery.clean(run)

    assert files_in(run.dataset_folder) == {"Patient/img.nii.gz", "notes.txt"}
    assert "behind a link" in capsys.readouterr().out


def test_a_link_above_the_input_folder_changes_nothing(run, tmp_path):
    linked = tmp_path / "elsewhere"
    linked.symlink_to(tmp_path, target_is_directory=True)
    folders = replace(run.folders, input=linked / "in")
    run = replace(run, folders=folders, dataset_folder=folders.input / "wrapped" / "Data")
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


# --- keeping -----------------------------------------------------------------------------------


def asked_to_keep(run: Run, *, delete_input: bool = True) -> Run:
    """Return the run as one that keeps its dataset; its check has found no case."""
    save_checked(run.folder.check_file, Checked((), (), (), (), {}))
    return replace(run, options=replace(run.options, keep_dataset=True, delete_input=delete_input))


def files_in(folder: Path) -> set[str]:
    return {item.path for item in list_files(folder)} if folder.is_dir() else set()


@pytest.mark.parametrize(
    "missing",
    [
        {"ended_early": "Ctrl-C"},
        {"other_ended_early": "the deadline"},
        {"others_failed": 1},
        {"diverged_folds": 1},
    ],
    ids=["interrupted", "another interrupted", "another failed", "a fold diverged"],
)
def test_the_copy_stays_when_part_of_the_training_is_missing(run, monkeypatch, capsys, missing):
    delivery.deliver(run)
    whole = {"ended_early": "", "other_ended_early": "", "others_failed": 0, "diverged_folds": 0}
    facts = SimpleNamespace(**(whole | missing))
    monkeypatch.setattr(delivery, "read_manifest", lambda _: SimpleNamespace(training=facts))

    delivery.clean(run)

    assert (run.dataset_folder / "Patient" / "img.nii.gz").exists()
    assert "the copy was left" in capsys.readouterr().out


def test_a_dataset_that_is_kept_leaves_the_input_folder(run, capsys):
    run = asked_to_keep(run)
    delivery.deliver(run)

    delivery.keep(run)
    delivery.clean(run)

    kept = find_kept(run.folders.work, "M")
    assert files_in(kept.files) == {"Patient/img.nii.gz", "notes.txt"}
    assert kept.record.options == {
        "label": "NONE",
        "image_type": "NONE",
        "extension": None,
        "layout": "auto",
    }
    assert files_in(run.folders.input) == set()
    assert "-d M with an empty input folder" in " ".join(capsys.readouterr().out.split())


def test_a_dataset_that_is_kept_and_not_deleted_is_a_copy(run):
    run = asked_to_keep(run, delete_input=False)
    delivery.deliver(run)

    delivery.keep(run)
    delivery.clean(run)

    kept = find_kept(run.folders.work, "M")
    assert files_in(run.dataset_folder) == files_in(kept.files)
    assert not (kept.files / "notes.txt").samefile(run.dataset_folder / "notes.txt")


def test_a_dataset_that_nobody_asked_to_keep_is_not_kept(run):
    delivery.keep(run)

    assert find_kept(run.folders.work, "M") is None


def test_keeping_that_was_cut_off_before_the_journal_is_not_done_twice(run, capsys):
    run = asked_to_keep(run)
    delivery.keep(run)
    before = find_kept(run.folders.work, "M").record

    delivery.keep(run)

    assert "kept already" in capsys.readouterr().out
    assert find_kept(run.folders.work, "M").record == before


def test_a_dataset_that_could_not_be_kept_is_not_deleted_either(run, capsys):
    run = asked_to_keep(run)
    delivery.deliver(run)
    (run.dataset_folder / "notes.txt").write_bytes(b"NOTES")

    delivery.keep(run)
    delivery.clean(run)

    assert find_kept(run.folders.work, "M") is None
    assert files_in(run.dataset_folder) == {"Patient/img.nii.gz", "notes.txt"}
    assert "not kept" in capsys.readouterr().out


def keep_by_hand(run: Run) -> None:
    keeping_run = asked_to_keep(run, delete_input=False)
    delivery.keep(keeping_run)


def test_the_kept_dataset_itself_is_never_deleted_by_a_training_on_it(run):
    keep_by_hand(run)
    kept = find_kept(run.folders.work, "M")
    on_kept = replace(run, dataset_folder=kept.files, store=kept.root)
    delivery.deliver(on_kept)

    delivery.keep(on_kept)
    delivery.clean(on_kept)

    assert files_in(kept.files) == {"Patient/img.nii.gz", "notes.txt"}


def test_the_kept_dataset_is_known_by_any_path_that_leads_to_it(run, tmp_path):
    keep_by_hand(run)
    kept = find_kept(run.folders.work, "M")
    other_way = tmp_path / "other way"
    other_way.symlink_to(kept.root, target_is_directory=True)
    on_kept = replace(asked_to_keep(run), dataset_folder=other_way / "files", store=kept.root)
    delivery.deliver(on_kept)

    delivery.clean(on_kept)

    assert files_in(kept.files) == {"Patient/img.nii.gz", "notes.txt"}


def test_another_dataset_is_not_kept_under_a_name_that_is_taken(run):
    keep_by_hand(run)
    (run.dataset_folder / "notes.txt").write_bytes(b"NOTES")
    listed = list_files(run.dataset_folder, hashed=True)

    with pytest.raises(DatasetError, match="Another dataset is kept under the name M") as caught:
        checking._require_free_name(asked_to_keep(run), listed)

    assert "medseg forget M" in caught.value.fix


def test_the_same_dataset_may_be_trained_on_again_under_its_name(run):
    keep_by_hand(run)
    listed = list_files(run.dataset_folder, hashed=True)

    checking._require_free_name(asked_to_keep(run), listed)


def test_a_damaged_kept_dataset_stands_only_in_the_way_of_keeping(run):
    keep_by_hand(run)
    (run.folders.work / "datasets" / "M" / "kept.json").write_text("{")

    checking._require_free_name(run, ())
    with pytest.raises(DatasetError, match="cannot be read"):
        checking._require_free_name(asked_to_keep(run), ())
