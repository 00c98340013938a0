"""A house in which everything is called after somebody, and what is to be found nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from desk import REPOSITORY, SPEC, Desk, make_desk
from foreign_models import plans_of, write_stock_folder
from tiny_model import DESCRIPTION

import nnunet_medseg
from nnunet_medseg.phantom import write_images, write_patient_folders
from nnunet_medseg.volume import extension_of, read_volume, write_volume

# Of names of folders and files: the console may show them, since they are the user's own.
NAMES = ("O'Zwetschgen", "Güllbaum", "0815471199", "1953-07-21", "19530721", "21.07.1953")
# Of headers: nothing may show them.
HEADERS = ("D'Ambrösius", "Kreszentia", "4711009182", "1938-02-17", "19380217", "17.02.1938")
MACHINE, USER = "radiologie-xaver", "oberarzt-veit"

PATIENTS = (
    "Güllbaum, Änne O'Zwetschgen *21.07.1953",
    "0815471199",
    "1953-07-21 " + unicodedata.normalize("NFD", "Güllbaum"),
    "19530721_O'ZWETSCHGEN (2)",
)
IMAGE, LABEL = "0815471199_19530721", "train_O'Zwetschgen"
TEXT = "D'Ambrösius, Kreszentia *17.02.1938, 1938-02-17, 4711009182"
SHORT = ("D'Ambrösius", "Kreszentia", "4711009182")
FORMATS = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")

# In a namespace of its own: the name of the machine, and no network but a loopback that is down.
LAUNCHER = """
import os, socket, sys
machine, mask, notes, *command = sys.argv[1:]
if machine:
    socket.sethostname(machine)
    with open(os.path.join(notes, "interfaces.txt"), "a") as lines:
        lines.write(" ".join(name for _, name in socket.if_nameindex()) + "\\n")
