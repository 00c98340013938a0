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
    read_cases,
)
from nnunet_medseg.files import read_json, write_json
from nnunet_medseg.workflows.interrupt import InterruptFlag
from nnunet_medseg.workflows.stage import Run
from nnunet_medseg.workflows.stages.common import (
    make_model,
    make_segmenter,
    precision_of,
    require_dataset,
    training_setup,
)


def train(run: Run) -> None:
    """Train until the time is over; write hashes and a reference segmentation of the result."""
    from nnunet_medseg.nnunet.environment import chatter

    with chatter(run.folder.log_file):
        from nnunet_medseg.nnunet.planning import configuration_of
        from nnunet_medseg.nnunet.trainer import make_trainer

        plans, configuration = configuration_of(run.folder.dataset)
        recipe = Recipe(**read_json(run.folder.plan_file)["recipe"])
        setup = training_setup(run, recipe)
        trainer = make_trainer(plans, configuration, describe_json(run.folder.raw), setup)
    _announce(run)
    _train_with_bar(run, trainer)
    _say_speed(trainer)
    _record_training(run, trainer)


def _say_speed(trainer: Any) -> None:
    progress, used_s = trainer.progress, trainer.clock.used_s
    console.detail(
        f"{progress.iterations} iterations in {trainer.current_epoch} epochs, "
        f"{progress.iterations / used_s:.2f} a second; {progress.stepping_s / used_s:.0%} of the "
        f"time in steps, of that {progress.waited_s / progress.stepping_s:.1%} waiting for data; "
        f"{trainer.cached_bytes / 1e6:.0f} MB of cases held in memory"
    )


def _announce(run: Run) -> None:
    from nnunet_medseg.nnunet.history import read_history
    from nnunet_medseg.nnunet.trainer import will_compile

    precision = precision_of(run)
    compiled = (
        ", compiled first, which takes minutes"
        if will_compile(run.device, run.options.minutes * 60)
        else ""
    )
    console.detail(f"training on {run.device.name} in {precision}{compiled}")
    if run.device.kind == "cpu":
        console.detail("a GPU does many times as many iterations in the same minutes")
    used_s = max((epoch.used_s for epoch in read_history(run.folder.history_file)), default=0.0)
    end = datetime.now().astimezone() + timedelta(seconds=run.options.minutes * 60 - used_s)
    text = f"training ends at {end:%H:%M:%S}"
    if read_cases(run.folder.raw, "evaluate"):
        limit = end + timedelta(seconds=evaluation_limit_s(run.options.minutes * 60))
        text += f", evaluation by {limit:%H:%M:%S} at the latest, the rest in about half a minute"
        if run.options.evaluate_all:
            text = f"training ends at {end:%H:%M:%S}, then every held-out case is evaluated"
    console.detail(text)


def _train_with_bar(run: Run, trainer: Any) -> None:
    from nnunet_medseg.nnunet.environment import chatter
    from nnunet_medseg.nnunet.history import Epoch

    asked_s = run.options.minutes * 60
    notes = ["starting"]

    def on_epoch(epoch: Epoch) -> None:
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


def _record_training(run: Run, trainer: Any) -> None:
    from nnunet_medseg.nnunet.environment import chatter
    from nnunet_medseg.nnunet.history import read_history
    from nnunet_medseg.nnunet.weights import hash_tensors, read_checkpoint

    require_dataset(run)
    _keep_what_fitted(run, trainer)
    last = read_history(run.folder.history_file)[-1]
    case = _reference_case(run)
    with chatter(run.folder.log_file):
        # From the network in memory, not from a file: the file is what will be verified.
        state = trainer.network_state()
        tensors = hash_tensors(state["network_weights"])
        model = make_model(run, state)
        segmenter = make_segmenter(model, run)
        started = time.monotonic()
        labels = segmenter.segment(case.images)
        reference_s = time.monotonic() - started
    np.savez_compressed(run.folder.reference_file, labels=labels)
    content = read_checkpoint(run.folder.checkpoint_file)
    record = {
        "asked_s": run.options.minutes * 60,
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
    }
    write_json(run.folder.training_file, record)


def _keep_what_fitted(run: Run, trainer: Any) -> None:
    """Write batch and patch into the plans when they became smaller for lack of memory."""
    from nnunet_medseg.nnunet.planning import configuration_of, write_plans

    plans, name = configuration_of(run.folder.dataset)
    chosen, fitted = plans["configurations"][name], trainer.configuration_manager
    batch, patch = int(fitted.batch_size), [int(side) for side in fitted.patch_size]
    if (batch, patch) != (chosen["batch_size"], chosen["patch_size"]):
        chosen["batch_size"], chosen["patch_size"] = batch, patch
        write_plans(run.folder.dataset, plans)
        planned = read_json(run.folder.plan_file)
        shown = " x ".join(str(side) for side in patch)
        smaller = f"; for lack of memory patch {shown}, batch {batch}"
        write_json(run.folder.plan_file, planned | {"plan": planned["plan"] + smaller})


def _reference_case(run: Run) -> RawCase:
    """Return the smallest case: it is predicted twice more, once in the proof."""
    facts = {item.name: item for item in load_checked(run.folder.check_file).facts}
    cases = read_cases(run.folder.raw, "evaluate") or read_cases(run.folder.raw, "train")
    return min(cases, key=lambda case: math.prod(facts[case.name].shape))
