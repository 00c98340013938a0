"""Two folders of label maps side by side: how good segmentations are, case by case."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_medseg import console
from nnunet_medseg.dataset.case import Finding
from nnunet_medseg.dataset.labels import parse_labels, resolve_labels
from nnunet_medseg.dataset.layouts.listing import all_images, stem_of
from nnunet_medseg.dataset.layouts.patient_folders import IMAGE_STEM, LABEL_STEM
from nnunet_medseg.dataset.raw_layout import read_description
from nnunet_medseg.dataset.repairs import whole_numbers
from nnunet_medseg.errors import DatasetError, FolderError, UsageError
from nnunet_medseg.evaluation.scores import CaseScore, score_maps
from nnunet_medseg.evaluation.statistics import bootstrap_mean
from nnunet_medseg.evaluation.summaries import LabelSummary, mean_dice_of, summarise
from nnunet_medseg.files import write_text
from nnunet_medseg.hardware import free_memory_bytes, workers_for
from nnunet_medseg.parallel import map_in_workers
from nnunet_medseg.report.summary import write_metrics
from nnunet_medseg.run_folder import require_writable
from nnunet_medseg.volume import (
    EXTENSIONS,
    GRID_TOLERANCE,
    Volume,
    VolumeError,
    grid_shift,
    read_volume,
)
from nnunet_medseg.workflows.check import show_findings

__all__ = ["Evaluation", "evaluate"]

MAX_SHOWN = 10  # cases, the worst first
# Compressed label maps unpack to some hundred times their size; distances take 8 bytes a voxel.
UNPACKED_FACTOR = 500
SMALL_BYTES = 2e6  # below, one process is done before others have started


@dataclass(frozen=True)
class Evaluation:
    """How good the segmentations of a folder are.

    Attributes:
        scores: One a case, under the name that both folders share.
        labels: What all cases say, by label name.
    """

    scores: tuple[CaseScore, ...]
    labels: dict[str, LabelSummary]


@dataclass(frozen=True)
class _Pair:
    """A case: two files, and what to measure."""

    case: str
    prediction: Path
    truth: Path


@dataclass(frozen=True)
class _Job:
    pair: _Pair
    labels: Mapping[str, int]
    tolerance_mm: float | None


@dataclass(frozen=True)
class _Seen:
    """Values of both maps of a case, and what is wrong with them."""

    values: frozenset[int]
    findings: tuple[Finding, ...]


def evaluate(
    predictions: Path,
    truths: Path,
    *,
    label: str = "NONE",
    tolerance_mm: float | None = None,
    output: Path | None = None,
) -> Evaluation:
    """Measure the segmentations of one folder against the label maps of another, and show it.

    Args:
        predictions: Folder of label maps, as `exe_predict.py` or nnU-Net writes them.
        truths: Folder of label maps, under the same names, or of patient folders.
        label: What to measure, as `-l` says it; `NONE` for every value that is there.
        tolerance_mm: Of the NSD; None takes 2 mm or the diagonal of a voxel, by case.
        output: Takes `metrics.csv` and `metrics.json`; None writes nothing.

    Raises:
        UserError: When a folder or a file cannot be used; all problems have been shown.
    """
    if tolerance_mm is not None and not 0 < tolerance_mm < math.inf:
        problem = f"--tolerance {tolerance_mm:g} is not a distance in mm."
        raise UsageError(problem, fix="Give a number above 0, as --tolerance 2.")
    if output is not None:
        require_writable(output)
    pairs = _pair(predictions, truths)
    seen = _map_over("Reading label maps", _look, pairs, pairs)
    findings = tuple(finding for item in seen for finding in item.findings)
    show_findings(findings)
    if findings:
        problem = f"Not to be compared: {console.counted(len(findings), 'file')}, as listed above."
        raise DatasetError(problem, fix="Put them right, or remove these cases from both folders.")
    found = Counter(value for item in seen for value in item.values)
    names = read_description(truths).labels or read_description(predictions).labels
    chosen = resolve_labels(parse_labels(label), found, names)
    values = {item.name: item.value for item in chosen}
    if not values:
        problem = f"Neither {predictions} nor {truths} has any label: all maps are background."
        raise DatasetError(problem, fix="Look whether these are the right folders.")
    jobs = [_Job(pair, values, tolerance_mm) for pair in pairs]
    scores = tuple(_map_over("Measuring", _score, jobs, pairs))
    result = Evaluation(scores, {name: summarise(scores, name) for name in values})
    _show(result)
    if output is not None:
        _write(output, result)
    return result


# --- which files belong together ---------------------------------------------------------------


def _pair(predictions: Path, truths: Path) -> list[_Pair]:
    first, second = _maps_in(predictions), _maps_in(truths)
    shared = sorted(first.keys() & second.keys())
    if not shared:
        problem = (
            f"No file of {predictions} has a counterpart in {truths}: they hold {len(first)} and "
            f"{len(second)} label maps, under other names."
        )
        fix = "Give both files of a case the same name, or the same folder name."
        raise DatasetError(problem, fix=fix)
    for folder, alone in ((predictions, first), (truths, second)):
        missing = sorted(alone.keys() - set(shared))
        if missing:
            more = " …" if len(missing) > MAX_SHOWN else ""
            console.warn(
                f"{len(missing)} in {folder} without a counterpart: "
                f"{', '.join(missing[:MAX_SHOWN])}{more}"
            )
    return [_Pair(case, first[case], second[case]) for case in shared]


def _maps_in(folder: Path) -> dict[str, Path]:
    """Return the label maps of a folder and all below, by the name of the case."""
    if not folder.is_dir():
        problem = f"The folder {folder} does not exist."
        raise FolderError(problem, fix="Name a folder with label maps.")
    files = all_images(folder, EXTENSIONS)
    labelled = {path.parent for path in files if LABEL_STEM.match(stem_of(path))}
    found: dict[str, Path] = {}
    for path in files:
        is_label = LABEL_STEM.match(stem_of(path)) is not None
        if path.parent in labelled and path.parent != folder and not is_label:
            # The image beside a label map, in the folder of a patient.
            continue
        case = _case_of(path.relative_to(folder))
        if case in found:
            problem = f"{found[case]} and {path} are both of the case {case}."
            raise DatasetError(problem, fix="Keep one of the two.")
        found[case] = path
    return found


def _case_of(path: Path) -> str:
    stem = stem_of(path)
    is_generic = LABEL_STEM.match(stem) or IMAGE_STEM.match(stem)
    name = path.parent if is_generic and path.parent != Path() else path.parent / stem
    return name.as_posix()


# --- reading and measuring, one case a call ----------------------------------------------------


def _map_over(title: str, function: Any, items: Sequence[Any], pairs: Sequence[_Pair]) -> Any:
    sizes = [pair.prediction.stat().st_size + pair.truth.stat().st_size for pair in pairs]
    workers = 1
    if sum(sizes) > SMALL_BYTES:
        workers = workers_for(UNPACKED_FACTOR * max(sizes), len(items))
    with console.progress(title, len(items), "cases") as bar:
        return map_in_workers(function, items, workers=workers, on_result=bar.update)


def _look(pair: _Pair) -> _Seen:
    import numpy as np

    maps: list[Volume] = []
    findings = []
    for path in (pair.prediction, pair.truth):
        try:
            maps.append(_read(path, free_memory_bytes()))
        except VolumeError as problem:
            message = f"{path}: {problem.problem}"
            findings.append(Finding("error", pair.case, problem.rule, message, problem.fix))
    values = {int(value) for volume in maps for value in np.unique(volume.array) if value != 0}
    if len(maps) == 2 and (shift := grid_shift(*maps)) > GRID_TOLERANCE:
        message = "the two maps do not lie on one grid" + (
            f" ({shift:.2f} voxels apart)" if math.isfinite(shift) else " (other sizes)"
        )
        fix = "Resample one onto the grid of the other, with nearest neighbour."
        findings.append(Finding("error", pair.case, "geometry mismatch", message, fix))
    return _Seen(frozenset(values), tuple(findings))


def _read(path: Path, memory_bytes: float = math.inf) -> Volume:
    """Read a label map; whole numbers may be stored as floating point, as in training."""
    volume = read_volume(path, memory_bytes=memory_bytes, is_label=True)
    array = volume.array
    whole = whole_numbers(array) if array.dtype.kind == "f" else array
    if whole is None or whole.min() < 0:
        fix = "Name a label map with values 0, 1, 2 …, not an image or probabilities."
        raise VolumeError("label values", "it holds values that are no labels", fix)
    return volume.with_array(whole)


def _score(job: _Job) -> CaseScore:
    prediction, truth = (_read(path) for path in (job.pair.prediction, job.pair.truth))
    measured = score_maps(
        truth.array, prediction.array, job.labels, truth.spacing_mm, job.tolerance_mm
    )
    return CaseScore(job.pair.case, measured)


# --- what people read --------------------------------------------------------------------------


def _show(result: Evaluation) -> None:
    columns = ["label", "cases", "Dice", "95 %", "HD95 mm", "NSD", "mean distance mm"]
    columns += ["volume error ml", "found", "false a case"]
    rows = [[name, *_cells(summary)] for name, summary in result.labels.items()]
    console.table(console.counted(len(result.scores), "case"), columns, rows)
    missed = {name: item.missed for name, item in result.labels.items() if item.missed}
    if missed:
        shown = ", ".join(f"{name} in {count}" for name, count in missed.items())
        console.warn(f"not found at all: {shown} of the cases")
    worst = sorted(result.scores, key=lambda score: _or_last(mean_dice_of(score)))[:MAX_SHOWN]
    rows = [[score.case, *(_number(dice, 3) for dice in score.dice.values())] for score in worst]
    console.table("The worst cases, Dice", ["case", *result.labels], rows)
    overall = bootstrap_mean([mean_dice_of(score) for score in result.scores])
    console.detail(
        f"mean Dice {_number(overall.mean, 3)} (95 % interval {_number(overall.low, 3)} to "
        f"{_number(overall.high, 3)}); HD95 and mean distance are medians"
    )


def _cells(summary: LabelSummary) -> list[str]:
    dice = summary.dice
    return [
        str(summary.cases),
        _number(dice.mean, 3),
        f"{_number(dice.low, 3)} to {_number(dice.high, 3)}",
        _number(summary.hd95_mm, 2),
        _number(summary.nsd, 3),
        _number(summary.mean_distance_mm, 2),
        _number(summary.volume_error_ml, 2),
        f"{summary.sensitivity:.0%}" if not math.isnan(summary.sensitivity) else "-",
        _number(summary.false_per_case, 2),
    ]


def _number(value: float, digits: int) -> str:
    if math.isnan(value):
        return "-"
    return "inf" if math.isinf(value) else f"{value:.{digits}f}"


def _or_last(dice: float) -> float:
    return 2.0 if math.isnan(dice) else dice


def _write(output: Path, result: Evaluation) -> None:
    write_metrics(output / "metrics.csv", list(result.labels), result.scores)
    content = {
        "labels": {name: asdict(summary) for name, summary in result.labels.items()},
        "cases": [asdict(score) for score in result.scores],
    }
    text = json.dumps(_plain(content), indent=2, allow_nan=False)
    write_text(output / "metrics.json", f"{text}\n")
    console.detail(f"metrics.csv and metrics.json are in {output}")


def _plain(content: Any) -> Any:
    """Return the content with null for what JSON has no number for: NaN, and "inf" as text."""
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None if math.isnan(content) else "inf"
    return content
