"""A model small enough to build, copy and spoil in a moment."""

from __future__ import annotations

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
    from nnunet_medseg.nnunet.inference import Model, Segmenter

    root = tmp_path_factory.mktemp("Miller_Anna")
    (case,) = write_raw_dataset(root / "raw", [PhantomSpec(shape=(16, 16, 16))])
    parts = make_parts()
    build_model(root / "model", parts, make_facts())
    weights = parts.checkpoint["network_weights"]
    model = Model(parts.plans, parts.description, "3d_fullres", (0, 1, 2), (weights,))
    labels = Segmenter(model, CPU).segment([Path(image) for image in case.images])
    assert len(np.unique(labels)) > 1, "a map of one label would prove nothing"
    np.savez_compressed(root / "reference.npz", labels=labels)
    proof = Proof(
        model=str(root / "model"),
        fold="0",
        images=case.images,
        reference=str(root / "reference.npz"),
        tensors=hash_tensors(weights),
        device=CPU,
        log=str(root / "log.txt"),
    )
    return Built(root / "model", proof)
