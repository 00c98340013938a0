"""Patches that grow: smaller ones first, so that a short training has more steps.

After Fischer et al., "Progressive Growing of Patch Size" (MICCAI 2024, arXiv:2407.07853), which
grows the patch of nnU-Net in equal steps over the epochs; here it grows with the time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["small_patch"]

# Of the voxels of the whole patch; a step costs about as much less.
SMALL_SHARE = 0.5


def small_patch(patch: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Return a patch of the same shape with about half of the voxels.

    Args:
        patch: Voxels along each axis.
        strides: By how much the network divides each axis; sides stay multiples of these, and at
            least twice as long, so that the coarsest feature map has cells to normalise over.

    Examples:
        >>> small_patch([28, 40, 40], [4, 8, 8]), small_patch([16, 16, 16], [8, 8, 8])
        ([24, 32, 32], [16, 16, 16])
    """
    factor = math.pow(SMALL_SHARE, 1 / len(patch))
    return [
        min(side, max(2, round(side * factor / stride)) * stride)
        for side, stride in zip(patch, strides, strict=True)
    ]
