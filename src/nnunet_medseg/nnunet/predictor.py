"""nnU-Net's predictor, with an eye on the memory of a GPU and on numbers that are none."""

from __future__ import annotations

import math

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_medseg.nnunet.sliding import require_finite

__all__ = ["WatchedPredictor", "fits_gpu"]

SHARE_FOR_IMAGES = 0.5  # of the free memory of a GPU; the rest is for the network's features
OVERFLOWED = "Encountered inf"  # predict_from_raw_data.py of 2.8.1


class WatchedPredictor(nnUNetPredictor):
    """nnU-Net's predictor, which keeps images on a GPU only when they fit.

    nnU-Net tries, and takes the CPU's memory when that fails. Its thread then holds on to what it
    had on the GPU, or ends and is waited for without an end.
    """

    def predict_sliding_window_return_logits(self, input_image: torch.Tensor) -> torch.Tensor:
        """Return the logits of an image (c, z, y, x), in half precision.

        Raises:
            ModelError: When some are no finite numbers.
        """
        if self.device.type == "cuda":
            classes = self.label_manager.num_segmentation_heads
            self.perform_everything_on_device = fits_gpu(input_image.shape, classes, self.device)
        try:
            logits: torch.Tensor = super().predict_sliding_window_return_logits(input_image)
        except RuntimeError as error:
            if OVERFLOWED not in str(error):
                raise
            logits = torch.tensor(math.inf)
        require_finite(logits)
        return logits


def fits_gpu(shape: torch.Size, classes: int, device: torch.device) -> bool:
    """Tell whether an image and its logits fit into the memory of a GPU beside the network.

    Args:
        shape: Of the image, `(c, z, y, x)`.
        classes: With the background.
        device: The GPU.
    """
    channels, *sides = shape
    # Image in 4 bytes; logits, and how often each voxel was seen, in 2; a mask of infinities in 1.
    a_voxel_bytes = 4 * channels + 2 * (classes + 1) + classes
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return math.prod(sides) * a_voxel_bytes <= SHARE_FOR_IMAGES * free_bytes
