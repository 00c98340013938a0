"""A model small enough to build, copy and spoil in a moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tiny_model import CPU, make_facts, make_parts, write_raw_dataset

from nnunet_medseg.bundle.build import build_model
from nnunet_medseg.bundle.verify import Proof
from nnunet_medseg.nnunet.weights import hash_tensors
from nnunet_medseg.phantom import PhantomSpec


@dataclass(frozen=True)
class Built:
    """A model folder and what proves it."""

    model: Path
    proof: Proof


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Built:
    """Build a model and segment a phantom with its weights in memory; not to be changed."""
    return build(tmp_path_factory.mktemp("Miller_Anna"), ["0"])


@pytest.fixture(scope="session")
def ensemble(tmp_path_factory) -> Built:
    """Build a model of two folds in the same way; not to be changed."""
    return build(tmp_path_factory.mktemp("Miller_Anna"), ["0", "1"])


def build(root: Path, folds: Sequence[str]) -> Built:
    from nnunet_medseg.nnunet.inference import Model, Segmenter

    (case,) = write_raw_dataset(root / "raw", [PhantomSpec(shape=(16, 16, 16))])
    parts = make_parts(folds)
    build_model(root / "model", parts, make_facts())
    weights = {fold: parts.checkpoints[fold]["network_weights"] for fold in folds}
    axes = (0, 1, 2)
    model = Model(parts.plans, parts.description, "3d_fullres", axes, tuple(weights.values()))
    labels = Segmenter(model, CPU).segment([Path(image) for image in case.images])
    assert len(np.unique(labels)) > 1, "a map of one label would prove nothing"
    np.savez_compressed(root / "reference.npz", labels=labels)
    proof = Proof(
        model=str(root / "model"),
        images=case.images,
        reference=str(root / "reference.npz"),
        tensors={fold: hash_tensors(state) for fold, state in weights.items()},
        device=CPU,
        log=str(root / "log.txt"),
    )
    return Built(root / "model", proof)
