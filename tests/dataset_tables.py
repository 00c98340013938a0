"""The tables of docs/reference/datasets.md, made from the code.

`python tests/dataset_tables.py` writes the page anew; a test compares the two.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import nnunet_medseg.dataset
import nnunet_medseg.dataset.layouts
from nnunet_medseg.volume import EXTENSIONS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "datasets.md"
HEAD = """# Datasets: layouts, formats, rules, repairs

What the program recognises, reads, looks for and puts right. The tables are made from the
code, and a test compares them with it; `python tests/dataset_tables.py` writes them anew. How
to use it: [bring your data](../how-to/bring-your-data.md).
"""
# A new ending has to be told here.
FORMATS = {
    ".nii.gz": "NIfTI 1 or 2, packed",
    ".nii": "NIfTI 1 or 2",
    ".seg.nrrd": "segmentation of 3D Slicer, with the names of its segments",
    ".nrrd": "NRRD with its voxels in the same file",
    ".mha": "MetaImage",
    ".mhd": "MetaImage with its voxels in a file beside it (`.raw`, `.zraw`)",
    ".tif": "TIFF of several pages, each a slice",
    ".tiff": "TIFF of several pages, each a slice",
}


def page() -> str:
    """Return the page as it should be."""
    return "\n".join(
        [
            HEAD,
            section(
                "Layouts",
                "How files lie; `--layout` takes the word in this type.",
                ("layout", "form"),
                layouts(),
            ),
            section("Formats", "Endings of images and label maps.", ("ending", "file"), formats()),
            section(
                "Rules of a case",
                "Looked at in each case.",
                ("rule", "what is looked for"),
                rules("CASE_RULES"),
            ),
            section(
                "Rules of a dataset",
                "Looked at in all cases together.",
                ("rule", "what is looked for"),
                rules("DATASET_RULES"),
            ),
            section(
                "Repairs",
                "Made on the converted copy, never on your files; each is written in the report.",
                ("repair", "what is done"),
                rules("REPAIRS"),
            ),
        ]
    )


def section(title: str, about: str, head: Sequence[str], rows: Iterable[tuple[str, str]]) -> str:
    """Return a heading with a table; nothing when there are no rows."""
    lines = [f"| {first} | {second.replace('|', chr(92) + '|')} |" for first, second in rows]
    table = [f"| {' | '.join(head)} |", "| --- | --- |", *lines]
    return "\n".join([f"## {title}", "", about, "", *table, ""]) if lines else ""


def modules_of(package: ModuleType) -> list[ModuleType]:
    """Return the modules of a package and of those in it."""
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return [importlib.import_module(item.name) for item in found]


def layouts() -> list[tuple[str, str]]:
    """Return the layouts by name and by what `--layout` takes, each with its form."""
    found = [item for item in modules_of(nnunet_medseg.dataset.layouts) if hasattr(item, "NAME")]
    keys = {item: item.__name__.rpartition(".")[2] for item in found}
    return sorted(
        (f"{item.NAME}: `{keys[item]}`", getattr(item, "DESCRIPTION", first_line(item)))
        for item in found
    )


def formats() -> list[tuple[str, str]]:
    """Return the endings, each with the kind of file it is."""
    endings = dict.fromkeys((".seg.nrrd", *EXTENSIONS) if _reads_segments() else EXTENSIONS)
    return [(f"`{ending}`", FORMATS[ending]) for ending in FORMATS if ending in endings] + [
        (f"`{ending}`", FORMATS[ending]) for ending in endings if ending not in FORMATS
    ]


def _reads_segments() -> bool:
    return hasattr(nnunet_medseg.volume, "segment_names")


def rules(table: str) -> list[tuple[str, str]]:
    """Return what a table of functions holds: name and first line of each."""
    holders = [item for item in modules_of(nnunet_medseg.dataset) if hasattr(item, table)]
    entries = list(getattr(holders[0], table)) if holders else []
    return [(name_of(entry), first_line(function_of(entry))) for entry in entries]


def function_of(entry: Any) -> Any:
    """Return the function of an entry: itself, or what a record or a pair holds."""
    if inspect.isfunction(entry):
        return entry
    values = entry if isinstance(entry, tuple) else vars(entry).values()
    return next(value for value in values if inspect.isfunction(value))


def name_of(entry: Any) -> str:
    """Return what an entry is called, in words."""
    if isinstance(entry, tuple) and isinstance(entry[0], str):
        return entry[0]
    name = getattr(entry, "name", None) or function_of(entry).__name__
    return str(name).strip("_").replace("_", " ")


def first_line(thing: Any) -> str:
    """Return the first line of a docstring, without its verb of finding and its full stop."""
    text = (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")
    assert text, f"{thing} has no docstring"
    return re.sub(r"\.$", "", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE.name} is written\n")
