"""The history of a training: one line an epoch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from nnunet_medseg.files import write_atomic

__all__ = ["Epoch", "append_epoch", "read_history", "trim_history"]


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
    """

    number: int
    iterations: int
    used_s: float
    iteration_s: float
    loss: float
    learning_rate: float
    patch_dice: float | None


def append_epoch(path: Path, epoch: Epoch) -> None:
    """Add the line of an epoch."""
    with path.open("a", encoding="utf-8") as history:
        history.write(json.dumps(asdict(epoch)) + "\n")


def read_history(path: Path) -> list[Epoch]:
    """Read the epochs that a training wrote, up to a line that was cut short.

    Returns:
        None of them when there is no file.
    """
    epochs: list[Epoch] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                epochs.append(Epoch(**json.loads(line)))
            except json.JSONDecodeError:
                break
    return epochs


def trim_history(path: Path, epochs: int) -> None:
    """Keep the first epochs only: those after the last checkpoint are done again."""
    kept = [epoch for epoch in read_history(path) if epoch.number <= epochs]
    lines = "".join(json.dumps(asdict(epoch)) + "\n" for epoch in kept)
    write_atomic(path, lines.encode())
