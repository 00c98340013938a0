"""Label maps among images to segment, by the names that training knows them by.

Promises: a file is left out only with a warning, and only where an image lies beside it or its
ending says what it is; a file that is alone is an image, whatever its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_medseg.dataset.case import Finding
from nnunet_medseg.dataset.layouts.bids import is_derived
from nnunet_medseg.dataset.layouts.listing import is_group_folder, is_label_folder, stem_of
from nnunet_medseg.dataset.layouts.pairing import is_label_map, is_segmentation
from nnunet_medseg.dataset.layouts.patient_folders import LABEL_STEM

__all__ = ["without_label_maps"]


def without_label_maps(
    names: Mapping[Path, Path], scans: Sequence[Path], folder: Path
) -> tuple[list[Path], list[Finding]]:
    """Tell images from the label maps beside them.

    Args:
        names: The files, and what each is called without its channel.
        scans: A file of each DICOM series.
        folder: Where all of them lie, in any depth.

    Returns:
        The images, and a warning for each file that is called as a label map.
    """
    called = {
        path
        for path, name in names.items()
        if _is_called_so(name, folder) or _lies_apart(name, folder)
    }
    holding = {path.parent for path in names if path not in called}
    # A label map may lie anywhere around the folder of its series.
    holding |= {above for path in scans for above in path.parents}
    images, findings = [], []
    for path, name in names.items():
        has_image = path.parent in holding or (bool(holding) and _lies_apart(name, folder))
        is_label = path in called and (has_image or is_segmentation(path))
        if not is_label:
            images.append(path)
        if path in called:
            findings.append(_told(path.relative_to(folder).as_posix(), is_label=is_label))
    return images, findings


def _is_called_so(path: Path, folder: Path) -> bool:
    """Tell whether a file's own name is one that training takes for a label map's."""
    # Among the images of many patients, one may well be called train_07.
    is_of_many = path.parent == folder or is_group_folder(path.parent)
    matches = LABEL_STEM.fullmatch if is_of_many else LABEL_STEM.match
    return is_label_map(path) or matches(stem_of(path)) is not None


def _lies_apart(path: Path, folder: Path) -> bool:
    """Tell whether a file is a label map whose image lies in another folder."""
    within = path.relative_to(folder).parts[:-1]
    return is_derived(path) or any(is_label_folder(Path(part)) for part in within)


def _told(name: str, *, is_label: bool) -> Finding:
    if is_label:
        message = "passed over: by its name, or that of its folder, it is a label map"
        return Finding("warning", name, "label map", message, "Rename it if it is an image.")
    message = "called as a label map, but no image lies beside it: it is segmented as an image"
    return Finding("warning", name, "label map", message, "Remove it if it is none.")
