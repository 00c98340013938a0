"""The desk of a fault: a dataset, what was delivered earlier, and what must hold of both."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from nnunet_medseg.phantom import PhantomSpec, write_images, write_patient_folders

NAME = "F"
MINUTES = 0.1
OPTIONS = (
    *("-d", NAME, "-l", "liver=1", "-i", "CT", "-t", str(MINUTES), "-f", "0"),
    *("--plan", "default", "--network", "small", "--patch_size", "16x16x16", "--batch_size", "2"),
)
SPEC = PhantomSpec(shape=(16, 24, 24))
CASES = 5
STAYING = {"lock", "made-by-medseg"}  # in a work folder
STAGES = (
    *("check", "convert", "plan", "preprocess", "train", "evaluate"),
    *("report", "bundle", "verify", "deliver", "keep", "clean"),
)

Stamp = tuple[int, int, str]


@dataclass(frozen=True)
class Desk:
    """Folders of one place to work at; the desk itself is put back before each fault.

    Attributes:
        place: Holds the desk, and around it what the harness writes.
    """

    place: Path

    @property
    def root(self) -> Path:
        return self.place / "desk"

    @property
    def input(self) -> Path:
        return self.root / "Input_nnUNet_train"

    @property
    def dataset(self) -> Path:
        return self.input / "Data"

    @property
    def output(self) -> Path:
        return self.root / "Output_nnUNet_train"

    @property
    def work(self) -> Path:
        return self.root / ".medseg"

    @property
    def run(self) -> Path:
        return self.work / "runs" / NAME

    @property
    def training(self) -> Path:
        return self.run / "trainings" / "training"

    @property
    def temporary(self) -> Path:
        return self.place / "temporary"

    @property
    def events(self) -> Path:
        return self.place / "events.jsonl"

    @property
    def flag(self) -> Path:
        return self.place / "flag"

    @property
    def kept_history(self) -> Path:
        return self.place / "history.jsonl"

    def state(self, name: str) -> Path:
        """Return the folder with a copy of the desk at some point of a run."""
        return self.place / "states" / name

    def note(self, **event: object) -> None:
        """Write down what happened in a run."""
        handle = os.open(self.events, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(handle, (json.dumps(event) + "\n").encode())
        os.close(handle)

    def noted(self, name: str) -> list[dict[str, str]]:
        """Return what was written down under a name."""
        if not self.events.exists():
            return []
        events = [json.loads(line) for line in self.events.read_text().splitlines()]
        return [event for event in events if event["event"] == name]

    def forget(self, name: str) -> None:
        """Forget what was written down under a name."""
        if self.events.exists():
            events = [json.loads(line) for line in self.events.read_text().splitlines()]
            kept = [json.dumps(event) + "\n" for event in events if event["event"] != name]
            self.events.write_text("".join(kept))


def make_desk(place: Path) -> Desk:
    """Write a desk as it is before the first command."""
    desk = Desk(place)
    desk.state("fresh").parent.mkdir(parents=True)
    desk.temporary.mkdir()
    write_patient_folders(desk.dataset, SPEC, cases=CASES, validate=0)
    (desk.dataset / "SOURCE.md").write_text("where it is from")
    (desk.input / "beside.txt").write_text("not of the dataset")
    earlier = desk.output / NAME / "model"
    earlier.mkdir(parents=True)
    (earlier / "manifest.json").write_text("{}")
    (earlier / "checkpoint_final.pth").write_bytes(os.urandom(5000))
    (desk.output / "stray.txt").write_text("the user's own")
    desk.work.mkdir(mode=0o700)
    write_images(place / "images", place / "truth", SPEC, cases=1, first=20)
    save(desk, "fresh")
    return desk


def save(desk: Desk, name: str) -> None:
    """Copy the desk as it is now."""
    shutil.copytree(desk.root, desk.state(name), symlinks=True)


def forget_states(desk: Desk) -> None:
    """Remove all copies of the desk but the first."""
    for path in desk.state("fresh").parent.iterdir():
        if path.name != "fresh":
            shutil.rmtree(path)


def restore(desk: Desk, name: str) -> None:
    """Put a copy of the desk back, with its times; mounted folders stay where they are."""
    desk.root.mkdir(exist_ok=True)
    empty(desk.root)
    shutil.copytree(desk.state(name), desk.root, symlinks=True, dirs_exist_ok=True)
    empty(desk.temporary)
    for path in (desk.events, desk.flag, desk.kept_history):
        path.unlink(missing_ok=True)


def empty(folder: Path) -> None:
    """Remove all below a folder but the points of mounts."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
            empty(path)
            if not path.is_mount():
                path.rmdir()
        else:
            path.unlink()


def stamps(folder: Path) -> dict[str, Stamp]:
    """Return size, time and hash of each file below a folder."""
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_size,
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def new_models(desk: Desk) -> list[Path]:
    """Return the folders that were delivered beside the earlier one."""
    return sorted(path for path in desk.output.glob(f"{NAME}_*") if path.is_dir())


def litter(desk: Desk) -> list[str]:
    """Return what no finished command may leave behind."""
    found = list(desk.temporary.iterdir())
    found += [path for path in desk.output.iterdir() if path.name.startswith(".")]
    found += [path for path in desk.work.rglob("*") if path.name not in STAYING and path.is_file()]
    return [path.relative_to(desk.place).as_posix() for path in found][:5]
