"""`medseg datasets` and `medseg forget`, on datasets that are only bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_medseg import run_folder
from nnunet_medseg.cli.main import main
from nnunet_medseg.dataset.kept import Keeping, KeptRecord, keep_dataset
from nnunet_medseg.errors import ResumeError, UsageError
from nnunet_medseg.files import list_files
from nnunet_medseg.workflows.kept import datasets, forget

USAGE = 2


@pytest.fixture
def work(tmp_path: Path) -> Path:
    run_folder.claim(tmp_path / "work")
    return tmp_path / "work"


def keep(work: Path, name: str) -> Path:
    """Keep a dataset of one file; return its folder."""
    source = work.parent / f"source of {name}"
    for folder in (source, work):
        folder.mkdir(exist_ok=True)
    (source / "img.nii.gz").write_bytes(b"image" * 200_000)
    record = KeptRecord(kept_at="2026-01-01 12:00", cases=7, options={}, inventory=[])
    listed = list_files(source, hashed=True)
    assert keep_dataset(work, name, Keeping(source, listed, record, source, may_link=False))
    return work / "datasets" / name


def test_kept_datasets_are_listed_by_name(work):
    for name in ("Lung", "Brain"):
        keep(work, name)

    assert [kept.name for kept in datasets(work)] == ["Brain", "Lung"]


def test_a_work_folder_that_is_not_there_keeps_nothing_and_stays_away(tmp_path):
    assert datasets(tmp_path / "missing") == ()
    assert not (tmp_path / "missing").exists()


def test_forgetting_deletes_what_is_named_and_nothing_else(work):
    gone, stays = keep(work, "Gone"), keep(work, "Stays")

    assert forget(work, ["Gone"]) == ("Gone",)

    assert not gone.exists()
    assert stays.exists()


def test_forgetting_also_sweeps_away_what_was_cut_off(work):
    unfinished = keep(work, "Cut").rename(work / "datasets" / ".unfinished-0815")
    keep(work, "Liver")

    forget(work, ["Liver"])

    assert not unfinished.exists()


def test_a_name_that_is_not_there_is_refused_and_nothing_deleted(work):
    kept = keep(work, "Liver")

    with pytest.raises(UsageError, match="under the name Lung"):
        forget(work, ["Liver", "Lung"])

    assert kept.exists()


def test_nothing_is_forgotten_while_a_command_is_at_work(work, monkeypatch):
    monkeypatch.setattr(run_folder, "LOCK_WAIT_S", 0.1)
    kept = keep(work, "Liver")

    with run_folder.lock(work), pytest.raises(ResumeError, match="at work"):
        forget(work, ["Liver"])

    assert kept.exists()


# --- commands ----------------------------------------------------------------------------------


def test_the_list_shows_name_cases_size_and_date(work, capsys):
    keep(work, "Liver")

    status = main(["datasets", "--work_dir", str(work)])

    shown = capsys.readouterr().out
    assert status == 0
    for word in ("Liver", "7", "1 MB", "2026-01-01 12:00", "medseg forget NAME"):
        assert word in shown


def test_an_empty_list_says_how_to_keep_a_dataset(work, capsys):
    status = main(["datasets", "--work_dir", str(work)])

    assert status == 0
    assert "--keep_dataset" in capsys.readouterr().out


def test_a_forgotten_dataset_is_named(work, capsys):
    keep(work, "Liver")

    status = main(["forget", "Liver", "--work_dir", str(work)])

    assert status == 0
    assert "forgot Liver" in capsys.readouterr().out
    assert datasets(work) == ()


def test_forgetting_what_is_not_there_names_what_is(work, capsys):
    keep(work, "Liver")

    status = main(["forget", "Lung", "--work_dir", str(work)])

    assert status == USAGE
    assert "There is: Liver" in capsys.readouterr().err


def test_a_damaged_dataset_is_named_with_the_command_that_removes_it(work, capsys):
    keep(work, "Brain")
    kept = keep(work, "Liver")
    (kept / "kept.json").write_text("{")

    listed = main(["datasets", "--work_dir", str(work)])
    forgotten = main(["forget", "Liver", "--work_dir", str(work)])

    shown = capsys.readouterr()
    words = " ".join((shown.out + shown.err).split())
    assert (listed, forgotten) == (0, 0)
    assert "medseg forget Liver" in words
    assert "Brain" in words
    assert "Traceback" not in words


def test_a_dataset_that_an_unfinished_run_needs_is_not_forgotten(work):
    kept = keep(work, "Liver")
    run = run_folder.RunFolder(work / "runs" / "Another")
    journal = run_folder.Journal(
        program_version="0", options={}, dataset_folder=str(kept / "files")
    )
    run.create(journal)

    with pytest.raises(ResumeError, match="Another"):
        forget(work, ["Liver"])

    assert kept.exists()
