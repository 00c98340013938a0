"""Reading and writing of every format: what is whole comes back, what is not is named."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
import zlib

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from makers import make_affine, make_image, make_volume
from strange_files import write_meta, write_nifti, write_plain

from nnunet_medseg.dataset.layouts.listing import stem_of
from nnunet_medseg.volume import (
    EXTENSIONS,
    Volume,
    VolumeError,
    extension_of,
    files_of,
    grid_shift,
    orientation_code,
    read_volume,
    restore_orientation,
    to_ras,
    write_volume,
)

PLAIN = (".nii", ".nrrd", ".mha", ".mhd")


def rule_of(path, **options):
    with pytest.raises(VolumeError) as caught:
        read_volume(path, **options)
    assert caught.value.problem
    assert caught.value.fix
    return caught.value.rule


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_a_volume_comes_back_as_it_was_written(tmp_path, extension, dtype):
    image = make_image(dtype=dtype, origin_mm=(-10.0, 20.0, 30.0))
    path = tmp_path / f"müller 1{extension}"

    write_volume(path, image)
    back = read_volume(path)

    np.testing.assert_array_equal(back.array, image.array)
    assert back.array.dtype == dtype
    assert back.spacing_mm == image.spacing_mm
    np.testing.assert_allclose(back.affine, image.affine)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_one_slice_stays_three_dimensional(tmp_path, extension):
    write_volume(tmp_path / f"a{extension}", make_volume(make_image().array[:1]))

    assert read_volume(tmp_path / f"a{extension}").array.shape == (1, 16, 16)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_an_extension_in_capitals_is_read_and_written(tmp_path, extension):
    path = tmp_path / f"A{extension.upper()}"

    write_volume(path, make_image())

    np.testing.assert_array_equal(read_volume(path).array, make_image().array)
    assert extension_of(path) == extension
    assert stem_of(path) == "A"


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_a_file_of_another_format_under_a_wrong_name_is_unreadable(tmp_path, extension):
    other = ".nii" if extension.endswith(".nrrd") else ".nrrd"
    write_volume(tmp_path / f"a{other}", make_image())

    (tmp_path / f"a{other}").rename(tmp_path / f"b{extension}")

    assert rule_of(tmp_path / f"b{extension}") == "unreadable"


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_unreadable(tmp_path, extension, share):
    path = tmp_path / f"a{extension}"
    write_volume(path, make_image())
    data = files_of(path)[-1]
    content = data.read_bytes()

    data.write_bytes(content[: int(share * len(content))])

    assert rule_of(path) == "unreadable"


@pytest.mark.parametrize("extension", PLAIN)
@pytest.mark.parametrize("missing", [1, 4096])
def test_a_truncated_file_without_compression_is_unreadable(tmp_path, extension, missing):
    data = files_of(write_plain(tmp_path / f"a{extension}"))[-1]

    data.write_bytes(data.read_bytes()[:-missing])

    assert rule_of(tmp_path / f"a{extension}") == "unreadable"


def test_a_packed_file_that_is_whole_but_holds_too_few_voxels_is_unreadable(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_volume(path, make_image())

    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))

    assert rule_of(path) == "unreadable"


def test_a_packed_file_with_a_wrong_checksum_is_unreadable(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_volume(path, make_image())
    content = bytearray(path.read_bytes())

    content[-8] ^= 1
    path.write_bytes(content)

    assert rule_of(path) == "unreadable"


def test_a_packed_file_in_several_parts_and_one_that_is_not_packed_are_read(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_volume(path, make_image())
    content = gzip.decompress(path.read_bytes())

    path.write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]))
    (tmp_path / "b.nii.gz").write_bytes(content)

    for name in ("a.nii.gz", "b.nii.gz"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, make_image().array)


def test_a_damaged_packed_metaimage_is_unreadable(tmp_path):
    path = tmp_path / "a.mha"
    write_volume(path, make_image())
    content = path.read_bytes()
    packed = content.rindex(b"LOCAL\n") + 6

    # Without a check of ours, SimpleITK goes round for ever over some of these.
    for place in range(packed, packed + 400, 40):
        path.write_bytes(content[:place] + b"\xff\x00" + content[place + 2 :])
        assert rule_of(path) == "unreadable"


def test_a_metaimage_with_a_wrong_packed_length_is_unreadable(tmp_path):
    packed = zlib.compress(bytes(range(64)))
    path = write_meta(tmp_path / "a.mha", CompressedData="True", CompressedDataSize="9")
    header = path.read_bytes()[:-64].replace(b"ElementDataFile = LOCAL\n", b"")

    path.write_bytes(header + b"ElementDataFile = LOCAL\n" + packed)

    assert rule_of(path) == "unreadable"


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_an_empty_file_a_folder_and_nothing_at_all_are_unreadable(tmp_path, extension):
    (tmp_path / f"empty{extension}").touch()
    (tmp_path / f"folder{extension}").mkdir()

    for name in ("empty", "folder", "nothing"):
        assert rule_of(tmp_path / f"{name}{extension}") == "unreadable"


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_images_that_are_2d_4d_or_rgb_are_named_as_such(tmp_path, extension):
    flat = make_image().array[0]
    four = sitk.JoinSeries([sitk.GetImageFromArray(make_image().array)] * 3)
    colour = sitk.GetImageFromArray(np.zeros((4, 4, 4, 3), np.uint8), isVector=True)

    sitk.WriteImage(sitk.GetImageFromArray(flat), str(tmp_path / f"2d{extension}"))
    if extension.startswith(".tif"):
        array = sitk.GetArrayFromImage(four).astype(np.uint16)
        tifffile.imwrite(tmp_path / f"4d{extension}", array, imagej=True)
    else:
        sitk.WriteImage(four, str(tmp_path / f"4d{extension}"))
    sitk.WriteImage(colour, str(tmp_path / f"rgb{extension}"))

    for name in ("2D", "4D", "RGB"):
        assert rule_of(tmp_path / f"{name.lower()}{extension}") == name


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_nifti_header_that_announces_too_much_asks_for_no_memory(tmp_path, name):
    path = write_nifti(tmp_path / name, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])

    assert rule_of(path, memory_bytes=1e9) == "too large"


@pytest.mark.parametrize("size", ["30000 30000 30000", "2000 2000 2000", "-4 4 4", "4 4 99999999"])
def test_a_metaimage_header_that_announces_too_much_asks_for_no_memory(tmp_path, size):
    path = write_meta(tmp_path / "a.mha", DimSize=size)

    assert rule_of(path, memory_bytes=1e9) == "too large"


def test_an_nrrd_header_that_announces_too_much_asks_for_no_memory(tmp_path):
    path = write_plain(tmp_path / "a.nrrd")
    content = path.read_bytes()
    assert b"sizes: 16 16 16" in content

    path.write_bytes(content.replace(b"sizes: 16 16 16", b"sizes: 30000 30000 30000"))

    assert rule_of(path, memory_bytes=1e9) == "too large"


@pytest.mark.parametrize(
    "fields",
    [
        {"srow_x": [np.nan, 0, 0, 0]},
        {"srow_x": [1.5, 0, 0, np.nan]},
        {"srow_x": [1.5, 0, 0, np.inf]},
        {"srow_x": [0, 0, 0, 0]},
        {"vox_offset": 1e9},
        {"dim": [3, -16, 16, 16, 1, 1, 1, 1]},
        {"dim": [3, 0, 16, 16, 1, 1, 1, 1]},
        {"datatype": 9999},
    ],
    ids=str,
)
def test_a_nifti_header_without_sense_is_refused(tmp_path, fields):
    path = write_nifti(tmp_path / "a.nii", **fields)

    assert rule_of(path) in {"unreadable", "header", "axes not at right angles"}


@pytest.mark.parametrize(
    "entries",
    [
        {"ElementSpacing": "nan 1 1"},
        {"ElementSpacing": "0 1 1"},
        {"ElementSpacing": "1e300 1 1"},
        {"ElementSpacing": "1e-300 1 1"},
        {"Offset": "1e300 0 0"},
        {"TransformMatrix": "0 0 0 0 0 0 0 0 0"},
        {"NDims": "9"},
        {"DimSize": "0 4 4"},
    ],
    ids=str,
)
def test_a_metaimage_header_without_sense_is_refused(tmp_path, entries):
    assert rule_of(write_meta(tmp_path / "a.mha", **entries)) in {
        "unreadable",
        "header",
        "empty",
        "axes not at right angles",
    }


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_counted_in_every_format(tmp_path, extension, dtype, value):
    array = make_image(dtype=dtype).array
    array[0, 0, 0] = array[15, 15, 15] = value
    write_volume(tmp_path / f"a{extension}", make_volume(array))

    with pytest.raises(VolumeError, match="2 voxels are NaN or infinite") as caught:
        read_volume(tmp_path / f"a{extension}")

    assert caught.value.rule == "NaN or Inf"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_that_are_no_numbers_are_counted_at_every_place_of_a_large_file(tmp_path, dtype):
    array = np.zeros((33, 33, 33), dtype)
    array[::8, 5, 5] = np.nan
    write_volume(tmp_path / "a.nii.gz", make_volume(array))

    with pytest.raises(VolumeError, match="5 voxels are NaN or infinite"):
        read_volume(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i2"])
def test_a_nifti_file_with_the_bytes_the_other_way_round_is_read(tmp_path, dtype):
    nibabel = pytest.importorskip("nibabel")
    array = make_image().array.astype(dtype)
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(dtype)

    nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4), header), tmp_path / "a.nii.gz")

    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").array, make_image().array)


def test_rounding_in_a_direction_is_not_taken_for_shear(tmp_path):
    path = write_meta(tmp_path / "a.mha", TransformMatrix="0.9848 0.1736 0 -0.1736 0.9848 0 0 0 1")

    assert read_volume(path).array.shape == (4, 4, 4)


@pytest.mark.parametrize("name", [b"m\xfcller.nii.gz", b"m\xfcller/a.nii.gz"])
def test_a_name_that_is_no_text_is_a_finding_and_not_the_end_of_the_process(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    write_volume(tmp_path / "a.nii.gz", make_image())
    try:
        path.parent.mkdir(exist_ok=True)
        (tmp_path / "a.nii.gz").rename(path)
    except OSError:
        pytest.skip("this disk takes no such names")

    assert rule_of(path) == "file name"


def test_the_data_file_beside_a_header_belongs_to_the_image(tmp_path):
    header = write_plain(tmp_path / "Müller 1.mhd")

    assert files_of(header) == (header, tmp_path / "Müller 1.raw")
    assert files_of(tmp_path / "a.nii.gz") == (tmp_path / "a.nii.gz",)


def test_a_header_without_its_data_file_says_so(tmp_path):
    header = write_plain(tmp_path / "a.mhd")
    (tmp_path / "a.raw").unlink()

    assert files_of(header) == (header,)
    assert rule_of(header) == "no data file"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "LIST", "../b.raw", "/dev/zero", "x" * 300, "\0", "a%d.raw 1 4 1", "sub"],
)
def test_a_data_file_anywhere_but_beside_the_header_is_not_looked_at(tmp_path, name):
    folder = tmp_path / "set"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "b.raw").write_bytes(bytes(64))

    path = write_meta(folder / "a.mhd", ElementDataFile=name)

    assert files_of(path) == (path,)
    assert rule_of(path) in {"no data file", "unreadable"}


def test_a_data_file_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "b.raw").write_bytes(bytes(64))
    path = write_meta(tmp_path / "a.mhd", ElementDataFile="link.raw")
    (tmp_path / "link.raw").symlink_to(tmp_path / "b.raw")

    assert files_of(path) == (path,)
    assert rule_of(path) == "no data file"


@pytest.mark.parametrize("name", ["LIST 2", "LISTED.raw", "a%d.raw", "LoCaL"])
def test_a_data_file_whose_name_stands_for_others_is_not_read(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(range(64)))
    path = write_meta(tmp_path / "a.mhd", ElementDataFile=name)

    if name == "LoCaL":
        assert read_volume(path).array.shape == (4, 4, 4)
    else:
        assert files_of(path) == (path,)
        assert rule_of(path) == "no data file"


@pytest.mark.parametrize("field", ["data file", "datafile", "DATA FILE", "data file "])
def test_an_nrrd_header_that_names_another_file_is_refused(tmp_path, field):
    (tmp_path / "a.raw").write_bytes(bytes(64))
    header = f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\n{field}: a.raw\n\n"
    (tmp_path / "a.nrrd").write_text(header)

    assert rule_of(tmp_path / "a.nrrd") == "no data file"


@pytest.mark.parametrize("number", ["-1", "0", "10", "1e9", "1000000000", "3 NDims = 1e9"])
def test_a_metaimage_of_an_absurd_number_of_dimensions_does_not_end_the_process(tmp_path, number):
    assert rule_of(write_meta(tmp_path / "a.mha", NDims=number)) == "unreadable"


@pytest.mark.parametrize("mark", [b"ni1", b"", b"n+3"])
def test_a_nifti_header_that_takes_its_voxels_from_elsewhere_is_refused(tmp_path, mark):
    (tmp_path / "a.img").write_bytes(make_image().array.tobytes())

    assert rule_of(write_nifti(tmp_path / "a.nii", magic=mark)) == "unreadable"


@pytest.mark.parametrize("name", ["a\nb.nii.gz", "a\x1b[2J.nrrd", "a\x9b.mha"])
def test_a_name_with_a_control_character_is_refused(tmp_path, name):
    plain = tmp_path / f"plain{extension_of(tmp_path / name)}"
    write_volume(plain, make_image())
    plain.rename(tmp_path / name)

    assert rule_of(tmp_path / name) == "file name"


FUZZ = """
import sys, random, resource, signal, warnings
from pathlib import Path
from nnunet_medseg.volume import VolumeError, files_of, grid_shift, orientation_code, read_volume
warnings.simplefilter("error")
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
signal.alarm(60)
rng = random.Random(0)
for name in sys.argv[1:]:
    path = Path(name)
    for _ in range(150):
        whole = {file: file.read_bytes() for file in files_of(path)}
        file = rng.choice(list(whole))
        content = bytearray(whole[file])
        for _ in range(rng.choice([1, 1, 3])):
            place = rng.randrange(min(len(content), 400 if rng.random() < 0.7 else len(content)))
            flipped = content[place] ^ 1 << rng.randrange(8)
            content[place] = rng.choice([flipped, rng.randrange(256)])
        file.write_bytes(content if rng.random() < 0.8 else content[: rng.randrange(len(content))])
        try:
            files_of(path)
            volume = read_volume(path, memory_bytes=1e8)
            grid_shift(volume, volume), orientation_code(volume)
        except VolumeError:
            pass
        file.write_bytes(whole[file])
