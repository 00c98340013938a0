"""From a copied dataset to a verified model: the story of a training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_medseg import console
from nnunet_medseg.budget.estimate import evaluation_limit_s, expected_s
from nnunet_medseg.bundle.build import program_version
from nnunet_medseg.bundle.manifest import Manifest, read_manifest
from nnunet_medseg.dataset.intake import find_dataset, holds_nothing
from nnunet_medseg.dataset.kept import KeptDataset, find_kept, sweep_kept
from nnunet_medseg.errors import ModelError, ResumeError, UserError
from nnunet_medseg.files import ListedFile, list_files, read_json
from nnunet_medseg.hardware import choose_device
from nnunet_medseg.parallel import warm_up
from nnunet_medseg.run_folder import (
    Journal,
    RunFolder,
    lock,
    remove_run,
    require_writable,
    sweep,
)
from nnunet_medseg.workflows.clean import discard_run
from nnunet_medseg.workflows.ending import Ending
from nnunet_medseg.workflows.options import (
    Folders,
    TrainOptions,
    check_name,
    read_train_options,
)
from nnunet_medseg.workflows.stage import Run, Stage, run_stages
from nnunet_medseg.workflows.stages import (
    checking,
    delivery,
    evaluation,
    planning,
    pretraining,
    reporting,
    training,
)
from nnunet_medseg.workflows.stages.common import (
    DIVERGENCE,
    ended_early_by,
    evaluates_all,
    is_compared,
    trainings_of,
)
from nnunet_medseg.workflows.stages.forecast import reference_s, workload
from nnunet_medseg.workflows.variables import VARIABLES

__all__ = ["TrainResult", "stages_of", "train"]

CLOSING = (Stage("keep", delivery.keep), Stage("clean", delivery.clean))


def stages_of(run: Run) -> Iterator[Stage]:
    """Tell the story of a run.

    How many trainings there are is known only when the dataset has been checked.
    """
    if run.options.pretrained is not None:
        yield Stage("model", pretraining.read_given)
    yield Stage("check", checking.check)
    yield Stage("convert", checking.convert)
    yield Stage("plan", planning.plan)
    yield Stage("preprocess", planning.preprocess)
    if run.options.pretrained is not None:
        assessed_s = partial(evaluation.evaluated_s, run.folder.given_evaluation_file)
        yield Stage("assess", evaluation.evaluate_given, assessed_s)
    trainings = trainings_of(run)
    for part in trainings:
        suffix = f" {part.title}" if len(trainings) > 1 else ""
        # What is only compared with the model does not keep it from being handed over.
        work = training.train_variant if is_compared(run, part) else training.train
        trained_s = partial(training.trained_s, part)
        yield Stage(f"train{suffix}", partial(work, training=part), trained_s)
        files = (part.folder.evaluation_file, part.folder.trained_on_file)
        evaluated_s = partial(evaluation.evaluated_s, *files)
        yield Stage(f"evaluate{suffix}", partial(evaluation.evaluate, training=part), evaluated_s)
    yield Stage("report", reporting.report)
    yield Stage("bundle", delivery.bundle)
    yield Stage("verify", delivery.verify)
    yield Stage("deliver", delivery.deliver)
    yield from CLOSING


# What no stage before planning, or before training, looks at.
MATTERS_FROM_PLANNING_ON = {"minutes", "device", "plan", *VARIABLES}
MATTERS_FROM_TRAINING_ON = {"evaluate_all", "key", "delete_input", "card"}


@dataclass(frozen=True)
class TrainResult:
    """What a training has handed over.

    Attributes:
        folder: In the output folder; `folder / "model"` may be given away.
        manifest: Every figure of the model.
    """

    folder: Path
    manifest: Manifest


def train(
    input_folder: Path,
    output_folder: Path,
    work_folder: Path,
    *,
    resume: bool = False,
    fresh: bool = False,
    ending: Ending | None = None,
    **options: Any,
) -> TrainResult:
    """Train a model on the one dataset in a folder.

    Args:
        input_folder: Holds the dataset. It is only deleted with `delete_input=True`.
        output_folder: Takes the model, in a folder named after the dataset.
        work_folder: Takes work in progress; private.
        resume: Go on with an unfinished run of that name though the options differ, as it began.
        fresh: Discard an unfinished run of that name.
        ending: When all has to be over, and the grace after SIGTERM; None for no deadline.
        options: Fields of `TrainOptions`; `minutes` is the training duration. On a kept dataset,
            `label`, `image_type`, `extension` and `layout` are as they were unless they are given.
            Beside them `tensorboard`: a folder that takes events for TensorBoard.

    Returns:
        Where the model is, and its figures.

    Raises:
        UserError: When something is wrong that the user can put right; nothing was deleted.
    """
    ending = Ending() if ending is None else ending
    # Where figures are shown besides is no option of the run: it may change when a run goes on.
    events = options.pop("tensorboard", None)
    folders = Folders(
        Path(input_folder).absolute(),
        Path(output_folder).absolute(),
        Path(work_folder).absolute(),
        None if events is None else Path(events).absolute(),
    )
    if options.get("pretrained") is not None:
        # The same model from another current folder is the same command.
        options["pretrained"] = str(Path(options["pretrained"]).resolve())
    kept = _kept_dataset(folders, str(options.get("dataset_name", TrainOptions.dataset_name)))
    asked = read_train_options(**((kept.record.options if kept else {}) | options))
    require_writable(folders.output)
    with lock(folders.work):
        sweep(folders.work)
        sweep_kept(folders.work)
        run_folder = RunFolder(folders.work / "runs" / asked.dataset_name)
        if fresh and run_folder.root.exists():
            # First: nothing is discarded for an input that cannot be trained on.
            _find_source(folders, kept, asked)
            discard_run(run_folder)
        if _is_delivered(run_folder):
            before = run_folder.journal()
            result = _tidy_up(run_folder, folders)
            kept = _kept_dataset(folders, asked.dataset_name)
            if kept is None and not _has_dataset(folders.input, asked.layout):
                return result
            if before.options == asked.to_json():
                console.detail("that was this command; run it again to train once more")
                return result
        with ending.listening():
            return _train_in(run_folder, folders, asked, kept, ending, resume=resume)


def _kept_dataset(folders: Folders, name: str) -> KeptDataset | None:
    """Return the kept dataset that a command with an empty input folder means, if any."""
    if not holds_nothing(folders.input):
        return None
    return find_kept(folders.work, check_name(name))


def _find_source(folders: Folders, kept: KeptDataset | None, asked: TrainOptions) -> Path:
    return find_dataset(folders.input, asked.layout) if kept is None else kept.files


def _train_in(
    run_folder: RunFolder,
    folders: Folders,
    asked: TrainOptions,
    kept: KeptDataset | None,
    ending: Ending,
    *,
    resume: bool,
) -> TrainResult:
    from nnunet_medseg.nnunet.environment import prepare

    dataset_folder = _find_source(folders, kept, asked)
    if kept is not None:
        console.detail(
            f"on the kept dataset {kept.name}: {console.counted(kept.record.cases, 'case')}"
        )
    prepare(
        {
            "nnUNet_raw": run_folder.raw,
            "nnUNet_preprocessed": run_folder.preprocessed,
            "nnUNet_results": run_folder.results,
        }
    )
    # The heavy imports of the workers go on while the dataset is checked.
    warm_up(["nnunet_medseg.nnunet.planning"])
    options = _open(run_folder, dataset_folder, asked, resume=resume)
    console.heading(f"{options.dataset_name}: training for {options.minutes:g} minutes")
    store = run_folder.root if kept is None else kept.root
    device = choose_device(options.device)
    run = Run(run_folder, dataset_folder, folders, options, device, store, ending)
    _reopen(run)
    if any(name.startswith("train") for name in run_folder.finished_stages()):
        ending.begin()
    run_stages(stages_of(run), run, _expected_s)
    return _finish(run)


def _finish(run: Run) -> TrainResult:
    target = delivery.delivered_folder(run.folder)
    manifest = read_manifest(target / "model")
    if manifest is None:
        problem = f"The delivered model in {target} is gone."
        raise ModelError(problem, fix="Nothing else was deleted. Train again with --fresh.")
    remove_run(run.folder)
    return TrainResult(target, manifest)


def _expected_s(stage: str, run: Run) -> float | None:
    if not run.folder.check_file.exists():
        return None
    kind, _, title = stage.partition(" ")
    training = next((one for one in trainings_of(run) if one.title == title), trainings_of(run)[0])
    work = workload(run, training)
    if kind == "evaluate" and training.folder.training_file.exists():
        limit_s = math.inf if evaluates_all(run) else evaluation_limit_s(training.asked_s)
        return min(limit_s, work.evaluated * reference_s(run, training), run.ending.left_s)
    return expected_s(kind, work, min(training.asked_s, run.ending.left_s))


def _reopen(run: Run) -> None:
    """Let trainings go on that an earlier command had ended early, and had not handed over."""
    if "check" not in run.folder.finished_stages() or delivery.is_delivered(run.folder):
        return
    trainings = trainings_of(run)
    # Not one that diverged: it would do so again.
    early = [part for part in trainings if ended_early_by(part) not in ("", DIVERGENCE)]
    for part in early:
        suffix = f" {part.title}" if len(trainings) > 1 else ""
        # First the journal: a training without its files is done again, but not the other way.
        run.folder.forget(f"train{suffix}", f"evaluate{suffix}", "report", "bundle", "verify")
        folder = part.folder
        files = (folder.evaluation_file, folder.trained_on_file, folder.training_file)
        for path in (*files, folder.failed_file):
            path.unlink(missing_ok=True)
    if early:
        console.detail("an earlier command ended this training early; it goes on")


# --- an unfinished run of the same name --------------------------------------------------------


def _open(
    run_folder: RunFolder, dataset_folder: Path, asked: TrainOptions, *, resume: bool
) -> TrainOptions:
    """Make the run's folder, or go on with the one that is there; return the options that hold."""
    if run_folder.root.exists():
        before, changes = _compare(run_folder, dataset_folder, asked)
        if not changes.options and not changes.files:
            return asked
        if resume and before is not None and not changes.files:
            console.detail(f"going on with the unfinished run as it began, without {changes}")
            return before
        if run_folder.has_checkpoint():
            raise _ask(run_folder, changes)
        late = MATTERS_FROM_PLANNING_ON | MATTERS_FROM_TRAINING_ON
        if not changes.files and changes.options.keys() <= late:
            if changes.options.keys() & MATTERS_FROM_PLANNING_ON:
                run_folder.forget_plans()
            run_folder.change_options(asked.to_json())
            return asked
        console.detail(f"an unfinished run began otherwise ({changes}); starting over")
        discard_run(run_folder)
    journal = Journal(
        program_version=program_version(),
        options=asked.to_json(),
        dataset_folder=str(dataset_folder),
    )
    run_folder.create(journal)
    return asked


