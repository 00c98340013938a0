"""Images to segment: which files are the channels of one case, and what its result is called."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnunet_medseg.dataset.case import Finding
from nnunet_medseg.dataset.layouts.dicom import group_series
from nnunet_medseg.dataset.layouts.label_maps import without_label_maps
from nnunet_medseg.dataset.layouts.listing import all_images, stem_of
from nnunet_medseg.dataset.layouts.pairing import SEPARATORS
from nnunet_medseg.dataset.repairs import put_smallest
from nnunet_medseg.hardware import free_memory_bytes
from nnunet_medseg.volume import (
    EXTENSIONS,
    GRID_TOLERANCE,
    Volume,
    VolumeError,
    check_name,
    extension_of,
    files_of,
    grid_shift,
    read_frames,
    read_volume,
)
from nnunet_medseg.volume.dicom.series import read_series
from nnunet_medseg.volume.problems import not_finite

__all__ = ["Unlabelled", "check_unlabelled", "group_images"]

NUMBER = re.compile(r"\d{4}$")
MAX_NAME_BYTES = 255  # of file systems
UNNAMED = "segmentation"  # where a file's name is nothing but the name of its channel


@dataclass(frozen=True)
class Unlabelled:
    """One case to segment.

    Attributes:
        result: Path of its segmentation, relative to the output folder.
        images: One file a channel, in the order of the model.
        frames: Which frame of each file it is, where one file has all; else empty.
        series: The files behind each of the images where these are DICOM series; else empty.
    """

    result: str
    images: tuple[Path, ...]
    frames: tuple[int, ...] = ()
    series: tuple[tuple[Path, ...], ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that holds images of the case, each once."""
        files = [path for one in self.series for path in one]
        files = files or [part for path in self.images for part in files_of(path)]
        return tuple(dict.fromkeys(files))

    def read(self) -> tuple[Volume, ...]:
        """Read the images, in the order of the model.

        Where they hold no number the smallest value is put, as in training.

        Raises:
            VolumeError: When one of them is not a 3D image, or holds no number at all.
        """
        if self.series:
            return tuple(
                read_series(files, memory_bytes=free_memory_bytes()) for files in self.series
            )
        if not self.frames:
            return tuple(_read_image(path) for path in self.images)
        found = _read_frames(self.images[0])
        return tuple(found[frame] for frame in self.frames)


def group_images(
    folder: Path, channels: Sequence[str]
) -> tuple[tuple[Unlabelled, ...], tuple[Finding, ...]]:
    """Sort the images of a folder, and all below, into cases.

    With one channel every image is a case. With several, files that differ only in a channel's
    name, or in a number at the end (`_0000`, `_0001` …), belong together; one called after its
    channel alone belongs to the case of its folder; and a file whose name tells no channel is a
    case by itself when it has a frame for each. Label maps beside an image are passed over. A
    model of one image also takes DICOM series, each as a case that is called after its folder.

    Args:
        folder: Where to look.
        channels: Channel names of the model, in order.

    Returns:
        The cases, and findings for files that do not make a whole case, or are called as label
        maps.
    """
    series, findings = group_series(folder, channels)
    # A channel may itself be called as a mask.
    names = {}
    for path in all_images(folder, EXTENSIONS):
        stem = (_place_of(path, channels) or (stem_of(path), 0))[0]
        names[path] = path.with_name(f"{stem or 'img'}{extension_of(path)}")
    files, told = without_label_maps(names, [of[0] for _, of in series], folder)
    findings += told
    if len(channels) == 1:
        alone = [Unlabelled(path.relative_to(folder).as_posix(), (path,)) for path in files]
        scans = [Unlabelled(f"{name}.nii.gz", of[:1], series=(of,)) for name, of in series]
        return (*alone, *scans), tuple(findings)
    whole = _by_themselves(files, folder, channels)
    taken = {case.images[0] for case in whole}
    parts = [path for path in files if path not in taken]
    groups, problems = _by_case(parts, folder, channels)
    findings += problems
    findings += [
        _incomplete(name, found, channels)
        for name, found in groups.items()
        if len(found) < len(channels)
    ]
    findings += [
        _twice(case.images[0], next(iter(groups[case.result].values())), folder)
        for case in whole
        if case.result in groups
    ]
    cases = tuple(
        Unlabelled(name, tuple(found[number] for number in range(len(channels))))
        for name, found in sorted(groups.items())
        if len(found) == len(channels)
    )
    return tuple(sorted((*cases, *whole), key=lambda case: case.result)), tuple(findings)


