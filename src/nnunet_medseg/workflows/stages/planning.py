"""Plan and preprocess: from images to arrays of one spacing."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence

import numpy as np

from nnunet_medseg import console
from nnunet_medseg.budget.fit import measuring_limit_s
from nnunet_medseg.budget.recipe import Recipe, choose_recipe
from nnunet_medseg.dataset.checked import load_checked
from nnunet_medseg.dataset.raw_layout import describe_json, read_cases
from nnunet_medseg.files import read_json, write_json
from nnunet_medseg.hardware import core_count, free_memory_bytes, workers_for
from nnunet_medseg.run_folder import DATASET_NAME
from nnunet_medseg.workflows.stage import Run
from nnunet_medseg.workflows.stages.common import (
    raw_files,
    read_shapes,
    require_dataset,
    training_setup,
    watched_cases,
)

# Reading, normalising and resampling keep a few float64 copies (default_resampling.py of 2.8.1).
WORK_BYTES_A_VOXEL = 48


def plan(run: Run) -> None:
    """Measure the training cases, and plan so that enough steps fit into the minutes."""
    from nnunet_medseg.nnunet.environment import chatter

    require_dataset(run)
    # A plan for other minutes may lie here, with what was preprocessed for it.
    shutil.rmtree(run.folder.dataset, ignore_errors=True)
    cases = read_cases(run.folder.raw, "train")
    workers = _say_workers(run, read_shapes(run), len(cases))
    with console.progress("Measuring", len(cases), "cases") as bar, chatter(run.folder.log_file):
        from nnunet_medseg.nnunet.planning import extract_fingerprint

        extract_fingerprint(
            [raw_files(case) for case in cases],
            run.folder.dataset,
            workers=workers,
            log=run.folder.log_file,
            on_case=bar.update,
        )
    _plan_for_time(run)


def _plan_for_time(run: Run) -> None:
    from nnunet_medseg.nnunet.environment import chatter

    limit_s, started = measuring_limit_s(run.options.minutes * 60), time.monotonic()
    with (
        console.progress("Measuring steps", limit_s, None) as bar,
        chatter(run.folder.log_file),
    ):
        from nnunet_medseg.nnunet.planning import read_smallest_object_mm3, write_plans
        from nnunet_medseg.nnunet.sizing import plan_for_time

        def on_measured(name: str, step_s: float) -> None:
            bar.update(min(limit_s, time.monotonic() - started), f"{step_s:.2f} s a step: {name}")

        sized = plan_for_time(
            DATASET_NAME,
            describe_json(run.folder.raw),
            training_setup(run, Recipe()),
            read_smallest_object_mm3(run.folder.dataset) if run.options.plan == "auto" else None,
            on_measured=on_measured,
        )
        write_plans(run.folder.dataset, sized.plans)
    choice = sized.choice
    recipe = choose_recipe(choice.steps)
    console.detail(f"{sized.configuration}: {choice.candidate.name}")
    console.detail(choice.reason)
    write_json(
        run.folder.plan_file,
        {
            "plan": choice.candidate.name,
            "reason": choice.reason,
            "step_s": choice.step_s if math.isfinite(choice.step_s) else None,
            "steps": choice.steps,
            "recipe": recipe.to_json(),
        },
    )


def _say_workers(run: Run, shapes: Sequence[tuple[int, ...]], items: int) -> int:
    channels = len(load_checked(run.folder.check_file).channels)
    need = max(math.prod(shape) for shape in shapes) * (channels + 1) * WORK_BYTES_A_VOXEL
    workers = workers_for(need, items)
    console.detail(
        f"{workers} worker{'s' * (workers != 1)}: {core_count()} cores, "
        f"{free_memory_bytes() / 1e9:.1f} GB free, the largest case needs {need / 1e6:.0f} MB"
    )
    return workers


def preprocess(run: Run) -> None:
    """Crop, normalise and resample the cases that train, and those watched meanwhile."""
    from nnunet_medseg.nnunet.environment import chatter

    require_dataset(run)
    cases = [*read_cases(run.folder.raw, "train"), *watched_cases(run)]
    with chatter(run.folder.log_file):
        from nnunet_medseg.nnunet.planning import preprocess

    workers = _say_workers(run, _planned_shapes(run), len(cases))
    with (
        console.progress("Preprocessing", len(cases), "cases") as bar,
        chatter(run.folder.log_file),
    ):
        preprocess(
            [raw_files(case) for case in cases],
            run.folder.dataset,
            workers=workers,
            log=run.folder.log_file,
            on_case=bar.update,
        )


def _planned_shapes(run: Run) -> list[tuple[int, ...]]:
    """Return for each case the larger of its shapes before and after resampling."""
    plans = read_json(run.folder.dataset / "nnUNetPlans.json")
    ((_, chosen),) = plans["configurations"].items()
    target = float(np.prod(chosen["spacing"]))
    shapes: list[tuple[int, ...]] = []
    for facts in load_checked(run.folder.check_file).facts:
        voxels = float(np.prod(facts.shape))
        # A 2D plan leaves the slice distance as it is.
        own = np.prod(sorted(facts.spacing_mm)[: len(chosen["spacing"])])
        shapes.append((int(voxels * max(1.0, own / target)),))
    return shapes
