"""Plans of a model that a training starts from."""

from __future__ import annotations

import math

import pytest

from nnunet_medseg.workflows.stages.pretraining import _reason


@pytest.mark.parametrize(
    ("step_s", "words"),
    [
        (0.5, "about 480 steps of it fit into 5 min"),
        (
            math.inf,
            "it does not fit into the memory; in training the batch becomes smaller, then the "
            "patch",
        ),
    ],
    ids=["steps", "memory"],
)
def test_the_reason_tells_how_many_steps_of_a_models_plan_fit_or_that_it_is_too_large(
    step_s, words
):
    assert _reason(300.0, step_s) == f"the plan is the model's; {words}"
