"""A training small enough to see: three stages, patches of 16³ voxels, an iteration a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from tiny_model import CPU, DESCRIPTION, make_plans, write_raw_dataset

from nnunet_medseg.budget.clock import TrainingClock
from nnunet_medseg.budget.recipe import Recipe
from nnunet_medseg.files import write_json
from nnunet_medseg.nnunet.planning import Preparation, preprocess
from nnunet_medseg.nnunet.trainer import BudgetedTrainer, TrainingSetup, make_trainer
from nnunet_medseg.phantom import PhantomSpec
from nnunet_medseg.run_folder import DATASET_NAME

CONFIGURATION = "3d_fullres"
# On the grid of the plans, so that nothing has to be resampled.
SPEC = PhantomSpec((16, 16, 16), (3.0, 1.5, 1.5), varied_orientation=False)
CASES = ("phantom_001", "phantom_002")
PREPARED = "prepared"


def make_training_plans(*, stages: int = 3) -> dict[str, Any]:
    """Return plans of three stages, the fewest that nnU-Net's loss of several outputs needs.

    The coarsest features have eight cells along each axis, so that a patch can become smaller.
    """
    plans = make_plans()
    architecture = plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
    architecture |= {
        "n_stages": stages,
        "features_per_stage": [4, 8, 8][:stages],
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1], [2, 2, 2], [1, 1, 1]][:stages],
        "n_conv_per_stage": [1] * stages,
        "n_conv_per_stage_decoder": [1] * (stages - 1),
    }
    return plans


def write_preprocessed(folder: Path) -> None:
    """Write `preprocessed` below a folder, with two phantoms that are ready to be trained on."""
    cases = write_raw_dataset(folder / "raw", [SPEC] * len(CASES))
    target = folder / "preprocessed" / DATASET_NAME
    target.mkdir(parents=True)
    write_json(target / "dataset.json", DESCRIPTION)
    preparation = Preparation(make_training_plans(), CONFIGURATION, DESCRIPTION, target / PREPARED)
    preprocess(cases, preparation, workers=1, log=folder / "log.txt")


def make_setup(folder: Path, *, asked_s: float = 30.0, **chosen: Any) -> TrainingSetup:
    """Return a setup whose files are in a folder."""
    setup = TrainingSetup(
        device=CPU,
        asked_s=asked_s,
        seed=0,
        train=CASES,
        watched=(),
        checkpoint=folder / "checkpoint.pth",
        history=folder / "history.jsonl",
        log=folder / "log.txt",
        recipe=Recipe(),
        prepared=folder / "preprocessed" / DATASET_NAME / PREPARED,
    )
    return replace(setup, **chosen)


def make_tiny_trainer(
    setup: TrainingSetup, *, has_workers: bool = False, stages: int = 3
) -> BudgetedTrainer:
    """Return a trainer for which each iteration takes a second.

    Without workers patches are cut in this process: the same ones in each run.
    """
    plans = make_training_plans(stages=stages)
    trainer = make_trainer(plans, CONFIGURATION, DESCRIPTION, setup)
    if not has_workers:
        trainer._start_workers = lambda loader: SingleThreadedAugmenter(loader, None)
    trainer.clock = TrainingClock(setup.asked_s, now=lambda: float(trainer.progress.iterations))
    return trainer


def wrap_step(
    trainer: BudgetedTrainer, wrap: Callable[[Callable[..., Any], dict[str, Any]], Any]
) -> None:
    """Let a function stand in for the trainer's step; it gets the step and the batch."""
    step = trainer.train_step
    trainer.train_step = lambda batch: wrap(step, batch)


def weights_of(trainer: BudgetedTrainer) -> dict[str, torch.Tensor]:
    """Return a copy of the weights."""
    state = trainer.network_state()["network_weights"]
    return {name: tensor.clone() for name, tensor in state.items()}
