"""Train: the minutes that the user gave."""

from __future__ import annotations

import math
import time
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from nnunet_medseg import console
from nnunet_medseg.budget.estimate import evaluation_limit_s
from nnunet_medseg.budget.recipe import Recipe
from nnunet_medseg.dataset.checked import load_checked
from nnunet_medseg.dataset.raw_layout import (
    RawCase,
    describe_json,
)
from nnunet_medseg.dataset.splits import Split
from nnunet_medseg.errors import BudgetError, TrainingError
from nnunet_medseg.files import read_json, write_json
from nnunet_medseg.hardware import held_memory_bytes
from nnunet_medseg.workflows.interrupt import InterruptFlag
from nnunet_medseg.workflows.options import variants_of
from nnunet_medseg.workflows.stage import Run, Training
from nnunet_medseg.workflows.stages.common import (
    cases_of,
    evaluates_all,
    make_model,
    make_segmenter,
    precision_of,
    prepared_folder,
    require_dataset,
    split_of,
    training_setup,
    trainings_of,
)


def train_variant(run: Run, training: Training) -> None:
    """Train as `train` does, but leave the other variants their turn when this one fails."""
    try:
        train(run, training)
    except (BudgetError, TrainingError) as error:
        console.warn(f"{training.title} failed, the others go on: {error.problem}")
        write_json(training.folder.failed_file, {"problem": error.problem})


def train(run: Run, training: Training) -> None:
    """Train until the time is over; write hashes and a reference segmentation of the result."""
    from nnunet_medseg.nnunet.environment import chatter

    with chatter(run.folder.log_file):
        from nnunet_medseg.nnunet.planning import configuration_of
        from nnunet_medseg.nnunet.trainer import make_trainer

        plans, configuration = configuration_of(training.folder.root)
        recipe = Recipe(**read_json(training.folder.plan_file)["recipe"])
        setup = training_setup(run, training, recipe, prepared_folder(run, training))
        trainer = make_trainer(plans, configuration, describe_json(run.folder.raw), setup)
    _announce(run, training)
    memory_bytes = _train_with_bar(run, training, trainer)
    _say_speed(trainer)
    _record_training(run, training, trainer, memory_bytes)


def _say_speed(trainer: Any) -> None:
    progress, used_s = trainer.progress, trainer.clock.used_s
    console.detail(
        f"{progress.iterations} iterations in {trainer.current_epoch} epochs, "
        f"{progress.iterations / used_s:.2f} a second; {progress.stepping_s / used_s:.0%} of the "
        f"time in steps, of that {progress.waited_s / progress.stepping_s:.1%} waiting for data; "
        f"{trainer.cached_bytes / 1e6:.0f} MB of cases held in memory"
    )


def _announce(run: Run, training: Training) -> None:
    from nnunet_medseg.nnunet.history import read_history
    from nnunet_medseg.nnunet.trainer import will_compile

    precision = precision_of(run)
    compiled = (
        ", compiled first, which takes minutes"
        if will_compile(run.device, training.asked_s)
        else ""
    )
    console.detail(f"training on {run.device.name} in {precision}{compiled}")
    if run.device.kind == "cpu" and training.name == trainings_of(run)[0].name:
        console.detail("a GPU does many times as many iterations in the same minutes")
    used_s = max(
        (epoch.used_s for epoch in read_history(training.folder.history_file)), default=0.0
    )
    end = datetime.now().astimezone() + timedelta(seconds=training.asked_s - used_s)
    text = f"training ends at {end:%H:%M:%S}"
    if split_of(run, training).evaluate:
        limit = end + timedelta(seconds=evaluation_limit_s(training.asked_s))
        text += f", evaluation by {limit:%H:%M:%S} at the latest, the rest in about half a minute"
        if evaluates_all(run):
            text = f"training ends at {end:%H:%M:%S}, then every held-out case is evaluated"
    console.detail(text)
    _announce_others(run, training, end)


def _announce_others(run: Run, training: Training, end: datetime) -> None:
    """Say when the last of several trainings will end."""
    all_of_them = trainings_of(run)
    place = [other.name for other in all_of_them].index(training.name) + 1
    if len(all_of_them) == 1:
        return
    changes = variants_of(run.options)[place - 1 : place]
    about = "".join(f" {name}={value}" for one in changes for name, value in one.items())
    last = end + timedelta(seconds=sum(other.asked_s for other in all_of_them[place:]))
    console.detail(
        f"{training.title}{about}: {place} of {len(all_of_them)}; the last training ends at "
        f"{last:%H:%M:%S}, beside the time for evaluation"
    )


