"""A whole training on patients with hostile names, and one more on what was kept of them."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from foreign_models import Program
from hostile_names import DASHES, DEVICE, ESCAPES, FORGED, LONG, REVERSED
from makers import hashes_of

import nnunet_medseg
from nnunet_medseg.phantom import PhantomSpec, write_images, write_patient_folders

NAMES = (ESCAPES, FORGED, REVERSED, DASHES, DEVICE, LONG)


def train(root: Path) -> Path:
    """Train for some seconds on what is in `root / "in"`, or on what is kept."""
    options = {"dataset_name": "Names", "minutes": 0.4, "image_type": "CT", "fold": "0"}
    kept = {"keep_dataset": True, "delete_input": True}
    return nnunet_medseg.train(root / "in", root / "out", root / "work", **options, **kept).folder


def is_visible(text: str) -> bool:
    return all(letter.isprintable() or letter in "\n\t" for letter in text)


@pytest.mark.slow
def test_hostile_names_and_planted_pickles_do_nothing_in_whole_runs(tmp_path, capfd):
    spec = PhantomSpec(shape=(16, 32, 32))
    write_patient_folders(tmp_path / "in" / "Data", spec, cases=len(NAMES))
    for path, name in zip(sorted((tmp_path / "in" / "Data").iterdir()), NAMES, strict=True):
        path.rename(path.with_name(name))
    outside = tmp_path / "outside"
    write_images(outside, tmp_path / "truth", spec, cases=2)
    (tmp_path / "in" / "Data" / "linked").symlink_to(outside)
    before = hashes_of(outside)

    first = train(tmp_path)
    # Of the input only the link is left, which nobody followed.
    left = [path for path in (tmp_path / "in").rglob("*") if not path.is_dir() or path.is_symlink()]
    assert left == [tmp_path / "in" / "Data" / "linked"]
    left[0].unlink()
    left[0].parent.rmdir()
    kept = tmp_path / "work" / "datasets" / "Names"
    for folder in {path.parent for path in (kept / "prepared").rglob("*.b2nd")}:
        for case in range(1, len(NAMES) + 1):
            gadget = pickle.dumps(Program(tmp_path / "marker"))
            (folder / f"case_{case:04d}.pkl").write_bytes(gadget)
    second = train(tmp_path)
    nnunet_medseg.predict(outside, tmp_path / "seg", second / "model", tmp_path / "work")

    said = capfd.readouterr()
    assert is_visible(said.out)
    assert is_visible(said.err)
    assert list((kept / "prepared").rglob("*.pkl"))
    assert not (tmp_path / "marker").exists()
    assert hashes_of(outside) == before
    for folder in (first, second):
        texts = [path.read_text() for path in folder.rglob("*") if path.suffix in {".txt", ".json"}]
        assert all(is_visible(text) for text in texts)
    assert len(list((tmp_path / "seg").glob("*.nii.gz"))) == 2
    assert is_visible((tmp_path / "seg" / "volumes.csv").read_text())
