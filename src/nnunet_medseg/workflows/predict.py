"""From copied images to segmentations with the user's own label values."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_medseg import console
from nnunet_medseg.bundle.locate import find_model
from nnunet_medseg.bundle.manifest import read_manifest
from nnunet_medseg.dataset.case import Finding
from nnunet_medseg.dataset.convert import from_training_labels
from nnunet_medseg.dataset.labels import Label, LabelMap
from nnunet_medseg.dataset.unlabelled import Unlabelled, check_unlabelled, group_images
from nnunet_medseg.errors import DatasetError, FolderError, ModelError, VerificationError
from nnunet_medseg.files import (
    ListedFile,
    delete_listed,
    hash_file,
    list_files,
    read_json,
    write_json,
)
from nnunet_medseg.hardware import choose_device
from nnunet_medseg.nnunet.plans import channel_names
from nnunet_medseg.run_folder import SCRATCH, is_writable, lock, sweep
from nnunet_medseg.volume import (
    Volume,
    extension_of,
    files_of,
    grid_shift,
    read_volume,
    restore_orientation,
    write_volume,
)
from nnunet_medseg.workflows.check import show_findings

__all__ = ["labels_of", "predict"]

RECORD = "predicted.json"  # in the work folder: what an interrupted prediction has written
UNFINISHED = ".medseg-unfinished-"  # temporary folders beside the segmentations
MAX_SHOWN = 20  # names
LARGEST_VALUE = 65535  # segmentations are written with 16 bits at most
SAME_GRID = 1e-3  # of a voxel: what headers of a format round to


@dataclass(frozen=True)
class _Job:
    """What every case of a prediction shares."""

    segmenter: Any
    labels: LabelMap
    output: Path
    work: Path
    log: Path


def predict(
    input_folder: Path,
    output_folder: Path,
    model: Path,
    work_folder: Path,
    *,
    device: str = "auto",
    delete_input: bool = False,
) -> tuple[Path, ...]:
    """Segment every image in a folder.

    Args:
        input_folder: Images, or folders with images.
        output_folder: Takes a segmentation of the same name, format, grid and direction for each.
            What is there already is never overwritten.
        model: A model folder of this program or of stock nnU-Net.
        work_folder: Takes work in progress; private.
        device: "auto", "cpu", "cuda" or "cuda:N".
        delete_input: Whether the images are deleted when all were segmented and written.

    Returns:
        The segmentations, in the order of their names.

    Raises:
        UserError: When something is wrong that the user can put right; no image was deleted.
    """
    source, output, work = (
        Path(item).absolute() for item in (input_folder, output_folder, work_folder)
    )
    model_folder = find_model(Path(model).absolute())
    if not source.is_dir():
        problem = f"The input folder {source} does not exist."
        raise FolderError(problem, fix="Create it and copy the images to segment into it.")
    output.mkdir(parents=True, exist_ok=True)
    if not is_writable(output):
        problem = f"The folder {output} cannot be written to."
        raise FolderError(problem, fix="Give yourself the right to write there.")
    with lock(work):
        sweep(work)
        for folder in output.glob(f"{UNFINISHED}*"):
            shutil.rmtree(folder)
        return _predict(source, output, work, model_folder, device, delete_input=delete_input)


def _predict(
    source: Path, output: Path, work: Path, model_folder: Path, device: str, *, delete_input: bool
) -> tuple[Path, ...]:
    from nnunet_medseg.nnunet.environment import chatter, prepare

    prepare()
    log = work / "predict-log.txt"
    with chatter(log):
        from nnunet_medseg.nnunet.inference import Segmenter, read_model
        from nnunet_medseg.nnunet.plans import naming

        read = read_model(model_folder)
        with naming(model_folder):
            segmenter = Segmenter(read, choose_device(device))
    labels = labels_of(model_folder, read.description)
    cases = _find_cases(source, channel_names(read.description))
    listed = _list_images(source, cases)
    fingerprint = hash_file(model_folder / "plans.json") + "".join(
        hash_file(path) for path in sorted(model_folder.glob("fold_*/checkpoint_final.pth"))
    )
    record = _Record(work / RECORD, fingerprint, listed)
    _require_free_names(source, output, cases, record)
    console.detail(
        f"{len(cases)} cases with {model_folder}; labels "
        + ", ".join(f"{label.name} = {label.value}" for label in labels)
    )
    job = _Job(segmenter, labels, output, work, log)
    with console.progress("Segmenting", len(cases), "cases") as bar:
        for number, case in enumerate(cases, start=1):
            if not record.has(source, output, case):
                _segment(job, case)
                record.add(source, output, case)
            bar.update(number)
    _tell(source, output, listed, cases, delete_input=delete_input)
    record.close()
    log.unlink(missing_ok=True)
    return tuple(output / case.result for case in cases)


def labels_of(folder: Path, description: Mapping[str, Any]) -> LabelMap:
    """Return the labels of a model: the user's values from our manifest, else nnU-Net's own.

    Args:
        folder: The model folder.
        description: Its dataset.json.
    """
    manifest = read_manifest(folder)
    if manifest is not None:
        indices = sorted(item.index for item in manifest.labels)
        if indices != sorted(value for value in description["labels"].values() if value != 0):
            problem = f"The manifest and the dataset.json in {folder} name different labels."
            raise ModelError(problem, fix="Copy the whole model folder again.")
        if not all(1 <= item.value <= LARGEST_VALUE for item in manifest.labels):
            problem = f"The manifest in {folder} has a label value that no segmentation can hold."
            raise ModelError(problem, fix=f"Values are whole numbers from 1 to {LARGEST_VALUE}.")
        return tuple(Label(item.name, item.value, item.index) for item in manifest.labels)
    return tuple(
        Label(name, value, value)
        for name, value in sorted(description["labels"].items(), key=lambda item: item[1])
        if value != 0
    )


def _find_cases(source: Path, channels: Sequence[str]) -> tuple[Unlabelled, ...]:
    cases, grouping = group_images(source, channels)
    links = [item.path for item in list_files(source) if item.is_link][:MAX_SHOWN]
    if not cases and not grouping:
        problem = f"There is no image in {source}."
        if links:
            problem += f" Links are not followed: {', '.join(links)}."
        raise DatasetError(problem, fix="Copy the images to segment into it.")
    for link in links:
        console.warn(f"{link} is a link; links are not followed")
    findings: list[Finding] = list(grouping)
    with console.progress("Reading images", len(cases), "cases") as bar:
        for number, case in enumerate(cases, start=1):
            findings += check_unlabelled(case)
            bar.update(number)
    show_findings(tuple(findings))
    if errors := [item for item in findings if item.severity == "error"]:
        problem = f"The images have {len(errors)} problems, listed above."
        raise DatasetError(problem, fix="Put them right and run the same command again.")
    return cases


def _list_images(source: Path, cases: Sequence[Unlabelled]) -> tuple[ListedFile, ...]:
    """List the files that hold the images, with their hashes; nothing else is ever deleted."""
    wanted = {
        part.relative_to(source).as_posix()
        for case in cases
        for path in case.images
        for part in files_of(path)
    }
    stamped = [item for item in list_files(source) if item.path in wanted and not item.is_link]
    return tuple(replace(item, sha256=hash_file(source / item.path)) for item in stamped)


class _Record:
    """Remembers what was written, so that an interrupted prediction goes on where it stopped."""

    def __init__(self, path: Path, model: str, listed: Sequence[ListedFile]) -> None:
        self._path = path
        self._model = model
        self._hashes = {item.path: item.sha256 for item in listed}
        try:
            self._done: dict[str, list[str]] = read_json(path)
        except (OSError, ValueError):
            self._done = {}

    def _entry(self, source: Path, output: Path, case: Unlabelled) -> list[str]:
        images = [self._hashes[path.relative_to(source).as_posix()] for path in case.images]
        return [self._model, *images, hash_file(output / case.result)]

    def has(self, source: Path, output: Path, case: Unlabelled) -> bool:
        """Tell whether the case was segmented from these very files with this very model."""
        key = str(output / case.result)
        if key not in self._done or not (output / case.result).is_file():
            return False
        return self._done[key] == self._entry(source, output, case)

    def add(self, source: Path, output: Path, case: Unlabelled) -> None:
        """Remember a case that was written."""
        self._done[str(output / case.result)] = self._entry(source, output, case)
        write_json(self._path, self._done, mode=0o600)

    def close(self) -> None:
        """Forget everything."""
        self._path.unlink(missing_ok=True)


def _require_free_names(
    source: Path, output: Path, cases: Sequence[Unlabelled], record: _Record
) -> None:
    taken = [
        case.result
        for case in cases
        if (output / case.result).exists() and not record.has(source, output, case)
    ]
    if taken:
        shown = ", ".join(taken[:5]) + (" …" if len(taken) > 5 else "")
        problem = f"{len(taken)} segmentations are in {output} already: {shown}."
        raise FolderError(problem, fix="Move them away; nothing is overwritten here.")


def _segment(job: _Job, case: Unlabelled) -> None:
    from nnunet_medseg.nnunet.environment import chatter

    with tempfile.TemporaryDirectory(dir=job.work, prefix=SCRATCH) as temporary:
        first, images = _as_nifti(case, Path(temporary))
        with chatter(job.log):
            predicted = job.segmenter.segment(images)
    array = from_training_labels(predicted, job.labels)
    oriented = job.segmenter.reorients
    result = restore_orientation(array, first) if oriented else first.with_array(array)
    _write_checked(job.output, case.result, result)


def _as_nifti(case: Unlabelled, folder: Path) -> tuple[Volume, list[Path]]:
    """Return the first image, and NIfTI files whose headers agree with its grid to the last bit."""
    volumes = case.read()
    grid = volumes[0]
    images = []
    for place, (path, volume) in enumerate(zip(case.images, volumes, strict=True)):
        is_nifti = extension_of(path) in {".nii", ".nii.gz"}
        # What was put right in reading is wrong in the file.
        is_plain = not volume.notes and not case.frames
        if is_nifti and is_plain and np.array_equal(volume.affine, grid.affine):
            images.append(path)
            continue
        # Numbered: a name of full length would not take the other ending.
        images.append(folder / f"{place}.nii.gz")
        write_volume(images[-1], grid.with_array(volume.array))
    return grid, images


def _write_checked(output: Path, name: str, result: Volume) -> None:
    """Write under a hidden name, read back, compare, and only then move into place."""
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


def _tell(
    source: Path,
    output: Path,
    listed: Sequence[ListedFile],
    cases: Sequence[Unlabelled],
    *,
    delete_input: bool,
) -> None:
    console.detail(f"{len(cases)} segmentations are in {output}")
    if not delete_input:
        return
    present = {item.path for item in list_files(source)}
    kept = delete_listed(source, listed, keep_root=True)
    console.detail(f"deleted: {len(present - set(kept))} image files of the input folder")
    for name in kept[:MAX_SHOWN]:
        console.warn(f"kept, since it is new, changed, or no image: {name}")
