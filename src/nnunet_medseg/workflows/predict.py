"""From copied images to segmentations with the user's own label values."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_medseg import console
from nnunet_medseg.bundle.locate import find_model
from nnunet_medseg.bundle.manifest import read_manifest
from nnunet_medseg.dataset.case import Finding
from nnunet_medseg.dataset.labels import Label, LabelMap
from nnunet_medseg.dataset.unlabelled import Unlabelled, check_unlabelled, group_images
from nnunet_medseg.errors import DatasetError, FolderError, ModelError, UsageError
from nnunet_medseg.files import ListedFile, delete_listed, hash_file, list_files
from nnunet_medseg.hardware import Device, choose_device
from nnunet_medseg.nnunet.plans import channel_names
from nnunet_medseg.run_folder import lock, require_writable, sweep
from nnunet_medseg.workflows.check import show_findings
from nnunet_medseg.workflows.predicting.outputs import (
    NIFTI,
    OUTPUT_FORMATS,
    UNFINISHED,
    as_format,
    name_files,
)
from nnunet_medseg.workflows.predicting.pipeline import Job, Shelf, segment_cases
from nnunet_medseg.workflows.predicting.record import Record, require_free_names
from nnunet_medseg.workflows.predicting.table import Row, free_table, show_table, write_table

__all__ = ["PRECISIONS", "labels_of", "predict"]

RECORD = "predicted.json"  # in the work folder: what an interrupted prediction has written
PRECISIONS = ("auto", "float32")
MAX_SHOWN = 20  # names
LARGEST_VALUE = 65535  # segmentations are written with 16 bits at most


@dataclass(frozen=True)
class _Asked:
    """What the user asks for."""

    source: Path
    output: Path
    work: Path
    model: Path
    device: Device
    delete_input: bool
    preview: bool
    probabilities: bool
    in_bfloat16: bool
    output_format: str


def predict(  # noqa: PLR0913 public: each option of the command is an argument
    input_folder: Path,
    output_folder: Path,
    model: Path,
    work_folder: Path,
    *,
    device: str = "auto",
    delete_input: bool = False,
    preview: bool = False,
    probabilities: bool = False,
    precision: str = "auto",
    output_format: str = NIFTI,
) -> tuple[Path, ...]:
    """Segment every image in a folder.

    Beside the segmentations it writes `volumes.csv`.

    Args:
        input_folder: Images, or folders with images.
        output_folder: Takes a segmentation of the same name, format, grid and direction for each.
            What is there already is never overwritten.
        model: A model folder of this program or of stock nnU-Net.
        work_folder: Takes work in progress; private.
        device: "auto", "cpu", "cuda" or "cuda:N".
        delete_input: Whether the images are deleted when all were segmented and written.
        preview: Whether a picture is written beside each segmentation.
        probabilities: Whether a probability map is written for each label.
        precision: "float32" computes as stock nnU-Net does; "auto" takes bfloat16 on a CPU whose
            hardware has it, about twice as fast.
        output_format: Of the segmentations of DICOM series: "nifti", "dicom_seg" or "rtstruct".

    Returns:
        The segmentations, in the order of their names.

    Raises:
        UserError: When something is wrong that the user can put right; no image was deleted.
    """
    source, output, work = (
        Path(item).absolute() for item in (input_folder, output_folder, work_folder)
    )
    if precision not in PRECISIONS:
        problem = f"The precision {precision!r} is not known."
        raise UsageError(problem, fix=f"Take one of {', '.join(PRECISIONS)}.")
    if output_format not in OUTPUT_FORMATS:
        problem = f"The output format {output_format!r} is not known."
        raise UsageError(problem, fix=f"Take one of {', '.join(OUTPUT_FORMATS)}.")
    model_folder = find_model(Path(model).absolute())
    if not source.is_dir():
        problem = f"The input folder {source} does not exist."
        raise FolderError(problem, fix="Create it and copy the images to segment into it.")
    require_writable(output)
    with lock(work):
        sweep(work)
        for folder in output.glob(f"{UNFINISHED}*"):
            shutil.rmtree(folder)
        from nnunet_medseg.nnunet.environment import prepare

        # Before the device is chosen, which may import torch.
        prepare()
        place = choose_device(device)
        is_fast = place.kind == "cpu" and place.has_fast_bf16 and precision == "auto"
        asked = _Asked(
            *(source, output, work, model_folder, place, delete_input),
            *(preview, probabilities, is_fast, output_format),
        )
        return _predict(asked)


def _predict(asked: _Asked) -> tuple[Path, ...]:
    from nnunet_medseg.nnunet.environment import chatter

    source, output, model = asked.source, asked.output, asked.model
    log = asked.work / "predict-log.txt"
    segmenter, description = _load(asked, log)
    labels, channels = labels_of(model, description), channel_names(description)
    cases, grouping = _find_cases(source, channels)
    cases = as_format(cases, asked.output_format)
    # Before they are read: a file that changes later is not what was segmented, and stays.
    listed = _list_images(source, cases)
    shelf = Shelf()
    _check_cases(cases, grouping, shelf)
    record = Record(asked.work / RECORD, _stand_in(asked), source, output, listed)
    names = name_files(cases, labels, preview=asked.preview, probabilities=asked.probabilities)
    require_free_names(output, [(case, names[case].all) for case in cases], record)
    console.detail(
        f"{console.counted(len(cases), 'case')} with {model}; labels "
        + ", ".join(f"{label.name} = {label.value}" for label in labels)
    )
    manifest = read_manifest(model)
    data = None if manifest is None else manifest.data
    quiet = partial(chatter, log)

    def remember(case: Unlabelled, row: Row) -> None:
        record.add(case, names[case].all, row)

    job = Job(
        segmenter,
        labels,
        tuple(channels),
        data,
        output,
        names,
        quiet,
        asked.output_format,
        remember,
    )
    rows = _segment_all(job, cases, shelf, record)
    table = free_table(output)
    write_table(table, rows)
    show_table(table, rows, has_facts=data is not None)
    _tell(source, output, listed, cases, delete_input=asked.delete_input)
    record.close()
    log.unlink(missing_ok=True)
    return tuple(output / case.result for case in cases)


def _load(asked: _Asked, log: Path) -> tuple[Any, Mapping[str, Any]]:
    """Return what segments, and the model's dataset.json."""
    from nnunet_medseg.nnunet.environment import chatter

    with chatter(log):
        from nnunet_medseg.nnunet.inference import read_model
        from nnunet_medseg.nnunet.plans import naming
        from nnunet_medseg.nnunet.segmenting import CaseSegmenter

        read = read_model(asked.model)
        with naming(asked.model):
            segmenter = CaseSegmenter(read, asked.device, in_bfloat16=asked.in_bfloat16)
    return segmenter, read.description


