"""Find the dataset in the input folder, recognise its layout and list its cases."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from nnunet_medseg.dataset.case import Dataset
from nnunet_medseg.dataset.layouts import layouts, own_endings
from nnunet_medseg.dataset.layouts.class_names import names_in_label_maps
from nnunet_medseg.dataset.layouts.listing import all_images, is_litter, subfolders
from nnunet_medseg.errors import DatasetError, FolderError, UsageError
from nnunet_medseg.volume import EXTENSIONS, extension_of

__all__ = [
    "ANY_LAYOUT",
    "check_extension",
    "check_layout",
    "find_dataset",
    "holds_nothing",
    "read_dataset",
]

ANY_LAYOUT = "auto"
MAX_FOLDERS = 10_000  # that are looked at for a dataset


def check_extension(text: str) -> str:
    """Return a known extension for what the user wrote, with or without the dot.

    Raises:
        UsageError: When it is none of ours.

    Examples:
        >>> check_extension("nii.gz")
        '.nii.gz'
    """
    extension = "." + text.strip().lower().lstrip(".")
    known = (*EXTENSIONS, *(ending for each in layouts().values() for ending in own_endings(each)))
    if extension not in known:
        problem = f"-e {text} is not an image format that can be read."
        raise UsageError(problem, fix=f"Use one of {', '.join(known)}.")
    return extension


def check_layout(text: str) -> str:
    """Return "auto", or the name of a layout as its module is called, for what the user wrote.

    Raises:
        UsageError: When there is no such layout.

    Examples:
        >>> check_layout("nnU-Net raw"), check_layout("AUTO")
        ('nnunet_raw', 'auto')
    """
    known = (ANY_LAYOUT, *layouts())
    found = next((name for name in known if _letters(name) == _letters(text)), None)
    if found is None:
        problem = f"--layout {text} is not a layout that can be read."
        raise UsageError(problem, fix=f"Use one of {', '.join(known)}.")
    return found


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _conventions() -> str:
    shown = "; ".join(f"{each.NAME}: {each.DESCRIPTION}" for each in layouts().values())
    return f"Copy a dataset in one of these layouts. {shown}."


def holds_nothing(folder: Path) -> bool:
    """Tell whether a folder is there and empty, but for what systems leave in folders."""
    return folder.is_dir() and all(is_litter(path) for path in folder.iterdir())


def find_dataset(folder: Path, layout: str = ANY_LAYOUT) -> Path:
    """Return the folder of the one dataset in an input folder.

    The dataset is the input folder itself when patients lie directly in it, or the one folder in
    it otherwise, however deep it is wrapped.

    Args:
        folder: Where to look.
        layout: Only datasets of this layout are found, or "auto" for any.

    Raises:
        FolderError: When the input folder is missing.
        DatasetError: When it is empty, holds several datasets, none that is recognised, or one
            that is recognised as several layouts.
    """
    if not folder.is_dir():
        problem = f"The input folder {folder} does not exist."
        raise FolderError(problem, fix=f"Create it and copy a dataset into it. {_conventions()}")
    if holds_nothing(folder):
        problem = f"The input folder {folder} is empty."
        raise DatasetError(problem, fix=_conventions())
    level, seen = [folder], 1
    while level and seen <= MAX_FOLDERS:
        datasets = [path for path in level if _reasons(path, layout)]
        if len(datasets) > 1:
            names = ", ".join(path.relative_to(folder).as_posix() for path in datasets)
            problem = f"There are {len(datasets)} datasets in {folder}: {names}."
            fix = "Leave one of them there, and train one after the other."
            raise DatasetError(problem, fix=fix)
        if datasets:
            _the_layout(datasets[0], layout)
            return datasets[0]
        level = [below for path in level for below in subfolders(path)]
        seen += len(level)
    raise _unknown(folder, layout)


def _reasons(folder: Path, layout: str) -> dict[str, str]:
    """Return why a folder is taken for a layout, by the name of each that fits."""
    asked = {name: each for name, each in layouts().items() if layout in {ANY_LAYOUT, name}}
    reasons = {name: each.recognise(folder, EXTENSIONS) for name, each in asked.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def _the_layout(folder: Path, layout: str) -> tuple[str, str]:
    """Return the name of the one layout that fits, and the reason.

    Raises:
        DatasetError: When none fits, or several do.
    """
    reasons = _reasons(folder, layout)
    if not reasons:
        raise _unknown(folder, layout)
    if len(reasons) > 1:
        shown = "; or ".join(f"{layouts()[name].NAME} ({why})" for name, why in reasons.items())
        problem = f"The dataset in {folder} can be read in {len(reasons)} ways: as {shown}."
        fix = f"Say which one is meant: --layout {' or --layout '.join(reasons)}."
        raise DatasetError(problem, fix=fix)
    return next(iter(reasons.items()))


def _unknown(folder: Path, layout: str) -> DatasetError:
    seen = _show(_count_kinds(folder)) or "no image file"
    links = [path.name for path in folder.iterdir() if path.is_symlink()]
    if links:
        seen += f", and {', '.join(links)}, a link, which is not followed"
    if layout == ANY_LAYOUT:
        problem = f"No dataset is recognised in {folder}; it holds {seen}."
        return DatasetError(problem, fix=_conventions())
    problem = f"{folder} is not laid out as --layout {layout} says; it holds {seen}."
    fix = f"Leave --layout out, or copy {layouts()[layout].DESCRIPTION}."
    return DatasetError(problem, fix=fix)


def _count_kinds(folder: Path) -> Counter[str]:
    kinds = (extension_of(path) for path in all_images(folder, EXTENSIONS))
    return Counter(kind for kind in kinds if kind is not None)


def _show(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def read_dataset(folder: Path, extension: str | None, layout: str = ANY_LAYOUT) -> Dataset:
    """List the cases of a dataset.

    Args:
        folder: From `find_dataset`.
        extension: Only files of this ending are images and labels; None takes every format.
        layout: How the folder is to be read, or "auto" for the layout that is recognised.

    Raises:
        DatasetError: When there is no such file, or not one layout that fits.
    """
    name, reason = _the_layout(folder, layout)
    kinds = own_endings(layouts()[name]) or EXTENSIONS
    if extension is not None and extension not in own_endings(layouts()[name]):
        kinds = _kinds_asked(folder, extension)
    dataset = replace(layouts()[name].read(folder, kinds), reason=reason)
    if dataset.label_names:
        return dataset
    names, findings = names_in_label_maps(dataset.cases)
    return replace(dataset, label_names=names, findings=(*dataset.findings, *findings))


def _kinds_asked(folder: Path, extension: str) -> tuple[str, ...]:
    found = _count_kinds(folder)
    # A .seg.nrrd is a .nrrd too.
    asked = tuple(kind for kind in EXTENSIONS if kind.endswith(extension))
    if not any(kind in found for kind in asked):
        shown = " and ".join(kind for kind, _ in found.most_common()) or "no image"
        problem = f"There is no {extension} file in {folder}; there is {shown}."
        raise DatasetError(problem, fix="Leave -e out, or name the ending that is there.")
    return asked
