"""Names of classes that files bring, which will be names of labels in the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from nnunet_medseg.dataset.case import Case, Finding
from nnunet_medseg.dataset.labels import RESERVED_NAMES
from nnunet_medseg.volume import VolumeError, segment_names

__all__ = ["class_findings", "is_label_name", "names_in_label_maps"]

# A name of fewer letters is in too many words to be taken for the patient's.
MIN_NAME_LENGTH = 3


def class_findings(classes: Mapping[str, Mapping[str, Path]]) -> Iterator[Finding]:
    """Yield what is wrong with names of classes, which will be names of labels.

    Args:
        classes: Masks by the name of their class, for each patient.
    """
    counts = Counter(name for found in classes.values() for name in found)
    for name in sorted(counts):
        example = next(found[name] for found in classes.values() if name in found)
        if not is_label_name(name):
            message = f"{example.parent.name}/{example.name}: '{name}' cannot be a label's name"
            fix = "Rename the masks of this class in all patients."
            yield Finding("error", "", "label name", message, fix)
    yield from _same_but_for_case(counts)
    for patient, found in classes.items():
        for name, path in found.items():
            if len(patient) >= MIN_NAME_LENGTH and patient.lower() in name.lower():
                yield _personal(patient, path)
    if len(classes) > 1 and counts and max(counts.values()) == 1:
        message = "no two patients have a class in common, going by the names of the masks"
        fix = "Name the masks after their class alone, the same in all patients."
        yield Finding("error", "", "label name", message, fix)


def is_label_name(name: str) -> bool:
    """Tell whether a label can be called so, and asked for with `-l`."""
    plain = name.strip()
    is_usable = plain == name and plain.isprintable() and not plain.isdigit()
    return is_usable and plain.lower() not in RESERVED_NAMES and not set(plain) & set(",=")


def _same_but_for_case(names: Iterable[str]) -> Iterator[Finding]:
    spellings: dict[str, list[str]] = {}
    for name in sorted(names):
        spellings.setdefault(name.lower(), []).append(name)
    for several in spellings.values():
        if len(several) > 1:
            message = f"masks are called {' and '.join(several)}"
            fix = "Use one spelling in all patients."
            yield Finding("error", "", "label name", message, fix)


def _personal(patient: str, mask: Path) -> Finding:
    message = f"{mask.parent.name}/{mask.name} carries the name of the patient's folder"
    fix = "Name the mask after its class alone: names of labels get into the model."
    return Finding("error", patient, "label name", message, fix)


# --- names in label maps -----------------------------------------------------------------------


def names_in_label_maps(cases: Sequence[Case]) -> tuple[dict[int, str], list[Finding]]:
    """Return the names that label maps themselves give their values, and where they disagree.

    Names that no label can have are left out.
    """
    first: dict[int, tuple[str, str]] = {}
    findings = []
    for case in cases:
        if case.masks:
            continue
        for value, name in sorted(_names_in(case.label).items()):
            known, where = first.setdefault(value, (name, case.source))
            if known != name:
                message = (
                    f"{case.label.name} calls the value {value} {name}; it is {known} in {where}"
                )
                fix = "Give each structure one value and one name in all label maps."
                findings.append(Finding("error", case.source, "label name", message, fix))
    return {value: name for value, (name, _) in first.items()}, findings


def _names_in(path: Path) -> dict[int, str]:
    try:
        names = segment_names(path)
    except (VolumeError, OSError):
        # The check reads the file again and says what is wrong with it.
        return {}
    return {value: name for value, name in names.items() if value > 0 and is_label_name(name)}
