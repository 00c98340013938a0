"""Case after case: one is read while another is computed and a third is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_medseg.bundle.manifest import DataFacts
from nnunet_medseg.dataset.convert import from_training_labels
from nnunet_medseg.dataset.labels import LabelMap
from nnunet_medseg.dataset.unlabelled import Unlabelled
from nnunet_medseg.hardware import free_memory_bytes
from nnunet_medseg.volume import Volume, restore_orientation
from nnunet_medseg.workflows.likeness import Unlike, compare_case
from nnunet_medseg.workflows.predicting.outputs import (
    FileNames,
    staging,
    write_checked,
    write_preview,
    write_result,
)
from nnunet_medseg.workflows.predicting.table import Row, volumes_of

__all__ = ["Job", "Shelf", "segment_cases"]

SHELF_SHARE = 0.1  # of the free memory holds images that the check has read
COPIES_A_CASE = 10  # of an image as float32 that a case takes at its peak


class Shelf:
    """Holds images from their check until they are segmented, as far as memory allows."""

    def __init__(self) -> None:
        self._room_bytes = SHELF_SHARE * free_memory_bytes()
        self._held: dict[Unlabelled, tuple[Volume, ...]] = {}

    def put(self, case: Unlabelled, volumes: Sequence[Volume]) -> None:
        """Hold the images of a case, unless there is no room."""
        size = sum(volume.array.nbytes for volume in volumes)
        if size <= self._room_bytes and len(volumes) == len(case.images):
            self._room_bytes -= size
            self._held[case] = tuple(volumes)

    def take(self, case: Unlabelled) -> tuple[Volume, ...]:
        """Return the images of a case; those that are not held are read."""
        held = self._held.pop(case, None)
        return case.read() if held is None else held


@dataclass(frozen=True)
class Job:
    """What every case of a prediction shares.

    Attributes:
        segmenter: A `CaseSegmenter`.
        labels: Of the model, with the user's values.
        channels: The types of its images.
        data: What its training data were like; None where nobody knows.
        output: Folder of the segmentations.
        names: The files of each case.
        quiet: Around what nnU-Net says while it computes.
        output_format: Of the segmentations of DICOM series.
        on_written: Called, in another thread, as soon as the files of a case are in place.
    """

    segmenter: Any
    labels: LabelMap
    channels: tuple[str, ...]
    data: DataFacts | None
    output: Path
    names: Mapping[Unlabelled, FileNames]
    quiet: Callable[[], Any]
    output_format: str
    on_written: Callable[[Unlabelled, Row], None]


@dataclass(frozen=True)
class _Opened:
    """The images of a case, and what the network takes."""

    volumes: tuple[Volume, ...]
    prepared: Any


def segment_cases(
    job: Job, cases: Sequence[Unlabelled], shelf: Shelf
) -> Iterator[tuple[Unlabelled, Row]]:
    """Segment cases and write what is asked for; yield each when its files are in place."""
    if not cases:
        return
    # Whatever fails or interrupts: what is being written is finished, and remembered.
    with ThreadPoolExecutor(1) as before, ThreadPoolExecutor(1) as after:
        opening = before.submit(_open, job, cases[0], shelf)
        closing: tuple[Unlabelled, Future[Row]] | None = None
        for number, case in enumerate(cases):
            opened = opening.result()
            has_room = _has_room(opened)
            following = cases[number + 1] if number + 1 < len(cases) else None
            if following and has_room:
                opening = before.submit(_open, job, following, shelf)
            with job.quiet():
                logits = job.segmenter.infer(opened.prepared)
            if closing is not None:
                yield closing[0], closing[1].result()
            closing = (case, after.submit(_close, job, case, opened, logits))
            if following and not has_room:
                closing[1].result()
                opening = before.submit(_open, job, following, shelf)
        if closing is not None:
            yield closing[0], closing[1].result()


def _has_room(opened: _Opened) -> bool:
    """Tell whether another case of that size fits beside it."""
    voxels = sum(volume.array.size for volume in opened.volumes)
    return free_memory_bytes() > 2 * COPIES_A_CASE * 4 * voxels


def _open(job: Job, case: Unlabelled, shelf: Shelf) -> _Opened:
    volumes = shelf.take(case)
    # Headers may differ by rounding; the first one counts.
    volumes = tuple(volumes[0].with_array(volume.array) for volume in volumes)
    return _Opened(volumes, job.segmenter.prepare(volumes))


def _close(job: Job, case: Unlabelled, opened: _Opened, logits: Any) -> Row:
    """Write the files of a case, and return its row."""
    names, grid = job.names[case], opened.volumes[0]

    def at_home(array: np.ndarray[Any, Any]) -> Volume:
        turned = job.segmenter.reorients
        return restore_orientation(array, grid) if turned else grid.with_array(array)

    predicted = job.segmenter.finish(logits, opened.prepared)
    result = at_home(from_training_labels(predicted, job.labels))
    unlike = Unlike()
    if job.data is not None:
        unlike = compare_case(opened.volumes, result.array > 0, job.data)
    row = Row(case.result, volumes_of(result, job.labels), unlike)
    with staging(job.output, names.result) as stage:
        if names.maps:
            found = job.segmenter.probabilities(logits, opened.prepared)
            for label, name in zip(job.labels, names.maps, strict=True):
                write_checked(stage / name, at_home(found[label.index]))
        if names.preview:
            first = (grid, job.channels[0])
            write_preview(stage / names.preview, first, result, job.labels)
        write_result(stage / names.result, result, case, job.labels, job.output_format)
    job.on_written(case, row)
    return row
