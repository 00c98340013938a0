"""Start from a model: read it, plan as it was planned, and move its weights."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_medseg import console
from nnunet_medseg.budget.fit import TOO_LARGE, measuring_limit_s, steps_that_fit
from nnunet_medseg.budget.recipe import choose_fine_tuning
from nnunet_medseg.budget.size import NNUNET_SIZE
from nnunet_medseg.bundle.manifest import read_manifest
from nnunet_medseg.dataset.checked import load_checked
from nnunet_medseg.dataset.raw_layout import describe_json
from nnunet_medseg.errors import ModelError
from nnunet_medseg.files import write_json
from nnunet_medseg.nnunet.plans import channel_names
from nnunet_medseg.run_folder import DATASET_NAME
from nnunet_medseg.workflows.options import parse_renamed
from nnunet_medseg.workflows.stage import Run, Training
from nnunet_medseg.workflows.stages.common import recipe_of, training_setup
from nnunet_medseg.workflows.stages.forecast import training_time_s
from nnunet_medseg.workflows.variables import AUTO

__all__ = ["Given", "given_model", "plan_from_model", "read_given"]


def read_given(run: Run) -> None:
    """Read the model to start from, check it, and keep what is needed of it in the run folder."""
    from nnunet_medseg.nnunet.environment import chatter

    unpacked = run.folder.root / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    with chatter(run.folder.log_file):
        from nnunet_medseg.nnunet.pretrained import read_source
        from nnunet_medseg.nnunet.weights import write_checkpoint

        source = read_source(Path(str(run.options.pretrained)).absolute(), unpacked)
    folder = source.checkpoint.parent.parent
    # What lies around a checkpoint alone is not of the model.
    manifest = read_manifest(folder) if (folder / "plans.json").is_file() else None
    values = dict(source.description["labels"])
    if manifest is not None:
        values = {label.name: label.value for label in manifest.labels}
    write_checkpoint(
        run.folder.given_file,
        {
            "network_weights": source.weights,
            "plans": source.plans,
            "description": source.description,
            "configuration": source.configuration,
            "mirror_axes": list(source.mirror_axes or ()),
            "values": values,
        },
    )
    shutil.rmtree(unpacked, ignore_errors=True)
    labels = ", ".join(name for name, index in source.description["labels"].items() if index)
    channels = ", ".join(channel_names(source.description))
    console.detail(f"starting from {source.folder_name}: {source.note}")
    console.detail(f"it has the labels {labels}; images {channels}")
    console.detail(
        "the Dice on held-out patients holds only if the model was not trained on them: for a "
        "model of these patients give the same -f and --seed again"
    )
    if not str(source.plans["image_reader_writer"]).endswith("WithReorient"):
        console.detail(
            "this model takes images as they are stored: all must have the directions of those "
            "that it was trained on"
        )


@dataclass(frozen=True)
class Given:
    """The model that a training starts from, as it can be used on the dataset.

    Attributes:
        model: For a `Segmenter`.
        channels: For each of its channels the place of the dataset's image.
        index_of: From its label indices to the dataset's.
    """

    model: Any
    channels: tuple[int, ...]
    index_of: dict[int, int]


def given_model(run: Run) -> Given | None:
    """Return the model to start from; None when it lacks an image or shares no label."""
    from nnunet_medseg.nnunet.inference import Model

    given = _read(run)
    matching = _match(run, given)
    index_of = {
        source: target for target, source in enumerate(matching.labels) if target and source
    }
    images = range(len(given["description"]["channel_names"]))
    if not index_of or not set(images) <= set(matching.channels):
        return None
    channels = tuple(matching.channels.index(image) for image in images)
    model = Model(
        given["plans"],
        given["description"],
        given["configuration"],
        tuple(given["mirror_axes"]) or None,
        (given["network_weights"],),
    )
    return Given(model, channels, index_of)


def _read(run: Run) -> dict[str, Any]:
    from nnunet_medseg.nnunet.weights import read_checkpoint

    return read_checkpoint(run.folder.given_file)


def _match(run: Run, given: dict[str, Any]) -> Any:
    from nnunet_medseg.nnunet.transfer import Matching, match_channels, match_labels

    checked = load_checked(run.folder.check_file)
    labels = match_labels(
        given["description"]["labels"],
        describe_json(run.folder.raw)["labels"],
        parse_renamed(run.options.map_labels),
        given["values"],
        {label.name: label.value for label in checked.labels},
    )
    names = channel_names(given["description"])
    return Matching(labels, match_channels(names, checked.channels))


def plan_from_model(run: Run, training: Training) -> None:
    """Write the plans of the model for this dataset, and the weights that the training starts from.

    Spacing, normalisation, statistics, patch and network are the model's; only for an image that
    the model does not know, normalisation and statistics are this dataset's own.
    """
    from nnunet_medseg.nnunet.environment import chatter

    given = _read(run)
    matching = _match(run, given)
    description = describe_json(run.folder.raw)
    with chatter(run.folder.log_file):
        from nnunet_medseg.nnunet.planning import adopt_plans, make_plans, write_plans
        from nnunet_medseg.nnunet.sizing import describe_plan
        from nnunet_medseg.nnunet.transfer import names_of, new_network, transfer
        from nnunet_medseg.nnunet.weights import write_checkpoint

        name = given["configuration"]
        _require_same_kind(run, name, given["plans"]["configurations"][name]["patch_size"])
        own, _ = make_plans(DATASET_NAME)
        plans = adopt_plans(given["plans"], own, matching.channels)
        if training.options.batch_size != AUTO:
            plans["configurations"][name]["batch_size"] = int(training.options.batch_size)
        moved = transfer(
            given["network_weights"],
            new_network(plans, name, description, training.options.seed),
            matching,
            names_of(given["description"]),
            names_of(description),
        )
        write_plans(training.folder.root, plans)
        _warn_of_normalization(run, plans, own)
        write_checkpoint(training.folder.start_file, {"network_weights": moved.weights})
        asked_s = training_time_s(run, training)
        # What is short costs most: its optimizer computes more than that of long trainings.
        setup = training_setup(run, training, choose_fine_tuning(0), run.folder.root, asked_s)
        setup, step_s = _time_steps(plans, name, description, setup)
    steps = steps_that_fit(asked_s, step_s)
    reason = _reason(asked_s, step_s)
    lines = _describe_transfer(moved)
    for line in (reason, *lines):
        console.detail(line)
    write_json(
        training.folder.plan_file,
        {
            "plan": f"the model's: {describe_plan(plans['configurations'][name], NNUNET_SIZE)}",
            "reason": reason,
            "step_s": step_s if math.isfinite(step_s) else None,
            "steps": steps,
            "threads": setup.threads,
            "channels_last": setup.channels_last,
            "recipe": recipe_of(training.options, choose_fine_tuning(steps)).to_json(),
            "start": {
                "transferred": moved.transferred,
                "adapted": moved.adapted,
                "initialised": moved.initialised,
                "lines": lines,
            },
        },
    )


def _time_steps(
    plans: dict[str, Any], configuration: str, description: dict[str, Any], setup: Any
) -> tuple[Any, float]:
    """Return the setup with the layout and the threads that are fastest, and a step's seconds."""
    from nnunet_medseg.nnunet.probe import fastest_threads, in_faster_layout, measure_step

    until_s = time.monotonic() + measuring_limit_s(setup.asked_s)

    def measure(setup: Any) -> float:
        return measure_step(plans, configuration, description, setup, until_s)

    setup, step_s = in_faster_layout(setup, measure, until_s)
    threads, step_s = fastest_threads(plans, configuration, description, setup, step_s, until_s)
    return replace(setup, threads=threads), step_s


