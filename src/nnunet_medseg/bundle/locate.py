"""Find the model in the folder a user names."""

from __future__ import annotations

from pathlib import Path

from nnunet_medseg.errors import ModelError

__all__ = ["find_model"]

PLACES = ("plans.json", "*/plans.json", "*/*/plans.json")


def find_model(folder: Path) -> Path:
    """Return the one model folder in a folder: itself, or up to two levels down.

    Raises:
        ModelError: When there is none, or several.
    """
    fix = "Copy one folder from Output_nnUNet_train there, or name its folder."
    if not folder.is_dir():
        problem = f"There is no model: the folder {folder} does not exist."
        raise ModelError(problem, fix=fix)
    found = sorted({path.parent for place in PLACES for path in folder.glob(place)})
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found) or "none"
        problem = f"One model is wanted in {folder}; found: {names}."
        raise ModelError(problem, fix=fix)
    return found[0]
