"""The manifest: written, read, and refused when it is damaged."""

from __future__ import annotations

import pytest
from tiny_model import make_facts

from nnunet_medseg.bundle.manifest import (
    INTENDED_USE,
    LabelFacts,
    Manifest,
    TrainedOnFacts,
    read_manifest,
    stock_command,
    write_manifest,
)
from nnunet_medseg.errors import ModelError
from nnunet_medseg.files import read_json, write_json


def make_manifest(**facts) -> Manifest:
    return Manifest(
        program="nnunet-medseg 0.1.0",
        versions={"torch": "2.13.0"},
        configuration="3d_fullres",
        stock_command=stock_command(["0"], "cpu"),
        stock_note="",
        files={"plans.json": "0" * 64},
        **(make_facts() | facts),
    )


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    write_manifest(tmp_path, make_manifest())

    assert read_manifest(tmp_path) == make_manifest()


def test_labels_keep_the_order_and_the_values_of_the_user(tmp_path):
    write_manifest(tmp_path, make_manifest())

    labels = read_manifest(tmp_path).labels

    assert [(label.name, label.value, label.index) for label in labels] == [
        ("liver", 1, 1),
        ("lesion", 5, 2),
        ("kidney", 3, 3),
    ]


def test_the_file_says_what_the_model_is_for_and_how_good_it_is(tmp_path):
    write_manifest(tmp_path, make_manifest())

    content = read_json(tmp_path / "manifest.json")

    assert content["intended_use"] == INTENDED_USE
    assert content["evaluation"]["mean_dice"] == 0.85
    assert content["evaluation"]["cases"] == 1
    assert content["training"]["asked_s"] == 600
    assert content["training"]["used_s"] == 601.5
    assert content["training"]["iterations"] == 1200


def test_a_model_of_stock_nnunet_has_no_manifest(tmp_path):
    assert read_manifest(tmp_path) is None


def test_an_older_manifest_counted_each_case_as_a_patient(tmp_path):
    measured = dict.fromkeys(LabelFacts.model_fields, 0.5) | {
        "cases": 2,
        "missed": 0,
        "invented": 0,
    }
    facts = make_facts()
    facts["evaluation"] = facts["evaluation"].model_copy(
        update={"measures": {"liver": LabelFacts.model_validate(measured | {"patients": 2})}}
    )
    facts["trained_on"] = TrainedOnFacts(fewest=1, mean=2, most=3, cases=3)
    write_manifest(tmp_path, make_manifest(**facts))
    content = read_json(tmp_path / "manifest.json")
    counts = [content["split"], content["evaluation"], content["trained_on"]]
    for part in (*counts, content["evaluation"]["measures"]["liver"]):
        for name in [name for name in part if name.endswith("patients")]:
            del part[name]
    write_json(tmp_path / "manifest.json", content)

    old = read_manifest(tmp_path)

    assert old == make_manifest(**facts)
    assert (old.split.train_patients, old.split.held_out_patients) == (3, 2)
    assert (old.evaluation.patients, old.evaluation.of_patients) == (1, 2)
    assert old.evaluation.measures["liver"].patients == 2
    assert old.trained_on.patients == 3
    assert not old.split.has_several_images


def test_a_manifest_that_lacks_the_count_of_cases_is_refused(tmp_path):
    write_manifest(tmp_path, make_manifest())
    content = read_json(tmp_path / "manifest.json")
    content["split"] = {"fold": "0"}
    write_json(tmp_path / "manifest.json", content)

    with pytest.raises(ModelError, match="cannot be read"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_damaged_manifest_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)

    with pytest.raises(ModelError, match="cannot be read"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("folds", "device", "end"),
    [
        (["all"], "cpu", "-f all -device cpu"),
        (["3"], "cuda", "-f 3 -device cuda"),
        (["0", "1", "2"], "cpu", "-f 0 1 2 -device cpu"),
    ],
)
def test_the_stock_command_names_every_fold_and_the_device(folds, device, end):
    command = stock_command(folds, device)

    assert command.startswith("nnUNetv2_predict_from_modelfolder -i ")
    assert command.endswith(end)
