from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from nnunet_medseg.nnunet.history import Epoch, read_history, trim_history


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
