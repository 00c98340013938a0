"""The layout of features in memory: channels last, in which many CPUs convolve volumes faster.

torch's libraries for CPUs convolve volumes faster, above all backwards, where the features of a
voxel lie side by side; slices they do not (docs/concepts/budget.md). torch's instance norm knows
the other layout only, and would copy features there and back around each convolution. It is the
batch norm of each patch alone, which knows both, and adds with a few digits less.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional

__all__ = ["lay_channels_last"]

WEIGHT_AXES = 5  # of convolutions of volumes: output, input, z, y, x


def lay_channels_last(network: torch.nn.Module) -> None:
    """Let a network of volumes compute with channels last.

    Convolutions hand on the layout of their weights. Names and values stay, and results up to
    rounding; a network of slices stays as it is.
    """
    for module in network.modules():
        if isinstance(module, torch.nn.InstanceNorm3d) and not module.track_running_stats:
            module.forward = partial(_normalise, module)  # type: ignore[method-assign]
    for weight in network.parameters():
        if weight.ndim == WEIGHT_AXES:
            # Not `contiguous`, for which the weights of a single channel lie in both ways.
            weight.data = weight.data.to(memory_format=torch.channels_last_3d)


def _normalise(norm: torch.nn.InstanceNorm3d, batch: torch.Tensor) -> torch.Tensor:
    """Return what an instance norm does of a batch (patches, features, z, y, x)."""
    patches = [
        functional.batch_norm(
            patch, None, None, norm.weight, norm.bias, training=True, eps=norm.eps
        )
        for patch in batch.split(1)
    ]
    return patches[0] if len(patches) == 1 else torch.cat(patches)
