"""The recipe for a number of steps."""

from __future__ import annotations

import json
from dataclasses import replace

from nnunet_medseg.budget.recipe import (
    LONG_STEPS,
    Recipe,
    choose_fine_tuning,
    choose_recipe,
)


def test_short_trainings_do_not_mirror_and_long_ones_do():
    assert not choose_recipe(LONG_STEPS - 1).mirroring
    assert choose_recipe(LONG_STEPS).mirroring


def test_short_trainings_begin_with_smaller_patches():
    assert 0 < choose_recipe(500).growth < 1
    assert choose_recipe(LONG_STEPS).growth == choose_fine_tuning(500).growth == 0


def test_short_trainings_take_orthogonal_steps_and_others_those_of_sgd():
    assert choose_recipe(LONG_STEPS - 1).optimizer == "muon"
    assert choose_fine_tuning(LONG_STEPS - 1).optimizer == "muon"
    assert choose_recipe(LONG_STEPS).optimizer == choose_fine_tuning(LONG_STEPS).optimizer == "sgd"


def test_long_trainings_and_those_from_a_model_have_the_weight_decay_of_nnunet():
    assert choose_recipe(500).weight_decay > choose_recipe(LONG_STEPS).weight_decay == 3e-5
    assert choose_fine_tuning(500).weight_decay == 3e-5


def test_a_recipe_comes_back_from_a_file():
    recipe = choose_recipe(100)

    assert Recipe(**json.loads(json.dumps(recipe.to_json()))) == recipe


def test_the_rate_of_a_training_from_a_model_rises_more_slowly():
    scratch, tuned = choose_recipe(500), choose_fine_tuning(500)

    assert tuned.warm_up_share > scratch.warm_up_share
    differing = ("warm_up_share", "growth", "weight_decay")
    other = {name: getattr(scratch, name) for name in differing}
    assert replace(tuned, **other) == scratch


def test_a_long_training_from_a_model_has_a_lower_rate():
    assert choose_fine_tuning(LONG_STEPS).peak_rate < choose_recipe(LONG_STEPS).peak_rate


def test_long_trainings_from_a_model_mirror_too():
    assert not choose_fine_tuning(LONG_STEPS - 1).mirroring
    assert choose_fine_tuning(LONG_STEPS).mirroring
