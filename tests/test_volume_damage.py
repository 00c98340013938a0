"""Damage of every kind of file: cuts and flipped bits bring an error with a fix, or an image."""

from __future__ import annotations

import subprocess
import sys

import nibabel
import numpy as np
import pytest
import tifffile
from makers import make_image, make_label
from test_volume_frames import KINDS, write_four
from test_volume_segments import make_layers, write_segments
from test_volume_shear import TILTED, make_blob, write_sheared

from nnunet_medseg.volume import EXTENSIONS, write_volume

DAMAGE = """
import random, resource, signal, sys, warnings
from pathlib import Path
from nnunet_medseg.volume import (
    VolumeError, files_of, grid_shift, orientation_code, read_frames, read_volume, segment_names
)
warnings.simplefilter("error")
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
signal.alarm(100)
path, places, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)

def attempt():
    first, second = rng.random() < 0.5, rng.random() < 0.5
    options = {"memory_bytes": 1e8, "is_label": first, "allow_lost": second}
    for read in (read_frames, read_volume):
        try:
            files_of(path), segment_names(path)
            found = read(path, **options)
        except VolumeError as problem:
            assert problem.problem and problem.fix
        else:
            for volume in found if isinstance(found, tuple) else (found,):
                grid_shift(volume, volume), orientation_code(volume)

for file in files_of(path):
    whole = file.read_bytes()
    for _ in range(places):
        content = bytearray(whole)
        # Half of them in the header.
        place = rng.randrange(min(len(content), 700 if rng.random() < 0.5 else len(content)))
        content[place] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        attempt()
        file.write_bytes(whole[: rng.randrange(len(whole))])
        attempt()
    file.write_bytes(whole)
print("done")
"""


def write_tif(folder, kind):
    array = make_image(dtype=np.uint16).array
    path = folder / "a.tif"
    if kind == "ImageJ":
        metadata = {"spacing": 2.0, "unit": "mm"}
        tifffile.imwrite(path, array, imagej=True, resolution=(1, 1), metadata=metadata)
    elif kind == "OME":
        metadata = {"axes": "ZYX", "PhysicalSizeX": 1.5}
        tifffile.imwrite(path, array, ome=True, photometric="minisblack", metadata=metadata)
    else:
        tifffile.imwrite(path, array, photometric="minisblack", metadata=None, bigtiff=True)
        (folder / "a.json").write_text('{"spacing": [2, 1, 1.5]}')
    return path


def write_whole(folder, kind):
    """Write a good file of a kind."""
    if kind in EXTENSIONS:
        write_volume(folder / f"a{kind}", make_image(dtype=np.float32))
        return folder / f"a{kind}"
    if kind in KINDS:
        return write_four(folder, kind, 3)
    if kind == "sheared":
        return write_sheared(folder / "a.nii.gz", make_blob().astype(np.float32), TILTED)
    if kind == "NIfTI-2":
        nibabel.save(nibabel.Nifti2Image(make_blob().T, np.array(TILTED)), folder / "a.nii")
        return folder / "a.nii"
    if kind == "segments":
        segments = [("a", 1, 0), ("b", 2, 0)]
        return write_segments(folder / "a.seg.nrrd", make_label((1, 2)).array, segments)
    if kind == "layers":
        segments = [("a", 1, 0), ("b", 1, 1), ("c", 2, 2)]
        return write_segments(folder / "a.seg.nrrd", make_layers(1, 1, 2), segments)
    return write_tif(folder, kind)


@pytest.mark.parametrize(
    "kind",
    [*EXTENSIONS, *KINDS, "sheared", "NIfTI-2", "segments", "layers", "ImageJ", "OME", "BigTIFF"],
)
def test_damage_brings_an_error_with_a_fix_and_nothing_else(tmp_path, kind):
    path = write_whole(tmp_path, kind)

    # A process of its own: a crash or a loop inside a library would take the tests with it.
    command = [sys.executable, "-c", DAMAGE, str(path), "30", "0"]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)

    assert result.returncode == 0, result.stderr[-2000:]
    assert "done" in result.stdout