def _stand_in(asked: _Asked) -> str:
    """Return what changes when the model does, or how it is used."""
    files = [asked.model / "plans.json", *asked.model.glob("fold_*/checkpoint_final.pth")]
    return "".join(hash_file(path) for path in sorted(files)) + f" {asked.in_bfloat16}"


def _segment_all(job: Job, cases: Sequence[Unlabelled], shelf: Shelf, record: Record) -> list[Row]:
    """Segment what is not there yet; return the rows of all cases in their order."""
    rows = {case: record.row(case, job.names[case].all) for case in cases}
    missing = [case for case in cases if rows[case] is None]
    with console.progress("Segmenting", len(cases), "cases") as bar:
        bar.update(len(cases) - len(missing))
        for number, (case, row) in enumerate(segment_cases(job, missing, shelf), start=1):
            rows[case] = row
            bar.update(len(cases) - len(missing) + number)
    return [row for row in rows.values() if row is not None]


def labels_of(folder: Path, description: Mapping[str, Any]) -> LabelMap:
    """Return the labels of a model: the user's values from our manifest, else nnU-Net's own.

    Args:
        folder: The model folder.
        description: Its dataset.json.
    """
    manifest = read_manifest(folder)
    if manifest is not None:
        indices = sorted(item.index for item in manifest.labels)
        if indices != sorted(value for value in description["labels"].values() if value != 0):
            problem = f"The manifest and the dataset.json in {folder} name different labels."
            raise ModelError(problem, fix="Copy the whole model folder again.")
        if not all(1 <= item.value <= LARGEST_VALUE for item in manifest.labels):
            problem = f"The manifest in {folder} has a label value that no segmentation can hold."
            raise ModelError(problem, fix=f"Values are whole numbers from 1 to {LARGEST_VALUE}.")
        return tuple(Label(item.name, item.value, item.index) for item in manifest.labels)
    return tuple(
        Label(name, value, value)
        for name, value in sorted(description["labels"].items(), key=lambda item: item[1])
        if value != 0
    )


def _find_cases(
    source: Path, channels: Sequence[str]
) -> tuple[tuple[Unlabelled, ...], list[Finding]]:
    cases, grouping = group_images(source, channels)
    links = [item.path for item in list_files(source) if item.is_link][:MAX_SHOWN]
    if not cases and not grouping:
        problem = f"There is no image in {source}."
        if links:
            problem += f" Links are not followed: {', '.join(links)}."
        raise DatasetError(problem, fix="Copy the images to segment into it.")
    for link in links:
        console.warn(f"{link} is a link; links are not followed")
    return cases, list(grouping)


def _check_cases(cases: Sequence[Unlabelled], grouping: Sequence[Finding], shelf: Shelf) -> None:
    """Read every image before any is segmented, and hold what memory has room for.

    Raises:
        DatasetError: When something is wrong with an image; it has been shown.
    """
    findings = list(grouping)
    with console.progress("Reading images", len(cases), "cases") as bar:
        for number, case in enumerate(cases, start=1):
            findings += check_unlabelled(case, partial(shelf.put, case))
            bar.update(number)
    show_findings(tuple(findings))
    if errors := [item for item in findings if item.severity == "error"]:
        problem = f"The images have {len(errors)} problems, listed above."
        raise DatasetError(problem, fix="Put them right and run the same command again.")
    if not cases:
        problem = "Nothing is left to segment: everything was passed over, as listed above."
        raise DatasetError(problem, fix="Copy images into the folder that the model is made for.")


def _list_images(source: Path, cases: Sequence[Unlabelled]) -> tuple[ListedFile, ...]:
    """List the files that hold the images, with their hashes; nothing else is ever deleted."""
    wanted = {path.relative_to(source).as_posix() for case in cases for path in case.files}
    stamped = [item for item in list_files(source) if item.path in wanted and not item.is_link]
    return tuple(replace(item, sha256=hash_file(source / item.path)) for item in stamped)


def _tell(
    source: Path,
    output: Path,
    listed: Sequence[ListedFile],
    cases: Sequence[Unlabelled],
    *,
    delete_input: bool,
) -> None:
    console.detail(f"{len(cases)} segmentations are in {output}")
    if not delete_input:
        return
    if source.is_symlink():
        console.warn(
            "the images lie behind a link, which may lead to the originals: they were left there"
        )
        return
    present = {item.path for item in list_files(source)}
    kept = delete_listed(source, listed, keep_root=True)
    console.detail(f"deleted: {len(present - set(kept))} image files of the input folder")
    for name in kept[:MAX_SHOWN]:
        console.warn(f"kept, since it is new, changed, or no image: {name}")
