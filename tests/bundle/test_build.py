"""The model folder: what is in it, and what is not."""

from __future__ import annotations

import platform
import shutil
from dataclasses import replace

import pytest
import torch
from tiny_model import CPU, make_facts, make_parts, make_plans, make_weights

from nnunet_medseg.bundle.build import build_model
from nnunet_medseg.bundle.manifest import read_manifest
from nnunet_medseg.errors import ModelError
from nnunet_medseg.files import hash_file, read_json
from nnunet_medseg.nnunet.inference import Segmenter, read_model
from nnunet_medseg.nnunet.weights import read_checkpoint, write_checkpoint

CHECKPOINT = "fold_0/checkpoint_final.pth"


def files_in(folder) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def test_the_folder_holds_what_stock_nnunet_reads_and_the_manifest(built):
    assert files_in(built.model) == [
        "dataset.json",
        CHECKPOINT,
        "manifest.json",
        "plans.json",
    ]
    assert read_json(built.model / "plans.json") == make_plans()


def test_the_checkpoint_loads_with_the_restricted_unpickler_of_torch(built):
    content = torch.load(built.model / CHECKPOINT, weights_only=True)

    assert content["trainer_name"] == "nnUNetTrainer"
    assert content["init_args"] == {"configuration": "3d_fullres"}
    assert content["inference_allowed_mirroring_axes"] == (0, 1, 2)
    for name, tensor in make_weights().items():
        assert torch.equal(content["network_weights"][name], tensor)


def test_the_state_of_the_optimizer_is_left_out(built):
    content = torch.load(built.model / CHECKPOINT, weights_only=True)

    assert set(content) == {
        "network_weights",
        "trainer_name",
        "init_args",
        "inference_allowed_mirroring_axes",
    }


def test_no_file_names_a_path_a_machine_a_patient_or_a_case(built):
    secrets = ["Miller", "/tmp", "/home", "phantom_", "case_", "optimizer"]
    if len(platform.node()) > 3:
        secrets.append(platform.node())

    for name in files_in(built.model):
        content = (built.model / name).read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], name


def test_the_manifest_has_the_hash_of_every_other_file(built):
    manifest = read_manifest(built.model)

    assert manifest.files == {
        name: hash_file(built.model / name)
        for name in files_in(built.model)
        if name != "manifest.json"
    }


def test_the_manifest_has_the_facts_versions_and_the_stock_command(built):
    manifest = read_manifest(built.model)

    assert manifest.evaluation.mean_dice == 0.85
    assert manifest.training.iterations == 1200
    assert manifest.configuration == "3d_fullres"
    assert {"python", "torch", "nnunetv2"} <= set(manifest.versions)
    assert "-m MODEL -f 0 -device cpu" in manifest.stock_command


def test_a_model_of_two_folds_has_the_weights_of_each_and_is_one_command_of_stock_nnunet(ensemble):
    manifest = read_manifest(ensemble.model)
    files = [f"fold_{fold}/checkpoint_final.pth" for fold in (0, 1)]

    assert files_in(ensemble.model) == ["dataset.json", *files, "manifest.json", "plans.json"]
    assert set(files) < set(manifest.files)
    assert "-m MODEL -f 0 1 -device cpu" in manifest.stock_command
    for seed, name in enumerate(files):
        weights = torch.load(ensemble.model / name, weights_only=True)["network_weights"]
        for key, tensor in make_weights(seed).items():
            assert torch.equal(weights[key], tensor)


def test_our_own_reader_takes_every_fold_of_a_model_in_order(ensemble):
    model = read_model(ensemble.model)

    assert len(model.weights) == 2
    for seed, weights in enumerate(model.weights):
        assert all(torch.equal(weights[key], value) for key, value in make_weights(seed).items())


@pytest.mark.parametrize("axes", [None, (), []])
def test_no_mirror_axes_are_written_as_none(tmp_path, axes):
    parts = make_parts()
    checkpoint = {**parts.checkpoints["0"], "mirror_axes": axes}
    parts = replace(parts, checkpoints={"0": checkpoint})

    build_model(tmp_path / "model", parts, make_facts())

    content = torch.load(tmp_path / "model" / CHECKPOINT, weights_only=True)
    assert content["inference_allowed_mirroring_axes"] is None


def test_a_folder_that_exists_is_not_built_into(tmp_path):
    build_model(tmp_path / "model", make_parts(), make_facts())

    with pytest.raises(FileExistsError):
        build_model(tmp_path / "model", make_parts(), make_facts())


def test_our_own_reader_takes_the_model(built):
    model = read_model(built.model)

    assert model.configuration == "3d_fullres"
    assert model.mirror_axes == (0, 1, 2)
    assert len(model.weights) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"init_args": None},
        {"init_args": ["3d_fullres"]},
        {"init_args": {"configuration": 3}},
        {"inference_allowed_mirroring_axes": (0, 7)},
        {"inference_allowed_mirroring_axes": 2},
        {"inference_allowed_mirroring_axes": "os"},
    ],
    ids=str,
)
def test_a_checkpoint_that_does_not_say_how_it_was_trained_is_refused(built, tmp_path, change):
    folder = tmp_path / "model"
    shutil.copytree(built.model, folder)
    content = read_checkpoint(folder / CHECKPOINT)
    write_checkpoint(folder / CHECKPOINT, content | change)

    with pytest.raises(ModelError, match="does not say how its weights were trained"):
        read_model(folder)


@pytest.mark.parametrize("name", ["plans.json", "dataset.json", CHECKPOINT])
def test_a_model_folder_without_one_of_its_files_is_refused(built, tmp_path, name):
    shutil.copytree(built.model, tmp_path / "model")
    (tmp_path / "model" / name).unlink()

    with pytest.raises(ModelError):
        read_model(tmp_path / "model")


def test_weights_that_do_not_fit_the_plans_are_refused(built):
    model = read_model(built.model)
    (weights,) = model.weights
    name = next(iter(weights))
    wrong = {**weights, name: torch.zeros(1)}

    with pytest.raises(ModelError, match="do not fit the network"):
        Segmenter(replace(model, weights=(wrong,)), CPU)
