"""Two models on the same labelled cases: which is better, and where they disagree.

Promises: both segment the same images and are held against the same label maps, whatever their
readers and numbers of labels are; nothing in the folder of the dataset is changed or deleted.
Does not promise: that the cases are new to the models. A model looks better on cases that it was
trained on, and no model tells which these are.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_medseg import console
from nnunet_medseg.bundle.locate import find_model
from nnunet_medseg.dataset.checked import Checked, Wishes, check_dataset
from nnunet_medseg.dataset.convert import ConversionJob, convert_cases
from nnunet_medseg.dataset.intake import (
    ANY_LAYOUT,
    check_extension,
    check_layout,
    find_dataset,
    read_dataset,
)
from nnunet_medseg.dataset.labels import LabelMap
from nnunet_medseg.dataset.raw_layout import RawCase, read_cases
from nnunet_medseg.errors import DatasetError, FolderError, ModelError
from nnunet_medseg.evaluation.overlap import dice_by_label, mean_dice
from nnunet_medseg.hardware import Device, choose_device
from nnunet_medseg.nnunet.plans import channel_names
from nnunet_medseg.report.comparison import (
    Comparison,
    Entry,
    compare_entries,
    table_rows,
    write_comparison,
)
from nnunet_medseg.run_folder import SCRATCH, lock, require_writable, sweep
from nnunet_medseg.volume import read_volume, restore_orientation
from nnunet_medseg.workflows.check import show_findings
from nnunet_medseg.workflows.predict import labels_of
from nnunet_medseg.workflows.scoring import predicted_values

__all__ = ["compare"]

Array = np.ndarray[Any, Any]

RESULT = "comparison.csv"  # in the output folder
LOG = "compare-log.txt"  # in the work folder, while a comparison is at work or after it failed
MAX_DISAGREEMENTS = 5  # cases shown to be looked at


@dataclass(frozen=True)
class _Contender:
    """One of the two models.

    Attributes:
        name: What to call it.
        model: As `read_model` returns it.
        labels: What it writes: the user's values, and its own indices.
    """

    name: str
    model: Any
    labels: LabelMap

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the images that it wants, in order."""
        return channel_names(self.model.description)


@dataclass(frozen=True)
class _Job:
    """What both models share.

    Attributes:
        cases: As converted.
        sources: The user's name of each case, by ours.
        labels: The labels to compare, with the indices of the converted label maps.
        channels: Names of the images of the cases, in order.
        scratch: Takes the segmentations.
        log: Takes what nnU-Net prints.
    """

    cases: tuple[RawCase, ...]
    sources: Mapping[str, str]
    labels: LabelMap
    channels: tuple[str, ...]
    scratch: Path
    log: Path


def compare(  # noqa: PLR0913 public: each option of the command is an argument
    model_a: Path,
    model_b: Path,
    dataset: Path,
    work_folder: Path,
    *,
    device: str = "auto",
    output: Path | None = None,
    extension: str | None = None,
    layout: str = ANY_LAYOUT,
) -> Comparison:
    """Compare two models on labelled cases, and show the result.

    Args:
        model_a: A model folder of this program or of stock nnU-Net, or a folder around one.
        model_b: Another.
        dataset: Labelled cases in any layout that can be trained on. A model looks better on those
            that it was trained on.
        work_folder: Takes work in progress; private.
        device: "auto", "cpu", "cuda" or "cuda:N".
        output: Folder that takes `comparison.csv`, which is never overwritten; None for none.
        extension: Only files of this ending are images and label maps; None as for training.
        layout: How the dataset's folder is to be read; as for training.

    Returns:
        The Dice of both by label with intervals, and whether their difference is more than chance.

    Raises:
        UserError: When something is wrong that the user can put right.
    """
    given = (Path(model_a).absolute(), Path(model_b).absolute())
    folders = [find_model(folder) for folder in given]
    wanted = None if extension is None else check_extension(extension)
    layout = check_layout(layout)
    result = None if output is None else _free_result(Path(output).absolute())
    work = Path(work_folder).absolute()
    with lock(work):
        sweep(work)
        log = work / LOG
        contenders = _read_models(folders, _names_of(*given), log)
        chosen = choose_device(device)
        checked = _check(Path(dataset).absolute(), wanted, layout)
        labels = _shared_labels(contenders, checked.labels)
        _warn_of_labels(contenders, checked.labels, labels)
        _require_channels(contenders, checked.channels)
        with tempfile.TemporaryDirectory(dir=work, prefix=SCRATCH) as scratch:
            job = _convert(checked, labels, Path(scratch), log)
            entries = [_measure(job, contender, chosen) for contender in contenders]
            agreements = _agreements(job, contenders)
        # Entries are by the user's names of the cases.
        owners = {case.source: case.owner for case in checked.cases}
        comparison = compare_entries(entries, owners=owners)
        _show(comparison, entries, agreements)
        if result is not None:
            # A row may name a patient.
            write_comparison(result, comparison, entries, mode=0o600)
            console.detail(f"the Dice of every case is in {result}")
        log.unlink(missing_ok=True)
    return comparison


