"""What several stages need: the trainings of a run, the dataset as it was, the model as it is."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_medseg.budget.recipe import Recipe
from nnunet_medseg.dataset.checked import load_checked
from nnunet_medseg.dataset.inspected import RULES_FORMAT
from nnunet_medseg.dataset.raw_layout import (
    RawCase,
    describe_json,
    read_cases,
)
from nnunet_medseg.dataset.splits import Split
from nnunet_medseg.errors import DatasetError
from nnunet_medseg.files import read_json, write_atomic
from nnunet_medseg.volume import files_of
from nnunet_medseg.workflows.options import TrainOptions, read_train_options, variants_of
from nnunet_medseg.workflows.stage import Run, Training
from nnunet_medseg.workflows.variables import AUTO

DIVERGENCE = "divergence"  # what ended a training early of which the last good weights are a model
WATCHED_CASES = 16  # held-out cases that are preprocessed for a look during training


def trainings_of(run: Run) -> tuple[Training, ...]:
    """Return the trainings of a run whose dataset has been checked: one, or folds, or variants.

    Folds and variants share the minutes equally; a training from scratch that another is compared
    with has as many.
    """
    folds = list(load_checked(run.folder.check_file).folds)
    options, minutes = run.options, run.options.minutes
    if options.fold == "cv":
        share = minutes / len(folds)
        return tuple(_training(run, f"fold_{fold}", fold, options, share) for fold in folds)
    if options.vary:
        variants = variants_of(options)
        share = minutes / len(variants)
        return tuple(
            _training(run, f"variant_{number}", folds[0], _varied(options, changes), share)
            for number, changes in enumerate(variants, start=1)
        )
    if not options.against_scratch:
        return (_training(run, "training", folds[0], options, minutes),)
    scratch = replace(options, pretrained=None, map_labels="", against_scratch=False)
    return (
        _training(run, "fine-tuning", folds[0], options, minutes),
        _training(run, "scratch", folds[0], scratch, minutes),
    )


def _varied(options: TrainOptions, changes: dict[str, Any]) -> TrainOptions:
    return read_train_options(**(options.to_json() | {"vary": ""} | changes))


def _training(run: Run, name: str, fold: str, options: TrainOptions, minutes: float) -> Training:
    return Training(name, fold, options, minutes, run.folder.training(name))


def handed_over(run: Run) -> tuple[Training, ...]:
    """Return the trainings that the model is made of, when the report has chosen."""
    trainings = trainings_of(run)
    if run.options.fold == "cv":
        return tuple(each for each in trainings if not each.folder.failed_file.exists())
    if run.options.vary:
        chosen = read_json(run.folder.chosen_file)["training"]
        return tuple(training for training in trainings if training.name == chosen)
    return trainings[:1]


def is_compared(run: Run, training: Training) -> bool:
    """Tell whether there may be a model without a training: a variant, or one from scratch."""
    is_first = training.name == trainings_of(run)[0].name
    return bool(run.options.vary) or (run.options.against_scratch and not is_first)


def ended_early(run: Run) -> str:
    """Return what ended a training early that the model is made of, or was to be; or nothing."""
    parts = trainings_of(run) if run.options.fold == "cv" else handed_over(run)
    return next(filter(None, map(ended_early_by, parts)), "")


def others_of(run: Run) -> tuple[Training, ...]:
    """Return the trainings that the model is only compared with."""
    if run.options.fold == "cv":
        return ()
    chosen = [training.name for training in handed_over(run)]
    return tuple(training for training in trainings_of(run) if training.name not in chosen)


def other_ended_early(run: Run) -> str:
    """Return what ended a training early that the model is only compared with; or nothing."""
    return next(filter(None, map(ended_early_by, others_of(run))), "")


def others_failed(run: Run) -> int:
    """Return how many trainings failed by themselves that the model is only compared with."""
    return sum(
        other.folder.failed_file.exists() and not ended_early_by(other) for other in others_of(run)
    )


def diverged_folds(run: Run) -> int:
    """Return how many folds were left out for no other reason than that they diverged."""
    return sum(
        training.folder.failed_file.exists() and not ended_early_by(training)
        for training in trainings_of(run)
        if run.options.fold == "cv"
    )


def ended_early_by(training: Training) -> str:
    """Return what ended a training early, which was left out if it had no model; or nothing."""
    for path in (training.folder.failed_file, training.folder.training_file):
        if path.exists():
            return str(read_json(path).get("ended_early", ""))
    return ""


def recipe_of(options: TrainOptions, chosen: Recipe) -> Recipe:
    """Return a recipe with what the options ask in place of what was chosen."""
    given: dict[str, Any] = {
        "peak_rate": options.learning_rate,
        "augmentation": options.augmentation,
        "oversampling": options.oversampling,
        "mirroring": AUTO if options.mirroring == AUTO else options.mirroring == "on",
        # A patch that was asked for is the one that is trained on.
        "growth": AUTO if options.patch_size == AUTO else 0.0,
    }
    return replace(chosen, **{name: value for name, value in given.items() if value != AUTO})


def split_of(run: Run, training: Training) -> Split:
    """Return who trains and who is evaluated in a training."""
    return load_checked(run.folder.check_file).folds[training.fold]


def evaluates_all(run: Run) -> bool:
    """Tell whether every held-out case is evaluated, however long it takes.

    A cross-validation is one only when it has seen every case.
    """
    return run.options.evaluate_all or run.options.fold == "cv"


def cases_of(run: Run, names: Collection[str]) -> list[RawCase]:
    """Return the converted cases of these names, in the order of all cases."""
    return [case for case in read_cases(run.folder.raw) if case.name in names]


def require_dataset(run: Run) -> None:
    """Refuse to go on when files of the dataset are gone that the run reads where they are."""
    missing = [
        path.name
        for case in read_cases(run.folder.raw)
        for path in (*case.images, case.label)
        if not path.exists()
    ]
    if missing:
        problem = f"{len(missing)} files of the dataset in {run.dataset_folder} are gone."
        raise DatasetError(problem, fix="Put them back and run the same command; it goes on.")


def content_key(run: Run) -> str:
    """Return what stands for the images, label maps and labels of a run: a hash of all of them."""
    checked = load_checked(run.folder.check_file)
    hashes = {item["path"]: item["sha256"] for item in read_json(run.folder.inventory_file)}

    def hash_of(path: Path) -> list[str]:
        parts = [part.relative_to(run.dataset_folder).as_posix() for part in files_of(path)]
        return [hashes.get(part, "") for part in parts]

    content = [
        # Another version may put the same files right in another way.
        RULES_FORMAT,
        [(label.value, label.index) for label in checked.labels],
        [
            [
                case.name,
                case.meanings,
                [hash_of(path) for path in case.files],
            ]
            for case in checked.cases
        ],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read_shapes(run: Run) -> list[tuple[int, ...]]:
    """Return the shapes of all cases as stored."""
    return [facts.shape for facts in load_checked(run.folder.check_file).facts]


def raw_files(case: RawCase) -> Any:
    """Return the files of a case as the room of nnU-Net takes them."""
    from nnunet_medseg.nnunet.planning import RawFiles

    return RawFiles(case.name, tuple(str(path) for path in case.images), str(case.label))


def watched_cases(run: Run, training: Training) -> list[RawCase]:
    """Return the held-out cases that are looked at during training, drawn by the seed."""
    held_out = cases_of(run, split_of(run, training).evaluate)
    order = np.random.default_rng(run.options.seed).permutation(len(held_out))
    return [held_out[place] for place in order[:WATCHED_CASES]]


def prepared_folder(run: Run, training: Training) -> Path:
    """Return where the preprocessed cases of a training are."""
    from nnunet_medseg.nnunet.planning import configuration_of, preparation_key

    plans, configuration = configuration_of(training.folder.root)
    return run.store / "prepared" / preparation_key(plans, configuration, content_key(run))


def training_setup(
    run: Run, training: Training, recipe: Recipe, prepared: Path, asked_s: float
) -> Any:
    """Return everything that the trainer needs beside plans and data."""
    from nnunet_medseg.nnunet.trainer import TrainingSetup, will_compile

    start = training.folder.start_file
    return TrainingSetup(
        device=run.device,
        asked_s=asked_s,
        seed=training.options.seed,
        train=split_of(run, training).train,
        watched=tuple(case.name for case in watched_cases(run, training)),
        checkpoint=training.folder.checkpoint_file,
        history=training.folder.history_file,
        log=run.folder.log_file,
        recipe=recipe,
        prepared=prepared,
        start=start if start.exists() else None,
        sharing=round(run.options.minutes / training.minutes),
        compiled=will_compile(run.device, asked_s),
        by_deadline=asked_s < training.asked_s,
    )


def write_labels(path: Path, labels: np.ndarray[Any, Any]) -> None:
    """Write a segmentation, packed, as a whole or not at all."""
    packed = io.BytesIO()
    np.savez_compressed(packed, labels=labels)
    write_atomic(path, packed.getvalue())


def make_model(run: Run, training: Training, *states: Mapping[str, Any]) -> Any:
    """Return the model of one or several states of the network, in memory."""
    from nnunet_medseg.nnunet.inference import Model
    from nnunet_medseg.nnunet.planning import configuration_of

    plans, configuration = configuration_of(training.folder.root)
    axes = states[0]["mirror_axes"]
    return Model(
        plans,
        describe_json(run.folder.raw),
        configuration,
        tuple(axes) if axes else None,
        tuple(state["network_weights"] for state in states),
    )


def make_segmenter(model: Any, run: Run, *, in_bfloat16: bool = False) -> Any:
    """Return what segments with a model on the device of the run."""
    from nnunet_medseg.nnunet.inference import Segmenter

    return Segmenter(model, run.device, in_bfloat16=in_bfloat16)


def precision_of(run: Run) -> str:
    """Return the number format that trains."""
    if run.device.kind == "cuda":
        return "float16 (automatic mixed precision)"
    return "bfloat16" if run.device.has_fast_bf16 else "float32"
