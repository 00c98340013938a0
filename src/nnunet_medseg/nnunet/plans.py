"""nnU-Net's plans: a checked view of them.

Plans are half a program: they name classes that nnU-Net imports and calls, and sizes that it
allocates. Nothing is built from plans that have not passed `check_plans`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_medseg.errors import ModelError

__all__ = ["channel_names", "check_description", "check_plans", "naming", "reorients"]

ARCHITECTURES = {
    f"dynamic_network_architectures.architectures.{place}"
    for place in ("unet.PlainConvUNet", "unet.ResidualEncoderUNet")
}
# What stock plans name; they never use dropout.
OPERATIONS: dict[str, set[str | None]] = {
    "conv_op": {"torch.nn.modules.conv.Conv2d", "torch.nn.modules.conv.Conv3d"},
    "norm_op": {
        "torch.nn.modules.instancenorm.InstanceNorm2d",
        "torch.nn.modules.instancenorm.InstanceNorm3d",
    },
    "dropout_op": {None},
    "nonlin": {"torch.nn.LeakyReLU", "torch.nn.modules.activation.LeakyReLU"},
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
# Beyond what nnU-Net plans: its largest preset (ResEnc XL, 40 GB) stays below a quarter of that
# patch; and below what exhausts a machine, since 32 features of such a patch take 4 GiB.
MAX_STAGES, MAX_FEATURES, MAX_KERNEL, MAX_BLOCKS = 12, 2048, 9, 32
MAX_PATCH_VOXELS = 2**25
MAX_ARGUMENT = 1000  # of layers and of resampling
MAX_SPLINE_ORDER = 5  # of scipy.ndimage
MAX_BATCH, MAX_LABELS, MAX_CHANNELS = 4096, 1024, 256


@contextmanager
def naming(model: Path) -> Iterator[None]:
    """Let every refusal in this block name the model that the user has given."""
    try:
        yield
    except ModelError as cause:
        if str(model) in cause.problem:
            raise
        problem = f"{model}: {cause.problem}"
        raise ModelError(problem, fix=cause.fix) from cause


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
        _check_architecture(chosen["architecture"], len(chosen["patch_size"]))
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as cause:
        raise _refused("a missing or malformed entry", str(cause)) from cause


def _permutations(plans: Mapping[str, Any]) -> None:
    forward, backward = plans["transpose_forward"], plans["transpose_backward"]
    if sorted(forward) != [0, 1, 2]:
        raise _refused("transpose_forward", forward)
    if backward != [forward.index(axis) for axis in range(3)]:
        raise _refused("transpose_backward", backward)


def _check_sizes(chosen: Mapping[str, Any]) -> None:
    patch = _integers("patch_size", chosen["patch_size"], 1, 8192)
    if math.prod(patch) > MAX_PATCH_VOXELS or len(patch) not in {2, 3}:
        raise _refused("patch_size", patch)
    _integers("batch_size", [chosen["batch_size"]], 1, MAX_BATCH)
    spacing = [float(value) for value in chosen["spacing"]]
    if len(spacing) != len(patch) or not all(1e-6 < value < 1e4 for value in spacing):
        raise _refused("spacing", spacing)
    for key in NAMES:
        if key.startswith("resampling_fn"):
            _plain(f"{key}_kwargs", chosen[f"{key}_kwargs"])


def _check_architecture(architecture: Mapping[str, Any], dimensions: int) -> None:
    _one_of("network_class_name", architecture["network_class_name"], ARCHITECTURES)
    keywords = architecture["arch_kwargs"]
    for key in keywords:
        _one_of("arch_kwargs", key, KEYWORDS)
    # nnU-Net imports what these name; what it does not import it would call as a string.
    if set(architecture["_kw_requires_import"]) != set(OPERATIONS):
        raise _refused("_kw_requires_import", architecture["_kw_requires_import"])
    for key, allowed in OPERATIONS.items():
        _one_of(key, keywords[key], allowed)
        if key != "conv_op":
            _plain(f"{key}_kwargs", keywords[f"{key}_kwargs"])
    stages = _integers("n_stages", [keywords["n_stages"]], 1, MAX_STAGES)[0]
    _of_length(
        stages, _integers("features_per_stage", keywords["features_per_stage"], 1, MAX_FEATURES)
    )
    for key in ("kernel_sizes", "strides"):
        for sizes in _of_length(stages, keywords[key]):
            _of_length(dimensions, _integers(key, sizes, 1, MAX_KERNEL))
    blocks = "n_blocks_per_stage" if "n_blocks_per_stage" in keywords else "n_conv_per_stage"
    _of_length(stages, _integers(blocks, keywords[blocks], 1, MAX_BLOCKS))
    decoder = keywords["n_conv_per_stage_decoder"]
    _of_length(stages - 1, _integers("n_conv_per_stage_decoder", decoder, 1, MAX_BLOCKS))


def _of_length(length: int, values: Sequence[Any]) -> Sequence[Any]:
    if len(values) != length:
        raise _refused("one size a stage or axis", values)
    return values


def _plain(key: str, arguments: Any) -> None:
    for name, value in (arguments or {}).items():
        largest = MAX_SPLINE_ORDER if name.startswith("order") else MAX_ARGUMENT
        if value is not None and not (
            isinstance(value, (bool, int, float)) and abs(value) <= largest
        ):
            raise _refused(key, arguments)


def channel_names(description: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the channel names of a checked dataset.json in the order of their numbers.

    JSON keeps no order: with sorted keys, "10" comes before "2".
    """
    names = description["channel_names"]
    return tuple(str(names[key]) for key in sorted(names, key=int))


def reorients(plans: Mapping[str, Any]) -> bool:
    """Tell whether the reader of plans brings images to RAS; the others leave them as stored."""
    return str(plans["image_reader_writer"]).endswith("WithReorient")


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
    has_labels = len(values) > 1 and sorted(values) == list(range(len(values)))
    if not has_labels or not 1 <= len(channels) <= MAX_CHANNELS:
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
