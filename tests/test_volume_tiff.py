"""TIFF: pages are slices, the voxel size comes from where it is told, and nothing is guessed."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import tifffile
from makers import make_affine, make_image

from nnunet_medseg.volume import (
    VolumeError,
    files_of,
    read_frames,
    read_volume,
    write_volume,
)

ASSUMED = ("no voxel size in the file: 1 mm is assumed",)
PIXELS = (1 / 1.5, 1.0)  # a mm, along x and y


def make_pages(dtype=np.uint16) -> np.ndarray:
    """Make an array whose sides are all different."""
    return make_image(dtype=dtype).array[:6, :9]


def write_imagej(path, array=None, *, unit="mm", **metadata):
    array = make_pages() if array is None else array
    metadata = {"spacing": 2.0, "unit": unit} | metadata
    tifffile.imwrite(path, array, imagej=True, resolution=PIXELS, metadata=metadata)
    return path


def write_ome(path, array=None, **metadata):
    array = make_pages() if array is None else array
    tifffile.imwrite(path, array, ome=True, photometric="minisblack", metadata=metadata)
    return path


def write_bare(path, array=None, **options):
    array = make_pages() if array is None else array
    tifffile.imwrite(path, array, photometric="minisblack", metadata=None, **options)
    return path


def rule_of(path, **options):
    with pytest.raises(VolumeError) as caught:
        read_frames(path, **options)
    return caught.value.rule


def test_a_file_without_voxel_size_is_taken_for_1_mm_and_says_so(tmp_path):
    volume = read_volume(write_bare(tmp_path / "a.tif"))

    np.testing.assert_array_equal(volume.array, make_pages())
    np.testing.assert_array_equal(volume.affine, np.eye(4))
    assert volume.spacing_mm == (1.0, 1.0, 1.0)
    assert volume.notes == ASSUMED


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits"])
@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}], ids=str)
def test_other_ways_to_store_pages_are_read(tmp_path, compression, options):
    path = write_bare(tmp_path / "a.tiff", compression=compression, **options)

    np.testing.assert_array_equal(read_volume(path).array, make_pages())


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float16", "float32", "float64"])
def test_every_kind_of_grey_value_is_read(tmp_path, dtype):
    path = write_bare(tmp_path / "a.tif", make_pages().astype(dtype))

    np.testing.assert_array_equal(read_volume(path).array, make_pages().astype(dtype))


def test_a_mask_of_bits_becomes_a_label_map(tmp_path):
    path = write_bare(tmp_path / "a.tif", make_pages() > 400)

    volume = read_volume(path, is_label=True)

    assert volume.array.dtype == np.uint8
    np.testing.assert_array_equal(volume.array, make_pages() > 400)


@pytest.mark.parametrize(
    ("unit", "scale"), [("mm", 1), ("cm", 10), ("micron", 1e-3), ("um", 1e-3), ("\\u00B5m", 1e-3)]
)
def test_the_voxel_size_of_imagej_is_taken(tmp_path, unit, scale):
    volume = read_volume(write_imagej(tmp_path / "a.tif", unit=unit))

    np.testing.assert_allclose(volume.spacing_mm, np.array([2.0, 1.0, 1.5]) * scale, rtol=1e-6)
    assert volume.notes == ()


def test_a_unit_that_nobody_knows_is_no_voxel_size(tmp_path):
    assert read_volume(write_imagej(tmp_path / "a.tif", unit="pixel")).notes == ASSUMED


def test_the_voxel_size_of_ome_is_taken(tmp_path):
    path = write_ome(
        tmp_path / "a.ome.tif",
        axes="ZYX",
        **{"PhysicalSizeX": 1.5, "PhysicalSizeXUnit": "mm"},
        **{"PhysicalSizeY": 1000.0, "PhysicalSizeZ": 2.0, "PhysicalSizeZUnit": "mm"},
    )

    volume = read_volume(path)

    np.testing.assert_allclose(volume.spacing_mm, (2.0, 1.0, 1.5))
    np.testing.assert_array_equal(volume.array, make_pages())


def test_channels_in_ome_are_not_taken_for_slices(tmp_path):
    path = write_ome(tmp_path / "a.tif", np.stack([make_pages()] * 2), axes="CZYX")

    assert rule_of(path) == "4D"


@pytest.mark.parametrize(
    ("image", "beside"),
    [("a.tif", "a.json"), ("a_0000.tif", "a.json"), ("a_0001.TIF", "a.json")],
)
def test_a_json_file_beside_tells_the_voxel_size_as_for_nnunet(tmp_path, image, beside):
    path = write_imagej(tmp_path / image)
    (tmp_path / beside).write_text(json.dumps({"spacing": [3, 0.5, 0.25]}))

    volume = read_volume(path)

    assert volume.spacing_mm == (3.0, 0.5, 0.25)
    assert volume.notes == ()
    assert files_of(path) == (path, tmp_path / beside)


@pytest.mark.parametrize("text", ['{"spacing": [1, 2]}', '{"spacing": "x"}', '{"spacing": [1'])
def test_a_json_file_that_tells_no_voxel_size_is_named(tmp_path, text):
    path = write_bare(tmp_path / "a.tif")
    (tmp_path / "a.json").write_text(text)

    with pytest.raises(VolumeError, match=r"a\.json"):
        read_volume(path)


@pytest.mark.parametrize("sides", ["[0, 1, 1]", "[-1, 1, 1]", "[NaN, 1, 1]", "[1e300, 1, 1]"])
def test_a_voxel_size_without_sense_is_refused(tmp_path, sides):
    path = write_bare(tmp_path / "a.tif")
    (tmp_path / "a.json").write_text(f'{{"spacing": {sides}}}')

    assert rule_of(path) == "header"


def test_the_json_file_of_another_program_is_left_alone(tmp_path):
    path = write_bare(tmp_path / "a.tif")
    (tmp_path / "a.json").write_text('{"scanner": "x"}')

    assert files_of(path) == (path,)
    assert read_volume(path).notes == ASSUMED


def test_what_is_written_keeps_its_grid_and_opens_in_other_programs(tmp_path):
    image = make_image(origin_mm=(1.25, -2, 3))

    write_volume(tmp_path / "a.tif", image)

    np.testing.assert_array_equal(
        read_volume(tmp_path / "a.tif").affine, make_affine((1.25, -2, 3))
    )
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), image.array)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a.tif"]


def test_frames_of_imagej_come_back_in_their_order(tmp_path):
    array = np.stack([make_pages(), make_pages() + 1], axis=1)
    path = write_imagej(tmp_path / "a.tif", array, axes="ZCYX")

    first, second = read_frames(path)

    np.testing.assert_array_equal(first.array, array[:, 0])
    np.testing.assert_array_equal(second.array, array[:, 1])


def test_one_page_is_flat(tmp_path):
    for name, write in (("a.tif", write_bare), ("b.tif", write_imagej)):
        assert rule_of(write(tmp_path / name, make_pages()[0])) == "2D"


def test_colours_are_refused(tmp_path):
    colour = np.zeros((6, 9, 16, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", colour, photometric="rgb")
    tifffile.imwrite(tmp_path / "b.tif", colour[0], photometric="rgb")

    for name in ("a.tif", "b.tif"):
        assert rule_of(tmp_path / name) == "RGB"


def test_pages_of_different_sizes_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as made:
        made.write(make_pages()[0], metadata=None)
        made.write(make_pages()[0, :4], metadata=None)

    assert rule_of(tmp_path / "a.tif") == "unreadable"


def test_pages_that_go_round_in_a_loop_are_unreadable(tmp_path):
    path = write_bare(tmp_path / "a.tif")
    with tifffile.TiffFile(path) as file:
        first, last = file.pages[0].offset, file.pages[-1].offset
        entries = struct.unpack_from("<H", path.read_bytes(), last)[0]
    content = bytearray(path.read_bytes())

    struct.pack_into("<I", content, last + 2 + entries * 12, first)
    path.write_bytes(content)

    assert rule_of(path) == "unreadable"


def _set_tags(path, **values):
    """Overwrite the values of tags of the first page."""
    with tifffile.TiffFile(path, mode="r+") as file:
        for name, value in values.items():
            file.pages[0].tags[name].overwrite(value)


def test_a_header_that_announces_too_much_asks_for_no_memory(tmp_path):
    path = write_bare(tmp_path / "a.tif", make_pages()[:1])
    with tifffile.TiffWriter(path) as made:
        for page in make_pages():
            made.write(page, metadata=None, contiguous=False)
    _set_tags(path, ImageWidth=60000, ImageLength=60000)

    assert rule_of(path, memory_bytes=1e9) in {"too large", "unreadable"}


def test_a_page_that_is_missing_is_seen(tmp_path):
    for name, write in (("a.tif", write_imagej), ("b.tif", write_bare)):
        path = write(tmp_path / name)
        content = path.read_bytes()
        for share in (0.1, 0.5, 0.9, 0.99):
            path.write_bytes(content[: int(share * len(content))])
            assert rule_of(path) == "unreadable"


def test_values_that_are_no_numbers_are_counted(tmp_path):
    array = make_pages(np.float32)
    array[1, 2, 3] = np.nan
    path = write_bare(tmp_path / "a.tif", array)

    assert rule_of(path) == "NaN or Inf"
    assert np.isnan(read_volume(path, allow_lost=True).array).sum() == 1
