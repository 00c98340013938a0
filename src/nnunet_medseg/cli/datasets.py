"""`medseg datasets`: list the datasets that are kept."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_medseg import console

__all__ = ["HELP", "add_options", "run"]

HELP = "list the datasets that are kept for another training"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the work folder."""
    parser.add_argument(
        "--work_dir", default=".medseg", metavar="FOLDER", help="folder for work in progress"
    )


def run(options: argparse.Namespace) -> int:
    """Run `medseg datasets`."""
    from nnunet_medseg.workflows.kept import datasets

    kept = datasets(Path(options.work_dir))
    if not kept:
        console.detail(f"no dataset is kept in {options.work_dir}; train with --keep_dataset")
        return 0
    rows = [
        [
            item.name,
            str(item.record.cases),
            f"{item.size_bytes / 1e6:.0f} MB",
            item.record.kept_at,
        ]
        for item in kept
    ]
    console.table("", ["name", "cases", "size", "kept since"], rows)
    console.detail("train on one with -d NAME and an empty input folder; medseg forget NAME")
    return 0
