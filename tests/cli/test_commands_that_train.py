"""What the commands that train hand over to the workflow."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from nnunet_medseg.cli.main import exe_train, main
from nnunet_medseg.errors import UsageError
from nnunet_medseg.workflows.options import TrainOptions

USAGE = 2


FIELDS = {field.name for field in fields(TrainOptions)}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the workflow is asked for; it trains nothing."""
    seen: dict[str, Any] = {}

    def train(*places: Path, **options: Any) -> None:
        seen.update(options, places=places)
        problem = "Nothing is trained here."
        raise UsageError(problem, fix="")

    monkeypatch.setattr("nnunet_medseg.workflows.train.train", train)
    return seen


def test_what_is_not_given_is_left_to_the_workflow(asked):
    assert main(["train", "in", "out"]) == USAGE

    assert asked["places"] == (Path("in"), Path("out"), Path(".medseg"))
    assert asked["fold"] == "all"
    assert not asked["delete_input"]
    assert not {"label", "image_type", "extension", "spacing", "pretrained"} & asked.keys()


@pytest.mark.parametrize("command", [["train", "in", "out"], ["vary", "--vary", "seed=1,2"]])
def test_every_option_is_one_of_a_training(asked, command):
    main(command)

    assert asked.keys() - FIELDS == {"places", "resume", "fresh", "ending"}


def test_what_is_given_has_the_names_of_the_workflow(asked):
    main(
        ["train", "in", "out", "-t", "5", "-e", ".mha", "-l", "1", "--no_key", "--batch_size", "3"]
    )

    assert (asked["minutes"], asked["extension"], asked["label"]) == ("5", ".mha", "1")
    assert (asked["key"], asked["batch_size"]) == (False, "3")


def test_the_command_beside_the_folders_deletes_its_copy(asked, tmp_path):
    exe_train(tmp_path, ["--keep_dataset", "-f", "cv"])

    assert asked["delete_input"]
    assert asked["keep_dataset"]
    assert asked["fold"] == "cv"
    assert asked["places"][0] == tmp_path / "Input_nnUNet_train"


def test_variants_make_a_grid_on_a_fold_that_holds_patients_out(asked):
    main(["vary", "--vary", "seed=1,2", "--vary", "mirroring=on,off", "-d", "Liver"])

    assert asked["vary"] == "seed=1,2 mirroring=on,off"
    assert asked["fold"] == "0"
    assert not asked["delete_input"]
    assert asked["places"][:2] == (Path("Input_nnUNet_train"), Path("Output_nnUNet_train"))


def test_variants_are_compared_on_the_fold_that_is_asked_for(asked):
    main(["vary", "--vary", "seed=1,2", "-f", "3", "--input", "in", "--output", "out"])

    assert asked["fold"] == "3"
    assert asked["places"][:2] == (Path("in"), Path("out"))


def test_nothing_to_vary_is_refused(asked, capsys):
    assert main(["vary"]) == USAGE

    assert "--vary" in capsys.readouterr().err
    assert asked == {}


def test_going_on_and_starting_again_contradict_each_other(asked, capsys):
    assert main(["train", "in", "out", "--resume", "--fresh"]) == USAGE

    assert "contradict" in capsys.readouterr().err
    assert asked == {}
