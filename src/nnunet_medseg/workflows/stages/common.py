"""What several stages need: the dataset as it was, and the model as it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnunet_medseg.budget.recipe import Recipe
from nnunet_medseg.dataset.checked import load_checked
from nnunet_medseg.dataset.raw_layout import (
    RawCase,
    describe_json,
    read_cases,
)
from nnunet_medseg.errors import DatasetError
from nnunet_medseg.workflows.stage import Run

WATCHED_CASES = 16  # held-out cases that are preprocessed for a look during training


def require_dataset(run: Run) -> None:
    """Refuse to go on when files of the dataset are gone that the run reads where they are."""
    missing = [
        path.name
        for part in ("train", "evaluate")
        for case in read_cases(run.folder.raw, part)
        for path in (*case.images, case.label)
        if not path.exists()
    ]
    if missing:
        problem = f"{len(missing)} files of the dataset in {run.dataset_folder} are gone."
        raise DatasetError(problem, fix="Put them back and run the same command; it goes on.")


def read_shapes(run: Run) -> list[tuple[int, ...]]:
    """Return the shapes of all cases as stored."""
    return [facts.shape for facts in load_checked(run.folder.check_file).facts]


def raw_files(case: RawCase) -> Any:
    """Return the files of a case as the room of nnU-Net takes them."""
    from nnunet_medseg.nnunet.planning import RawFiles

    return RawFiles(case.name, tuple(str(path) for path in case.images), str(case.label))


def watched_cases(run: Run) -> list[RawCase]:
    """Return the held-out cases that are looked at during training, drawn by the seed."""
    held_out = read_cases(run.folder.raw, "evaluate")
    order = np.random.default_rng(run.options.seed).permutation(len(held_out))
    return [held_out[place] for place in order[:WATCHED_CASES]]


def training_setup(run: Run, recipe: Recipe) -> Any:
    """Return everything that the trainer needs beside plans and data."""
    from nnunet_medseg.nnunet.trainer import TrainingSetup, will_compile

    return TrainingSetup(
        device=run.device,
        asked_s=run.options.minutes * 60,
        seed=run.options.seed,
        train=tuple(case.name for case in read_cases(run.folder.raw, "train")),
        watched=tuple(case.name for case in watched_cases(run)),
        checkpoint=run.folder.checkpoint_file,
        history=run.folder.history_file,
        log=run.folder.log_file,
        recipe=recipe,
        compiled=will_compile(run.device, run.options.minutes * 60),
    )


def make_model(run: Run, state: dict[str, Any]) -> Any:
    """Return the model of a state of the network, in memory."""
    from nnunet_medseg.nnunet.inference import Model
    from nnunet_medseg.nnunet.planning import configuration_of

    plans, configuration = configuration_of(run.folder.dataset)
    axes = state["mirror_axes"]
    return Model(
        plans,
        describe_json(run.folder.raw),
        configuration,
        tuple(axes) if axes else None,
        (state["network_weights"],),
    )


def make_segmenter(model: Any, run: Run, *, in_bfloat16: bool = False) -> Any:
    """Return what segments with a model on the device of the run."""
    from nnunet_medseg.nnunet.inference import Segmenter

    return Segmenter(model, run.device, in_bfloat16=in_bfloat16)


def precision_of(run: Run) -> str:
    """Return the number format that trains."""
    if run.device.kind == "cuda":
        return "float16 (automatic mixed precision)"
    return "bfloat16" if run.device.has_fast_bf16 else "float32"
