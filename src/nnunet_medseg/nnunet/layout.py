"""The layout of features in memory: channels last, in which many CPUs convolve faster.

torch's libraries for CPUs convolve faster, above all backwards, where the features of a voxel lie
side by side; not on every CPU, and not all patches (docs/concepts/budget.md). torch's instance norm
knows the other layout only, and would copy features there and back around each convolution. It is
the batch norm of each patch alone, which knows both, and adds with a few digits less.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional

__all__ = ["FORMATS", "Norm", "lay_channels_last"]

# Of the weights of convolutions, by their axes: output, input, and two or three of space.
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
Norm = torch.nn.InstanceNorm2d | torch.nn.InstanceNorm3d


def lay_channels_last(network: torch.nn.Module) -> None:
    """Let a network compute with channels last.

    Convolutions hand on the layout of their weights. Names and values stay, and results up to
    rounding.
    """
    for module in network.modules():
        if isinstance(module, Norm) and not module.track_running_stats:
            module.forward = partial(_normalise, module)  # type: ignore[method-assign]
    for weight in network.parameters():
        if weight.ndim in FORMATS:
            # Not `contiguous`, for which the weights of a single channel lie in both ways.
            weight.data = weight.data.to(memory_format=FORMATS[weight.ndim])


def _normalise(norm: Norm, batch: torch.Tensor) -> torch.Tensor:
    """Return what an instance norm does of a batch (patches, features, and two or three axes)."""
    patches = [
        functional.batch_norm(
            patch, None, None, norm.weight, norm.bias, training=True, eps=norm.eps
        )
        for patch in batch.split(1)
    ]
    return patches[0] if len(patches) == 1 else torch.cat(patches)
