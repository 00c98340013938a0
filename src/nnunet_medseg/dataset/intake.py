"""Find the dataset in the input folder, recognise its layout and list its cases."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import ModuleType

from nnunet_medseg.dataset.case import Dataset
from nnunet_medseg.dataset.layouts import nnunet_raw, patient_folders
from nnunet_medseg.dataset.layouts.listing import all_images, is_litter, subfolders
from nnunet_medseg.errors import DatasetError, FolderError, UsageError
from nnunet_medseg.volume import EXTENSIONS, extension_of

__all__ = [
    "DEFAULT_EXTENSION",
    "check_extension",
    "find_dataset",
    "holds_nothing",
    "read_dataset",
]

DEFAULT_EXTENSION = ".nii.gz"
# Asked in this order: the more particular convention first.
LAYOUTS: tuple[ModuleType, ...] = (nnunet_raw, patient_folders)
CONVENTIONS = (
    "Copy a folder with one folder a patient in it (PATIENT/img.nii.gz and PATIENT/train.nii.gz, "
    "or validate.nii.gz for a patient to be kept out of training), or an nnU-Net raw dataset "
    "(imagesTr, labelsTr, dataset.json)."
)


def check_extension(text: str) -> str:
    """Return a known extension for what the user wrote, with or without the dot.

    Raises:
        UsageError: When it is none of ours.

    Examples:
        >>> check_extension("nii.gz")
        '.nii.gz'
    """
    extension = "." + text.strip().lower().lstrip(".")
    if extension not in EXTENSIONS:
        problem = f"-e {text} is not an image format that can be read."
        raise UsageError(problem, fix=f"Use one of {', '.join(EXTENSIONS)}.")
    return extension


def holds_nothing(folder: Path) -> bool:
    """Tell whether a folder is there and empty, but for what systems leave in folders."""
    return folder.is_dir() and all(is_litter(path) for path in folder.iterdir())


def find_dataset(folder: Path) -> Path:
    """Return the folder of the one dataset in an input folder.

    The dataset is the input folder itself when patients lie directly in it, or the one folder in
    it otherwise, however deep it is wrapped.

    Raises:
        FolderError: When the input folder is missing.
        DatasetError: When it is empty, holds several datasets, or none that is recognised.
    """
    if not folder.is_dir():
        problem = f"The input folder {folder} does not exist."
        raise FolderError(problem, fix=f"Create it and copy a dataset into it. {CONVENTIONS}")
    if holds_nothing(folder):
        problem = f"The input folder {folder} is empty."
        raise DatasetError(problem, fix=CONVENTIONS)
    if _layout_of(folder) is not None:
        return folder
    below = subfolders(folder)
    datasets = [path for path in below if _layout_of(path) is not None]
    if len(datasets) > 1:
        names = ", ".join(path.name for path in datasets)
        problem = f"There are {len(datasets)} datasets in {folder}: {names}."
        raise DatasetError(problem, fix="Leave one of them there, and train one after the other.")
    if datasets:
        return datasets[0]
    if len(below) == 1:
        return find_dataset(below[0])
    raise _unknown(folder)


def _layout_of(folder: Path) -> ModuleType | None:
    return next((layout for layout in LAYOUTS if layout.recognise(folder, EXTENSIONS)), None)


def _unknown(folder: Path) -> DatasetError:
    kinds = Counter(extension_of(path) for path in all_images(folder, EXTENSIONS))
    seen = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "no image file"
    links = [path.name for path in folder.iterdir() if path.is_symlink()]
    if links:
        seen += f", and {', '.join(links)}, a link, which is not followed"
    problem = f"No dataset is recognised in {folder}; it holds {seen}."
    return DatasetError(problem, fix=CONVENTIONS)


def read_dataset(folder: Path, extension: str | None) -> Dataset:
    """List the cases of a dataset.

    Args:
        folder: From `find_dataset`.
        extension: Only files of this ending are images and labels; None takes the default, or
            whatever is there when there is none of the default.

    Raises:
        DatasetError: When there is no such file.
    """
    layout = _layout_of(folder)
    if layout is None:
        raise _unknown(folder)
    kinds = Counter(extension_of(path) for path in all_images(folder, EXTENSIONS))
    dataset: Dataset = layout.read(folder, _choose_extensions(kinds, extension, folder))
    return dataset


def _choose_extensions(
    kinds: Counter[str | None], extension: str | None, folder: Path
) -> tuple[str, ...]:
    found = tuple(kind for kind, _ in kinds.most_common() if kind is not None)
    if extension is None:
        return (DEFAULT_EXTENSION,) if DEFAULT_EXTENSION in found else found
    if extension not in found:
        shown = " and ".join(found) or "no image"
        problem = f"There is no {extension} file in {folder}; there is {shown}."
        raise DatasetError(problem, fix="Leave -e out, or name the ending that is there.")
    return (extension,)
