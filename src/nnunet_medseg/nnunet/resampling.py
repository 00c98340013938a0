"""Resampling as nnU-Net's default does it, by one small matrix an axis: the same, much faster.

What nnU-Net has scipy do voxel by voxel is linear and separable: along each axis every new value
is a fixed mixture of old ones. Scipy gives the mixture of each axis, and the axes are multiplied
in float32 with all cores. Differences are those of rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis
from scipy import ndimage

__all__ = ["Resampling", "labels_of_logits", "probabilities_of_logits", "resample_image"]

SLAB = 16  # planes of labels that are made at a time: few enough to take little memory


@dataclass(frozen=True)
class Resampling:
    """From one grid to another, axes in the order of the array.

    Attributes:
        matrices: For each axis its mixtures, shape `(new, old)`; None where nothing changes.
        planes_of: The axis across which planes are resampled one by one, where slices are thick.
    """

    matrices: tuple[torch.Tensor | None, ...]
    planes_of: int | None

    @classmethod
    def between(
        cls,
        shapes: tuple[Sequence[int], Sequence[int]],
        spacings: tuple[Sequence[float], Sequence[float]],
        keywords: dict[str, Any],
    ) -> Resampling:
        """Return the resampling that `resample_data_or_seg_to_shape` of nnU-Net would do.

        Args:
            shapes: The old and the new one.
            spacings: The old and the new one, in mm.
            keywords: As plans give them: order, order_z, force_separate_z.
        """
        _, axis = determine_do_sep_z_and_axis(keywords.get("force_separate_z"), *spacings)
        orders = [keywords.get("order", 3)] * len(shapes[0])
        if axis is not None:
            orders[axis] = keywords.get("order_z", 0)
        matrices = tuple(
            None if old == new else _mixtures(int(old), int(new), order, is_apart=place == axis)
            for place, (old, new, order) in enumerate(zip(*shapes, orders, strict=True))
        )
        return cls(matrices, None if axis is None else int(axis))

    @staticmethod
    def is_known(keywords: dict[str, Any]) -> bool:
        """Tell whether these keywords of plans mean what is done here."""
        return keywords.get("order_z", 0) == 0 and keywords.get("order", 3) in {0, 1, 3}


@lru_cache(maxsize=64)
def _mixtures(old: int, new: int, order: int, *, is_apart: bool) -> torch.Tensor:
    """Return what each of the new values is made of, shape `(new, old)`.

    Args:
        old: Number of values.
        new: The same afterwards.
        order: Of the spline.
        is_apart: Whether it is the axis of thick slices, which nnU-Net resamples with other code.
    """
    if is_apart:
        places = (old / new) * (np.arange(new) + 0.5) - 0.5
        nearest = ndimage.map_coordinates(
            np.arange(old, dtype=float), [places], order=order, mode="nearest"
        )
        return torch.from_numpy(np.eye(old, dtype=np.float32)[nearest.astype(int)])
    # As skimage.transform.resize, which nnU-Net calls, for one voxel after the other.
    columns = [
        ndimage.zoom(unit, new / old, order=order, mode="nearest", grid_mode=True)
        for unit in np.eye(old)
    ]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


def resample_image(image: torch.Tensor, resampling: Resampling) -> torch.Tensor:
    """Return an image on the other grid.

    Args:
        image: Float32, shape `(z, y, x)`.
        resampling: Its axes are those of the array.
    """
    if all(matrix is None for matrix in resampling.matrices):
        return image
    apart = resampling.planes_of
    others = tuple(axis for axis in range(image.ndim) if axis != apart)
    # A spline overshoots at edges; nnU-Net cuts that off, in each plane that it resamples.
    low, high = image.amin(others, keepdim=True), image.amax(others, keepdim=True)
    # What shrinks most comes first.
    for axis in sorted(others, key=lambda axis: _growth(resampling.matrices[axis])):
        image = _along(axis, resampling.matrices[axis], image)
    image = torch.minimum(torch.maximum(image, low), high)
    return image if apart is None else _along(apart, resampling.matrices[apart], image)


def _growth(matrix: torch.Tensor | None) -> float:
    return 1.0 if matrix is None else matrix.shape[0] / matrix.shape[1]


def _along(axis: int, matrix: torch.Tensor | None, array: torch.Tensor) -> torch.Tensor:
    if matrix is None:
        return array
    if axis == array.ndim - 1:
        return array @ matrix.T
    if axis == array.ndim - 2:
        return matrix @ array
    return (matrix @ array.reshape(array.shape[0], -1)).reshape(-1, *array.shape[1:])


def _slabs(logits: torch.Tensor, resampling: Resampling) -> Any:
    """Yield slices of the first axis, and the logits there on the other grid, as float32."""
    first, *others = resampling.matrices
    count = logits.shape[1] if first is None else first.shape[0]
    for start in range(0, count, SLAB):
        part = slice(start, min(start + SLAB, count))
        classes = []
        for each in logits:
            if first is None:
                slab = each[part].float()
            else:
                used = first[part].any(dim=0).nonzero()
                old = slice(int(used.min()), int(used.max()) + 1)
                slab = _along(0, first[part, old], each[old].float())
            for axis, matrix in enumerate(others, start=1):
                slab = _along(axis, matrix, slab)
            classes.append(slab)
        yield part, torch.stack(classes)


def _new_shape(logits: torch.Tensor, resampling: Resampling) -> tuple[int, ...]:
    return tuple(
        old if matrix is None else matrix.shape[0]
        for old, matrix in zip(logits.shape[1:], resampling.matrices, strict=True)
    )


def labels_of_logits(logits: torch.Tensor, resampling: Resampling) -> np.ndarray[Any, Any]:
    """Return the most likely class of each voxel on the other grid.

    Args:
        logits: Shape `(class, z, y, x)`.
        resampling: To the grid of the result.
    """
    kind = np.uint8 if len(logits) <= np.iinfo(np.uint8).max else np.uint16
    labels = np.empty(_new_shape(logits, resampling), dtype=kind)
    for part, slab in _slabs(logits, resampling):
        labels[part] = slab.argmax(0).numpy()
    return labels


def probabilities_of_logits(logits: torch.Tensor, resampling: Resampling) -> np.ndarray[Any, Any]:
    """Return the probability of each class, background first, on the other grid.

    Args:
        logits: Shape `(class, z, y, x)`.
        resampling: To the grid of the result.

    Returns:
        Float32 in [0, 1], shape `(class, z, y, x)`; the sum of each voxel is 1.
    """
    shape = (len(logits), *_new_shape(logits, resampling))
    probabilities = np.empty(shape, dtype=np.float32)
    for part, slab in _slabs(logits, resampling):
        probabilities[:, part] = slab.softmax(0).numpy()
    return probabilities
