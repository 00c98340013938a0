"""What can be wrong with an image file, in words for people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "VolumeError",
    "check_name",
    "count_lost",
    "not_finite",
    "sheared",
    "too_large",
    "unreadable",
]

CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")  # in a name; a header cannot hold some of them


class VolumeError(ValueError):
    """A file that is not one 3D image.

    Attributes:
        rule: Short name of what is wrong.
        problem: What was found, without the file's name.
        fix: What to do about it.
    """

    def __init__(self, rule: str, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.rule = rule
        self.problem = problem
        self.fix = fix


def check_name(path: Path) -> None:
    """Refuse a file whose name, or that of a folder around it, cannot be handed to SimpleITK.

    Raises:
        VolumeError: When it is no text, or the file's own name holds control characters.
    """
    # SimpleITK ends the whole process over a name that is no text.
    try:
        str(path).encode()
    except UnicodeEncodeError as cause:
        problem = "the name of the file or of its folder holds characters that are no text"
        raise VolumeError("file name", problem, "Rename it.") from cause
    if CONTROLS.search(path.name):
        problem = "the name of the file holds a line break or another control character"
        raise VolumeError("file name", problem, "Rename it.")


def sheared() -> VolumeError:
    """Return the error for axes that are too far from right angles."""
    return VolumeError(
        "axes not at right angles",
        "the axes of the image are not at right angles to each other (a sheared affine)",
        "Resample the image onto a regular grid, for example in 3D Slicer.",
    )


def unreadable() -> VolumeError:
    """Return the error for a file that cannot be read."""
    return VolumeError(
        "unreadable",
        "the file cannot be read: it is damaged, cut short, or not of the format its name says",
        "Export or copy the file again.",
    )


def not_finite(voxels: int) -> VolumeError:
    """Return the error for values that are no numbers."""
    problem = f"{voxels} voxels are NaN or infinite"
    return VolumeError("NaN or Inf", problem, "Replace them by the value of the background.")


def count_lost(values: np.ndarray[Any, Any]) -> int:
    """Return how many values are NaN or infinite."""
    return int(values.size - np.isfinite(values).sum())


def too_large(size: Sequence[int]) -> VolumeError:
    """Return the error for a header that announces too much."""
    announced = " x ".join(map(str, size))
    problem = f"the header announces {announced} voxels, more than memory holds"
    return VolumeError("too large", problem, "Crop or resample the image, or add memory.")
