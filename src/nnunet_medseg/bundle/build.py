"""The model folder that is handed over, built under a hidden name.

Promises: only the files named here are in it; the checkpoint holds tensors and plain types, and no
optimizer state, log or name.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnunet_medseg.bundle.manifest import Manifest, stock_command, write_manifest
from nnunet_medseg.files import hash_file, write_json

__all__ = ["ModelParts", "build_model", "program_version", "versions"]

STOCK_NOTE = (
    "Stock nnU-Net wants images named CASE_0000.nii.gz (then _0001 … for more channels) in IMAGES, "
    "and writes the values called index in labels."
)
PACKAGES = ("nnunetv2", "torch", "numpy", "SimpleITK")


@dataclass(frozen=True)
class ModelParts:
    """What a model is made of.

    Attributes:
        plans: With the one configuration that was trained.
        description: The dataset.json, without any file name.
        configuration: Its name.
        checkpoints: From training, by fold: "all" or a number. Several make an ensemble.
    """

    plans: Mapping[str, Any]
    description: Mapping[str, Any]
    configuration: str
    checkpoints: Mapping[str, Mapping[str, Any]]


def program_version() -> str:
    """Return the version of this program."""
    return version("nnunet-medseg")


def versions() -> dict[str, str]:
    """Return the versions of what a model depends on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def build_model(folder: Path, parts: ModelParts, facts: Mapping[str, Any]) -> Manifest:
    """Write the model folder.

    Args:
        folder: Must not exist.
        parts: What the model is made of.
        facts: Fields of the manifest beside those that follow from the parts.

    Returns:
        The manifest, which is written last.
    """
    folder.mkdir(parents=True)
    write_json(folder / "plans.json", dict(parts.plans))
    write_json(folder / "dataset.json", dict(parts.description))
    for fold, checkpoint in parts.checkpoints.items():
        _write_fold(folder / f"fold_{fold}", parts.configuration, checkpoint)
    manifest = Manifest(
        program=f"nnunet-medseg {program_version()}",
        versions=versions(),
        configuration=parts.configuration,
        stock_command=stock_command(list(parts.checkpoints), facts["training"].device),
        stock_note=STOCK_NOTE,
        files={
            path.relative_to(folder).as_posix(): hash_file(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
        **facts,
    )
    write_manifest(folder, manifest)
    return manifest


def _write_fold(folder: Path, configuration: str, checkpoint: Mapping[str, Any]) -> None:
    # Late: torch must not be imported before its threads are told how to wait (environment.py).
    from nnunet_medseg.nnunet.weights import write_checkpoint

    folder.mkdir()
    axes = checkpoint["mirror_axes"]
    write_checkpoint(
        folder / "checkpoint_final.pth",
        {
            "network_weights": checkpoint["network_weights"],
            # A name that every installation of nnU-Net finds.
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": configuration},
            # nnU-Net fails on an empty tuple.
            "inference_allowed_mirroring_axes": tuple(axes) if axes else None,
        },
    )
