"""Models to start from: every form that is accepted, and every harmful one that is not."""

from __future__ import annotations

import shutil
import zipfile
from copy import deepcopy
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import (
    FINAL,
    FULLRES,
    Program,
    build_network,
    endless_plans,
    explosive_plans,
    plans_of,
    stock_checkpoint,
    write_stock_folder,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_model import DESCRIPTION, make_facts, make_parts, make_plans

from nnunet_medseg.bundle.build import build_model
from nnunet_medseg.errors import ModelError
from nnunet_medseg.files import read_json, write_json
from nnunet_medseg.nnunet import pretrained
from nnunet_medseg.nnunet.pretrained import Source, read_source

CHOSEN = ("configurations", "3d_fullres")
NETWORK = (*CHOSEN, "architecture")
KEYWORDS = (*NETWORK, "arch_kwargs")


def zip_folder(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for file in sorted(folder.rglob("*")):
            made.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def has_seed(source: Source, seed: int) -> bool:
    expected = build_network(plans_of(), seed=seed).state_dict()
    same = (torch.equal(source.weights[name], expected[name]) for name in expected)
    return source.weights.keys() == expected.keys() and all(same)


def write_checkpoint_of(folder: Path, **changes: Any) -> Path:
    """Write a checkpoint of stock nnU-Net with other entries."""
    path = folder / "fold_0" / FINAL
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(stock_checkpoint(plans_of()) | changes, path)
    return path


# --- the forms of a model ----------------------------------------------------------------------


def test_a_model_folder_of_ours_is_read(tmp_path):
    folder = tmp_path / "Phantom" / "model"
    folder.parent.mkdir()
    build_model(folder, make_parts(), make_facts())

    for path in (folder, folder.parent):
        source = read_source(path, tmp_path / "scratch")

        assert source.folder_name == "Phantom"
        assert source.configuration == "3d_fullres"
        assert source.plans == make_plans()
        assert source.description["labels"] == DESCRIPTION["labels"]
        assert source.mirror_axes == (0, 1, 2)
        assert source.checkpoint == folder / "fold_0" / FINAL
        assert source.note == f"the weights of fold_0, from {FINAL}"
    assert not (tmp_path / "scratch").exists()


def test_a_results_folder_of_stock_nnunet_is_read(tmp_path):
    folder = write_stock_folder(tmp_path / "Dataset004_Hippocampus" / FULLRES)

    for path in (folder, folder.parent, tmp_path):
        source = read_source(path, tmp_path / "scratch")

        assert source.folder_name == FULLRES
        assert source.mirror_axes == (0, 1)
        assert has_seed(source, 0)


@pytest.mark.parametrize(
    ("files", "chosen", "note"),
    [
        ([f"fold_{number}/{FINAL}" for number in range(5)], 0, "fold_0, one of 5 folds, from"),
        ([f"fold_3/{FINAL}", f"fold_10/{FINAL}"], 0, "fold_3, one of 2 folds, from"),
        ([f"fold_0/{FINAL}", f"fold_all/{FINAL}"], 1, "fold_all, one of 2 folds, from"),
        (["fold_0/checkpoint_best.pth", f"fold_0/{FINAL}"], 1, f"fold_0, from {FINAL}"),
        (
            ["fold_0/checkpoint_latest.pth", "fold_0/checkpoint_best.pth"],
            1,
            "from checkpoint_best.pth, since there is no checkpoint_final.pth",
        ),
        (["fold_2/checkpoint_latest.pth"], 0, "fold_2, from checkpoint_latest.pth, since"),
        ([f"fold_0/{FINAL}", f"fold_0_old/{FINAL}"], 0, f"the weights of fold_0, from {FINAL}"),
    ],
)
def test_the_fold_and_the_checkpoint_are_chosen_and_told(tmp_path, files, chosen, note):
    folder = write_stock_folder(tmp_path / FULLRES, files)

    source = read_source(folder, tmp_path / "scratch")

    assert source.checkpoint == folder / files[chosen]
    assert has_seed(source, chosen)
    assert note in source.note


def test_a_checkpoint_alone_holds_all_that_is_needed(tmp_path):
    path = write_checkpoint_of(tmp_path).rename(tmp_path / "checkpoint_best.pth")

    source = read_source(path, tmp_path / "scratch")

    assert source.folder_name == "checkpoint_best.pth"
    assert source.plans == plans_of()
    assert source.checkpoint == path
    assert has_seed(source, 0)


def test_a_checkpoint_of_ours_has_its_plans_two_folders_up(tmp_path):
    build_model(tmp_path / "model", make_parts(), make_facts())

    source = read_source(tmp_path / "model" / "fold_0" / FINAL, tmp_path / "scratch")

    assert source.plans == make_plans()


def test_a_zip_of_each_kind_of_folder_is_read(tmp_path):
    stock = write_stock_folder(tmp_path / "stock" / FULLRES)
    build_model(tmp_path / "Phantom" / "model", make_parts(), make_facts())
    zips = {
        zip_folder(stock, tmp_path / "flat.zip"): "flat",
        zip_folder(stock, tmp_path / "named.ZIP", f"Dataset004/{FULLRES}/"): FULLRES,
        zip_folder(stock, tmp_path / "deep.zip", f"results/Dataset004/{FULLRES}/"): FULLRES,
        zip_folder(tmp_path / "Phantom", tmp_path / "ours.zip"): "ours",
        zip_folder(tmp_path / "Phantom", tmp_path / "whole.zip", "Phantom/"): "Phantom",
    }

    for path, name in zips.items():
        source = read_source(path, tmp_path / "scratch")

        assert source.folder_name == name
        assert source.checkpoint.is_relative_to(tmp_path / "scratch")
    assert not list((tmp_path / "scratch").rglob("debug.json"))


def test_a_zip_that_nnunet_exported_is_read(tmp_path, monkeypatch):
    from nnunetv2.model_sharing.model_export import export_pretrained_model

    files = [f"fold_{number}/{FINAL}" for number in range(2)]
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    write_stock_folder(tmp_path / "results" / "Dataset004_Hippocampus" / FULLRES, files)
    path = tmp_path / "exported.zip"
    export_pretrained_model(
        "Dataset004_Hippocampus", str(path), ("3d_fullres",), folds=(0, 1), strict=False
    )

    source = read_source(path, tmp_path / "scratch")

    assert source.folder_name == FULLRES
    assert "one of 2 folds" in source.note
    assert has_seed(source, 0)


def test_two_readings_of_one_zip_do_not_meet(tmp_path):
    path = zip_folder(write_stock_folder(tmp_path / FULLRES), tmp_path / "model.zip")

    first, second = (read_source(path, tmp_path / "scratch") for _ in range(2))

    assert first.checkpoint != second.checkpoint


# --- where there is no one model ---------------------------------------------------------------


def test_several_models_are_listed(tmp_path):
    for name in (FULLRES, "nnUNetTrainer__nnUNetPlans__2d"):
        write_stock_folder(tmp_path / "results" / "Dataset004" / name)
    path = zip_folder(tmp_path / "results", tmp_path / "models.zip")

    for place in (tmp_path / "results", path):
        with pytest.raises(ModelError, match=f"2 models in .*__2d, Dataset004/{FULLRES}.*Name one"):
            read_source(place, tmp_path / "scratch")


def test_a_model_without_weights_beside_a_whole_one_does_not_disturb(tmp_path):
    write_stock_folder(tmp_path / "Dataset004" / FULLRES)
    write_stock_folder(tmp_path / "Dataset004" / "nnUNetTrainer__nnUNetPlans__2d", files=())

    assert read_source(tmp_path / "Dataset004", tmp_path / "scratch").folder_name == FULLRES


@pytest.mark.parametrize("name", ["missing", "missing.zip", "notes.txt", "model.onnx", "empty"])
def test_what_is_no_model_is_told_what_is_accepted(tmp_path, name):
    (tmp_path / "empty").mkdir()
    for file in ("notes.txt", "model.onnx"):
        (tmp_path / file).write_text("nothing", encoding="utf-8")

    with pytest.raises(ModelError, match="or a zip of such a folder"):
        read_source(tmp_path / name, tmp_path / "scratch")


def test_a_folder_without_weights_says_so(tmp_path):
    folder = write_stock_folder(tmp_path / FULLRES, files=())

    with pytest.raises(ModelError, match="no weights"):
        read_source(folder, tmp_path / "scratch")


def test_a_zip_without_a_model_says_so(tmp_path):
    write_json(tmp_path / "debug.json", {})
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.write(tmp_path / "debug.json", "debug.json")

    with pytest.raises(ModelError, match=r"no model in model: no plans\.json"):
        read_source(path, tmp_path / "scratch")


# --- plans -------------------------------------------------------------------------------------


def changed(content: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    copy = deepcopy(content)
    reduce(lambda part, key: part[key], place[:-1], copy)[place[-1]] = value
    return copy


def write_with_plans(folder: Path, plans: Any) -> Path:
    """Write a good stock folder and put other plans into it."""
    write_stock_folder(folder)
    write_json(folder / "plans.json", plans)
    return folder


def test_what_a_configuration_inherits_is_resolved_and_the_others_are_dropped(tmp_path):
    plans = plans_of()
    whole = plans["configurations"]["3d_fullres"]
    plans["configurations"] = {
        "2d": {"batch_size": 12},
        "base": whole | {"batch_size": 7, "patch_size": [32, 32, 32]},
        "middle": {"inherits_from": "base", "patch_size": [16, 16, 16]},
        "3d_fullres": {"inherits_from": "middle", "batch_size": 3, "next_stage": "cascade"},
    }
    folder = write_with_plans(tmp_path / FULLRES, plans)

    source = read_source(folder, tmp_path / "scratch")

    assert source.plans["configurations"] == {"3d_fullres": whole | {"batch_size": 3}}


def test_entries_that_nnunet_does_not_read_are_not_passed_on(tmp_path):
    plans = plans_of() | {"pretrain_info": {"checkpoint_path": "/home/anna/model.pth"}}
    description = DESCRIPTION | {"dataset": {"case": {"images": ["$HOME/x.nii"]}}, "name": "Anna"}
    folder = write_stock_folder(tmp_path / FULLRES, plans=plans, description=description)

    source = read_source(folder, tmp_path / "scratch")

    assert "pretrain_info" not in source.plans
    assert set(source.description) == {"channel_names", "labels", "file_ending", "numTraining"}


@pytest.mark.parametrize(
    "configurations",
    [
        {"3d_fullres": {"inherits_from": "3d_fullres"}},
        {"3d_fullres": {"inherits_from": "b"}, "b": {"inherits_from": "3d_fullres"}},
        {"3d_fullres": {"inherits_from": "missing"}},
        {"3d_fullres": {"inherits_from": ["3d_fullres"]}},
        {"3d_fullres": {"inherits_from": None}},
        {"3d_fullres": "2d"},
        {"2d": {}},
        ["3d_fullres"],
        None,
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_resolved_is_refused(tmp_path, configurations):
    plans = plans_of() | {"configurations": configurations}

    with pytest.raises(ModelError, match="plans are not accepted"):
        read_source(write_with_plans(tmp_path / FULLRES, plans), tmp_path / "scratch")


def test_the_second_stage_of_a_cascade_is_refused(tmp_path):
    plans = changed(plans_of(), (*CHOSEN, "previous_stage"), "3d_lowres")

    with pytest.raises(ModelError, match="second stage of a cascade"):
        read_source(write_with_plans(tmp_path / FULLRES, plans), tmp_path / "scratch")


def test_plans_of_the_older_format_are_refused_in_plain_words(tmp_path):
    plans = plans_of()
    chosen = plans["configurations"]["3d_fullres"]
    del chosen["architecture"]
    chosen |= {"UNet_class_name": "PlainConvUNet", "UNet_base_num_features": 32}

    with pytest.raises(ModelError, match=r"before 2\.4.*Retrain it"):
        read_source(write_with_plans(tmp_path / FULLRES, plans), tmp_path / "scratch")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((*NETWORK, "network_class_name"), "os.system"),
        ((*NETWORK, "network_class_name"), "builtins.eval"),
        ((*NETWORK, "_kw_requires_import"), ["conv_op", "builtins.eval"]),
        ((*KEYWORDS, "nonlin"), "builtins.eval"),
        ((*KEYWORDS, "conv_op"), "os.system"),
        ((*KEYWORDS, "n_blocks_per_stage"), [1, 1, 1]),
        ((*KEYWORDS, "norm_op_kwargs"), {"unknown": 1}),
        ((*KEYWORDS, "strides"), [[1, 1, 1], [3, 3, 3], [2, 2, 2]]),
        ((*KEYWORDS, "kernel_sizes"), [[2, 2, 2], [3, 3, 3], [3, 3, 3]]),
        ((*CHOSEN, "patch_size"), [4096, 4096, 4096]),
        ((*CHOSEN, "patch_size"), [10**400, 1, 1]),
        ((*CHOSEN, "spacing"), [10**400, 1, 1]),
        ((*CHOSEN, "spacing"), ["1.5", 1.5, 1.5]),
        ((*CHOSEN, "data_identifier"), "../../elsewhere"),
        ((*CHOSEN, "data_identifier"), "/etc"),
        ((*CHOSEN, "normalization_schemes"), {"CTNormalization": 0}),
        ((*CHOSEN, "normalization_schemes"), ["CTNormalization", "CTNormalization"]),
        ((*CHOSEN, "use_mask_for_norm"), []),
        ((*CHOSEN, "use_mask_for_norm"), ["no"]),
        ((*CHOSEN, "batch_dice"), None),
        (("dataset_name",), "../Dataset001"),
        (("plans_name",), 3),
        (("foreground_intensity_properties_per_channel",), {}),
        (("foreground_intensity_properties_per_channel",), {"0": {"mean": "high"}}),
        (("image_reader_writer",), "os.system"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else str(value)[:30],
)
def test_harmful_or_impossible_plans_are_refused(tmp_path, place, value):
    plans = changed(plans_of(), place, value)

    with pytest.raises(ModelError, match="plans are not accepted"):
        read_source(write_with_plans(tmp_path / FULLRES, plans), tmp_path / "scratch")


def test_a_network_of_one_stage_which_has_no_output_is_refused(tmp_path):
    plans = plans_of()
    network = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    network |= {"n_stages": 1, "n_conv_per_stage_decoder": []}
    for name in ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage"):
        network[name] = network[name][:1]

    with pytest.raises(ModelError, match="no network can be built"):
        read_source(write_with_plans(tmp_path / FULLRES, plans), tmp_path / "scratch")


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\udcff", "[1]", "null", "1" * 5000])
def test_texts_that_are_no_tables_are_refused(tmp_path, name, text):
    folder = write_stock_folder(tmp_path / FULLRES)
    (folder / name).write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(ModelError):
        read_source(folder, tmp_path / "scratch")


def test_texts_larger_than_any_plans_are_not_read(tmp_path):
    folder = write_stock_folder(tmp_path / FULLRES)
    with (folder / "plans.json").open("wb") as stream:
        stream.truncate(pretrained.MAX_TEXT_BYTES + 1)

    with pytest.raises(ModelError, match="larger than 16 MB"):
        read_source(folder, tmp_path / "scratch")


def test_a_missing_description_is_named(tmp_path):
    folder = write_stock_folder(tmp_path / FULLRES)
    (folder / "dataset.json").unlink()

    with pytest.raises(ModelError, match=r"no file .*dataset\.json"):
        read_source(folder, tmp_path / "scratch")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "segments regions"),
        ({"labels": {"background": 0, "a": 1, "b": 2, "c": 3, "ignore": 4}}, "an ignore label"),
        ({"labels": {"nothing": 0, "a": 1, "b": 2, "c": 3}}, "not called background"),
        ({"labels": [["background", 0], ["a", 1]]}, "no labels"),
        ({"channel_names": {"1": "CT"}}, "not numbered from 0"),
        ({"channel_names": {"0": 3}}, "no text"),
        ({"channel_names": {"0": "CT", "1": "PET"}}, "plans are not accepted"),
        ({"labels": {"background": 0, "a": 1}}, "do not fit the network"),
    ],
    ids=str,
)
def test_labels_and_channels_that_are_not_accepted_are_told(tmp_path, change, message):
    folder = write_stock_folder(tmp_path / FULLRES)
    write_json(folder / "dataset.json", DESCRIPTION | change)

    with pytest.raises(ModelError, match=message):
        read_source(folder, tmp_path / "scratch")


# --- checkpoints -------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["network_weights", "init_args", "logging"])
def test_a_program_in_a_checkpoint_is_not_run(tmp_path, place):
    trace = tmp_path / "trace"
    path = write_checkpoint_of(tmp_path, **{place: Program(trace)})
    write_json(tmp_path / "plans.json", plans_of())
    write_json(tmp_path / "dataset.json", DESCRIPTION)

    for form in (path, tmp_path, zip_folder(path.parents[1], tmp_path.parent / "program.zip")):
        with pytest.raises(ModelError, match="not a checkpoint that can be read safely"):
            read_source(form, tmp_path / "scratch")

    assert not trace.exists()


@pytest.mark.parametrize(
    "plans",
    [
        endless_plans(),
        explosive_plans(),
        explosive_plans(depth=150),
        explosive_plans(width=1),
        plans_of() | {"tensor": torch.zeros(2)},
        {(1, 2): 3},
        {},
    ],
    ids=["endless", "explosive", "deep", "narrow", "tensor", "tuple", "empty"],
)
def test_plans_in_a_checkpoint_that_json_could_not_hold_are_refused(tmp_path, plans):
    arguments = {"plans": plans, "configuration": "3d_fullres", "dataset_json": DESCRIPTION}

    with pytest.raises(ModelError, match="plans"):
        read_source(write_checkpoint_of(tmp_path, init_args=arguments), tmp_path / "scratch")


@pytest.mark.parametrize(
    "arguments", [None, [], {}, {"configuration": 3}, {"configuration": ["2d"]}]
)
def test_a_checkpoint_that_does_not_name_its_configuration_is_refused(tmp_path, arguments):
    path = write_checkpoint_of(tmp_path, init_args=arguments)

    with pytest.raises(ModelError, match="does not say which configuration"):
        read_source(path, tmp_path / "scratch")


@pytest.mark.parametrize("axes", ["xyz", [3], [-1], [True], torch.zeros(3), {"0": 1}, 1])
def test_axes_that_images_do_not_have_are_refused(tmp_path, axes):
    path = write_checkpoint_of(tmp_path, inference_allowed_mirroring_axes=axes)

    with pytest.raises(ModelError, match="axes"):
        read_source(path, tmp_path / "scratch")


@pytest.mark.parametrize("axes", [None, (), []])
def test_no_axes_are_none(tmp_path, axes):
    path = write_checkpoint_of(tmp_path, inference_allowed_mirroring_axes=axes)

    assert read_source(path, tmp_path / "scratch").mirror_axes is None


def weights_with(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    return build_network(plans_of()).state_dict() | {name: tensor}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (weights_with("decoder.seg_layers.0.bias", torch.full((4,), torch.nan)), "not finite"),
        (weights_with("decoder.seg_layers.0.bias", torch.full((4,), torch.inf)), "not finite"),
        (weights_with("decoder.seg_layers.0.bias", torch.zeros(4, dtype=torch.int)), "floating"),
        (weights_with("decoder.seg_layers.0.bias", torch.zeros(5)), "do not fit the network"),
        (weights_with("more", torch.zeros(1)), "do not fit the network"),
        ({}, "do not fit the network"),
    ],
)
def test_weights_that_are_not_those_of_the_network_are_refused(tmp_path, weights, message):
    path = write_checkpoint_of(tmp_path, network_weights=weights)

    with pytest.raises(ModelError, match=message):
        read_source(path, tmp_path / "scratch")


def test_the_trainer_that_built_another_network_is_named(tmp_path):
    weights = weights_with("encoder.norm.running_mean", torch.zeros(1))
    path = write_checkpoint_of(tmp_path, network_weights=weights, trainer_name="nnUNetTrainerBN")

    with pytest.raises(ModelError, match="trained by 'nnUNetTrainerBN'"):
        read_source(path, tmp_path / "scratch")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_zip_of_a_model_is_refused_or_read(tmp_path, data):
    good = tmp_path / "good.zip"
    if not good.exists():
        zip_folder(write_stock_folder(tmp_path / FULLRES), good)
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.zip"
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])

    try:
        source = read_source(path, tmp_path / "scratch")
    except ModelError:
        pass
    else:
        assert has_seed(source, 0)
    shutil.rmtree(tmp_path / "scratch", ignore_errors=True)
    assert read_json(tmp_path / FULLRES / "plans.json") == plans_of()
