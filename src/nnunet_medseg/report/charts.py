"""Charts of the report: SVG that takes its colours from the page, so that they fit light and dark.

Each returns a `<svg>` without a width of its own, or nothing where there is nothing to show.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnunet_medseg.bundle.manifest import CurveFacts, StageFacts
from nnunet_medseg.console import duration
from nnunet_medseg.evaluation.scores import CaseScore

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["SERIES", "dice_against_volume", "dice_by_label", "learning_curves", "time_by_stage"]

# Stand-ins that the page's own colours take the place of: no other colour is close to them.
INK, LINE = "#010203", "#040506"
SERIES = tuple(f"#0a0b0{number}" for number in range(1, 7))
PAGE_COLOURS = {INK: "currentColor", LINE: "var(--line)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)
}
MARKERS = "osD^vP"
MIN_BOX_CASES = 5  # a box of fewer would draw quartiles that nobody has seen
LOG_FROM = 20.0  # times between the smallest and the largest volume
SHORT_S = 180.0  # up to which stages are shown in seconds
WIDTH_IN = 7.2  # 72 points each; the page scales it
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


def dice_by_label(scores: Sequence[CaseScore], labels: Sequence[str]) -> str:
    """Draw the Dice of all cases, a row a label: every case, and a box from five cases on."""
    rows = {
        label: [score.dice[label] for score in scores if not math.isnan(score.dice[label])]
        for label in labels
    }
    if not any(rows.values()):
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for place, values in enumerate(rows.values()):
            if len(values) >= MIN_BOX_CASES:
                axes.boxplot(
                    values, positions=[place], orientation="horizontal", widths=0.5,
                    showfliers=False, **_box_lines(),
                )  # fmt: skip
            spread = [place + 0.16 * math.sin(2.4 * number) for number in range(len(values))]
            axes.plot(values, spread, "o", color=SERIES[0], markersize=3.5, alpha=0.7)
        axes.set_yticks(range(len(rows)), [_short(label) for label in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(_lowest([value for values in rows.values() for value in values]), 1.01)
        axes.set_xlabel("Dice")
        axes.grid(axis="x")

    return _svg("dice", 1.0 + 0.42 * len(rows), draw)


def _box_lines() -> dict[str, Any]:
    thin = {"color": INK, "linewidth": 1.0}
    return {
        "boxprops": thin,
        "whiskerprops": thin,
        "capprops": thin,
        "medianprops": {"color": SERIES[1], "linewidth": 2.0},
    }


def dice_against_volume(scores: Sequence[CaseScore], labels: Sequence[str]) -> str:
    """Draw Dice against the volume in the label map; cases without the label are left out."""
    points = {
        label: [
            (score.labels[label].truth_ml, score.dice[label])
            for score in scores
            if score.labels[label].truth_ml > 0
        ]
        for label in labels
    }
    shown = [(label, pairs) for label, pairs in points.items() if pairs]
    if not shown:
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for place, (label, pairs) in enumerate(shown):
            # The colours of the first labels; the others share the last one.
            style = min(place, len(SERIES) - 1)
            is_shared = style == len(SERIES) - 1 < len(shown) - 1
            name = "other labels" if is_shared else _short(label)
            axes.plot(
                *zip(*pairs, strict=True), MARKERS[style], color=SERIES[style], markersize=5,
                alpha=0.8, label=name if place <= len(SERIES) - 1 else None,
            )  # fmt: skip
        _scale_volumes(axes, [volume for _, pairs in shown for volume, _ in pairs])
        axes.set_ylim(_lowest([dice for _, pairs in shown for _, dice in pairs]), 1.01)
        axes.set_ylabel("Dice")
        axes.grid()
        if len(shown) > 1:
            axes.legend(loc="best")

    return _svg("volume", 3.2, draw)


def _lowest(dice: Sequence[float]) -> float:
    """Return where an axis of Dice begins: a step of 0.2 below the worst, at most at 0.6."""
    return max(-0.01, min(0.6, math.floor((min(dice) - 0.02) * 5) / 5))


def _scale_volumes(axes: Axes, volumes: Sequence[float]) -> None:
    axes.set_xlabel("volume in the label map (ml)")
    if max(volumes) > LOG_FROM * min(volumes):
        axes.set_xscale("log")
        axes.set_xlabel("volume in the label map (ml, logarithmic)")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda *_: "")


def learning_curves(curves: Sequence[CurveFacts]) -> str:
    """Draw loss, Dice on held-out patches and learning rate against the minutes."""
    curves = [curve for curve in curves if curve.minutes]
    if not curves:
        return ""
    has_dice = any(value is not None for curve in curves for value in curve.patch_dice)

    def draw(figure: Figure) -> None:
        panels = ["loss", *(["Dice on patches"] if has_dice else []), "learning rate"]
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, panel in zip(grid, panels, strict=True):
            for place, curve in enumerate(curves):
                values = {
                    "loss": curve.loss,
                    "Dice on patches": [math.nan if x is None else x for x in curve.patch_dice],
                    "learning rate": curve.learning_rate,
                }[panel]
                colour = SERIES[place % len(SERIES)]
                mark = "o" if len(values) == 1 else None
                axes.plot(curve.minutes, values, marker=mark, color=colour, label=curve.training)
            axes.set_ylabel(panel)
            axes.set_xlim(left=0)
            axes.grid()
        grid[-1].set_ylim(bottom=0)
        grid[-1].set_xlabel("minutes of training")
        figure.align_ylabels(list(grid))
        if len(curves) > 1:
            grid[0].legend(loc="upper right", ncols=3)

    return _svg("curves", 4.6 if has_dice else 3.4, draw)


def time_by_stage(stages: Sequence[StageFacts]) -> str:
    """Draw the time of each kind of stage, in the order in which they first came."""
    kinds: dict[str, float] = {}
    for stage in stages:
        kind = stage.name.partition(" ")[0]
        kinds[kind] = kinds.get(kind, 0.0) + stage.seconds
    if not kinds:
        return ""
    unit, unit_s = ("minutes", 60) if max(kinds.values()) > SHORT_S else ("seconds", 1)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        lengths = [seconds / unit_s for seconds in kinds.values()]
        bars = axes.barh(list(kinds), lengths, color=SERIES[0], height=0.62)
        axes.bar_label(bars, [duration(value) for value in kinds.values()], padding=4, color=INK)
        axes.invert_yaxis()
        axes.margins(x=0.14)
        axes.set_xlabel(unit)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")

    return _svg("time", 0.8 + 0.26 * len(kinds), draw)


def _short(label: str) -> str:
    # A dollar sign would begin a formula.
    name = label.replace("$", r"\$")
    return name if len(name) <= 24 else f"{name[:22]}…"


def _svg(name: str, height_in: float, draw: Any) -> str:
    """Draw into a figure of its own, without pyplot, which keeps a state for the whole program."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # The salt keeps the names of parts apart from those of other charts in the page.
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(text.getvalue())


def _for_page(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    # Groups carry names that charts share, and that nothing refers to.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 aria-hidden="true"', svg, count=1)
    svg = re.sub(r"(font: [^;\"]*?px )[^;\"]*", r"\1system-ui, sans-serif", svg)
    for stand_in, colour in PAGE_COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return svg
