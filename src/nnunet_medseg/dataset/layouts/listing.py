"""What lies in a folder: images by extension, without the litter of operating systems."""

from __future__ import annotations

from pathlib import Path

from nnunet_medseg.volume import extension_of

__all__ = ["all_images", "image_files", "is_litter", "stem_of", "subfolders"]

LITTER = {"__macosx", "thumbs.db", "desktop.ini"}


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


def image_files(folder: Path, extensions: tuple[str, ...]) -> list[Path]:
    """Return the image files directly in a folder, sorted by name; links are not followed."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and not path.is_symlink()
        and not is_litter(path)
        and extension_of(path) in extensions
    )


def all_images(folder: Path, extensions: tuple[str, ...]) -> list[Path]:
    """Return the image files in a folder and all folders below."""
    found = image_files(folder, extensions)
    for below in subfolders(folder):
        found += all_images(below, extensions)
    return found


def stem_of(path: Path) -> str:
    """Return a file's name without its image extension.

    Examples:
        >>> stem_of(Path("img_T1.nii.gz"))
        'img_T1'
    """
    return path.name[: -len(extension_of(path) or path.suffix) or None]
