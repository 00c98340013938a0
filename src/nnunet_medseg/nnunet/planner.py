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
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from nnunet_medseg.budget.size import NO_WISH, PlanSize, PlanWish, coarsen
from nnunet_medseg.errors import UsageError

__all__ = ["PLANNERS", "PatchTooSmallError"]

# Of the image: a patch that covers less makes nnU-Net plan a configuration of low resolution.
LOWRES_SHARE = 0.25


class _Sized(ExperimentPlanner):
    """The overrides that all planners share.

    nnU-Net trains 2D only when the axis it puts first has one slice: the one with the largest
    spacing, resampled to a spacing that may be the smallest of the dataset. A slice that is thick,
    and as thick in every case, is usual, but not certain.
    """

    def __init__(
        self, dataset: str, size: PlanSize, plans_name: str, wish: PlanWish = NO_WISH
    ) -> None:
        super().__init__(dataset, plans_name=plans_name)
        # With this threshold at zero no time goes into a low-resolution configuration.
        wants_lowres = wish.configuration == "3d_lowres"
        self.lowres_creation_threshold = LOWRES_SHARE if wants_lowres else 0.0
        self._size = size
        self._wish = wish
        for name in ("UNet_base_num_features", "UNet_max_features_2d", "UNet_max_features_3d"):
            setattr(self, name, round(getattr(self, name) * size.width))
        if size.patch_voxels is not None:
            # The planner shrinks the patch until its estimate fits; ours is of voxels.
            self.static_estimate_VRAM_usage = _count_voxels
            self.UNet_reference_val_2d = self.UNet_reference_val_3d = size.patch_voxels
            self.UNet_reference_val_corresp_GB = self.UNet_vram_target_GB
            self.UNet_reference_val_corresp_bs_2d = self.UNet_min_batch_size
            self.UNet_reference_val_corresp_bs_3d = self.UNet_min_batch_size

    def get_plans_for_configuration(
        self, spacing: Any, median_shape: Any, *rest: Any
    ) -> dict[str, Any]:
        """Plan as nnU-Net does, around the patch that the user asks for, if any."""
        patch = self._wish.patch
        if patch is None or len(patch) != len(spacing):
            return dict(super().get_plans_for_configuration(spacing, median_shape, *rest))
        # The planner cuts its patch to the image; an image of the wished size, and room enough,
        # lead to that patch, rounded up to what the network can divide.
        self.static_estimate_VRAM_usage = lambda *_: 1
        plan = super().get_plans_for_configuration(spacing, patch, *rest)
        if any(side < wished for side, wished in zip(plan["patch_size"], patch, strict=True)):
            raise _too_long(patch, plan["patch_size"])
        return plan | {"median_image_size_in_voxels": median_shape}

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Make plain types of the plans, and write none: nnU-Net mixes in what a file has more."""
        recursive_fix_for_json_export(plans)

    def determine_fullres_target_spacing(self) -> np.ndarray[Any, Any]:
        sized = self._sized_spacing()
        if self._wish.spacing_mm is None:
            return sized
        wished = np.empty(3)
        wished[self.determine_transpose()[0]] = self._wish.spacing_mm
        thin = self._thin_axis()
        if thin is not None:
            # Resampled to another thickness, a slice would become several.
            wished[thin] = sized[thin]
        return wished

    def _sized_spacing(self) -> np.ndarray[Any, Any]:
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
            first = int(np.argmax(self._sized_spacing()))
        forward = [first, *(axis for axis in range(3) if axis != first)]
        return forward, [forward.index(axis) for axis in range(3)]

    def _thin_axis(self) -> int | None:
        sizes = np.median(self.dataset_fingerprint["shapes_after_crop"], axis=0)
        return int(np.argmin(sizes)) if 1 in sizes else None


def _too_long(wished: Sequence[int], planned: Sequence[int]) -> UsageError:
    asked, most = ("x".join(str(int(side)) for side in sides) for sides in (wished, planned))
    problem = f"--patch_size {asked} is too long: with this spacing nnU-Net plans {most} at most."
    return UsageError(problem, fix="Give shorter sides, or leave --patch_size out.")


class PatchTooSmallError(Exception):
    """The planner would cut a patch with no voxel along an axis."""


def _count_voxels(patch: Sequence[int], *_: Any) -> int:
    voxels = math.prod(int(size) for size in patch)
    if voxels < 1:
        raise PatchTooSmallError
    return voxels


class _Plain(_Sized, ExperimentPlanner):
    """Plans nnU-Net's plain U-Net."""


class _ResidualM(_Sized, residual.nnUNetPlannerResEncM):
    """Plans nnU-Net's U-Net with a residual encoder, preset M."""


class _ResidualL(_Sized, residual.nnUNetPlannerResEncL):
    """The same, preset L."""


class _ResidualXL(_Sized, residual.nnUNetPlannerResEncXL):
    """The same, preset XL."""


PLANNERS: dict[str, type[_Sized]] = {
    "plain": _Plain,
    "resenc_m": _ResidualM,
    "resenc_l": _ResidualL,
    "resenc_xl": _ResidualXL,
}
