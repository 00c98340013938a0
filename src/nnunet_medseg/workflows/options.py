"""The options of a training, checked before anything is touched."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nnunet_medseg.budget.deadline import MIN_COMMAND_S
from nnunet_medseg.bundle.card import check_card, read_card
from nnunet_medseg.dataset.channels import parse_image_types
from nnunet_medseg.dataset.intake import ANY_LAYOUT, check_extension, check_layout
from nnunet_medseg.dataset.labels import parse_labels
from nnunet_medseg.dataset.splits import check_fold
from nnunet_medseg.errors import BudgetError, UsageError
from nnunet_medseg.workflows.variables import AUTO, parse_grid, read_variables

__all__ = [
    "DEFAULT_SEED",
    "Folders",
    "TrainOptions",
    "check_ends",
    "check_name",
    "command_of",
    "parse_renamed",
    "read_train_options",
    "variants_of",
]

DEFAULT_SEED = 12345  # nnU-Net's own for its folds, crossval_split.py of 2.8.1
MAX_GRACE_S = 24 * 60 * 60
MAX_MINUTES = 60 * 24 * 365
MAX_NAME_LENGTH = 64
MAX_SEED = 2**31 - 1
PLANS = ("auto", "default")
SHORT_OPTIONS = {
    "-d": "dataset_name",
    "-l": "label",
    "-i": "image_type",
    "-t": "minutes",
    "-f": "fold",
    "-e": "extension",
}
ALWAYS_SHOWN = {"-d", "-t", "-f"}
# By other words than their value, or chosen by which command it is.
SHOWN_OTHERWISE = {"key", "card", "pretrained", "vary", "delete_input"}
# Names that Windows keeps for devices, with or without an ending.
DEVICE_NAMES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?$", re.I)


@dataclass(frozen=True)
class Folders:
    """Where a command reads and writes.

    Attributes:
        input: What the user copied in.
        output: What is handed over.
        work: Work in progress; private.
        events: Takes events for TensorBoard; None for none.
    """

    input: Path
    output: Path
    work: Path
    events: Path | None = None


@dataclass(frozen=True)
class TrainOptions:
    """What a training was asked to do.

    Attributes:
        dataset_name: Name of the dataset and of the model.
        label: What to segment, as `-l` says it.
        image_type: As `-i` says it.
        minutes: Training duration.
        fold: "all", "0" … "4", or "cv" for all folds and their ensemble.
        extension: As `-e` says it; None when it was not given.
        layout: How the dataset's folder is to be read; "auto" for the layout that is recognised.
        device: "auto", "cpu", "cuda" or "cuda:N".
        seed: Of folds, weights, patches and the order of evaluation.
        plan: "auto" for a plan that fits the minutes, "default" for nnU-Net's own.
        evaluate_all: Whether evaluation may take as long as it takes.
        key: Whether the table of our names and the user's is handed over.
        delete_input: Whether the copied dataset is deleted after success.
        keep_dataset: Whether the dataset is kept, prepared, for later trainings.
        vary: What is varied, as `variables.parse_grid` reads it, with blanks between; empty for a
            single training.
        pretrained: The model to start from; None for a training from scratch.
        map_labels: Which label of that model is which here: `OLD=NEW`, with commas between.
        against_scratch: Whether a training from scratch is compared with.
        card: What the user says of the model, by field; may be given as the path of a file.
        configuration, network, spacing, patch_size, batch_size, learning_rate, augmentation,
            mirroring, oversampling: As `variables.VARIABLES` says; "auto" is chosen for the user.
    """

    dataset_name: str = "No_Name"
    label: str = "NONE"
    image_type: str = "NONE"
    minutes: float = 60.0
    fold: str = "all"
    extension: str | None = None
    layout: str = ANY_LAYOUT
    device: str = "auto"
    seed: int = DEFAULT_SEED
    plan: str = "auto"
    evaluate_all: bool = False
    key: bool = True
    delete_input: bool = False
    keep_dataset: bool = False
    vary: str = ""
    pretrained: str | None = None
    map_labels: str = ""
    against_scratch: bool = False
    card: dict[str, str] = field(default_factory=dict)
    configuration: str = AUTO
    network: str = AUTO
    spacing: str = AUTO
    patch_size: str = AUTO
    batch_size: int | str = AUTO
    learning_rate: float | str = AUTO
    augmentation: float | str = AUTO
    mirroring: str = AUTO
    oversampling: float | str = AUTO

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
    options["layout"] = check_layout(str(options.get("layout", ANY_LAYOUT)))
    parse_labels(str(options.get("label", "NONE")))
    parse_image_types(str(options.get("image_type", "NONE")))
    card = options.get("card", {})
    options["card"] = read_card(Path(card)) if isinstance(card, str | Path) else check_card(card)
    options |= read_variables(options)
    asked = TrainOptions(**options)
    _check_together(asked)
    return asked


def check_ends(deadline: Any, grace: Any) -> tuple[float, float]:
    """Return a deadline and the grace after SIGTERM in seconds; infinity for no deadline.

    Args:
        deadline: Minutes, None for none; may be text.
        grace: Seconds; may be text.

    Raises:
        UsageError: When one is no such number, or the deadline is too near for anything.
    """
    deadline_s, grace_s = math.inf, _number(grace)
    if not 0 < grace_s <= MAX_GRACE_S:
        problem = f"--grace {grace} is not a number of seconds above 0 and up to a day."
        raise UsageError(problem, fix="Give what the scheduler leaves after SIGTERM, as 25.")
    if deadline is not None:
        deadline_s = 60 * _number(deadline)
        if not deadline_s > 0:
            problem = f"--deadline {deadline} is not a number of minutes."
            raise UsageError(problem, fix="Give the minutes until all must be over, as 90.")
        if deadline_s < MIN_COMMAND_S:
            problem = (
                f"--deadline {deadline} is too near: planning, proof and delivery of the smallest "
                f"dataset take about {MIN_COMMAND_S:.0f} s."
            )
            raise BudgetError(problem, fix=f"Give --deadline {MIN_COMMAND_S / 60:.1f} at least.")
    return deadline_s, grace_s


def _number(value: Any) -> float:
    try:
        return float(str(value).replace(",", "."))
    except ValueError:
        return math.nan


def variants_of(options: TrainOptions) -> tuple[dict[str, Any], ...]:
    """Return what each variant of a comparison changes; nothing for a single training."""
    return parse_grid(options.vary.split()) if options.vary else ()


def command_of(options: TrainOptions) -> str:
    """Return the command that asks for the same again, without a path.

    What is as it is without being given is left out, but for the six options that a command of this
    program is known by.
    """
    plain, usual = options.to_json(), TrainOptions().to_json()
    given = [
        word
        for letter, name in SHORT_OPTIONS.items()
        if letter in ALWAYS_SHOWN or plain[name] != usual[name]
        for word in (letter, _shown(plain[name]))
    ]
    for name, value in plain.items():
        if value == usual[name] or name in {*SHORT_OPTIONS.values(), *SHOWN_OTHERWISE}:
            continue
        given += [f"--{name}"] if value is True else [f"--{name}", _shown(value)]
    given += [] if options.key else ["--no_key"]
    given += ["--card", "card.toml"] if options.card else []
    given += ["--pretrained", "MODEL"] if options.pretrained else []
    if not options.vary:
        return shlex.join(["python3", "exe_train.py", *given])
    varied = [word for wish in options.vary.split() for word in ("--vary", wish)]
    return shlex.join(["medseg", "vary", *varied, *given])


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def parse_renamed(text: str) -> dict[str, str]:
    """Read `--map_labels`.

    Args:
        text: `OLD=NEW` items with commas between; empty for none.

    Returns:
        The dataset's name by the model's name of a label.

    Raises:
        UsageError: When an item is not of this form, or a name comes twice.

    Examples:
        >>> parse_renamed("Anterior=head")
        {'Anterior': 'head'}
    """
    pairs = [item.split("=") for item in text.split(",") if item.strip()]
    names = {pair[0].strip(): pair[-1].strip() for pair in pairs}
    is_plain = all(len(pair) == 2 and all(map(str.strip, pair)) for pair in pairs)
    if not is_plain or len(set(names.values())) < len(pairs):
        problem = f"--map_labels {text} is not a list of OLD=NEW, each name once."
        raise UsageError(
            problem, fix="Write for example --map_labels Anterior=head,Posterior=tail."
        )
    return names


def _check_together(options: TrainOptions) -> None:
    """Refuse options that contradict each other."""
    if options.vary and options.fold == "cv":
        problem = "-f cv trains all folds, and --vary compares variants on one split."
        raise UsageError(problem, fix="Compare on one fold, -f 0; then train the best with -f cv.")
    if options.pretrained is None and (options.map_labels or options.against_scratch):
        problem = "--map_labels and --against_scratch are about a model to start from."
        raise UsageError(problem, fix="Name the model with --pretrained MODEL.")
    if options.pretrained is not None and (options.vary or options.fold == "cv"):
        problem = "--pretrained starts one training from one model."
        raise UsageError(problem, fix="Use it without --vary, and with -f all or -f 0 to -f 4.")
    if options.configuration == "3d_lowres" and options.spacing != AUTO:
        problem = "--spacing is of full resolution, and that of 3d_lowres follows from the patch."
        raise UsageError(problem, fix="Use --spacing with --configuration 3d_fullres.")
    parse_renamed(options.map_labels)
    if options.pretrained is not None:
        _check_against_model(options)
    for changes in variants_of(options):
        read_train_options(**(options.to_json() | {"vary": ""} | changes))


def _check_against_model(options: TrainOptions) -> None:
    of_model = ("network", "spacing", "patch_size", "configuration")
    asked = [f"--{name}" for name in of_model if getattr(options, name) != AUTO]
    if options.plan != AUTO and not options.against_scratch:
        asked.append("--plan")
    if asked:
        problem = f"{', '.join(asked)}: with --pretrained these come from the model."
        raise UsageError(problem, fix="Leave them out, or train from scratch without --pretrained.")


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
    minutes = _number(value)
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
    text = str(value)
    # Python refuses to read thousands of digits.
    is_plain = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_SEED))
    if not is_plain or int(text) > MAX_SEED:
        problem = f"--seed {value} is not a seed."
        raise UsageError(problem, fix=f"Give a whole number from 0 to {MAX_SEED}.")
    return int(text)
