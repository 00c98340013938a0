"""Pictures of a case: three planes with the outlines of labels, as radiologists look at them.

The convention of radiology: the patient's right is on the left of axial and coronal planes, the
front is up in axial planes and on the left in sagittal ones, the head is up.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_medseg.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "Mask", "draw_planes", "middle_of", "window_of"]

# Okabe and Ito's palette without its black and grey: told apart by colour-blind people, and bright
# enough on grey images (Okabe, Ito 2008, https://jfly.uni-koeln.de/color).
COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")

CT_WINDOW_HU = (-160.0, 240.0)  # soft tissue: level 40, width 400
PERCENTILES = (0.5, 99.5)  # of other images: a few bright voxels do not darken all else
MARGIN_MM = 20.0  # of the surroundings that are shown
MIN_FIELD_MM = 70.0
BAR_MM = (100, 50, 20, 10, 5, 2, 1)  # the scale bar is the longest that takes a third of the plane
PALER = 0.45  # of the colour is left in a dashed outline; the rest is white
HEIGHT_IN, WIDTH_IN, DPI = 3.0, 9.6, 110
PLANES = (("axial", 0, "R", "L"), ("coronal", 1, "R", "L"), ("sagittal", 2, "A", "P"))


@dataclass(frozen=True)
class Mask:
    """What is outlined.

    Attributes:
        array: Bool, shape `(z, y, x)`, on the grid of the image.
        colour: As matplotlib takes it.
        label: Name in the legend; empty for none.
        dashed: Whether the outline is dashed, in a paler tone of the colour on black.
    """

    array: np.ndarray[Any, Any]
    colour: str
    label: str
    dashed: bool = False


def window_of(image_type: str, array: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Return which values are shown black and white.

    Args:
        image_type: Such as `CT` or `MRI`.
        array: Values of the image, any shape.

    Returns:
        The window of soft tissue in HU for CT, else percentiles; the white value is above the
        black one also where all values are equal.
    """
    if image_type.upper() == "CT":
        return CT_WINDOW_HU
    low, high = (float(value) for value in np.percentile(array, PERCENTILES))
    return low, max(high, low + 1e-6)