def _reason(asked_s: float, step_s: float) -> str:
    if not math.isfinite(step_s):
        return f"the plan is the model's; it does not fit {TOO_LARGE}"
    steps, minutes = steps_that_fit(asked_s, step_s), round(asked_s / 60, 2)
    return f"the plan is the model's; about {steps} steps of it fit into {minutes:g} min"


def _describe_transfer(moved: Any) -> list[str]:
    total = moved.transferred + moved.adapted + moved.initialised
    first = (
        f"{moved.transferred:,} of {total:,} parameters are the model's, {moved.adapted:,} are "
        f"adapted, {moved.initialised:,} are new"
    )
    return [first, *moved.lines]


def _warn_of_normalization(run: Run, plans: dict[str, Any], own: dict[str, Any]) -> None:
    """Say when the model treats an image otherwise than its type asks for."""
    (theirs,), (ours,) = plans["configurations"].values(), own["configurations"].values()
    channels = load_checked(run.folder.check_file).channels
    schemes = (theirs["normalization_schemes"], ours["normalization_schemes"])
    for channel, given, usual in zip(channels, *schemes, strict=True):
        if given != usual:
            console.warn(
                f"the model normalises {channel} with {given}, where {usual} is usual for such "
                "images: is it a model for this type of image?"
            )


def _require_same_kind(run: Run, configuration: str, patch: Sequence[int]) -> None:
    shapes = [facts.shape for facts in load_checked(run.folder.check_file).facts]
    if len(patch) > 2 and all(1 in shape for shape in shapes):
        problem = f"The model is {configuration}, and the images of the dataset are single slices."
        raise ModelError(problem, fix="Start from a 2d model, or train from scratch.")
