"""What a prediction has written, so that an interrupted one goes on where it stopped.

Promises: only files that this record names, and that are as they were written, are ever written
anew; a case counts as done only with these very images and this very model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_medseg.dataset.unlabelled import Unlabelled
from nnunet_medseg.errors import FolderError
from nnunet_medseg.files import ListedFile, hash_file, read_json, write_json
from nnunet_medseg.workflows.predicting.table import Row, row_from_json, row_to_json

__all__ = ["Record", "require_free_names"]


class Record:
    """Remembers the files of each case, their hashes, and the case's row in the table.

    Args:
        path: The file; one that is not ours is an empty record.
        model: What stands for the model and for how it is used.
        source: The folder of the images.
        output: The folder of the segmentations.
        listed: The images, with their hashes.
    """

    def __init__(
        self, path: Path, model: str, source: Path, output: Path, listed: Sequence[ListedFile]
    ) -> None:
        self._path = path
        self._model = model
        self._source = source
        self._output = output
        self._hashes = {item.path: item.sha256 for item in listed}
        try:
            content = read_json(path)
        except (OSError, ValueError):
            content = {}
        self._done: dict[str, dict[str, Any]] = {
            key: entry for key, entry in content.items() if isinstance(entry, dict)
        }

    def _key(self, name: str) -> str:
        return str(self._output / name)

    def _made_from(self, case: Unlabelled) -> list[str]:
        images = (path.relative_to(self._source).as_posix() for path in case.files)
        return [self._model, *(self._hashes[name] for name in images)]

    def owns(self, case: Unlabelled, name: str) -> bool:
        """Tell whether a file is one that was written for this case, unchanged."""
        entry = self._done.get(self._key(case.result), {})
        if entry.get("made_from") != self._made_from(case) or name not in entry["files"]:
            return False
        path = self._output / name
        return path.is_file() and hash_file(path) == entry["files"][name]

    def row(self, case: Unlabelled, names: Sequence[str]) -> Row | None:
        """Return the row of a case whose files are all there; None when it is to be segmented."""
        if not all(self.owns(case, name) for name in names):
            return None
        return row_from_json(self._done[self._key(case.result)]["row"])

    def add(self, case: Unlabelled, names: Sequence[str], row: Row) -> None:
        """Remember a case that was written."""
        files = {name: hash_file(self._output / name) for name in names}
        self._done[self._key(case.result)] = {
            "made_from": self._made_from(case),
            "files": files,
            "row": row_to_json(row),
        }
        write_json(self._path, self._done, mode=0o600)

    def close(self) -> None:
        """Forget everything."""
        self._path.unlink(missing_ok=True)


def require_free_names(
    output: Path, names: Sequence[tuple[Unlabelled, tuple[str, ...]]], record: Record
) -> None:
    """Refuse to begin when a file would be overwritten.

    Args:
        output: The folder of the segmentations.
        names: The files of each case.
        record: Names those that are ours.

    Raises:
        FolderError: Naming some.
    """
    taken = [
        name
        for case, files in names
        for name in files
        if (output / name).exists() and not record.owns(case, name)
    ]
    if taken:
        shown = ", ".join(taken[:5]) + (" …" if len(taken) > 5 else "")
        problem = f"{len(taken)} segmentations are in {output} already: {shown}."
        raise FolderError(problem, fix="Move them away; nothing is overwritten here.")
