"""`medseg clean`: list and remove unfinished runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_medseg import console

__all__ = ["HELP", "add_options", "run"]

HELP = "list unfinished runs, and remove them"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the work folder and what to remove."""
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="runs to remove; none only lists them")
    add("--all", action="store_true", dest="remove_all", help="remove all of them")
    add("--work_dir", default=".medseg", metavar="FOLDER", help="folder for work in progress")


def run(options: argparse.Namespace) -> int:
    """Run `medseg clean`."""
    from nnunet_medseg.workflows.clean import list_runs, remove_runs

    work = Path(options.work_dir)
    runs = list_runs(work)
    names = [run.name for run in runs] if options.remove_all else options.names
    columns = ["run", "finished stages", "size"]
    if runs:
        console.table("", columns, [[run.name, run.stages, run.size] for run in runs])
    else:
        console.detail(f"no unfinished run in {work}")
    if runs and not names:
        console.detail("nothing was removed; name the runs to remove, or use --all")
    for name in remove_runs(work, names):
        console.detail(f"removed {name}; the dataset it was made from was not touched")
    return 0
