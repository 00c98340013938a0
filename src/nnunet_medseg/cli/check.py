"""`medseg check`: what training would do with a dataset, and what is wrong with it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nnunet_medseg import console

__all__ = ["HELP", "add_options", "run"]

HELP = "look for problems in a dataset, without changing or training anything"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the dataset and the options that decide how it is read."""
    add = parser.add_argument
    add("dataset", metavar="DATASET", help="folder with the dataset")
    add("-l", "--label", default="NONE", help="as for train")
    add("-i", "--image_type", default="NONE", metavar="TYPE", help="as for train")
    add("-f", "--fold", default="all", help="as for train")
    add("-e", "--image_extension", default=None, metavar="EXT", help="as for train")
    add("--layout", default="auto", metavar="NAME", help="as for train")
    add("--json", action="store_true", help="print one JSON object, for programs, and no text")


def run(options: argparse.Namespace) -> int:
    """Run `medseg check`."""
    # Late: this brings the libraries that read images, which --help does without.
    from nnunet_medseg.workflows.check import check, describe

    asked = {
        "label": options.label,
        "image_type": options.image_type,
        "fold": options.fold,
        "extension": options.image_extension,
        "layout": options.layout,
    }
    if options.json:
        content, status = describe(Path(options.dataset), **asked)
        console.raw(json.dumps(content, indent=2))
        return status
    console.heading(f"Checking {options.dataset}")
    check(Path(options.dataset), **asked)
    console.detail("ready to be trained on")
    return 0
