"""`volumes.csv`: how large each label is in each case, and which cases are unlike those trained on.

It names the user's own files and stays in the house.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_medseg import console
from nnunet_medseg.dataset.labels import LabelMap
from nnunet_medseg.files import write_text
from nnunet_medseg.volume import Volume
from nnunet_medseg.workflows.likeness import Unlike

__all__ = ["Row", "free_table", "row_from_json", "row_to_json", "show_table", "volumes_of",
           "write_table"]  # fmt: skip

NAME = "volumes"
UNLIKE = ("unlike_spacing", "unlike_size", "unlike_intensity")
MAX_SHOWN = 20  # cases in the terminal


@dataclass(frozen=True)
class Row:
    """A case: its segmentation's name, volumes by label, and in what it is unlike."""

    case: str
    volumes_ml: Mapping[str, float]
    unlike: Unlike


def row_to_json(row: Row) -> dict[str, Any]:
    """Return a row as plain types."""
    return asdict(row)


def row_from_json(item: Mapping[str, Any]) -> Row:
    """Return a row from plain types."""
    return Row(item["case"], item["volumes_ml"], Unlike(**item["unlike"]))


def volumes_of(result: Volume, labels: LabelMap) -> dict[str, float]:
    """Return the volume of each label in ml, by name."""
    voxel_ml = float(np.prod(result.spacing_mm)) / 1000
    counts = np.bincount(result.array.ravel(), minlength=max(each.value for each in labels) + 1)
    return {each.name: int(counts[each.value]) * voxel_ml for each in labels}


def free_table(output: Path) -> Path:
    """Return `volumes.csv`, or `volumes_2.csv` … where there is one already."""
    number = 1
    while True:
        path = output / (f"{NAME}.csv" if number == 1 else f"{NAME}_{number}.csv")
        if not path.exists():
            return path
        number += 1


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write the table: a row a case, a column a label."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    names = list(rows[0].volumes_ml)
    writer.writerow(["case", *(f"{name}_ml" for name in names), *UNLIKE])
    for row in rows:
        volumes = [f"{row.volumes_ml[name]:.3f}" for name in names]
        reasons = [row.unlike.spacing, row.unlike.size, row.unlike.intensity]
        writer.writerow([row.case, *volumes, *reasons])
    write_text(path, table.getvalue())


def show_table(path: Path, rows: Sequence[Row], *, has_facts: bool) -> None:
    """Show the table, cases first that are unlike those that trained."""
    first = sorted(rows, key=lambda row: not row.unlike.texts)
    columns = ["case", *(f"{name} (ml)" for name in rows[0].volumes_ml), "unlike the training data"]
    shown = [
        [
            row.case,
            *(f"{volume:.1f}" for volume in row.volumes_ml.values()),
            "; ".join(row.unlike.texts),
        ]
        for row in first[:MAX_SHOWN]
    ]
    console.table("Volumes", columns, shown)
    if len(rows) > MAX_SHOWN:
        console.detail(f"{len(rows) - MAX_SHOWN} more cases are in {path.name}")
    unlike = sum(bool(row.unlike.texts) for row in rows)
    if unlike:
        console.warn(
            f"{unlike} of {len(rows)} cases are unlike those that trained: look at these first"
        )
    if not has_facts:
        console.detail("the model does not record what its training data were like")
