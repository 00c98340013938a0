"""Which files belong together: by names, without what tells image and label map apart."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from nnunet_medseg.dataset.case import Finding
from nnunet_medseg.dataset.layouts.listing import stem_of

__all__ = [
    "SEPARATORS",
    "alone",
    "are_numbered",
    "channel_names",
    "group_channels",
    "image_core",
    "is_label_map",
    "is_segmentation",
    "label_core",
    "most_frequent",
    "other_channels",
    "pair",
    "pair_beside",
    "several_label_maps",
    "twins",
    "without_channels",
]

SEPARATORS = "_ .-"  # between the words of a name
CHANNEL_STEM = re.compile(r"(?P<core>.+)_(?P<channel>\d{4})$")
LABEL_WORD = r"(?:labels?|segs?|segmentations?|masks?|gt|ground[\W_]?truths?|annotations?)"
IMAGE_WORD = r"(?:images?|imgs?|imaging|scans?|volumes?|vols?)"
# A word at the end of a name, or at its beginning, where a number may follow at once (img0001).
LABEL_AFFIX, IMAGE_AFFIX = (
    re.compile(rf"(?P<head>.+?)[\W_]+{word}$|{word}(?:[\W_]+|(?=\d))(?P<tail>.+)$", re.I)
    for word in (LABEL_WORD, IMAGE_WORD)
)
SEGMENTATION_ENDING = ".seg.nrrd"  # of 3D Slicer: a label map, whatever the name before it


def label_core(stem: str) -> str | None:
    """Return a name without the word for a label map, or None when it has none.

    Examples:
        >>> label_core("p1_seg"), label_core("mask-p1"), label_core("label07"), label_core("p1")
        ('p1', 'p1', '07', None)
    """
    match = LABEL_AFFIX.match(stem)
    return None if match is None else match["head"] or match["tail"]


def image_core(stem: str) -> str:
    """Return a name without the word for an image.

    Examples:
        >>> image_core("p1_img"), image_core("img07"), image_core("volume-0"), image_core("p1")
        ('p1', '07', '0', 'p1')
    """
    match = IMAGE_AFFIX.match(stem)
    return stem if match is None else match["head"] or match["tail"]


def is_segmentation(path: Path) -> bool:
    """Tell whether a file's ending says that it is a label map."""
    return path.name.lower().endswith(SEGMENTATION_ENDING)


def is_label_map(path: Path) -> bool:
    """Tell whether a file's name says that it is a label map of something."""
    return is_segmentation(path) or label_core(stem_of(path)) is not None


def _label_keys(path: Path) -> tuple[str, str]:
    stem = stem_of(path)
    return stem, label_core(stem) or stem


# --- images and label maps ---------------------------------------------------------------------


def pair(images: Iterable[str], labels: Sequence[Path]) -> tuple[dict[str, list[Path]], list[Path]]:
    """Find the label map of each image by name: the same, or the same but for words as `_seg`.

    Args:
        images: Names of the images, without ending and channel number.
        labels: The label maps.

    Returns:
        What was found, by the name of the image, and the label maps that are left.
    """
    names = sorted(images)
    left = list(labels)
    found: dict[str, list[Path]] = {}
    # The same name before a similar one.
    for of_image, of_label in ((str, 0), (str, 1), (image_core, 1)):
        by_key: dict[str, list[Path]] = {}
        for path in left:
            by_key.setdefault(_label_keys(path)[of_label], []).append(path)
        for name in names:
            if name not in found and of_image(name) in by_key:
                found[name] = by_key.pop(of_image(name))
        taken = {path for paths in found.values() for path in paths}
        left = [path for path in left if path not in taken]
    return found, left


