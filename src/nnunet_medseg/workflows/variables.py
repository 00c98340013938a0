"""What can be varied of a training: names, ranges, and grids of them.

Defaults are chosen for the user from the dataset, the minutes and the machine; a value that is
given takes the place of the choice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_medseg.console import counted
from nnunet_medseg.errors import UsageError

__all__ = ["AUTO", "VARIABLES", "Variable", "numbers_of", "parse_grid", "read_variables"]

AUTO = "auto"
MAX_BATCH = 512
MIN_PATCH, MAX_PATCH = 8, 1024  # voxels a side; below 8 nothing is left to pool
MAX_SPACING_MM = 100.0
MAX_VARIANTS = 64
MAX_DIGITS = 12  # Python refuses to read thousands

CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")
NETWORKS = ("default", "small", "resenc_m", "resenc_l", "resenc_xl")


@dataclass(frozen=True)
class Variable:
    """One thing that can be varied.

    Attributes:
        name: Of the option, without its dashes, and of the field of `TrainOptions`.
        read: Returns the canonical value of a text; ValueError when it is out of range.
        allowed: For people: what is accepted.
        meaning: For `--help`.
        is_of_plan: Whether the plan depends on it; only the training does otherwise.
    """

    name: str
    read: Callable[[str], Any]
    allowed: str
    meaning: str
    is_of_plan: bool


def _choice(*values: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in values:
            raise ValueError
        return text.lower()

    return read


def _number(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = float(text)
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError
        return value

    return read


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        is_plain = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
        if not (is_plain and low <= int(text) <= high):
            raise ValueError
        return int(text)

    return read


def _sides(read_side: Callable[[str], Any], counts: Sequence[int]) -> Callable[[str], str]:
    def read(text: str) -> str:
        sides = [f"{read_side(side.strip()):g}" for side in text.lower().split("x")]
        if len(sides) not in counts:
            raise ValueError
        return "x".join(sides)

    return read


def numbers_of(sides: str) -> tuple[float, ...]:
    """Return the numbers of a canonical text of sides.

    Examples:
        >>> numbers_of("3x1.5x1.5")
        (3.0, 1.5, 1.5)
    """
    return tuple(float(side) for side in sides.split("x"))


VARIABLES: dict[str, Variable] = {
    variable.name: variable
    for variable in (
        Variable(
            "configuration",
            _choice(*CONFIGURATIONS),
            ", ".join(CONFIGURATIONS),
            "2d slices, volumes at full resolution, or at low resolution",
            is_of_plan=True,
        ),
        Variable(
            "network",
            _choice(*NETWORKS),
            ", ".join(NETWORKS),
            "nnU-Net's U-Net, the same with half of its features, or one of its residual presets",
            is_of_plan=True,
        ),
        Variable(
            "spacing",
            _sides(_number(1e-3, MAX_SPACING_MM), (3,)),
            f"three sides in mm, up to {MAX_SPACING_MM:g}, such as 3x1.5x1.5",
            "size of a voxel in mm, in the order of the printed plan: the thickest side first",
            is_of_plan=True,
        ),
        Variable(
            "patch_size",
            _sides(_whole(MIN_PATCH, MAX_PATCH), (2, 3)),
            f"three sides from {MIN_PATCH} to {MAX_PATCH} voxels, such as 64x96x96; two for 2d",
            "voxels that the network sees at once, in the order of the printed plan; rounded up to "
            "what the network can divide",
            is_of_plan=True,
        ),
        Variable(
            "batch_size",
            _whole(1, MAX_BATCH),
            f"a whole number from 1 to {MAX_BATCH}",
            "patches a step",
            is_of_plan=True,
        ),
        Variable(
            "learning_rate",
            _number(1e-6, 1.0),
            "a number from 0.000001 to 1",
            "the highest learning rate",
            is_of_plan=False,
        ),
        Variable(
            "augmentation",
            _number(0.0, 2.0),
            "a number from 0 to 2",
            "factor on how often nnU-Net's augmentations are applied",
            is_of_plan=False,
        ),
        Variable(
            "mirroring",
            _choice("on", "off"),
            "on, off",
            "mirror patches in training and images in prediction",
            is_of_plan=False,
        ),
        Variable(
            "oversampling",
            _number(0.0, 1.0),
            "a number from 0 to 1",
            "share of the patches that are centred on a labelled voxel",
            is_of_plan=False,
        ),
    )
}


def read_variables(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the canonical value of each variable that was given; AUTO stays AUTO.

    Raises:
        UsageError: When a value is not accepted.
    """
    return {name: _read(VARIABLES[name], str(given[name])) for name in VARIABLES if name in given}


def _read(variable: Variable, text: str) -> Any:
    if text.strip().lower() == AUTO:
        return AUTO
    try:
        return variable.read(text.strip())
    except ValueError as cause:
        problem = f"--{variable.name} {text} is not accepted."
        raise UsageError(problem, fix=f"Give {variable.allowed}; or leave it out.") from cause


def parse_grid(wishes: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """Return every combination of what is to be varied.

    Args:
        wishes: Items such as `learning_rate=0.05,0.01`; also `seed=1,2,3`.

    Returns:
        One dictionary of option names and canonical values a variant; at least two.

    Raises:
        UsageError: When an item cannot be read, comes twice, or there are too many or too few.

    Examples:
        >>> parse_grid(["mirroring=on,off"])
        ({'mirroring': 'on'}, {'mirroring': 'off'})
    """
    axes: dict[str, list[Any]] = {}
    for wish in wishes:
        name, _, values = wish.partition("=")
        name = name.strip().replace("-", "_")
        if name in axes or (name not in VARIABLES and name != "seed"):
            raise _not_a_variable(wish, name, taken=name in axes)
        read = (_read_value(name, item) for item in values.split(","))
        axes[name] = list(dict.fromkeys(read))
    # Counted before they are made: a grid may have more than any memory holds.
    number = math.prod(len(values) for values in axes.values())
    if not 2 <= number <= MAX_VARIANTS:
        problem = f"--vary gives {counted(number, 'variant')}."
        fix = f"Give from 2 to {MAX_VARIANTS}, for example --vary learning_rate=0.05,0.01."
        raise UsageError(problem, fix=fix)
    return tuple(
        dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
    )


def _read_value(name: str, text: str) -> Any:
    if name == "seed":
        # The options check it with all others.
        return text.strip()
    return _read(VARIABLES[name], text)


def _not_a_variable(wish: str, name: str, *, taken: bool) -> UsageError:
    problem = f"--vary {wish}: {name!r} {'comes twice' if taken else 'cannot be varied'}."
    return UsageError(problem, fix=f"Use each of these at most once: {', '.join(VARIABLES)}, seed.")
