"""Fingerprint, plans and preprocessed data, through nnU-Net's own classes.

What nnU-Net does in pools of freshly started processes is done here in workers that share their
imports: for 40 small cases nnU-Net's command takes 16 s, of which less than 6 s is work.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
    DatasetFingerprintExtractor,
)
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
    ExperimentPlanner,
)
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIOWithReorient
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_medseg.budget.size import NNUNET_SIZE, NO_WISH, ObjectSizes, PlanSize, PlanWish
from nnunet_medseg.errors import UsageError
from nnunet_medseg.evaluation.components import typical_object_voxels
from nnunet_medseg.files import read_json, write_json
from nnunet_medseg.nnunet.cases import PreprocessedCases, write_locations
from nnunet_medseg.nnunet.planner import PLANNERS
from nnunet_medseg.parallel import map_in_workers
from nnunet_medseg.volume import silence_readers

__all__ = [
    "PLANS_NAME",
    "Preparation",
    "RawFiles",
    "adopt_plans",
    "configuration_of",
    "extract_fingerprint",
    "make_plans",
    "preparation_key",
    "preprocess",
    "read_object_sizes_mm3",
    "write_plans",
]

PLANS_NAME = "nnUNetPlans"
OBJECTS_NAME = "objects.json"

# Raise it when preprocessing itself changes.
PREPARATION_FORMAT = 1
PREPARING = (
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "preprocessor_name",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg",
    "resampling_fn_seg_kwargs",
)

# nnU-Net draws 10e7 values; percentiles of a tenth of that agree to four digits, and the draw no
# longer dominates the planning of small datasets.
INTENSITY_SAMPLES = 10_000_000

# A patch that covers less of the image than this makes nnU-Net compute Dice over the whole batch
# (default_experiment_planner.py of 2.8.1: lowres_creation_threshold, batch_dice).
SMALL_PATCH_SHARE = 0.25


@dataclass(frozen=True)
class RawFiles:
    """Files of one case: images, one a channel, and its label map."""

    name: str
    images: tuple[str, ...]
    label: str


def extract_fingerprint(
    cases: Sequence[RawFiles],
    folder: Path,
    *,
    workers: int,
    log: Path,
    on_case: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the fingerprint, as nnU-Net's extractor would, and the sizes of labelled objects.

    Args:
        cases: Those that may be trained on in some fold; nothing of a patient who is marked as
            held out shapes the plans.
        folder: Preprocessed folder of the dataset.
        workers: Number of processes.
        log: Takes what nnU-Net prints.
        on_case: Called with the number of cases that are done.
    """
    samples = INTENSITY_SAMPLES // len(cases)
    jobs = [(case, samples) for case in cases]
    results = map_in_workers(_analyse, jobs, workers=workers, log=log, on_result=on_case)
    shapes, spacings, intensities, _, shares, objects = zip(*results, strict=True)
    channels = len(intensities[0])
    fingerprint = {
        "spacings": [[float(value) for value in spacing] for spacing in spacings],
        "shapes_after_crop": [[int(size) for size in shape] for shape in shapes],
        "foreground_intensity_properties_per_channel": {
            str(channel): _describe(np.concatenate([values[channel] for values in intensities]))
            for channel in range(channels)
        },
        "median_relative_size_after_cropping": float(np.median(shares)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "dataset_fingerprint.json", fingerprint)
    write_json(folder / OBJECTS_NAME, asdict(_object_sizes_mm3(objects)))


def _analyse(job: tuple[RawFiles, int]) -> tuple[Any, ...]:
    silence_readers()
    case, samples = job
    result = DatasetFingerprintExtractor.analyze_case(
        list(case.images), case.label, SimpleITKIOWithReorient, samples
    )
    label_map, properties = SimpleITKIOWithReorient().read_seg(case.label)
    voxel_mm3 = float(np.prod(properties["spacing"]))
    labels = [int(label) for label in np.unique(label_map) if label > 0]
    voxels = typical_object_voxels(label_map[0].astype(np.int32), labels)
    return (*result, {label: count * voxel_mm3 for label, count in voxels.items()})


def _object_sizes_mm3(objects: Sequence[dict[int, float]]) -> ObjectSizes:
    """Return the typical sizes of objects of the labels with the smallest and the largest."""
    labels = {label for case in objects for label in case}
    sizes = [
        float(np.median([case[label] for case in objects if label in case])) for label in labels
    ]
    return ObjectSizes(min(sizes), max(sizes))


def read_object_sizes_mm3(folder: Path) -> ObjectSizes:
    """Return what `extract_fingerprint` wrote about the sizes of labelled objects, in mm3."""
    return ObjectSizes(**read_json(folder / OBJECTS_NAME))


def _describe(values: np.ndarray[Any, Any]) -> dict[str, float]:
    low, median, high = np.percentile(values, (0.5, 50.0, 99.5))
    return {
        "mean": float(np.mean(values)),
        "median": float(median),
        "std": float(np.std(values)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
        "percentile_99_5": float(high),
        "percentile_00_5": float(low),
    }


def make_plans(
    dataset: str, size: PlanSize = NNUNET_SIZE, wish: PlanWish = NO_WISH
) -> tuple[dict[str, Any], str]:
    """Return plans with the one configuration that would be trained.

    Args:
        dataset: Name of the raw dataset, whose folders nnU-Net finds in its environment; its
            fingerprint is there.
        size: How large voxels, patch and network are.
        wish: What the user asks.

    Returns:
        The plans, and the configuration: as wished, else "3d_fullres", or "2d" for a dataset of
        single slices.

    Raises:
        UsageError: When there is no such configuration for this dataset.
    """
    plans = PLANNERS[size.network](dataset, size, PLANS_NAME, wish).plan_experiment()
    name = wish.configuration or ("3d_fullres" if "3d_fullres" in plans["configurations"] else "2d")
    if name not in plans["configurations"]:
        raise _no_configuration(name)
    chosen = plans["configurations"][name]
    # Another stage, which reads this one's results, is not trained.
    chosen.pop("next_stage", None)
    if wish.batch is not None:
        chosen["batch_size"] = wish.batch
    if name == "3d_fullres":
        image_voxels = np.prod(np.asarray(chosen["median_image_size_in_voxels"], dtype=float))
        share = float(np.prod(chosen["patch_size"]) / image_voxels)
        chosen["batch_dice"] = share < SMALL_PATCH_SHARE
    plans["configurations"] = {name: chosen}
    # A name that every installation of nnU-Net finds.
    plans["experiment_planner_used"] = ExperimentPlanner.__name__
    return plans, name


def _no_configuration(name: str) -> UsageError:
    if name == "3d_lowres":
        problem = "--configuration 3d_lowres: at full resolution a patch covers enough of an image."
        return UsageError(problem, fix="Use 3d_fullres, or leave --configuration out.")
    problem = f"--configuration {name}: the images are single slices."
    return UsageError(problem, fix="Use 2d, or leave --configuration out.")


def adopt_plans(
    given: Mapping[str, Any], own: Mapping[str, Any], channels: Sequence[int | None]
) -> dict[str, Any]:
    """Return the plans of a model for a dataset with other channels.

    Args:
        given: Plans of the model, with one configuration.
        own: Plans that would be made for the dataset, with one configuration.
        channels: For each channel of the dataset the model's channel; None for one that the model
            does not know, whose normalisation and statistics are the dataset's own.
    """
    plans = copy.deepcopy(dict(given))
    ((name, chosen),) = plans["configurations"].items()
    ((_, new),) = own["configurations"].items()
    for key in ("normalization_schemes", "use_mask_for_norm"):
        old = list(chosen[key])
        chosen[key] = [
            new[key][place] if channel is None else old[channel]
            for place, channel in enumerate(channels)
        ]
    key = "foreground_intensity_properties_per_channel"
    plans[key] = {
        str(place): own[key][str(place)] if channel is None else given[key].get(str(channel))
        for place, channel in enumerate(channels)
    }
    chosen["data_identifier"] = f"{PLANS_NAME}_{name}"
    return plans | {"dataset_name": own["dataset_name"], "plans_name": PLANS_NAME}


def write_plans(folder: Path, plans: dict[str, Any]) -> None:
    """Write the plans that preprocessing and training read, in the folder of a training."""
    write_json(folder / f"{PLANS_NAME}.json", plans)


def configuration_of(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the plans in the folder of a training and the name of their one configuration."""
    plans = read_json(folder / f"{PLANS_NAME}.json")
    (name,) = plans["configurations"]
    return plans, name


def preparation_key(plans: Mapping[str, Any], configuration: str, content: str) -> str:
    """Return a name for preprocessed data: the same for whatever leads to the same arrays.

    Patch, batch and network are not in it; spacing, normalisation and resampling are.

    Args:
        plans: nnU-Net's plans.
        configuration: Which of their configurations.
        content: Stands for the images and labels themselves.

    Returns:
        16 hexadecimal digits.
    """
    chosen = plans["configurations"][configuration]
    uses_statistics = "CTNormalization" in chosen["normalization_schemes"]
    parts = {
        "format": PREPARATION_FORMAT,
        "content": content,
        "reader": plans["image_reader_writer"],
        "transpose": list(plans["transpose_forward"]),
        "statistics": plans["foreground_intensity_properties_per_channel"]
        if uses_statistics
        else None,
        **{name: chosen[name] for name in PREPARING if name in chosen},
    }
    text = json.dumps(parts, sort_keys=True, default=lambda value: np.asarray(value).tolist())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Preparation:
    """What cases are preprocessed for, and where to.

    Attributes:
        plans: nnU-Net's plans.
        configuration: Which of their configurations.
        description: The dataset.json.
        folder: Takes the preprocessed cases.
    """

    plans: dict[str, Any]
    configuration: str
    description: dict[str, Any]
    folder: Path


@dataclass(frozen=True)
class _Job:
    """One case to preprocess."""

    case: RawFiles
    preparation: Preparation


def preprocess(
    cases: Sequence[RawFiles],
    preparation: Preparation,
    *,
    workers: int,
    log: Path,
    on_case: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the preprocessed cases; those that are already there are kept.

    Args:
        cases: Training cases, and those that are looked at during training.
        preparation: What for, and where to.
        workers: Number of processes.
        log: Takes what nnU-Net prints.
        on_case: Called with the number of cases that are done.
    """
    preparation.folder.mkdir(parents=True, exist_ok=True)
    done = set(PreprocessedCases.get_identifiers(str(preparation.folder)))
    jobs = [_Job(case, preparation) for case in cases if case.name not in done]
    map_in_workers(_preprocess_case, jobs, workers=workers, log=log, on_result=on_case)


def _preprocess_case(job: _Job) -> None:
    silence_readers()
    manager = PlansManager(job.preparation.plans)
    chosen = manager.get_configuration(job.preparation.configuration)
    data, seg, properties = DefaultPreprocessor(verbose=False).run_case(
        list(job.case.images), job.case.label, manager, chosen, job.preparation.description
    )
    data, seg = data.astype(np.float32, copy=False), seg.astype(np.int16, copy=False)
    target = job.preparation.folder / job.case.name
    _save(target, data, seg, tuple(chosen.patch_size))
    # Last: a case is there when its locations are.
    write_locations(target, properties["class_locations"])


def _save(
    target: Path, data: np.ndarray[Any, Any], seg: np.ndarray[Any, Any], patch: tuple[int, ...]
) -> None:
    for ending in (".b2nd", "_seg.b2nd"):
        # blosc2 does not replace what a killed run left half written.
        Path(f"{target}{ending}").unlink(missing_ok=True)
    blocks, chunks = comp_blosc2_params(data.shape, patch, data.itemsize)
    blocks_seg, chunks_seg = comp_blosc2_params(seg.shape, patch, seg.itemsize)
    nnUNetDatasetBlosc2.save_case(
        data,
        seg,
        {},
        str(target),
        chunks=chunks,
        blocks=blocks,
        chunks_seg=chunks_seg,
        blocks_seg=blocks_seg,
    )
    # The pickle that nnU-Net writes beside is empty, and is never read here.
    Path(f"{target}.pkl").unlink()
