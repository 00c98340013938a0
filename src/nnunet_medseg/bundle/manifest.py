"""The manifest of a model: what it is, what it was trained on in numbers, and how good it is.

It holds no name of a patient, a folder or a machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nnunet_medseg.errors import ModelError
from nnunet_medseg.files import read_json, write_json

__all__ = [
    "MANIFEST_NAME",
    "ChannelFacts",
    "ComparedFacts",
    "CurveFacts",
    "DataFacts",
    "EvaluationFacts",
    "LabelEntry",
    "Manifest",
    "PretrainedFacts",
    "Range",
    "SplitFacts",
    "StageFacts",
    "TrainedOnFacts",
    "TrainingFacts",
    "read_manifest",
    "stock_command",
    "write_manifest",
]

MANIFEST_NAME = "manifest.json"
FORMAT = 1
INTENDED_USE = (
    "Research. Not a medical device; not for diagnosis or treatment. The model was measured on the "
    "cases counted here and on no others; check every segmentation."
)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


def _as_many_as(cases: str) -> Any:
    """Return a field that counts the patients of some cases: by default one a case.

    Older programs counted the cases only.
    """
    # Facts without those cases are refused for that.
    return Field(default_factory=lambda facts: facts.get(cases))


class LabelEntry(_Record):
    """A label: its name, the user's value, and the value that stock nnU-Net writes."""

    name: str
    value: int
    index: int


class SplitFacts(_Record):
    """The split in numbers; a case is an image, and a patient may have several."""

    fold: str
    train_cases: int
    held_out_cases: int
    train_patients: int = _as_many_as("train_cases")
    held_out_patients: int = _as_many_as("held_out_cases")

    @property
    def has_several_images(self) -> bool:
        """Whether some patient has several images."""
        patients = self.train_patients, self.held_out_patients
        return patients != (self.train_cases, self.held_out_cases)


class PlanFacts(_Record):
    """How large voxels, patch and network are, and why; times in seconds."""

    size: str
    reason: str
    forecast_step_s: float | None
    forecast_steps: int


class TrainingFacts(_Record):
    """The training in numbers; times in seconds, shares of the time that was used.

    The planned time is less than what was asked for when a deadline left less. What ended the
    training early is "Ctrl-C", "SIGTERM", "the deadline", "divergence", or empty; other is what
    ended one early that was only to be compared with the model, and others failed is how many of
    these failed. Folds that diverged are left out of the model. Threads trained, loaders are the
    processes that cut patches at the end, the most of all folds; channels last is how features lay
    in memory. Older programs wrote none.
    """

    asked_s: float
    planned_s: float | None = None
    used_s: float
    ended_early: str = ""
    other_ended_early: str = ""
    others_failed: int = 0
    iterations: int
    epochs: int
    final_loss: float
    device: str
    precision: str
    seed: int
    recipe: dict[str, str | float | bool] = {}
    share_in_steps: float | None = None
    share_waiting_for_data: float | None = None
    share_validating: float | None = None
    share_saving: float | None = None
    setbacks: int = 0
    diverged_folds: int = 0
    hardware: str = ""
    threads: int | None = None
    loaders: int | None = None
    channels_last: bool | None = None


class CurveFacts(_Record):
    """How a training went, a value an epoch; of very many epochs some, evenly spread.

    Attributes:
        training: What the training is called.
        minutes: Used by the end of the epoch.
        loss: Mean training loss.
        learning_rate: At the end of the epoch.
        patch_dice: Mean Dice on patches of held-out cases, smoothed, in [0, 1]; None before the
            first look and without such cases. Not the Dice of whole images.
    """

    training: str
    minutes: list[float]
    loss: list[float]
    learning_rate: list[float]
    patch_dice: list[float | None]


class StageFacts(_Record):
    """A stage that was over when the model was built, and the seconds it took."""

    name: str
    seconds: float


class TrainedOnFacts(_Record):
    """The cases that were trained on: how often each was seen, and Dice on a few of them.

    Attributes:
        fewest: Patches of the case that was seen least.
        mean: Patches of a case on average.
        most: Patches of the case that was seen most.
        cases: Number that were measured, on whole images.
        patients: Number of patients whom they show.
        mean_dice: Over these, in [0, 1]; None when none was.
        low: Lower end of its interval of 95 %.
        high: Upper end.
    """

    fewest: int
    mean: float
    most: int
    cases: int = 0
    patients: int = _as_many_as("cases")
    mean_dice: float | None = None
    low: float | None = None
    high: float | None = None


