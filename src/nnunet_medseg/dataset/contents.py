"""What the files of a case hold: its channels and its label map, each file read once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_medseg.dataset.case import Case, Finding
from nnunet_medseg.dataset.masks import merge_masks
from nnunet_medseg.dataset.structures import merge_structures
from nnunet_medseg.hardware import free_memory_bytes
from nnunet_medseg.volume import (
    Volume,
    VolumeError,
    check_name,
    extension_of,
    read_frames,
    read_volume,
)

__all__ = ["Contents", "Part", "read_contents"]


@dataclass(frozen=True)
class Part:
    """A channel, or the label map.

    Attributes:
        name: What to call it: the name of its file, and of its frame where the file has several;
            of a DICOM series of several files no name.
        volume: As read, then as repaired.
        is_changed: Whether it is not what the file holds any more, so that no link serves.
    """

    name: str
    volume: Volume
    is_changed: bool = False

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """The voxels, shape `(z, y, x)`."""
        return self.volume.array

    def with_volume(self, volume: Volume) -> Part:
        """Return the part with another volume, which is not what the file holds."""
        return replace(self, volume=volume, is_changed=True)


@dataclass(frozen=True)
class Contents:
    """The channels and the label map of a case.

    Attributes:
        channels: In the order of the files, and of the frames of a file; without those that could
            not be read.
        label: None when it could not be read.
        is_whole: Whether everything could be read.
    """

    channels: tuple[Part, ...]
    label: Part | None
    is_whole: bool

    @property
    def parts(self) -> tuple[Part, ...]:
        """Channels, then the label map."""
        return self.channels if self.label is None else (*self.channels, self.label)


def read_contents(case: Case) -> tuple[Contents, tuple[Finding, ...]]:
    """Read the files of a case, and say of each that cannot be read what is wrong with it."""
    if case.series:
        return _read_series(case)
    channels: list[Part] = []
    findings = []
    label = None
    frames = _wanted_frames(case)
    for path in dict.fromkeys(case.images):
        try:
            channels += _read_channels(path, frames.get(path))
        except VolumeError as problem:
            findings.append(_finding(case, path.name, problem))
    try:
        label = _read_label(case)
    except VolumeError as problem:
        name = case.label.name if not case.masks else f"{case.label.name}/"
        findings.append(_finding(case, name, problem))
    if case.frames:
        channels = _in_order_of(case, channels)
    return Contents(tuple(channels), label, not findings), tuple(findings)


def _read_series(case: Case) -> tuple[Contents, tuple[Finding, ...]]:
    """Read a DICOM series, and what was drawn on it, before both are brought to right angles."""
    from nnunet_medseg.volume.dicom.series import read_series, straightened

    name, memory_bytes = _name_of_series(case), free_memory_bytes()
    try:
        image = read_series(case.series[0], memory_bytes=memory_bytes, straighten=False)
    except VolumeError as problem:
        findings = (_finding(case, name, problem), *_misnamed(case))
        return Contents((), None, is_whole=False), findings
    channel = Part(name, straightened(image, memory_bytes=memory_bytes), is_changed=True)
    # No ending tells a SEG or RTSTRUCT, of whose structures none may be wanted.
    if extension_of(case.label) is not None:
        return _with_label_map(case, channel)
    try:
        drawn = merge_structures(case, image, memory_bytes=memory_bytes)
    except VolumeError as problem:
        message = f"{problem.problem}"
        finding = Finding("error", case.source, problem.rule, message, problem.fix)
        return Contents((channel,), None, is_whole=False), (finding,)
    drawn = straightened(drawn, memory_bytes=memory_bytes, is_label=True)
    label = Part(case.label.name, drawn, is_changed=True)
    return Contents((channel,), label, is_whole=True), ()


def _with_label_map(case: Case, channel: Part) -> tuple[Contents, tuple[Finding, ...]]:
    """Add the label map of another format that lies beside a series."""
    try:
        label = _read_label(case)
    except VolumeError as problem:
        findings = (_finding(case, case.label.name, problem),)
        return Contents((channel,), None, is_whole=False), findings
    return Contents((channel,), label, is_whole=True), ()


def _misnamed(case: Case) -> Iterator[Finding]:
    """Tell of label files with a wrong name; without an image they are not read."""
    for path in case.label_files:
        try:
            check_name(path)
        except VolumeError as problem:
            yield _finding(case, path.name, problem)


def _name_of_series(case: Case) -> str:
    """Return what to call a series: its file, where it has one; a folder may name the patient."""
    files = case.series[0]
    return files[0].name if len(files) == 1 else "its series"


def _wanted_frames(case: Case) -> dict[Path, tuple[int, ...]]:
    wanted: dict[Path, tuple[int, ...]] = {}
    for path, frame in zip(case.images, case.frames, strict=False):
        wanted[path] = (*wanted.get(path, ()), frame)
    return wanted


def _read_channels(path: Path, wanted: tuple[int, ...] | None) -> Iterator[Part]:
    # What is no number may lie outside of what matters, and can then be put right.
    frames = read_frames(path, memory_bytes=free_memory_bytes(), allow_lost=True)
    for number, volume in enumerate(frames):
        if wanted is None or number in wanted:
            name = path.name if len(frames) == 1 else f"{path.name} (frame {number + 1})"
            yield Part(name, volume, is_changed=len(frames) > 1 or bool(volume.notes))


def _in_order_of(case: Case, channels: list[Part]) -> list[Part]:
    """Return the channels, read file by file, in the order that the case names them in."""
    wanted = _wanted_frames(case)
    read = [(path, frame) for path in wanted for frame in sorted(wanted[path])]
    named = list(zip(case.images, case.frames, strict=True))
    if len(channels) != len(read):
        return channels
    return [channels[read.index(place)] for place in named]


def _read_label(case: Case) -> Part:
    if case.masks:
        merged = merge_masks(case.masks, memory_bytes=free_memory_bytes())
        return Part(f"{case.label.name}/", merged, is_changed=True)
    volume = read_volume(case.label, memory_bytes=free_memory_bytes(), is_label=True)
    return Part(case.label.name, volume, is_changed=bool(volume.notes))


def _finding(case: Case, name: str, problem: VolumeError) -> Finding:
    message = f"{name}: {problem.problem}"
    return Finding("error", case.source, problem.rule, message, problem.fix)
