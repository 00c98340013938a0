"""Plan and preprocess: from images to arrays of one spacing."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_medseg import console
from nnunet_medseg.budget.fit import measuring_limit_s
from nnunet_medseg.budget.recipe import choose_recipe
from nnunet_medseg.budget.size import PlanWish
from nnunet_medseg.dataset.checked import load_checked
from nnunet_medseg.dataset.raw_layout import describe_json, read_cases
from nnunet_medseg.files import read_cache, write_json
from nnunet_medseg.hardware import core_count, free_memory_bytes, workers_for
from nnunet_medseg.run_folder import DATASET_NAME
from nnunet_medseg.workflows.options import TrainOptions
from nnunet_medseg.workflows.stage import Run, Training
from nnunet_medseg.workflows.stages.common import (
    cases_of,
    content_key,
    precision_of,
    prepared_folder,
    raw_files,
    read_shapes,
    recipe_of,
    require_dataset,
    split_of,
    training_setup,
    trainings_of,
    watched_cases,
)
from nnunet_medseg.workflows.stages.forecast import training_time_s
from nnunet_medseg.workflows.stages.pretraining import plan_from_model
from nnunet_medseg.workflows.variables import AUTO, VARIABLES, numbers_of

# Reading, normalising and resampling keep a few float64 copies (default_resampling.py of 2.8.1).
WORK_BYTES_A_VOXEL = 48

# Raised when a step of the same plan takes another time than before: 2 since Muon takes blocks,
# 3 since a GPU multiplies in TF32, 4 since volumes may lie channels last,
# 5 since slices may, and Muon takes its steps in place, 6 since it takes those of banks of one size
# together, a GPU multiplies its matrices in
# float32 and leaves no step out that is measured.
STEP_VERSION = 6
# Raised when more is measured of the cases: 2 since the largest objects are.
FACTS_VERSION = 2


def plan(run: Run) -> None:
    """Measure the cases, and plan each training so that enough steps fit into its minutes."""
    require_dataset(run)
    # A plan for other minutes may lie here, with what was preprocessed for it.
    shutil.rmtree(run.folder.dataset, ignore_errors=True)
    shutil.rmtree(run.folder.root / "prepared", ignore_errors=True)
    _measure_cases(run)
    same: dict[str, Any] = {}
    for training in trainings_of(run):
        training.folder.root.mkdir(exist_ok=True)
        if training.options.pretrained is not None:
            plan_from_model(run, training)
            continue
        key = _plan_key(training.options)
        if key not in same:
            same[key] = _plan_for_time(run, training)
        _write(training, same[key])


def _plan_key(options: TrainOptions) -> str:
    """Return what trainings have in common that share a plan."""
    names = ("plan", *(name for name, variable in VARIABLES.items() if variable.is_of_plan))
    return json.dumps([getattr(options, name) for name in names])


def _measure_cases(run: Run) -> None:
    """Write the fingerprint, or take it from the store when the same cases were measured before."""
    from nnunet_medseg.nnunet.environment import chatter

    planned = load_checked(run.folder.check_file).open_to_training
    measured = [FACTS_VERSION, content_key(run), planned]
    key = hashlib.sha256(json.dumps(measured).encode()).hexdigest()[:16]
    kept = run.store / "fingerprints" / key
    if not kept.is_dir():
        cases = cases_of(run, planned)
        workers = _say_workers(run, read_shapes(run), len(cases))
        part = kept.with_name(f".{key}.partial")
        shutil.rmtree(part, ignore_errors=True)
        with (
            console.progress("Measuring", len(cases), "cases") as bar,
            chatter(run.folder.log_file),
        ):
            from nnunet_medseg.nnunet.planning import extract_fingerprint

            extract_fingerprint(
                [raw_files(case) for case in cases],
                part,
                workers=workers,
                log=run.folder.log_file,
                on_case=bar.update,
            )
        part.rename(kept)
    shutil.copytree(kept, run.folder.dataset)


def _plan_for_time(run: Run, training: Training) -> Any:
    from nnunet_medseg.nnunet.environment import chatter

    asked_s = training_time_s(run, training)
    limit_s, started = measuring_limit_s(asked_s), time.monotonic()
    speeds = _Speeds(run)
    with (
        console.progress("Measuring steps", limit_s, None) as bar,
        chatter(run.folder.log_file),
    ):
        from nnunet_medseg.nnunet.planning import read_object_sizes_mm3
        from nnunet_medseg.nnunet.sizing import PlanTask, plan_for_time

        def on_measured(name: str, step_s: float) -> None:
            shown = (
                f"{step_s:.2f} s a step"
                if math.isfinite(step_s)
                else "does not fit into the memory"
            )
            bar.update(min(limit_s, time.monotonic() - started), f"{shown}: {name}")

        is_free = training.options.plan == "auto"
        task = PlanTask(
            DATASET_NAME,
            describe_json(run.folder.raw),
            # What is short costs most: its optimizer computes more than that of long trainings.
            training_setup(run, training, choose_recipe(0), run.folder.root, asked_s),
            read_object_sizes_mm3(run.folder.dataset) if is_free else None,
            _wish_of(training.options),
            speeds.known,
        )
        sized = plan_for_time(task, on_measured)
    speeds.save()
    console.detail(f"{sized.configuration}: {sized.choice.candidate.name}")
    console.detail(sized.choice.reason)
    return sized


class _Speeds:
    """Seconds a step, as measured on this device for a dataset that is kept."""

    def __init__(self, run: Run) -> None:
        self._path = run.store / "speeds.json"
        checked = load_checked(run.folder.check_file)
        self._device = (
            f"{run.device.name}, {core_count()} cores, {precision_of(run)}, torch "
            f"{version('torch')}, {console.counted(len(checked.labels), 'label')}, "
            f"{console.counted(len(checked.channels), 'channel')}, "
            f"{choose_recipe(0).optimizer} {STEP_VERSION}"
        )
        self._all: dict[str, dict[str, float]] = read_cache(self._path)
        self.known = dict(self._all.get(self._device, {}))

    def save(self) -> None:
        """Write what was measured; what did not fit into the memory may fit another time."""
        fitting = {name: step_s for name, step_s in self.known.items() if math.isfinite(step_s)}
        write_json(self._path, self._all | {self._device: fitting})


def _wish_of(options: TrainOptions) -> PlanWish:
    """Return what the options ask of a plan."""

    def given(name: str) -> Any:
        value = getattr(options, name)
        return None if value == AUTO else value

    spacing, patch = given("spacing"), given("patch_size")
    return PlanWish(
        configuration=given("configuration"),
        network=given("network"),
        spacing_mm=None if spacing is None else numbers_of(spacing),
        patch=None if patch is None else tuple(int(side) for side in numbers_of(patch)),
        batch=given("batch_size"),
    )


def _write(training: Training, sized: Any) -> None:
    from nnunet_medseg.nnunet.planning import write_plans

    choice = sized.choice
    write_plans(training.folder.root, sized.plans)
    write_json(
        training.folder.plan_file,
        {
            "plan": choice.candidate.name,
            "reason": choice.reason,
            "step_s": choice.step_s if math.isfinite(choice.step_s) else None,
            "steps": choice.steps,
            "threads": sized.threads,
            "channels_last": sized.channels_last,
            "recipe": recipe_of(training.options, choose_recipe(choice.steps)).to_json(),
        },
    )


def _say_workers(run: Run, shapes: Sequence[tuple[int, ...]], items: int) -> int:
    channels = len(load_checked(run.folder.check_file).channels)
    need = max(math.prod(shape) for shape in shapes) * (channels + 1) * WORK_BYTES_A_VOXEL
    workers = workers_for(need, items)
    console.detail(
        f"{console.counted(workers, 'worker')}: {core_count()} cores, "
        f"{free_memory_bytes() / 1e9:.1f} GB free, the largest case needs {need / 1e6:.0f} MB"
    )
    return workers


def preprocess(run: Run) -> None:
    """Crop, normalise and resample the cases that train, and those watched meanwhile.

    What lies in the store for the same images, spacing and normalisation is not done again.
    """
    require_dataset(run)
    trainings: dict[Path, list[Training]] = {}
    for training in trainings_of(run):
        trainings.setdefault(prepared_folder(run, training), []).append(training)
    for folder, sharing in trainings.items():
        if run.store != run.folder.root and not folder.exists():
            console.detail("this plan has other voxels than those kept; they are prepared as well")
        names = {name for training in sharing for name in _needed(run, training)}
        _preprocess_into(run, folder, sharing[0], names)


def preprocess_again(run: Run, training: Training) -> None:
    """Preprocess those cases again whose files are missing or damaged, as by a disk that failed."""
    from nnunet_medseg.nnunet.cases import PreprocessedCases, discard_damaged

    folder = prepared_folder(run, training)
    discard_damaged(folder)
    missing = _needed(run, training) - set(PreprocessedCases.get_identifiers(str(folder)))
    if missing:
        console.warn(f"{len(missing)} preprocessed cases are missing or damaged, and made again")
        preprocess(run)


def _needed(run: Run, training: Training) -> set[str]:
    if run.options.keep_dataset:
        # Another fold will train on those that are held out in this one.
        return {case.name for case in read_cases(run.folder.raw)}
    watched = {case.name for case in watched_cases(run, training)}
    return watched | set(split_of(run, training).train)


def _preprocess_into(run: Run, folder: Path, training: Training, names: set[str]) -> None:
    from nnunet_medseg.nnunet.environment import chatter

    with chatter(run.folder.log_file):
        from nnunet_medseg.nnunet.planning import Preparation, configuration_of, preprocess

    plans, configuration = configuration_of(training.folder.root)
    cases = cases_of(run, names)
    workers = _say_workers(run, _planned_shapes(run, plans["configurations"]), len(cases))
    with (
        console.progress("Preprocessing", len(cases), "cases") as bar,
        chatter(run.folder.log_file),
    ):
        preprocess(
            [raw_files(case) for case in cases],
            Preparation(plans, configuration, describe_json(run.folder.raw), folder),
            workers=workers,
            log=run.folder.log_file,
            on_case=bar.update,
        )


def _planned_shapes(run: Run, configurations: dict[str, Any]) -> list[tuple[int, ...]]:
    """Return for each case the larger of its shapes before and after resampling."""
    ((_, chosen),) = configurations.items()
    target = float(np.prod(chosen["spacing"]))
    shapes: list[tuple[int, ...]] = []
    for facts in load_checked(run.folder.check_file).facts:
        voxels = float(np.prod(facts.shape))
        # A 2D plan leaves the slice distance as it is.
        own = np.prod(sorted(facts.spacing_mm)[: len(chosen["spacing"])])
        shapes.append((int(voxels * max(1.0, own / target)),))
    return shapes
