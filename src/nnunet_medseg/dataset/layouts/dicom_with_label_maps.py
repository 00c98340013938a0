"""DICOM images with label maps of another format, as 3D Slicer or ITK-SNAP leave them beside.

A label map belongs to the series in its own folder, or else in the nearest folder around it that
has one below; among several, to the one in a folder of its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from nnunet_medseg.dataset.case import Case, Dataset, Finding, number_cases
from nnunet_medseg.dataset.layouts.dicom import (
    damaged_files,
    index_folder,
    most_frequent_type,
    name_sources,
    other_modalities,
    source_of,
    tell_patients_apart,
)
from nnunet_medseg.dataset.layouts.listing import (
    all_images,
    holds_dicom,
    is_label_folder,
    stem_of,
    subfolders,
)
from nnunet_medseg.dataset.layouts.pairing import is_label_map, label_core, several_label_maps
from nnunet_medseg.dataset.layouts.patient_folders import LABEL_STEM, begins_as_held_out
from nnunet_medseg.volume import EXTENSIONS
from nnunet_medseg.volume.dicom.index import Series

__all__ = ["DESCRIPTION", "ENDINGS", "NAME", "read", "recognise"]

NAME = "DICOM with label maps"
DESCRIPTION = (
    "DICOM images, with a label map of each patient beside them (seg.nii.gz, "
    "Segmentation.seg.nrrd), or in labels/ and called as the patient's folder"
)
ENDINGS = (".dcm",)


def recognise(folder: Path, extensions: tuple[str, ...]) -> str:
    """Tell whether there are DICOM files and label maps in a folder of any depth, and no images."""
    label_maps = all_images(folder, extensions)
    if not label_maps or not all(_is_label_map(path, folder) for path in label_maps):
        return ""
    holding = [path for path in subfolders(folder) if holds_dicom(path)]
    lies_within = len(holding) == 1 and all(path.is_relative_to(holding[0]) for path in label_maps)
    # A folder around the one that holds them all is not taken for the dataset.
    if lies_within or not holds_dicom(folder):
        return ""
    return "files that begin as DICOM files do, and label maps"


def _is_label_map(path: Path, folder: Path) -> bool:
    return (
        LABEL_STEM.match(stem_of(path)) is not None
        or is_label_map(path)
        or any(is_label_folder(above) for above in _folders_around(path, folder))
    )


def read(folder: Path, extensions: tuple[str, ...]) -> Dataset:
    """List the series with a label map, and what does not fit."""
    kinds = EXTENSIONS if extensions == ENDINGS else extensions
    index, findings = tell_patients_apart(index_folder(folder))
    findings += damaged_files(index, folder)
    scans = [series for series in index.series if series.is_scan and not series.is_overview]
    found, unplaced = _pair(all_images(folder, kinds), scans, folder)
    findings += unplaced
    findings += _without_label_map(scans, found, folder)
    for structures in index.structures:
        message = f"{structures.path.name} is a SEG or RTSTRUCT, and there are label maps too"
        fix = "Keep the one or the other."
        source = source_of(structures.path, folder)
        findings.append(Finding("error", source, "several label maps", message, fix))
    drawn = [series for series in scans if series.uid in found]
    sources = name_sources(drawn, folder)
    cases = []
    for series, source in zip(drawn, sources, strict=True):
        labels = found[series.uid]
        if len(labels) > 1:
            findings.append(several_label_maps(source, [path.name for path in labels]))
        else:
            cases.append(_case(series, source, labels[0]))
    findings += other_modalities(drawn, sources)
    channels = (most_frequent_type(drawn),)
    return Dataset(folder, NAME, number_cases(cases), channels, {}, tuple(findings))


def _case(series: Series, source: str, label: Path) -> Case:
    return Case(
        "",
        source,
        (series.files[0],),
        label,
        is_held_out=begins_as_held_out(label),
        patient=series.patient,
        series=(series.files,),
    )


def _folders_around(path: Path, folder: Path) -> Iterator[Path]:
    """Yield the folders that a file lies in, the innermost first, up to that of the dataset."""
    return (above for above in path.parents if above.is_relative_to(folder))


def _pair(
    labels: Sequence[Path], scans: Sequence[Series], folder: Path
) -> tuple[dict[str, list[Path]], list[Finding]]:
    """Return the label maps by the UID of their series, and a finding for each that has none."""
    found: dict[str, list[Path]] = {}
    findings = []
    for label in labels:
        candidates = _nearest(label, scans, folder)
        if len(candidates) == 1:
            found.setdefault(candidates[0].uid, []).append(label)
        else:
            findings.append(_unplaced(label, len(candidates), folder))
    return found, findings


def _nearest(label: Path, scans: Sequence[Series], folder: Path) -> list[Series]:
    for above in _folders_around(label, folder):
        near = [series for series in scans if series.files[0].is_relative_to(above)]
        if near:
            called = [series for series in near if _is_called(label, series, above)]
            # Below the dataset's own folder lie all patients: only a name tells whose it is.
            needs_name = above == folder and len(near) > 1
            return called if called or needs_name else near
    return []


def _is_called(label: Path, series: Series, above: Path) -> bool:
    stem = stem_of(label)
    names = {stem.casefold(), (label_core(stem) or stem).casefold()}
    folders = series.files[0].parent.relative_to(above).parts
    return any(name.casefold() in names for name in folders)


def _unplaced(label: Path, count: int, folder: Path) -> Finding:
    source = stem_of(label) if label.parent == folder else source_of(label, folder)
    if count:
        message = f"{label.name} may belong to any of {count} series of images"
        fix = "Keep one series, the one it was drawn on, or put each into a folder of its own."
        return Finding("error", source, "several images", message, fix)
    message = f"there is a label map ({label.name}), and no series of images that it belongs to"
    fix = "Put it into the folder of its patient, or give it the name of that folder."
    return Finding("error", source, "no image", message, fix)


def _without_label_map(
    scans: Sequence[Series], found: dict[str, list[Path]], folder: Path
) -> Iterator[Finding]:
    """Name patients with images that have no label map."""
    seen = {series.patient for series in scans if series.uid in found}
    for series in scans:
        if series.patient not in seen:
            seen.add(series.patient)
            message = "there are images, and no label map of this patient"
            fix = "Copy it to the images, or remove the patient."
            source = source_of(series.files[0], folder)
            yield Finding("error", source, "no label map", message, fix)
