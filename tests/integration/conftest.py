"""Whole runs of the real commands on phantoms, in folders of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from desk import SPEC, Desk, copy_in, make_desk

from nnunet_medseg.phantom import write_images


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return make_desk(tmp_path / "desk")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A desk on which a model was trained, and unseen images were segmented with it."""
    desk = make_desk(tmp_path_factory.mktemp("trained") / "desk")
    copy_in(desk.input / "Abdomen", cases=8, validate=2)
    (desk.input / "Abdomen" / "SOURCE.md").write_text("where it is from")
    (desk.input / "beside.txt").write_text("not of the dataset")
    options = ("-d", "Abdomen", "-l", "kidney=2,lesion=3", "-i", "CT", "-t", "0.4", "-f", "0")
    desk.finished["train"] = desk.run("train", *options)
    assert desk.finished["train"].returncode == 0, desk.finished["train"].stderr

    images, truth = desk.root / "Input_nnUNet_predict", desk.root / "truth"
    write_images(images, truth, SPEC, cases=2, first=20)
    (images / "notes.txt").write_text("not an image")
    shutil.copytree(images, desk.root / "images")
    shutil.copytree(desk.output / "Abdomen", desk.root / "model" / "Abdomen")
    desk.finished["predict"] = desk.run("predict", "--precision", "float32")
    assert desk.finished["predict"].returncode == 0, desk.finished["predict"].stderr
    return desk
