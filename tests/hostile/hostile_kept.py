"""Kept datasets whose records were changed by somebody else."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corpus import KEPT, Hostile, Place
from foreign_models import Program
from makers import write_patients

from nnunet_medseg.dataset.kept import Keeping, KeptRecord, keep_dataset
from nnunet_medseg.errors import DatasetError, UsageError, UserError
from nnunet_medseg.files import list_files, read_json, write_json
from nnunet_medseg.run_folder import claim

RECORD = KeptRecord(
    kept_at="2026-01-01 12:00",
    cases=3,
    options={"label": "NONE", "image_type": "CT", "extension": None},
    inventory=[],
)


def kept_with(change: Callable[[Path, Place], None]) -> Callable[[Place], Path]:
    """Return a maker of an empty input folder, and of a kept dataset that was changed since."""

    def make(place: Place) -> Path:
        source = write_patients(place.root / "source", cases=3)
        # So that a run ends at its check: the first patient has lost its label map.
        (source / "p1" / "train.nii.gz").unlink()
        claim(place.work)
        listed = list_files(source, hashed=True)
        what = Keeping(source, listed, RECORD, place.root / "nothing", may_link=False)
        assert keep_dataset(place.work, "Kept", what)
        change(place.work / "datasets" / "Kept", place)
        return place.given

    return make


def record_with(**changes: Any) -> Callable[[Path, Place], None]:
    """Return a change of entries of the record."""

    def change(root: Path, _: Place) -> None:
        write_json(root / "kept.json", read_json(root / "kept.json") | changes)

    return change


def file_in_record(**changes: Any) -> Callable[[Path, Place], None]:
    """Return a change of the first file of the inventory."""

    def change(root: Path, place: Place) -> None:
        record = read_json(root / "kept.json")
        filled = {key: _filled(value, place) for key, value in changes.items()}
        record["inventory"][0] |= filled
        write_json(root / "kept.json", record)

    return change


def _filled(value: Any, place: Place) -> Any:
    return value.format(outside=place.outside) if isinstance(value, str) else value


def inspections_of(content: Any) -> Callable[[Path, Place], None]:
    """Return a change that writes what is remembered of the cases."""

    def change(root: Path, _: Place) -> None:
        hashes = [item["sha256"] for item in read_json(root / "kept.json")["inventory"]]
        keys = [f"{first}-{second}" for first in hashes for second in hashes]
        text = {"format": 1, "cases": dict.fromkeys(keys, content)} if content != [] else content
        (root / "inspections.json").write_text(json.dumps(text))

    return change


def gadgets(root: Path, place: Place) -> None:
    """Put pickles wherever prepared data may lie."""
    for name in ("prepared/0/case_0001.pkl", "fingerprints/0/case_0001.pkl", "files/p2/x.pkl"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(pickle.dumps(Program(place.marker)))
    (root / "kept.pkl").write_bytes(pickle.dumps(Program(place.marker)))
    (root / "inspections.json").write_bytes(pickle.dumps(Program(place.marker)))
    (root / "speeds.json").write_bytes(pickle.dumps(Program(place.marker)))


def linked_files(root: Path, place: Place) -> None:
    (root / "files" / "p2" / "img.nii.gz").unlink()
    (root / "files" / "p2" / "img.nii.gz").symlink_to(place.outside / "Patients/p1/img.nii.gz")


def pickled_record(root: Path, place: Place) -> None:
    (root / "kept.json").write_bytes(pickle.dumps(Program(place.marker)))


def linked_record(root: Path, place: Place) -> None:
    (root / "kept.json").unlink()
    (root / "kept.json").symlink_to(place.outside / "secret.json")


def nested_record(root: Path, _: Place) -> None:
    (root / "kept.json").write_bytes(b"[" * 10**6)


CHECKED = ("p1", "no label map")
UNREADABLE = ("Kept", "cannot be read", "medseg forget")
FACTS = {"facts": {"name": 3}, "findings": "none"}


def entry(
    name: str,
    change: Callable[[Path, Place], None],
    says: tuple[str, ...] = CHECKED,
    error: type[UserError] = DatasetError,
) -> Hostile:
    """Return a kept dataset that ends in an error, that of its first patient if no other."""
    return Hostile(name, (KEPT,), kept_with(change), error, says)


KEPT_DATASETS = (
    entry("kept record that is a pickle", pickled_record, UNREADABLE),
    entry("kept record nested without end", nested_record, UNREADABLE),
    entry("kept record with text for numbers", record_with(cases="many"), UNREADABLE),
    entry("kept record with other options", record_with(options={"work_dir": "/x"}), UNREADABLE),
    entry(
        "kept record with an option of nothing", record_with(options={"label": None}), UNREADABLE
    ),
    entry(
        "kept record with an absurd ending",
        record_with(options={"extension": "../../outside"}),
        ("-e ../../outside",),
        UsageError,
    ),
    entry(
        "kept record with escape codes",
        record_with(options={"extension": "\x1b[2J"}),
        (r"-e \x1b[2J",),
        UsageError,
    ),
    entry(
        "kept record that names a file above", file_in_record(path="../../../../outside/secret.raw")
    ),
    entry("kept record that names an absolute file", file_in_record(path="{outside}/secret.raw")),
    entry("kept record of absurd size", file_in_record(size_bytes=10**300)),
    entry("kept dataset with gadgets beside it", gadgets),
    entry("kept dataset with a linked image", linked_files, ("p2", "no image")),
    entry("kept findings that are no table", inspections_of([])),
    entry("kept findings of another kind", inspections_of(FACTS)),
    entry("kept findings that are numbers", inspections_of(3)),
    entry("kept record that is a link", linked_record, UNREADABLE),
)
