"""Bundle, verify, deliver and clean: from weights to a model in the output folder."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any

from nnunet_medseg import console
from nnunet_medseg.bundle.manifest import (
    EvaluationFacts,
    LabelEntry,
    PlanFacts,
    SplitFacts,
    TrainingFacts,
    read_manifest,
)
from nnunet_medseg.dataset.checked import load_checked
from nnunet_medseg.dataset.raw_layout import (
    describe_json,
)
from nnunet_medseg.errors import FolderError, VerificationError
from nnunet_medseg.files import ListedFile, delete_listed, list_files, read_json, write_json
from nnunet_medseg.report.summary import (
    write_summary,
)
from nnunet_medseg.run_folder import RunFolder
from nnunet_medseg.workflows.stage import Run
from nnunet_medseg.workflows.stages.common import precision_of, require_dataset


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
    planned = read_json(run.folder.plan_file)
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
        "plan": PlanFacts(
            size=planned["plan"],
            reason=planned["reason"],
            forecast_step_s=planned["step_s"],
            forecast_steps=planned["steps"],
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
            recipe=planned["recipe"],
            share_in_steps=training["stepping_s"] / training["used_s"],
            share_waiting_for_data=training["waited_s"] / training["used_s"],
            setbacks=training["setbacks"],
        ),
        "evaluation": EvaluationFacts.model_validate(read_json(run.folder.quality_file)),
        "parameters": run.options.to_json(),
    }


def verify(run: Run) -> None:
    """Prove in a fresh process that the model on disk is the one that was trained."""
    from nnunet_medseg.bundle.verify import Proof, verify_in_fresh_process

    require_dataset(run)
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
