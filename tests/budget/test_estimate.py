"""Expected times and the limit of evaluation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnunet_medseg.budget.estimate import Workload, evaluation_limit_s, expected_s

WORK = Workload(cases=40, megavoxels=4.0, evaluated=12, cores=2)


def test_training_is_expected_to_take_little_more_than_the_time_asked_for():
    assert 600 < expected_s("train", WORK, training_s=600.0) < 630


@pytest.mark.parametrize("stage", ["convert", "plan", "preprocess", "clean"])
def test_more_voxels_take_longer_and_more_cores_take_less(stage):
    usual = expected_s(stage, WORK, 600.0)
    larger = expected_s(stage, replace(WORK, megavoxels=400.0), 600.0)
    faster = expected_s(stage, replace(WORK, cores=16), 600.0)

    assert faster < usual < larger


@pytest.mark.parametrize("stage", ["check", "evaluate"])
def test_no_time_is_named_for_a_stage_that_nobody_can_tell(stage):
    assert expected_s(stage, WORK, 600.0) is None


@pytest.mark.parametrize(
    ("training_s", "limit_s"), [(30.0, 120.0), (240.0, 120.0), (600.0, 300.0), (86400.0, 43200.0)]
)
def test_evaluation_may_take_two_minutes_or_half_of_the_training(training_s, limit_s):
    assert evaluation_limit_s(training_s) == limit_s
