"""Segmentation of whole images with nnU-Net's own predictor, from weights in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_medseg.errors import ModelError
from nnunet_medseg.files import read_json
from nnunet_medseg.hardware import Device
from nnunet_medseg.nnunet.plans import check_description, check_plans, naming, reorients
from nnunet_medseg.nnunet.weights import read_checkpoint
from nnunet_medseg.volume import silence_readers

__all__ = [
    "Model",
    "Segmenter",
    "build_network",
    "check_shapes",
    "make_predictor",
    "read_model",
    "read_text",
    "require_inside",
    "segment_with_stock",
]

UNCHANGED = "Use a model of this program or of stock nnU-Net v2, unchanged."
MAX_TEXT_BYTES = 16 * 10**6  # of plans or dataset.json; stock writes kilobytes
AXES = (0, 1, 2)  # that a prediction may mirror along


@dataclass(frozen=True)
class Model:
    """A trained model in memory.

    Attributes:
        plans: nnU-Net's plans, checked.
        description: Its dataset.json, checked.
        configuration: The configuration that was trained.
        mirror_axes: Axes that prediction mirrors along; None for none.
        weights: The state of the network, one for each fold.
    """

    plans: Mapping[str, Any]
    description: Mapping[str, Any]
    configuration: str
    mirror_axes: tuple[int, ...] | None
    weights: tuple[dict[str, torch.Tensor], ...]


def read_model(folder: Path) -> Model:
    """Read a model folder: dataset.json, plans.json and `fold_*/checkpoint_final.pth`.

    Raises:
        ModelError: When something is missing, damaged or not accepted.
    """
    plans = read_text(folder / "plans.json", folder)
    description = read_text(folder / "dataset.json", folder)
    files = sorted(folder.glob("fold_*/checkpoint_final.pth"))
    if not files:
        problem = f"The model in {folder} has no weights (fold_*/checkpoint_final.pth)."
        raise ModelError(problem, fix="Copy the whole model folder again.")
    for path in files:
        require_inside(path, folder)
    checkpoints = [read_checkpoint(path) for path in files]
    first = checkpoints[0]
    configuration, axes = _read_arguments(first, files[0])
    with naming(folder):
        check_plans(plans, configuration)
        check_description(description)
    weights = tuple(checkpoint["network_weights"] for checkpoint in checkpoints)
    return Model(plans, description, configuration, axes, weights)


def read_text(path: Path, root: Path) -> Any:
    """Read plans.json or dataset.json of a model.

    Args:
        path: The file.
        root: The folder that the user has named.

    Raises:
        ModelError: When it is missing, a link that leads out of the folder, too large or no JSON.
    """
    require_inside(path, root)
    if path.stat().st_size > MAX_TEXT_BYTES:
        problem = f"{path} is larger than {MAX_TEXT_BYTES // 10**6} MB, which no plans are."
        raise ModelError(problem, fix=UNCHANGED)
    try:
        return read_json(path)
    except (ValueError, RecursionError) as cause:
        problem = f"{path} cannot be read: it is not JSON."
        raise ModelError(problem, fix="Copy the whole model folder again.") from cause


def require_inside(path: Path, root: Path) -> None:
    """Refuse a file of a model that is no file, or that a link leads to from another folder.

    Raises:
        ModelError: Naming it.
    """
    if not path.is_file():
        problem = f"The model has no file {path}."
        raise ModelError(problem, fix="Copy the whole model folder again.")
    if root.resolve() not in path.resolve().parents:
        problem = f"{path} is a link that leads out of the model's folder; it is not followed."
        raise ModelError(problem, fix="Copy what it leads to into the model's folder.")


def _read_arguments(
    checkpoint: Mapping[str, Any], path: Path
) -> tuple[str, tuple[int, ...] | None]:
    """Return the configuration and the mirror axes; None for none, as nnU-Net wants it."""
    arguments = checkpoint.get("init_args")
    configuration = arguments.get("configuration") if isinstance(arguments, dict) else None
    axes = checkpoint.get("inference_allowed_mirroring_axes") or ()
    are_axes = isinstance(axes, (tuple, list)) and all(axis in AXES for axis in axes)
    if not isinstance(configuration, str) or not are_axes:
        problem = f"{path} does not say how its weights were trained."
        raise ModelError(problem, fix="Copy the model folder again, or take another model.")
    return configuration, tuple(axes) or None


class Segmenter:
    """Predicts label maps with a model.

    Args:
        model: What to predict with.
        device: Where to compute; float32 on a CPU and half precision on CUDA, as stock does.
        in_bfloat16: Whether a CPU computes in bfloat16, as it trains: faster where the hardware
            has it. Stock nnU-Net computes in float32.

    Raises:
        ModelError: When the weights do not fit the plans.
    """

    def __init__(self, model: Model, device: Device, *, in_bfloat16: bool = False) -> None:
        self._autocast = torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16)
        silence_readers()
        self.reorients = reorients(model.plans)
        self._reader = PlansManager(dict(model.plans)).image_reader_writer_class()
        self._predictor = make_predictor(model, build_network(model), device)
        if device.kind == "cuda":
            # The proof of a model repeats what it segments, in another process.
            _make_repeatable()

    def segment(self, images: Sequence[Path]) -> np.ndarray[Any, Any]:
        """Segment one case.

        Args:
            images: One file a channel, in channel order.

        Returns:
            Label map `(z, y, x)` with values 0 … n, in the orientation of the model's reader.
        """
        array, properties = self._reader.read_images([str(path) for path in images])
        with self._autocast:
            return np.asarray(self._predictor.predict_single_npy_array(array, properties))

    def read_truth(self, path: Path) -> tuple[np.ndarray[Any, Any], tuple[float, ...]]:
        """Read a label map as `segment` returns one, in the reader's orientation.

        Returns:
            The map, shape `(z, y, x)`, and the spacing in mm in the same order.
        """
        array, properties = self._reader.read_seg(str(path))
        spacing_mm = tuple(float(side) for side in properties["spacing"])
        return np.asarray(array[0]).astype(np.int32), spacing_mm


def build_network(model: Model) -> torch.nn.Module:
    """Return the network of a model, with the weights of its first fold.

    Raises:
        ModelError: When the weights do not fit the plans.
    """
    manager = PlansManager(dict(model.plans))
    configuration = manager.get_configuration(model.configuration)
    description = dict(model.description)
    arguments = (
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        determine_num_input_channels(manager, configuration, description),
        manager.get_label_manager(description).num_segmentation_heads,
    )
    # On the meta device a network takes no memory; only then are the shapes trusted.
    with torch.device("meta"):
        skeleton = get_network_from_plans(*arguments, deep_supervision=False)
    check_shapes(skeleton, model.weights)
    network: torch.nn.Module = get_network_from_plans(
        *arguments, allow_init=False, deep_supervision=False
    )
    network.load_state_dict(model.weights[0])
    return network


def make_predictor(model: Model, network: torch.nn.Module, device: Device) -> Any:
    """Return nnU-Net's own predictor with a model."""
    # Late: with it come compilers and plots, seconds that prediction on a CPU does without.
    from nnunet_medseg.nnunet.predictor import WatchedPredictor

    manager = PlansManager(dict(model.plans))
    predictor = WatchedPredictor(device=_place(device), allow_tqdm=False)
    predictor.manual_initialization(
        network, manager, manager.get_configuration(model.configuration), list(model.weights),
        dict(model.description), "nnUNetTrainer", model.mirror_axes,
    )  # fmt: skip
    return predictor


