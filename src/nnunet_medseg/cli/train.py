"""`medseg train` and `exe_train.py`: parse, run, show."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_medseg import console
from nnunet_medseg.cli.door import Parser
from nnunet_medseg.console import duration
from nnunet_medseg.errors import TrainingError, UsageError
from nnunet_medseg.workflows.variables import VARIABLES

__all__ = ["HELP", "add_options", "add_shared", "run", "run_beside", "train_and_tell"]

FOLDS_HELP = (
    "all; 0 to 4 to hold a part out and measure the model on it; or cv for all five, the time "
    "shared, and their ensemble; default: all"
)
HELP = "train a model on one dataset for a number of minutes"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the folders, and the options that `exe_train.py` has too."""
    parser.add_argument("input", metavar="INPUT", help="folder with the copy of one dataset")
    parser.add_argument("output", metavar="OUTPUT", help="folder that takes the model")
    parser.add_argument(
        "--delete_input", action="store_true", help="delete the dataset copy after success"
    )
    add_shared(parser)
    _add_pretrained(parser)


def add_shared(parser: argparse.ArgumentParser, folds: str = FOLDS_HELP) -> None:
    """Add the options that every command has which trains.

    Args:
        parser: Takes them.
        folds: Help of `-f`.
    """
    add = parser.add_argument
    add(
        "-d",
        "--dataset_name",
        default="No_Name",
        metavar="NAME",
        help="name of the model, and of a kept dataset",
    )
    add(
        "-l",
        "--label",
        default=None,
        help="what to segment: a name, a value, NAME=VALUE, or several with commas; "
        "default: every label in the data",
    )
    add(
        "-i",
        "--image_type",
        default=None,
        metavar="TYPE",
        help="CT, MRI, PET …; several with commas, in channel order; default: from the data",
    )
    add("-t", "--time", default="60", metavar="MINUTES", help="training duration; default: 60")
    add(
        "-f",
        "--fold",
        default="all",
        help=folds,
    )
    add(
        "-e",
        "--image_extension",
        default=None,
        metavar="EXT",
        help="only files of this ending are images; default: every format that can be read",
    )
    add(
        "--layout",
        default=None,
        metavar="NAME",
        help="how the dataset's files are laid out, where it can be read in two ways; "
        "default: as recognised",
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N; default: auto")
    add("--seed", default="12345", help="of folds, weights and patches; default: 12345")
    add(
        "--plan",
        default="auto",
        help="auto, for voxels, patch and network as large as the minutes allow, or default, for "
        "those that nnU-Net plans; without it: auto",
    )
    add(
        "--deadline",
        default=None,
        metavar="MINUTES",
        help="the whole command is over by then; the training time shrinks; default: none",
    )
    add(
        "--grace",
        default="25",
        metavar="SECONDS",
        help="within which a model is handed over after SIGTERM, as schedulers send it; "
        "default: 25",
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
    add(
        "--card",
        default=None,
        metavar="FILE",
        help="model card: a TOML file with what only you can say; see docs/how-to/report.md",
    )
    add(
        "--keep_dataset",
        action="store_true",
        help="keep the dataset, prepared, under its name: with an empty input folder -d NAME "
        "trains on it again",
    )
    add(
        "--tensorboard",
        default=None,
        metavar="FOLDER",
        help="write the figures of each epoch there for TensorBoard, which has to be installed",
    )
    group = parser.add_argument_group(
        "parameters of nnU-Net", "chosen for the dataset and the minutes unless they are given"
    )
    for name, variable in VARIABLES.items():
        group.add_argument(
            f"--{name}", metavar="VALUE", help=f"{variable.meaning}; {variable.allowed}"
        )


def _add_pretrained(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("start from a trained model")
    group.add_argument(
        "--pretrained",
        metavar="MODEL",
        help="folder, zip or checkpoint of a model of this program or of stock nnU-Net v2",
    )
    group.add_argument(
        "--map_labels",
        metavar="OLD=NEW",
        help="which label of the model is which here, with commas between",
    )
    group.add_argument(
        "--against_scratch",
        action="store_true",
        help="train from scratch for as many minutes again, and compare on held-out patients",
    )


def run(options: argparse.Namespace) -> int:
    """Run `medseg train`."""
    work = Path(options.work_dir or ".medseg")
    places = (Path(options.input), Path(options.output), work)
    return train_and_tell(options, places, delete=options.delete_input)


def run_beside(root: Path, arguments: Sequence[str]) -> int:
    """Run `exe_train.py` with the folders in `root`."""
    parser = Parser(
        prog="exe_train.py", description=f"Copy one dataset into {INPUT}; then: {HELP}."
    )
    add_shared(parser)
    _add_pretrained(parser)
    options = parser.parse_args(list(arguments))
    for name in ("pretrained", "card"):
        given = getattr(options, name)
        if given is not None and not Path(given).exists():
            # As what lies beside the command, from any current folder.
            setattr(options, name, str(root / given))
    source, work = root / INPUT, Path(options.work_dir or root / ".medseg")
    source.mkdir(exist_ok=True)
    return train_and_tell(options, (source, root / OUTPUT, work), delete=True)


INPUT, OUTPUT = "Input_nnUNet_train", "Output_nnUNet_train"
# Options that are called otherwise on the command line, and those that are not of the training.
FIELDS = {"time": "minutes", "image_extension": "extension"}
# As shells report the signals, and as errors of training end.
EARLY_ENDS = {"Ctrl-C": 130, "SIGTERM": 143, "divergence": TrainingError.exit_code}
NOT_OF_TRAINING = {"input", "output", "work_dir", "no_key", "run", "deadline", "grace"}


def train_and_tell(
    options: argparse.Namespace, places: tuple[Path, Path, Path], *, delete: bool
) -> int:
    """Train with the options of a command line, and tell where the model is; return the status.

    Args:
        options: As `add_shared` defines them.
        places: The input, the output and the work folder.
        delete: Whether the dataset copy is deleted after success.
    """
    if options.resume and options.fresh:
        problem = "--resume and --fresh contradict each other."
        raise UsageError(problem, fix="Use one of them.")
    # Late: these bring the heavy libraries, which --help does without. A deadline counts from
    # before them.
    from nnunet_medseg.workflows.ending import Ending
    from nnunet_medseg.workflows.options import check_ends

    ending = Ending(*check_ends(options.deadline, options.grace))

    from nnunet_medseg.report.summary import quality_line
    from nnunet_medseg.workflows.train import train

    asked = {FIELDS.get(name, name): value for name, value in vars(options).items()}
    asked |= {"delete_input": delete, "key": not options.no_key}
    # What is not given is chosen, or as it was with a kept dataset.
    given = {name: value for name, value in asked.items() if value is not None}
    for name in NOT_OF_TRAINING & given.keys():
        del given[name]
    result = train(*places, ending=ending, **given)
    training = result.manifest.training
    console.heading(f"The model is in {result.folder}")
    console.detail(f"{result.folder / 'model'} may be given away; the rest stays in the house")
    console.detail(
        f"{duration(training.used_s)} of {duration(training.asked_s)}, "
        f"{training.iterations} iterations"
    )
    console.detail(quality_line(result.manifest))
    ends = (EARLY_ENDS.get(training.ended_early), EARLY_ENDS.get(training.other_ended_early))
    return next(filter(None, ends), 0)
