"""A model small enough to see: two stages, four features, patches of 16³ voxels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nnunet_medseg.bundle.build import ModelParts
from nnunet_medseg.bundle.manifest import (
    EvaluationFacts,
    LabelEntry,
    SplitFacts,
    TrainingFacts,
)
from nnunet_medseg.files import read_json, write_json
from nnunet_medseg.hardware import Device
from nnunet_medseg.nnunet.planning import RawFiles
from nnunet_medseg.phantom import LABELS, PhantomSpec, write_nnunet_raw
from nnunet_medseg.run_folder import DATASET_NAME

CPU = Device("cpu", 0, "CPU", has_fast_bf16=False)
READER = "SimpleITKIOWithReorient"
DESCRIPTION = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, **LABELS},
    "numTraining": 3,
    "file_ending": ".nii.gz",
    "overwrite_image_reader_writer": READER,
}


def make_plans() -> dict[str, Any]:
    """Return plans as nnU-Net 2.8.1 writes them, for a small network."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "dataset_name": DATASET_NAME,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [3.0, 1.5, 1.5],
        "original_median_shape_after_transp": [16, 16, 16],
        "image_reader_writer": READER,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {
                "max": 234.0,
                "mean": 103.0,
                "median": 101.0,
                "min": -56.0,
                "percentile_00_5": -42.0,
                "percentile_99_5": 200.0,
                "std": 39.0,
            }
        },
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": [16, 16, 16],
                "median_image_size_in_voxels": [16.0, 16.0, 16.0],
                "spacing": [3.0, 1.5, 1.5],
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": resampling,
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
                "batch_dice": False,
                "architecture": make_architecture(),
            }
        },
    }


def make_architecture() -> dict[str, Any]:
    """Return the plan of a network of two stages."""
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [4, 8],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
            "strides": [[1, 1, 1], [2, 2, 2]],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def make_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Return the state of an untrained network of these plans, one input, four classes."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    architecture = make_architecture()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            1,
            len(LABELS) + 1,
            deep_supervision=True,
        )
    return network.state_dict()


def write_raw_dataset(raw: Path, specs: Sequence[PhantomSpec]) -> list[RawFiles]:
    """Write a phantom of each spec as a raw dataset whose reader reorients; return their files."""
    folder = raw / DATASET_NAME
    for number, spec in enumerate(specs):
        write_nnunet_raw(folder, spec, cases=1, first=number)
    cases = [_files_of(folder, f"phantom_{number:03d}") for number in range(1, len(specs) + 1)]
    description = read_json(folder / "dataset.json")
    description |= {
        "overwrite_image_reader_writer": READER,
        "numTraining": len(specs),
        # As the program does: it spares nnU-Net a search with twelve processes.
        "dataset": {case.name: {"images": case.images, "label": case.label} for case in cases},
    }
    write_json(folder / "dataset.json", description)
    return cases


def _files_of(folder: Path, case: str) -> RawFiles:
    images = sorted((folder / "imagesTr").glob(f"{case}_*"))
    return RawFiles(
        case, tuple(str(path) for path in images), str(folder / "labelsTr" / f"{case}.nii.gz")
    )


def make_facts() -> dict[str, Any]:
    """Return what a run tells a manifest, for labels that the user numbered 1, 5 and 3."""
    return {
        "name": "Phantom",
        "labels": [
            LabelEntry(name="liver", value=1, index=1),
            LabelEntry(name="lesion", value=5, index=2),
            LabelEntry(name="kidney", value=3, index=3),
        ],
        "channels": ["CT"],
        "split": SplitFacts(fold="0", train_cases=3, held_out_cases=2),
        "training": TrainingFacts(
            asked_s=600.0,
            used_s=601.5,
            iterations=1200,
            epochs=50,
            final_loss=-0.5,
            device="cpu",
            precision="float32",
            seed=12345,
        ),
        "evaluation": EvaluationFacts(
            mean_dice=0.85,
            dice={"kidney": None, "lesion": 0.75, "liver": 0.95},
            cases=1,
            of_cases=2,
        ),
        "parameters": {"minutes": 10.0, "fold": "0"},
    }


def make_parts(folds: Sequence[str] = ("0",)) -> ModelParts:
    """Return the parts of a model with untrained weights, other ones for each fold."""
    description = {key: DESCRIPTION[key] for key in ("channel_names", "labels", "file_ending")}
    checkpoints = {
        fold: {
            "network_weights": make_weights(seed),
            "mirror_axes": (0, 1, 2),
            "optimizer_state": {"momentum": torch.zeros(1000)},
        }
        for seed, fold in enumerate(folds)
    }
    return ModelParts(make_plans(), description, "3d_fullres", checkpoints)
