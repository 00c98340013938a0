"""The one model in the folder that the user names."""

from __future__ import annotations

import pytest

from nnunet_medseg.bundle.locate import find_model
from nnunet_medseg.errors import ModelError


def make_model(folder):
    """Make what a model folder is recognised by."""
    folder.mkdir(parents=True)
    (folder / "plans.json").touch()
    return folder


@pytest.mark.parametrize("place", [".", "model", "Liver/model"])
def test_the_model_is_found_up_to_two_folders_down(tmp_path, place):
    made = make_model(tmp_path / "named" / place)

    found = find_model(tmp_path / "named")

    assert found.samefile(made)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ModelError, match="missing does not exist"):
        find_model(tmp_path / "missing")


def test_a_folder_without_a_model_is_refused(tmp_path):
    make_model(tmp_path / "far" / "too" / "deep")

    with pytest.raises(ModelError, match="found: none"):
        find_model(tmp_path)


def test_several_models_are_all_named(tmp_path):
    make_model(tmp_path / "Liver" / "model")
    make_model(tmp_path / "Lung" / "model")

    with pytest.raises(ModelError, match=r"found: Liver/model, Lung/model"):
        find_model(tmp_path)
