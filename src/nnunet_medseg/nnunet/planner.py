"""nnU-Net's planners, with a size in place of a GPU, and a word on single slices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
    ExperimentPlanner,
)
from nnunetv2.experiment_planning.experiment_planners.residual_unets import (
    residual_encoder_unet_planners as residual,
)

from nnunet_medseg.budget.size import PlanSize, coarsen

__all__ = ["PatchTooSmallError", "PlainPlanner", "ResidualPlanner"]


class _Sized(ExperimentPlanner):
    """The overrides that both planners share.

    nnU-Net trains 2D only when the axis it puts first has one slice: the one with the largest
    spacing, resampled to a spacing that may be the smallest of the dataset. A slice that is thick,
    and as thick in every case, is usual, but not certain.
    """

    def __init__(self, dataset: str, size: PlanSize, plans_name: str) -> None:
        super().__init__(dataset, plans_name=plans_name)
        # With this threshold at zero no time goes into a low-resolution configuration.
        self.lowres_creation_threshold = 0.0
        self._size = size
        for name in ("UNet_base_num_features", "UNet_max_features_2d", "UNet_max_features_3d"):
            setattr(self, name, round(getattr(self, name) * size.width))
        if size.patch_voxels is not None:
            # The planner shrinks the patch until its estimate fits; ours is of voxels.
            self.static_estimate_VRAM_usage = _count_voxels
            self.UNet_reference_val_2d = self.UNet_reference_val_3d = size.patch_voxels
            self.UNet_reference_val_corresp_GB = self.UNet_vram_target_GB
            self.UNet_reference_val_corresp_bs_2d = self.UNet_min_batch_size
            self.UNet_reference_val_corresp_bs_3d = self.UNet_min_batch_size

    def determine_fullres_target_spacing(self) -> np.ndarray[Any, Any]:
        own = super().determine_fullres_target_spacing()
        target = np.array(coarsen([float(value) for value in own], self._size.voxel_factor))
        thin = self._thin_axis()
        if thin is not None:
            # A slice of median thickness stays one slice.
            target[thin] = np.median(np.vstack(self.dataset_fingerprint["spacings"])[:, thin])
        return np.asarray(target)

    def determine_transpose(self) -> tuple[list[int], list[int]]:
        first = self._thin_axis()
        if first is None:
            first = int(np.argmax(self.determine_fullres_target_spacing()))
        forward = [first, *(axis for axis in range(3) if axis != first)]
        return forward, [forward.index(axis) for axis in range(3)]

    def _thin_axis(self) -> int | None:
        sizes = np.median(self.dataset_fingerprint["shapes_after_crop"], axis=0)
        return int(np.argmin(sizes)) if 1 in sizes else None


class PatchTooSmallError(Exception):
    """The planner would cut a patch with no voxel along an axis."""


def _count_voxels(patch: Sequence[int], *_: Any) -> int:
    voxels = math.prod(int(size) for size in patch)
    if voxels < 1:
        raise PatchTooSmallError
    return voxels


class PlainPlanner(_Sized, ExperimentPlanner):
    """Plans nnU-Net's plain U-Net."""


class ResidualPlanner(_Sized, residual.nnUNetPlannerResEncM):
    """Plans nnU-Net's U-Net with a residual encoder, preset M."""
