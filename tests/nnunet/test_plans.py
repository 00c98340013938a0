"""Plans are accepted when they look like nnU-Net's, and refused when anything was changed."""

from __future__ import annotations

from copy import deepcopy
from functools import reduce
from typing import Any

import pytest
from tiny_model import DESCRIPTION, make_plans

from nnunet_medseg.errors import ModelError
from nnunet_medseg.nnunet.plans import channel_names, check_description, check_plans

CONFIGURATION = ("configurations", "3d_fullres")
KEYWORDS = (*CONFIGURATION, "architecture", "arch_kwargs")
CODE = "os.system"


def changed(plans: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Return a copy of the plans with another value at a place."""
    copy = deepcopy(plans)
    reduce(lambda part, key: part[key], place[:-1], copy)[place[-1]] = value
    return copy


def make_2d_plans() -> dict[str, Any]:
    plans = make_plans()
    chosen = plans["configurations"].pop("3d_fullres")
    chosen |= {"patch_size": [16, 16], "spacing": [1.5, 1.5]}
    chosen["architecture"]["arch_kwargs"] |= {
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "kernel_sizes": [[3, 3], [3, 3]],
        "strides": [[1, 1], [2, 2]],
    }
    return plans | {"configurations": {"2d": chosen}}


def test_plans_of_stock_nnunet_are_accepted():
    check_plans(make_plans(), "3d_fullres")


def test_plans_of_slices_are_accepted():
    check_plans(make_2d_plans(), "2d")


def test_plans_of_a_residual_encoder_are_accepted():
    plans = make_plans()
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    architecture["network_class_name"] = (
        "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    )
    keywords = architecture["arch_kwargs"]
    keywords["n_blocks_per_stage"] = keywords.pop("n_conv_per_stage")

    check_plans(plans, "3d_fullres")


def test_a_large_preset_is_accepted():
    plans = changed(make_plans(), (*CONFIGURATION, "patch_size"), [192, 192, 192])

    check_plans(plans, "3d_fullres")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("image_reader_writer",), CODE),
        (("image_reader_writer",), ["SimpleITKIO"]),
        (("label_manager",), CODE),
        (("transpose_forward",), [0, 1, 1]),
        (("transpose_forward",), [1, 0, 2]),
        (("transpose_backward",), [2, 1, 0]),
        (("configurations",), []),
        ((*CONFIGURATION, "preprocessor_name"), CODE),
        ((*CONFIGURATION, "resampling_fn_data"), CODE),
        ((*CONFIGURATION, "resampling_fn_seg"), CODE),
        ((*CONFIGURATION, "resampling_fn_probabilities"), CODE),
        ((*CONFIGURATION, "resampling_fn_data_kwargs"), {"order": 10**6}),
        ((*CONFIGURATION, "resampling_fn_data_kwargs"), {"order": CODE}),
        ((*CONFIGURATION, "resampling_fn_data_kwargs"), CODE),
        ((*CONFIGURATION, "normalization_schemes"), [CODE]),
        ((*CONFIGURATION, "normalization_schemes"), CODE),
        ((*CONFIGURATION, "patch_size"), [1024, 1024, 1024]),
        ((*CONFIGURATION, "patch_size"), [16, 16]),
        ((*CONFIGURATION, "patch_size"), [16] * 4),
        ((*CONFIGURATION, "patch_size"), [16, 16, 0]),
        ((*CONFIGURATION, "patch_size"), [16, 16, 16.5]),
        ((*CONFIGURATION, "patch_size"), [16, 16, True]),
        ((*CONFIGURATION, "batch_size"), 10**9),
        ((*CONFIGURATION, "batch_size"), -1),
        ((*CONFIGURATION, "spacing"), [0, 1, 1]),
        ((*CONFIGURATION, "spacing"), [1e-9, 1, 1]),
        ((*CONFIGURATION, "spacing"), [float("nan"), 1, 1]),
        ((*CONFIGURATION, "spacing"), [1, 1]),
        ((*CONFIGURATION, "architecture"), None),
        ((*CONFIGURATION, "architecture", "network_class_name"), CODE),
        ((*CONFIGURATION, "architecture", "network_class_name"), "torch.hub.load"),
        ((*CONFIGURATION, "architecture", "_kw_requires_import"), ["conv_op", "norm_op_kwargs"]),
        ((*CONFIGURATION, "architecture", "_kw_requires_import"), []),
        ((*KEYWORDS, "conv_op"), CODE),
        ((*KEYWORDS, "conv_op"), None),
        ((*KEYWORDS, "norm_op"), CODE),
        ((*KEYWORDS, "norm_op_kwargs"), {"device": "cuda"}),
        ((*KEYWORDS, "dropout_op"), CODE),
        ((*KEYWORDS, "nonlin"), "builtins.exec"),
        ((*KEYWORDS, "nonlin_kwargs"), {"inplace": CODE}),
        ((*KEYWORDS, "unknown"), 1),
        ((*KEYWORDS, "n_stages"), 50),
        ((*KEYWORDS, "n_stages"), 3),
        ((*KEYWORDS, "features_per_stage"), [4, 10**6]),
        ((*KEYWORDS, "features_per_stage"), [4, 8, 16]),
        ((*KEYWORDS, "features_per_stage"), 4),
        ((*KEYWORDS, "kernel_sizes"), [[3, 3, 3], [3, 3, 999]]),
        ((*KEYWORDS, "kernel_sizes"), [[3, 3, 3]] * 1000),
        ((*KEYWORDS, "kernel_sizes"), [[3, 3], [3, 3]]),
        ((*KEYWORDS, "strides"), [[1, 1, 1], [0, 2, 2]]),
        ((*KEYWORDS, "n_conv_per_stage"), [1, 1000]),
        ((*KEYWORDS, "n_conv_per_stage"), [1]),
        ((*KEYWORDS, "n_conv_per_stage_decoder"), [1, 1]),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else str(value)[:40],
)
def test_each_changed_entry_is_refused(place, value):
    plans = changed(make_plans(), place, value)

    with pytest.raises(ModelError, match="plans are not accepted"):
        check_plans(plans, "3d_fullres")


@pytest.mark.parametrize("configuration", ["2d", "None", ""])
def test_a_configuration_that_is_not_there_is_refused(configuration):
    with pytest.raises(ModelError):
        check_plans(make_plans(), configuration)


@pytest.mark.parametrize("plans", [{}, [], None, 7, "plans"])
def test_what_is_no_plans_is_refused(plans):
    with pytest.raises(ModelError):
        check_plans(plans, "3d_fullres")


def test_a_description_of_stock_nnunet_is_accepted():
    check_description(DESCRIPTION)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"background": 0}},
        {"labels": {"background": 0, "liver": 2}},
        {"labels": {"background": 0, "whole": [1, 2]}},
        {"labels": {"background": 0, "liver": "1"}},
        {"labels": {f"label_{value}": value for value in range(5000)}},
        {"labels": None},
        {"channel_names": {}},
        {"channel_names": {str(number): "CT" for number in range(1000)}},
        {"channel_names": 3},
    ],
    ids=str,
)
def test_a_description_that_is_not_plain_is_refused(change):
    with pytest.raises(ModelError):
        check_description(DESCRIPTION | change)


@pytest.mark.parametrize("description", [{}, [], None])
def test_what_is_no_description_is_refused(description):
    with pytest.raises(ModelError):
        check_description(description)


def test_channels_come_in_the_order_of_their_numbers():
    names = {str(number): f"image_{number}" for number in range(12)}
    description = {"channel_names": dict(sorted(names.items()))}

    assert channel_names(description) == tuple(names.values())


@pytest.mark.parametrize("order", [6, 1000, -6])
def test_an_order_of_resampling_that_scipy_does_not_have_is_refused(order):
    place = (*CONFIGURATION, "resampling_fn_data_kwargs")
    plans = changed(make_plans(), place, {"is_seg": False, "order": order})

    with pytest.raises(ModelError, match="resampling_fn_data_kwargs"):
        check_plans(plans, "3d_fullres")
