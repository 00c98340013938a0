"""The options of a training, checked before anything is touched."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_medseg.dataset.channels import parse_image_types
from nnunet_medseg.dataset.intake import check_extension
from nnunet_medseg.dataset.labels import parse_labels
from nnunet_medseg.dataset.splits import check_fold
from nnunet_medseg.errors import UsageError

__all__ = ["DEFAULT_SEED", "Folders", "TrainOptions", "check_name", "read_train_options"]

DEFAULT_SEED = 12345  # nnU-Net's own for its folds, crossval_split.py of 2.8.1
MAX_MINUTES = 60 * 24 * 365
MAX_NAME_LENGTH = 64
PLANS = ("auto", "default")
# Names that Windows keeps for devices, with or without an ending.
DEVICE_NAMES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?$", re.I)


@dataclass(frozen=True)
class Folders:
    """Where a command reads and writes.

    Attributes:
        input: What the user copied in.
        output: What is handed over.
        work: Work in progress; private.
    """

    input: Path
    output: Path
    work: Path


@dataclass(frozen=True)
class TrainOptions:
    """What a training was asked to do.

    Attributes:
        dataset_name: Name of the dataset and of the model.
        label: What to segment, as `-l` says it.
        image_type: As `-i` says it.
        minutes: Training duration.
        fold: "all" or "0" … "4".
        extension: As `-e` says it; None when it was not given.
        device: "auto", "cpu", "cuda" or "cuda:N".
        seed: Of folds, weights, patches and the order of evaluation.
        plan: "auto" for a plan that fits the minutes, "default" for nnU-Net's own.
        evaluate_all: Whether evaluation may take as long as it takes.
        key: Whether the table of our names and the user's is handed over.
        delete_input: Whether the copied dataset is deleted after success.
    """

    dataset_name: str = "No_Name"
    label: str = "NONE"
    image_type: str = "NONE"
    minutes: float = 60.0
    fold: str = "all"
    extension: str | None = None
    device: str = "auto"
    seed: int = DEFAULT_SEED
    plan: str = "auto"
    evaluate_all: bool = False
    key: bool = True
    delete_input: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the options as plain types."""
        return asdict(self)


def read_train_options(**given: Any) -> TrainOptions:
    """Check options as the command line or a caller gives them.

    Args:
        given: Fields of `TrainOptions`; `minutes`, `seed` and `fold` may be text.

    Raises:
        UsageError: When one is not possible.
    """
    options = dict(given)
    options["dataset_name"] = check_name(str(options.get("dataset_name", "No_Name")))
    options["minutes"] = _check_minutes(options.get("minutes", 60.0))
    options["seed"] = _check_seed(options.get("seed", DEFAULT_SEED))
    options["fold"] = check_fold(str(options.get("fold", "all")))
    options["plan"] = _check_plan(str(options.get("plan", "auto")))
    if options.get("extension") is not None:
        options["extension"] = check_extension(str(options["extension"]))
    parse_labels(str(options.get("label", "NONE")))
    parse_image_types(str(options.get("image_type", "NONE")))
    return TrainOptions(**options)


def check_name(name: str) -> str:
    """Return a name that can be a folder on every system.

    Raises:
        UsageError: When it cannot.
    """
    is_plain = re.fullmatch(r"[\w][\w .()+-]*", name) is not None
    if not is_plain or len(name) > MAX_NAME_LENGTH or name[-1] in ". " or DEVICE_NAMES.match(name):
        problem = f"-d {name!r} cannot be the name of a dataset: it will be the name of a folder."
        fix = f"Use at most {MAX_NAME_LENGTH} letters, digits, _ or -, for example -d Liver_CT."
        raise UsageError(problem, fix=fix)
    return name


def _check_minutes(value: Any) -> float:
    try:
        minutes = float(str(value).replace(",", "."))
    except ValueError:
        minutes = math.nan
    if not 0 < minutes <= MAX_MINUTES:
        problem = f"-t {value} is not a training duration."
        fix = "Give the minutes as a number above 0, for example -t 60 or -t 2.5."
        raise UsageError(problem, fix=fix)
    return minutes


def _check_plan(value: str) -> str:
    if value not in PLANS:
        problem = f"--plan {value} is not a way of planning."
        raise UsageError(problem, fix=f"Use one of: {', '.join(PLANS)}.")
    return value


def _check_seed(value: Any) -> int:
    if not str(value).isascii() or not str(value).isdigit() or int(value) >= 2**31:
        problem = f"--seed {value} is not a seed."
        raise UsageError(problem, fix="Give a whole number from 0 to 2147483647.")
    return int(value)