os.umask(int(mask, 8))
os.execv(command[0], command)
"""
UNSHARE = ("unshare", "--map-root-user", "--net", "--uts")


def can_unshare() -> bool:
    """Tell whether this machine lets its users make namespaces."""
    command = [*UNSHARE, sys.executable, "-IS", "-c", "import socket; socket.sethostname('x')"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@dataclass(frozen=True)
class World:
    """A desk, and where the notes about its commands are.

    Attributes:
        desk: The folder with the commands, named after a patient.
        notes: What `sitecustomize` noted.
        finished: Each command that ran.
        mask: The umask of each.
    """

    desk: Desk
    notes: Path
    is_apart: bool
    finished: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.desk.root

    def places(self) -> tuple[str, ...]:
        """Return paths of the machine; what is below one is found with it."""
        source = Path(nnunet_medseg.__file__).parent
        folders = (self.root, self.root.parent, REPOSITORY, source, Path(sys.prefix), Path.home())
        paths = {str(folder) for folder in folders if len(folder.parts) > 2}
        return (*paths, "Input_nnUNet_train", "Output_nnUNet_train", ".medseg/")

    def words(self) -> tuple[str, ...]:
        """Return all that may be found nowhere."""
        return (*NAMES, *self.words_of_others(), *self.places())

    def words_of_others(self) -> tuple[str, ...]:
        """Return what not even the console may show."""
        return (*HEADERS, MACHINE, USER)

    def run(self, title: str, command: list[str], *, mask: int) -> None:
        """Run a command in this world; it must succeed."""
        paths = [str(Path(__file__).with_name("watch")), os.environ.get("PYTHONPATH", "")]
        settings = {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "MEDSEG_WATCH": str(self.notes),
            "HOME": str(self.root / USER),
            **dict.fromkeys(("USER", "LOGNAME", "USERNAME"), USER),
        }
        apart = (UNSHARE, MACHINE) if self.is_apart else ((), "")
        launcher = [*apart[0], sys.executable, "-IS", "-c", LAUNCHER, apart[1], f"{mask:o}"]
        self.finished[title] = subprocess.run(
            [*launcher, str(self.notes), *command],
            capture_output=True,
            text=True,
            cwd=self.root,
            env=os.environ | settings,
            check=False,
        )
        assert self.finished[title].returncode == 0, "".join(
            (self.finished[title].stdout, self.finished[title].stderr)
        )


def make_world(folder: Path) -> World:
    """Make a desk whose folder is called after a patient, with a private home and no notes yet."""
    notes = folder / "notes"
    notes.mkdir()
    desk = make_desk(folder / PATIENTS[0] / PATIENTS[1])
    (desk.root / USER).mkdir()
    return World(desk, notes, can_unshare())


def copy_in(folder: Path, *, extension: str) -> None:
    """Write patients, one of them without the label that is asked for: a warning of the check."""
    write_patient_folders(folder, SPEC, cases=len(PATIENTS) + 1, extension=extension)
    for path in sorted(folder.rglob(f"*{extension}")):
        if path.parent.name == "patient_04" and path.name.startswith("train"):
            label = read_volume(path)
            write_volume(path, label.with_array(np.where(label.array == 2, 1, label.array)))
        write_identifiers(path)
        stem = IMAGE if path.name.startswith("img") else LABEL
        path.rename(path.with_name(f"{stem}{extension}"))
    for path, name in zip(sorted(folder.iterdir()), PATIENTS, strict=False):
        path.rename(folder / name)


def copy_images_in(folder: Path, scratch: Path) -> None:
    """Write an image of each format."""
    for number, extension in enumerate(FORMATS):
        made = scratch / extension
        write_images(made, made / "truth", SPEC, cases=1, first=20 + number, extension=extension)
        (path,) = made.glob(f"*{extension}")
        name = f"{PATIENTS[0]} {number}"
        volume = read_volume(path)
        folder.mkdir(exist_ok=True)
        write_volume(folder / f"{name}{extension}", volume)
        write_identifiers(folder / f"{name}{extension}")


def write_named_model(folder: Path) -> Path:
    """Write a model of stock nnU-Net that somebody has named after a patient wherever it can be."""
    description = DESCRIPTION | {"name": TEXT, "reference": str(folder), "licence": PATIENTS[0]}
    plans = plans_of() | {
        "dataset_name": "Dataset042_Güllbaum_0815471199",
        "plans_name": "Güllbaum_19530721",
        "source": str(folder),
    }
    model = write_stock_folder(folder, plans=plans, description=description)
    for path in model.rglob("debug.json"):
        path.write_text(f'{{"hostname": "{MACHINE}", "folder": "{folder}"}}', encoding="utf-8")
    return model


# --- headers -----------------------------------------------------------------------------------


def write_identifiers(path: Path) -> None:
    """Write who the patient is into every part of a header that takes text."""
    if extension_of(path) in {".nii", ".nii.gz"}:
        _write_in_nifti(path)
        return
    content = path.read_bytes()
    if extension_of(path) == ".nrrd":
        head, gap, voxels = content.partition(b"\n\n")
        fields = f"# {TEXT}\ncontent: {TEXT}\nPatientName:={TEXT}\nDate:=19380217"
        path.write_bytes(head + b"\n" + fields.encode() + gap + voxels)
        return
    head, key, rest = content.partition(b"ElementDataFile")
    fields = f"Comment = {TEXT}\nName = Kreszentia\nPatientName = {TEXT}\nDate = 19380217\n"
    path.write_bytes(head + fields.encode() + key + rest)


def _write_in_nifti(path: Path) -> None:
    image = nibabel.load(path)
    voxels = np.asanyarray(image.dataobj).copy()
    header = image.header.copy()
    header["descrip"] = TEXT.encode()
    for key, text in zip(("aux_file", "db_name", "intent_name"), SHORT, strict=True):
        header[key] = text.encode("latin-1")
    header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", TEXT.encode()))
    header.extensions.append(nibabel.nifti1.Nifti1Extension("afni", f"<a>{TEXT}</a>".encode()))
    nibabel.save(nibabel.Nifti1Image(voxels, None, header), path)
    tilt_header(path)


def tilt_header(path: Path) -> None:
    """Let the two grids in a NIfTI header differ, about which SimpleITK complains with the path."""
    image = nibabel.load(path)
    voxels = np.asanyarray(image.dataobj).copy()
    header = image.header.copy()
    grid = header.get_qform()
    header.set_sform(grid @ np.diag([1.01, 1.0, 1.0, 1.0]), code=1)
    nibabel.save(nibabel.Nifti1Image(voxels, None, header), path)


def header_of(path: Path) -> dict[str, Any]:
    """Return every field of a header by name, and what follows it as `extensions`."""
    if extension_of(path) in {".nii", ".nii.gz"}:
        header = nibabel.load(path).header
        fields = {key: header[key].tobytes() for key in header}
        return fields | {"extensions": [each.get_content() for each in header.extensions]}
    content = path.read_bytes()
    if extension_of(path) == ".nrrd":
        lines = content.partition(b"\n\n")[0].decode().splitlines()
        return dict(line.partition(":")[::2] if ":" in line else (line, "") for line in lines)
    head, key, rest = content.partition(b"ElementDataFile")
    lines = [*head.decode().splitlines(), (key + rest.partition(b"\n")[0]).decode()]
    return dict(line.split(" = ", 1) for line in lines)
