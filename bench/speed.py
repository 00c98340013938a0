"""Operations a second: training steps of this program's plans against the peak of the machine.

    .venv/bin/python bench/speed.py

The peak is the fastest product of two square matrices. A step counts as three forward passes (one
forward, two backward). Steps are those of nnU-Net's plan for the hippocampus, with all and with
half of its features, in float32 and, where the hardware has it, in bfloat16; each variant in turn,
three rounds, the fastest counts. One JSON line is added to bench/results/speed.jsonl.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from nnunet_medseg.nnunet.environment import prepare

RESULTS = Path(__file__).resolve().parent / "results" / "speed.jsonl"
PATCH, BATCH, ROUNDS = (40, 56, 40), 2, 3
DESCRIPTION = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "anterior": 1, "posterior": 2},
    "numTraining": 32,
    "file_ending": ".nii.gz",
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        prepare({f"nnUNet_{name}": Path(folder) for name in ("raw", "preprocessed", "results")})
        record = measure(Path(folder))
    record |= {"date": time.strftime("%Y-%m-%d"), "cores": len(os.sched_getaffinity(0))}
    with RESULTS.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record, sort_keys=True) + "\n")
    print(json.dumps(record, indent=2, sort_keys=True))


def measure(folder: Path) -> dict[str, Any]:
    import torch

    from nnunet_medseg.budget.recipe import Recipe, choose_recipe
    from nnunet_medseg.hardware import choose_device, core_count
    from nnunet_medseg.nnunet.probe import count_flops, measure_step
    from nnunet_medseg.nnunet.trainer import TrainingSetup

    torch.set_num_threads(core_count())
    device = choose_device("auto")
    setup = TrainingSetup(
        device=device, asked_s=600.0, seed=0, train=(), watched=(), checkpoint=folder / "c",
        history=folder / "h", log=folder / "log.txt", recipe=choose_recipe(0),
        prepared=folder,
    )  # fmt: skip
    kinds = {"float32": replace(setup, device=replace(device, has_fast_bf16=False))}
    if device.has_fast_bf16:
        kinds["bfloat16"] = setup
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        for kind, chosen in kinds.items():
            best[f"peak {kind}"] = max(best.get(f"peak {kind}", 0), peak_flops(kind, device.kind))
            for width, recipe in product((1.0, 0.5), (choose_recipe(0), Recipe(mirroring=False))):
                plans = make_plans(width)
                flops = 3 * count_flops(plans, "3d_fullres", DESCRIPTION)
                setup = replace(chosen, recipe=recipe)
                step_s = measure_step(plans, "3d_fullres", DESCRIPTION, setup)
                name = f"step {kind} width {width:g} {recipe.optimizer}"
                best[name] = max(best.get(name, 0), flops / step_s)
    return {name: round(value / 1e9) for name, value in best.items()} | {"device": device.name}


def peak_flops(kind: str, place: str) -> float:
    import torch

    size = 4096 if place == "cuda" else 2048
    matrix = torch.randn(size, size, device=place, dtype=getattr(torch, kind))
    times = []
    for _ in range(5):
        started = time.monotonic()
        float((matrix @ matrix)[0, 0])
        times.append(time.monotonic() - started)
    return 2 * size**3 / min(times)


def make_plans(width: float) -> dict[str, Any]:
    features = [int(width * number) for number in (32, 64, 128, 256)]
    arguments = {
        "n_stages": 4, "features_per_stage": features, "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 4, "strides": [[1, 1, 1]] + [[2, 2, 2]] * 3,
        "n_conv_per_stage": [2] * 4, "n_conv_per_stage_decoder": [2] * 3, "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None,
        "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip
    configuration = {
        "data_identifier": "bench", "preprocessor_name": "DefaultPreprocessor",
        "batch_size": BATCH, "patch_size": list(PATCH), "spacing": [1.0, 1.0, 1.0],
        "median_image_size_in_voxels": list(PATCH),
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False], "batch_dice": False,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": arguments,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }  # fmt: skip
    return {
        "dataset_name": "Dataset001_medseg", "plans_name": "bench", "label_manager": "LabelManager",
        "image_reader_writer": "SimpleITKIOWithReorient", "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2], "configurations": {"3d_fullres": configuration},
    }  # fmt: skip


if __name__ == "__main__":
    main()
