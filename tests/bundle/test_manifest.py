"""The manifest: written, read, and refused when it is damaged."""

from __future__ import annotations

import pytest
from tiny_model import make_facts

from nnunet_medseg.bundle.manifest import (
    INTENDED_USE,
    Manifest,
    read_manifest,
    stock_command,
    write_manifest,
)
from nnunet_medseg.errors import ModelError
from nnunet_medseg.files import read_json


def make_manifest() -> Manifest:
    return Manifest(
        program="nnunet-medseg 0.1.0",
        versions={"torch": "2.13.0"},
        configuration="3d_fullres",
        stock_command=stock_command(["0"], "cpu"),
        stock_note="",
        files={"plans.json": "0" * 64},
        **make_facts(),
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
