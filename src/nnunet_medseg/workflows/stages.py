"""The stages of a training: each reads named files of earlier stages and writes its own."""

from __future__ import annotations

import json
import math
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_medseg import console
from nnunet_medseg.budget.estimate import evaluation_limit_s
from nnunet_medseg.bundle.manifest import (
    EvaluationFacts,
    LabelEntry,
    SplitFacts,
    TrainingFacts,
    read_manifest,
)
from nnunet_medseg.dataset.checked import Checked, load_checked, save_checked
from nnunet_medseg.dataset.convert import ConversionJob, convert_cases
from nnunet_medseg.dataset.raw_layout import (
    RawCase,
    describe_json,
    read_cases,
    write_description,
)
from nnunet_medseg.errors import DatasetError, FolderError, VerificationError
from nnunet_medseg.evaluation.overlap import dice_by_label, mean_dice
from nnunet_medseg.files import ListedFile, delete_listed, list_files, read_json, write_json
from nnunet_medseg.hardware import core_count, free_disk_bytes, free_memory_bytes, workers_for
from nnunet_medseg.report.summary import (
    CaseScore,
    write_case_key,
    write_metrics,
    write_summary,
)
from nnunet_medseg.run_folder import DATASET_NAME, RunFolder
from nnunet_medseg.workflows.check import examine
from nnunet_medseg.workflows.interrupt import InterruptFlag
from nnunet_medseg.workflows.stage import Run

# Preprocessed voxels take a float32 and a label of 16 bits; what is converted comes on top.
DISK_BYTES_A_VOXEL = 10
DISK_RESERVE_BYTES = 1_000_000_000  # the model, its checkpoint while training, and the log
# Reading, normalising and resampling keep a few float64 copies (default_resampling.py of 2.8.1).
WORK_BYTES_A_VOXEL = 48
WATCHED_CASES = 16  # held-out cases that are preprocessed for a look during training


# --- check and convert -------------------------------------------------------------------------


def check(run: Run) -> None:
    """List the user's files with their hashes, and check the dataset."""
    # The user's files are listed before anything else, so that only these are ever deleted.
    stamps = list_files(run.dataset_folder)
    with console.progress("Listing files", len(stamps), "files") as bar:
        seen: list[ListedFile] = []

        def count(record: ListedFile) -> None:
            seen.append(record)
            bar.update(len(seen))

        listed = list_files(run.dataset_folder, hashed=True, on_file=count)
    write_json(run.folder.inventory_file, [item.to_json() for item in listed], mode=0o600)
    for link in (item.path for item in listed if item.is_link):
        console.warn(f"{link} is a link; links are not followed")
    checked, findings = examine(run.dataset_folder, run.options)
    _require_disk(run, checked)
    # What is delivered calls patients by our names only.
    names = {case.source: case.name for case in checked.cases}
    lines = [f"{names.get(item.case, 'dataset')}: {item.message}" for item in findings]
    write_json(run.folder.findings_file, lines, mode=0o600)
    save_checked(run.folder.check_file, checked)


def _require_disk(run: Run, checked: Checked) -> None:
    need = checked.megavoxels * 1e6 * DISK_BYTES_A_VOXEL + DISK_RESERVE_BYTES
    free = free_disk_bytes(run.folders.work)
    if free < need:
        problem = (
            f"The disk of {run.folders.work} has {free / 1e9:.1f} GB free; this dataset needs "
            f"about {need / 1e9:.1f} GB while it is trained on."
        )
        raise FolderError(problem, fix="Make room, or name another disk with --work_dir FOLDER.")


def convert(run: Run) -> None:
    """Make the folder that nnU-Net reads, of links where the user's files serve."""
    checked = load_checked(run.folder.check_file)
    jobs = [
        ConversionJob(case, facts, checked.labels, run.folder.raw, part)
        for case, facts in zip(checked.cases, checked.facts, strict=True)
        if (part := _part(checked, case.name))
    ]
    with console.progress("Converting", len(jobs), "cases") as bar:
        written = convert_cases(jobs, bar.update)
    write_description(run.folder.raw, checked.labels, checked.channels, checked.split.train)
    if written:
        console.detail(f"{written} files converted; all others are read where they are")


