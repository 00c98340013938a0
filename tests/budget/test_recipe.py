"""The recipe for a number of steps."""

from __future__ import annotations

import json

from nnunet_medseg.budget.recipe import MIRRORING_STEPS, Recipe, choose_recipe


def test_short_trainings_do_not_mirror_and_long_ones_do():
    assert not choose_recipe(MIRRORING_STEPS - 1).mirroring
    assert choose_recipe(MIRRORING_STEPS).mirroring


def test_a_recipe_comes_back_from_a_file():
    recipe = choose_recipe(100)

    assert Recipe(**json.loads(json.dumps(recipe.to_json()))) == recipe
