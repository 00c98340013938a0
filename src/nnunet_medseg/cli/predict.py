"""`medseg predict` and `exe_predict.py`: parse, run, show."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_medseg import console
from nnunet_medseg.cli.door import Parser

__all__ = ["HELP", "add_options", "run", "run_beside"]

HELP = "segment images with a trained model"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the folders, and the options that `exe_predict.py` has too."""
    parser.add_argument("input", metavar="INPUT", help="folder with the images")
    parser.add_argument("output", metavar="OUTPUT", help="folder that takes the segmentations")
    parser.add_argument("--model", required=True, metavar="FOLDER", help="the model")
    parser.add_argument(
        "--delete_input", action="store_true", help="delete the images when all are segmented"
    )
    _add_shared(parser)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N; default: auto")
    add("--preview", action="store_true", help="write a picture (PNG) of each segmentation")
    add("--probabilities", action="store_true", help="write a probability map of each label")
    add(
        "--precision",
        default="auto",
        choices=("auto", "float32"),
        help="float32 computes as stock nnU-Net does; default: auto, which takes bfloat16 on a CPU "
        "that has it, about twice as fast",
    )
    add(
        "--output_format",
        default="nifti",
        choices=("nifti", "dicom_seg", "rtstruct"),
        help="of the segmentations of DICOM series; default: nifti",
    )
    add("--work_dir", default=None, metavar="FOLDER", help="folder for work in progress")


def run(options: argparse.Namespace) -> int:
    """Run `medseg predict`."""
    work = Path(options.work_dir or ".medseg")
    places = (Path(options.input), Path(options.output), Path(options.model), work)
    return _predict(options, places, delete=options.delete_input)


def run_beside(root: Path, arguments: Sequence[str]) -> int:
    """Run `exe_predict.py` with the folders in `root`."""
    parser = Parser(
        prog="exe_predict.py",
        description="Copy images into Input_nnUNet_predict and a model into model; then: "
        f"{HELP}. The segmentations are in Output_nnUNet_predict.",
    )
    parser.add_argument("--model", metavar="FOLDER", help="the model; default: the folder model")
    parser.add_argument(
        "--keep_input", action="store_true", help="keep the images after all are segmented"
    )
    _add_shared(parser)
    options = parser.parse_args(list(arguments))
    source = root / "Input_nnUNet_predict"
    source.mkdir(exist_ok=True)
    places = (
        source,
        root / "Output_nnUNet_predict",
        Path(options.model or root / "model"),
        Path(options.work_dir or root / ".medseg"),
    )
    return _predict(options, places, delete=not options.keep_input)


def _predict(
    options: argparse.Namespace, places: tuple[Path, Path, Path, Path], *, delete: bool
) -> int:
    # Late: this brings the heavy libraries, which --help does without.
    from nnunet_medseg.workflows.predict import predict

    console.heading("Segmenting")
    predict(
        *places,
        device=options.device,
        delete_input=delete,
        preview=options.preview,
        probabilities=options.probabilities,
        precision=options.precision,
        output_format=options.output_format,
    )
    return 0
