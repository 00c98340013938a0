"""Models as stock nnU-Net leaves them: results folders, checkpoints and exported zips."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_model import DESCRIPTION, make_plans

from nnunet_medseg.files import write_json

FINAL = "checkpoint_final.pth"
FULLRES = "nnUNetTrainer__nnUNetPlans__3d_fullres"
PLACES = "dynamic_network_architectures.architectures.unet"


class Program:
    """Makes a file when it is unpickled in full."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (os.system, (f"touch {self.trace}",))


def plans_of(network: str = "PlainConvUNet", dimensions: int = 3) -> dict[str, Any]:
    """Return plans of a small network of either kind, of slices or volumes, as `3d_fullres`."""
    plans = make_plans()
    chosen = plans["configurations"]["3d_fullres"]
    keywords = chosen["architecture"]["arch_kwargs"]
    chosen["architecture"]["network_class_name"] = f"{PLACES}.{network}"
    # Three stages, so that training looks at two heads.
    keywords |= {"n_stages": 3, "features_per_stage": [4, 8, 8], "n_conv_per_stage_decoder": [1, 1]}
    keywords |= {
        "kernel_sizes": [[3] * dimensions] * 3,
        "strides": [[1] * dimensions, [2] * dimensions, [2] * dimensions],
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
    }
    blocks = "n_conv_per_stage" if network == "PlainConvUNet" else "n_blocks_per_stage"
    del keywords["n_conv_per_stage"]
    keywords[blocks] = [1, 1, 2]
    chosen |= {"patch_size": [16] * dimensions, "spacing": [1.5] * dimensions}
    return plans


def endless_plans() -> dict[str, Any]:
    """Return plans that hold themselves."""
    plans = plans_of()
    plans["configurations"]["again"] = plans
    return plans


def explosive_plans(depth: int = 30, width: int = 10) -> dict[str, Any]:
    """Return plans of few objects that would be a text without end, or deep without end."""
    laughs: list[Any] = ["ha"] * width
    for _ in range(depth):
        laughs = [laughs] * width
    return plans_of() | {"original_median_shape_after_transp": laughs}


def build_network(
    plans: dict[str, Any], inputs: int = 1, heads: int = 4, seed: int = 0
) -> torch.nn.Module:
    """Return the network of `3d_fullres` with random weights, biases and norms."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            inputs,
            heads,
            deep_supervision=True,
        )
        # nnU-Net's own biases are zero, which would hide a mistake.
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def stock_checkpoint(
    plans: dict[str, Any], description: dict[str, Any] = DESCRIPTION, seed: int = 0
) -> dict[str, Any]:
    """Return what the trainer of nnU-Net 2.8.1 saves."""
    inputs, heads = len(description["channel_names"]), len(description["labels"])
    weights = build_network(plans, inputs, heads, seed).state_dict()
    return {
        "network_weights": weights,
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(4)}}},
        "grad_scaler_state": None,
        "logging": {"dice_per_class_or_region": [[np.float64(0.5)]], "lrs": [0.01]},
        "_best_ema": np.float64(0.75),
        "current_epoch": 1000,
        "init_args": {
            "plans": plans,
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset_json": description,
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1),
    }


def write_stock_folder(
    folder: Path,
    files: Sequence[str] = (f"fold_0/{FINAL}",),
    plans: dict[str, Any] | None = None,
    description: dict[str, Any] = DESCRIPTION,
) -> Path:
    """Write a results folder of stock nnU-Net; the weights of each file have a seed of their own.

    Args:
        folder: Its place.
        files: Checkpoints, relative to the folder.
        plans: Of the network.
        description: The dataset.json.
    """
    plans = plans or plans_of()
    folder.mkdir(parents=True)
    write_json(folder / "plans.json", plans)
    write_json(folder / "dataset.json", description)
    for seed, file in enumerate(files):
        path = folder / file
        (path.parent / "validation").mkdir(parents=True, exist_ok=True)
        torch.save(stock_checkpoint(plans, description, seed), path)
        for name in ("debug.json", "validation/summary.json"):
            write_json(path.parent / name, {"hostname": "workstation"})
        (path.parent / "progress.png").write_bytes(b"\x89PNG")
    write_json(folder / "dataset_fingerprint.json", {"spacings": [[1.5, 1.5, 1.5]]})
    return folder
