"""The datasets of the benchmarks, as folders of patients with `train.*` and `validate.*` labels.

hippocampus   real MRI of about 35 x 50 x 35 voxels, 2 labels: 32 cases train, 28 are held out
reversed      the same cases, of which the 28 train and the 32 are held out
lesions       phantom, 2 MRI channels of 48 x 64 x 64 voxels, the lesion only: 24 and 12
organs        phantom, anisotropic CT of 20 x 80 x 80 voxels, 2 organs and a lesion: 24 and 12
large         phantom, MRI of 88 x 142 x 190 voxels of 0.625 mm, one organ: 12 and 6
slices        phantom, single slices of 128 x 128 voxels of MRI, 2 organs and a lesion: 48 and 24
mixed         phantom, MRI of 40 x 64 x 72 voxels, 2 organs and a lesion: 24 and 12
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from nnunet_medseg.phantom import PhantomSpec, write_patient_folders

HIPPOCAMPUS = Path(__file__).resolve().parents[2] / "shared" / "data" / "hippocampus"
HIPPOCAMPUS_FIRST = 32
# Whether these train; else the others.
FIRST_TRAIN = {"hippocampus": True, "reversed": False}


@dataclass(frozen=True)
class Phantoms:
    """A phantom dataset."""

    spec: PhantomSpec
    train: int
    held_out: int


PHANTOMS = {
    "lesions": Phantoms(
        PhantomSpec((48, 64, 64), (1.5, 1.5, 1.5), "MRI", channels=2, seed=11), 24, 12
    ),
    "organs": Phantoms(PhantomSpec((20, 80, 80), (5.0, 1.5, 1.5), "CT", seed=12), 24, 12),
    "large": Phantoms(PhantomSpec((88, 142, 190), (0.625,) * 3, "MRI", seed=13), 12, 6),
    "slices": Phantoms(PhantomSpec((1, 128, 128), (5.0, 1.5, 1.5), "MRI", seed=14), 48, 24),
    "mixed": Phantoms(PhantomSpec((40, 64, 72), (2.5, 1.2, 1.2), "MRI", seed=15), 24, 12),
}
# Options of exe_train.py.
OPTIONS = {
    "hippocampus": {"label": "Anterior=1,Posterior=2", "image_type": "MRI"},
    "reversed": {"label": "Anterior=1,Posterior=2", "image_type": "MRI"},
    "lesions": {"label": "lesion=3", "image_type": "T1,FLAIR"},
    "organs": {"label": "liver=1,kidney=2,lesion=3", "image_type": "CT"},
    "large": {"label": "liver=1", "image_type": "MRI"},
    "slices": {"label": "liver=1,kidney=2,lesion=3", "image_type": "MRI"},
    "mixed": {"label": "liver=1,kidney=2,lesion=3", "image_type": "MRI"},
}


def write_dataset(name: str, folder: Path) -> None:
    """Write a dataset of the list above into a new folder."""
    if name in PHANTOMS:
        made = PHANTOMS[name]
        cases = made.train + made.held_out
        write_patient_folders(folder, made.spec, cases=cases, validate=made.held_out)
        return
    first_train = FIRST_TRAIN[name]
    for number, patient in enumerate(sorted(p for p in HIPPOCAMPUS.iterdir() if p.is_dir())):
        is_first = number < HIPPOCAMPUS_FIRST
        role = "train" if is_first == first_train else "validate"
        target = folder / patient.name
        target.mkdir(parents=True)
        (label,) = (path for path in patient.iterdir() if not path.name.startswith("img"))
        shutil.copy(patient / "img.nii.gz", target / "img.nii.gz")
        shutil.copy(label, target / f"{role}.nii.gz")
