"""`medseg train` and `exe_train.py`: parse, run, show."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_medseg import console
from nnunet_medseg.cli.door import Parser
from nnunet_medseg.console import duration
from nnunet_medseg.errors import UsageError

__all__ = ["HELP", "add_options", "run", "run_beside"]

HELP = "train a model on one dataset for a number of minutes"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the folders, and the options that `exe_train.py` has too."""
    parser.add_argument("input", metavar="INPUT", help="folder with the copy of one dataset")
    parser.add_argument("output", metavar="OUTPUT", help="folder that takes the model")
    parser.add_argument(
        "--delete_input", action="store_true", help="delete the dataset copy after success"
    )
    _add_shared(parser)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-d", "--dataset_name", default="No_Name", metavar="NAME", help="name of the model")
    add(
        "-l",
        "--label",
        default="NONE",
        help="what to segment: a name, a value, NAME=VALUE, or several with commas; "
        "default: every label in the data",
    )
    add(
        "-i",
        "--image_type",
        default="NONE",
        metavar="TYPE",
        help="CT, MRI, PET …; several with commas, in channel order; default: from the data",
    )
    add("-t", "--time", default="60", metavar="MINUTES", help="training duration; default: 60")
    add(
        "-f",
        "--fold",
        default="all",
        help="all, or 0 to 4 to hold a part out and measure the model on it; default: all",
    )
    add(
        "-e",
        "--image_extension",
        default=None,
        metavar="EXT",
        help="only files of this ending are images; default: .nii.gz, or what is there",
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N; default: auto")
    add("--seed", default="12345", help="of folds, weights and patches; default: 12345")
    add(
        "--plan",
        default="auto",
        help="auto: voxels, patch and network as large as the minutes allow; default: as nnU-Net "
        "plans them; default: auto",
    )
    add("--work_dir", default=None, metavar="FOLDER", help="folder for work in progress")
    add("--resume", action="store_true", help="go on with an unfinished run as it began")
    add("--fresh", action="store_true", help="discard an unfinished run of that name")
    add(
        "--evaluate_all",
        action="store_true",
        help="evaluate every held-out case, however long it takes",
    )
    add("--no_key", action="store_true", help="write no table of case names and your folders")


def run(options: argparse.Namespace) -> int:
    """Run `medseg train`."""
    work = Path(options.work_dir or ".medseg")
    return _train(
        options, Path(options.input), Path(options.output), work, delete=options.delete_input
    )


def run_beside(root: Path, arguments: Sequence[str]) -> int:
    """Run `exe_train.py` with the folders in `root`."""
    parser = Parser(
        prog="exe_train.py", description=f"Copy one dataset into {INPUT}; then: {HELP}."
    )
    _add_shared(parser)
    options = parser.parse_args(list(arguments))
    source, work = root / INPUT, Path(options.work_dir or root / ".medseg")
    source.mkdir(exist_ok=True)
    return _train(options, source, root / OUTPUT, work, delete=True)


INPUT, OUTPUT = "Input_nnUNet_train", "Output_nnUNet_train"


def _train(
    options: argparse.Namespace, source: Path, output: Path, work: Path, *, delete: bool
) -> int:
    if options.resume and options.fresh:
        problem = "--resume and --fresh contradict each other."
        raise UsageError(problem, fix="Use one of them.")
    # Late: this brings the heavy libraries, which --help does without.
    from nnunet_medseg.report.summary import quality_line
    from nnunet_medseg.workflows.train import train

    result = train(
        source,
        output,
        work,
        resume=options.resume,
        fresh=options.fresh,
        dataset_name=options.dataset_name,
        label=options.label,
        image_type=options.image_type,
        minutes=options.time,
        fold=options.fold,
        extension=options.image_extension,
        device=options.device,
        seed=options.seed,
        plan=options.plan,
        evaluate_all=options.evaluate_all,
        key=not options.no_key,
        delete_input=delete,
    )
    training = result.manifest.training
    console.heading(f"The model is in {result.folder}")
    console.detail(f"{result.folder / 'model'} may be given away; the rest stays in the house")
    console.detail(
        f"{duration(training.used_s)} of {duration(training.asked_s)}, "
        f"{training.iterations} iterations"
    )
    console.detail(quality_line(result.manifest))
    return 0
