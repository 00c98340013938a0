"""nnU-Net's raw folder: `imagesTr/CASE_0000.EXT`, `labelsTr/CASE.EXT` and `dataset.json`."""

from __future__ import annotations

import re
from pathlib import Path

from nnunet_medseg.dataset.case import Case, Dataset, Finding, number_cases
from nnunet_medseg.dataset.layouts.listing import image_files, stem_of, subfolders
from nnunet_medseg.dataset.raw_layout import read_description

__all__ = ["NAME", "read", "recognise"]

NAME = "nnU-Net raw"
CHANNEL_STEM = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})$")


def recognise(folder: Path, extensions: tuple[str, ...]) -> bool:  # noqa: ARG001 every layout has it
    """Tell whether there are images and labels for training under nnU-Net's names."""
    return {"imagesTr", "labelsTr"} <= {path.name for path in subfolders(folder)}


def read(folder: Path, extensions: tuple[str, ...]) -> Dataset:
    """List the cases, and what does not fit the convention."""
    description = read_description(folder)
    findings = list(description.findings)
    image_paths = image_files(folder / "imagesTr", extensions)
    label_paths = image_files(folder / "labelsTr", extensions)
    findings += [_twice(path) for paths in (image_paths, label_paths) for path in _twins(paths)]
    images, strays = _group_channels(image_paths)
    labels = {stem_of(path): path for path in label_paths}
    findings += [_stray(path) for path in strays]
    findings += [
        _alone(case, "label map", "image") for case in sorted(labels.keys() - images.keys())
    ]
    findings += [
        _alone(case, "image", "label map") for case in sorted(images.keys() - labels.keys())
    ]
    paired = sorted(images.keys() & labels.keys())
    count = max((len(images[case]) for case in paired), default=0)
    findings += [
        _missing_channel(case, count) for case in paired if set(images[case]) != set(range(count))
    ]
    cases = [
        Case("", case, tuple(images[case][number] for number in range(count)), labels[case])
        for case in paired
        if set(images[case]) == set(range(count))
    ]
    named = len(description.channels) == count
    channels = description.channels if named else ("",) * count
    return Dataset(folder, NAME, number_cases(cases), channels, description.labels, tuple(findings))


def _group_channels(files: list[Path]) -> tuple[dict[str, dict[int, Path]], list[Path]]:
    grouped: dict[str, dict[int, Path]] = {}
    strays = []
    for path in files:
        match = CHANNEL_STEM.match(stem_of(path))
        if match is None:
            strays.append(path)
        else:
            grouped.setdefault(match["case"], {})[int(match["channel"])] = path
    return grouped, strays


def _twins(files: list[Path]) -> list[Path]:
    stems = [stem_of(path) for path in files]
    return [path for place, path in enumerate(files) if stems[place] in stems[:place]]


def _twice(path: Path) -> Finding:
    message = f"{path.parent.name}/{path.name} is there in another format too"
    return Finding("error", stem_of(path), "file name", message, "Keep one of them, or use -e.")


def _stray(path: Path) -> Finding:
    message = f"imagesTr/{path.name} does not end in a channel number such as _0000"
    return Finding("error", path.name, "file name", message, "Rename it to CASE_0000 and so on.")


def _alone(case: str, present: str, missing: str) -> Finding:
    message = f"there is a {present} but no {missing}"
    fix = f"Add the {missing}, or remove the {present}."
    return Finding("error", case, f"no {missing}", message, fix)


def _missing_channel(case: str, count: int) -> Finding:
    message = f"not every channel from _0000 to _{count - 1:04d} is there"
    return Finding("error", case, "channels", message, "Give every case the same channels.")