def draw_planes(
    image: Volume,
    masks: Sequence[Mask],
    at: tuple[int, int, int] | None,
    window: tuple[float, float],
) -> bytes:
    """Draw an axial, a coronal and a sagittal plane, cut to the surroundings of the masks.

    Args:
        image: Oriented to RAS (`volume.to_ras`), array `(z, y, x)`.
        masks: Outlined in this order, on the same grid.
        at: The voxel `(z, y, x)` that the planes go through; None for the middle of the largest
            component of all masks, or of the image without any.
        window: Values that are black and white.

    Returns:
        A PNG of about 1,050 pixels' width.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    place = middle_of(masks, image.array.shape) if at is None else at
    field = _field(masks, image)
    sides = [_sides(field, image, axis) for _, axis, *_ in PLANES]
    ratios = [width for _, width in sides]
    height = WIDTH_IN * max(side for side, _ in sides) / sum(ratios)
    figure = Figure(figsize=(WIDTH_IN, min(max(height, HEIGHT_IN), 5.0) + 0.35), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.set_facecolor("black")
    grid = figure.subplots(1, len(PLANES), width_ratios=ratios)
    for axes, plane in zip(grid, PLANES, strict=True):
        _draw_plane(axes, image, masks, (place, field), window, plane)
    _draw_legend(figure, masks)
    figure.subplots_adjust(left=0.005, right=0.995, top=0.995, bottom=0.09, wspace=0.02)
    png = io.BytesIO()
    figure.savefig(png, format="png", facecolor="black")
    return png.getvalue()


def middle_of(masks: Sequence[Mask], shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the voxel in the middle of the largest component of all masks, or of the image.

    It lies in the component, also where that is bent.
    """
    from nnunet_medseg.evaluation.components import largest_component

    union = np.zeros(tuple(shape), dtype=bool)
    for mask in masks:
        union |= mask.array
    if not union.any():
        z, y, x = (side // 2 for side in shape)
        return z, y, x
    places = largest_component(union)
    nearest = np.linalg.norm(places - places.mean(axis=0), axis=1).argmin()
    z, y, x = (int(place) for place in places[nearest])
    return z, y, x


def _field(masks: Sequence[Mask], image: Volume) -> tuple[slice, slice, slice]:
    """Return the part of the image that is shown: the masks and their surroundings."""
    marked = [mask.array for mask in masks if mask.array.any()]
    parts = []
    for axis, (side, mm) in enumerate(zip(image.array.shape, image.spacing_mm, strict=True)):
        others = tuple(other for other in range(3) if other != axis)
        places = [np.flatnonzero(array.any(axis=others)) for array in marked]
        low = min((int(found[0]) for found in places), default=0)
        high = max((int(found[-1]) for found in places), default=side - 1)
        missing_mm = max(0.0, MIN_FIELD_MM - (high - low + 1) * mm) / 2
        margin = round(max(MARGIN_MM, missing_mm) / mm)
        parts.append(slice(max(0, low - margin), min(side, high + margin + 1)))
    return parts[0], parts[1], parts[2]


def _sides(field: tuple[slice, slice, slice], image: Volume, axis: int) -> tuple[float, float]:
    """Return height and width in mm of a plane across an axis."""
    height, width = (
        (part.stop - part.start) * mm
        for place, (part, mm) in enumerate(zip(field, image.spacing_mm, strict=True))
        if place != axis
    )
    return height, width


def _draw_plane(
    axes: Axes,
    image: Volume,
    masks: Sequence[Mask],
    where: tuple[tuple[int, int, int], tuple[slice, slice, slice]],
    window: tuple[float, float],
    plane: tuple[str, int, str, str],
) -> None:
    name, axis, left, right = plane
    place, field = where
    cut: list[Any] = list(field)
    cut[axis] = place[axis]
    height_mm, width_mm = _sides(field, image, axis)
    # In RAS all three views are seen from the other end of both of their axes.
    shown = image.array[tuple(cut)][::-1, ::-1]
    low, high = window
    axes.imshow(
        shown, cmap="gray", vmin=low, vmax=high, extent=(0, width_mm, height_mm, 0),
        interpolation="nearest",
    )  # fmt: skip
    for mask in masks:
        _outline(axes, mask.array[tuple(cut)][::-1, ::-1], mask, (height_mm, width_mm))
    axes.set_axis_off()
    text = {"fontsize": 10, "transform": axes.transAxes, **_readable()}
    axes.text(0.02, 0.5, left, va="center", ha="left", weight="bold", **text)
    axes.text(0.98, 0.5, right, va="center", ha="right", weight="bold", **text)
    axes.text(0.5, 0.985, name, va="top", ha="center", **text)
    _draw_bar(axes, height_mm, width_mm)


def _outline(
    axes: Axes, array: np.ndarray[Any, Any], mask: Mask, sides_mm: tuple[float, float]
) -> None:
    if not array.any():
        return
    # A rim of background closes outlines at the border of the plane.
    padded = np.pad(array.astype(np.float32), 1)
    rows, columns = (
        (np.arange(count + 2) - 0.5) * side / count
        for count, side in zip(array.shape, sides_mm, strict=True)
    )
    levels: dict[str, Any] = {"levels": [0.5], "antialiased": True}
    if mask.dashed:
        axes.contour(columns, rows, padded, colors="black", linewidths=2.0, **levels)
        dashes: dict[str, Any] = {"colors": [_paler(mask.colour)], "linestyles": [(0, (3, 1.6))]}
        axes.contour(columns, rows, padded, linewidths=1.3, **dashes, **levels)
    else:
        axes.contour(columns, rows, padded, colors=mask.colour, linewidths=1.9, **levels)


def _draw_bar(axes: Axes, height_mm: float, width_mm: float) -> None:
    length = next((mm for mm in BAR_MM if mm <= width_mm / 3), BAR_MM[-1])
    start, level = 0.04 * width_mm, 0.955 * height_mm
    axes.plot([start, start + length], [level, level], color="white", linewidth=2)
    text = {"fontsize": 8, "va": "bottom", **_readable()}
    axes.text(start, level - 0.015 * height_mm, f"{length} mm", **text)


def _readable() -> dict[str, Any]:
    """Return what makes text readable on any image: white with a dark rim."""
    from matplotlib.patheffects import withStroke

    return {"color": "white", "path_effects": [withStroke(linewidth=2.5, foreground="black")]}


def _paler(colour: str) -> tuple[float, ...]:
    from matplotlib.colors import to_rgb

    return tuple(1 - PALER * (1 - part) for part in to_rgb(colour))


def _draw_legend(figure: Figure, masks: Sequence[Mask]) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color="white" if mask.dashed else mask.colour, label=mask.label,
               linestyle="--" if mask.dashed else "-", linewidth=2)
        for mask in masks
        if mask.label
    ]  # fmt: skip
    if lines:
        figure.legend(
            handles=lines, loc="lower center", ncols=min(len(lines), 8), frameon=False,
            labelcolor="white", fontsize=9, borderaxespad=0.2,
        )  # fmt: skip
