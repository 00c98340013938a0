"""A folder with the two commands, as a user has it, and phantoms to copy in."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_medseg.phantom import PhantomSpec, write_patient_folders

REPOSITORY = Path(__file__).resolve().parents[1]
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
