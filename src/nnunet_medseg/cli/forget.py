"""`medseg forget`: delete datasets that are kept."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_medseg import console

__all__ = ["HELP", "add_options", "run"]

HELP = "delete datasets that are kept for another training"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the names and the work folder."""
    add = parser.add_argument
    add("names", nargs="+", metavar="NAME", help="as medseg datasets shows them")
    add("--work_dir", default=".medseg", metavar="FOLDER", help="folder for work in progress")


def run(options: argparse.Namespace) -> int:
    """Run `medseg forget`."""
    from nnunet_medseg.workflows.kept import forget

    for name in forget(Path(options.work_dir), options.names):
        console.detail(f"forgot {name}; its models stay where they are")
    return 0
