"""The folder of a run: journal, lock and rights."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from nnunet_medseg import run_folder
from nnunet_medseg.errors import FolderError, ResumeError
from nnunet_medseg.files import read_json, write_json
from nnunet_medseg.run_folder import (
    Journal,
    RunFolder,
    find_runs,
    is_locked,
    lock,
    locked_at,
    require_writable,
    sweep,
)
from nnunet_medseg.workflows import compare, predict

HOLDER = """
import sys
from pathlib import Path
from nnunet_medseg.run_folder import lock, sweep

with lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def make_run(work_folder, name="Liver") -> RunFolder:
    """Make a run without finished stages."""
    run = RunFolder(work_folder / "runs" / name)
    run.create(Journal(program_version="0.1.0", options={"minutes": 60}, dataset_folder="/data"))
    return run


def rights(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def held_elsewhere(work_folder):
    """Hold the lock in another process while the block runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(work_folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_new_run_has_no_finished_stages(tmp_path):
    run = make_run(tmp_path)

    assert run.finished_stages() == {}
    assert run.journal().options == {"minutes": 60}


def test_finished_stages_are_remembered_in_order_with_their_time(tmp_path):
    run = make_run(tmp_path)

    for stage in ("check", "convert"):
        with run.recording(stage):
            pass

    again = RunFolder(run.root).finished_stages()
    assert list(again) == ["check", "convert"]
    assert all(seconds >= 0 for seconds in again.values())


def test_a_forgotten_stage_runs_again(tmp_path):
    run = make_run(tmp_path)
    for stage in ("check", "bundle"):
        with run.recording(stage):
            pass

    run.forget("bundle")

    assert list(run.finished_stages()) == ["check"]


def test_a_stage_that_failed_is_not_in_the_journal(tmp_path):
    run = make_run(tmp_path)

    with pytest.raises(RuntimeError), run.recording("check"):
        raise RuntimeError

    assert run.finished_stages() == {}


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """A clock in seconds that the test turns by hand."""
    hands = [1000.0]
    monkeypatch.setattr(run_folder.time, "monotonic", lambda: hands[0])
    return hands


def fail_after(run: RunFolder, clock: list[float], stage: str, seconds: float) -> None:
    """Let a stage break off with Ctrl-C after some seconds."""

    def work() -> None:
        clock[0] += seconds
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), run.recording(stage):
        work()


def test_attempts_that_broke_off_count_in_the_time_of_their_stage_only(tmp_path, clock):
    run = make_run(tmp_path)
    fail_after(run, clock, "train", 3000)
    fail_after(RunFolder(run.root), clock, "train", 20)
    clock[0] = 0.0  # another process

    for stage, seconds in (("train", 600), ("evaluate", 5)):
        with RunFolder(run.root).recording(stage):
            clock[0] += seconds

    assert run.finished_stages() == {"train": 3620, "evaluate": 5}


def test_a_stage_that_is_forgotten_and_runs_again_took_both_times(tmp_path, clock):
    run = make_run(tmp_path)
    for seconds in (100, 30):
        run.forget("train", "evaluate")
        fail_after(run, clock, "train", 1)
        with run.recording("train"):
            clock[0] += seconds

    assert run.finished_stages() == {"train": 132}


def test_other_plans_begin_at_no_time(tmp_path, clock):
    run = make_run(tmp_path)
    for stage in ("check", "plan"):
        fail_after(run, clock, stage, 10)

    run.forget_plans()

    for stage in ("check", "plan"):
        with run.recording(stage):
            clock[0] += 1
    assert run.finished_stages() == {"check": 11, "plan": 1}


def test_a_stage_took_at_least_what_its_own_files_say(tmp_path, clock):
    run = make_run(tmp_path)

    for stage, least_s in (("train", 3600.0), ("evaluate", 30.0)):
        with run.recording(stage, lambda least_s=least_s: least_s):
            clock[0] += 600

    assert run.finished_stages() == {"train": 3600, "evaluate": 600}


def test_the_error_of_a_stage_stands_when_its_time_cannot_be_written(tmp_path, monkeypatch):
    def is_full(*_, **__) -> None:
        raise OSError(28, "No space left on device")

    run = make_run(tmp_path)
    monkeypatch.setattr(run_folder, "write_json", is_full)

    with pytest.raises(RuntimeError, match="of the stage"), run.recording("train"):
        raise RuntimeError("of the stage")


def test_a_journal_of_an_older_program_knows_no_attempts_and_goes_on(tmp_path, clock):
    run = make_run(tmp_path)
    content = read_json(run.journal_file)
    del content["attempts"]
    write_json(run.journal_file, content)

    with run.recording("check"):
        clock[0] += 2

    assert run.finished_stages() == {"check": 2}


@pytest.mark.parametrize(
    "name", ["quality.json", "nnUNet_raw/Dataset001_medseg/dataset.json", "fingerprints/0/a.json"]
)
def test_a_table_that_was_cut_off_is_named(tmp_path, name):
    run = make_run(tmp_path)
    assert run.damaged_files() == ()
    table = run.root / name
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text('{"labels": {')

    assert run.damaged_files() == (f"file {name} of the run: damaged",)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b"\xff\xfe"])
def test_a_damaged_journal_cannot_be_resumed(tmp_path, content):
    run = make_run(tmp_path)
    run.journal_file.write_bytes(content)

    with pytest.raises(ResumeError, match="--fresh"):
        run.journal()


def test_a_journal_of_another_format_cannot_be_resumed(tmp_path):
    run = make_run(tmp_path)
    write_json(run.journal_file, read_json(run.journal_file) | {"format": 99})

    with pytest.raises(ResumeError, match="cannot be read by this version"):
        run.journal()


def test_a_missing_journal_cannot_be_resumed(tmp_path):
    with pytest.raises(ResumeError):
        RunFolder(tmp_path).journal()


def test_the_folder_of_a_run_is_private(tmp_path):
    run = make_run(tmp_path / "work")

    assert rights(run.root) == 0o700
    assert rights(run.root.parent) == 0o700
    assert rights(run.journal_file) == 0o600


def test_the_lock_makes_a_new_or_empty_work_folder_private(tmp_path):
    (tmp_path / "empty").mkdir(mode=0o755)

    for name in ("new", "empty"):
        with lock(tmp_path / name):
            pass

        assert rights(tmp_path / name) == 0o700


@pytest.mark.parametrize(
    "name", ["notes.txt", "runs", "datasets", "scratch-2024", "predicted.json"]
)
def test_a_folder_with_files_of_the_user_is_no_work_folder(tmp_path, name):
    shared = tmp_path / "shared"
    (shared / name).mkdir(parents=True)
    shared.chmod(0o755)

    with pytest.raises(FolderError, match=name) as refused, lock(shared):
        pass

    assert "--work_dir" in refused.value.fix
    assert [path.name for path in shared.iterdir()] == [name]
    assert rights(shared) == 0o755


@pytest.mark.parametrize("name", ["lost+found", "Thumbs.db", ".DS_Store", ".writable-12"])
def test_a_folder_in_which_only_the_system_has_put_something_is_empty(tmp_path, name):
    (tmp_path / "work" / name).mkdir(parents=True)

    with lock(tmp_path / "work"):
        is_ours = True

    assert is_ours


def test_a_file_is_no_work_folder(tmp_path):
    (tmp_path / "work").touch()

    with pytest.raises(FolderError, match="cannot be made"), lock(tmp_path / "work"):
        pass


def test_what_comes_into_a_work_folder_later_does_not_end_its_use(tmp_path):
    work = tmp_path / "work"
    with lock(work):
        make_run(work)
    (work / "notes.txt").touch()

    with lock(work):
        found = find_runs(work)

    assert len(found) == 1


def test_a_work_folder_from_before_there_were_markers_is_one(tmp_path):
    for name in ("runs", "datasets", "scratch-abc"):
        (tmp_path / name).mkdir()
    for name in ("lock", "sockets", predict.RECORD, "predict-log.txt", compare.LOG, ".DS_Store"):
        (tmp_path / name).touch()

    with lock(tmp_path):
        is_ours = True

    assert is_ours


def test_runs_are_found_by_name(tmp_path):
    make_run(tmp_path, "B")
    make_run(tmp_path, "A")
    (tmp_path / "runs" / "stray.txt").touch()

    found = find_runs(tmp_path)

    assert [run.root.name for run in found] == ["A", "B"]


def test_a_work_folder_without_runs_has_none(tmp_path):
    assert find_runs(tmp_path / "missing") == ()


@pytest.mark.parametrize("name", ["training", "fold_3", "variant_2"])
def test_the_checkpoint_of_any_training_would_be_lost_with_the_folder(tmp_path, name):
    run = make_run(tmp_path)
    before = run.has_checkpoint()
    training = run.training(name)
    training.root.mkdir()

    training.checkpoint_file.touch()

    assert (before, run.has_checkpoint()) == (False, True)


def test_the_lock_keeps_a_second_process_out(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "LOCK_WAIT_S", 0.1)

    with (
        held_elsewhere(tmp_path),
        pytest.raises(ResumeError, match="Another command is at work"),
        lock(tmp_path),
    ):
        pass


def test_the_lock_of_a_killed_process_is_no_lock(tmp_path):
    with held_elsewhere(tmp_path) as holder:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()

        with lock(tmp_path):
            is_ours = True

    assert is_ours


def test_the_sockets_of_a_killed_process_are_removed_by_the_next_one(
    tmp_path_factory, tmp_path, monkeypatch
):
    # Not below the folder with the name of this test, which is too long for sockets.
    temporary, work = tmp_path_factory.mktemp("temporary"), tmp_path / "work"
    monkeypatch.setenv("TMPDIR", str(temporary))
    with held_elsewhere(work) as holder:
        holder.kill()
        holder.wait()
    left_behind = [path.name[:5] for path in temporary.iterdir()]

    with lock(work):
        pass

    assert left_behind == ["pymp-"]
    assert list(temporary.iterdir()) == []
    assert {path.name for path in work.iterdir()} == {"lock", "made-by-medseg"}


def test_sockets_have_a_short_path_where_the_temporary_folder_has_a_long_one(tmp_path, monkeypatch):
    temporary = tmp_path / ("long" * 25)
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))

    with held_elsewhere(tmp_path / "work"):
        folder = (tmp_path / "work" / "sockets").read_text()

    assert len(folder) < 30
    assert list(temporary.iterdir()) == []


def test_a_note_about_sockets_removes_nothing_else(tmp_path):
    own, link, work = (tmp_path / name for name in ("own", "pymp-link", "work"))
    own.mkdir()
    link.symlink_to(own)

    for named in (own, link):
        with lock(work):
            pass
        (work / "sockets").write_text(str(named))
        with lock(work):
            pass

    assert own.is_dir()
    assert link.is_symlink()


def test_the_lock_is_free_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "LOCK_WAIT_S", 0.1)
    with pytest.raises(RuntimeError), lock(tmp_path):
        raise RuntimeError

    with lock(tmp_path):
        is_ours = True

    assert is_ours


def test_a_folder_that_takes_files_is_writable_and_stays_empty(tmp_path):
    require_writable(tmp_path / "new")

    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("name", ["a", "a/below"])
def test_a_file_and_what_is_below_one_is_no_folder_to_write_to(tmp_path, name):
    (tmp_path / "a").touch()

    with pytest.raises(FolderError, match="cannot be made"):
        require_writable(tmp_path / name)


def test_a_folder_that_takes_no_files_is_not_writable(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(Path, "touch", refuse)

    with pytest.raises(FolderError, match="cannot be written to"):
        require_writable(tmp_path)


def test_a_removal_that_was_cut_off_is_finished_and_no_run_any_more(tmp_path):
    half_removed = tmp_path / "runs" / ".removed-12345678"
    (half_removed / "training").mkdir(parents=True)
    (tmp_path / "scratch-abc").mkdir()

    runs = find_runs(tmp_path)
    sweep(tmp_path)

    assert runs == ()
    assert not half_removed.exists()
    assert not (tmp_path / "scratch-abc").exists()


def test_a_look_tells_whether_the_folder_is_held_and_leaves_it_free(tmp_path):
    assert is_locked(tmp_path / "none") is False
    with lock(tmp_path):
        assert is_locked(tmp_path)
        assert locked_at(tmp_path) > 0
        assert is_locked(tmp_path)
    assert is_locked(tmp_path) is False
    with lock(tmp_path):
        pass
