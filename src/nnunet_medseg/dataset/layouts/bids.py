"""BIDS: `sub-01/[ses-1/]anat/sub-01_T1w.EXT`, with label maps in `derivatives/`.

The suffix is the channel (T1w, FLAIR). Label maps end in `_dseg` or `_mask`; masks that say what
they are of (`_label-lesion_mask`) are one binary mask a class. All sessions of a subject are one
patient's. A label map in the space of a template (`_space-MNI305_dseg`) is not one of an image as
it was scanned.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_medseg.dataset.case import Case, Dataset, Finding, number_cases
from nnunet_medseg.dataset.layouts.class_names import class_findings
from nnunet_medseg.dataset.layouts.listing import image_files, stem_of, subfolders
from nnunet_medseg.dataset.layouts.pairing import (
    most_frequent,
    other_channels,
    several_label_maps,
    twins,
)

__all__ = ["DESCRIPTION", "NAME", "is_derived", "read", "recognise"]

NAME = "BIDS"
DESCRIPTION = (
    "sub-01/anat/sub-01_T1w.nii.gz (or sub-01/ses-1/anat), and "
    "derivatives/NAME/sub-01/anat/sub-01_dseg.nii.gz (or _mask)"
)
LABEL_SUFFIXES = {"dseg", "mask", "seg", "lesion", "roi", "label"}
PASSED_OVER = {"probseg", "defacemask"}  # neither image nor label map
# Of images as they were scanned.
OWN_SPACES = {"orig", "individual", "native", "scanner", "subject", "anat"}
PLACED_BY = {"space", "cohort", "res", "den"}  # entities of one thing on several grids
TOLD_APART_BY = ("ce", "acq")  # entities that two images of one suffix may differ in


@dataclass
class _Session:
    """The files of one session of a subject; `elsewhere` are label maps in no image's space."""

    subject: str
    images: list[Path] = field(default_factory=list)
    labels: list[Path] = field(default_factory=list)
    elsewhere: list[Path] = field(default_factory=list)


def recognise(folder: Path, extensions: tuple[str, ...]) -> str:
    """Tell whether there are subjects with anatomical images."""
    root = _root(folder)
    for _, _, anat in _anatomies(root):
        if any(not _is_label(path) for path in image_files(anat, extensions)):
            return "folders of subjects (sub-…) with anatomical images (anat)"
    return ""


def read(folder: Path, extensions: tuple[str, ...]) -> Dataset:
    """List the sessions, and what does not fit the convention."""
    sessions = _sessions(folder, extensions)
    problems = {source: [*_problems(source, session)] for source, session in sessions.items()}
    findings = [finding for found in problems.values() for finding in found]
    usable = {source: session for source, session in sessions.items() if not problems[source]}
    channels = {source: _channels(session.images) for source, session in usable.items()}
    expected = most_frequent([tuple(names) for names in channels.values()])
    findings += [
        other_channels(source, tuple(names), expected)
        for source, names in channels.items()
        if tuple(names) != expected
    ]
    classes = {
        source: found for source, session in usable.items() if (found := _classes(session.labels))
    }
    findings += class_findings(classes)
    without = usable.keys() - classes.keys() if classes else ()
    findings += [_without_class(source, usable[source].labels[0]) for source in sorted(without)]
    names = sorted({name for found in classes.values() for name in found})
    values = {name: value for value, name in enumerate(names, start=1)}
    cases = [
        _case(source, session, channels[source], values)
        for source, session in usable.items()
        if tuple(channels[source]) == expected and source not in without
    ]
    labels = {value: name for name, value in values.items()}
    return Dataset(folder, NAME, number_cases(cases), expected, labels, tuple(findings))


def _root(folder: Path) -> Path:
    """Return where the subjects are: some keep them in `rawdata`, beside `derivatives`."""
    return next((path for path in subfolders(folder) if path.name == "rawdata"), folder)


