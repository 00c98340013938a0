"""`medseg demo`: the main job on a made-up dataset, from copy to scored prediction."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["HELP", "add_options", "run"]

HELP = "train on made-up CT images for a minute, segment unseen ones, and score them"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add where to work and for how long."""
    add = parser.add_argument
    add("-t", "--time", default="1", metavar="MINUTES", help="training duration; default: 1")
    add(
        "--root",
        default=None,
        metavar="FOLDER",
        help="use exe_train.py, exe_predict.py and the folders beside them in this folder; "
        "default: a folder of its own, removed afterwards",
    )


def run(options: argparse.Namespace) -> int:
    """Run `medseg demo`."""
    from nnunet_medseg.workflows.demo import demo

    return demo(None if options.root is None else Path(options.root).resolve(), options.time)
