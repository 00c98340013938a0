"""`medseg evaluate`: how good the segmentations of a folder are."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_medseg import console

__all__ = ["HELP", "add_options", "run"]

HELP = "measure segmentations against label maps: Dice, HD95, NSD, volumes, lesions"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the two folders, what to measure, and where to write."""
    add = parser.add_argument
    add("predictions", metavar="PREDICTIONS", help="folder with segmentations")
    add("labels", metavar="LABELS", help="folder with label maps of the same names")
    add("-l", "--label", default="NONE", help="as for train; default: every value there is")
    add(
        "--tolerance",
        type=float,
        default=None,
        metavar="MM",
        help="distance that counts as none in the NSD; default: 2 mm, or a voxel's diagonal",
    )
    add("--output", default=None, metavar="FOLDER", help="takes metrics.csv and metrics.json")


def run(options: argparse.Namespace) -> int:
    """Run `medseg evaluate`."""
    # Late: this brings the libraries that read images, which --help does without.
    from nnunet_medseg.workflows.evaluate import evaluate

    console.heading(f"Evaluating {options.predictions}")
    evaluate(
        Path(options.predictions),
        Path(options.labels),
        label=options.label,
        tolerance_mm=options.tolerance,
        output=None if options.output is None else Path(options.output),
    )
    return 0
