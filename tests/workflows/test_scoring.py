"""One case, segmented and scored."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from nnunet_medseg.dataset.labels import Label
from nnunet_medseg.dataset.raw_layout import RawCase
from nnunet_medseg.workflows.scoring import predicted_values, score_segmentation, segment_case

LABELS = (Label("liver", 1, 1), Label("lesion", 5, 2), Label("kidney", 3, 3))
CASE = RawCase("case_0001", (Path("image_0000.nii.gz"), Path("image_0001.nii.gz")), Path("label"))


class StandIn:
    """Writes and reads what it was told to, in the place of a `Segmenter`."""

    def __init__(self, written: np.ndarray, truth: np.ndarray) -> None:
        self._written = written
        self._truth = truth
        self.asked: list[object] = []

    def segment(self, images):
        sys.stdout.write("using pin_memory on /data/Miller_Anna\n")
        self.asked.append(images)
        return self._written

    def read_truth(self, path):
        self.asked.append(path)
        return self._truth, (1.0, 1.0, 2.0)


def score_case(segmenter, log, index_of=None):
    predicted = segment_case(segmenter, CASE, log, index_of)
    return score_segmentation(segmenter, CASE, predicted, LABELS, log)


def slabs(*values: int) -> np.ndarray:
    """Make 16³ voxels with four slices a value, and background after them."""
    array = np.zeros((16, 16, 16), np.int32)
    for place, value in enumerate(values):
        array[4 * place : 4 * place + 4] = value
    return array


def test_a_case_is_scored_by_label_with_volumes(tmp_path):
    segmenter = StandIn(written=slabs(1, 1, 2), truth=slabs(1, 2, 2))

    score = score_case(segmenter, tmp_path / "log.txt")

    assert score.case == "case_0001"
    assert score.dice["liver"] == pytest.approx(2 / 3)
    assert score.dice["lesion"] == pytest.approx(2 / 3)
    assert math.isnan(score.dice["kidney"])
    volumes = {name: (one.truth_ml, one.predicted_ml) for name, one in score.labels.items()}
    assert volumes["liver"] == pytest.approx((2.048, 4.096))
    assert volumes["lesion"] == pytest.approx((4.096, 2.048))
    assert volumes["kidney"] == (0, 0)
    # The border between both labels is moved by four slices of 1 mm.
    assert score.labels["liver"].hd95_mm == score.labels["lesion"].hd95_mm == 4.0


def test_the_truth_is_read_by_the_reader_of_the_model(tmp_path):
    segmenter = StandIn(written=slabs(1), truth=slabs(1))

    score_case(segmenter, tmp_path / "log.txt")

    assert segmenter.asked == [CASE.images, CASE.label]


def test_what_nnunet_prints_goes_to_the_log_without_paths(tmp_path, capsys):
    segmenter = StandIn(written=slabs(1), truth=slabs(1))

    score_case(segmenter, tmp_path / "log.txt")

    assert capsys.readouterr().out == ""
    assert (tmp_path / "log.txt").read_text() == "using pin_memory on <path>\n"


def test_a_model_that_numbers_the_labels_otherwise_is_scored_by_what_it_means(tmp_path):
    segmenter = StandIn(written=slabs(3, 1, 2), truth=slabs(1, 2, 3))

    score = score_case(segmenter, tmp_path / "log.txt", index_of={3: 1, 1: 2, 2: 3})

    assert score.dice == {"liver": 1.0, "lesion": 1.0, "kidney": 1.0}


def test_a_label_that_the_dataset_lacks_is_background():
    values = predicted_values(slabs(1, 2, 7), {2: 1})

    assert np.array_equal(values, slabs(0, 1, 0))


def test_indices_that_trade_places_are_not_mixed_up():
    values = predicted_values(slabs(1, 2, 3), {1: 2, 2: 3, 3: 1})

    assert np.array_equal(values, slabs(2, 3, 1))


def test_without_other_numbers_the_segmentation_is_as_it_was():
    written = slabs(1, 2, 3)

    assert predicted_values(written) is written
