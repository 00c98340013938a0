"""What `-l` means for the values found in the label maps."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nnunet_medseg.errors import UsageError

__all__ = ["Label", "LabelMap", "LabelWish", "parse_labels", "resolve_labels"]

LARGEST_VALUE = 65535  # what a 16-bit label map holds
# What programs call a label of which nobody has said what it is.
EMPTY_WORD = re.compile(
    r"(?:labels?|fg|foreground|masks?|seg(?:ment(?:ation)?)?s?|class|object|roi|region|structure|gt|"
    r"ground|truth|groundtruth|annotations?|binary|target|value|contour)?\d*"
)
RESERVED_NAMES = {"background", "ignore"}  # they have a meaning of their own in nnU-Net


@dataclass(frozen=True)
class LabelWish:
    """One item of `-l`: a name, a value, or both."""

    name: str | None
    value: int | None


@dataclass(frozen=True)
class Label:
    """A structure to segment.

    Attributes:
        name: As the user calls it.
        value: In the user's label maps and in predictions.
        index: In training, 1 … n.
    """

    name: str
    value: int
    index: int


LabelMap = tuple[Label, ...]


def parse_labels(text: str) -> tuple[LabelWish, ...]:
    """Read `-l`.

    Args:
        text: `NONE`, or comma-separated items: a name, a value, or `NAME=VALUE`.

    Returns:
        Empty for `NONE`, which means every label.

    Raises:
        UsageError: When an item is not of these forms, or a name or value comes twice.

    Examples:
        >>> parse_labels("LIVER=1,2")
        (LabelWish(name='LIVER', value=1), LabelWish(name=None, value=2))
    """
    if text.strip().upper() in {"NONE", ""}:
        return ()
    wishes = tuple(_parse_item(item.strip(), text) for item in text.split(","))
    names = [wish.name.lower() for wish in wishes if wish.name is not None]
    values = [wish.value for wish in wishes if wish.value is not None]
    if len(set(names)) < len(names) or len(set(values)) < len(values):
        problem = f"-l {text}: a name or a value comes twice."
        raise UsageError(problem, fix="Give each structure one name and one value.")
    return wishes


def _parse_item(item: str, text: str) -> LabelWish:
    name, has_value, value = item.partition("=")
    name, value = name.strip(), value.strip()
    if not has_value and name.isascii() and name.isdigit():
        name, value = "", name
    elif not name or (has_value and not (value.isascii() and value.isdigit())):
        problem = f"-l {text}: '{item}' is not a name, a value or NAME=VALUE."
        raise UsageError(problem, fix="Write for example -l TUMOR=2 or -l LIVER=1,TUMOR=2.")
    # Cut off, since Python refuses to read thousands of digits.
    number = int(value.lstrip("0")[:10] or 0) if value else None
    if number is not None and not 1 <= number <= LARGEST_VALUE:
        problem = f"-l {text}: {value} cannot be a label value; 0 is the background."
        raise UsageError(problem, fix=f"Use a value from 1 to {LARGEST_VALUE}.")
    if name.lower() in RESERVED_NAMES or name.isdigit() or not name.isprintable():
        problem = f"-l {text}: '{name}' cannot be the name of a label."
        raise UsageError(problem, fix="Choose another name.")
    return LabelWish(name or None, number)


def resolve_labels(
    wishes: tuple[LabelWish, ...], found: Mapping[int, int], names: Mapping[int, str]
) -> LabelMap:
    """Find the labels to train in the values that the label maps hold.

    Args:
        wishes: From `parse_labels`; empty for every label.
        found: Number of cases that have a value, by value; the background left out.
        names: Names by value, where the dataset has them.

    Returns:
        Labels ordered by value, with indices 1 … n.

    Raises:
        UsageError: When a name could mean several values, a value is not in the data, or two
            values would have one name.
    """
    if wishes:
        pairs = [_resolve(wish, len(wishes) == 1, found, names) for wish in wishes]
    else:
        pairs = [(names.get(value, f"label_{value}"), value) for value in found]
    if len({value for _, value in pairs}) < len(pairs):
        problem = "-l names one label value twice."
        raise UsageError(problem, fix="Give each structure one name and one value.")
    ordered = sorted(pairs, key=lambda pair: pair[1])
    _require_usable(ordered)
    return tuple(Label(name, value, index) for index, (name, value) in enumerate(ordered, start=1))


def _require_usable(pairs: Sequence[tuple[str, int]]) -> None:
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        problem = f"Several label values have the name {', '.join(twice)}."
        raise UsageError(problem, fix="Name each one with -l, for example -l LIVER=1,TUMOR=2.")
    too_large = [value for _, value in pairs if value > LARGEST_VALUE]
    if too_large:
        problem = f"The label maps hold the value {too_large[0]}, which is too large for a label."
        fix = f"Name the values to segment with -l; they may go up to {LARGEST_VALUE}."
        raise UsageError(problem, fix=fix)


def _resolve(
    wish: LabelWish, is_only: bool, found: Mapping[int, int], names: Mapping[int, str]
) -> tuple[str, int]:
    value = wish.value
    if value is None:
        by_name = [
            number for number, name in names.items() if name.lower() == str(wish.name).lower()
        ]
        if len(by_name) == 1:
            value = by_name[0]
        elif not by_name and is_only and _is_only_value(str(wish.name), found, names):
            value = next(iter(found))
        else:
            raise _which_value(str(wish.name), found, names)
    if value not in found:
        problem = f"No label map has the value {value} that -l asks for. {_show(found, names)}"
        raise UsageError(problem, fix="Ask for one of the values that are there.")
    return wish.name or names.get(value, f"label_{value}"), value


def _is_only_value(asked: str, found: Mapping[int, int], names: Mapping[int, str]) -> bool:
    """Tell whether there is one value, and it has no name that means something else."""
    if len(found) != 1:
        return False
    wanted, given = _words(asked), _words(names.get(next(iter(found)), ""))
    if all(EMPTY_WORD.fullmatch(word) for word in given) or "".join(wanted) == "".join(given):
        return True
    # As LIVER and liver_mask; blanks around them keep words whole.
    one, other = (f" {' '.join(words)} " for words in (wanted, given))
    return one in other or other in one


def _words(name: str) -> list[str]:
    # Letters with accents are written in two ways that look the same.
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", name).casefold())


def _which_value(name: str, found: Mapping[int, int], names: Mapping[int, str]) -> UsageError:
    problem = f"Which label value is {name}? {_show(found, names)}"
    example = next(iter(found), 1)
    fix = (
        f"Say it with the value, for example -l {name}={example}, which calls it so whatever its "
        "name in the dataset."
    )
    return UsageError(problem, fix=fix)


def _show(found: Mapping[int, int], names: Mapping[int, str]) -> str:
    shown = [
        f"{value}{f' = {names[value]}' if value in names else ''} (in {cases} of the cases)"
        for value, cases in sorted(found.items())
    ]
    return f"The label maps hold: {', '.join(shown) or 'nothing but background'}."
