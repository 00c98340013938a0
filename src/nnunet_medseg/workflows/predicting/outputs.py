"""What is written of a case: the segmentation, and on request a picture and probabilities."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from nnunet_medseg.bundle.build import program_version
from nnunet_medseg.dataset.labels import Label, LabelMap
from nnunet_medseg.dataset.layouts.listing import stem_of
from nnunet_medseg.dataset.unlabelled import Unlabelled
from nnunet_medseg.errors import UsageError, VerificationError
from nnunet_medseg.report.overlay import COLOURS, Mask, draw_planes, window_of
from nnunet_medseg.volume import (
    Volume,
    VolumeError,
    grid_shift,
    read_volume,
    to_ras,
    write_volume,
)
from nnunet_medseg.volume.dicom.frames import on_slices
from nnunet_medseg.volume.dicom.series import read_series
from nnunet_medseg.volume.dicom.structures import read_structures
from nnunet_medseg.volume.dicom.writing import WRITERS, require_references
from nnunet_medseg.volume.shear import was_sheared

__all__ = [
    "NIFTI",
    "OUTPUT_FORMATS",
    "UNFINISHED",
    "FileNames",
    "as_format",
    "name_files",
    "staging",
    "write_checked",
    "write_preview",
    "write_result",
]

NIFTI = "nifti"  # for DICOM series; other images come back in the format they had
OUTPUT_FORMATS = (NIFTI, *WRITERS)
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


@contextmanager
def staging(output: Path, result: str) -> Iterator[Path]:
    """Yield a hidden folder; what is in it at the end is moved into the output folder at once.

    Args:
        output: The folder of the segmentations.
        result: The file that is moved last, since its name stands for the whole case.
    """
    with tempfile.TemporaryDirectory(dir=output, prefix=UNFINISHED) as temporary:
        stage = Path(temporary)
        yield stage
        files = [path for path in stage.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda item: item == stage / result):
            target = output / path.relative_to(stage)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)


def write_checked(path: Path, volume: Volume) -> None:
    """Write a volume, read it back, and compare.

    Raises:
        VerificationError: When it cannot be read as it was written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, volume)
    back = read_volume(path, is_label=True)
    if not np.array_equal(back.array, volume.array) or grid_shift(back, volume) > SAME_GRID:
        problem = f"The segmentation {path.name} could not be read back as it was written."
        raise VerificationError(problem, fix="No image was deleted. Check the disk.")


def as_format(cases: Sequence[Unlabelled], output_format: str) -> tuple[Unlabelled, ...]:
    """Return the cases with results of a format; only DICOM series can have one of DICOM.

    Raises:
        UsageError: When other images are among them, two would have one name, or no DICOM file can
            refer to a series.
    """
    counts = Counter(case.result for case in cases)
    if twice := sorted(name for name, count in counts.items() if count > 1):
        problem = f"Two images would both get the segmentation {twice[0]}."
        raise UsageError(problem, fix="Rename one of the two files or folders.")
    if output_format == NIFTI:
        return tuple(cases)
    others = [case.result for case in cases if not case.series]
    if others:
        problem = f"--output_format {output_format} is of DICOM series; {others[0]} is none."
        raise UsageError(problem, fix="Leave it out, or segment the series by themselves.")
    for case in cases:
        with _refusal_told(case.result):
            require_references(case.series[0], output_format)
    ending = f"_{output_format}.dcm"
    return tuple(
        replace(case, result=case.result.removesuffix(".nii.gz") + ending) for case in cases
    )


@contextmanager
def _refusal_told(name: str) -> Iterator[None]:
    try:
        yield
    except VolumeError as error:
        problem = f"{name}: {error.problem}."
        raise UsageError(problem, fix=error.fix) from error


def write_result(
    path: Path, volume: Volume, case: Unlabelled, labels: LabelMap, output_format: str
) -> None:
    """Write the segmentation of a case, read it back, and compare.

    Raises:
        UserError: When it cannot be written in that format, or read as it was written.
    """
    if output_format == NIFTI:
        write_checked(path, volume)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    names = {label.value: label.name for label in labels}
    with _refusal_told(path.name):
        WRITERS[output_format](path, volume, names, case.series[0], program_version())
    if was_sheared(volume):
        # The slices lie aslant in the straightened image; no voxel of one is a voxel of the other.
        volume = on_slices(volume, read_series(case.series[0], straighten=False))
    masks = read_structures(path, volume)
    for number, label in enumerate(labels, start=1):
        if not np.array_equal(masks[number], volume.array == label.value):
            problem = f"The segmentation {path.name} could not be read back as it was written."
            raise VerificationError(
                problem, fix="No image was deleted. Take --output_format nifti."
            )


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
    path.write_bytes(draw_planes(image, masks, None, window))
