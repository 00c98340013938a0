"""How large a plan is: voxels, patch and network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = [
    "MIN_BATCH",
    "NNUNET_SIZE",
    "ObjectSizes",
    "PlanSize",
    "PlanWish",
    "coarsen",
    "ladder",
    "restrict",
]

COARSENING_STEP = 1.03  # as nnU-Net's planner makes its low resolution (2.8.1)
MAX_RATIO = 2.0

# How many steps a size needs before it is better than the next smaller one in the same time. Those
# of the last three lie between numbers that were measured with Muon, of which some were too few and
# others enough (docs/concepts/budget.md); that of nnU-Net's own plan is a guess, and so is the
# first: its residual presets were shown to be better after 250,000 steps (Isensee et al., MICCAI
# 2024, arXiv:2404.09556).
RESIDUAL_STEPS = 100_000
OWN_STEPS = 600
WIDE_STEPS = 400
NARROW_STEPS = 400
TIGHT_STEPS = 150  # where the next smaller patch is too small for the largest objects
SLICE_STEPS = 200  # of both in slices: the whole patch was better with as few
NARROW = 0.5  # of nnU-Net's features; a quarter was worse than half of the patch
VOXEL_FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
# A ball of twenty voxels across. The organ of the large phantom kept as many and did better than
# with finer voxels of a part of the image.
RESOLVED_OBJECT_VOXELS = 4_000
DRAWN_OBJECT_VOXELS = 100  # a ball of six voxels across; less is hardly drawn
# A patch of twice the sides of a ball holds 15 of it, one of 1.6 times its sides 8.
OBJECTS_A_PATCH = 8
MIN_PATCH_VOXELS = 4096
MIN_BATCH = 2  # of nnU-Net's planner
SLICE_DIMENSIONS = 2
PLAIN = "plain"


@dataclass(frozen=True)
class PlanSize:
    """What a plan may differ in from nnU-Net's own.

    Attributes:
        voxel_factor: Volume of a voxel, as a multiple of nnU-Net's choice; at least 1.
        width: Number of features, as a multiple of nnU-Net's 32 at full resolution.
        patch_voxels: Largest number of voxels of a patch; None leaves it to nnU-Net, which fills
            a GPU of 8 GB.
        network: "plain" for nnU-Net's plain U-Net; "resenc_m", "resenc_l" or "resenc_xl" for its
            presets with a residual encoder.
    """

    voxel_factor: float = 1.0
    width: float = 1.0
    patch_voxels: int | None = None
    network: str = PLAIN


NNUNET_SIZE = PlanSize()


@dataclass(frozen=True)
class ObjectSizes:
    """How large labelled objects typically are, as volumes in mm3 or in voxels.

    Attributes:
        smallest: Of the label whose objects are the smallest.
        largest: Of the label whose objects are the largest.
    """

    smallest: float
    largest: float


@dataclass(frozen=True)
class PlanWish:
    """What a user asks of a plan; None leaves it to nnU-Net and to the minutes.

    Attributes:
        configuration: "2d", "3d_fullres" or "3d_lowres".
        network: "default", "small", "resenc_m", "resenc_l" or "resenc_xl".
        spacing_mm: Sides of a voxel in mm, in the order of the plan, which puts the axis with the
            thickest voxels first.
        patch: Voxels of a patch along each axis, in the order of the plan; two for slices.
        batch: Patches a step.
    """

    configuration: str | None = None
    network: str | None = None
    spacing_mm: tuple[float, ...] | None = None
    patch: tuple[int, ...] | None = None
    batch: int | None = None


NO_WISH = PlanWish()


def coarsen(spacing_mm: Sequence[float], factor: float) -> tuple[float, ...]:
    """Return a spacing whose voxels are `factor` times as large.

    As nnU-Net does for its low resolution, fine axes grow first, until no axis is more than twice
    as coarse as another; then all grow alike.

    Args:
        spacing_mm: Size of a voxel in mm along each axis, in any order.
        factor: Volume of the new voxels as a multiple of the old; at least 1.

    Examples:
        >>> [round(side, 2) for side in coarsen((1.0, 1.0, 1.0), 8.0)]
        [2.0, 2.0, 2.0]
        >>> [round(side, 2) for side in coarsen((5.0, 1.0, 1.0), 4.0)]
        [5.0, 2.0, 2.0]
    """
    sides = list(spacing_mm)
    wanted = factor * math.prod(sides)
    while math.prod(sides) < wanted * (1 - 1e-9):
        coarsest = max(sides)
        fine = [axis for axis, side in enumerate(sides) if coarsest / side > MAX_RATIO]
        axes = fine or list(range(len(sides)))
        missing = (wanted / math.prod(sides)) ** (1 / len(axes))
        for axis in axes:
            sides[axis] *= min(COARSENING_STEP, missing)
    return tuple(sides)


def ladder(
    patch_voxels: int, objects: ObjectSizes, dimensions: int = 3, batch: int = MIN_BATCH
) -> list[tuple[PlanSize, int]]:
    """Return sizes from large to small, each with the number of steps that it needs.

    The voxels become larger first, and the patch with them, as long as the smallest objects stay
    well resolved; then half of the patch. Then comes half the width: with the whole patch, down to
    an eighth of it, then with larger voxels, as far as the objects can still be drawn; and the
    patch last. A quarter of the patch with all of the width is not among them: in the same time, a
    half or a quarter of it with half of the width was as good or better.

    In slices, where the whole patch is worth more than all of the width, half the width comes
    first, then smaller batches, down to two patches; and smaller patches last, whose sides become
    as much shorter as in volumes.

    In volumes, where the next smaller patch would hold the largest objects fewer than eight times,
    fewer steps of half the width suffice: it would not see enough of what is around them.

    Args:
        patch_voxels: Voxels of the patch of nnU-Net's own plan, if it were one of a batch of two.
        objects: Sizes of labelled objects, in voxels of that plan.
        dimensions: Sides of a patch; 2 in slices.
        batch: Patches a step of that plan.

    Examples:
        >>> sizes = [size for size, _ in ladder(800_000, ObjectSizes(10_000, 10_000))]
        >>> [(size.width, size.voxel_factor, size.patch_voxels) for size in sizes[2:6]]
        [(1.0, 2.0, 400000), (1.0, 2.0, 200000), (0.5, 2.0, 400000), (0.5, 2.0, 200000)]
    """
    resolved = _factors(objects.smallest / RESOLVED_OBJECT_VOXELS)
    drawn = _factors(objects.smallest / DRAWN_OBJECT_VOXELS)
    fine, coarse = resolved[-1], drawn[-1]
    in_slices = dimensions == SLICE_DIMENSIONS
    pairs = max(1.0, batch / MIN_BATCH) if in_slices else 1.0

    def parts(of_volume: int) -> float:
        return pairs * math.pow(of_volume, dimensions / 3)

    def narrow_steps(next_divisor: float) -> int:
        if in_slices:
            return SLICE_STEPS
        is_tight = patch_voxels / next_divisor < OBJECTS_A_PATCH * objects.largest
        return TIGHT_STEPS if is_tight else NARROW_STEPS

    wide = [(factor, 1.0) for factor in resolved[1:]]
    wide += [] if in_slices else [(fine, parts(2))]
    narrow = [(fine, 1.0), *((fine, pairs**power) for power in (0.5, 1.0) if pairs > 1)]
    narrow += [(fine, parts(2)), (fine, parts(4)), (fine, parts(8))]
    narrow += [(factor, parts(8)) for factor in drawn if factor > fine]
    narrow += [(coarse, parts(16))]
    next_divisors = [divisor for _, divisor in narrow[1:]] + [parts(16)]

    def cut(factor: float, divisor: float, width: float) -> PlanSize:
        return PlanSize(factor, width, max(MIN_PATCH_VOXELS, int(patch_voxels / factor / divisor)))

    return [
        (PlanSize(network="resenc_m"), RESIDUAL_STEPS),
        (NNUNET_SIZE, OWN_STEPS),
        *((cut(*each, 1.0), SLICE_STEPS if in_slices else WIDE_STEPS) for each in wide),
        *(
            (cut(*each, NARROW), narrow_steps(divisor))
            for each, divisor in zip(narrow, next_divisors, strict=True)
        ),
    ]


def restrict(sizes: Sequence[tuple[PlanSize, int]], wish: PlanWish) -> list[tuple[PlanSize, int]]:
    """Return the sizes that a wish leaves, in the same order.

    Where several become one, it needs as many steps as the least of them.

    Args:
        sizes: From `ladder`, or nnU-Net's own size alone.
        wish: What the user asks.

    Examples:
        >>> restrict([(NNUNET_SIZE, 1000)], PlanWish(network="small"))
        [(PlanSize(voxel_factor=1.0, width=0.5, patch_voxels=None, network='plain'), 1000)]
    """
    left: dict[PlanSize, int] = {}
    for size, steps in sizes:
        wished = _as_wished(size, wish)
        left[wished] = min(steps, left.get(wished, steps))
    return list(left.items())


def _as_wished(size: PlanSize, wish: PlanWish) -> PlanSize:
    if wish.network == "default":
        size = replace(size, network=PLAIN, width=1.0)
    elif wish.network == "small":
        size = replace(size, network=PLAIN, width=NARROW)
    elif wish.network is not None:
        size = replace(size, network=wish.network, width=1.0)
    if wish.patch is not None:
        size = replace(size, patch_voxels=None)
    if wish.spacing_mm is not None or wish.configuration == "3d_lowres":
        # Low resolution follows from the patch.
        size = replace(size, voxel_factor=1.0)
    return size


def _factors(largest: float) -> list[float]:
    return [factor for factor in VOXEL_FACTORS if factor <= max(1.0, largest)]
