"""`medseg vary`: several trainings on one preparation, compared."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_medseg.cli.train import INPUT, OUTPUT, add_shared, train_and_tell

__all__ = ["HELP", "add_options", "run"]

HELP = "train variants of a model on one dataset, the minutes shared, and hand over the best"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what is varied, the folders, and the options of a training."""
    add = parser.add_argument
    add(
        "--vary",
        action="append",
        required=True,
        metavar="NAME=VALUE,VALUE",
        help="a parameter of nnU-Net, or seed, and its values; several make a grid",
    )
    add(
        "--input",
        default=INPUT,
        metavar="FOLDER",
        help=f"folder with the copy of one dataset; default: {INPUT}; empty for a kept dataset",
    )
    add("--output", default=OUTPUT, metavar="FOLDER", help=f"takes the model; default: {OUTPUT}")
    add("--delete_input", action="store_true", help="delete the dataset copy after success")
    add_shared(
        parser,
        folds="0 to 4, the part that is held out and that the variants are compared on; default: 0",
    )


def run(options: argparse.Namespace) -> int:
    """Run `medseg vary`."""
    options.vary = " ".join("".join(wish.split()) for wish in options.vary)
    if options.fold == "all":
        # Nothing could be compared; patients called validate are held out with this one too.
        options.fold = "0"
    if options.input == INPUT:
        Path(INPUT).mkdir(exist_ok=True)
    places = (Path(options.input), Path(options.output), Path(options.work_dir or ".medseg"))
    return train_and_tell(options, places, delete=options.delete_input)