def _part(checked: Checked, name: str) -> str:
    return "train" if name in checked.split.train else "evaluate"


def _require_dataset(run: Run) -> None:
    """Refuse to go on when files of the dataset are gone that the run reads where they are."""
    missing = [
        path.name
        for part in ("train", "evaluate")
        for case in read_cases(run.folder.raw, part)
        for path in (*case.images, case.label)
        if not path.exists()
    ]
    if missing:
        problem = f"{len(missing)} files of the dataset in {run.dataset_folder} are gone."
        raise DatasetError(problem, fix="Put them back and run the same command; it goes on.")


# --- plan and preprocess -----------------------------------------------------------------------


def plan(run: Run) -> None:
    """Let nnU-Net measure the training cases and plan the one configuration to train."""
    from nnunet_medseg.nnunet.environment import chatter

    _require_dataset(run)
    cases = read_cases(run.folder.raw, "train")
    workers = _say_workers(run, read_shapes(run), len(cases))
    with console.progress("Measuring", len(cases), "cases") as bar, chatter(run.folder.log_file):
        from nnunet_medseg.nnunet.planning import extract_fingerprint, plan

        extract_fingerprint(
            [_raw_files(case) for case in cases],
            run.folder.dataset,
            workers=workers,
            log=run.folder.log_file,
            on_case=bar.update,
        )
        configuration = plan(DATASET_NAME, run.folder.dataset)
    chosen = read_json(run.folder.dataset / "nnUNetPlans.json")["configurations"][configuration]
    spacing = " x ".join(f"{value:.3g}" for value in chosen["spacing"])
    patch = " x ".join(str(size) for size in chosen["patch_size"])
    console.detail(
        f"{configuration}: spacing {spacing} mm, patch {patch}, batch {chosen['batch_size']}"
    )


def read_shapes(run: Run) -> list[tuple[int, ...]]:
    """Return the shapes of all cases as stored."""
    return [facts.shape for facts in load_checked(run.folder.check_file).facts]


def _raw_files(case: RawCase) -> Any:
    from nnunet_medseg.nnunet.planning import RawFiles

    return RawFiles(case.name, tuple(str(path) for path in case.images), str(case.label))


def _say_workers(run: Run, shapes: Sequence[tuple[int, ...]], items: int) -> int:
    channels = len(load_checked(run.folder.check_file).channels)
    need = max(math.prod(shape) for shape in shapes) * (channels + 1) * WORK_BYTES_A_VOXEL
    workers = workers_for(need, items)
    console.detail(
        f"{workers} worker{'s' * (workers != 1)}: {core_count()} cores, "
        f"{free_memory_bytes() / 1e9:.1f} GB free, the largest case needs {need / 1e6:.0f} MB"
    )
    return workers


def preprocess(run: Run) -> None:
    """Crop, normalise and resample the cases that train, and those watched meanwhile."""
    from nnunet_medseg.nnunet.environment import chatter

    _require_dataset(run)
    cases = [*read_cases(run.folder.raw, "train"), *_watched(run)]
    with chatter(run.folder.log_file):
        from nnunet_medseg.nnunet.planning import preprocess

    workers = _say_workers(run, _planned_shapes(run), len(cases))
    with (
        console.progress("Preprocessing", len(cases), "cases") as bar,
        chatter(run.folder.log_file),
    ):
        preprocess(
            [_raw_files(case) for case in cases],
            run.folder.dataset,
            workers=workers,
            log=run.folder.log_file,
            on_case=bar.update,
        )


def _planned_shapes(run: Run) -> list[tuple[int, ...]]:
    """Return for each case the larger of its shapes before and after resampling."""
    plans = read_json(run.folder.dataset / "nnUNetPlans.json")
    ((_, chosen),) = plans["configurations"].items()
    target = float(np.prod(chosen["spacing"]))
    shapes: list[tuple[int, ...]] = []
    for facts in load_checked(run.folder.check_file).facts:
        voxels = float(np.prod(facts.shape))
        # A 2D plan leaves the slice distance as it is.
        own = np.prod(sorted(facts.spacing_mm)[: len(chosen["spacing"])])
        shapes.append((int(voxels * max(1.0, own / target)),))
    return shapes


