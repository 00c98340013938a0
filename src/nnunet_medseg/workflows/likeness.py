"""What the cases were like that a model was trained on, and how far another case is from them.

Promises: a case whose voxels, size or values are far outside what the model has seen is named.
Does not promise: that a case within is one the model can segment. Another disease, another
contrast agent or another scanner may look the same in these numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_medseg.bundle.manifest import ChannelFacts, DataFacts, Range
from nnunet_medseg.dataset.facts import CaseFacts
from nnunet_medseg.volume import Volume, to_ras

__all__ = ["Unlike", "compare_case", "describe_cases"]

# What augmentation in training covers by itself: it scales by 0.7 to 1.4 (nnUNetTrainer 2.8.1).
SPACING_FACTOR = 1.4
SIZE_FACTOR = 2.0  # the field of view matters less than the size of voxels
VALUE_SHARE = 0.2  # of the range of values that training has seen
BODY_AXES = ({"S", "I"}, {"A", "P"}, {"R", "L"})  # z, y, x of an image in RAS


@dataclass(frozen=True)
class Unlike:
    """In what a case differs from those that trained; empty texts where it does not."""

    spacing: str = ""
    size: str = ""
    intensity: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """The reasons that there are."""
        named = {"spacing": self.spacing, "size": self.size, "intensity": self.intensity}
        return tuple(f"{name} {text}" for name, text in named.items() if text)


def describe_cases(facts: Sequence[CaseFacts], measured: Mapping[str, Any]) -> DataFacts:
    """Return the ranges of cases.

    Args:
        facts: Of the cases that train.
        measured: nnU-Net's intensities of labelled voxels by channel number; may be empty.
    """
    spacings = [_along_body(fact.spacing_mm, fact.orientation) for fact in facts]
    sizes = [_along_body(_size_mm(fact.shape, fact.spacing_mm), fact.orientation) for fact in facts]
    channels = [
        ChannelFacts(
            lowest=_range(low for low, _ in ranges),
            highest=_range(high for _, high in ranges),
            labelled=_labelled(measured.get(str(number))),
        )
        for number, ranges in enumerate(zip(*(fact.value_ranges for fact in facts), strict=True))
    ]
    return DataFacts(
        spacing_mm=[_range(values) for values in zip(*spacings, strict=True)],
        size_mm=[_range(values) for values in zip(*sizes, strict=True)],
        channels=channels,
    )


def _size_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[float, ...]:
    return tuple(count * side for count, side in zip(shape, spacing_mm, strict=True))


def _along_body(values: Sequence[float], orientation: str) -> tuple[float, ...]:
    """Return values of the axes z, y, x as stored in the order of the body's axes."""
    letters = orientation[::-1]
    places = [
        next((place for place, letter in enumerate(letters) if letter in axis), None)
        for axis in BODY_AXES
    ]
    return (
        tuple(values)
        if None in places
        else tuple(values[place] for place in places if place is not None)
    )


def _range(values: Iterable[float]) -> Range:
    listed = [float(value) for value in values]
    return Range(low=min(listed), high=max(listed))


def _labelled(measured: Mapping[str, Any] | None) -> Range | None:
    if not measured:
        return None
    return Range(low=measured["percentile_00_5"], high=measured["percentile_99_5"])


def compare_case(images: Sequence[Volume], marked: np.ndarray[Any, Any], data: DataFacts) -> Unlike:
    """Return in what a case is unlike those that trained.

    Args:
        images: One a channel, as stored.
        marked: Bool, where the model has found a label; of the images' shape.
        data: What the manifest records.
    """
    turned = to_ras(images[0].with_array(np.empty(images[0].array.shape, dtype=np.uint8)))
    spacing = turned.spacing_mm
    values = (
        _unlike_value(image.array, marked, facts)
        for image, facts in zip(images, data.channels, strict=False)
    )
    return Unlike(
        spacing=_outside(spacing, data.spacing_mm, SPACING_FACTOR),
        size=_outside(_size_mm(turned.array.shape, spacing), data.size_mm, SIZE_FACTOR),
        intensity=next((text for text in values if text), ""),
    )


def _outside(values_mm: Sequence[float], seen: Sequence[Range], factor: float) -> str:
    pairs = list(zip(values_mm, seen, strict=True))
    if all(each.low / factor <= value <= each.high * factor for value, each in pairs):
        return ""
    trained = " x ".join(_shown(each) for each in seen)
    return f"{' x '.join(_plain(value) for value in values_mm)} mm, trained on {trained} mm"


def _plain(value: float) -> str:
    """Return a number with three digits, and never with an exponent for large ones."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _shown(seen: Range) -> str:
    low, high = _plain(seen.low), _plain(seen.high)
    return low if low == high else f"{low} to {high}"


def _unlike_value(
    array: np.ndarray[Any, Any], marked: np.ndarray[Any, Any], facts: ChannelFacts
) -> str:
    low, high = float(array.min()), float(array.max())
    margin = VALUE_SHARE * (facts.highest.high - facts.lowest.low)
    if not facts.lowest.low - margin <= low <= facts.lowest.high + margin:
        return f"smallest value {_plain(low)}, trained on {_shown(facts.lowest)}"
    if not facts.highest.low - margin <= high <= facts.highest.high + margin:
        return f"largest value {_plain(high)}, trained on {_shown(facts.highest)}"
    if facts.labelled is not None and marked.any():
        middle = float(np.median(array[marked]))
        if not facts.labelled.low <= middle <= facts.labelled.high:
            seen = _shown(facts.labelled)
            return f"median of what was found {_plain(middle)}, trained on {seen}"
    return ""
