"""Proof that a finished model is what training made, by a fresh process that reads it from disk.

Promises: every tensor is bit-identical to the hash that training wrote; stock nnU-Net's own
predictor, from that folder, agrees with the training process on one case; no file is in the folder
that the manifest does not list.
Does not promise: that the segmentation is right; that is what evaluation measures.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from nnunet_medseg.errors import VerificationError
from nnunet_medseg.hardware import Device
from nnunet_medseg.parallel import run_in_fresh_process

__all__ = ["MIN_AGREEMENT", "Proof", "verify_in_fresh_process"]

MIN_AGREEMENT = 0.999  # of the voxels; half precision on a GPU is not deterministic to the last bit


@dataclass(frozen=True)
class Proof:
    """What to check a model against.

    Attributes:
        model: The model folder.
        images: The reference case, one file a channel.
        reference: `.npz` with the training process's segmentation of it, as `labels`.
        tensors: SHA-256 of each tensor, as training wrote it, by fold: "all" or a number.
        device: The device the reference was computed on.
        log: Takes what nnU-Net prints.
    """

    model: str
    images: tuple[str, ...]
    reference: str
    tensors: dict[str, dict[str, str]]
    device: Device
    log: str


def verify_in_fresh_process(proof: Proof) -> float:
    """Check a model in a process that shares nothing with the one that trained it.

    Returns:
        Share of the voxels on which both segmentations agree.

    Raises:
        VerificationError: When anything differs. Nothing has been deleted then.
    """
    log = Path(proof.log)
    checked = run_in_fresh_process(_check, proof, log=log)
    failure = checked.exception()
    if failure is None:
        cause, agreement = checked.result()
    else:
        cause, agreement = "the check could not be run", 0.0
        _write_log(log, "".join(traceback.format_exception(failure)))
    if cause:
        problem = f"The finished model did not pass its check: {cause}."
        fix = "Nothing was deleted. Run the same command again; the training is kept."
        raise VerificationError(problem, fix=fix) from failure
    return agreement


def _write_log(path: Path, text: str) -> None:
    from nnunet_medseg.nnunet.environment import scrub

    with path.open("a", encoding="utf-8") as log:
        log.write(scrub(text) + "\n")


def _check(proof: Proof) -> tuple[str, float]:
    """Return what is wrong, empty for nothing, and the agreement."""
    import numpy as np

    from nnunet_medseg.bundle.manifest import MANIFEST_NAME, read_manifest
    from nnunet_medseg.files import hash_file
    from nnunet_medseg.nnunet.environment import chatter, prepare
    from nnunet_medseg.nnunet.weights import hash_tensors, read_checkpoint

    prepare()
    folder = Path(proof.model)
    manifest = read_manifest(folder)
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if manifest is None or present != {*manifest.files, MANIFEST_NAME}:
        return "the files are not those of the manifest", 0.0
    if any(hash_file(folder / name) != digest for name, digest in manifest.files.items()):
        return "a file differs from its hash", 0.0
    for fold, tensors in proof.tensors.items():
        checkpoint = read_checkpoint(folder / f"fold_{fold}" / "checkpoint_final.pth")
        if hash_tensors(checkpoint["network_weights"]) != tensors:
            return "the weights differ from those of the training", 0.0
    with chatter(Path(proof.log)):
        from nnunet_medseg.nnunet.inference import segment_with_stock

        images = [Path(image) for image in proof.images]
        found = segment_with_stock(folder, tuple(proof.tensors), images, proof.device)
    with np.load(proof.reference, allow_pickle=False) as stored:
        reference = stored["labels"]
    agreement = float((found == reference).mean()) if found.shape == reference.shape else 0.0
    if agreement < MIN_AGREEMENT:
        return f"stock nnU-Net agrees on {agreement:.2%} of the voxels only", agreement
    return "", agreement
