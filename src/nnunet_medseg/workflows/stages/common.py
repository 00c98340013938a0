"""What several stages need: the trainings of a run, the dataset as it was, the model as it is."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_medseg.budget.deadline import segmentation_s, training_that_fits_s, windows
from nnunet_medseg.budget.estimate import START_AND_REFERENCE_S, Workload, closing_s, expected_s
from nnunet_medseg.budget.recipe import Recipe
from nnunet_medseg.dataset.checked import load_checked
from nnunet_medseg.dataset.raw_layout import (
    RawCase,
    describe_json,
    read_cases,
)
from nnunet_medseg.dataset.splits import Split
from nnunet_medseg.errors import BudgetError, DatasetError
from nnunet_medseg.files import read_json, write_atomic
from nnunet_medseg.hardware import core_count
from nnunet_medseg.volume import files_of
from nnunet_medseg.workflows.options import TrainOptions, read_train_options, variants_of
from nnunet_medseg.workflows.stage import Run, Training
from nnunet_medseg.workflows.variables import AUTO

MIN_TRAINING_S = 5.0
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


def ended_early(run: Run) -> str:
    """Return what ended a training of the run early; empty when all went on to their end."""
    causes = (ended_early_by(training) for training in trainings_of(run))
    return next(filter(None, causes), "")


def ended_early_by(training: Training) -> str:
    """Return what ended a training early, or left it out; empty for nothing."""
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
        [(label.value, label.index) for label in checked.labels],
        [
            [case.name, *(hash_of(path) for path in (*case.images, case.label))]
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


def workload(run: Run, training: Training) -> Workload:
    """Return the size of the dataset, as far as it tells how long stages take."""
    checked = load_checked(run.folder.check_file)
    held_out = len(split_of(run, training).evaluate)
    return Workload(len(checked.cases), checked.megavoxels, held_out, core_count())


def reference_case(run: Run, split: Split) -> RawCase:
    """Return the smallest case: it is segmented after the training, and again in the proof."""
    facts = {item.name: item for item in load_checked(run.folder.check_file).facts}
    cases = cases_of(run, split.evaluate or split.train)
    return min(cases, key=lambda case: math.prod(facts[case.name].shape))


def reference_s(run: Run, training: Training) -> float:
    """Return how long the reference segmentation takes: as it took, else as can be forecast."""
    from nnunet_medseg.nnunet.planning import configuration_of

    if training.folder.training_file.exists():
        return float(read_json(training.folder.training_file)["reference_s"])
    if not training.folder.plan_file.exists():
        return 0.0
    planned = read_json(training.folder.plan_file)
    plans, name = configuration_of(training.folder.root)
    chosen = plans["configurations"][name]
    case = reference_case(run, split_of(run, training)).name
    facts = {item.name: item for item in load_checked(run.folder.check_file).facts}[case]
    patch_mm = [side * mm for side, mm in zip(chosen["patch_size"], chosen["spacing"], strict=True)]
    flips = 2 ** len(patch_mm) if planned["recipe"]["mirroring"] else 1
    patches = windows(facts.shape, facts.spacing_mm, patch_mm) * flips
    return segmentation_s(patches, chosen["batch_size"], planned["step_s"] or 0.0)


def closing_time_s(run: Run, training: Training) -> float:
    """Return how long it takes from the last evaluation to the end of the command."""
    proof_s = 0.0 if training.folder.failed_file.exists() else reference_s(run, training)
    if run.options.fold == "cv":
        # All folds segment the case, before the proof and in it.
        done = [each for each in trainings_of(run) if each.folder.training_file.exists()]
        count = len(done) if run.ending.is_asked() else len(trainings_of(run))
        proof_s *= 2 * count if count > 1 else 1
    return closing_s(workload(run, training)) + proof_s


def training_time_s(run: Run, training: Training, used_s: float = 0.0) -> float:
    """Return how long a training takes: as long as was asked, or what the deadline leaves.

    Args:
        run: The run.
        training: The training; those after it get as much.
        used_s: Seconds that it has used before an interruption.

    Raises:
        BudgetError: When the deadline leaves nothing.
    """
    if not run.ending.has_deadline or used_s >= training.asked_s:
        return training.asked_s
    work, finished = workload(run, training), run.folder.finished_stages()
    coming = [each for each in trainings_of(run) if not each.folder.evaluation_file.exists()]
    ahead_s = sum(
        expected_s(stage, work, 0.0) or 0.0
        for stage in ("convert", "plan", "preprocess")
        if stage not in finished
    )
    count = max(1, len(coming))
    case_s = reference_s(run, training)
    others_s = ahead_s + closing_time_s(run, training) + count * (START_AND_REFERENCE_S + case_s)
    is_evaluated = bool(split_of(run, training).evaluate)
    fits_s = training_that_fits_s(run.ending.left_s, others_s, count, is_evaluated=is_evaluated)
    if fits_s < MIN_TRAINING_S:
        needed = (MIN_TRAINING_S - fits_s) * count * 1.2 + run.ending.left_s
        problem = (
            f"The deadline leaves {max(0.0, run.ending.left_s):.0f} s, which do not suffice for a "
            f"training beside about {others_s:.0f} s for all else."
        )
        fix = f"Give --deadline {math.ceil(needed / 6) / 10:g} at least from now on, or none."
        raise BudgetError(problem, fix=fix)
    return min(training.asked_s, used_s + fits_s)


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


def write_reference(path: Path, labels: np.ndarray[Any, Any]) -> None:
    """Write the segmentation that the proof compares with, as a whole or not at all."""
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
