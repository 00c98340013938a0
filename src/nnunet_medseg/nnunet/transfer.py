"""Moving weights into a network with other labels and other channels.

A network of nnU-Net knows its labels only in the rows of its heads, and its channels only in its
first convolution; all that lies between is taken over as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_medseg.errors import ModelError, UsageError
from nnunet_medseg.nnunet.plans import channel_names

__all__ = [
    "Matching",
    "Names",
    "Transfer",
    "match_channels",
    "match_labels",
    "names_of",
    "new_network",
    "transfer",
]

# Names in dynamic_network_architectures 0.4, of its PlainConvUNet and its ResidualEncoderUNet.
FIRST_CONVOLUTIONS = (
    "encoder.stages.0.0.convs.0.conv.weight",
    "encoder.stem.convs.0.conv.weight",
)
HEADS = ".seg_layers."  # one for each resolution that training looks at
FIX = "Train the network that the model has, or start from another model."


@dataclass(frozen=True)
class Matching:
    """What the outputs and inputs of a network are in the model that it starts from.

    Attributes:
        labels: For each output, the background first, the model's output; None for a new one.
        channels: For each channel, the model's channel; None for the average of all its channels.
    """

    labels: tuple[int | None, ...]
    channels: tuple[int | None, ...]


@dataclass(frozen=True)
class Names:
    """What the outputs and inputs of a network are called.

    Attributes:
        labels: In the order of the outputs, the background first.
        channels: In the order of the inputs.
    """

    labels: tuple[str, ...]
    channels: tuple[str, ...]


@dataclass(frozen=True)
class Transfer:
    """Weights to start from, and where they come from.

    The three numbers count parameters, each once, and add up to all that the network has.

    Attributes:
        weights: The state of the network, on the CPU; names of one tensor share its memory.
        transferred: Parameters that are the model's.
        adapted: Parameters that are averages of the model's.
        initialised: Parameters that are random.
        lines: Sentences for people, without their full stops.
    """

    weights: dict[str, torch.Tensor]
    transferred: int
    adapted: int
    initialised: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class _Moved:
    """A tensor, and how many of its parameters are averages or random."""

    tensor: torch.Tensor
    adapted: int = 0
    initialised: int = 0


def names_of(description: Mapping[str, Any]) -> Names:
    """Return the names in a checked dataset.json."""
    labels = description["labels"]
    return Names(
        labels=tuple(sorted(labels, key=lambda name: int(labels[name]))),
        channels=channel_names(description),
    )


# --- what matches what -------------------------------------------------------------------------


def match_labels(
    source_labels: Mapping[str, int],
    target_labels: Mapping[str, int],
    renamed: Mapping[str, str],
    source_values: Mapping[str, int],
    target_values: Mapping[str, int],
) -> tuple[int | None, ...]:
    """Find for each output of a network the output of the model that means the same.

    The background is the background. A label is the one that `renamed` says, or the one of its
    name, or, where its name is no more than its value (`label_5`), the one of that value. No
    output of the model is taken twice.

    Args:
        source_labels: Output by name, of the model; the background is 0.
        target_labels: Output by name, of the network.
        renamed: Name in the network, by name in the model.
        source_values: Value in the label maps that the model was trained on, by name.
        target_values: Value in the label maps of this training, by name.

    Raises:
        UsageError: When `renamed` names a label that is not there.

    Examples:
        >>> labels = {"background": 0, "Liver": 1, "Tumor": 2}
        >>> match_labels({"background": 0, "tumor": 1}, labels, {}, {}, {})
        (0, None, 1)
    """
    source, target = _foreground(source_labels), _foreground(target_labels)
    _require_known(renamed, source, target)
    asked = {(_plain(old), _plain(new)) for old, new in renamed.items()}
    kinds: tuple[Callable[[str, str], bool], ...] = (
        lambda old, new: (_plain(old), _plain(new)) in asked,
        lambda old, new: old == new,
        lambda old, new: _plain(old) == _plain(new),
        lambda old, new: source_values.get(old, 0) == _automatic_value(new, target_values),
    )
    matched: dict[int, int] = {}
    for are_same, new, old in product(kinds, target, source):
        head, row = target[new], source[old]
        if are_same(old, new) and head not in matched and row not in matched.values():
            matched[head] = row
    return (0, *(matched.get(head) for head in sorted(target.values())))


def _automatic_value(name: str, values: Mapping[str, int]) -> int | None:
    """Return the value of a label that nobody named; None for one with a name."""
    value = values.get(name)
    return value if _plain(name) == f"label_{value}" else None


def _foreground(labels: Mapping[str, int]) -> dict[str, int]:
    return {name: head for name, head in labels.items() if head != 0}


def _plain(name: str) -> str:
    return name.strip().casefold()


def _require_known(
    renamed: Mapping[str, str], source: Iterable[str], target: Iterable[str]
) -> None:
    places = ((renamed.keys(), source, "model"), (renamed.values(), target, "dataset"))
    for asked, labels, place in places:
        known = [_plain(name) for name in labels]
        plain = [_plain(name) for name in asked]
        unknown = [name for name in asked if _plain(name) not in known]
        if unknown:
            problem = f"--map_labels: the {place} has no label {', '.join(unknown)}; it has "
            problem += f"{_and(labels)}."
            raise UsageError(problem, fix="Write it as OLD=NEW, for example Tumour=Lesion.")
        if len(set(plain)) < len(plain):
            problem = f"--map_labels: a label of the {place} comes twice."
            raise UsageError(problem, fix="Give each label of the model one of the dataset.")


def match_channels(source: Sequence[str], target: Sequence[str]) -> tuple[int | None, ...]:
    """Find for each channel of a network the channel of the model that means the same.

    Channels match by name, those of one name in order. When both have the same number of channels
    the rest match in order; otherwise what is left of the network's has no match.

    Examples:
        >>> match_channels(["T1", "FLAIR"], ["flair", "t1"]), match_channels(["T1"], ["t1", "T2"])
        ((1, 0), (0, None))
    """
    free = dict(enumerate(map(_plain, source)))
    matched: list[int | None] = []
    for name in map(_plain, target):
        place = next((place for place, known in free.items() if known == name), None)
        matched.append(place)
        free.pop(place if place is not None else -1, None)
    if len(source) != len(target):
        return tuple(matched)
    rest = iter(free)
    return tuple(place if place is not None else next(rest) for place in matched)


def new_network(
    plans: Mapping[str, Any], configuration: str, description: Mapping[str, Any], seed: int
) -> torch.nn.Module:
    """Return the network of plans with random weights, as a training from scratch begins with.

    Args:
        plans: nnU-Net's plans, checked.
        configuration: Which of their configurations.
        description: The dataset.json, which tells the numbers of labels and channels.
        seed: Of the weights.
    """
    manager = PlansManager(dict(plans))
    chosen = manager.get_configuration(configuration)
    inputs = determine_num_input_channels(manager, chosen, dict(description))
    heads = manager.get_label_manager(dict(description)).num_segmentation_heads
    torch.manual_seed(seed)
    network = nnUNetTrainer.build_network_architecture(manager, chosen, inputs, heads)
    return cast("torch.nn.Module", network)


# --- moving ------------------------------------------------------------------------------------


def transfer(
    weights: Mapping[str, torch.Tensor],
    network: torch.nn.Module,
    matching: Matching,
    source: Names,
    target: Names,
) -> Transfer:
    """Fill a network with the weights of a model, as far as they match.

    The network is not changed. When everything matches in order, the result is the model's state,
    bit by bit.

    Args:
        weights: The state of the model.
        network: A network of the new labels and channels, with the random weights that stay where
            nothing matches.
        matching: From `match_labels` and `match_channels`.
        source: Names in the model.
        target: Names in the network.

    Raises:
        ModelError: When the networks differ in more than their labels and channels.
    """
    state: dict[str, torch.Tensor] = network.state_dict()
    _require_same_network(weights, state)
    moved: dict[str, torch.Tensor] = {}
    parts = []
    for names in _shared(state):
        # Of names of one tensor torch takes the last, too.
        old, own = weights[names[-1]].detach(), state[names[-1]].detach().cpu()
        part = _move(names, old.to(own.dtype), own, matching)
        moved |= dict.fromkeys(names, part.tensor)
        parts.append(part)
    adapted = sum(part.adapted for part in parts)
    initialised = sum(part.initialised for part in parts)
    return Transfer(
        weights={name: moved[name] for name in state},
        transferred=sum(part.tensor.numel() for part in parts) - adapted - initialised,
        adapted=adapted,
        initialised=initialised,
        lines=(_tell_labels(matching, source, target), _tell_channels(matching, source, target)),
    )


def _shared(state: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Return the names of each tensor; the decoder, for one, lists the encoder again as its own."""
    groups: dict[tuple[int, torch.Size], list[str]] = {}
    for name, tensor in state.items():
        groups.setdefault((tensor.data_ptr(), tensor.shape), []).append(name)
    return list(groups.values())


