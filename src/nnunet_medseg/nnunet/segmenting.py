"""Segmentation of many cases, in three steps that can overlap: prepare, infer, finish.

What is computed is what stock nnU-Net computes, but for rounding. What its way spends time on
without a need is left out: worker processes that import everything again, resampling voxel by
voxel, and a label map of zeros that is resampled and thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.preprocessors.default_preprocessor import (
    DefaultPreprocessor,
    compute_new_shape,
    crop_to_nonzero,
)
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_medseg.hardware import Device
from nnunet_medseg.nnunet.inference import Model, build_network
from nnunet_medseg.nnunet.plans import reorients
from nnunet_medseg.nnunet.resampling import (
    Resampling,
    labels_of_logits,
    probabilities_of_logits,
    resample_image,
)
from nnunet_medseg.nnunet.sliding import slide
from nnunet_medseg.volume import Volume, to_ras

__all__ = ["CaseSegmenter", "Prepared"]

KNOWN_RESAMPLING = "resample_data_or_seg_to_shape"
Box = tuple[slice, ...]


@dataclass(frozen=True)
class Prepared:
    """A case as the network takes it, and the way back. Axes are those of the plans.

    Attributes:
        image: Float32, shape `(c, z, y, x)`.
        shape: Of the image before it was cut.
        box: The part that is not zero.
        spacing_mm: Before resampling.
    """

    image: torch.Tensor
    shape: tuple[int, ...]
    box: Box
    spacing_mm: tuple[float, ...]

    @property
    def box_shape(self) -> tuple[int, ...]:
        """Shape of the part that is not zero."""
        return tuple(part.stop - part.start for part in self.box)


class CaseSegmenter:
    """Predicts label maps, and probabilities, of volumes in memory.

    `prepare` and `finish` may run in other threads than `infer`.

    Args:
        model: What to predict with.
        device: Where to compute.
        in_bfloat16: Whether a CPU computes in bfloat16.

    Raises:
        ModelError: When the weights do not fit the plans.
    """

    def __init__(self, model: Model, device: Device, *, in_bfloat16: bool) -> None:
        self._plans = PlansManager(dict(model.plans))
        self._configuration = self._plans.get_configuration(model.configuration)
        self._model = model
        self._network = build_network(model).eval()
        self._autocast = torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16)
        self._on_cuda = _stock_predictor(model, self._network, device)
        self.reorients = reorients(model.plans)

    def prepare(self, volumes: Sequence[Volume]) -> Prepared:
        """Return a case ready for the network.

        Args:
            volumes: One a channel, on one grid.
        """
        turned = [to_ras(volume) if self.reorients else volume for volume in volumes]
        order = self._plans.transpose_forward
        image = np.stack([volume.array.astype(np.float32) for volume in turned])
        image = image.transpose([0, *(axis + 1 for axis in order)])
        spacing_mm = tuple(float(turned[0].spacing_mm[axis]) for axis in order)
        shape = image.shape[1:]
        image, mask, box = self._cut(image)
        preprocessor = DefaultPreprocessor(verbose=False)
        image = preprocessor._normalize(
            np.ascontiguousarray(image), mask, self._configuration,
            self._plans.foreground_intensity_properties_per_channel,
        )  # fmt: skip
        target = self._spacing(spacing_mm)
        new_shape = [int(side) for side in compute_new_shape(image.shape[1:], spacing_mm, target)]
        resampled = self._resampled(image, new_shape, spacing_mm, target)
        return Prepared(resampled, shape, box, spacing_mm)

    def _cut(self, image: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], Any, Box]:
        """Cut zeros off at the sides; the mask is None where no channel is normalised within it."""
        if any(self._configuration.use_mask_for_norm):
            cut, mask, sides = crop_to_nonzero(image)
            return cut, mask, tuple(slice(int(low), int(high)) for low, high in sides)
        # Holes that nnU-Net would fill change no box.
        filled = (image != 0).any(axis=0)
        box = tuple(_extent(filled, axis) for axis in range(filled.ndim))
        where: tuple[Any, ...] = (slice(None), *box)
        return image[where], [None], box

    def _spacing(self, spacing_mm: Sequence[float]) -> list[float]:
        """Return the spacing of the network; one of slices leaves their distance as it is."""
        target = [float(side) for side in self._configuration.spacing]
        return [*spacing_mm[: len(spacing_mm) - len(target)], *target]

    def _resampled(
        self,
        image: np.ndarray[Any, Any],
        shape: Sequence[int],
        spacing_mm: Sequence[float],
        target: Sequence[float],
    ) -> torch.Tensor:
        resampling = self._resampling("data", (image.shape[1:], shape), (spacing_mm, target))
        if resampling is None:
            found = self._configuration.resampling_fn_data(image, shape, spacing_mm, target)
            return torch.as_tensor(found, dtype=torch.float32)
        return torch.stack([resample_image(torch.from_numpy(each), resampling) for each in image])

    def _resampling(
        self, kind: str, shapes: tuple[Any, Any], spacings: tuple[Any, Any]
    ) -> Resampling | None:
        """Return the resampling of `data` or `probabilities`; None for one of nnU-Net's others."""
        plan = self._configuration.configuration
        keywords = plan[f"resampling_fn_{kind}_kwargs"]
        if plan[f"resampling_fn_{kind}"] != KNOWN_RESAMPLING or not Resampling.is_known(keywords):
            return None
        return Resampling.between(shapes, spacings, keywords)

    @torch.inference_mode()
    def infer(self, prepared: Prepared) -> torch.Tensor:
        """Return the logits of the network, the mean of all folds; half precision, on the CPU."""
        if self._on_cuda is not None:
            logits: torch.Tensor = self._on_cuda.predict_logits_from_preprocessed_data(
                prepared.image
            )
            return logits
        tile, axes = self._configuration.patch_size, self._model.mirror_axes
        total = None
        for weights in self._model.weights:
            if len(self._model.weights) > 1:
                self._network.load_state_dict(weights)
            with self._autocast:
                found = slide(self._network, prepared.image, tile, axes)
            total = found if total is None else total + found
        assert total is not None  # noqa: S101 -- read_model refuses a model without weights
        return total / len(self._model.weights) if len(self._model.weights) > 1 else total

    @torch.inference_mode()
    def finish(self, logits: torch.Tensor, prepared: Prepared) -> np.ndarray[Any, Any]:
        """Return the label map `(z, y, x)` with values 0 … n, on the grid that `prepare` saw.

        With a model that reorients that grid lies in RAS.
        """
        labels = self._on_box(logits, prepared, labels_of_logits)
        whole = np.zeros(prepared.shape, dtype=labels.dtype)
        whole[prepared.box] = labels
        return whole.transpose(self._plans.transpose_backward)

    @torch.inference_mode()
    def probabilities(self, logits: torch.Tensor, prepared: Prepared) -> np.ndarray[Any, Any]:
        """Return probabilities `(class, z, y, x)` on the same grid, background first."""
        found = self._on_box(logits, prepared, probabilities_of_logits)
        whole = np.zeros((len(found), *prepared.shape), dtype=np.float32)
        whole[0] = 1.0
        where: tuple[Any, ...] = (slice(None), *prepared.box)
        whole[where] = found
        return whole.transpose([0, *(axis + 1 for axis in self._plans.transpose_backward)])

    def _on_box(self, logits: torch.Tensor, prepared: Prepared, make: Any) -> np.ndarray[Any, Any]:
        target = self._spacing(prepared.spacing_mm)
        shapes = (tuple(logits.shape[1:]), prepared.box_shape)
        resampling = self._resampling("probabilities", shapes, (target, prepared.spacing_mm))
        if resampling is None:
            logits = torch.as_tensor(
                self._configuration.resampling_fn_probabilities(
                    logits, prepared.box_shape, target, prepared.spacing_mm
                )
            )
            resampling = Resampling((None,) * len(prepared.shape), None)
        found: np.ndarray[Any, Any] = make(logits, resampling)
        return found


def _extent(filled: np.ndarray[Any, Any], axis: int) -> slice:
    """Return from where to where along an axis anything is filled; all of it if nothing is."""
    others = tuple(other for other in range(filled.ndim) if other != axis)
    (places,) = np.nonzero(filled.any(axis=others))
    return (
        slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, filled.shape[axis])
    )


def _stock_predictor(model: Model, network: torch.nn.Module, device: Device) -> Any:
    """Return nnU-Net's predictor for a GPU, where its way is fast; None on a CPU."""
    if device.kind != "cuda":
        return None
    from nnunet_medseg.nnunet.inference import make_predictor

    return make_predictor(model, network, device)