def _anatomies(root: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield the name of each session, its subject, and its folder of anatomical images."""
    for subject in _called("sub-.", root):
        for below in (subject, *_called("ses-.", subject)):
            source = below.relative_to(root).as_posix()
            yield from ((source, subject.name, anat) for anat in _called("anat$", below))


def _called(pattern: str, folder: Path) -> list[Path]:
    return [path for path in subfolders(folder) if re.match(pattern, path.name)]


def _sessions(folder: Path, extensions: tuple[str, ...]) -> dict[str, _Session]:
    sessions: dict[str, _Session] = {}
    for source, subject, anat in _anatomies(_root(folder)):
        session = sessions.setdefault(source, _Session(subject))
        for path in image_files(anat, extensions):
            (session.labels if _is_label(path) else session.images).append(path)
        session.images = [path for path in session.images if _suffix(path) not in PASSED_OVER]
    for derived in _called("derivatives$", folder):
        for root in (derived, *subfolders(derived)):
            for source, subject, anat in _anatomies(root):
                session = sessions.setdefault(source, _Session(subject))
                session.labels += [
                    path for path in image_files(anat, extensions) if _is_label(path)
                ]
    for session in sessions.values():
        labels = _in_space(session.images, session.labels)
        session.elsewhere = [path for path in session.labels if path not in labels]
        session.labels = labels
    return sessions


def _in_space(images: Sequence[Path], labels: Sequence[Path]) -> list[Path]:
    """Return the label maps in the space of an image; without any, those that name no space."""
    if not images:
        return list(labels)
    own = OWN_SPACES | {_suffix(path).casefold() for path in images if not _space(path)}

    def place(path: Path) -> str:
        return "" if _space(path) in own else _space(path)

    places = {place(path) for path in images}
    return [path for path in labels if place(path) in places] or [
        path for path in labels if not _space(path)
    ]


def _space(path: Path) -> str:
    return _entities(path).get("space", "").casefold()


def _suffix(path: Path) -> str:
    return stem_of(path).rpartition("_")[2]


def _entities(path: Path) -> dict[str, str]:
    pairs = (part.partition("-") for part in stem_of(path).split("_")[:-1])
    return {key: value for key, dash, value in pairs if dash and value}


def _is_label(path: Path) -> bool:
    suffix = _suffix(path)
    return suffix.lower() in LABEL_SUFFIXES or suffix.startswith("label-")


def is_derived(path: Path) -> bool:
    """Tell whether a file is called as in BIDS, and as what was made from an image."""
    return path.name.startswith("sub-") and (_is_label(path) or _suffix(path) in PASSED_OVER)


def _channels(images: Sequence[Path]) -> dict[str, Path]:
    """Return the images by channel name; two with one name leave a single entry."""
    suffixes = Counter(map(_suffix, images))
    found = {}
    for path in images:
        name = _suffix(path)
        if suffixes[name] > 1:
            entities = _entities(path)
            told = [f"{key}-{entities[key]}" for key in TOLD_APART_BY if key in entities]
            name = "_".join([*told, name])
        found[name] = path
    return dict(sorted(found.items()))


def _classes(labels: Sequence[Path]) -> dict[str, Path]:
    """Return masks by what they are of; nothing when they are no such masks."""
    names = [_class_of(path) for path in labels]
    if not all(names) or len(set(names)) < len(names):
        return {}
    return dict(zip(names, labels, strict=True))


def _class_of(path: Path) -> str:
    suffix = _suffix(path)
    if suffix.startswith("label-"):
        return suffix.removeprefix("label-")
    return _entities(path).get("label", "") if suffix.lower() != "dseg" else ""


def _problems(source: str, session: _Session) -> Iterator[Finding]:
    images, labels = session.images, session.labels
    if not images and not labels:
        message = "its folder anat holds no image and no label map"
        fix = "Remove the folder, or copy the subject's files into it."
        yield Finding("error", source, "empty folder", message, fix)
        return
    if not images:
        message = f"there is a label map ({labels[0].name}) but no image"
        fix = f"Add the image to {source}/anat, or remove the label map."
        yield Finding("error", source, "no image", message, fix)
    yield from _elsewhere(source, session)
    if not labels and not session.elsewhere:
        message = f"there is an image ({images[0].name}) but no label map in derivatives"
        fix = f"Add it as derivatives/labels/{source}/anat/…_dseg.EXT, or remove the subject."
        yield Finding("error", source, "no label map", message, fix)
    if len(labels) > 1 and not _classes(labels):
        yield several_label_maps(source, [path.name for path in labels])
    yield from twins(images)
    if len(_channels(images)) < len({stem_of(path) for path in images}):
        message = f"several images of one kind: {', '.join(path.name for path in images)}"
        fix = "Keep one image of a kind in a session."
        yield Finding("error", source, "channels", message, fix)


def _elsewhere(source: str, session: _Session) -> Iterator[Finding]:
    """Yield a finding for each label map in another space that is not there in the images' too."""
    there = [_without_place(path) for path in session.labels]
    own = sorted({_entities(path).get("space", "") for path in session.images})
    shown = " and ".join(f"space-{name}" if name else "that of the scan" for name in own)
    for path in session.elsewhere:
        if _without_place(path) in there:
            continue
        message = f"the label map {path.name} lies in another space than its images ({shown})"
        fix = (
            "Transform it onto the image with nearest neighbour, or put the image in the "
            f"label map's space into {source}/anat in place of the other."
        )
        yield Finding("error", source, "label space", message, fix)


def _without_place(path: Path) -> tuple[str, dict[str, str]]:
    """Return what a name tells but for the grid."""
    kept = {key: value for key, value in _entities(path).items() if key not in PLACED_BY}
    return _suffix(path), kept


def _without_class(source: str, label: Path) -> Finding:
    message = f"{label.name} does not say what it is of, as label maps of other subjects do"
    fix = "Give all subjects label maps (_dseg), or masks by class (_label-CLASS_mask)."
    return Finding("error", source, "label name", message, fix)


def _case(
    source: str, session: _Session, channels: Mapping[str, Path], values: Mapping[str, int]
) -> Case:
    images, label = tuple(channels.values()), session.labels[0]
    classes = _classes(session.labels)
    masks = tuple(sorted((values[name], path) for name, path in classes.items()))
    place = label.parent if masks else label
    return Case("", source, images, place, masks=masks, patient=session.subject)
