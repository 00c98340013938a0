"""DICOM as scanners and hospital archives export it: files in any depth, order and name.

A case is a series of images that a SEG or RTSTRUCT refers to. Structures are told apart by their
names over all patients. Series that nothing was drawn on are passed over where their patient has
another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunet_medseg.dataset.case import Case, Dataset, Finding, number_cases
from nnunet_medseg.dataset.layouts.listing import (
    all_images,
    files_in,
    holds_dicom,
    other_files,
    subfolders,
)
from nnunet_medseg.dataset.layouts.patient_folders import begins_as_held_out
from nnunet_medseg.dataset.structures import name_key, name_structures, usual_names
from nnunet_medseg.volume.dicom.index import (
    Index,
    Series,
    StructureFile,
    index_files,
    is_dicom,
)
from nnunet_medseg.volume.dicom.structures import Structure
from nnunet_medseg.volume.problems import unreadable

__all__ = [
    "DESCRIPTION",
    "ENDINGS",
    "NAME",
    "damaged_files",
    "group_series",
    "index_folder",
    "most_frequent_type",
    "name_sources",
    "other_modalities",
    "read",
    "recognise",
    "source_of",
    "tell_patients_apart",
]

NAME = "DICOM"
DESCRIPTION = (
    "DICOM files in folders of any depth, with a SEG or an RTSTRUCT of each patient among them"
)
# What -e may say; the names of the files do not matter.
ENDINGS = (".dcm",)
# What the modality of an image is called with -i.
IMAGE_TYPES = {"MR": "MRI", "PT": "PET"}
KINDS = {"CT", "MRI", "PET"}


def recognise(folder: Path, extensions: tuple[str, ...]) -> str:
    """Tell whether there are DICOM files in a folder of any depth, and no other images.

    A folder around the one that holds them all is not taken for the dataset.
    """
    is_here = any(is_dicom(path) for path in files_in(folder))
    holding = [] if is_here else [path for path in subfolders(folder) if holds_dicom(path)]
    if not is_here and len(holding) < 2:
        return ""
    return "" if all_images(folder, extensions) else "files that begin as DICOM files do"


@dataclass
class _Drawn:
    """A series and what was drawn on it."""

    series: Series
    structures: list[tuple[str, Path, int]] = field(default_factory=list)


def read(folder: Path, extensions: tuple[str, ...]) -> Dataset:
    """List the series that something was drawn on, and what does not fit."""
    del extensions
    index, findings = tell_patients_apart(index_folder(folder))
    findings += damaged_files(index, folder)
    drawn, unplaced = _pair(index, folder)
    findings += unplaced
    findings += _undrawn(index, drawn, folder)
    names = [name for each in drawn for name, _, _ in each.structures]
    values, written = name_structures(names), usual_names(names)
    label_names = {value: written[key] for key, value in values.items()}
    series = [each.series for each in drawn]
    sources = name_sources(series, folder)
    cases = [_case(each, source, values) for each, source in zip(drawn, sources, strict=True)]
    findings += other_modalities(series, sources)
    channels = (most_frequent_type(series),)
    return Dataset(folder, NAME, number_cases(cases), channels, label_names, tuple(findings))


def index_folder(folder: Path) -> Index:
    """Return what the DICOM files in a folder of any depth hold."""
    files = list(other_files(folder))
    index = index_files(path for path in files if is_dicom(path))
    # As a copy that failed leaves them: nobody would see that the last slice of a series is gone.
    index.damaged += [
        (path, unreadable())
        for path in files
        if path.suffix.lower() in ENDINGS and not is_dicom(path)
    ]
    return index


def tell_patients_apart(index: Index) -> tuple[Index, list[Finding]]:
    """Take studies for patients where all files name the same one, as some anonymisers write."""
    studies = {series.study_uid for series in index.series}
    if len({series.patient for series in index.series}) > 1 or len(studies) < 2:
        return index, []
    message = f"all {len(studies)} studies have the same patient name and ID"
    fix = (
        "Each study is taken for a patient of its own. If some are of one patient, train with "
        "other IDs, so that nobody trains and is evaluated both."
    )
    series = [replace(each, patient=each.study_uid) for each in index.series]
    structures = [replace(each, patient=each.study_uid) for each in index.structures]
    finding = Finding("warning", "", "one patient", message, fix)
    return Index(series, structures, index.damaged), [finding]


def _case(drawn: _Drawn, source: str, values: dict[str, int]) -> Case:
    structures = sorted(
        (values[name_key(name)], path, number) for name, path, number in drawn.structures
    )
    label = structures[0][1]
    return Case(
        "",
        source,
        (drawn.series.files[0],),
        label,
        is_held_out=begins_as_held_out(label),
        patient=drawn.series.patient,
        series=(drawn.series.files,),
        structures=tuple(structures),
    )


def _pair(index: Index, folder: Path) -> tuple[list[_Drawn], list[Finding]]:
    """Put structures to the series they were drawn on."""
    by_uid = {series.uid: _Drawn(series) for series in index.series}
    findings = []
    for file in index.structures:
        source = source_of(file.path, folder)
        if not file.structures:
            message = f"{file.path.name} holds no structure"
            fix = "Remove it, or export the structures again."
            findings.append(Finding("warning", source, "no structures", message, fix))
        found = [(_series_of(item, file, index.series), item) for item in file.structures]
        placed = [(by_uid[uid], structure) for uid, structure in found if uid in by_uid]
        for drawn, structure in placed:
            drawn.structures.append((structure.name, file.path, structure.number))
        findings += _unplaced(file, source, {uid for uid, _ in found} - by_uid.keys())
        findings += _of_other_frames(file, source, placed)
    return [each for each in by_uid.values() if each.structures], findings


def _series_of(structure: Structure, file: StructureFile, series: Sequence[Series]) -> str:
    """Return the series that a structure was drawn on; empty when nobody can tell.

    The image that a contour was drawn on says more than a list of all series in a file, unless
    several series have images of that number, as some anonymisers write it.
    """
    holding = [each.uid for each in series if structure.image_uid in each.image_uids]
    if len(holding) == 1 and structure.image_uid:
        return holding[0]
    return structure.series_uid or _only_series(file, series)


def _unplaced(file: StructureFile, source: str, lost: set[str]) -> Iterator[Finding]:
    """Tell of structures without their series; an empty name is that of one that nobody knows."""
    if lost == {""}:
        message = f"{file.path.name} was drawn on no series that can be told"
        fix = "Leave of its study only the series of images that it was drawn on."
        yield Finding("error", source, "no image", message, fix)
    elif lost:
        message = f"{file.path.name} was drawn on a series that is not here"
        fix = "Copy the series of images that it belongs to into the patient's folder."
        yield Finding("error", source, "no image", message, fix)


def _of_other_frames(
    file: StructureFile, source: str, placed: Sequence[tuple[_Drawn, Structure]]
) -> Iterator[Finding]:
    """Tell of structures whose coordinates are not those of the series."""
    frames = [(drawn.series.frame_uid, structure.frame_uid) for drawn, structure in placed]
    if any(mine and other and mine != other for mine, other in frames):
        message = f"{file.path.name} has another frame of reference than its images"
        fix = (
            "Its coordinates need not be those of the images, as after a registration. Export the "
            "structures as they were drawn on this series."
        )
        yield Finding("error", source, "frame of reference", message, fix)


def _only_series(file: StructureFile, series: Sequence[Series]) -> str:
    """Return the one series of the study, for structures that do not say what they are of."""
    scans = [each for each in series if each.is_scan and not each.is_overview]
    same = [each.uid for each in scans if each.study_uid == file.study_uid]
    return same[0] if len(same) == 1 else ""


def _undrawn(index: Index, drawn: Sequence[_Drawn], folder: Path) -> Iterator[Finding]:
    """Name patients with images that nothing was drawn on."""
    known = {each.series.patient for each in drawn}
    known |= {file.patient for file in index.structures}
    seen: set[str] = set()
    for series in index.series:
        if series.patient not in known | seen:
            seen.add(series.patient)
            message = "there are images, and no SEG or RTSTRUCT of this patient"
            fix = "Copy it to the images, or remove the patient."
            source = source_of(series.files[0], folder)
            yield Finding("error", source, "no label map", message, fix)


def _usual_modality(drawn: Sequence[Series]) -> str:
    modalities = Counter(series.modality for series in drawn)
    return max(sorted(modalities), key=lambda name: modalities[name], default="")


def most_frequent_type(drawn: Sequence[Series]) -> str:
    """Return what most of the images are, as `-i` calls it: CT, MRI or PET."""
    modality = _usual_modality(drawn)
    return IMAGE_TYPES.get(modality, modality)


def other_modalities(drawn: Sequence[Series], sources: Sequence[str]) -> Iterator[Finding]:
    """Yield a finding for each series that is not of the modality that most have."""
    usual = _usual_modality(drawn)
    for series, source in zip(drawn, sources, strict=True):
        if series.modality != usual:
            message = f"the image is {series.modality}, and most others are {usual}"
            fix = "Train one model for each kind of image."
            yield Finding("error", source, "other image type", message, fix)


def damaged_files(index: Index, folder: Path) -> list[Finding]:
    """Return a finding for each DICOM file that cannot be read."""
    return [
        Finding("error", source_of(path, folder), problem.rule, f"{path.name}: {problem.problem}",
                problem.fix)
        for path, problem in index.damaged
    ]  # fmt: skip


def source_of(path: Path, folder: Path) -> str:
    """Return the user's name of what a DICOM file belongs to: its folder."""
    place = path.parent.relative_to(folder).as_posix()
    return path.stem if place == "." else place