def _free_result(folder: Path) -> Path:
    require_writable(folder)
    if (folder / RESULT).exists():
        problem = f"There is a {RESULT} in {folder} already."
        raise FolderError(problem, fix="Move it away; nothing is overwritten here.")
    return folder / RESULT


def _names_of(first: Path, second: Path) -> tuple[str, str]:
    if first.name != second.name:
        return first.name, second.name
    return f"A {first.name}", f"B {second.name}"


def _read_models(
    folders: Sequence[Path], names: Sequence[str], log: Path
) -> tuple[_Contender, ...]:
    from nnunet_medseg.nnunet.environment import chatter, prepare

    prepare()
    with chatter(log):
        from nnunet_medseg.nnunet.inference import read_model

        models = [read_model(folder) for folder in folders]
    contenders = []
    for name, folder, model in zip(names, folders, models, strict=True):
        contenders.append(_Contender(name, model, labels_of(folder, model.description)))
        console.detail(f"{name}: {folder}; labels {_listed(contenders[-1].labels)}")
    return tuple(contenders)


def _listed(labels: LabelMap) -> str:
    return ", ".join(f"{label.name} = {label.value}" for label in labels)


def _check(folder: Path, extension: str | None, layout: str) -> Checked:
    found = read_dataset(find_dataset(folder, layout), extension, layout)
    # Nobody trains here: a patient that is marked for validation is one like the others.
    cases = tuple(replace(case, is_held_out=False) for case in found.cases)
    wishes = Wishes(labels=(), image_types=(), fold="all", seed=0)
    with console.progress("Reading images", len(cases), "cases") as bar:
        outcome = check_dataset(replace(found, cases=cases), wishes, bar.update)
    show_findings(outcome.findings)
    if outcome.error is not None:
        raise outcome.error
    if outcome.checked is None:
        count = sum(finding.severity == "error" for finding in outcome.findings)
        problem = f"The dataset has {console.counted(count, 'problem')}, listed above."
        raise DatasetError(problem, fix="Put them right and run the same command again.")
    return outcome.checked


def _shared_labels(contenders: Sequence[_Contender], held: LabelMap) -> LabelMap:
    """Return the labels that both models write and the label maps hold.

    Their names are those of the first model, their indices those of the label maps.
    """
    first, second = ({label.value: label.name for label in item.labels} for item in contenders)
    shared = tuple(
        replace(label, name=first[label.value])
        for label in held
        if label.value in first and label.value in second
    )
    if not shared:
        has = [f"{item.name} writes {_listed(item.labels)}" for item in contenders]
        has.append(f"the label maps hold {_listed(held)}")
        problem = f"No label is in both models and in the label maps: {'; '.join(has)}."
        fix = "Compare models of the same structures, with label maps that number them alike."
        raise ModelError(problem, fix=fix)
    _require_same_numbers(contenders, shared)
    return shared


def _require_same_numbers(contenders: Sequence[_Contender], shared: LabelMap) -> None:
    """Refuse models of which one writes the value of a label for another one of the same names.

    By value one of them would score nothing, and that is not what its segmentations are worth.
    """
    first, second = (
        {label.value: label.name.lower() for label in item.labels} for item in contenders
    )
    traded = [
        label.value
        for label in shared
        if first[label.value] != second[label.value]
        and (first[label.value] in second.values() or second[label.value] in first.values())
    ]
    if traded:
        values = ", ".join(map(str, traded))
        has = "; ".join(f"{item.name} writes {_listed(item.labels)}" for item in contenders)
        problem = f"The models mean different labels by the values {values}: {has}."
        fix = "Train one of them again with the values of the other: -l NAME=VALUE."
        raise ModelError(problem, fix=fix)


def _warn_of_labels(contenders: Sequence[_Contender], held: LabelMap, shared: LabelMap) -> None:
    """Say which labels are left out, and which ones the two models call differently."""
    first, second = ({label.value: label.name for label in item.labels} for item in contenders)
    names = {label.value: label.name for label in held} | second | first
    for label in shared:
        del names[label.value]
        if label.name.lower() != second[label.value].lower():
            console.warn(
                f"{label.value} is {label.name} for {contenders[0].name} and "
                f"{second[label.value]} for {contenders[1].name}; labels are compared by value"
            )
    if names:
        shown = ", ".join(f"{name} = {value}" for value, name in sorted(names.items()))
        console.warn(f"not compared, since not in both models and the label maps: {shown}")


