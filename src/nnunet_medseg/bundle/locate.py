"""Find the model in the folder a user names, and what its label values mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_medseg.bundle.manifest import read_manifest
from nnunet_medseg.dataset.labels import Label, LabelMap
from nnunet_medseg.errors import ModelError

__all__ = ["find_model", "labels_of"]

PLACES = ("plans.json", "*/plans.json", "*/*/plans.json")


def find_model(folder: Path) -> Path:
    """Return the one model folder in a folder: itself, or up to two levels down.

    Raises:
        ModelError: When there is none, or several.
    """
    fix = "Copy one folder from Output_nnUNet_train there, or name it with --model FOLDER."
    if not folder.is_dir():
        problem = f"There is no model: the folder {folder} does not exist."
        raise ModelError(problem, fix=fix)
    found = sorted({path.parent for place in PLACES for path in folder.glob(place)})
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found) or "none"
        problem = f"One model is wanted in {folder}; found: {names}."
        raise ModelError(problem, fix=fix)
    return found[0]


def labels_of(folder: Path, description: Mapping[str, Any]) -> LabelMap:
    """Return the labels of a model: the user's values from our manifest, else nnU-Net's own.

    Args:
        folder: The model folder.
        description: Its dataset.json.
    """
    manifest = read_manifest(folder)
    if manifest is not None:
        return tuple(Label(item.name, item.value, item.index) for item in manifest.labels)
    return tuple(
        Label(name, value, value)
        for name, value in sorted(description["labels"].items(), key=lambda item: item[1])
        if value != 0
    )
