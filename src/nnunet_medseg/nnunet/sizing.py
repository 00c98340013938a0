"""Plans for a training of known duration: candidates, measured, and the one that was chosen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from nnunet_medseg.budget.fit import (
    Candidate,
    Choice,
    choose_candidate,
    measuring_limit_s,
    steps_that_fit,
)
from nnunet_medseg.budget.size import (
    MIN_BATCH,
    NNUNET_SIZE,
    NO_WISH,
    PLAIN,
    ObjectSizes,
    PlanSize,
    PlanWish,
    ladder,
    restrict,
)
from nnunet_medseg.errors import UsageError
from nnunet_medseg.nnunet.planner import PatchTooSmallError
from nnunet_medseg.nnunet.planning import make_plans
from nnunet_medseg.nnunet.probe import (
    count_flops,
    fastest_threads,
    in_faster_layout,
    measure_step,
)
from nnunet_medseg.nnunet.trainer import MIN_SUPERVISED_STAGES, TrainingSetup

__all__ = ["PlanTask", "Sized", "describe_plan", "plan_for_time"]

MIN_STAGES = 2  # of any U-Net: what is upsampled must have been downsampled
MIN_SIDE = 8  # of two sides of a patch, for two stages (network_topology.py of 2.8.1)


@dataclass(frozen=True)
class Sized:
    """Plans, why they are as large as they are, and how many threads train them in what layout."""

    plans: dict[str, Any]
    configuration: str
    choice: Choice
    threads: int | None = None
    channels_last: bool = False


@dataclass(frozen=True)
class PlanTask:
    """What is to be planned.

    Attributes:
        dataset: Name of the raw dataset, whose folders nnU-Net finds in its environment.
        description: The dataset.json.
        setup: Of the training; device, duration and recipe matter here.
        objects_mm3: Sizes of labelled objects; None for nnU-Net's own plan.
        wish: What the user asks.
        known: Seconds a step by name of candidate and layout, as measured earlier; new ones are
            added.
    """

    dataset: str
    description: dict[str, Any]
    setup: TrainingSetup
    objects_mm3: ObjectSizes | None
    wish: PlanWish = NO_WISH
    known: dict[str, float] = field(default_factory=dict)


def plan_for_time(
    task: PlanTask, on_measured: Callable[[str, float], None] = lambda *_: None
) -> Sized:
    """Plan a dataset so that enough steps fit into the training.

    Args:
        task: What is to be planned.
        on_measured: Called with the name of a candidate, its layout, and its seconds a step.

    Raises:
        UsageError: When what the user asks of the plan is not possible for the dataset.
    """
    made = _make_candidates(task)
    until_s = time.monotonic() + measuring_limit_s(task.setup.asked_s)

    def measure(candidate: Candidate, setup: TrainingSetup) -> float:
        name = candidate.name + (", channels last" if setup.channels_last else "")
        if name not in task.known:
            step_s = measure_step(*made[candidate], task.description, setup, until_s)
            task.known[name] = step_s
        on_measured(name, task.known[name])
        return task.known[name]

    cheapest = min(made, key=lambda candidate: candidate.flops)
    setup, _ = in_faster_layout(task.setup, partial(measure, cheapest), until_s)
    left_s = until_s - time.monotonic()
    choice = choose_candidate(list(made), setup.asked_s, partial(measure, setup=setup), left_s)
    plans, configuration = made[choice.candidate]
    if choice.candidate.name in choice.measured:
        # A large patch may be faster in the layout in which the cheapest plan is slower.
        faster, step_s = in_faster_layout(setup, partial(measure, choice.candidate), until_s)
        if faster is not setup:
            layout = "last" if faster.channels_last else "first"
            choice = _with_step(choice, step_s, f"channels {layout} is faster", setup.asked_s)
            setup = faster
    threads, step_s = fastest_threads(
        plans, configuration, task.description, setup, choice.step_s, until_s
    )
    if threads is not None:
        why = f"{threads} threads are faster than one on each core"
        choice = _with_step(choice, step_s, why, setup.asked_s)
    return Sized(plans, configuration, choice, threads, setup.channels_last)


def _with_step(choice: Choice, step_s: float, why: str, asked_s: float) -> Choice:
    """Return the choice with what a step takes in another way, and why it is done so."""
    steps = steps_that_fit(asked_s, step_s)
    reason = f"{choice.reason}; {why}: {steps} do"
    return replace(choice, step_s=step_s, steps=steps, reason=reason)


def _make_candidates(task: PlanTask) -> dict[Candidate, tuple[dict[str, Any], str]]:
    # What a machine has room for does not follow from the patch and the batch that are asked for.
    unbound = replace(task.wish, patch=None, batch=None)
    own = make_plans(task.dataset, restrict([(NNUNET_SIZE, 0)], unbound)[0][0], unbound)
    ((_, chosen),) = own[0]["configurations"].items()
    # In 2D a batch is many small patches; of what fits a patch, the planner makes a batch again.
    room_voxels = math.prod(chosen["patch_size"]) * chosen["batch_size"]
    wish = _with_batch(task.wish, len(chosen["patch_size"]), room_voxels)
    sizes = [(NNUNET_SIZE, 0)]
    if task.objects_mm3 is not None:
        voxel_mm3 = _voxel_mm3(*own)
        # Voxels of a given size do not grow.
        is_fixed = wish.spacing_mm is not None or wish.configuration == "3d_lowres"
        sizes = ladder(
            room_voxels // MIN_BATCH,
            ObjectSizes(
                0.0 if is_fixed else task.objects_mm3.smallest / voxel_mm3,
                task.objects_mm3.largest / voxel_mm3,
            ),
            dimensions=len(chosen["patch_size"]),
            batch=chosen["batch_size"],
        )
    own_size = restrict([(NNUNET_SIZE, 0)], wish)[0][0]
    made: dict[str, tuple[Candidate, tuple[dict[str, Any], str]]] = {}
    for size, steps_needed in restrict(sizes, wish):
        try:
            plans, configuration = make_plans(task.dataset, size, wish)
        except PatchTooSmallError:
            continue
        network = plans["configurations"][configuration]["architecture"]["arch_kwargs"]
        # Of small images the own plan may have fewer stages, and there is no larger one.
        is_own = size == own_size and wish.patch is None
        if not is_own and network["n_stages"] < MIN_SUPERVISED_STAGES:
            continue
        _require_network(plans, configuration)
        flops = count_flops(plans, configuration, task.description)
        name = describe_plan(plans["configurations"][configuration], size)
        candidate = Candidate(size, flops, steps_needed, name)
        # Where two sizes lead to the same plan, it needs as many steps as the least of them.
        first, planned = made.get(name, (candidate, (plans, configuration)))
        least = min(first.steps_needed, steps_needed)
        made[name] = (replace(first, steps_needed=least), planned)
    return _require_any(dict(made.values()))


def _with_batch(wish: PlanWish, axes: int, room_voxels: int) -> PlanWish:
    """Return the wish with as many patches a step as nnU-Net's own plan has room for."""
    if wish.patch is None:
        return wish
    if len(wish.patch) != axes:
        problem = f"--patch_size has {len(wish.patch)} sides, and the configuration has {axes}."
        raise UsageError(problem, fix="Give as many as the plan has; 2d has two.")
    fitting = max(MIN_BATCH, room_voxels // math.prod(wish.patch))
    return wish if wish.batch is not None else replace(wish, batch=fitting)


def _require_any(
    made: dict[Candidate, tuple[dict[str, Any], str]],
) -> dict[Candidate, tuple[dict[str, Any], str]]:
    if not made:
        problem = "--patch_size is too small for a network of three stages."
        raise UsageError(problem, fix="Give longer sides, or leave --patch_size out.")
    return made


def _require_network(plans: dict[str, Any], configuration: str) -> None:
    """Refuse images of which nnU-Net makes no U-Net, with the voxels that they would have."""
    chosen = plans["configurations"][configuration]
    if chosen["architecture"]["arch_kwargs"]["n_stages"] < MIN_STAGES:
        spacing, patch = _shown_sides(chosen)
        problem = (
            f"With a spacing of {spacing} mm a patch of the images has {patch} voxels: too few "
            "for a network."
        )
        fix = f"Give a --spacing with smaller voxels, so that two sides have {MIN_SIDE} at least."
        raise UsageError(problem, fix=fix)


def _voxel_mm3(plans: dict[str, Any], configuration: str) -> float:
    spacing = [float(side) for side in plans["configurations"][configuration]["spacing"]]
    if len(spacing) < 3:
        # A 2D plan leaves the thickness of slices as it is.
        spacing.append(float(plans["original_median_spacing_after_transp"][0]))
    return math.prod(spacing)


def _shown_sides(configuration: dict[str, Any]) -> tuple[str, str]:
    """Return for people the sides of a voxel in mm, and those of a patch in voxels."""
    spacing = " x ".join(f"{float(side):.3g}" for side in configuration["spacing"])
    return spacing, " x ".join(str(int(side)) for side in configuration["patch_size"])


def describe_plan(configuration: dict[str, Any], size: PlanSize) -> str:
    """Return for people what a configuration is and how its size differs from nnU-Net's own."""
    spacing, patch = _shown_sides(configuration)
    width = "" if size.width == 1 else f", {size.width:g} of the width"
    kind = "" if size.network == PLAIN else f", residual encoder {size.network[7:].upper()}"
    batch = configuration["batch_size"]
    return f"spacing {spacing} mm, patch {patch}, batch {batch}{width}{kind}"