def name_sources(series: Sequence[Series], folder: Path) -> list[str]:
    """Return the user's name of each series: the folder of its images, made distinct."""
    names = [source_of(each.files[0], folder) for each in series]
    counts = Counter(names)
    seen: Counter[str] = Counter()
    distinct = []
    for name in names:
        seen[name] += 1
        distinct.append(name if counts[name] == 1 else f"{name} (series {seen[name]})")
    return distinct


# --- images to segment -------------------------------------------------------------------------


def group_series(
    folder: Path, channels: Sequence[str]
) -> tuple[list[tuple[str, tuple[Path, ...]]], list[Finding]]:
    """List the series in a folder that a model of some images can segment.

    Overviews, and series of another kind of image than the model's, are passed over; the latter
    are told.

    Args:
        folder: Where to look, in any depth.
        channels: Channel names of the model.

    Returns:
        Name and files of each series, and findings.
    """
    index = index_folder(folder)
    findings = damaged_files(index, folder)
    scans = [series for series in index.series if series.is_scan and not series.is_overview]
    findings += [_no_scan(series, folder) for series in index.series if not series.is_scan]
    if scans and len(channels) > 1:
        message = f"there are DICOM series, and the model takes {len(channels)} images a case"
        fix = "Convert the series that belong together to NIfTI, named as the model wants them."
        return [], [*findings, Finding("error", "", "channel", message, fix)]
    wanted = [each for each in scans if _is_of(each, channels[0])]
    for series in scans:
        if series not in wanted:
            message = f"passed over: {series.modality}, and the model is of {channels[0]}"
            source = source_of(series.files[0], folder)
            findings.append(
                Finding("warning", source, "other image type", message, "Right if it is not meant.")
            )
    names = name_sources(wanted, folder)
    return [(name, each.files) for name, each in zip(names, wanted, strict=True)], findings


def _no_scan(series: Series, folder: Path) -> Finding:
    message = "passed over: a dose, a simulated image or a screenshot, and no scan"
    source = source_of(series.files[0], folder)
    return Finding("warning", source, "no scan", message, "Right if it is not meant.")


def _is_of(series: Series, channel: str) -> bool:
    """Tell whether a series may be of a model's kind of image; unknown names say nothing."""
    kind = IMAGE_TYPES.get(series.modality, series.modality)
    return channel.upper() not in KINDS or kind not in KINDS or channel.upper() == kind
