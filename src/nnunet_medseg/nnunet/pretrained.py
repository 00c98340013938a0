"""Models to start a training from: ours, stock nnU-Net's, whole, as one file, or in a zip.

Promises: nothing of a stranger's model is run, imported by its name or built before it is checked;
sizes are compared without memory; only the entries that nnU-Net reads are passed on.
Does not promise: that the model segments anything well.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_medseg.archive import unpack_archive
from nnunet_medseg.errors import ModelError
from nnunet_medseg.nnunet.inference import (
    MAX_TEXT_BYTES,
    UNCHANGED,
    check_shapes,
    read_text,
    require_inside,
)
from nnunet_medseg.nnunet.plans import check_description, check_plans, naming
from nnunet_medseg.nnunet.weights import read_checkpoint

__all__ = ["Source", "read_source"]

ACCEPTED = (
    "Name a model folder of this program, a results folder of stock nnU-Net v2 (the one with "
    "plans.json and fold_0), one of its checkpoint_*.pth files, or a zip of such a folder."
)
PLACES = ("plans.json", "*/plans.json", "*/*/plans.json", "*/*/*/plans.json")
CHECKPOINTS = tuple(f"checkpoint_{state}.pth" for state in ("final", "best", "latest"))
MAX_ENTRIES, MAX_DEPTH = 10**6, 30  # of the same; stock has thousands, seven deep
MAX_ANCESTORS = 8  # a configuration inherits from another one, seldom from two
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}

# What nnU-Net 2.8.1 reads of plans in training and prediction; some writers add paths to them.
PLANS = (
    "dataset_name", "plans_name", "original_median_spacing_after_transp",
    "original_median_shape_after_transp", "image_reader_writer", "transpose_forward",
    "transpose_backward", "experiment_planner_used", "label_manager",
    "foreground_intensity_properties_per_channel",
)  # fmt: skip
CONFIGURATION = (
    "data_identifier", "preprocessor_name", "batch_size", "patch_size",
    "median_image_size_in_voxels", "spacing", "normalization_schemes", "use_mask_for_norm",
    "resampling_fn_data", "resampling_fn_data_kwargs", "resampling_fn_seg",
    "resampling_fn_seg_kwargs", "resampling_fn_probabilities",
    "resampling_fn_probabilities_kwargs", "batch_dice", "architecture",
)  # fmt: skip
DESCRIPTION = ("channel_names", "labels", "file_ending", "numTraining")
INTENSITIES = ("mean", "std", "percentile_00_5", "percentile_99_5")  # that CTNormalization uses

# What nnU-Net and torch raise when entries that are plain by themselves do not go together.
UNFIT = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
)


@dataclass(frozen=True)
class Source:
    """A model to start from.

    Attributes:
        folder_name: What to call it.
        plans: nnU-Net's plans, checked, with the one configuration that was trained.
        description: Its dataset.json, checked, without anything that names a file of data.
        configuration: The configuration that was trained.
        weights: The state of the network, on the CPU.
        mirror_axes: Axes that its training mirrored along; None for none.
        checkpoint: The file that the weights are from.
        note: Which fold and which file that is, for people.
    """

    folder_name: str
    plans: dict[str, Any]
    description: dict[str, Any]
    configuration: str
    weights: dict[str, torch.Tensor]
    mirror_axes: tuple[int, ...] | None
    checkpoint: Path
    note: str


@dataclass(frozen=True)
class _Found:
    """Where the parts of a model lie.

    Attributes:
        name: What to call it.
        folder: With its texts; None when the checkpoint is to tell itself.
        checkpoint: The file with the weights.
        note: Which one that is, for people.
        root: The folder that was named or unpacked; None when a file was named.
    """

    name: str
    folder: Path | None
    checkpoint: Path
    note: str
    root: Path | None = None


def read_source(path: Path, scratch: Path) -> Source:
    """Read the model that lies at a path, whatever its form.

    Args:
        path: A model folder, a folder above one, a `.pth` file or a `.zip` file.
        scratch: Folder that takes what is unpacked.

    Raises:
        ModelError: When there is no model, several, or one that is not accepted.
    """
    with naming(path):
        return _read(_find(path, scratch))


def _read(found: _Found) -> Source:
    if found.root is not None:
        require_inside(found.checkpoint, found.root)
    checkpoint = read_checkpoint(found.checkpoint)
    arguments = checkpoint.get("init_args")
    arguments = arguments if isinstance(arguments, dict) else {}
    configuration = arguments.get("configuration")
    if not isinstance(configuration, str):
        problem = f"{found.checkpoint} does not say which configuration it was trained with."
        raise ModelError(problem, fix=UNCHANGED)
    plans, description = _read_texts(found, arguments)
    plans = _single_plans(plans, configuration)
    description = _plain_description(description)
    _check_together(plans, configuration, description)
    weights = dict(checkpoint["network_weights"])
    _check_weights(weights, plans, configuration, description, checkpoint.get("trainer_name"))
    return Source(
        folder_name=found.name,
        plans=plans,
        description=description,
        configuration=configuration,
        weights=weights,
        mirror_axes=_mirror_axes(checkpoint, plans["configurations"][configuration]),
        checkpoint=found.checkpoint,
        note=found.note,
    )


# --- which files -------------------------------------------------------------------------------


def _find(path: Path, scratch: Path) -> _Found:
    ending = path.suffix.lower()
    name = path.resolve().name
    if path.is_dir():
        return _find_in_folder(path.resolve(), name)
    if path.is_file() and ending == ".pth":
        return _Found(name, None, path, f"the weights of {name}")
    if path.is_file() and ending == ".zip":
        scratch.mkdir(parents=True, exist_ok=True)
        unpacked = Path(tempfile.mkdtemp(prefix="pretrained-", dir=scratch.resolve()))
        unpack_archive(path, unpacked)
        return _find_in_folder(unpacked, path.stem)
    state = "is no model" if path.exists() else "does not exist"
    problem = f"There is nothing to start from: {path} {state}."
    raise ModelError(problem, fix=ACCEPTED)


def _find_in_folder(root: Path, name: str) -> _Found:
    folders = sorted({path.parent for place in PLACES for path in root.glob(place)})
    trained = {folder: _folds(folder) for folder in folders}
    trained = {folder: folds for folder, folds in trained.items() if folds}
    if not trained:
        missing = "weights (fold_*/checkpoint_*.pth)" if folders else "plans.json"
        problem = f"There is no model in {name}: no {missing}."
        raise ModelError(problem, fix=ACCEPTED)
    if len(trained) > 1:
        shown = ", ".join(folder.relative_to(root).as_posix() for folder in trained)
        problem = f"There are {len(trained)} models in {name}: {shown}."
        raise ModelError(problem, fix="Name one of these folders; unpack a zip first.")
    ((folder, folds),) = trained.items()
    # Ours lies in a folder `model` of the folder that has its name.
    named = folder.parent if folder.name == "model" else folder
    file, note = _choose_checkpoint(folds)
    return _Found(name if named == root else named.name, folder, file, note, root)


def _folds(folder: Path) -> list[Path]:
    """Return the folds that have weights: `fold_all` first, then by number."""
    folds = [
        path
        for path in folder.glob("fold_*")
        if re.fullmatch(r"fold_(all|[0-9]{1,4})", path.name)
        and any((path / file).is_file() for file in CHECKPOINTS)
    ]
    return sorted(folds, key=lambda path: (path.name != "fold_all", len(path.name), path.name))


def _choose_checkpoint(folds: Sequence[Path]) -> tuple[Path, str]:
    fold = folds[0]
    file = next(fold / file for file in CHECKPOINTS if (fold / file).is_file())
    note = f"the weights of {fold.name}"
    if len(folds) > 1:
        note += f", one of {len(folds)} folds"
    note += f", from {file.name}"
    if file.name != CHECKPOINTS[0]:
        note += f", since there is no {CHECKPOINTS[0]}"
    return file, note


# --- plans and dataset.json --------------------------------------------------------------------


def _read_texts(found: _Found, arguments: Mapping[str, Any]) -> tuple[Any, Any]:
    plans, description = arguments.get("plans"), arguments.get("dataset_json")
    if found.folder is None and isinstance(plans, dict) and isinstance(description, dict):
        # Of a single file; otherwise the files count, as they do for stock nnU-Net.
        return _as_json(plans), _as_json(description)
    folder = found.folder or found.checkpoint.absolute().parent.parent
    root = found.root or folder
    return read_text(folder / "plans.json", root), read_text(folder / "dataset.json", root)


def _as_json(content: Any) -> Any:
    """Return what JSON would hold of an unpickled object, which may be nested without end."""
    pieces, size = [], 0
    try:
        _require_few_entries(content)
        for piece in json.JSONEncoder().iterencode(content):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_TEXT_BYTES:
                break
        else:
            return json.loads("".join(pieces))
        cause: Exception | None = None
    except (ValueError, TypeError, RecursionError) as error:
        cause = error
    problem = "The plans in the checkpoint are not plain, or too large."
    raise ModelError(problem, fix=UNCHANGED) from cause


def _require_few_entries(content: Any) -> None:
    """Refuse what holds itself, or the same again and again: as a text it would have no end."""
    layer, left = [content], MAX_ENTRIES
    for _ in range(MAX_DEPTH):
        tables = [part for part in layer if isinstance(part, (dict, list, tuple))]
        left -= sum(map(len, tables))
        if left < 0 or not tables:
            break
        rows = (part.values() if isinstance(part, dict) else part for part in tables)
        layer = [item for row in rows for item in row]
    if left < 0 or tables:
        problem = "too many entries, or nested too deep"
        raise ValueError(problem)


def _single_plans(plans: Any, configuration: str) -> dict[str, Any]:
    """Return checked plans that hold one configuration, with all that it inherits."""
    chosen = _resolve(plans, configuration)
    if "architecture" not in chosen and "UNet_class_name" in chosen:
        problem = "The model was made by an nnU-Net before 2.4, which described networks otherwise."
        raise ModelError(problem, fix="Retrain it with a newer nnU-Net, or convert its plans.")
    if configuration == "3d_cascade_fullres" or chosen.get("previous_stage") is not None:
        problem = f"The model ({configuration}) is the second stage of a cascade: it needs the "
        problem += "output of another model."
        raise ModelError(problem, fix="Take the model of 3d_fullres, 3d_lowres or 2d.")
    single = {key: plans[key] for key in PLANS if key in plans}
    single["configurations"] = {
        configuration: {key: chosen[key] for key in CONFIGURATION if key in chosen}
    }
    try:
        check_plans(single, configuration)
    except ArithmeticError as cause:
        raise _refused("a number is out of all bounds") from cause
    return single


def _resolve(plans: Any, name: str) -> dict[str, Any]:
    """Return a configuration together with what it inherits, nearest entries first."""
    configurations = plans.get("configurations") if isinstance(plans, dict) else None
    if not isinstance(configurations, dict):
        raise _refused("there are no configurations")
    merged: dict[str, Any] = {}
    wanted: Any = name
    for _ in range(MAX_ANCESTORS):
        entries = configurations.get(wanted) if isinstance(wanted, str) else None
        if not isinstance(entries, dict):
            raise _refused("there is no such configuration", wanted)
        merged = entries | merged
        if "inherits_from" not in entries:
            return merged
        wanted = entries["inherits_from"]
    raise _refused("a configuration inherits in a circle", name)


def _plain_description(description: Any) -> dict[str, Any]:
    """Return the checked entries of dataset.json that a training needs."""
    labels = description.get("labels") if isinstance(description, dict) else None
    if not isinstance(labels, dict):
        raise _refused("dataset.json has no labels")
    another = "Take a model of plain labels, one value for each structure."
    if any(isinstance(value, list) for value in labels.values()):
        problem = "The model segments regions, which share voxels; this program trains labels "
        problem += "that do not."
        raise ModelError(problem, fix=another)
    if "ignore" in labels:
        problem = "The model was trained with an ignore label, for voxels that nobody labelled; "
        problem += "this program has none."
        raise ModelError(problem, fix=another)
    plain = {key: description[key] for key in DESCRIPTION if key in description}
    check_description(plain)
    if labels.get("background") != 0:
        raise _refused("the label 0 is not called background")
    channels = plain["channel_names"]
    numbers = [str(number) for number in range(len(channels))]
    if not isinstance(channels, dict) or sorted(channels) != sorted(numbers):
        raise _refused("the channels are not numbered from 0", channels)
    if not all(isinstance(name, str) for name in channels.values()):
        raise _refused("the name of a channel is no text", channels)
    return plain


def _check_together(
    plans: Mapping[str, Any], configuration: str, description: Mapping[str, Any]
) -> None:
    """Refuse what `check_plans` leaves open: names that become folders, and what channels need."""
    chosen = plans["configurations"][configuration]
    for name in (plans.get("dataset_name"), plans.get("plans_name"), chosen.get("data_identifier")):
        if name is not None and not _is_plain_name(name):
            raise _refused("a name is not made of letters and digits", name)
    _list_of("spacing", chosen["spacing"], len(chosen["patch_size"]), {int, float})
    channels = len(description["channel_names"])
    schemes = chosen["normalization_schemes"]
    _list_of("normalization_schemes", schemes, channels, {str})
    _list_of("use_mask_for_norm", chosen.get("use_mask_for_norm"), channels, {bool})
    _list_of("batch_dice", [chosen.get("batch_dice")], 1, {bool})
    _check_intensities(plans, schemes)


def _list_of(key: str, values: Any, length: int, kinds: set[type]) -> None:
    if not isinstance(values, list) or len(values) != length or not {*map(type, values)} <= kinds:
        raise _refused("an entry is not what the channels or axes need", {key: values})


def _is_plain_name(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"\w[\w.+-]{0,199}", name) is not None


def _check_intensities(plans: Mapping[str, Any], schemes: Iterable[str]) -> None:
    properties = plans.get("foreground_intensity_properties_per_channel")
    properties = properties if isinstance(properties, dict) else {}
    for channel, scheme in enumerate(schemes):
        known = properties.get(str(channel))
        values = [known.get(key) for key in INTENSITIES] if isinstance(known, dict) else [None]
        if scheme == "CTNormalization" and not all(
            isinstance(value, (int, float)) and abs(value) < math.inf for value in values
        ):
            raise _refused("the CT values of a channel are missing", channel)


# --- weights -----------------------------------------------------------------------------------


def _check_weights(
    weights: Mapping[str, torch.Tensor],
    plans: dict[str, Any],
    configuration: str,
    description: dict[str, Any],
    trainer: Any,
) -> None:
    """Refuse weights that are not those of the network, or not finite."""
    network = _network_on_meta(plans, configuration, description)
    try:
        check_shapes(network, [dict(weights)])
    except ModelError as cause:
        if not isinstance(trainer, str) or trainer == "nnUNetTrainer":
            raise
        problem = f"{cause.problem} It was trained by {trainer[:60]!r}, which may build another."
        raise ModelError(
            problem, fix="Take a model that the plain nnUNetTrainer trained."
        ) from cause
    if any(tensor.dtype not in FLOATS for tensor in weights.values()):
        raise _refused("the weights are not floating-point numbers")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        problem = "The weights of the model hold values that are not finite: its training diverged."
        raise ModelError(problem, fix="Take another checkpoint or another model.")


def _network_on_meta(
    plans: dict[str, Any], configuration: str, description: dict[str, Any]
) -> torch.nn.Module:
    """Return the network of the plans, which has taken a patch; neither takes memory."""
    try:
        manager = PlansManager(plans)
        chosen = manager.get_configuration(configuration)
        inputs = determine_num_input_channels(manager, chosen, description)
        heads = manager.get_label_manager(description).num_segmentation_heads
        with torch.device("meta"), torch.no_grad():
            # As in prediction, where a network of one stage has no output and fails.
            network: torch.nn.Module = nnUNetTrainer.build_network_architecture(
                manager, chosen, inputs, heads, enable_deep_supervision=False
            )
            # Sizes that are allowed one by one may still not go together.
            network(torch.empty(1, inputs, *chosen.patch_size))
    except UNFIT as cause:
        raise _refused("no network can be built from them") from cause
    return network


def _mirror_axes(
    checkpoint: Mapping[str, Any], chosen: Mapping[str, Any]
) -> tuple[int, ...] | None:
    axes = checkpoint.get("inference_allowed_mirroring_axes")
    if axes is None:
        return None
    allowed = range(len(chosen["patch_size"]))
    if not isinstance(axes, (tuple, list)) or not all(
        type(axis) is int and axis in allowed for axis in axes
    ):
        problem = "The checkpoint names axes to mirror along that its images do not have."
        raise ModelError(problem, fix=UNCHANGED)
    return tuple(axes) or None


def _refused(reason: str, value: Any = None) -> ModelError:
    shown = "" if value is None else f" ({repr(value)[:120]})"
    problem = f"The model's plans are not accepted: {reason}{shown}."
    return ModelError(problem, fix=UNCHANGED)