def _train_with_bar(run: Run, training: Training, trainer: Any) -> int:
    """Train; return the most memory that was held at the end of an epoch, in bytes."""
    from nnunet_medseg.nnunet.environment import chatter
    from nnunet_medseg.nnunet.history import Epoch

    asked_s = training.asked_s
    notes = ["starting"]
    # A GPU forgets by that what an earlier training held.
    held_memory_bytes(run.device)
    held_bytes = [0]

    def on_epoch(epoch: Epoch) -> None:
        held_bytes.append(held_memory_bytes(run.device))
        dice = "" if epoch.patch_dice is None else f", Dice of patches {epoch.patch_dice:.3f}"
        end = datetime.now().astimezone() + timedelta(seconds=max(0.0, asked_s - epoch.used_s))
        notes[0] = (
            f"epoch {epoch.number}, loss {epoch.loss:.3f}{dice}, "
            f"learning rate {epoch.learning_rate:.4f}, ends {end:%H:%M:%S}"
        )

    with (
        InterruptFlag() as interrupt,
        console.progress("Training", asked_s, None) as bar,
        chatter(run.folder.log_file),
    ):
        trainer.run_training(
            lambda used_s: bar.update(min(used_s, asked_s), notes[0]),
            on_epoch,
            interrupt.is_set,
            console.warn,
        )
    return max(held_bytes)


def _record_training(run: Run, training: Training, trainer: Any, memory_bytes: int) -> None:
    from nnunet_medseg.nnunet.environment import chatter
    from nnunet_medseg.nnunet.history import read_history
    from nnunet_medseg.nnunet.weights import hash_tensors, read_checkpoint

    require_dataset(run)
    _keep_what_fitted(training, trainer)
    last = read_history(training.folder.history_file)[-1]
    case = reference_case(run, split_of(run, training))
    with chatter(run.folder.log_file):
        # From the network in memory, not from a file: the file is what will be verified.
        state = trainer.network_state()
        tensors = hash_tensors(state["network_weights"])
        model = make_model(run, training, state)
        segmenter = make_segmenter(model, run)
        started = time.monotonic()
        labels = segmenter.segment(case.images)
        reference_s = time.monotonic() - started
    np.savez_compressed(training.folder.reference_file, labels=labels)
    content = read_checkpoint(training.folder.checkpoint_file)
    record = {
        "asked_s": training.asked_s,
        "used_s": content["used_s"],
        "iterations": content["iterations"],
        "epochs": content["epoch"],
        "stepping_s": content["stepping_s"],
        "waited_s": content["waited_s"],
        "setbacks": content["setbacks"],
        "final_loss": last.loss,
        "tensors": tensors,
        "reference_s": reference_s,
        "reference_images": [str(path) for path in case.images],
        "memory_bytes": memory_bytes,
    }
    write_json(training.folder.training_file, record)


def _keep_what_fitted(training: Training, trainer: Any) -> None:
    """Write batch and patch into the plans when they became smaller for lack of memory."""
    from nnunet_medseg.nnunet.planning import configuration_of, write_plans

    plans, name = configuration_of(training.folder.root)
    chosen, fitted = plans["configurations"][name], trainer.configuration_manager
    batch, patch = int(fitted.batch_size), [int(side) for side in fitted.patch_size]
    if (batch, patch) != (chosen["batch_size"], chosen["patch_size"]):
        chosen["batch_size"], chosen["patch_size"] = batch, patch
        write_plans(training.folder.root, plans)
        planned = read_json(training.folder.plan_file)
        shown = " x ".join(str(side) for side in patch)
        smaller = f"; for lack of memory patch {shown}, batch {batch}"
        write_json(training.folder.plan_file, planned | {"plan": planned["plan"] + smaller})


def reference_case(run: Run, split: Split) -> RawCase:
    """Return the smallest case: it is predicted twice more, once in the proof."""
    facts = {item.name: item for item in load_checked(run.folder.check_file).facts}
    cases = cases_of(run, split.evaluate or split.train)
    return min(cases, key=lambda case: math.prod(facts[case.name].shape))
