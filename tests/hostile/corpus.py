"""What an entry of the corpus is: a hostile thing, the door it comes through, and its answer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from foreign_models import write_stock_folder
from makers import make_image, write_patients, write_raw

from nnunet_medseg.errors import UserError
from nnunet_medseg.volume import write_volume

CHECK, TRAIN, PRETRAINED, MODEL, PREDICT, KEPT = (
    "check",
    "train",
    "pretrained",
    "model",
    "predict",
    "kept",
)


@dataclass(frozen=True)
class Place:
    """The folders of one case.

    Attributes:
        root: Holds all others, and nothing beside.
        stock: A good model of stock nnU-Net, to copy.
    """

    root: Path
    stock: Path

    @property
    def given(self) -> Path:
        """The folder that the command is given; the hostile thing goes here."""
        return self.root / "given"

    @property
    def outside(self) -> Path:
        """Files that no command may read, write or delete."""
        return self.root / "outside"

    @property
    def marker(self) -> Path:
        """A file that only a hostile program would make."""
        return self.root / "marker"

    @property
    def work(self) -> Path:
        """The work folder."""
        return self.root / "work"

    def copy_stock(self, name: str = "Stock") -> Path:
        """Copy the good model into the given folder."""
        return Path(shutil.copytree(self.stock, self.given / name))


@dataclass(frozen=True)
class Hostile:
    """One hostile thing.

    Attributes:
        name: What it is, for people.
        doors: The ways in that it is sent through.
        make: Makes it, and returns what the command is given.
        error: The kind of error; None where it is harmless and the command does its work.
        says: Pieces of what is shown, in any order.
    """

    name: str
    doors: Sequence[str]
    make: Callable[[Place], Path]
    error: type[UserError] | None
    says: Sequence[str]


def write_outside(folder: Path, stock: Path) -> Path:
    """Write files that no command is given, and that would be read with pleasure if they were."""
    write_patients(folder / "Patients", cases=2)
    write_raw(folder / "Raw", cases=2)
    shutil.copytree(stock, folder / "Model")
    for ending in (".nii", ".nrrd", ".mha"):
        write_volume(folder / f"secret{ending}", make_image())
    (folder / "secret.raw").write_bytes(make_image().array.tobytes())
    (folder / "secret.json").write_text('{"secret": 1}')
    return folder


def command_of(door: str, place: Place, given: Path, good: Path) -> list[str]:
    """Return the arguments of `medseg` that send a thing through a door.

    Args:
        door: Which one.
        place: The folders.
        given: What the maker made.
        good: Folder with a good dataset `patients`, an image folder `images` and a model `model`.
    """
    output, work = str(place.root / "out"), ["--work_dir", str(place.work)]
    training = ["-t", "0.2", "-f", "0", "-i", "CT", *work]
    commands = {
        CHECK: ["check", str(given)],
        TRAIN: ["train", str(given), output, "-d", "Hostile", *training],
        KEPT: ["train", str(given), output, "-d", "Kept", "-t", "0.2", *work],
        PRETRAINED: [
            *("train", str(good / "patients"), output, "-d", "Hostile"),
            *(*training, "--pretrained", str(given)),
        ],
        MODEL: ["predict", str(good / "images"), output, "--model", str(given), *work],
        PREDICT: ["predict", str(given), output, "--model", str(good / "model"), *work],
    }
    return commands[door]


def write_good(folder: Path) -> Path:
    """Write what the other side of each door is: a dataset, an image and a model."""
    write_patients(folder / "patients", cases=3)
    write_volume(folder.joinpath("images", "a.nii.gz"), _made(folder / "images"))
    write_stock_folder(folder / "model")
    return folder


def _made(folder: Path):
    folder.mkdir(parents=True)
    return make_image()
