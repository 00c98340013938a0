"""Train: the minutes that the user gave."""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from nnunet_medseg import console
from nnunet_medseg.budget.epochs import MIN_ITERATIONS
from nnunet_medseg.budget.estimate import evaluation_limit_s
from nnunet_medseg.budget.recipe import Recipe
from nnunet_medseg.dataset.raw_layout import describe_json
from nnunet_medseg.errors import BudgetError, DivergedError, TrainingError
from nnunet_medseg.files import read_json, write_json
from nnunet_medseg.hardware import give_memory_back, held_memory_bytes
from nnunet_medseg.parallel import cool_down
from nnunet_medseg.report.tracker import Tracker, start_tracker
from nnunet_medseg.workflows.options import variants_of
from nnunet_medseg.workflows.stage import Run, Training
from nnunet_medseg.workflows.stages.common import (
    DIVERGENCE,
    evaluates_all,
    is_compared,
    make_model,
    make_segmenter,
    precision_of,
    prepared_folder,
    require_dataset,
    split_of,
    training_setup,
    trainings_of,
    write_labels,
)
from nnunet_medseg.workflows.stages.forecast import (
    closing_time_s,
    reference_case,
    reference_s,
    training_time_s,
)
from nnunet_medseg.workflows.stages.planning import preprocess_again


def train_variant(run: Run, training: Training) -> None:
    """Train as `train` does, but leave the others their turn when this one fails."""
    try:
        train(run, training)
    except (BudgetError, TrainingError) as error:
        console.warn(f"{training.title} failed, the others go on: {error.problem}")
        write_json(training.folder.failed_file, {"problem": error.problem})
    # The error held on to the trainer.
    _give_back_what_trained()


def train(run: Run, training: Training) -> None:
    """Train until the time is over; write hashes and a reference segmentation of the result.

    A training that is cut off is as good as finished when it has made a model and no other
    training of the run is finished; otherwise it is left out, and so is one that has not begun, and
    a fold that diverges beside others.
    """
    training.folder.failed_file.unlink(missing_ok=True)
    if run.ending.is_asked():
        if run.options.fold == "cv" and not _finished_before(run, training):
            # All before it diverged.
            run.ending.stop()
        _leave_out(training, "not begun when the run was ended early", run.ending.cause)
        return
    try:
        _train_to_the_end(run, training)
    except BudgetError as error:
        if not (run.ending.has_deadline and _finished_before(run, training)):
            raise
        _leave_out(training, error.problem, "the deadline")
    except DivergedError as error:
        if not _has_other_folds(run, training):
            raise
        _leave_out(training, f"{error.problem} It is left out.", "")
    finally:
        _give_back_what_trained()


def trained_s(training: Training) -> float:
    """Return what a training has used by its own clock; nothing where it made no model."""
    if not training.folder.training_file.exists():
        return 0.0
    return float(read_json(training.folder.training_file)["used_s"])


def _give_back_what_trained() -> None:
    """Free what a trainer held, which evaluation and proof, or the next training, need."""
    # It holds itself.
    gc.collect()
    give_memory_back()


def _has_other_folds(run: Run, training: Training) -> bool:
    """Tell whether another fold has made a model, or may still make one."""
    others = [other for other in trainings_of(run) if other.name != training.name]
    return run.options.fold == "cv" and any(
        not other.folder.failed_file.exists() for other in others
    )


def _finished_before(run: Run, training: Training) -> list[Training]:
    """Return the other trainings that have made a model."""
    return [
        other
        for other in trainings_of(run)
        if other.name != training.name and other.folder.training_file.exists()
    ]


