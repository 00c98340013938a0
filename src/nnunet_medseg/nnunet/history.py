"""The history of a training: one line of JSON an epoch.

It may be read while the training writes it: a line is appended as a whole, and one that is cut
short, or that another version wrote otherwise, ends what can be read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nnunet_medseg.files import write_atomic

__all__ = [
    "Epoch",
    "append_epoch",
    "read_histories",
    "read_history",
    "trim_history",
    "write_histories",
]


@dataclass(frozen=True)
class Epoch:
    """What happened in an epoch.

    Attributes:
        number: 1 for the first.
        iterations: Of all epochs so far.
        used_s: Of the budget so far.
        iteration_s: Seconds an iteration took in this epoch.
        loss: Mean training loss of the epoch.
        learning_rate: At its end.
        patch_dice: Mean foreground Dice on patches of held-out cases, smoothed; None without them.
            It is not the Dice of whole images.
        asked_s: The budget: less than the minutes when a deadline leaves less. None in lines of
            earlier versions.
        waited_share: Of the seconds of this epoch's iterations, those that passed waiting for
            data, in [0, 1]; None in lines of earlier versions.
    """

    number: int
    iterations: int
    used_s: float
    iteration_s: float
    loss: float
    learning_rate: float
    patch_dice: float | None
    asked_s: float | None = None
    waited_share: float | None = None


def append_epoch(path: Path, epoch: Epoch) -> None:
    """Add the line of an epoch."""
    with path.open("a", encoding="utf-8") as history:
        history.write(json.dumps(asdict(epoch)) + "\n")


def read_history(path: Path) -> list[Epoch]:
    """Read the epochs that a training wrote, up to a line that was cut short.

    Returns:
        None of them when there is no file.
    """
    return [epoch for _, epoch in _read_lines(path)]


def _read_lines(path: Path) -> list[tuple[str, Epoch]]:
    """Return the training that a line names, empty for none, and its epoch."""
    found: list[tuple[str, Epoch]] = []
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return found
    for line in lines:
        try:
            content = json.loads(line)
            found.append((str(content.pop("training", "")), Epoch(**content)))
        except (ValueError, TypeError, AttributeError):
            break
    return found


def trim_history(path: Path, epochs: int) -> None:
    """Keep the first epochs only: those after the last checkpoint are done again."""
    kept = [epoch for epoch in read_history(path) if epoch.number <= epochs]
    lines = "".join(json.dumps(asdict(epoch)) + "\n" for epoch in kept)
    write_atomic(path, lines.encode())


def write_histories(path: Path, histories: Mapping[str, Sequence[Epoch]]) -> None:
    """Write the epochs of several trainings into one file; each line names its training."""
    lines = [
        json.dumps({"training": name} | asdict(epoch)) + "\n"
        for name, epochs in histories.items()
        for epoch in epochs
    ]
    write_atomic(path, "".join(lines).encode())


def read_histories(path: Path) -> dict[str, list[Epoch]]:
    """Read what `write_histories` wrote; empty when there is no file."""
    histories: dict[str, list[Epoch]] = {}
    for name, epoch in _read_lines(path):
        histories.setdefault(name, []).append(epoch)
    return histories
