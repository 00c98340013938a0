"""Segmentations of 3D Slicer: the segments, their names, and one label map of all layers."""

from __future__ import annotations

import numpy as np
import pytest
from makers import make_image, make_label

from nnunet_medseg.dataset.layouts.listing import stem_of
from nnunet_medseg.volume import (
    VolumeError,
    extension_of,
    read_frames,
    read_volume,
    segment_names,
    write_volume,
)

DIRECTIONS = "(-1.5,0,0) (0,-1,0) (0,0,2)"


def write_segments(path, array, segments, *, extra=""):
    """Write what 3D Slicer does: label maps `(z, y, x)` or `(layer, z, y, x)`.

    Args:
        segments: Name, value and layer of each; a value of None for what old versions wrote.
        extra: More lines of the header.
    """
    kinds, directions = "domain domain domain", DIRECTIONS
    if array.ndim == 4:
        array = np.moveaxis(array, 0, -1)
        kinds, directions = f"list {kinds}", f"none {directions}"
    lines = []
    for number, (name, value, layer) in enumerate(segments):
        lines += [f"Segment{number}_Color:=1 0 0", f"Segment{number}_Name:={name}"]
        if value is not None:
            lines += [f"Segment{number}_LabelValue:={value}", f"Segment{number}_Layer:={layer}"]
    header = (
        "NRRD0004\n# Complete NRRD file format specification at:\ntype: unsigned char\n"
        f"dimension: {array.ndim}\nspace: left-posterior-superior\n"
        f"sizes: {' '.join(map(str, array.shape[::-1]))}\nspace directions: {directions}\n"
        f"kinds: {kinds}\nencoding: raw\nspace origin: (10,20,30)\n"
        "Segmentation_ReferenceImageExtentOffset:=4 5 6\n"
        f"{extra}" + "".join(f"{line}\n" for line in lines) + "\n"
    )
    path.write_bytes(header.encode() + np.ascontiguousarray(array, np.uint8).tobytes())
    return path


def make_layers(*values, overlap=0):
    """Make one slab a layer, with its value; each reaches into the one before it."""
    layers = np.zeros((len(values), 16, 12, 10), np.uint8)
    for place, value in enumerate(values):
        layers[place, 3 * place + 1 - overlap : 3 * place + 4, 4:8, 4:8] = value
    return layers


def test_the_ending_is_one_of_its_own(tmp_path):
    path = tmp_path / "A.SEG.NRRD"

    assert extension_of(path) == ".seg.nrrd"
    assert stem_of(path) == "A"
    assert extension_of(tmp_path / "seg.nrrd") == ".nrrd"


def test_a_label_map_comes_with_the_names_of_its_segments(tmp_path):
    label = make_label((1, 3)).array
    path = write_segments(tmp_path / "a.seg.nrrd", label, [("Liver", 1, 0), ("tumör", 3, 0)])

    volume = read_volume(path, is_label=True)

    np.testing.assert_array_equal(volume.array, label)
    assert segment_names(path) == {1: "Liver", 3: "tumör"}
    assert volume.spacing_mm == (2.0, 1.0, 1.5)
    np.testing.assert_allclose(volume.affine[:3, 3], (10, 20, 30))
    assert volume.notes == ()


def test_layers_that_do_not_overlap_become_one_label_map(tmp_path):
    layers = make_layers(1, 1, 2)
    segments = [("Liver", 1, 0), ("Spleen", 1, 1), ("Kidney", 2, 2)]
    path = write_segments(tmp_path / "a.seg.nrrd", layers, segments)

    volume = read_volume(path)

    # The second 1 takes the first value that no segment has.
    assert segment_names(path) == {1: "Liver", 3: "Spleen", 2: "Kidney"}
    for value, layer in ((1, 0), (3, 1), (2, 2)):
        np.testing.assert_array_equal(volume.array == value, layers[layer] > 0)
    assert volume.array.dtype == np.uint8
    assert volume.notes == ("3 layers of segments merged into one label map",)
    assert len(read_frames(path)) == 1


def test_layers_with_several_segments_each_keep_them_apart(tmp_path):
    layers = make_layers(1, 1)
    layers[0, 10:12, 4:8, 4:8] = 2
    segments = [("a", 1, 0), ("b", 2, 0), ("c", 1, 1)]
    path = write_segments(tmp_path / "a.seg.nrrd", layers, segments)

    volume = read_volume(path)

    assert segment_names(path) == {1: "a", 2: "b", 3: "c"}
    assert set(np.unique(volume.array)) == {0, 1, 2, 3}


def test_segments_of_old_versions_lie_in_a_layer_each(tmp_path):
    layers = make_layers(1, 1)
    path = write_segments(tmp_path / "a.seg.nrrd", layers, [("a", None, 0), ("b", None, 0)])

    volume = read_volume(path)

    assert segment_names(path) == {1: "a", 2: "b"}
    np.testing.assert_array_equal(volume.array, layers[0] + 2 * layers[1])


def test_overlapping_segments_are_refused_and_named(tmp_path):
    layers = make_layers(1, 1, overlap=1)
    path = write_segments(tmp_path / "a.seg.nrrd", layers, [("Liver", 1, 0), ("Tumour", 1, 1)])

    with pytest.raises(VolumeError, match="Tumour overlaps with Liver in 16 voxels") as caught:
        read_volume(path)

    assert caught.value.rule == "overlapping segments"


@pytest.mark.parametrize(
    "segments",
    [
        [("a", 1, 0)],
        [("a", 1, 0), ("b", 1, 7)],
        [("a", -1, 0), ("b", 1, 1)],
        [("a", 0, 0), ("b", 1, 1)],
        [("a", "1e9", 0), ("b", 1, 1)],
        [("a", 1, "x"), ("b", 1, 1)],
    ],
)
def test_layers_that_do_not_fit_their_segments_are_refused(tmp_path, segments):
    path = write_segments(tmp_path / "a.seg.nrrd", make_layers(1, 1), segments)

    with pytest.raises(VolumeError) as caught:
        read_volume(path)

    assert caught.value.rule == "header"


def test_names_are_printable_and_all_different(tmp_path):
    segments = [("a\x1b[2J\u202eb", 1, 0), ("", 2, 0), ("x", 3, 0), ("x", 4, 0), ("a\\nb", 5, 0)]
    path = write_segments(tmp_path / "a.seg.nrrd", make_label((1, 2)).array, segments)

    names = segment_names(path)

    assert names == {1: "a [2J b", 2: "label_2", 3: "x", 4: "x_2", 5: "a b"}


def test_a_file_of_another_kind_has_no_segments(tmp_path):
    for name in ("a.nii.gz", "a.nrrd", "a.seg.nrrd"):
        write_volume(tmp_path / name, make_image())

        assert segment_names(tmp_path / name) == {}


def test_segments_of_a_file_that_is_none_are_an_error_with_a_fix(tmp_path):
    (tmp_path / "a.seg.nrrd").write_bytes(b"NRRD0004\n")

    for name in ("a.seg.nrrd", "b.seg.nrrd"):
        with pytest.raises(VolumeError) as caught:
            segment_names(tmp_path / name)
        assert caught.value.rule == "unreadable"
