"""nnU-Net's plans: a checked view of them.

Plans are half a program: they name classes that nnU-Net imports and calls, and sizes that it
allocates. Nothing is built from plans that have not passed `check_plans`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nnunet_medseg.errors import ModelError

__all__ = ["check_description", "check_plans"]

ARCHITECTURES = {
    f"dynamic_network_architectures.architectures.{place}"
    for place in ("unet.PlainConvUNet", "unet.ResidualEncoderUNet")
}
OPERATIONS = {
    "torch.nn.modules.conv.Conv2d",
    "torch.nn.modules.conv.Conv3d",
    "torch.nn.modules.instancenorm.InstanceNorm2d",
    "torch.nn.modules.instancenorm.InstanceNorm3d",
    "torch.nn.LeakyReLU",
    "torch.nn.modules.activation.LeakyReLU",
    None,
}
NAMES = {
    "preprocessor_name": {"DefaultPreprocessor"},
    "resampling_fn_data": {"resample_data_or_seg_to_shape", "resample_torch_fornnunet"},
    "resampling_fn_seg": {"resample_data_or_seg_to_shape", "resample_torch_fornnunet"},
    "resampling_fn_probabilities": {"resample_data_or_seg_to_shape", "resample_torch_fornnunet"},
}
READERS = {"SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"}
NORMALIZATIONS = {
    "CTNormalization",
    "ZScoreNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
}
KEYWORDS = {
    "n_stages",
    "features_per_stage",
    "conv_op",
    "kernel_sizes",
    "strides",
    "n_conv_per_stage",
    "n_blocks_per_stage",
    "n_conv_per_stage_decoder",
    "conv_bias",
    "norm_op",
    "norm_op_kwargs",
    "dropout_op",
    "dropout_op_kwargs",
    "nonlin",
    "nonlin_kwargs",
    "deep_supervision",
}
# Far beyond what nnU-Net plans, far below what exhausts a machine.
MAX_STAGES, MAX_FEATURES, MAX_KERNEL, MAX_BLOCKS = 12, 2048, 9, 32
MAX_PATCH_VOXELS = 1024**3 // 4
MAX_BATCH, MAX_LABELS, MAX_CHANNELS = 4096, 1024, 256


def check_plans(plans: Mapping[str, Any], configuration: str) -> None:
    """Refuse plans that name unknown code or ask for absurd sizes.

    Raises:
        ModelError: Saying which entry is not accepted.
    """
    try:
        chosen = plans["configurations"][configuration]
        _one_of("image_reader_writer", plans["image_reader_writer"], READERS)
        _one_of("label_manager", plans.get("label_manager", "LabelManager"), {"LabelManager"})
        _permutations(plans)
        for key, allowed in NAMES.items():
            _one_of(key, chosen[key], allowed)
        for scheme in chosen["normalization_schemes"]:
            _one_of("normalization_schemes", scheme, NORMALIZATIONS)
        _check_sizes(chosen)
        _check_architecture(chosen["architecture"])
    except (KeyError, TypeError, AttributeError, ValueError) as cause:
        raise _refused("a missing or malformed entry", str(cause)) from cause


def _permutations(plans: Mapping[str, Any]) -> None:
    for key in ("transpose_forward", "transpose_backward"):
        if sorted(plans[key]) != [0, 1, 2]:
            raise _refused(key, plans[key])


def _check_sizes(chosen: Mapping[str, Any]) -> None:
    voxels = 1
    for size in _integers("patch_size", chosen["patch_size"], 1, 8192):
        voxels *= size
    if voxels > MAX_PATCH_VOXELS:
        raise _refused("patch_size", chosen["patch_size"])
    _integers("batch_size", [chosen["batch_size"]], 1, MAX_BATCH)
    for value in chosen["spacing"]:
        if not 1e-6 < float(value) < 1e4:
            raise _refused("spacing", chosen["spacing"])


def _check_architecture(architecture: Mapping[str, Any]) -> None:
    _one_of("network_class_name", architecture["network_class_name"], ARCHITECTURES)
    keywords = architecture["arch_kwargs"]
    for key in keywords:
        _one_of("arch_kwargs", key, KEYWORDS)
    for key in architecture["_kw_requires_import"]:
        _one_of(key, keywords[key], OPERATIONS)
    stages = _integers("n_stages", [keywords["n_stages"]], 1, MAX_STAGES)[0]
    features = _integers("features_per_stage", keywords["features_per_stage"], 1, MAX_FEATURES)
    if len(features) != stages:
        raise _refused("features_per_stage", features)
    for key in ("kernel_sizes", "strides"):
        for sizes in keywords[key]:
            _integers(key, sizes, 1, MAX_KERNEL)
    for key in ("n_conv_per_stage", "n_blocks_per_stage", "n_conv_per_stage_decoder"):
        if key in keywords:
            _integers(key, keywords[key], 1, MAX_BLOCKS)


def check_description(description: Mapping[str, Any]) -> None:
    """Refuse a dataset.json whose labels or channels are not plain.

    Raises:
        ModelError: Saying which entry is not accepted.
    """
    try:
        labels = dict(description["labels"])
        values = _integers("labels", labels.values(), 0, MAX_LABELS)
        channels = dict(description["channel_names"])
    except (KeyError, TypeError, ValueError, AttributeError) as cause:
        raise _refused("dataset.json", str(cause)) from cause
    if sorted(values) != list(range(len(values))) or not 1 <= len(channels) <= MAX_CHANNELS:
        raise _refused("dataset.json", f"labels {labels}, channels {channels}")


def _integers(key: str, values: Iterable[Any], low: int, high: int) -> list[int]:
    listed = list(values)
    for value in listed:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _refused(key, listed)
    return listed


def _one_of(key: str, value: Any, allowed: Iterable[Any]) -> None:
    if value not in allowed:
        raise _refused(key, value)


def _refused(key: str, value: Any) -> ModelError:
    shown = repr(value)[:120]
    problem = f"The model's plans are not accepted: {key} is {shown}."
    return ModelError(problem, fix="Use a model of this program or of stock nnU-Net v2, unchanged.")