def _make_repeatable() -> None:
    """Let two processes convolve alike on a GPU, where cuDNN else takes what was fastest just now.

    Predictors choose that when they are made, so this comes after.
    """
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _place(device: Device) -> torch.device:
    return torch.device(device.kind, device.index) if device.kind == "cuda" else torch.device("cpu")


def check_shapes(network: torch.nn.Module, weights: Sequence[dict[str, torch.Tensor]]) -> None:
    """Refuse weights whose names or shapes are not those of a network, which may be on meta.

    Raises:
        ModelError: When they differ.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for state in weights:
        if {name: tuple(tensor.shape) for name, tensor in state.items()} != expected:
            problem = "The weights of the model do not fit the network that its plans describe."
            raise ModelError(problem, fix="Copy the whole model folder again.")


def segment_with_stock(
    folder: Path, folds: Sequence[str], images: Sequence[Path], device: Device
) -> np.ndarray[Any, Any]:
    """Segment one case as stock nnU-Net does from a model folder, with all of its own code.

    Args:
        folder: The model folder.
        folds: "all", or numbers; several are an ensemble.
        images: One file a channel.
        device: Where to compute.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=_place(device), allow_tqdm=False)
    numbers = tuple(fold if fold == "all" else int(fold) for fold in folds)
    if device.kind == "cuda":
        _make_repeatable()
    predictor.initialize_from_trained_model_folder(str(folder), numbers, "checkpoint_final.pth")
    silence_readers()
    reader = predictor.plans_manager.image_reader_writer_class()
    array, properties = reader.read_images([str(path) for path in images])
    return np.asarray(predictor.predict_single_npy_array(array, properties))
