from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from nnunet_medseg.nnunet.history import (
    Epoch,
    append_epoch,
    read_histories,
    read_history,
    trim_history,
    write_histories,
)


def write(path: Path, numbers: list[int], tail: str = "") -> None:
    epochs = [Epoch(number, number * 10, number * 5.0, 0.5, 0.1, 0.01, None) for number in numbers]
    path.write_text("".join(json.dumps(asdict(epoch)) + "\n" for epoch in epochs) + tail)


def test_a_line_that_was_cut_short_ends_the_history(tmp_path):
    write(tmp_path / "h.jsonl", [1, 2], tail='{"number": 3, "iter')

    epochs = read_history(tmp_path / "h.jsonl")

    assert [epoch.number for epoch in epochs] == [1, 2]


def test_a_training_without_history_has_no_epochs(tmp_path):
    assert read_history(tmp_path / "none.jsonl") == []


def test_epochs_after_the_last_checkpoint_are_taken_out(tmp_path):
    write(tmp_path / "h.jsonl", [1, 2, 3, 4])

    trim_history(tmp_path / "h.jsonl", 2)

    assert [epoch.number for epoch in read_history(tmp_path / "h.jsonl")] == [1, 2]


def test_a_line_of_an_earlier_version_lacks_only_what_came_later(tmp_path):
    line = {"number": 1, "iterations": 3, "used_s": 1.0, "iteration_s": 0.3}
    line |= {"loss": 0.5, "learning_rate": 0.01, "patch_dice": None}
    (tmp_path / "h.jsonl").write_text(json.dumps(line) + "\n")

    (epoch,) = read_history(tmp_path / "h.jsonl")

    assert (epoch.loss, epoch.asked_s, epoch.waited_share) == (0.5, None, None)


def test_a_line_of_another_program_ends_the_history(tmp_path):
    write(tmp_path / "h.jsonl", [1], tail='{"epoch": 2}\n[]\n\xff\n')

    assert [epoch.number for epoch in read_history(tmp_path / "h.jsonl")] == [1]


def test_histories_in_one_file_keep_their_trainings_apart(tmp_path):
    first, second = (Epoch(1, 3, 1.0, 0.3, loss, 0.01, None, 60.0, 0.1) for loss in (0.5, 0.4))

    write_histories(tmp_path / "all.jsonl", {"fold_0": [first, first], "fold_1": [second]})

    assert read_histories(tmp_path / "all.jsonl") == {"fold_0": [first] * 2, "fold_1": [second]}
    assert read_histories(tmp_path / "none.jsonl") == {}


def test_a_line_is_there_as_soon_as_its_epoch_is_over(tmp_path):
    epoch = Epoch(1, 3, 1.0, 0.3, 0.5, 0.01, None, 60.0, 0.1)

    append_epoch(tmp_path / "h.jsonl", epoch)
    append_epoch(tmp_path / "h.jsonl", epoch)

    assert read_history(tmp_path / "h.jsonl") == [epoch, epoch]
