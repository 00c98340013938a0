"""Plans for a training of known duration: candidates, measured, and the one that was chosen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nnunet_medseg.budget.fit import Candidate, Choice, choose_candidate
from nnunet_medseg.budget.size import NNUNET_SIZE, PlanSize, ladder
from nnunet_medseg.nnunet.planner import PatchTooSmallError
from nnunet_medseg.nnunet.planning import make_plans
from nnunet_medseg.nnunet.probe import count_flops, measure_step
from nnunet_medseg.nnunet.trainer import TrainingSetup

__all__ = ["Sized", "plan_for_time"]

MIN_BATCH = 2  # of nnU-Net's planner
MIN_STAGES = 3  # nnU-Net's loss leaves the coarsest output out, and the one before it needs another


@dataclass(frozen=True)
class Sized:
    """Plans, and why they are as large as they are."""

    plans: dict[str, Any]
    configuration: str
    choice: Choice


def plan_for_time(
    dataset: str,
    description: dict[str, Any],
    setup: TrainingSetup,
    object_mm3: float | None,
    *,
    on_measured: Callable[[str, float], None] = lambda *_: None,
) -> Sized:
    """Plan a dataset so that enough steps fit into the training.

    Args:
        dataset: Name of the raw dataset, whose folders nnU-Net finds in its environment.
        description: The dataset.json.
        setup: Of the training; device, duration and recipe matter here.
        object_mm3: Typical size of the smallest labelled objects; None for nnU-Net's own plan.
        on_measured: Called with the name of a candidate and its seconds a step.
    """
    made = _make_candidates(dataset, description, object_mm3)

    def measure(candidate: Candidate) -> float:
        plans, configuration = made[candidate]
        step_s = measure_step(plans, configuration, description, setup)
        on_measured(candidate.name, step_s)
        return step_s

    choice = choose_candidate(list(made), setup.asked_s, measure)
    return Sized(*made[choice.candidate], choice)


def _make_candidates(
    dataset: str, description: dict[str, Any], object_mm3: float | None
) -> dict[Candidate, tuple[dict[str, Any], str]]:
    own = make_plans(dataset, NNUNET_SIZE)
    ((_, chosen),) = own[0]["configurations"].items()
    # In 2D a batch is many small patches; of what fits a patch, the planner makes a batch again.
    patch_voxels = math.prod(chosen["patch_size"]) * chosen["batch_size"] // MIN_BATCH
    steps_down = [(NNUNET_SIZE, 0)]
    if object_mm3 is not None:
        steps_down = ladder(patch_voxels, object_mm3 / _voxel_mm3(*own))
    made: dict[Candidate, tuple[dict[str, Any], str]] = {}
    for size, steps_needed in steps_down:
        try:
            plans, configuration = own if size == NNUNET_SIZE else make_plans(dataset, size)
        except PatchTooSmallError:
            continue
        network = plans["configurations"][configuration]["architecture"]["arch_kwargs"]
        if size != NNUNET_SIZE and network["n_stages"] < MIN_STAGES:
            continue
        flops = count_flops(plans, configuration, description)
        name = _describe(plans["configurations"][configuration], size)
        # Two sizes may lead to the same patch; the first is preferred.
        if name not in {candidate.name for candidate in made}:
            made[Candidate(size, flops, steps_needed, name)] = (plans, configuration)
    return made


def _voxel_mm3(plans: dict[str, Any], configuration: str) -> float:
    spacing = [float(side) for side in plans["configurations"][configuration]["spacing"]]
    if len(spacing) < 3:
        # A 2D plan leaves the thickness of slices as it is.
        spacing.append(float(plans["original_median_spacing_after_transp"][0]))
    return math.prod(spacing)


def _describe(configuration: dict[str, Any], size: PlanSize) -> str:
    spacing = " x ".join(f"{float(side):.3g}" for side in configuration["spacing"])
    patch = " x ".join(str(int(side)) for side in configuration["patch_size"])
    width = "" if size.width == 1 else f", {size.width:g} of the width"
    kind = ", residual encoder" if size.is_residual else ""
    batch = configuration["batch_size"]
    return f"spacing {spacing} mm, patch {patch}, batch {batch}{width}{kind}"
