"""Rules on all cases together: each yields findings on their facts.

The first line of each docstring says what the rule demands, and stands in the documentation.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_medseg.dataset.case import Case, Finding
from nnunet_medseg.dataset.facts import CaseFacts, guess_image_type

__all__ = ["DATASET_RULES", "judge_channels", "judge_dataset", "usual_channels"]

FAR = 3.0  # times the median of all cases
FAR_VOLUME = 20.0
# Beyond so many times the spread (median absolute deviation, as a standard deviation) of the rest.
SPREADS = 5.0
MAD_TO_DEVIATION = 1.4826
FEW_CASES, FEW_SHARE = 3, 0.05
MIN_CASES = 4  # fewer do not tell what is usual
BLOCK_CASES = 256
ALMOST_IDENTICAL = 0.9999  # correlation of signatures
HOUNSFIELD_AIR = -50.0  # a CT with nothing below holds no air and no fat


@dataclass(frozen=True)
class Facts:
    """All cases, in one order: what the user brought, and what was read."""

    cases: tuple[Case, ...]
    facts: tuple[CaseFacts, ...]

    def __iter__(self) -> Iterator[tuple[Case, CaseFacts]]:
        return zip(self.cases, self.facts, strict=True)


def judge_dataset(cases: Sequence[Case], facts: Sequence[CaseFacts]) -> list[Finding]:
    """Apply every rule that looks at all cases together.

    Args:
        cases: All cases.
        facts: Of those that could be read.
    """
    by_name = {case.name: case for case in cases}
    seen = Facts(tuple(by_name[fact.name] for fact in facts), tuple(facts))
    return [finding for rule in DATASET_RULES for finding in rule(seen)]


def image_once(seen: Facts) -> Iterator[Finding]:
    """No two cases have the same image."""
    first: dict[str, str] = {}
    for case, fact in seen:
        twin = first.setdefault(fact.content, case.source)
        if twin != case.source:
            message = f"its image is the same as that of {twin}"
            fix = "Remove one of the two: an image that trains and is evaluated flatters the model."
            yield Finding("error", case.source, "same image twice", message, fix)


def image_almost_once(seen: Facts) -> Iterator[Finding]:
    """No two cases have almost the same image, as the same scan stored in two ways."""
    by_shape: dict[tuple[int, ...], list[tuple[Case, CaseFacts]]] = {}
    for case, fact in seen:
        # Signatures are of images that are turned the same way; shapes are as stored.
        by_shape.setdefault(tuple(sorted(fact.shape)), []).append((case, fact))
    for group in by_shape.values():
        for later, earlier, likeness in _likest([fact.signature for _, fact in group]):
            is_same = group[later][1].content == group[earlier][1].content
            if likeness > ALMOST_IDENTICAL and not is_same:
                message = f"its image is almost that of {group[earlier][0].source}"
                fix = "Look at both: a scan that trains and is evaluated flatters the model."
                yield Finding(
                    "warning", group[later][0].source, "almost identical images", message, fix
                )


def _likest(signatures: Sequence[Sequence[float]]) -> Iterator[tuple[int, int, float]]:
    """Yield each place but the first, the earlier place that is most alike, and how alike it is."""
    table = np.array(signatures)
    # They were rounded; without this even the same one twice may seem less alike.
    lengths = np.linalg.norm(table, axis=1, keepdims=True)
    table = np.divide(table, lengths, out=np.zeros_like(table), where=lengths > 0)
    # In blocks: all pairs of 10,000 images would take a gigabyte.
    for start in range(0, len(table), BLOCK_CASES):
        block = table[start : start + BLOCK_CASES] @ table[: start + BLOCK_CASES].T
        for later in range(max(1, start), min(start + BLOCK_CASES, len(table))):
            earlier = int(np.argmax(block[later - start, :later]))
            yield later, earlier, float(block[later - start, earlier])


def owner_on_one_side(seen: Facts) -> Iterator[Finding]:
    """No patient is both trained on and held out."""
    held_out = {case.owner for case in seen.cases if case.is_held_out}
    trained = {case.owner for case in seen.cases if not case.is_held_out}
    for owner in sorted(held_out & trained):
        message = "some images of this patient are marked for validation and others are not"
        fix = "Mark all of them or none: a patient that trains and is evaluated flatters the model."
        yield Finding("error", owner, "patient on both sides", message, fix)


def something_marked(seen: Facts) -> Iterator[Finding]:
    """Every label map marks something."""
    for case, fact in seen:
        if not fact.label_voxels:
            message = "the label map is background only"
            fix = "Right if the patient is healthy; otherwise draw the label or remove the patient."
            yield Finding("warning", case.source, "empty label map", message, fix)


def something_to_learn(seen: Facts) -> Iterator[Finding]:
    """Some label map marks something."""
    if seen.facts and not any(fact.label_voxels for fact in seen.facts):
        message = "no label map marks anything"
        fix = "Draw what is to be segmented, with values from 1 upwards."
        yield Finding("error", "", "no foreground", message, fix)


def same_channels(seen: Facts) -> Iterator[Finding]:
    """All cases have the same number of images."""
    usual = usual_channels(seen.facts) if seen.facts else 0
    for case, fact in seen:
        count = len(fact.value_ranges)
        if count != usual:
            message = f"it has {count} images or frames, where most have {usual}"
            fix = "Give every patient the same images."
            yield Finding("error", case.source, "channels", message, fix)


def usual_channels(facts: Sequence[CaseFacts]) -> int:
    """Return how many channels most cases have; the more of two numbers that are as frequent."""
    counts = Counter(len(fact.value_ranges) for fact in facts)
    return max(counts, key=lambda count: (counts[count], count))


def usual_spacing(seen: Facts) -> Iterator[Finding]:
    """The voxels of a case are not far larger or smaller than those of the others."""
    fix = "Right for another protocol; otherwise look whether the header is damaged."
    for case, text in _outliers(seen, lambda fact: sorted(fact.spacing_mm)):
        message = f"its voxels, sides sorted, are {text} times those of most cases"
        yield Finding("warning", case.source, "unusual spacing", message, fix)


def usual_size(seen: Facts) -> Iterator[Finding]:
    """The field of view of a case is not far larger or smaller than that of the others."""
    fix = "Right for another protocol; otherwise look whether it is the right scan."

    def sides_mm(fact: CaseFacts) -> list[float]:
        sides = zip(fact.shape, fact.spacing_mm, strict=True)
        return sorted(voxels * side_mm for voxels, side_mm in sides)

    for case, text in _outliers(seen, sides_mm):
        message = f"its field of view, sides sorted, is {text} times that of most cases"
        yield Finding("warning", case.source, "unusual size", message, fix)


def _outliers(
    seen: Facts, sides_of: Callable[[CaseFacts], list[float]]
) -> Iterator[tuple[Case, str]]:
    if len(seen.facts) < MIN_CASES:
        return
    table = np.log([sides_of(fact) for fact in seen.facts])
    ratios = table - np.median(table, axis=0)
    spread = SPREADS * MAD_TO_DEVIATION * np.median(np.abs(ratios), axis=0)
    for case, row in zip(seen.cases, ratios, strict=True):
        if (np.abs(row) > np.maximum(math.log(FAR), spread)).any():
            yield case, " x ".join(f"{factor:.2g}" for factor in np.exp(row))


def usual_orientation(seen: Facts) -> Iterator[Finding]:
    """The axes of all images point the same way, or are brought to do so."""
    codes = Counter(fact.orientation for fact in seen.facts)
    if len(codes) > 1:
        shown = ", ".join(f"{count} {code}" for code, count in codes.most_common())
        message = f"axes point different ways ({shown}); all are brought to RAS for training"
        fix = "Your own files stay as they are."
        yield Finding("repair", "", "orientation", message, fix)


def usual_volume(seen: Facts) -> Iterator[Finding]:
    """A label has no volume far from that in the other cases."""
    values = sorted({value for fact in seen.facts for value in fact.label_voxels})
    for value in values:
        present = [
            (case, math.log(fact.label_voxels[value] * math.prod(fact.spacing_mm)))
            for case, fact in seen
            if value in fact.label_voxels
        ]
        if len(present) < MIN_CASES:
            continue
        middle = statistics.median(volume for _, volume in present)
        spread = statistics.median(abs(volume - middle) for _, volume in present)
        limit = max(math.log(FAR_VOLUME), SPREADS * MAD_TO_DEVIATION * spread)
        for case, volume in present:
            if abs(volume - middle) > limit:
                factor = math.exp(volume - middle)
                message = f"label {value} has {factor:.2g} times the volume that is usual"
                fix = "Look whether it is drawn to the end, and whether it is the right structure."
                yield Finding("warning", case.source, "unusual volume", message, fix)


def enough_examples(seen: Facts) -> Iterator[Finding]:
    """Every label is in at least three cases, and in one of twenty."""
    if len(seen.facts) < 2 * FEW_CASES:
        return
    counts = Counter(value for fact in seen.facts for value in fact.label_voxels)
    for value, count in sorted(counts.items()):
        is_rare = count < FEW_CASES or count < FEW_SHARE * len(seen.facts)
        if is_rare and count < len(seen.facts):
            message = f"label {value} is in {count} of {len(seen.facts)} cases only"
            fix = (
                "Add patients that have it, or leave it out with -l; from so few little is learned."
            )
            yield Finding("warning", "", "rare label", message, fix)


Rule = Callable[[Facts], Iterator[Finding]]

DATASET_RULES: Sequence[Rule] = (
    image_once,
    image_almost_once,
    owner_on_one_side,
    same_channels,
    something_marked,
    something_to_learn,
    enough_examples,
    usual_volume,
    usual_spacing,
    usual_size,
    usual_orientation,
)


def judge_channels(
    cases: Mapping[str, str], facts: Sequence[CaseFacts], channels: Sequence[str]
) -> Iterator[Finding]:
    """The values of images are those of the image type that is stated.

    Args:
        cases: The user's name of each case, by ours.
        facts: With channels in the order of the names.
        channels: Names of the image types.
    """
    for place, name in enumerate(channels):
        ranges = [fact.value_ranges[place] for fact in facts]
        if name == "CT":
            yield from _judge_ct(cases, facts, place)
        elif guess_image_type(ranges) == "CT":
            message = f"{name} has the values of CT, -1000 for air and up to some thousand"
            fix = "Say -i CT if it is: CT is normalised by its absolute values."
            yield Finding("warning", "", "image type", message, fix)


def _judge_ct(
    cases: Mapping[str, str], facts: Sequence[CaseFacts], place: int
) -> Iterator[Finding]:
    without = [fact for fact in facts if fact.value_ranges[place][0] > HOUNSFIELD_AIR]
    fix = "Export Hounsfield units (air is -1000), or name the image type with -i as what it is."
    if 2 * len(without) > len(facts):
        message = f"{len(without)} of {len(facts)} images have no value below {HOUNSFIELD_AIR:g}"
        yield Finding("warning", "", "image type", f"{message}, where CT has -1000 for air", fix)
        return
    for fact in without:
        low, high = fact.value_ranges[place]
        message = f"its values go from {low:g} to {high:g}, where CT has -1000 for air"
        yield Finding("warning", cases[fact.name], "image type", message, fix)
