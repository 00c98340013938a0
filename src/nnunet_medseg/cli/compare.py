"""`medseg compare`: which of two models is better on the same labelled cases."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_medseg import console

__all__ = ["HELP", "add_options", "run"]

HELP = "compare two models on the same labelled cases"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the two models, the dataset, and where to work and write."""
    add = parser.add_argument
    add("model_a", metavar="MODEL_A", help="a model of this program or of stock nnU-Net")
    add("model_b", metavar="MODEL_B", help="another, of either kind")
    add(
        "--dataset",
        required=True,
        metavar="DIR",
        help="labelled cases; a model looks better on those it was trained on",
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N; default: auto")
    add("--work_dir", default=None, metavar="FOLDER", help="folder for work in progress")
    add("--output", default=None, metavar="FOLDER", help="folder that takes comparison.csv")
    add("-e", "--image_extension", default=None, metavar="EXT", help="as for train")
    add("--layout", default="auto", metavar="NAME", help="as for train")


def run(options: argparse.Namespace) -> int:
    """Run `medseg compare`."""
    # Late: this brings the heavy libraries, which --help does without.
    from nnunet_medseg.workflows.compare import compare

    console.heading(f"Comparing on {options.dataset}")
    compare(
        Path(options.model_a),
        Path(options.model_b),
        Path(options.dataset),
        Path(options.work_dir or ".medseg"),
        device=options.device,
        output=None if options.output is None else Path(options.output),
        extension=options.image_extension,
        layout=options.layout,
    )
    return 0
