"""Check and convert: from the user's files to the folder that nnU-Net reads."""

from __future__ import annotations

from nnunet_medseg import console
from nnunet_medseg.dataset.checked import Checked, load_checked, save_checked
from nnunet_medseg.dataset.convert import ConversionJob, convert_cases
from nnunet_medseg.dataset.raw_layout import (
    write_description,
)
from nnunet_medseg.errors import FolderError
from nnunet_medseg.files import ListedFile, list_files, write_json
from nnunet_medseg.hardware import free_disk_bytes
from nnunet_medseg.workflows.check import examine
from nnunet_medseg.workflows.stage import Run

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