@dataclass(frozen=True)
class _Changes:
    """How a command differs from the unfinished run that it finds."""

    options: dict[str, str]
    files: tuple[str, ...]

    def __str__(self) -> str:
        shown = [*self.options.values(), *self.files]
        return "; ".join(shown[:5]) + (" …" if len(shown) > 5 else "")


def _compare(
    run_folder: RunFolder, dataset_folder: Path, asked: TrainOptions
) -> tuple[TrainOptions | None, _Changes]:
    try:
        journal = run_folder.journal()
        before = TrainOptions(**journal.options)
    except (UserError, TypeError):
        if run_folder.has_checkpoint():
            raise
        return None, _Changes({}, ("the journal cannot be read",))
    then = before.to_json()
    options = {
        name: f"{name}: {then[name]} then, {value} now"
        for name, value in asked.to_json().items()
        if then[name] != value
    }
    files = run_folder.damaged_files()
    if files:
        return before, _Changes(options, files)
    if journal.dataset_folder != str(dataset_folder):
        files = ("the dataset lay in another folder",)
    elif "check" in run_folder.finished_stages():
        files = _compare_files(run_folder, dataset_folder)
    return before, _Changes(options, files)


def _compare_files(run_folder: RunFolder, dataset_folder: Path) -> tuple[str, ...]:
    def stamps(listed: list[ListedFile]) -> dict[str, ListedFile]:
        return {item.path: replace(item, sha256="") for item in listed}

    before = stamps([ListedFile(**item) for item in read_json(run_folder.inventory_file)])
    now = stamps(list(list_files(dataset_folder)))
    changed = [path for path in before.keys() | now.keys() if before.get(path) != now.get(path)]
    return tuple(f"file {path}: not as it was" for path in sorted(changed))