def _watched(run: Run) -> list[RawCase]:
    held_out = read_cases(run.folder.raw, "evaluate")
    order = np.random.default_rng(run.options.seed).permutation(len(held_out))
    return [held_out[place] for place in order[:WATCHED_CASES]]


# --- train -------------------------------------------------------------------------------------


def train(run: Run) -> None:
    """Train until the time is over; write hashes and a reference segmentation of the result."""
    from nnunet_medseg.nnunet.environment import chatter

    with chatter(run.folder.log_file):
        from nnunet_medseg.nnunet.planning import configuration_of
        from nnunet_medseg.nnunet.trainer import TrainingSetup, make_trainer

        plans, configuration = configuration_of(run.folder.dataset)
        setup = TrainingSetup(
            device=run.device,
            asked_s=run.options.minutes * 60,
            seed=run.options.seed,
            train=tuple(case.name for case in read_cases(run.folder.raw, "train")),
            watched=tuple(case.name for case in _watched(run)),
            checkpoint=run.folder.checkpoint_file,
            history=run.folder.history_file,
            log=run.folder.log_file,
        )
        trainer = make_trainer(plans, configuration, describe_json(run.folder.raw), setup)
    _announce(run)
    _train_with_bar(run, trainer)
    console.detail(
        f"{trainer.progress.iterations} iterations in {trainer.current_epoch} epochs, "
        f"{trainer.progress.iteration_s:.2f} s an iteration at the end"
    )
    _record_training(run, trainer)


def _announce(run: Run) -> None:
    from nnunet_medseg.nnunet.trainer import read_history, will_compile

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


def precision_of(run: Run) -> str:
    """Return the number format that trains."""
    if run.device.kind == "cuda":
        return "float16 (automatic mixed precision)"
    return "bfloat16" if run.device.has_fast_bf16 else "float32"


def _train_with_bar(run: Run, trainer: Any) -> None:
    from nnunet_medseg.nnunet.environment import chatter
    from nnunet_medseg.nnunet.trainer import Epoch

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
            lambda used_s: bar.update(min(used_s, asked_s), notes[0]), on_epoch, interrupt.is_set
        )


def _record_training(run: Run, trainer: Any) -> None:
    from nnunet_medseg.nnunet.environment import chatter
    from nnunet_medseg.nnunet.trainer import read_history
    from nnunet_medseg.nnunet.weights import hash_tensors, read_checkpoint

    _require_dataset(run)
    last = read_history(run.folder.history_file)[-1]
    case = _reference_case(run)
    with chatter(run.folder.log_file):
        # From the network in memory, not from a file: the file is what will be verified.
        state = trainer.network_state()
        tensors = hash_tensors(state["network_weights"])
        model = _model(run, state)
        segmenter = _segmenter(model, run)
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
        "final_loss": last.loss,
        "tensors": tensors,
        "reference_s": reference_s,
        "reference_images": [str(path) for path in case.images],
    }
    write_json(run.folder.training_file, record)


def _reference_case(run: Run) -> RawCase:
    """Return the smallest case: it is predicted twice more, once in the proof."""
    facts = {item.name: item for item in load_checked(run.folder.check_file).facts}
    cases = read_cases(run.folder.raw, "evaluate") or read_cases(run.folder.raw, "train")
    return min(cases, key=lambda case: math.prod(facts[case.name].shape))


def _model(run: Run, state: dict[str, Any]) -> Any:
    from nnunet_medseg.nnunet.inference import Model
    from nnunet_medseg.nnunet.planning import configuration_of

    plans, configuration = configuration_of(run.folder.dataset)
    axes = state["mirror_axes"]
    return Model(
        plans,
        describe_json(run.folder.raw),
        configuration,
        tuple(axes) if axes else None,
        (state["network_weights"],),
    )


