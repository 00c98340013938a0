"""One file a layout, each with the same `NAME`, `DESCRIPTION`, `recognise` and `read`.

A module of this package that has `recognise` is a layout: it joins by being there. The others hold
what several layouts need.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from nnunet_medseg.dataset.case import Dataset

__all__ = ["Layout", "layouts", "own_endings"]


class Layout(Protocol):
    """A convention for files and folders.

    Attributes:
        NAME: What people call it; without blanks and signs, the name of its module.
        DESCRIPTION: What to copy, in one line.
    """

    NAME: str
    DESCRIPTION: str

    def recognise(self, folder: Path, extensions: tuple[str, ...]) -> str:
        """Return what shows the convention, for people; nothing when it is not there.

        It gets into logs: no name of a patient is in it.
        """

    def read(self, folder: Path, extensions: tuple[str, ...]) -> Dataset:
        """List the cases, and what does not fit the convention."""


def own_endings(layout: Layout) -> tuple[str, ...]:
    """Return what `-e` may say of a layout that knows its files by what they hold."""
    return tuple(getattr(layout, "ENDINGS", ()))


@cache
def layouts() -> dict[str, Layout]:
    """Return every layout by the name of its module, sorted."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = {name: import_module(f"{__name__}.{name}") for name in names}
    return {
        name: cast(Layout, module)
        for name, module in modules.items()
        if hasattr(module, "recognise")
    }