def _train_to_the_end(run: Run, training: Training) -> None:
    used_s = _used_before_s(run, training)
    trainer = _make_trainer(run, training, used_s)
    _announce(run, training, trainer, used_s)
    try:
        memory_bytes = _train_with_bar(run, training, trainer)
    except DivergedError as error:
        if run.options.fold == "cv" or is_compared(run, training) or not _has_trained(trainer):
            raise
        console.warn(f"{error.problem} The last good weights are handed over")
        memory_bytes = held_memory_bytes(run.device)
    _say_speed(trainer)
    if trainer.is_cut_off and not _is_worth_it(run, training, trainer):
        _leave_out(training, "cut off when the run was ended early", run.ending.cause)
        return
    if trainer.is_cut_off:
        trainer.use_average()
        trainer.save_checkpoint(str(training.folder.checkpoint_file))
    _record_training(run, training, trainer, memory_bytes)


def _has_trained(trainer: Any) -> bool:
    """Tell whether there is a model; there is none when all that was trained exploded."""
    return bool(trainer.progress.iterations >= MIN_ITERATIONS and trainer.current_epoch > 0)


def _leave_out(training: Training, problem: str, cause: str) -> None:
    console.warn(f"{training.title}: {problem}")
    write_json(training.folder.failed_file, {"problem": problem, "ended_early": cause})


def _is_worth_it(run: Run, training: Training, trainer: Any) -> bool:
    """Tell whether a training that was cut off is handed over; stop when there is nothing at all.

    Raises:
        KeyboardInterrupt: When there is no model, or no time to hand one over.
    """
    others = _finished_before(run, training)
    if others:
        _require_time_to_close(run, others[0], 0.0)
        return False
    if not _has_trained(trainer):
        epochs = console.counted(trainer.current_epoch, "good epoch")
        done = f"{trainer.progress.iterations} iterations in {epochs}"
        console.detail(f"too early for a model: {done}")
        run.ending.stop()
    _require_time_to_close(run, training, reference_s(run, training))
    share = trainer.clock.share
    console.warn(
        f"ended early by {run.ending.cause} at {share:.0%} of the training; the model so far is "
        "handed over. To stop at once and go on another time: Ctrl-C again"
    )
    return True


def _require_time_to_close(run: Run, training: Training, more_s: float) -> None:
    needed_s = closing_time_s(run, training) + more_s
    if needed_s > run.ending.left_s:
        console.detail(
            f"a model would take about {needed_s:.0f} s to be handed over, and there are "
            f"{max(0.0, run.ending.left_s):.0f} s: what was trained is kept (see --grace)"
        )
        run.ending.stop()


def _used_before_s(run: Run, training: Training) -> float:
    """Return what the training has used up to its checkpoint; the history may be ahead of that."""
    from nnunet_medseg.nnunet.environment import chatter

    if not training.folder.checkpoint_file.exists():
        return 0.0
    with chatter(run.folder.log_file):
        from nnunet_medseg.nnunet.weights import read_checkpoint

        return float(read_checkpoint(training.folder.checkpoint_file)["used_s"])


def _make_trainer(run: Run, training: Training, used_s: float) -> Any:
    from nnunet_medseg.nnunet.environment import chatter

    with chatter(run.folder.log_file):
        from nnunet_medseg.nnunet.planning import configuration_of
        from nnunet_medseg.nnunet.trainer import make_trainer

        plans, configuration = configuration_of(training.folder.root)
        planned = read_json(training.folder.plan_file)
        recipe = Recipe(**planned["recipe"])
        preprocess_again(run, training)
        # No more cases to prepare; what trains needs the memory of the workers' libraries.
        cool_down()
        asked_s = training_time_s(run, training, used_s)
        setup = training_setup(run, training, recipe, prepared_folder(run, training), asked_s)
        if run.device.kind == "cpu":
            # Where a plan was made on another device, or by an older program, neither is known.
            threads, is_last = planned.get("threads"), planned.get("channels_last", False)
            setup = replace(setup, threads=threads, channels_last=is_last)
        if planned["step_s"] is None:
            plans = _begin_smaller(run, training, plans, configuration)
        return make_trainer(plans, configuration, describe_json(run.folder.raw), setup)


