"""What was found in files that were read before, so that a kept dataset is not read again.

Promises: a case counts as known only when every one of its files has the same hash and the same
name as then, and was looked at by the same rules.
Does not promise: to know cases with errors; these are read every time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nnunet_medseg.dataset.case import Case, Finding
from nnunet_medseg.dataset.checks import Inspection, inspect_cases
from nnunet_medseg.dataset.facts import facts_from_json
from nnunet_medseg.files import read_cache, write_json
from nnunet_medseg.volume import files_of

__all__ = ["RULES_FORMAT", "InspectionRecord"]

# Goes up with every change of the rules, the repairs or the facts: what is known was found by those
# of the time, and so was what has been converted.
RULES_FORMAT = 6


class InspectionRecord:
    """Inspections by the hashes of a case's files, in a file.

    Args:
        path: The file; another version's, or none, is an empty record.
        hashes: SHA-256 of the files of the dataset, by path; a file without one is read.
    """

    def __init__(self, path: Path, hashes: Mapping[Path, str]) -> None:
        self._path = path
        self._hashes = hashes
        self._known: dict[str, dict[str, Any]] = {}
        content = read_cache(path)
        if content.get("format") == RULES_FORMAT and isinstance(content.get("cases"), dict):
            self._known = content["cases"]

    def inspect(
        self, cases: Sequence[Case], on_case: Callable[[int], None] = lambda _: None
    ) -> list[Inspection]:
        """Return what is known of each case, and read the others.

        Args:
            cases: What to inspect.
            on_case: Called with the number of cases that are done.
        """
        keys = [self._key(case) for case in cases]
        # Before any is read: of two cases with the same new files, both are.
        known = [_recall(self._known.get(key), case) for case, key in zip(cases, keys, strict=True)]
        new = [case for case, recalled in zip(cases, known, strict=True) if recalled is None]
        before = len(cases) - len(new)
        if before:
            on_case(before)
        read = iter(inspect_cases(new, lambda done: on_case(before + done)))
        found = []
        for key, recalled in zip(keys, known, strict=True):
            if recalled is not None:
                found.append(recalled)
                continue
            inspection = next(read)
            found.append(inspection)
            if key and inspection.facts is not None:
                self._known[key] = asdict(inspection)
        write_json(self._path, {"format": RULES_FORMAT, "cases": self._known}, mode=0o600)
        return found

    def _key(self, case: Case) -> str:
        files = [part for path in case.files for part in files_of(path)]
        hashes = [self._hashes.get(path, "") for path in files]
        # Findings tell of files by their names, and endings say how they are read.
        names = [path.name for path in case.files]
        return json.dumps([hashes, case.meanings, names]) if all(hashes) else ""


def _recall(record: Any, case: Case) -> Inspection | None:
    try:
        facts = replace(facts_from_json(record["facts"]), name=case.name)
        findings = [Finding(**item) for item in record["findings"]]
    # There is no record, or it is not one of ours.
    except (TypeError, ValueError, LookupError, AttributeError):
        return None
    return Inspection(facts, tuple(replace(item, case=case.source) for item in findings))
