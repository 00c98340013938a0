"""Operations a second: training steps of this program's plans against the peak of the machine.

    .venv/bin/python bench/speed.py

The peak is the fastest product of two square matrices. A step counts as three forward passes (one
forward, two backward). Steps are those of nnU-Net's plans for the hippocampus and for slices of
128 x 128 and 256 x 256 pixels, with all and with half of the features, in float32 and, where the
hardware has it, in bfloat16, in torch's layout and channels last; each variant in turn, three
rounds, the fastest counts.
One JSON line is added to bench/results/speed.jsonl: operations, and seconds a step.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from nnunet_medseg.nnunet.environment import prepare

RESULTS = Path(__file__).resolve().parent / "results" / "speed.jsonl"
ROUNDS = 3
BATCH = 2
CONFIGURATION = "bench"
# Patch, and features of each resolution.
PLANS = {
    "": ((40, 56, 40), (32, 64, 128, 256)),
    "slices ": ((128, 128), (32, 64, 128, 256, 512, 512)),
    "slices of 256 ": ((256, 256), (32, 64, 128, 256, 512, 512)),
}
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

    from nnunet_medseg.budget.fit import measuring_limit_s
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
    recipes = (choose_recipe(0), Recipe(mirroring=False))
    peaks: dict[str, float] = {}
    flops: dict[str, float] = {}
    steps_s: dict[str, float] = {}
    for _ in range(ROUNDS):
        for kind, chosen in kinds.items():
            peaks[kind] = max(peaks.get(kind, 0), peak_flops(kind, device.kind))
            for shape, is_last, width, recipe in product(PLANS, (False, True), (1.0, 0.5), recipes):
                plans = make_plans(*PLANS[shape], width)
                name = f"step {kind} {shape}width {width:g} {recipe.optimizer}"
                name += " channels last" if is_last else ""
                flops[name] = 3 * count_flops(plans, CONFIGURATION, DESCRIPTION)
                setup = replace(chosen, recipe=recipe, channels_last=is_last)
                until_s = time.monotonic() + measuring_limit_s(setup.asked_s)
                step_s = measure_step(plans, CONFIGURATION, DESCRIPTION, setup, until_s)
                steps_s[name] = min(steps_s.get(name, math.inf), step_s)
    speeds = {f"peak {kind}": peak for kind, peak in peaks.items()}
    speeds |= {name: flops[name] / step_s for name, step_s in steps_s.items()}
    return {name: round(value / 1e9) for name, value in speeds.items()} | {
        "seconds": {name: round(step_s, 3) for name, step_s in steps_s.items()},
        "device": device.name,
    }


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


def make_plans(patch: tuple[int, ...], features: tuple[int, ...], width: float) -> dict[str, Any]:
    axes, stages = len(patch), len(features)
    arguments = {
        "n_stages": stages, "features_per_stage": [int(width * number) for number in features],
        "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
        "kernel_sizes": [[3] * axes] * stages,
        "strides": [[1] * axes] + [[2] * axes] * (stages - 1),
        "n_conv_per_stage": [2] * stages, "n_conv_per_stage_decoder": [2] * (stages - 1),
        "conv_bias": True, "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None,
        "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip
    configuration = {
        "data_identifier": "bench", "preprocessor_name": "DefaultPreprocessor",
        "batch_size": BATCH, "patch_size": list(patch), "spacing": [1.0] * axes,
        "median_image_size_in_voxels": list(patch),
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
        "transpose_backward": [0, 1, 2], "configurations": {CONFIGURATION: configuration},
    }  # fmt: skip


if __name__ == "__main__":
    main()