print("done")
"""


def test_flipped_bits_and_cuts_never_crash_hang_or_take_memory(tmp_path):
    paths = [tmp_path / f"packed{place}{ending}" for place, ending in enumerate(EXTENSIONS)]
    for path in paths:
        write_volume(path, make_image())
    paths += [write_plain(tmp_path / f"plain{place}{e}") for place, e in enumerate(PLAIN)]

    # A process of its own: a crash or a loop inside SimpleITK would take the tests with it.
    command = [sys.executable, "-c", FUZZ, *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)

    assert result.returncode == 0, result.stderr[-2000:]
    assert "done" in result.stdout


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_random_bytes_are_unreadable(tmp_path, extension):
    path = tmp_path / f"a{extension}"
    rng = random.Random(0)

    for length in (1, 10, 348, 5000):
        path.write_bytes(rng.randbytes(length))
        assert files_of(path) == (path,)
        assert rule_of(path, memory_bytes=1e8) == "unreadable"


def test_equal_grids_are_not_apart_and_other_shapes_are_infinitely_so():
    image = make_image()

    assert grid_shift(image, make_image(1)) == 0
    assert grid_shift(image, make_volume(image.array[:8])) == float("inf")


def test_the_shift_of_a_grid_is_counted_in_sides_of_the_smallest_voxel():
    image = make_image()

    assert grid_shift(image, make_image(origin_mm=(0.5, 0, 0))) == pytest.approx(0.5)
    assert grid_shift(image, make_image(origin_mm=(0, 0, -3.0))) == pytest.approx(3.0)


def test_another_spacing_shows_at_the_far_corner():
    image = make_image()
    wider = make_affine()
    wider[0, 0] *= 1.01

    shift = grid_shift(image, Volume(image.array, image.spacing_mm, wider))

    assert shift == pytest.approx(15 * 0.015)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (-1, -1, -1)])
def test_an_array_on_the_reoriented_grid_comes_back_to_its_own(order, signs):
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) * signs)[:, list(order)] * np.array([1.5, 1.0, 2.0])
    affine[:3, 3] = (7, -5, 3)
    array = make_image().array[:10, :12, :14].copy()
    volume = Volume(array, (2.0, 1.0, 1.5), affine)

    reoriented = to_ras(volume)
    back = restore_orientation(reoriented.array, volume)

    assert orientation_code(reoriented) == "RAS"
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_array_equal(back.affine, volume.affine)