def _begin_smaller(
    run: Run, training: Training, plans: dict[str, Any], configuration: str
) -> dict[str, Any]:
    """Return plans that fit the memory now, of some that did not when they were made.

    On a CPU a step that does not fit may end the program; a GPU refuses it, and the trainer goes on
    with a smaller one. A checkpoint tells what fitted before.
    """
    from nnunet_medseg.nnunet.probe import fit_to_memory

    if run.device.kind != "cpu" or training.folder.checkpoint_file.exists():
        return plans
    fitted = fit_to_memory(plans, configuration, describe_json(run.folder.raw))
    if fitted != plans:
        chosen = fitted["configurations"][configuration]
        patch = " x ".join(str(side) for side in chosen["patch_size"])
        batch = chosen["batch_size"]
        console.warn(f"the memory does not suffice; beginning with batch {batch} and patch {patch}")
    return fitted


def _say_speed(trainer: Any) -> None:
    progress, used_s = trainer.progress, trainer.clock.used_s
    state_bytes = sum(tensor.nbytes for tensor in trainer.state)
    loaders = "one process" if trainer.supply.count == 1 else f"{trainer.supply.count} processes"
    console.detail(
        f"{progress.iterations} iterations in {console.counted(trainer.current_epoch, 'epoch')}, "
        f"{progress.iterations / used_s:.2f} a second; {progress.stepping_s / used_s:.0%} of the "
        f"time in steps, of that {progress.waited_s / progress.stepping_s:.1%} waiting for data "
        f"from {loaders}; held in memory: {trainer.cached_bytes / 1e6:.0f} MB of cases, "
        f"{state_bytes / 1e6:.0f} MB of momentum, average and last good weights"
    )


def _announce(run: Run, training: Training, trainer: Any, used_s: float) -> None:
    from nnunet_medseg.nnunet.trainer import will_compile

    asked_s, is_cpu = trainer.clock.asked_s, run.device.kind == "cpu"
    precision = precision_of(run)
    threads = f", {console.counted(trainer.threads, 'thread')}" if is_cpu else ""
    compiled = ", compiled first, which takes minutes" if will_compile(run.device, asked_s) else ""
    layout = ", channels last" if trainer.setup.channels_last else ""
    console.detail(f"training on {run.device.name} in {precision}{threads}{layout}{compiled}")
    if is_cpu and training.name == trainings_of(run)[0].name:
        console.detail("a GPU does many times as many iterations in the same minutes")
    if asked_s < training.asked_s:
        minutes = f"{asked_s / 60:.1f} of the {training.minutes:g} minutes"
        console.detail(f"the deadline leaves {minutes} that were asked for")
    now = datetime.now().astimezone()
    end = now + timedelta(seconds=asked_s - used_s)
    console.detail(f"training ends at {end:%H:%M:%S}{_what_follows(run, training, now, end)}")
    _announce_others(run, training, end)


def _what_follows(run: Run, training: Training, now: datetime, end: datetime) -> str:
    """Return when all else is over, as far as that can be told; empty when others train too."""
    if run.ending.has_deadline:
        return f", all else by {now + timedelta(seconds=run.ending.left_s):%H:%M:%S}"
    if split_of(run, training).evaluate:
        if evaluates_all(run):
            return ", then every held-out case is evaluated"
        limit = end + timedelta(seconds=evaluation_limit_s(training.asked_s))
        return f", evaluation by {limit:%H:%M:%S} at the latest, the rest in about half a minute"
    if len(trainings_of(run)) > 1:
        return ""
    rest_s = reference_s(run, training) + closing_time_s(run, training)
    return f", all is done by about {end + timedelta(seconds=rest_s):%H:%M:%S}"