def _move(names: Sequence[str], old: torch.Tensor, own: torch.Tensor, matching: Matching) -> _Moved:
    if any(name in FIRST_CONVOLUTIONS for name in names):
        average = old.mean(dim=1)
        parts = [average if channel is None else old[:, channel] for channel in matching.channels]
        adapted = matching.channels.count(None) * average.numel()
        return _Moved(torch.stack(parts, dim=1), adapted=adapted)
    if any(HEADS in name for name in names):
        rows = [
            own[row] if label is None else old[label] for row, label in enumerate(matching.labels)
        ]
        initialised = matching.labels.count(None) * own[0].numel()
        return _Moved(torch.stack(rows), initialised=initialised)
    return _Moved(old.clone(memory_format=torch.contiguous_format))


# --- what does not go together -----------------------------------------------------------------


def _require_same_network(
    weights: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]
) -> None:
    """Refuse a model whose network differs in more than its heads and its first convolution."""
    old, own = _first_convolution(weights), _first_convolution(state)
    if weights[old].ndim != state[own].ndim:
        kinds = {4: "slices (2D)", 5: "volumes (3D)"}
        problem = f"The model is one of {kinds.get(weights[old].ndim, 'another kind')}, and the "
        problem += f"network that is to be trained is one of {kinds.get(state[own].ndim)}."
        raise ModelError(problem, fix=FIX)
    if old != own:
        problem = "Of the model and the network that is to be trained one is a plain U-Net, and "
        problem += "the other has a residual encoder."
        raise ModelError(problem, fix=FIX)
    alone = sorted(weights.keys() ^ state.keys(), key=lambda name: (len(name), name))
    if alone:
        has = "only the model" if alone[0] in weights else "only the network that is to be trained"
        problem = f"The model has another number of stages or layers: {has} has {alone[0]}."
        raise ModelError(problem, fix=FIX)
    for name, tensor in state.items():
        if _fixed_shape(name, weights[name]) != _fixed_shape(name, tensor):
            problem = f"The layers of the model have other sizes: {name} is "
            problem += (
                f"{tuple(weights[name].shape)} in the model and {tuple(tensor.shape)} in the "
            )
            problem += "network that is to be trained."
            raise ModelError(problem, fix=FIX)


