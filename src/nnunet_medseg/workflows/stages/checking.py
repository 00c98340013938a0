"""Check and convert: from the user's files to the folder that nnU-Net reads."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnunet_medseg import console
from nnunet_medseg.budget.estimate import (
    START_AND_REFERENCE_S,
    Workload,
    closing_s,
    expected_s,
)
from nnunet_medseg.dataset.case import tell_without_names
from nnunet_medseg.dataset.checked import Checked, load_checked, save_checked
from nnunet_medseg.dataset.convert import ConversionJob, convert_cases
from nnunet_medseg.dataset.inspected import InspectionRecord
from nnunet_medseg.dataset.kept import INSPECTIONS, find_kept, is_kept
from nnunet_medseg.dataset.raw_layout import (
    write_description,
)
from nnunet_medseg.errors import BudgetError, DatasetError, FolderError
from nnunet_medseg.files import ListedFile, list_files, write_json
from nnunet_medseg.hardware import core_count, free_disk_bytes
from nnunet_medseg.workflows.check import examine
from nnunet_medseg.workflows.options import variants_of
from nnunet_medseg.workflows.stage import Run
from nnunet_medseg.workflows.stages.forecast import MIN_TRAINING_S

# Preprocessed voxels take a float32 and a label of 16 bits; what is converted comes on top.
DISK_BYTES_A_VOXEL = 10
DISK_RESERVE_BYTES = 1_000_000_000  # the model, its checkpoint while training, and the log


def check(run: Run) -> None:
    """List the user's files with their hashes, and check the dataset."""
    # The user's files are listed before anything else, so that only these are ever deleted.
    stamps = list_files(run.dataset_folder)
    with console.progress("Listing files", len(stamps), "files") as bar:
        seen: list[ListedFile] = []

        def count(record: ListedFile) -> None:
            seen.append(record)
            bar.update(len(seen))

        name = run.options.dataset_name
        kept = find_kept(run.folders.work, name) if is_kept(run.dataset_folder) else None
        known = kept.inventory if kept is not None else ()
        listed = list_files(run.dataset_folder, hashed=True, known=known, on_file=count)
    write_json(run.folder.inventory_file, [item.to_json() for item in listed], mode=0o600)
    _require_free_name(run, listed)
    for link in (item.path for item in listed if item.is_link):
        console.warn(f"{link} is a link; links are not followed")
    hashes = {run.dataset_folder / item.path: item.sha256 for item in listed}
    record = InspectionRecord(run.store / INSPECTIONS, hashes)
    checked, findings = examine(run.dataset_folder, run.options, record.inspect)
    _require_measure(run, checked)
    _require_disk(run, checked)
    _require_time(run, checked)
    # What is delivered calls patients by our names only.
    lines = [tell_without_names(finding, checked.cases) for finding in findings]
    write_json(run.folder.findings_file, lines, mode=0o600)
    save_checked(run.folder.check_file, checked)


def _require_free_name(run: Run, listed: Sequence[ListedFile]) -> None:
    """Refuse to keep a dataset under the name of another one."""
    if not run.options.keep_dataset:
        return
    name = run.options.dataset_name
    kept = find_kept(run.folders.work, name)
    if kept is None or kept.holds(listed):
        return
    problem = f"Another dataset is kept under the name {name}."
    fix = f"Give this one another name with -d, or delete that one first: medseg forget {name}"
    raise DatasetError(problem, fix=fix)


def _require_measure(run: Run, checked: Checked) -> None:
    """Refuse to compare where nothing is held out to compare on."""
    asked = "--vary" if run.options.vary else "--against_scratch"
    if (run.options.vary or run.options.against_scratch) and not checked.evaluated:
        problem = f"{asked} compares trainings on held-out patients, and -f all holds none out."
        raise DatasetError(problem, fix="Use -f 0, or call some label maps validate.")


def _require_disk(run: Run, checked: Checked) -> None:
    need = checked.megavoxels * 1e6 * DISK_BYTES_A_VOXEL + DISK_RESERVE_BYTES
    free = free_disk_bytes(run.folders.work)
    console.detail(f"needs about {need / 1e9:.1f} GB of disk, {free / 1e9:.0f} GB are free")
    if free < need:
        problem = (
            f"The disk of {run.folders.work} has {free / 1e9:.1f} GB free; this dataset needs "
            f"about {need / 1e9:.1f} GB while it is trained on."
        )
        raise FolderError(problem, fix="Make room, or name another disk with --work_dir FOLDER.")


def _require_time(run: Run, checked: Checked) -> None:
    """Refuse a deadline that cannot be kept, before anything is made."""
    if not run.ending.has_deadline:
        return
    held_out = len(set(checked.evaluated))
    work = Workload(len(checked.cases), checked.megavoxels, held_out, core_count())
    trainings = len(checked.folds) if run.options.fold == "cv" else len(variants_of(run.options))
    others_s = closing_s(work) + max(1, trainings) * (START_AND_REFERENCE_S + MIN_TRAINING_S)
    stages = ("convert", "plan", "preprocess")
    others_s += sum(expected_s(stage, work, 0.0) or 0.0 for stage in stages)
    left_s = run.ending.left_s
    if left_s < others_s:
        problem = (
            f"The deadline leaves {max(0.0, left_s):.0f} s, and preparing this dataset, the "
            f"shortest training and the proof take about {others_s:.0f} s."
        )
        more = math.ceil((others_s - left_s) / 60)
        raise BudgetError(problem, fix=f"Put the deadline off by {more} minutes at least.")


def convert(run: Run) -> None:
    """Make the folder that nnU-Net reads, of links where the user's files serve."""
    checked = load_checked(run.folder.check_file)
    jobs = [
        ConversionJob(case, facts, checked.labels, run.folder.raw)
        for case, facts in zip(checked.cases, checked.facts, strict=True)
    ]
    with console.progress("Converting", len(jobs), "cases") as bar:
        written = convert_cases(jobs, bar.update)
    write_description(run.folder.raw, checked.labels, checked.channels, checked.open_to_training)
    if written:
        console.detail(
            f"{console.counted(written, 'file')} converted; all others are read where they are"
        )