def _announce_others(run: Run, training: Training, end: datetime) -> None:
    """Say when the last of several trainings will end."""
    all_of_them = trainings_of(run)
    place = [other.name for other in all_of_them].index(training.name) + 1
    if len(all_of_them) == 1:
        return
    changes = variants_of(run.options)[place - 1 : place]
    about = "".join(f" {name}={value}" for one in changes for name, value in one.items())
    if run.ending.has_deadline:
        console.detail(f"{training.title}{about}: {place} of {len(all_of_them)}")
        return
    last = end + timedelta(seconds=sum(other.asked_s for other in all_of_them[place:]))
    console.detail(
        f"{training.title}{about}: {place} of {len(all_of_them)}; the last training ends at "
        f"{last:%H:%M:%S}, beside the time for evaluation"
    )


def _tracker(run: Run, training: Training) -> Tracker | None:
    """Return what tells TensorBoard, when that was asked for."""
    names = [run.options.dataset_name]
    if len(trainings_of(run)) > 1:
        names.append(training.name)
    return start_tracker(run.folders.events, names, training.folder.history_file, console.warn)


def _train_with_bar(run: Run, training: Training, trainer: Any) -> int:
    """Train; return the most memory that was held at the end of an epoch, in bytes."""
    from nnunet_medseg.nnunet.environment import chatter
    from nnunet_medseg.nnunet.history import Epoch

    asked_s = trainer.clock.asked_s
    notes = ["starting"]
    # A GPU forgets by that what an earlier training held.
    held_memory_bytes(run.device)
    held_bytes = [0]
    tracker = _tracker(run, training)

    def on_epoch(epoch: Epoch) -> None:
        if tracker is not None:
            tracker.tell(epoch)
        held_bytes.append(held_memory_bytes(run.device))
        dice = "" if epoch.patch_dice is None else f", Dice of patches {epoch.patch_dice:.3f}"
        end = datetime.now().astimezone() + timedelta(seconds=max(0.0, asked_s - epoch.used_s))
        notes[0] = (
            f"epoch {epoch.number}, loss {epoch.loss:.3f}{dice}, "
            f"learning rate {epoch.learning_rate:.4f}, ends {end:%H:%M:%S}"
        )

    try:
        with (
            run.ending.training(),
            console.progress("Training", asked_s, None) as bar,
            chatter(run.folder.log_file),
        ):
            trainer.run_training(
                lambda used_s: bar.update(min(used_s, asked_s), notes[0]),
                on_epoch,
                run.ending.is_asked,
                console.warn,
            )
    finally:
        # Also after the last explosion, whose epochs are to be seen.
        if tracker is not None:
            tracker.close()
    run.ending.stop_if_hung_up()
    return max(held_bytes)


def _record_training(run: Run, training: Training, trainer: Any, memory_bytes: int) -> None:
    from nnunet_medseg.nnunet.environment import chatter
    from nnunet_medseg.nnunet.weights import hash_tensors, read_checkpoint

    require_dataset(run)
    _keep_what_fitted(training, trainer)
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
    write_labels(training.folder.reference_file, labels)
    content = read_checkpoint(training.folder.checkpoint_file)
    record = {
        "asked_s": training.asked_s,
        "planned_s": trainer.clock.asked_s,
        "ended_early": _cause(run, trainer),
        "used_s": content["used_s"],
        "iterations": content["iterations"],
        "epochs": content["epoch"],
        "stepping_s": content["stepping_s"],
        "waited_s": content["waited_s"],
        "validation_s": content["validation_s"],
        "checkpoints_s": content["checkpoints_s"],
        "setbacks": content["setbacks"],
        "seen": [content["seen"].get(name, 0) for name in trainer.setup.train],
        "final_loss": content["loss"],
        "tensors": tensors,
        "reference_s": reference_s,
        "reference_images": [str(path) for path in case.images],
        "memory_bytes": memory_bytes,
        "threads": trainer.threads,
        "loaders": trainer.supply.count,
        "channels_last": trainer.setup.channels_last,
    }
    write_json(training.folder.training_file, record)


def _cause(run: Run, trainer: Any) -> str:
    """Return what ended a training early; empty for nothing."""
    if trainer.divergence is not None:
        return DIVERGENCE
    return run.ending.cause if trainer.is_cut_off else ""


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
