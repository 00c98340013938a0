"""Honest datasets of three patients, one in each layout and format, that the fuzz spoils.

A dataset is a mapping of relative paths to what lies there, so that names can be spoilt without
looking at a disk.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from functools import cache
from pathlib import Path

import fuzz_dicom
import nibabel
import numpy as np
from makers import make_image, make_label

from nnunet_medseg.volume import EXTENSIONS, Volume, files_of, write_volume

PATIENTS = ("anna", "bert", "cleo")
LABELS = {"background": 0, "liver": 1, "tumor": 2}
SEGMENTS = "\n".join(
    line
    for number, name in ((0, "liver"), (1, "tumor"))
    for line in (
        f"Segment{number}_ID:=Segment_{number + 1}",
        f"Segment{number}_Name:={name}",
        f"Segment{number}_LabelValue:={number + 1}",
        f"Segment{number}_Layer:=0",
        f"Segment{number}_Extent:=0 15 0 15 0 15",
        f"Segment{number}_Color:=0.5 0.2 0.1",
    )
)

Tree = dict[str, bytes]


@cache
def image(patient: int, extension: str = ".nii.gz") -> Tree:
    """Return the files of an image, by their endings: one, or header and voxels."""
    # The one that is spoilt has values that may become no numbers.
    return stored(make_image(patient, dtype=np.float32 if patient == 1 else np.int16), extension)


@cache
def label(values: tuple[int, ...] = (1, 2), extension: str = ".nii.gz") -> Tree:
    """Return the files of a label map, by their endings."""
    if extension == ".seg.nrrd":
        (content,) = stored(make_label(values), ".nrrd").values()
        header, _, voxels = content.partition(b"\n\n")
        return {extension: header + b"\n" + SEGMENTS.encode() + b"\n\n" + voxels}
    return stored(make_label(values, dtype=np.int16), extension)


def stored(volume: Volume, extension: str) -> Tree:
    """Return the files that a volume is written as."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"@{extension}")
        write_volume(path, volume)
        return {item.name[1:]: item.read_bytes() for item in files_of(path)}


def put(tree: Tree, stem: str, files: Tree) -> None:
    """Add an image to a dataset under a name; a header goes on naming its voxels."""
    name = stem.rpartition("/")[2].encode()
    for ending, content in files.items():
        if ending == ".mhd":
            content = content.replace(b"ElementDataFile = @", b"ElementDataFile = " + name)
        tree[stem + ending] = content


def patient_folders(extension: str = ".nii.gz") -> Tree:
    """Return `PATIENT/img.EXT` and `PATIENT/train.EXT`; the images of a segmentation are NRRD."""
    tree: Tree = {}
    for number, patient in enumerate(PATIENTS):
        put(tree, f"{patient}/img", image(number, extension.replace(".seg.", ".")))
        put(tree, f"{patient}/train", label(extension=extension))
    return tree


def strange_nifti(*, sheared: bool = False, frames: int = 0) -> Tree:
    """Return patient folders of NIfTI files whose axes are sheared, or with a fourth axis."""
    affine = np.diag([1.5, 1.0, 2.0, 1.0])
    affine[0, 1] = 0.3 if sheared else 0.0
    tree: Tree = {}
    for number, patient in enumerate(PATIENTS):
        for name, volume in (("img", make_image(number)), ("train", make_label((1, 2)))):
            array = volume.array.T if not frames else np.stack([volume.array.T] * frames, axis=-1)
            content = nibabel.Nifti1Image(array, affine).to_bytes()
            tree[f"{patient}/{name}.nii.gz"] = gzip.compress(content, 1, mtime=0)
    return tree


def nnunet_raw() -> Tree:
    """Return nnU-Net's raw layout with two channels."""
    tree = described({"channel_names": {"0": "T1", "1": "T2"}, "labels": LABELS})
    for number, patient in enumerate(PATIENTS):
        for channel in (0, 1):
            put(tree, f"imagesTr/{patient}_{channel:04d}", image(number + 10 * channel))
        put(tree, f"labelsTr/{patient}", label())
    return tree


def decathlon() -> Tree:
    """Return the layout of the Medical Segmentation Decathlon."""
    pairs = [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for name in PATIENTS
    ]
    about = {"name": "Liver", "tensorImageSize": "3D", "modality": {"0": "CT"}}
    labels = {str(value): name for name, value in LABELS.items()}
    tree = described(
        about | {"labels": labels, "training": pairs, "test": ["./imagesTs/dora.nii.gz"]}
    )
    for number, patient in enumerate(PATIENTS):
        put(tree, f"imagesTr/{patient}", image(number))
        put(tree, f"labelsTr/{patient}", label())
    put(tree, "imagesTs/dora", image(9))
    return tree


def described(content: dict[str, object]) -> Tree:
    """Return a dataset of a description alone."""
    more = {"numTraining": len(PATIENTS), "file_ending": ".nii.gz"}
    return {"dataset.json": json.dumps(content | more, indent=1).encode()}


def flat() -> Tree:
    """Return `images/NAME.EXT` and `labels/NAME_seg.EXT`."""
    tree: Tree = {}
    for number, patient in enumerate(PATIENTS):
        put(tree, f"images/{patient}", image(number))
        put(tree, f"labels/{patient}_seg", label())
    return tree


def masks() -> Tree:
    """Return one binary mask a class, as TotalSegmentator writes them."""
    tree: Tree = {}
    for number, patient in enumerate(PATIENTS):
        put(tree, f"{patient}/ct", image(number))
        put(tree, f"{patient}/segmentations/liver", label((1,)))
        put(tree, f"{patient}/segmentations/tumor", stored(moved(make_label((1,))), ".nii.gz"))
    return tree


def moved(mask: Volume) -> Volume:
    """Return a mask that does not overlap the one it is made of."""
    return mask.with_array(np.roll(mask.array, 5, axis=0))


def bids() -> Tree:
    """Return the Brain Imaging Data Structure, with label maps among its derivatives."""
    tree = {"dataset_description.json": b'{"Name": "Brains", "BIDSVersion": "1.8.0"}'}
    for number, patient in enumerate(PATIENTS):
        put(tree, f"sub-{patient}/anat/sub-{patient}_T1w", image(number))
        place = f"derivatives/manual/sub-{patient}/anat/sub-{patient}"
        put(tree, f"{place}_label-lesion_mask", label((1,)))
    return tree


LAYOUTS = {
    "patients": patient_folders,
    "raw": nnunet_raw,
    "decathlon": decathlon,
    "flat": flat,
    "masks": masks,
    "bids": bids,
    "dicom": fuzz_dicom.contours,
}
DESCRIBED = ("raw", "decathlon", "bids")


def endings() -> tuple[str, ...]:
    """Return the formats that are read now."""
    return tuple(dict.fromkeys((*EXTENSIONS, ".seg.nrrd")))