def _segmenter(model: Any, run: Run) -> Any:
    from nnunet_medseg.nnunet.inference import Segmenter

    return Segmenter(model, run.device)


# --- evaluate and report -----------------------------------------------------------------------


def evaluate(run: Run) -> None:
    """Segment held-out images whole and score them, as many as the time limit allows."""
    from nnunet_medseg.nnunet.environment import chatter
    from nnunet_medseg.nnunet.weights import read_checkpoint

    _require_dataset(run)
    checked = load_checked(run.folder.check_file)
    cases = read_cases(run.folder.raw, "evaluate")
    run.folder.evaluation_file.touch()
    if not cases:
        return
    done = {score["case"]: score["seconds"] for score in _read_lines(run.folder.evaluation_file)}
    order = np.random.default_rng(run.options.seed).permutation(len(cases))
    limit_s = math.inf if run.options.evaluate_all else evaluation_limit_s(run.options.minutes * 60)
    with chatter(run.folder.log_file):
        segmenter = _segmenter(_model(run, read_checkpoint(run.folder.checkpoint_file)), run)
    with console.progress("Evaluating", len(cases), "cases") as bar:
        for case in (cases[place] for place in order if cases[place].name not in done):
            if done and sum(done.values()) + max(done.values()) > limit_s:
                console.detail(
                    f"{len(done)} of {len(cases)} cases in the time; --evaluate_all: all"
                )
                break
            started = time.monotonic()
            score = _score(run, segmenter, case, checked)
            done[case.name] = time.monotonic() - started
            _append_line(run.folder.evaluation_file, asdict(score) | {"seconds": done[case.name]})
            bar.update(len(done))


def _score(run: Run, segmenter: Any, case: RawCase, checked: Checked) -> CaseScore:
    from nnunet_medseg.nnunet.environment import chatter
    from nnunet_medseg.nnunet.inference import read_truth

    with chatter(run.folder.log_file):
        predicted = segmenter.segment(case.images)
    truth = read_truth(case.label)
    spacing = next(item.spacing_mm for item in checked.facts if item.name == case.name)
    voxel_ml = math.prod(spacing) / 1000
    dice = dice_by_label(truth, predicted, [label.index for label in checked.labels])
    return CaseScore(
        case.name,
        {label.name: dice[label.index] for label in checked.labels},
        {label.name: float((truth == label.index).sum() * voxel_ml) for label in checked.labels},
        {
            label.name: float((predicted == label.index).sum() * voxel_ml)
            for label in checked.labels
        },
    )


def _append_line(path: Path, record: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record) + "\n")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            # A killed run leaves at most its last line cut short; that case is scored again.
            break
    if len(records) < len(lines):
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return records


def report(run: Run) -> None:
    """Write summary, metrics and the key of case names; the model's figures go to the manifest."""
    checked = load_checked(run.folder.check_file)
    scores = [
        CaseScore(row["case"], row["dice"], row["truth_ml"], row["predicted_ml"])
        for row in _read_lines(run.folder.evaluation_file)
    ]
    names = [label.name for label in checked.labels]
    write_metrics(run.folder.report / "metrics.csv", names, scores)
    if run.options.key:
        sources = {case.name: case.source for case in checked.cases}
        write_case_key(run.folder.report / "case_key.csv", sources)
    facts = _evaluation_facts(names, scores, len(checked.split.evaluate))
    write_json(run.folder.quality_file, facts.model_dump(mode="json"))


def _evaluation_facts(
    names: Sequence[str], scores: Sequence[CaseScore], of_cases: int
) -> EvaluationFacts:
    by_label = {name: mean_dice([score.dice[name] for score in scores]) for name in names}
    mean = mean_dice(list(by_label.values()))
    return EvaluationFacts(
        mean_dice=None if math.isnan(mean) else mean,
        dice={name: None if math.isnan(dice) else dice for name, dice in by_label.items()},
        cases=len(scores),
        of_cases=of_cases,
    )


