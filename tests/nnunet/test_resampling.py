"""Resampling by matrices, against nnU-Net's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

from nnunet_medseg.nnunet.resampling import (
    Resampling,
    labels_of_logits,
    probabilities_of_logits,
    resample_image,
)

KEYWORDS = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
GRIDS = {
    "smaller": ((16, 20, 24), (10, 20, 13), (1.5, 1.0, 1.0), (2.4, 1.0, 1.85)),
    "larger": ((9, 10, 11), (17, 16, 21), (2.0, 2.0, 2.0), (1.06, 1.25, 1.05)),
    "thick slices": ((7, 30, 28), (12, 21, 35), (5.0, 1.0, 1.0), (2.9, 1.4, 0.8)),
    "thick slices on another axis": ((30, 7, 28), (21, 7, 35), (1.0, 5.0, 1.0), (1.4, 5.0, 0.8)),
    "one slice": ((1, 20, 20), (1, 31, 15), (5.0, 1.0, 1.0), (5.0, 0.65, 1.3)),
    "the same": ((8, 9, 10), (8, 9, 10), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_an_image_is_resampled_as_nnunet_does_it(grid):
    old, new, old_mm, new_mm = grid
    image = noise(*old)
    expected = resample_data_or_seg_to_shape(image[None], new, old_mm, new_mm, **KEYWORDS)[0]

    found = resample_image(
        torch.from_numpy(image), Resampling.between((old, new), (old_mm, new_mm), KEYWORDS)
    )

    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_labels_are_those_that_nnunet_finds_in_resampled_logits(grid):
    old, new, old_mm, new_mm = grid
    keywords = KEYWORDS | {"order": 1}
    logits = noise(4, *old)
    expected = resample_data_or_seg_to_shape(logits, new, old_mm, new_mm, **keywords)

    resampling = Resampling.between((old, new), (old_mm, new_mm), keywords)
    labels = labels_of_logits(torch.from_numpy(logits), resampling)
    probabilities = probabilities_of_logits(torch.from_numpy(logits), resampling)

    assert (labels == expected.argmax(0)).mean() > 0.9999
    soft = torch.from_numpy(expected).softmax(0).numpy()
    np.testing.assert_allclose(probabilities, soft, atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(0), 1.0, atol=1e-6)


def test_keywords_that_mean_something_else_are_not_known():
    assert Resampling.is_known(KEYWORDS)
    assert not Resampling.is_known(KEYWORDS | {"order_z": 1})
