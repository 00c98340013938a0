"""What `-i` means for the images of a dataset: the name of each channel, and their order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_medseg.dataset.facts import CaseFacts, guess_image_type
from nnunet_medseg.errors import UsageError

__all__ = ["ChannelPlan", "choose_channels", "parse_image_types"]

# What the name of an image says of how it was taken, and not of whom.
KNOWN_WORD = re.compile(
    r"img|image|ct|cbct|cta|mri?|mra|pet|fdg|suv|spect|us|t1\w{0,3}|t2\w{0,3}|pdw?|flair|dwi|adc|swi"
    r"|dce|b\d{1,4}|\d{1,2}|pre|post|native|arterial|venous|portal|delayed|late|early|phase|fat|water|sat"
    r"|ce|gd|contrast|map|ax|axial|cor|coronal|sag|sagittal|tse|gre|mprage|vibe|dixon|high|low",
    re.I,
)


@dataclass(frozen=True)
class ChannelPlan:
    """The channels in training order.

    Attributes:
        names: Names in training order; "CT" makes nnU-Net normalise as CT.
        order: For each channel, its place among the images of a case as listed.
        reason: Where the names come from, for people.
    """

    names: tuple[str, ...]
    order: tuple[int, ...]
    reason: str


def parse_image_types(text: str) -> tuple[str, ...]:
    """Read `-i`: names of image types in channel order, empty for `NONE`.

    Raises:
        UsageError: When a name is empty or cannot be one.

    Examples:
        >>> parse_image_types("T1, flair"), parse_image_types("none")
        (('T1', 'flair'), ())
    """
    if text.strip().upper() in {"NONE", ""}:
        return ()
    names = tuple(item.strip() for item in text.split(","))
    if not all(re.fullmatch(r"\w[\w .+-]*", name) for name in names):
        problem = f"-i {text} is not a list of image types."
        raise UsageError(problem, fix="Write for example -i CT, or -i T1,FLAIR for two images.")
    return names


def _hide_names(listed: Sequence[str]) -> tuple[str, ...]:
    """Return the names of channels without those that may name a patient.

    Of several patients, what tells the images apart is the same in all. Of one alone, the name of
    a file may be the patient's, and it would go into the model.

    Examples:
        >>> _hide_names(["T1w", "fat_sat", "Miller FLAIR"])
        ('T1w', 'fat_sat', '')
    """

    def is_known(name: str) -> bool:
        return all(KNOWN_WORD.fullmatch(word) for word in re.split(r"[\W_]+", name) if word)

    return tuple(name if is_known(name) else "" for name in listed)


def choose_channels(
    wishes: Sequence[str],
    listed: Sequence[str],
    facts: Sequence[CaseFacts],
    *,
    of_one_patient: bool = False,
) -> ChannelPlan:
    """Name the channels.

    Args:
        wishes: From `-i`; empty for none.
        listed: Names that files or dataset.json give, "" for unnamed.
        facts: Of all cases, for the range of values.
        of_one_patient: Whose name may be in those of the images, and is not told.

    Raises:
        UsageError: When the number of image types is not the number of images, or a type would be
            given to an image while another one is called so.
    """
    told = _hide_names(listed) if of_one_patient else tuple(listed)
    as_listed = tuple(range(len(listed)))
    if wishes:
        is_each = len(wishes) == len(listed)
        return _name_each(wishes, listed, told) if is_each else _name_all(wishes, told)
    if all(told):
        return ChannelPlan(_plain_ct(told), as_listed, "from the dataset")
    guessed = tuple(
        name or guess_image_type([fact.value_ranges[place] for fact in facts])
        for place, name in enumerate(told)
    )
    return ChannelPlan(guessed, as_listed, "from the range of the values; -i says it better")


def _name_each(wishes: Sequence[str], listed: Sequence[str], told: Sequence[str]) -> ChannelPlan:
    known = [name.lower() for name in listed]
    asked = [name.lower() for name in wishes]
    names = _plain_ct(wishes)
    # Of channels of one name, as two of MRI, the names do not tell which is which.
    are_distinct = len(set(known)) == len(known)
    if len(wishes) > 1 and are_distinct and sorted(known) == sorted(asked):
        order = tuple(known.index(name) for name in asked)
        return ChannelPlan(names, order, "from -i, matched with the file names")
    shown = [name or f"image_{number}" for number, name in enumerate(told, start=1)]
    for place, name in enumerate(asked):
        # Of numbers, the order is what is meant.
        if name in known and name != known[place] and not name.isdigit():
            raise _crossed(wishes, shown, place)
    pairs = ", ".join(f"{wish} <- {name}" for wish, name in zip(wishes, shown, strict=True))
    reason = f"from -i: {pairs}" if len(wishes) > 1 else "from -i"
    return ChannelPlan(names, tuple(range(len(listed))), reason)


def _crossed(wishes: Sequence[str], shown: Sequence[str], place: int) -> UsageError:
    problem = (
        f"-i {','.join(wishes)} matches the names of the images only in part. They are, in this "
        f"order: {', '.join(shown)}; {wishes[place]} would be {shown[place]}."
    )
    fix = (
        f"Write all names as the images have them, in any order, as -i {','.join(shown)}; or "
        "names of your own in the order of the images."
    )
    return UsageError(problem, fix=fix)


def _name_all(wishes: Sequence[str], listed: Sequence[str]) -> ChannelPlan:
    known = {name.lower() for name in listed}
    # The name of one of the images is not the kind of all of them.
    if len(wishes) == 1 and (wishes[0].lower() not in known or len(known) == 1):
        (kind,) = wishes
        names = tuple(kind if kind.upper() == "CT" or not name else name for name in listed)
        as_listed = tuple(range(len(listed)))
        return ChannelPlan(_plain_ct(names), as_listed, "from -i, the same for all images")
    shown = ", ".join(name or "img" for name in listed)
    problem = f"-i names {len(wishes)} image types, but a patient has {len(listed)} ({shown})."
    raise UsageError(problem, fix="Name one type for each image, in order, or one for all.")


def _plain_ct(names: Sequence[str]) -> tuple[str, ...]:
    return tuple("CT" if name.upper() == "CT" else name for name in names)