# --- bundle, verify, deliver, clean ------------------------------------------------------------


def bundle(run: Run) -> None:
    """Build what is handed over under a hidden name beside its place."""
    from nnunet_medseg.bundle.build import ModelParts, build_model
    from nnunet_medseg.nnunet.environment import chatter
    from nnunet_medseg.nnunet.planning import configuration_of
    from nnunet_medseg.nnunet.weights import read_checkpoint

    _name_hidden(run)
    hidden = _hidden(run)
    if hidden.exists():
        shutil.rmtree(hidden)
    hidden.mkdir(parents=True)
    with chatter(run.folder.log_file):
        plans, configuration = configuration_of(run.folder.dataset)
        parts = ModelParts(
            plans,
            describe_json(run.folder.raw),
            configuration,
            run.options.fold,
            read_checkpoint(run.folder.checkpoint_file),
        )
    manifest = build_model(hidden / "model", parts, _manifest_facts(run))
    for path in run.folder.report.iterdir():
        shutil.copy(path, hidden / path.name)
    write_summary(
        hidden / "summary.txt",
        manifest,
        run.folder.finished_stages(),
        read_json(run.folder.findings_file),
    )


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


def _manifest_facts(run: Run) -> dict[str, Any]:
    checked = load_checked(run.folder.check_file)
    training = read_json(run.folder.training_file)
    return {
        "name": run.options.dataset_name,
        "labels": [
            LabelEntry(name=label.name, value=label.value, index=label.index)
            for label in checked.labels
        ],
        "channels": list(checked.channels),
        "split": SplitFacts(
            fold=run.options.fold,
            train_cases=len(checked.split.train),
            held_out_cases=len(checked.split.evaluate),
        ),
        "training": TrainingFacts(
            asked_s=training["asked_s"],
            used_s=training["used_s"],
            iterations=training["iterations"],
            epochs=training["epochs"],
            final_loss=training["final_loss"],
            device=run.device.kind,
            precision=precision_of(run),
            seed=run.options.seed,
        ),
        "evaluation": EvaluationFacts.model_validate(read_json(run.folder.quality_file)),
        "parameters": run.options.to_json(),
    }


def verify(run: Run) -> None:
    """Prove in a fresh process that the model on disk is the one that was trained."""
    from nnunet_medseg.bundle.verify import Proof, verify_in_fresh_process

    _require_dataset(run)
    training = read_json(run.folder.training_file)
    proof = Proof(
        model=str(_hidden(run) / "model"),
        fold=run.options.fold,
        images=tuple(training["reference_images"]),
        reference=str(run.folder.reference_file),
        tensors=training["tensors"],
        device=run.device,
        log=str(run.folder.log_file),
    )
    try:
        agreement = verify_in_fresh_process(proof)
    except VerificationError:
        # The next try builds the folder anew; a damaged one would fail for ever.
        run.folder.forget("bundle")
        raise
    console.detail(
        f"{len(proof.tensors)} tensors are bit-identical; stock nnU-Net agrees on {agreement:.2%} "
        "of the voxels of a case"
    )


def deliver(run: Run) -> None:
    """Rename the verified folder to its name; an existing one is never overwritten."""
    hidden = _hidden(run)
    record = read_json(run.folder.delivery_file)
    if not hidden.exists() and record["target"] is not None:
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


def clean(run: Run) -> None:
    """Delete the dataset copy, exactly as it was listed; keep and name all else."""
    target = delivered_folder(run.folder)
    if read_manifest(target / "model") is None:
        problem = f"The delivered model in {target} is gone."
        raise FolderError(problem, fix="Nothing was deleted. Use --fresh to train again.")
    if not run.options.delete_input:
        console.detail("the dataset was left where it is")
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


def _remove_empty_parents(run: Run) -> None:
    for parent in run.dataset_folder.parents:
        if run.folders.input not in parent.parents:
            return
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def _say_deleted(run: Run, deleted: int, kept: tuple[str, ...]) -> None:
    console.detail(f"deleted: {deleted} files of the dataset copy")
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