def _require_channels(contenders: Sequence[_Contender], channels: Sequence[str]) -> None:
    for contender in contenders:
        if len(contender.channels) != len(channels):
            problem = (
                f"{contender.name} wants {len(contender.channels)} images a case "
                f"({', '.join(contender.channels)}); the dataset has {len(channels)} "
                f"({', '.join(channels)})."
            )
            raise ModelError(problem, fix="Use a dataset with the images that both models want.")
        if sorted(map(str.lower, contender.channels)) != sorted(map(str.lower, channels)):
            console.warn(
                f"{contender.name} was trained on images called {', '.join(contender.channels)}; "
                f"it is given {', '.join(channels)}, in this order"
            )


def _convert(checked: Checked, labels: LabelMap, scratch: Path, log: Path) -> _Job:
    jobs = [
        ConversionJob(case, facts, checked.labels, scratch)
        for case, facts in zip(checked.cases, checked.facts, strict=True)
    ]
    with console.progress("Converting", len(jobs), "cases") as bar:
        convert_cases(jobs, bar.update)
    sources = {case.name: case.source for case in checked.cases}
    return _Job(read_cases(scratch), sources, labels, checked.channels, scratch, log)


def _measure(job: _Job, contender: _Contender, device: Device) -> Entry:
    """Segment and score every case with one model, the only one with a network in memory."""
    from nnunet_medseg.nnunet.environment import chatter
    from nnunet_medseg.nnunet.inference import Segmenter

    with chatter(job.log):
        segmenter = Segmenter(contender.model, device)
    ours = {label.value: label.index for label in job.labels}
    index_of = {item.index: ours[item.value] for item in contender.labels if item.value in ours}
    order = _image_order(contender.channels, job.channels)
    scores, seconds = {}, 0.0
    with console.progress("Segmenting", len(job.cases), "cases") as bar:
        bar.update(0, contender.name)
        for number, case in enumerate(job.cases, start=1):
            started = time.monotonic()
            with chatter(job.log):
                written = segmenter.segment([case.images[place] for place in order])
                seconds += time.monotonic() - started
                truth, _ = segmenter.read_truth(case.label)
            predicted = predicted_values(written, index_of)
            scores[job.sources[case.name]] = _dice(truth, predicted, job.labels)
            if segmenter.reorients:
                predicted = restore_orientation(predicted, read_volume(case.images[0])).array
            _keep(job, contender.name, case, predicted)
            bar.update(number, contender.name)
    return Entry(contender.name, scores, seconds)


def _image_order(wanted: Sequence[str], given: Sequence[str]) -> tuple[int, ...]:
    """Return the places of the images that a model wants: by their names where these tell."""
    known, asked = ([name.lower() for name in names] for names in (given, wanted))
    if sorted(known) == sorted(set(asked)):
        return tuple(known.index(name) for name in asked)
    return tuple(range(len(given)))


def _dice(truth: Array, predicted: Array, labels: LabelMap) -> dict[str, float]:
    dice = dice_by_label(truth, predicted, [label.index for label in labels])
    return {label.name: dice[label.index] for label in labels}


def _keep(job: _Job, name: str, case: RawCase, predicted: Array) -> None:
    """Write a segmentation as the image is stored, so that it can be held against another."""
    path = _kept_file(job, name, case)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, predicted=predicted)


def _kept_file(job: _Job, name: str, case: RawCase) -> Path:
    return job.scratch / "segmentations" / name / f"{case.name}.npz"


def _agreements(job: _Job, contenders: Sequence[_Contender]) -> dict[str, float]:
    """Return the mean Dice of the one segmentation against the other, by the user's case name."""
    agreements = {}
    for case in job.cases:
        first, second = (_load(_kept_file(job, item.name, case)) for item in contenders)
        dice = _dice(first, second, job.labels)
        agreements[job.sources[case.name]] = mean_dice(list(dice.values()))
    return agreements


def _load(path: Path) -> Array:
    with np.load(path) as kept:
        return np.asarray(kept["predicted"])


def _show(
    comparison: Comparison, entries: Sequence[Entry], agreements: Mapping[str, float]
) -> None:
    title = f"{len(agreements)} cases, with intervals of 95 % and the minutes to segment them"
    console.table(title, *table_rows(comparison))
    console.detail(comparison.verdict)
    # Where neither marks anything there is no number, and nothing to look at.
    apart = sorted((dice, case) for case, dice in agreements.items() if dice < 1)
    if not apart:
        console.detail("both segment every case alike")
        return
    rows = []
    for agreement, case in apart[:MAX_DISAGREEMENTS]:
        dice = [mean_dice(list(entry.scores[case].values())) for entry in entries]
        rows.append([case, *("none" if math.isnan(one) else f"{one:.3f}" for one in dice)])
        rows[-1].append(f"{agreement:.3f}")
    columns = ["case", *(f"Dice of {entry.name}" for entry in entries), "agreement"]
    console.table("Cases to look at, where the two disagree most", columns, rows)
