"""The model card: what only the user can say of a model, from a file such as `card.toml`.

The fields are those of Model Cards for Model Reporting (Mitchell et al. 2019,
doi:10.1145/3287560.3287596) that no program can fill.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nnunet_medseg.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["CARD_FIELDS", "check_card", "read_card"]

# What each field is asked for, in the order of the card.
CARD_FIELDS = {
    "intended_use": "What the model is for, and in whose hands",
    "not_for": "What it must not be used for",
    "data_source": "Where the images come from: scanners, sites, years, patients",
    "annotation": "Who drew the labels, by what rule, and how they were checked",
    "approval": "Ethics approval and consent under which the data were used",
    "known_limits": "Where it is known to fail",
    "licence": "Licence of the model",
    "contact": "Whom to ask",
    "citation": "What to cite beside nnU-Net",
}
MAX_CARD_BYTES = 100_000


def read_card(path: Path) -> dict[str, str]:
    """Read a model card.

    Args:
        path: A TOML file with some of `CARD_FIELDS`, each a text.

    Raises:
        UsageError: When it cannot be read, or has other fields.
    """
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            problem = f"--card {path} has more than {MAX_CARD_BYTES // 1000} kB."
            raise UsageError(problem, fix="A model card is a page of text.")
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as cause:
        problem = f"--card {path} cannot be read: {cause.strerror}."
        raise UsageError(problem, fix="Give the path of a TOML file.") from cause
    except (ValueError, RecursionError) as cause:
        problem = f"--card {path} is not TOML: {cause}."
        raise UsageError(problem, fix='Write each field as: licence = "CC BY 4.0"') from cause
    return check_card(content)


def check_card(content: object) -> dict[str, str]:
    """Return the fields of a card that say something, in the order of the card.

    Raises:
        UsageError: When there are other fields, or one is no text.
    """
    fields = content if isinstance(content, dict) else {}
    unknown = [name for name in fields if name not in CARD_FIELDS]
    no_text = [name for name, value in fields.items() if not isinstance(value, str)]
    if unknown or no_text or fields is not content:
        wrong = ", ".join(str(name) for name in dict.fromkeys([*unknown, *no_text]))
        problem = f"The model card has fields that are not known or not text: {wrong}."
        raise UsageError(problem, fix=f"Its fields are texts: {', '.join(CARD_FIELDS)}.")
    return {name: fields[name].strip() for name in CARD_FIELDS if fields.get(name, "").strip()}
