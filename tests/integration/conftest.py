"""Whole runs of the real commands on phantoms, in folders of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nnunet_medseg.phantom import PhantomSpec, write_images, write_patient_folders

REPOSITORY = Path(__file__).resolve().parents[2]
SPEC = PhantomSpec(shape=(16, 32, 32))
# Names that nobody invents by chance, to be looked for in what is delivered.
PATIENTS = ("Zwetschgenbaum Änne", "0815471199", "O'Hanrahan-Quist")


@dataclass(frozen=True)
class Desk:
    """A folder with the two commands, as a user has it."""

    root: Path
    finished: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)

    @property
    def input(self) -> Path:
        return self.root / "Input_nnUNet_train"

    @property
    def output(self) -> Path:
        return self.root / "Output_nnUNet_train"

    def command(self, name: str, *options: str) -> list[str]:
        return [sys.executable, str(self.root / f"exe_{name}.py"), *options]

    def run(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        # From another current folder: the commands work from anywhere.
        return subprocess.run(
            self.command(name, *options), capture_output=True, text=True, cwd="/", check=False
        )


def make_desk(root: Path) -> Desk:
    root.mkdir(parents=True, exist_ok=True)
    for name in ("exe_train.py", "exe_predict.py"):
        shutil.copy(REPOSITORY / name, root / name)
    return Desk(root)


def copy_in(folder: Path, *, cases: int, validate: int = 0, spec: PhantomSpec = SPEC) -> None:
    """Write phantoms, the first ones under names of patients."""
    write_patient_folders(folder, spec, cases=cases, validate=validate)
    for path, name in zip(sorted(folder.iterdir()), PATIENTS, strict=False):
        path.rename(folder / name)


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
    desk.finished["predict"] = desk.run("predict")
    assert desk.finished["predict"].returncode == 0, desk.finished["predict"].stderr
    return desk