def pair_beside(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Pair images and label maps that lie in one folder; return the label maps by image name."""
    labels = [path for path in files if is_label_map(path)]
    return pair({stem_of(path) for path in files if path not in labels}, labels)[0]


# --- channels ----------------------------------------------------------------------------------


def are_numbered(images: Sequence[Path], labels: Sequence[Path]) -> bool:
    """Tell whether four digits at the end of the images' names are the number of a channel.

    They are not in `case_0001` when its label map is called the same.
    """
    names = {key for path in labels for key in _label_keys(path)}
    stems = [stem_of(path) for path in images]
    cores = [match["core"] for match in map(CHANNEL_STEM.match, stems) if match is not None]
    alike = sum(stem in names for stem in stems)
    alike_without = sum(core in names for core in cores)
    if alike or alike_without:
        return alike_without > alike
    return 2 * len(cores) > len(stems)


def group_channels(files: Sequence[Path]) -> tuple[dict[str, dict[int, Path]], list[Path]]:
    """Return the files of each case by channel number, and those without a number."""
    grouped: dict[str, dict[int, Path]] = {}
    strays = []
    for path in files:
        match = CHANNEL_STEM.match(stem_of(path))
        if match is None:
            strays.append(path)
        else:
            grouped.setdefault(match["core"], {})[int(match["channel"])] = path
    return grouped, strays


def without_channels(grouped: Mapping[str, Mapping[int, Path]]) -> tuple[int, list[Finding]]:
    """Return how many channels the cases have, and a finding for each that lacks one."""
    count = max((len(channels) for channels in grouped.values()), default=0)
    message = f"not every channel from _0000 to _{count - 1:04d} is there"
    findings = [
        Finding("error", case, "channels", message, "Give every case the same channels.")
        for case in sorted(grouped)
        if set(grouped[case]) != set(range(count))
    ]
    return count, findings


def channel_names(stems: Sequence[str], patient: str) -> tuple[str, ...]:
    """Return what tells the images of a patient apart; nothing for a single one.

    What all of them begin or end with is the patient's, as in Miller_T1 and Miller_FLAIR, and must
    not get into a model.

    Args:
        stems: Names of the images without ending.
        patient: Name of the patient's folder.

    Examples:
        >>> channel_names(["Miller_T1", "Miller_FLAIR"], "p1")
        ('T1', 'FLAIR')
        >>> channel_names(["T1-Miller", "FLAIR-Miller"], "p1")
        ('T1', 'FLAIR')
    """
    if len(stems) == 1:
        return ("",)
    own = re.compile(rf"[\W_]*{re.escape(patient)}[\W_]*", re.I)
    plain = [own.sub("", stem) if own.sub("", stem) else stem for stem in stems]
    plain = plain if len(set(plain)) == len(plain) else list(stems)
    start = _common(plain)
    end = _common([stem[start:][::-1] for stem in plain])
    return tuple(stem[start : len(stem) - end] or stem for stem in plain)


def _common(stems: Sequence[str]) -> int:
    """Return how many letters all begin with, up to a separator."""
    common = os.path.commonprefix(list(stems))  # noqa: RUF071 letter by letter is what is meant
    return max(common.rfind(separator) for separator in SEPARATORS) + 1


def most_frequent(names: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the channels that most cases have; the first of several such."""
    return max(names, key=names.count, default=())


def other_channels(source: str, names: Sequence[str], expected: Sequence[str]) -> Finding:
    """Return the finding for a case with other channels than most."""

    def show(channels: Sequence[str]) -> str:
        return ", ".join(name or "img" for name in channels)

    message = f"its images are {show(names)}, where most patients have {show(expected)}"
    return Finding("error", source, "channels", message, "Give every patient the same images.")


# --- what does not fit -------------------------------------------------------------------------


def twins(files: Sequence[Path], case: str = "") -> Iterator[Finding]:
    """Yield a finding for each file that lies beside one of the same name in another format.

    Args:
        files: Those of one kind.
        case: Whose they are; empty where a name is a case.
    """
    seen: set[str] = set()
    for path in files:
        stem = stem_of(path)
        if stem in seen:
            message = f"{path.parent.name}/{path.name} is there in another format too"
            fix = "Keep one of them, or use -e."
            yield Finding("error", case or stem, "file name", message, fix)
        seen.add(stem)


def alone(case: str, path: Path, present: str, missing: str) -> Finding:
    """Return the finding for an image without a label map, or the other way round."""
    article = "an" if present[0] in "aeiou" else "a"
    message = f"there is {article} {present} ({path.parent.name}/{path.name}) but no {missing}"
    fix = f"Add the {missing}, or remove the {present}."
    return Finding("error", case, f"no {missing}", message, fix)


def several_label_maps(case: str, labels: Sequence[str]) -> Finding:
    """Return the finding for a case whose label map would have to be guessed."""
    message = f"several label maps: {', '.join(labels)}"
    fix = "Keep one label map a patient, with one value a structure."
    return Finding("error", case, "several label maps", message, fix)
