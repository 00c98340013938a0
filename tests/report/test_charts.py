"""Charts of the report."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

from pages import LABELS, make_scores

from nnunet_medseg.bundle.manifest import CurveFacts, StageFacts
from nnunet_medseg.evaluation.scores import CaseScore, LabelScore
from nnunet_medseg.report.charts import (
    INK,
    LINE,
    SERIES,
    dice_against_volume,
    dice_by_label,
    learning_curves,
    time_by_stage,
)


def score(case: str, dice: float, truth_ml: float, name: str = "liver") -> CaseScore:
    return CaseScore(case, {name: LabelScore(dice, 1, 1, 1, 2, truth_ml, 1, 1, 1, 0)})


def words(svg: str) -> str:
    return " ".join(ElementTree.fromstring(svg).itertext())


def test_a_chart_takes_its_colours_from_the_page():
    svg = dice_by_label(make_scores(12), LABELS)

    assert "currentColor" in svg
    assert "var(--series-1)" in svg
    assert not any(stand_in in svg for stand_in in (INK, LINE, *SERIES))
    assert not re.search(r"<svg[^>]*(width|height)=", svg)
    assert 'aria-hidden="true"' in svg


def test_a_box_is_drawn_from_five_cases_on():
    few = dice_by_label(make_scores(4), ["liver"])
    many = dice_by_label(make_scores(5), ["liver"])

    # The colour of the median.
    assert "var(--series-2)" not in few
    assert "var(--series-2)" in many


def test_labels_keep_their_names_whatever_these_are():
    name = r"a$\frac{b}$ <c> & ö"
    svg = dice_by_label([score("case_0001", 0.8, 3.0, name)], [name])

    assert name in words(svg)


def test_volumes_far_apart_get_a_logarithmic_axis():
    near = dice_against_volume([score("a", 0.8, 3.0), score("b", 0.7, 4.0)], ["liver"])
    far = dice_against_volume([score("a", 0.8, 3.0), score("b", 0.7, 4000.0)], ["liver"])

    assert "logarithmic" not in words(near)
    assert "logarithmic" in words(far)


def test_without_a_number_there_is_no_chart():
    none = [score("a", math.nan, 0.0)]

    assert dice_by_label(none, ["liver"]) == ""
    assert dice_against_volume(none, ["liver"]) == ""
    assert learning_curves([]) == ""
    assert time_by_stage([]) == ""


def test_curves_without_held_out_patches_have_no_panel_for_them():
    def curve(dice):
        return CurveFacts(
            training="t", minutes=[1, 2], loss=[1, 0], learning_rate=[0.1, 0], patch_dice=dice
        )

    assert "Dice on patches" in words(learning_curves([curve([None, 0.5])]))
    assert "Dice on patches" not in words(learning_curves([curve([None, None])]))


def test_stages_of_several_trainings_are_added_up_by_kind():
    stages = [
        StageFacts(name="check", seconds=2.0),
        StageFacts(name="train fold 0", seconds=300.0),
        StageFacts(name="train fold 1", seconds=300.0),
    ]

    shown = words(time_by_stage(stages))

    assert "10 min 00 s" in shown
    assert shown.index("check") < shown.index("train")
    assert "fold" not in shown