def _ask(run_folder: RunFolder, changes: _Changes) -> ResumeError:
    name = run_folder.root.name
    problem = f"There is an unfinished run of {name} that began otherwise: {changes}."
    if changes.files:
        fix = "Put that right, or use --fresh to discard that run and start again."
    else:
        fix = "Use --resume to go on with it as it began, or --fresh to discard it and start again."
    return ResumeError(problem, fix=fix)


def _is_delivered(run_folder: RunFolder) -> bool:
    return run_folder.journal_file.exists() and "deliver" in run_folder.finished_stages()


def _has_dataset(folder: Path, layout: str) -> bool:
    try:
        find_dataset(folder, layout)
    except UserError:
        return False
    return True


def _tidy_up(run_folder: RunFolder, folders: Folders) -> TrainResult:
    """Do what a run that was killed after its delivery had left to do."""
    damaged = run_folder.damaged_files()
    if damaged:
        problem = f"An earlier run of that name has delivered its model, and then: {damaged[0]}."
        fix = "Use --fresh to discard what is left of it; the model and the dataset stay."
        raise ResumeError(problem, fix=fix)
    journal = run_folder.journal()
    run = Run(
        run_folder,
        Path(journal.dataset_folder),
        folders,
        TrainOptions(**journal.options),
        choose_device("cpu"),
        run_folder.root,
    )
    console.detail("an earlier run had delivered its model; its cleaning is finished first")
    if not run.dataset_folder.is_dir():
        return _finish(run)
    run_stages(CLOSING, run, lambda *_: None)
    return _finish(run)