def _by_themselves(
    files: Sequence[Path], folder: Path, channels: Sequence[str]
) -> list[Unlabelled]:
    """Return the files that hold all images of a case, as frames."""
    return [
        Unlabelled(
            path.relative_to(folder).as_posix(),
            (path,) * len(channels),
            tuple(range(len(channels))),
        )
        for path in files
        if _place_of(path, channels) is None and _has_frames(path, len(channels))
    ]


def _by_case(
    files: Sequence[Path], folder: Path, channels: Sequence[str]
) -> tuple[dict[str, dict[int, Path]], list[Finding]]:
    """Return the images of each case by the number of their channel, and what does not fit."""
    groups: dict[str, dict[int, Path]] = {}
    findings = []
    for path in files:
        place = _place_of(path, channels) or _place_within(path, channels)
        if place is None or _says_two(path, channels):
            findings.append(_no_channel(path, folder, channels))
            continue
        stem, number = place
        name = path.with_name(f"{stem or UNNAMED}{extension_of(path)}")
        found = groups.setdefault(name.relative_to(folder).as_posix(), {})
        if found.setdefault(number, path) != path:
            findings.append(_twice(path, found[number], folder))
    _join_nameless(groups)
    return groups, findings


def _join_nameless(groups: dict[str, dict[int, Path]]) -> None:
    """Add images that are called after their channel alone to the only other case beside them."""
    beside: dict[Path, list[str]] = {}
    for name in groups:
        beside.setdefault(Path(name).parent, []).append(name)
    for names in beside.values():
        names.sort(key=lambda name: stem_of(Path(name)) == UNNAMED)
        if len(names) != 2 or stem_of(Path(names[1])) != UNNAMED:
            continue
        case, nameless = (groups[name] for name in names)
        if not case.keys() & nameless.keys():
            case |= groups.pop(names[1])


def _has_frames(path: Path, number: int) -> bool:
    try:
        found = read_frames(path, memory_bytes=free_memory_bytes(), allow_lost=True)
    except VolumeError:
        return False
    return len(found) == number


def _place_of(path: Path, channels: Sequence[str]) -> tuple[str, int] | None:
    """Return what is left of a file's name, and the channel that its end names."""
    stem = stem_of(path)
    names = _telling(channels)
    for name, number in names.items():
        if f"_{stem}".lower().endswith(f"_{name}"):
            return stem[: -len(name) - 1], number
    # Where images are called img or image, training names the one without a kind so.
    if "img" in names and stem.lower() == "image":
        return "", names["img"]
    head, _, tail = stem.rpartition("_")
    if head and NUMBER.match(tail) and int(tail) < len(channels):
        return head, int(tail)
    return None


def _place_within(path: Path, channels: Sequence[str]) -> tuple[str, int] | None:
    """Return the same where the channel stands anywhere in the name, and no other one does."""
    found = None
    stem = stem_of(path)
    for name, number in _telling(channels).items():
        word = rf"(?:^|(?<=[{SEPARATORS}])){re.escape(name)}(?:[{SEPARATORS}]|$)"
        rest, times = re.subn(word, "", stem, count=1, flags=re.I)
        if times and found is not None:
            return None
        if times:
            stem = rest.rstrip(SEPARATORS)
            found = stem, number
    return found


def _says_two(path: Path, channels: Sequence[str]) -> bool:
    """Tell whether a name holds a channel, and ends in the number of another one.

    It may be that of a patient: the images of two would become one case.
    """
    head, _, tail = stem_of(path).rpartition("_")
    within = _place_within(path.with_name(f"{head}{extension_of(path)}"), channels)
    is_number = bool(NUMBER.match(tail)) and int(tail) < len(channels)
    return is_number and within is not None and within[1] != int(tail)


def _telling(channels: Sequence[str]) -> dict[str, int]:
    """Return the channels by name in small letters, the longest first: one may end in another."""
    known = [name.lower() for name in channels]
    names = [name for name in known if name and known.count(name) == 1]
    return {name: known.index(name) for name in sorted(names, key=len, reverse=True)}