class ComparedFacts(_Record):
    """One of several trainings on the same split: mean Dice with its interval of 95 %.

    The p-value is of the paired test against the best, corrected for the number of tests.
    """

    name: str
    mean_dice: float | None
    low: float | None
    high: float | None
    p_value: float | None
    used_s: float | None
    memory_bytes: float | None


class PretrainedFacts(_Record):
    """What came from the model that the training started from, in numbers of parameters."""

    transferred: int
    adapted: int
    initialised: int
    lines: list[str]


class LabelFacts(_Record):
    """A label over all evaluated cases, as `evaluation.summaries.LabelSummary` tells it.

    None where there is nothing to measure, or where a distance is infinite. The patients are those
    whom the cases show.
    """

    cases: int
    patients: int = _as_many_as("cases")
    missed: int
    invented: int
    dice_low: float | None
    dice_high: float | None
    hd95_mm: float | None
    nsd: float | None
    mean_distance_mm: float | None
    volume_error_ml: float | None
    bias_ml: float | None
    components: float | None
    sensitivity: float | None
    false_per_case: float | None


class EvaluationFacts(_Record):
    """Dice on whole held-out images, with intervals of 95 %; None where nothing was evaluated.

    Intervals are over patients, who may have several images each: the cases.
    """

    mean_dice: float | None
    low: float | None = None
    high: float | None = None
    dice: dict[str, float | None]
    cases: int
    of_cases: int
    patients: int = _as_many_as("cases")
    of_patients: int = _as_many_as("of_cases")
    measures: dict[str, LabelFacts] = {}


class Range(_Record):
    """The smallest and the largest of some numbers."""

    low: float
    high: float


class ChannelFacts(_Record):
    """Values of an image type over all cases that trained.

    Attributes:
        lowest: Of the smallest values of the cases.
        highest: Of the largest values of the cases.
        labelled: Percentiles 0.5 and 99.5 of voxels with a label, of all cases together; None
            where nnU-Net has not measured them.
    """

    lowest: Range
    highest: Range
    labelled: Range | None = None


class DataFacts(_Record):
    """What the cases that trained were like: ranges over all of them, nothing of a single one.

    Attributes:
        spacing_mm: Of voxels, along the body: up (z), forward (y) and across (x).
        size_mm: Of whole images, along the same axes.
        channels: One an image type, in the order of the model.
    """

    spacing_mm: list[Range]
    size_mm: list[Range]
    channels: list[ChannelFacts]


class Manifest(_Record):
    """Everything that is said about a model."""

    format: int = FORMAT
    name: str
    program: str
    versions: dict[str, str]
    intended_use: str = INTENDED_USE
    labels: list[LabelEntry]
    channels: list[str]
    configuration: str
    split: SplitFacts
    plan: PlanFacts | None = None
    training: TrainingFacts
    curves: list[CurveFacts] = []
    trained_on: TrainedOnFacts | None = None
    data: DataFacts | None = None
    stages: list[StageFacts] = []
    evaluation: EvaluationFacts
    compared: list[ComparedFacts] = []
    verdict: str = ""
    pretrained: PretrainedFacts | None = None
    card: dict[str, str] = {}
    command: str = ""
    stock_command: str
    stock_note: str
    parameters: dict[str, str | float | int | bool | None]
    files: dict[str, str]


def stock_command(folds: Sequence[str], device: str) -> str:
    """Return the command with which stock nnU-Net uses the model.

    Args:
        folds: "all", or numbers; several make an ensemble.
        device: "cpu" or "cuda".
    """
    return (
        "nnUNetv2_predict_from_modelfolder -i IMAGES -o SEGMENTATIONS -m MODEL "
        f"-f {' '.join(folds)} -device {device}"
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a model folder."""
    write_json(folder / MANIFEST_NAME, manifest.model_dump(mode="json"))


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a model folder; None for a model of stock nnU-Net, which has none.

    Raises:
        ModelError: When there is one that cannot be read.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        return Manifest.model_validate(read_json(path))
    except (OSError, ValueError, RecursionError, ValidationError) as cause:
        problem = f"The manifest {path} cannot be read."
        raise ModelError(problem, fix="Copy the whole model folder again.") from cause
