"""`report.html`: how good the model is, on one page a clinician reads.

One file without a network: styles, script, charts and pictures are in it. It shows images of
patients and stays in the house. Every number is in the manifest or in metrics.csv too.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_medseg.bundle.card import CARD_FIELDS
from nnunet_medseg.bundle.manifest import Manifest
from nnunet_medseg.console import duration
from nnunet_medseg.evaluation.scores import CaseScore
from nnunet_medseg.evaluation.summaries import mean_dice_of
from nnunet_medseg.files import write_text
from nnunet_medseg.report import charts
from nnunet_medseg.report.counts import patients_in_words
from nnunet_medseg.report.summary import early_end
from nnunet_medseg.report.verdict import verdict

__all__ = ["Picture", "write_report"]

NNUNET = (
    "Isensee, F., Jaeger, P. F., Kohl, S. A. A., Petersen, J., Maier-Hein, K. H. nnU-Net: a "
    "self-configuring method for deep learning-based biomedical image segmentation. Nature Methods "
    "18, 203-211 (2021). doi:10.1038/s41592-020-01008-z"
)
DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"  # as the script of the page reads them
FEW_PATIENTS = 10  # below it a bootstrap interval is rough (statistics.py)


@dataclass(frozen=True)
class Picture:
    """A case as it is shown.

    Attributes:
        rank: Such as "Worst".
        case: Our name of it.
        text: What there is to see, in words, for those who do not see it.
        png: The picture.
    """

    rank: str
    case: str
    text: str
    png: bytes


def write_report(
    path: Path,
    manifest: Manifest,
    scores: Sequence[CaseScore],
    pictures: Sequence[Picture],
    findings: Sequence[str],
) -> None:
    """Write the report.

    Args:
        path: Where to.
        manifest: Every figure of the model.
        scores: Of the held-out cases, in any order.
        pictures: In the order in which they are shown.
        findings: What the check said, one line each.
    """
    # Late: most commands draw nothing.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("nnunet_medseg.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "signed": _signed,
        "duration": duration,
        "patients": patients_in_words,
        "percent": lambda share: f"{share:.0%}",
        "data_uri": lambda png: "data:image/png;base64," + base64.b64encode(png).decode("ascii"),
    }
    page = environment.get_template("report.html.jinja").render(
        manifest=manifest,
        verdict=verdict(manifest, scores),
        early_end=early_end(manifest.training),
        is_rough=0 < manifest.evaluation.patients < FEW_PATIENTS,
        pictures=pictures,
        labels=[label.name for label in manifest.labels],
        cases=_worst_first(scores),
        charts=_charts(manifest, scores),
        has_patch_dice=any(
            dice is not None for curve in manifest.curves for dice in curve.patch_dice
        ),
        findings=findings,
        card=_card(manifest.card),
        nnunet=NNUNET,
    )
    write_text(path, page)


def _number(value: float | None, digits: int = 3) -> str:
    """Return a number for a table: a dash where there is nothing to measure."""
    if value is None or math.isnan(value):
        return DASH
    return "∞" if math.isinf(value) else f"{value:.{digits}f}"


def _signed(value: float | None, digits: int = 2) -> str:
    """Return a number with its sign."""
    if value is None or math.isnan(value):
        return DASH
    return f"{value:+.{digits}f}".replace("-", MINUS)


def _worst_first(scores: Sequence[CaseScore]) -> list[dict[str, Any]]:
    """Return what the table of cases shows; those without a Dice come last."""
    rows = [
        {"case": score.case, "dice": mean_dice_of(score), "labels": score.labels}
        for score in scores
    ]
    return sorted(rows, key=lambda row: math.inf if math.isnan(row["dice"]) else row["dice"])


def _charts(manifest: Manifest, scores: Sequence[CaseScore]) -> dict[str, str]:
    labels = [label.name for label in manifest.labels]
    return {
        "dice": charts.dice_by_label(scores, labels),
        "volume": charts.dice_against_volume(scores, labels),
        "curves": charts.learning_curves(manifest.curves),
        "time": charts.time_by_stage(manifest.stages),
    }


def _card(given: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return name, question and answer of each field of the card; blanks are empty."""
    return [(name, question, given.get(name, "")) for name, question in CARD_FIELDS.items()]
