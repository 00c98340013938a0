"""When a training gets into trouble: a loss that explodes, a memory that does not suffice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from nnunet_medseg.errors import TrainingError

__all__ = ["MAX_SETBACKS", "Rescue", "has_finite_weights", "is_out_of_memory", "smaller_batch"]

MAX_SETBACKS = 3
# nnU-Net's loss is cross-entropy minus Dice: with n labels it begins near log(n) and falls.
EXPLODED_BY = 5.0
# What torch writes into other errors: on a CPU (c10/core/impl/alloc_cpu.cpp of 2.13), while it
# compiles, where a library of CUDA takes memory by itself, and where cuDNN has tried all ways to
# convolve and none found the memory that it needs (aten/src/ATen/native/cudnn/Conv_v8.cpp).
SIGNS = (
    "DefaultCPUAllocator",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "unable to find an engine to execute this computation",
)
# Steps in a row that a scaler of gradients may leave out because numbers of 16 bits overflowed in
# them: it halves its scale each time, and from nnU-Net's 2¹⁶ a network in order needs fewer.
MAX_OVERFLOWS = 16
MIN_CELLS = 4  # of the coarsest feature map along each axis, as in nnU-Net's plans


class Rescue:
    """Keeps the weights of the last epoch that was in order.

    Attributes:
        first_loss: Of the training's first iteration; a checkpoint keeps it.
    """

    def __init__(self) -> None:
        self._weights: dict[str, torch.Tensor] | None = None
        self.first_loss: float | None = None
        self._overflows = 0

    def is_left_out(self, loss: float) -> bool:
        """Tell whether a scaler of gradients has left out a step, whose loss is no number then.

        It harms no weight. So many in a row are another matter.
        """
        self._overflows = 0 if math.isfinite(loss) else self._overflows + 1
        return 0 < self._overflows <= MAX_OVERFLOWS

    def is_exploded(self, losses: Sequence[float]) -> bool:
        """Tell whether the losses of an epoch are out of all order.

        Either one is no number, or their mean lies far above the first loss of the training. Of no
        losses nothing can be told.
        """
        if not all(math.isfinite(loss) for loss in losses):
            return True
        if not losses:
            return False
        if self.first_loss is None:
            self.first_loss = losses[0]
        return sum(losses) / len(losses) > self.first_loss + EXPLODED_BY

    def remember(self, network: torch.nn.Module) -> None:
        """Keep a copy of weights that are in order."""
        weights = _weights_of(network)
        if self._weights is None:
            self._weights = {name: tensor.clone() for name, tensor in weights.items()}
        for name, tensor in weights.items():
            self._weights[name].copy_(tensor)

    @property
    def weights(self) -> tuple[torch.Tensor, ...]:
        """What is kept."""
        return tuple((self._weights or {}).values())

    def restore(self, network: torch.nn.Module) -> None:
        """Put the kept weights back."""
        self._overflows = 0
        if self._weights is not None:
            for name, tensor in _weights_of(network).items():
                tensor.copy_(self._weights[name])


def _weights_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return weights and statistics, each once: in a state dict some have two names."""
    tensors = [*network.named_parameters(), *network.named_buffers()]
    return {name: tensor.detach() for name, tensor in tensors}


def has_finite_weights(network: torch.nn.Module) -> bool:
    """Tell whether all weights and statistics of a network are numbers."""
    tensors = [each for each in _weights_of(network).values() if each.is_floating_point()]
    # The largest value of each, which cannot overflow as a sum can; a GPU is waited for only once.
    largest = [torch.linalg.vector_norm(tensor, math.inf) for tensor in tensors]
    return bool(torch.stack(largest).isfinite().all())


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of torch or numpy says that the memory does not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def smaller_batch(
    batch: int, patch: Sequence[int], strides: Sequence[int]
) -> tuple[int, list[int]]:
    """Return the next smaller batch, or patch when the batch is one patch already.

    Args:
        batch: Patches a step.
        patch: Voxels along each axis.
        strides: By how much the network divides each axis; a patch is a multiple of it.

    Raises:
        TrainingError: When nothing can be made smaller.

    Examples:
        >>> smaller_batch(5, [64, 64, 64], [16, 16, 16])
        (2, [64, 64, 64])
        >>> smaller_batch(1, [64, 96, 96], [16, 16, 16])
        (1, [64, 80, 96])
    """
    if batch > 1:
        return batch // 2, list(patch)
    axes = [axis for axis, side in enumerate(patch) if side // strides[axis] > MIN_CELLS]
    if not axes:
        problem = "The memory does not suffice for a single small patch."
        fix = "Close other programs, or use a machine or a GPU with more memory."
        raise TrainingError(problem, fix=fix)
    axis = max(axes, key=lambda number: (patch[number], -number))
    return 1, [side - strides[axis] * (number == axis) for number, side in enumerate(patch)]