def _no_channel(path: Path, folder: Path, channels: Sequence[str]) -> Finding:
    names = " or ".join(f"_{name}" for name in channels)
    message = f"the name does not say which of the {len(channels)} images of the model it is"
    fix = f"End the names in _0000, _0001 …, or in {names}, and say it once."
    return Finding("error", path.relative_to(folder).as_posix(), "channel", message, fix)


def _twice(path: Path, other: Path, folder: Path) -> Finding:
    message = f"it is the same image of the same case as {other.name}, going by their names"
    name = path.relative_to(folder).as_posix()
    return Finding("error", name, "channel", message, "Remove or rename one of the two.")


def _incomplete(name: str, found: dict[int, Path], channels: Sequence[str]) -> Finding:
    missing = ", ".join(channel for number, channel in enumerate(channels) if number not in found)
    message = f"the image of {missing} is missing"
    return Finding("error", name, "channel", message, "Add it, or remove the others.")


def _long_name(case: Unlabelled) -> Iterator[Finding]:
    name = Path(case.result).name
    # Such a header has its voxels in a file beside it, whose ending (.zraw) is one byte longer.
    if name.lower().endswith(".mhd") and len(os.fsencode(name)) >= MAX_NAME_BYTES:
        message = "the name is too long for the two files of this format"
        yield Finding("error", case.result, "file name", message, "Rename it.")


def check_unlabelled(
    case: Unlabelled, on_read: Callable[[Sequence[Volume]], None] = lambda _: None
) -> tuple[Finding, ...]:
    """Read the images of a case and return what is wrong with them, and what was put right.

    Args:
        case: What to read.
        on_read: Called with the images, in the order of the model, when nothing is wrong.
    """
    volumes: list[Volume] = []
    findings = list(_long_name(case))
    # A file with frames is read once.
    for path in dict.fromkeys(case.images):
        try:
            volumes += _read_all(path, case)
        except VolumeError as problem:
            name = path.parent.name if case.series else path.name
            message = f"{name}: {problem.problem}"
            findings.append(Finding("error", case.result, problem.rule, message, problem.fix))
    if not findings and any(grid_shift(volumes[0], item) > GRID_TOLERANCE for item in volumes):
        message = "its images do not lie on one grid"
        fix = "Resample them onto the grid of the first."
        findings.append(Finding("error", case.result, "geometry mismatch", message, fix))
    if not findings:
        on_read([volumes[frame] for frame in case.frames] if case.frames else volumes)
    notes = dict.fromkeys(note for volume in volumes for note in volume.notes)
    return (*findings, *(_note(case, note) for note in notes))


def _read_all(path: Path, case: Unlabelled) -> tuple[Volume, ...]:
    if case.series:
        # The segmentation is called after the folder.
        check_name(Path(case.result))
        return case.read()
    if case.frames:
        return _read_frames(path)
    return (_read_image(path, free_memory_bytes()),)


def _read_image(path: Path, memory_bytes: float = float("inf")) -> Volume:
    return _filled(read_volume(path, memory_bytes=memory_bytes, allow_lost=True), path.name)


def _read_frames(path: Path) -> tuple[Volume, ...]:
    found = read_frames(path, memory_bytes=free_memory_bytes(), allow_lost=True)
    return tuple(
        _filled(volume, f"{path.name} (frame {number})")
        for number, volume in enumerate(found, start=1)
    )


def _filled(volume: Volume, name: str) -> Volume:
    """Put the smallest value where an image holds no number, and note it."""
    if volume.array.dtype.kind != "f":
        return volume
    found = np.isfinite(volume.array)
    lost = int(found.size - np.count_nonzero(found))
    if lost == 0:
        return volume
    if lost == found.size:
        raise not_finite(lost)
    put_smallest(volume.array, found)
    note = f"{name}: {lost} voxels without a number became the smallest value"
    return replace(volume, notes=(*volume.notes, note))


def _note(case: Unlabelled, note: str) -> Finding:
    fix = "The segmentation lies on the grid as it was read."
    return Finding("warning", case.result, "read with a repair", note, fix)
