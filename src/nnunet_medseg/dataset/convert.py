"""The copy of the dataset that nnU-Net reads: links where the user's file serves, else new files.

Promises: the user's files are read, never changed; no name of a patient is in a file name.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_medseg.dataset.case import Case
from nnunet_medseg.dataset.contents import Part, read_contents
from nnunet_medseg.dataset.facts import CaseFacts
from nnunet_medseg.dataset.labels import LabelMap
from nnunet_medseg.dataset.raw_layout import FILE_ENDING, image_path, label_path
from nnunet_medseg.dataset.repairs import repair
from nnunet_medseg.errors import DatasetError
from nnunet_medseg.hardware import workers_for
from nnunet_medseg.parallel import map_in_workers
from nnunet_medseg.volume import Volume, write_volume

__all__ = ["ConversionJob", "convert_cases", "from_training_labels", "to_training_labels"]

BYTES_A_VOXEL = 24  # image, label map and their copies while writing


@dataclass(frozen=True)
class ConversionJob:
    """One case to convert.

    Attributes:
        case: What the user brought.
        facts: What the check found.
        labels: The labels to train.
        raw: The folder of raw datasets.
    """

    case: Case
    facts: CaseFacts
    labels: LabelMap
    raw: Path


def convert_cases(
    jobs: Sequence[ConversionJob], on_case: Callable[[int], None] = lambda _: None
) -> int:
    """Convert all cases.

    Args:
        jobs: One a case.
        on_case: Called with the number of cases that are done.

    Returns:
        Number of files that had to be written; all others are links.

    Raises:
        DatasetError: When a file is not what it was any more when the dataset was checked.
    """
    for job in jobs:
        image_path(job.raw, job.case.name, 0).parent.mkdir(parents=True, exist_ok=True)
        label_path(job.raw, job.case.name).parent.mkdir(parents=True, exist_ok=True)
    to_write = [job for job in jobs if any(_must_write(job))]
    largest = max((float(np.prod(job.facts.shape)) for job in to_write), default=0.0)
    # Few files are not worth a worker's start.
    workers = (
        1 if largest * len(to_write) < 5e7 else workers_for(largest * BYTES_A_VOXEL, len(jobs))
    )
    map_in_workers(convert_case, jobs, workers=workers, on_result=on_case)
    return sum(sum(_must_write(job)) for job in jobs)


def _must_write(job: ConversionJob) -> list[bool]:
    """Tell for each channel, and for the label map last, whether a link does not serve."""
    files = (*job.case.images, job.case.label)
    needs = [
        place in job.facts.changed_parts or not path.name.endswith(FILE_ENDING)
        for place, path in enumerate(files)
    ]
    known = {label.value: label.index for label in job.labels}
    needs[-1] = needs[-1] or any(known.get(value) != value for value in job.facts.label_voxels)
    return needs


def convert_case(job: ConversionJob) -> None:
    """Link or write the files of one case, repaired as the check had found it.

    Raises:
        DatasetError: When one of them cannot be read any more.
    """
    *write_images, write_label = _must_write(job)
    targets = [
        image_path(job.raw, job.case.name, channel) for channel in range(len(job.case.images))
    ]
    label_target = label_path(job.raw, job.case.name)
    for path, target, must_write in zip(job.case.images, targets, write_images, strict=True):
        if not must_write:
            _link(target, path)
    if not write_label:
        _link(label_target, job.case.label)
    if not any((*write_images, write_label)):
        return
    channels, label = _read(job)
    # The grids agree within the tolerance; nnU-Net wants them equal.
    grid = channels[0].volume
    for part, target, must_write in zip(channels, targets, write_images, strict=True):
        if must_write:
            _write(target, grid.with_array(part.array))
    if write_label:
        _write(label_target, grid.with_array(to_training_labels(label.array, job.labels)))


def _read(job: ConversionJob) -> tuple[tuple[Part, ...], Part]:
    contents, findings = read_contents(job.case)
    contents, _ = repair(job.case, contents)
    shapes = {part.array.shape for part in contents.parts}
    if findings or contents.label is None or shapes != {job.facts.shape}:
        found = findings[0].message if findings else "another size"
        problem = f"{job.case.source} has changed since it was checked: {found}."
        fix = "Put its files back and run the same command; it goes on."
        raise DatasetError(problem, fix=fix)
    return contents.channels, contents.label


def _write(target: Path, volume: Volume) -> None:
    # A link left there would lead the writing into the user's file.
    target.unlink(missing_ok=True)
    write_volume(target, volume)


def _link(target: Path, source: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        target.symlink_to(source.resolve())
    except OSError:
        # Windows allows links to administrators only; some shares allow none.
        shutil.copyfile(source, target)
        os.utime(target)


def to_training_labels(array: np.ndarray[Any, Any], labels: LabelMap) -> np.ndarray[Any, Any]:
    """Return 1 … n for the labels and 0 for everything else.

    Args:
        array: The user's values, any shape.
        labels: The labels to train.
    """
    trained = np.zeros(array.shape, dtype=np.uint8 if len(labels) < 255 else np.uint16)
    for label in labels:
        trained[array == label.value] = label.index
    return trained


def from_training_labels(array: np.ndarray[Any, Any], labels: LabelMap) -> np.ndarray[Any, Any]:
    """Return the user's own values for 1 … n, in the smallest type that holds them."""
    largest = max(label.value for label in labels)
    values = np.zeros(array.shape, dtype=np.uint8 if largest < 256 else np.uint16)
    for label in labels:
        values[array == label.index] = label.value
    return values
