"""What lies in a folder: images by extension, without the litter of operating systems."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from nnunet_medseg.volume import extension_of
from nnunet_medseg.volume.dicom.index import is_dicom

__all__ = [
    "LABELS",
    "all_images",
    "files_in",
    "holds_dicom",
    "image_files",
    "is_group_folder",
    "is_image_folder",
    "is_label_folder",
    "is_litter",
    "other_files",
    "stem_of",
    "subfolders",
]

# Of macOS, Windows and network drives.
LITTER = {
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "lost+found"),
    *("$recycle.bin", "system volume information"),
}

# What folders of nothing but images, or label maps, are called; `Tr` is for training.
IMAGES = r"(?:images?|imgs?|scans?|volumes?|vols?)"
LABELS = r"(?:labels?|masks?|seg(?:mentation)?s?|annotations?|gts?|ground[\W_]?truths?)"
TRAINING = r"(?:[\W_]*tr(?:ain(?:ing)?)?)?$"
OTHERS = r"[\W_]*(?:te?s|test(?:ing)?|va|val(?:id(?:ation)?)?)$"
IMAGE_FOLDER = re.compile(IMAGES + TRAINING, re.I)
LABEL_FOLDER = re.compile(LABELS + TRAINING, re.I)
GROUP_FOLDER = re.compile(rf"(?:{IMAGES}|{LABELS})(?:{TRAINING}|{OTHERS})", re.I)


def is_image_folder(folder: Path) -> bool:
    """Tell whether a folder is called as one of images, such as `images` or `imagesTr`."""
    return IMAGE_FOLDER.match(folder.name) is not None


def is_label_folder(folder: Path) -> bool:
    """Tell whether a folder is called as one of label maps, such as `labels` or `masks`."""
    return LABEL_FOLDER.match(folder.name) is not None


def is_group_folder(folder: Path) -> bool:
    """Tell whether a folder's name says that it holds files of many patients."""
    return GROUP_FOLDER.match(folder.name) is not None


def is_litter(path: Path) -> bool:
    """Tell whether an operating system put it there: hidden files, `__MACOSX`, `Thumbs.db`."""
    return path.name.startswith(".") or path.name.lower() in LITTER


def subfolders(folder: Path) -> list[Path]:
    """Return the real folders directly below, sorted by name; links are not followed."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.is_symlink() and not is_litter(path)
    )


def files_in(folder: Path) -> list[Path]:
    """Return the files directly in a folder, sorted by name; links are not followed."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.is_symlink() and not is_litter(path)
    )


def image_files(folder: Path, extensions: tuple[str, ...]) -> list[Path]:
    """Return the image files directly in a folder, sorted by name; links are not followed."""
    return [path for path in files_in(folder) if extension_of(path) in extensions]


def other_files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and all below that no ending tells to be images."""
    folders = [folder]
    while folders:
        here = folders.pop()
        yield from (path for path in files_in(here) if extension_of(path) is None)
        folders += reversed(subfolders(here))


def holds_dicom(folder: Path) -> bool:
    """Tell whether a file in a folder or below begins as DICOM files do."""
    return any(is_dicom(path) for path in other_files(folder))


def all_images(folder: Path, extensions: tuple[str, ...]) -> list[Path]:
    """Return the image files in a folder and all folders below."""
    found = []
    folders = [folder]
    while folders:
        here = folders.pop()
        found += image_files(here, extensions)
        folders += reversed(subfolders(here))
    return found


def stem_of(path: Path) -> str:
    """Return a file's name without its image extension.

    Examples:
        >>> stem_of(Path("img_T1.nii.gz"))
        'img_T1'
    """
    return path.name[: -len(extension_of(path) or path.suffix) or None]