def _first_convolution(state: Mapping[str, torch.Tensor]) -> str:
    name = next((name for name in FIRST_CONVOLUTIONS if name in state), None)
    if name is None:
        problem = "The model's network is neither nnU-Net's plain U-Net nor its residual one."
        raise ModelError(problem, fix=FIX)
    return name


def _fixed_shape(name: str, tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the part of a shape that labels and channels do not change."""
    shape = tuple(tensor.shape)
    if HEADS in name:
        return shape[1:]
    if name.removeprefix("decoder.").replace(".all_modules.0.", ".conv.") in FIRST_CONVOLUTIONS:
        return (shape[0], *shape[2:])
    return shape


# --- for people --------------------------------------------------------------------------------


def _tell_labels(matching: Matching, source: Names, target: Names) -> str:
    pairs = list(zip(target.labels, matching.labels, strict=True))
    kept = [_taken(name, source.labels[row]) for name, row in pairs if row is not None]
    new = [name for name, row in pairs if row is None]
    left = [name for row, name in enumerate(source.labels) if row not in matching.labels]
    line = f"the head keeps {_and(kept)}"
    if new:
        line += f"; {_and(new)} {_is(new)} new"
    return line + _tell_left(left)


def _tell_channels(matching: Matching, source: Names, target: Names) -> str:
    pairs = list(zip(target.channels, matching.channels, strict=True))
    kept = [_taken(name, source.channels[place]) for name, place in pairs if place is not None]
    averaged = [name for name, place in pairs if place is None]
    if not kept:
        whose = "the average of the model's channels"
        return f"the first convolution takes {_and(averaged)} as {whose}"
    left = [name for place, name in enumerate(source.channels) if place not in matching.channels]
    line = f"the first convolution takes {_and(kept)} from the model"
    if averaged:
        line += f" and {_and(averaged)} as the average of its channels"
    return line + _tell_left(left)


def _taken(name: str, old: str) -> str:
    return name if _plain(name) == _plain(old) else f"{name} (its {old})"


def _tell_left(left: Sequence[str]) -> str:
    return f"; the model's {_and(left)} {_is(left)} left out" if left else ""


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _and(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
