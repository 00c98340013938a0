"""A report as a run would write it, of made-up figures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from tiny_model import make_facts

from nnunet_medseg.bundle.manifest import (
    CurveFacts,
    EvaluationFacts,
    LabelEntry,
    LabelFacts,
    Manifest,
    SplitFacts,
    StageFacts,
    TrainedOnFacts,
    stock_command,
)
from nnunet_medseg.evaluation.scores import CaseScore, LabelScore
from nnunet_medseg.report.overlay import COLOURS, Mask, draw_planes
from nnunet_medseg.report.page import Picture, write_report
from nnunet_medseg.volume import Volume, to_ras

LABELS = ("liver", "lesion")


def make_scores(count: int) -> list[CaseScore]:
    """Scores that spread, with a lesion that is missed, one invented and one in neither map."""
    rng = np.random.default_rng(0)
    scores = []
    for number in range(1, count + 1):
        liver, lesion = rng.uniform(0.7, 0.98), rng.uniform(0.2, 0.9)
        labels = {
            "liver": LabelScore(liver, 3.25, 0.9, 1.25, 2.0, 1400.5, 1380.25, 1, 1, 0),
            "lesion": LabelScore(lesion, 6.5, 0.6, 2.5, 2.0, 3.0 * number, 2.0, 2, 1, number % 3),
        }
        if number == 2:
            labels["lesion"] = LabelScore(0.0, math.inf, 0.0, math.nan, 2.0, 4.5, 0.0, 1, 0, 0)
        if number == 3:
            labels["lesion"] = LabelScore(
                math.nan, math.nan, math.nan, math.nan, 2.0, 0, 0, 0, 0, 0
            )
        scores.append(CaseScore(f"case_{number:04d}", labels))
    return scores


def make_report_manifest(scores: list[CaseScore], **changes) -> Manifest:
    measures = LabelFacts(
        cases=len(scores), missed=1, invented=0, dice_low=0.6, dice_high=0.9, hd95_mm=3.25,
        nsd=0.8, mean_distance_mm=1.2, volume_error_ml=2.5, bias_ml=-1.25, components=1.5,
        sensitivity=0.75, false_per_case=0.5,
    )  # fmt: skip
    facts = make_facts() | {
        "labels": [LabelEntry(name=name, value=n, index=n) for n, name in enumerate(LABELS, 1)],
        "split": SplitFacts(fold="0", train_cases=24, held_out_cases=len(scores)),
        "evaluation": EvaluationFacts(
            mean_dice=0.86, low=0.84, high=0.88, dice={"liver": 0.91, "lesion": 0.71},
            cases=len(scores), of_cases=len(scores),
            measures=dict.fromkeys(LABELS, measures) if scores else {},
        ),
        "curves": [
            CurveFacts(
                training="training", minutes=[0.5, 1, 1.5], loss=[1.0, 0.2, -0.3],
                learning_rate=[0.05, 0.02, 0.0], patch_dice=[None, 0.5, 0.8],
            )
        ],
        "trained_on": TrainedOnFacts(
            fewest=20, mean=31.5, most=40, cases=8, mean_dice=0.93, low=0.91, high=0.95
        ),
        "stages": [StageFacts(name="train", seconds=90), StageFacts(name="evaluate", seconds=9.5)],
        "command": "python3 exe_train.py -d Liver -t 1.5 -f 0",
    }  # fmt: skip
    return Manifest(
        program="nnunet-medseg 0.1.0",
        versions={"torch": "2.13.0"},
        configuration="3d_fullres",
        stock_command=stock_command(["0"], "cpu"),
        stock_note="",
        files={},
        **(facts | changes),
    )


def make_picture(rank: str, case: str) -> Picture:
    rng = np.random.default_rng(1)
    image = to_ras(Volume(rng.normal(size=(16, 24, 24)), (3.0, 1.0, 1.0), np.diag([1, 1, 3, 1.0])))
    truth, guess = np.zeros((2, 16, 24, 24), bool)
    truth[4:10, 6:16, 6:16] = guess[5:11, 7:17, 8:18] = True
    masks = [Mask(truth, COLOURS[0], "liver"), Mask(guess, COLOURS[0], "the model", dashed=True)]
    png = draw_planes(image, masks, None, (-2.0, 2.0))
    return Picture(rank, case, "liver: Dice 0.71, 2.0 ml too little of 12.0 ml.", png)


def make_report(path: Path, cases: int = 12, findings=(), **changes) -> str:
    scores = make_scores(cases)
    ranks = zip(("Worst", "Median", "Best"), scores, strict=False)
    pictures = [make_picture(rank, score.case) for rank, score in ranks]
    write_report(path, make_report_manifest(scores, **changes), scores, pictures, findings)
    return path.read_text(encoding="utf-8")
