"""nnU-Net's predictor, with an eye on memory and on numbers that are none."""

from __future__ import annotations

import math

import pytest
import torch
from foreign_models import write_stock_folder
from makers import make_image
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tiny_model import CPU

from nnunet_medseg.errors import ModelError
from nnunet_medseg.nnunet.inference import Segmenter, build_network, make_predictor, read_model
from nnunet_medseg.nnunet.predictor import SHARE_FOR_IMAGES, fits_gpu
from nnunet_medseg.volume import write_volume

SHAPE = torch.Size((2, 10, 20, 30))
# Two channels, and three classes with the background.
NEEDED_BYTES = 6000 * (2 * 4 + 4 * 2 + 3)


@pytest.fixture
def model(tmp_path):
    return read_model(write_stock_folder(tmp_path / "model"))


@pytest.mark.parametrize("spoilt", [math.nan, math.inf, 1e30])
def test_a_network_whose_numbers_are_none_is_refused(model, tmp_path, spoilt):
    for weights in model.weights:
        for name, tensor in weights.items():
            if name.endswith("weight"):
                tensor.fill_(spoilt)
    write_volume(tmp_path / "image.nii.gz", make_image())

    with pytest.raises(ModelError, match="numbers that are too large"):
        Segmenter(model, CPU).segment([tmp_path / "image.nii.gz"])


@pytest.mark.parametrize(("free_bytes", "fits"), [(NEEDED_BYTES, True), (NEEDED_BYTES - 1, False)])
def test_an_image_is_kept_on_a_gpu_only_when_it_fits(monkeypatch, free_bytes, fits):
    free_and_total = (free_bytes / SHARE_FOR_IMAGES, 1e12)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: free_and_total)

    assert fits_gpu(SHAPE, 3, torch.device("cuda")) == fits


@pytest.mark.parametrize("free_bytes", [0.0, 1e12])
def test_each_image_is_looked_at_anew(model, monkeypatch, free_bytes):
    predictor = make_predictor(model, build_network(model), CPU)
    predictor.device = torch.device("cuda")
    kept: list[bool] = []

    def predict(predictor, image):
        kept.append(predictor.perform_everything_on_device)
        return image

    monkeypatch.setattr(nnUNetPredictor, "predict_sliding_window_return_logits", predict)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free_bytes, 1e12))

    predictor.predict_sliding_window_return_logits(torch.zeros(SHAPE))

    assert kept == [free_bytes > 0]
