"""Segmentation of volumes in memory, against nnU-Net's own predictor on the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_models import plans_of, write_stock_folder
from makers import make_image
from tiny_model import CPU

from nnunet_medseg.nnunet.inference import Segmenter, read_model
from nnunet_medseg.nnunet.segmenting import CaseSegmenter
from nnunet_medseg.volume import Volume, write_volume

FOLDS = ("fold_0/checkpoint_final.pth", "fold_1/checkpoint_final.pth")


def turned(plans: dict[str, Any]) -> dict[str, Any]:
    """Return plans that take the axes in another order."""
    return plans | {"transpose_forward": [1, 2, 0], "transpose_backward": [2, 0, 1]}


def with_mask(plans: dict[str, Any]) -> dict[str, Any]:
    """Return plans that normalise within what is not zero."""
    chosen = plans["configurations"]["3d_fullres"]
    chosen |= {"normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [True]}
    return plans


def with_torch(plans: dict[str, Any]) -> dict[str, Any]:
    """Return plans with the other way of resampling."""
    chosen = plans["configurations"]["3d_fullres"]
    keywords = {"is_seg": False, "force_separate_z": None}
    for kind in ("data", "seg", "probabilities"):
        chosen[f"resampling_fn_{kind}"] = "resample_torch_fornnunet"
        chosen[f"resampling_fn_{kind}_kwargs"] = keywords | {"is_seg": kind == "seg"}
    return plans


def not_turning(plans: dict[str, Any]) -> dict[str, Any]:
    """Return plans whose reader leaves images as they are stored."""
    return plans | {"image_reader_writer": "NibabelIO"}


PLANS = {
    "plain": plans_of(),
    "residual": plans_of("ResidualEncoderUNet"),
    "slices": plans_of(dimensions=2),
    "other axes": turned(plans_of()),
    "mask": with_mask(plans_of()),
    "resampling by torch": with_torch(plans_of()),
    "not turning": not_turning(plans_of()),
}


def padded_image(shape=(18, 24, 14)) -> Volume:
    """Make an image with zeros around it, and a hole of zeros within."""
    array = np.zeros(shape, dtype=np.int16)
    inner = tuple(slice(2, side - 1) for side in shape)
    array[inner] = np.random.default_rng(4).integers(-50, 250, array[inner].shape)
    array[8:10, 8:12, 6:9] = 0
    # x and y as most scanners store them.
    affine = np.diag([1.2, 1.5, 2.2, 1.0])
    return Volume(array, (2.2, 1.5, 1.2), affine)


def stock_labels(model: Path, image: Volume, folder: Path) -> np.ndarray:
    write_volume(folder / "image.nii.gz", image)
    return Segmenter(read_model(model), CPU).segment([folder / "image.nii.gz"])


@pytest.mark.parametrize("plans", PLANS.values(), ids=PLANS)
def test_labels_are_those_of_nnunets_own_predictor(tmp_path, plans):
    model = write_stock_folder(tmp_path / "model", FOLDS, plans)
    image = padded_image()
    expected = stock_labels(model, image, tmp_path)

    segmenter = CaseSegmenter(read_model(model), CPU, in_bfloat16=False)
    prepared = segmenter.prepare([image])
    logits = segmenter.infer(prepared)
    labels = segmenter.finish(logits, prepared)
    probabilities = segmenter.probabilities(logits, prepared)

    assert labels.shape == expected.shape
    # The random weights of that one find background alone.
    assert len(np.unique(expected)) > 1 or plans is PLANS["residual"]
    # Noise through random weights has many near ties.
    assert (labels == expected).mean() > 0.998
    np.testing.assert_allclose(probabilities.sum(0), 1.0, atol=1e-5)
    assert (probabilities.argmax(0) == labels).mean() > 0.998


def test_an_image_of_zeros_is_segmented(tmp_path):
    model = write_stock_folder(tmp_path / "model")
    image = make_image().with_array(np.zeros((5, 6, 7), dtype=np.int16))

    segmenter = CaseSegmenter(read_model(model), CPU, in_bfloat16=True)
    prepared = segmenter.prepare([image])

    assert segmenter.finish(segmenter.infer(prepared), prepared).shape == (5, 6, 7)
