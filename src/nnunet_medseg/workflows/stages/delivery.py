"""Bundle, verify, deliver and clean: from weights to a model in the output folder."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_medseg import console
from nnunet_medseg.bundle.manifest import (
    ComparedFacts,
    CurveFacts,
    DataFacts,
    EvaluationFacts,
    LabelEntry,
    Manifest,
    PlanFacts,
    PretrainedFacts,
    SplitFacts,
    StageFacts,
    TrainedOnFacts,
    TrainingFacts,
    read_manifest,
)
from nnunet_medseg.dataset.checked import Checked, load_checked
from nnunet_medseg.dataset.kept import (
    Keeping,
    KeptRecord,
    find_kept,
    is_kept,
    keep_dataset,
    now_text,
)
from nnunet_medseg.dataset.raw_layout import (
    describe_json,
)
from nnunet_medseg.errors import FolderError, VerificationError
from nnunet_medseg.files import (
    ListedFile,
    delete_listed,
    has_link,
    list_files,
    read_json,
    write_atomic,
    write_json,
)
from nnunet_medseg.hardware import describe_hardware
from nnunet_medseg.report.page import write_report
from nnunet_medseg.report.summary import write_summary
from nnunet_medseg.run_folder import RunFolder
from nnunet_medseg.workflows.options import TrainOptions, command_of
from nnunet_medseg.workflows.stage import Run, Training
from nnunet_medseg.workflows.stages.common import (
    diverged_folds,
    ended_early,
    handed_over,
    make_model,
    make_segmenter,
    other_ended_early,
    others_failed,
    precision_of,
    require_dataset,
    trainings_of,
    write_labels,
)
from nnunet_medseg.workflows.stages.evaluation import read_scores
from nnunet_medseg.workflows.stages.picturing import draw_pictures


def bundle(run: Run) -> None:
    """Build what is handed over under a hidden name beside its place."""
    from nnunet_medseg.bundle.build import ModelParts, build_model
    from nnunet_medseg.nnunet.environment import chatter
    from nnunet_medseg.nnunet.planning import configuration_of
    from nnunet_medseg.nnunet.weights import read_checkpoint

    trainings = handed_over(run)
    _name_hidden(run)
    hidden = _hidden(run)
    # From here on nothing is delivered: a name may be left from a delivery that was cut off.
    record = {"hidden": str(hidden), "target": None}
    write_json(run.folder.delivery_file, record, mode=0o600)
    if hidden.exists():
        shutil.rmtree(hidden)
    hidden.mkdir(parents=True)
    with chatter(run.folder.log_file):
        plans, configuration = configuration_of(trainings[0].folder.root)
        parts = ModelParts(
            plans,
            describe_json(run.folder.raw),
            configuration,
            {
                training.fold: read_checkpoint(training.folder.checkpoint_file)
                for training in trainings
            },
        )
        _write_reference(run, trainings, list(parts.checkpoints.values()))
    manifest = build_model(hidden / "model", parts, _manifest_facts(run))
    for path in run.folder.report.iterdir():
        shutil.copy(path, hidden / path.name)
    findings = read_json(run.folder.findings_file)
    write_summary(hidden / "summary.txt", manifest, run.folder.finished_stages(), findings)
    scores = [
        score for training in trainings for score in read_scores(training.folder.evaluation_file)
    ]
    write_report(hidden / "report.html", manifest, scores, draw_pictures(run), findings)


def _name_hidden(run: Run) -> None:
    if run.folder.delivery_file.exists() and _hidden(run).parent != run.folders.output:
        # The output folder is another one now.
        shutil.rmtree(_hidden(run), ignore_errors=True)
        run.folder.delivery_file.unlink()
    if not run.folder.delivery_file.exists():
        # The token keeps two work folders that share an output folder apart.
        name = f".{run.options.dataset_name}.unfinished-{secrets.token_hex(4)}"
        record = {"hidden": str(run.folders.output / name), "target": None}
        write_json(run.folder.delivery_file, record, mode=0o600)


def _hidden(run: Run) -> Path:
    return Path(read_json(run.folder.delivery_file)["hidden"])


def _write_reference(
    run: Run, trainings: Sequence[Training], checkpoints: Sequence[Mapping[str, Any]]
) -> None:
    """Write the segmentation that the model is verified against.

    A single training has made it from the network in memory; an ensemble has none before here. Its
    weights are those that the trainings hashed, which the proof compares.
    """
    if len(trainings) == 1:
        write_atomic(run.folder.reference_file, trainings[0].folder.reference_file.read_bytes())
        return
    segmenter = make_segmenter(make_model(run, trainings[0], *checkpoints), run)
    images = read_json(trainings[0].folder.training_file)["reference_images"]
    labels = segmenter.segment([Path(image) for image in images])
    write_labels(run.folder.reference_file, labels)


def _manifest_facts(run: Run) -> dict[str, Any]:
    checked = load_checked(run.folder.check_file)
    trainings = handed_over(run)
    planned = read_json(trainings[0].folder.plan_file)
    quality = read_json(run.folder.quality_file)
    pretrained = quality.get("pretrained")
    return {
        "name": run.options.dataset_name,
        "labels": [
            LabelEntry(name=label.name, value=label.value, index=label.index)
            for label in checked.labels
        ],
        "channels": list(checked.channels),
        "split": _split_facts(run, checked),
        "plan": PlanFacts(
            size=planned["plan"],
            reason=planned["reason"],
            forecast_step_s=planned["step_s"],
            forecast_steps=planned["steps"],
        ),
        "training": _training_facts(run, trainings),
        "curves": [CurveFacts.model_validate(item) for item in quality["curves"]],
        "trained_on": TrainedOnFacts.model_validate(quality["trained_on"]),
        "data": DataFacts.model_validate(quality["data"]),
        "stages": [
            StageFacts(name=name, seconds=seconds)
            for name, seconds in run.folder.finished_stages().items()
        ],
        "evaluation": EvaluationFacts.model_validate(quality["evaluation"]),
        "compared": [ComparedFacts.model_validate(item) for item in quality.get("compared", [])],
        "verdict": quality.get("verdict", ""),
        "pretrained": PretrainedFacts.model_validate(pretrained) if pretrained else None,
        "card": run.options.card,
        "command": command_of(run.options),
        "parameters": _parameters(trainings[0].options, run.options),
    }


def _split_facts(run: Run, checked: Checked) -> SplitFacts:
    """Return who trained what is handed over, and who was held out, in numbers."""
    folds = (checked.folds[training.fold] for training in handed_over(run))
    trained_on = {name for split in folds for name in split.train}
    held_out = set(checked.evaluated)
    return SplitFacts(
        fold=run.options.fold,
        train_cases=len(trained_on),
        held_out_cases=len(held_out),
        train_patients=checked.count_patients(trained_on),
        held_out_patients=checked.count_patients(held_out),
    )


def _parameters(options: TrainOptions, asked: TrainOptions) -> dict[str, Any]:
    """Return the parameters without the path of a model, which may name a patient or a user."""
    given = None if options.pretrained is None else "a model"
    plain = options.to_json() | {"pretrained": given, "vary": asked.vary}
    # The card has a place of its own.
    del plain["card"]
    return plain


def _asked_for(run: Run, trainings: Sequence[Training]) -> Sequence[Training]:
    """Return what the minutes were asked for: all folds, though some may have been left out."""
    return trainings_of(run) if run.options.fold == "cv" else trainings


def _training_facts(run: Run, trainings: Sequence[Training]) -> TrainingFacts:
    """Return the training in numbers; those of folds are added up."""
    records = [read_json(training.folder.training_file) for training in trainings]

    def total(name: str) -> float:
        return float(sum(record[name] for record in records))

    used_s = total("used_s")
    return TrainingFacts(
        asked_s=sum(each.asked_s for each in _asked_for(run, trainings)),
        planned_s=total("planned_s"),
        ended_early=ended_early(run),
        other_ended_early=other_ended_early(run),
        others_failed=others_failed(run),
        diverged_folds=diverged_folds(run),
        used_s=used_s,
        iterations=int(total("iterations")),
        epochs=int(total("epochs")),
        final_loss=total("final_loss") / len(records),
        device=run.device.kind,
        precision=precision_of(run),
        seed=trainings[0].options.seed,
        recipe=read_json(trainings[0].folder.plan_file)["recipe"],
        share_in_steps=total("stepping_s") / used_s,
        share_waiting_for_data=total("waited_s") / used_s,
        share_validating=total("validation_s") / used_s,
        share_saving=total("checkpoints_s") / used_s,
        setbacks=int(total("setbacks")),
        hardware=describe_hardware(run.device),
        threads=records[0].get("threads"),
        loaders=max(record.get("loaders", 0) for record in records) or None,
        channels_last=records[0].get("channels_last"),
    )


def verify(run: Run) -> None:
    """Prove in a fresh process that the model on disk is the one that was trained."""
    from nnunet_medseg.bundle.verify import Proof, verify_in_fresh_process

    require_dataset(run)
    records = {
        training.fold: read_json(training.folder.training_file) for training in handed_over(run)
    }
    proof = Proof(
        model=str(_hidden(run) / "model"),
        images=tuple(next(iter(records.values()))["reference_images"]),
        reference=str(run.folder.reference_file),
        tensors={fold: record["tensors"] for fold, record in records.items()},
        device=run.device,
        log=str(run.folder.log_file),
    )
    try:
        agreement = verify_in_fresh_process(proof)
    except VerificationError:
        # The next try builds the folder anew; a damaged one would fail for ever.
        run.folder.forget("bundle")
        raise
    count = sum(len(tensors) for tensors in proof.tensors.values())
    console.detail(
        f"{count} tensors are bit-identical; stock nnU-Net agrees on {agreement:.2%} "
        "of the voxels of a case"
    )


def is_delivered(folder: RunFolder) -> bool:
    """Tell whether the model has its name already, also when that is not yet in the journal."""
    if not folder.delivery_file.exists():
        return False
    record = read_json(folder.delivery_file)
    has_name = record["target"] is not None and Path(record["target"]).exists()
    return has_name and not Path(record["hidden"]).exists()


def deliver(run: Run) -> None:
    """Rename the verified folder to its name; an existing one is never overwritten."""
    hidden = _hidden(run)
    record = read_json(run.folder.delivery_file)
    if is_delivered(run.folder):
        # Killed between the renaming and the journal.
        return
    number = 1
    while True:
        name = run.options.dataset_name + (f"_{number}" if number > 1 else "")
        target = hidden.parent / name
        if not target.exists():
            write_json(run.folder.delivery_file, record | {"target": str(target)}, mode=0o600)
            hidden.rename(target)
            return
        number += 1


def delivered_folder(folder: RunFolder) -> Path:
    """Return where a run has delivered its model."""
    return Path(read_json(folder.delivery_file)["target"])


def keep(run: Run) -> None:
    """Keep the dataset and what was prepared of it for later trainings, when that was asked."""
    if not run.options.keep_dataset or run.store != run.folder.root:
        return
    name, work = run.options.dataset_name, run.folders.work
    if find_kept(work, name) is not None:
        console.detail(f"{name} is kept already")
        return
    listed = [ListedFile(**item) for item in read_json(run.folder.inventory_file)]
    record = KeptRecord(
        kept_at=now_text(),
        cases=len(load_checked(run.folder.check_file).cases),
        options={
            "label": run.options.label,
            "image_type": run.options.image_type,
            "extension": run.options.extension,
            "layout": run.options.layout,
        },
        inventory=[],
    )
    what = Keeping(
        run.dataset_folder, listed, record, run.folder.root, may_link=run.options.delete_input
    )
    with console.progress("Keeping the dataset", len(listed), "files") as bar:
        is_kept = keep_dataset(work, name, what, bar.update)
    if is_kept:
        console.detail(f"kept as {name}: -d {name} with an empty input folder trains on it again")
    else:
        console.warn("a file of the dataset has changed meanwhile, so that it is not kept")


def clean(run: Run) -> None:
    """Delete the dataset copy, exactly as it was listed; keep and name all else."""
    target = delivered_folder(run.folder)
    manifest = read_manifest(target / "model")
    if manifest is None:
        problem = f"The delivered model in {target} is gone."
        raise FolderError(problem, fix="Nothing was deleted. Use --fresh to train again.")
    reason = _reason_to_leave(run, manifest)
    if reason:
        console.detail(reason)
        return
    listed = [ListedFile(**item) for item in read_json(run.folder.inventory_file)]
    with console.progress("Deleting the copy", len(listed), "files") as bar:
        seen: list[ListedFile] = []

        def count(record: ListedFile) -> None:
            seen.append(record)
            bar.update(len(seen))

        present = {item.path for item in list_files(run.dataset_folder)}
        is_input = run.dataset_folder == run.folders.input
        kept = delete_listed(run.dataset_folder, listed, keep_root=is_input, on_file=count)
    _remove_empty_parents(run)
    _say_deleted(run, len(present - set(kept)), kept)


def _reason_to_leave(run: Run, manifest: Manifest) -> str:
    """Return why the dataset copy stays where it is; empty when it is deleted."""
    if not run.dataset_folder.is_dir():
        return "the dataset copy is not there any more"
    if is_kept(run.dataset_folder):
        return "the kept dataset stays; medseg forget deletes it"
    if run.options.keep_dataset and find_kept(run.folders.work, run.options.dataset_name) is None:
        return "the dataset could not be kept, so that its copy was left where it is"
    if not run.options.delete_input:
        return "the dataset was left where it is"
    if has_link(run.dataset_folder, run.folders.input):
        return "the dataset lies behind a link, which may lead to the original: it was left there"
    return _missing_part(manifest)


def _missing_part(manifest: Manifest) -> str:
    """Return what went wrong in training, so that the copy is left; empty for nothing."""
    facts = manifest.training
    if facts.ended_early or facts.other_ended_early:
        return "the training was ended early, so that the copy was left for another one"
    if facts.others_failed:
        return "a training to compare with failed, so that the copy was left for another one"
    if facts.diverged_folds:
        return "a fold diverged, so that the copy was left for another training"
    return ""


def _remove_empty_parents(run: Run) -> None:
    for parent in run.dataset_folder.parents:
        if run.folders.input not in parent.parents:
            return
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def _say_deleted(run: Run, deleted: int, kept: tuple[str, ...]) -> None:
    console.detail(f"deleted: {console.counted(deleted, 'file')} of the dataset copy")
    around = {run.dataset_folder, *run.dataset_folder.parents}
    beside = [
        path.relative_to(run.folders.input).as_posix()
        for parent in run.dataset_folder.parents
        if parent.is_dir() and run.folders.input in (parent, *parent.parents)
        for path in parent.iterdir()
        if path not in around
    ]
    for name in [*kept, *beside][:20]:
        console.warn(f"kept, since it is new, changed, or beside the dataset: {name}")
