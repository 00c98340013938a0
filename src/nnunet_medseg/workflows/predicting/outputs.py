"""What is written of a case: the segmentation, and on request a picture and probabilities."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from nnunet_medseg.dataset.labels import Label, LabelMap
from nnunet_medseg.dataset.layouts.listing import stem_of
from nnunet_medseg.dataset.unlabelled import Unlabelled
from nnunet_medseg.errors import VerificationError
from nnunet_medseg.files import write_atomic
from nnunet_medseg.report.overlay import COLOURS, Mask, draw_planes, window_of
from nnunet_medseg.volume import Volume, grid_shift, read_volume, to_ras, write_volume

__all__ = [
    "UNFINISHED",
    "FileNames",
    "name_files",
    "write_checked",
    "write_preview",
    "write_probabilities",
]

UNFINISHED = ".medseg-unfinished-"  # temporary folders beside the segmentations
SAME_GRID = 1e-3  # of a voxel: what headers of a format round to
MAPS = "probabilities"
MAX_LABEL_LETTERS = 60


@dataclass(frozen=True)
class FileNames:
    """The files of a case, relative to the output folder; empty what is not asked for.

    Attributes:
        result: The segmentation.
        preview: The picture.
        maps: A probability map a label.
    """

    result: str
    preview: str
    maps: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Every file that there is to be."""
        return tuple(name for name in (self.result, self.preview, *self.maps) if name)


def name_files(
    cases: Sequence[Unlabelled], labels: LabelMap, *, preview: bool, probabilities: bool
) -> dict[Unlabelled, FileNames]:
    """Return what the files of each case are called.

    Two images that differ only in their ending keep it in the names of what is beside.
    """
    stems = Counter(_stem(case) for case in cases)
    names = {}
    for case in cases:
        stem = _stem(case) if stems[_stem(case)] == 1 else case.result
        maps = [f"{MAPS}/{stem}/{_map_name(label)}" for label in labels] if probabilities else []
        picture = f"{stem}.png" if preview else ""
        names[case] = FileNames(case.result, picture, tuple(maps))
    return names


def _stem(case: Unlabelled) -> str:
    path = PurePosixPath(case.result)
    return path.with_name(stem_of(Path(path.name)) or path.name).as_posix()


def _map_name(label: Label) -> str:
    # The value tells labels apart whose names differ in signs that no file name may have.
    plain = re.sub(r"[^\w-]+", "_", label.name)[:MAX_LABEL_LETTERS]
    return f"{label.value}_{plain}.nrrd"


def write_checked(output: Path, name: str, result: Volume) -> None:
    """Write under a hidden name, read back, compare, and only then move into place.

    Raises:
        VerificationError: When it cannot be read as it was written.
    """
    target = output / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=UNFINISHED) as temporary:
        written = Path(temporary) / target.name
        write_volume(written, result)
        back = read_volume(written)
        if not np.array_equal(back.array, result.array) or grid_shift(back, result) > SAME_GRID:
            problem = f"The segmentation {target} could not be read back as it was written."
            raise VerificationError(problem, fix="No image was deleted. Check the disk.")
        # The data file of a pair first: the name that counts comes last.
        for path in sorted(Path(temporary).iterdir(), key=lambda item: item == written):
            shutil.move(path, target.parent / path.name)


def write_preview(path: Path, images: tuple[Volume, str], result: Volume, labels: LabelMap) -> None:
    """Draw three planes through the middle of the largest component.

    Args:
        path: The PNG.
        images: The first image, as stored, and its type.
        result: The segmentation, with the user's values.
        labels: Those with the most voxels are outlined, as many as there are colours.
    """
    image, image_type = to_ras(images[0]), images[1]
    found = to_ras(result).array
    counts = np.bincount(found.ravel(), minlength=max(each.value for each in labels) + 1)
    largest = sorted(labels, key=lambda label: -counts[label.value])[: len(COLOURS)]
    # In the model's order, so that a label keeps its colour from case to case.
    shown = [label for label in labels if label in largest]
    masks = [
        Mask(found == label.value, colour, label.name)
        for label, colour in zip(shown, COLOURS, strict=False)
    ]
    window = window_of(image_type, image.array)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, draw_planes(image, masks, None, window))


def write_probabilities(
    output: Path, names: Sequence[str], maps: Sequence[np.ndarray[Any, Any]], grid: Volume
) -> None:
    """Write a map a label.

    Args:
        output: The folder of the segmentations.
        names: Of the files.
        maps: Float32 in [0, 1], as many, on the grid.
        grid: The user's own.
    """
    for name, probability in zip(names, maps, strict=True):
        write_checked(output, name, grid.with_array(np.ascontiguousarray(probability)))
