"""Images that are made to exhaust, to confuse, or to lead elsewhere.

Each lies in a dataset of patient folders beside a good patient, so that one folder serves a check,
a training and a prediction.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from corpus import CHECK, PREDICT, TRAIN, Hostile, Place
from makers import make_image, write_patient
from strange_files import write_meta, write_nifti

from nnunet_medseg.errors import DatasetError
from nnunet_medseg.volume import read_volume, write_volume

DOORS = (CHECK, PREDICT)
BLOCK = bytes(1 << 20)
VOXELS = make_image().array.tobytes()


def patient(ending: str, write: Callable[[Path, Place], object]) -> Callable[[Place], Path]:
    """Return a maker of a dataset whose first patient has a hostile image and a fitting label."""

    def make(place: Place) -> Path:
        write_patient(place.given / "p2", seed=2, extension=ending)
        folder = place.given / "p1"
        folder.mkdir()
        plain = place.root / f"plain{ending}"
        WRITERS[ending]()(plain, place)
        good = read_volume(plain)
        label = np.zeros(good.array.shape, np.uint8)
        label[1:3, 1:3, 1:3] = 1
        write_volume(folder / f"train{ending}", good.with_array(label))
        write(folder / f"img{ending}", place)
        return place.given

    return make


# --- NIfTI -------------------------------------------------------------------------------------


def nifti(**fields) -> Callable[[Path, Place], object]:
    return lambda path, _: write_nifti(path, **fields)


def header_of(path: Path, **fields) -> bytes:
    write_nifti(path, **fields)
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content)[:348]


def packed_zeros(mebibytes: int) -> bytes:
    """Return a packed file of so many zeros: one piece again and again, which gzip allows."""
    return gzip.compress(BLOCK) * mebibytes


def bomb(mebibytes: int, extension: bytes = bytes(4), **fields) -> Callable[[Path, Place], None]:
    """Return a writer of a small packed file that unpacks to as much as is asked."""

    def write(path: Path, _: Place) -> None:
        start = header_of(path, **fields) + extension + (b"" if fields else VOXELS)
        path.write_bytes(gzip.compress(start) + packed_zeros(mebibytes))

    return write


def nested(path: Path, _: Place) -> None:
    write_nifti(path)
    path.write_bytes(gzip.compress(gzip.compress(path.read_bytes())))


def nifti2(*sides: int) -> Callable[[Path, Place], None]:
    """Return a writer of the second version, whose sizes are of 64 bits."""

    def write(path: Path, _: Place) -> None:
        header = bytearray(540)
        struct.pack_into("<i8shh", header, 0, 540, b"n+2\0\r\n\x1a\n", 4, 16)
        struct.pack_into("<8q", header, 16, 3, *sides, 1, 1, 1, 1)
        struct.pack_into("<8d", header, 104, *[1.0] * 8)
        struct.pack_into("<q", header, 168, 544)
        path.write_bytes(bytes(header) + bytes(4) + VOXELS)

    return write


def pair(path: Path, place: Place) -> None:
    """Write a header that takes its voxels from another file, which is a link."""
    write_nifti(path, magic=b"ni1", vox_offset=0)
    path.with_suffix(".img").symlink_to(place.outside / "secret.raw")


def analyze(path: Path, place: Place) -> None:
    write_nifti(path, magic=b"", vox_offset=0)
    path.with_suffix(".img").symlink_to(place.outside / "secret.raw")


HUGE_EXTENSION = b"\x01\0\0\0" + struct.pack("<ii", 1_900_000_000, 6)
NII, NIFTI = ".nii.gz", ".nii"
NIFTI_IMAGES = (
    ("nii.gz bomb that announces much", NII, bomb(300, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])),
    ("nii.gz bomb before its voxels", NII, bomb(4000, vox_offset=4.1e9)),
    ("nii.gz bomb of an extension", NII, bomb(2000, HUGE_EXTENSION, vox_offset=2e9)),
    ("nii.gz in a nii.gz", NII, nested),
    ("nii of negative size", NIFTI, nifti(dim=[3, -16, 16, 16, 1, 1, 1, 1])),
    ("nii of size zero", NIFTI, nifti(dim=[3, 0, 16, 16, 1, 1, 1, 1])),
    ("nii of huge size", NIFTI, nifti(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])),
    ("nii of seven dimensions", NIFTI, nifti(dim=[7, 9999, 9999, 9999, 9999, 9999, 9999, 9999])),
    ("nii of a negative number of dimensions", NIFTI, nifti(dim=[-3, 16, 16, 16, 1, 1, 1, 1])),
    ("nii of an unknown type", NIFTI, nifti(datatype=9999)),
    ("nii that lies about its type", NIFTI, nifti(datatype=64, bitpix=8)),
    ("nii whose voxels begin nowhere", NIFTI, nifti(vox_offset=float("nan"))),
    ("nii whose voxels begin before it", NIFTI, nifti(vox_offset=-1e9)),
    ("nii whose voxels begin after it", NIFTI, nifti(vox_offset=3e38)),
    ("nii with spacing that is no number", NIFTI, nifti(srow_x=[np.nan] * 4)),
    ("nii of 64 bits that overflows", NIFTI, nifti2(1 << 62, 4, 1)),
    ("nii of 64 bits that is negative", NIFTI, nifti2(-(1 << 62), 16, 16)),
    ("nii of 64 bits that wraps around", NIFTI, nifti2((1 << 32) + 16, 16, 16)),
    ("nii with its voxels behind a link", NIFTI, pair),
    ("nii of the older format behind a link", NIFTI, analyze),
)

# --- NRRD --------------------------------------------------------------------------------------

NRRD = ".nrrd"


def nrrd(data: bytes = VOXELS, before: str = "", **fields: str) -> Callable[[Path, Place], None]:
    """Return a writer of an NRRD file by hand; `{outside}` stands for the folder outside."""

    def write(path: Path, place: Place) -> None:
        entries = {
            "type": "int16",
            "dimension": "3",
            "sizes": "16 16 16",
            "encoding": "raw",
            "endian": "little",
            **{name.replace("_", " "): value for name, value in fields.items()},
        }
        lines = [f"{name}: {value}" for name, value in entries.items()]
        text = "\n".join(["NRRD0004", *lines]).format(outside=place.outside)
        path.write_bytes((before + text + "\n\n").encode() + data)

    return write


def nrrd_list(path: Path, place: Place) -> None:
    text = "NRRD0004\ntype: int16\ndimension: 3\nsizes: 16 16 16\nencoding: raw\nendian: little\n"
    path.write_text(f"{text}data file: LIST\n{place.outside}/secret.raw\n")


def nrrd_link(path: Path, place: Place) -> None:
    path.with_name("data.raw").symlink_to(place.outside / "secret.raw")
    nrrd(b"", data_file="data.raw")(path, place)


def nrrd_crlf(path: Path, place: Place) -> None:
    nrrd(b"", datafile="{outside}/secret.raw")(path, place)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def nrrd_bomb(path: Path, place: Place) -> None:
    nrrd(packed_zeros(300), encoding="gzip", sizes="30000 30000 3000")(path, place)


def nrrd_bomb_behind(path: Path, place: Place) -> None:
    nrrd(gzip.compress(VOXELS) + packed_zeros(3000), encoding="gzip")(path, place)


def nrrd_endless(path: Path, _: Place) -> None:
    path.write_bytes(b"NRRD0004\n" + b"# more\n" * 10_000_000)


ABSOLUTE, UP = "{outside}/secret.raw", "../../outside/secret.raw"
NRRD_IMAGES = (
    ("nrrd with an absolute data file", NRRD, nrrd(b"", data_file=ABSOLUTE)),
    ("nrrd with a data file above it", NRRD, nrrd(b"", data_file=UP)),
    ("nrrd with a data file in other letters", NRRD, nrrd(b"", DATAFILE=ABSOLUTE)),
    ("nrrd with a data file and other line ends", NRRD, nrrd_crlf),
    ("nrrd with a data file that is a link", NRRD, nrrd_link),
    ("nrrd with a list of data files", NRRD, nrrd_list),
    ("nrrd with a pattern of data files", NRRD, nrrd(b"", data_file=ABSOLUTE + "%d 0 4 1 3")),
    ("nrrd of negative size", NRRD, nrrd(sizes="-16 16 16")),
    ("nrrd of huge size", NRRD, nrrd(sizes="30000 30000 30000")),
    ("nrrd of sizes whose product overflows", NRRD, nrrd(sizes="4294967296 4294967296 16")),
    ("nrrd of 10^9 dimensions", NRRD, nrrd(dimension="1000000000")),
    ("nrrd that skips a billion lines", NRRD, nrrd(line_skip="1000000000")),
    ("nrrd that skips backwards", NRRD, nrrd(byte_skip="-1000000000")),
    ("nrrd that skips far", NRRD, nrrd(byte_skip="1000000000000")),
    ("nrrd of blocks of a terabyte", NRRD, nrrd(type="block", block_size="1000000000000")),
    ("nrrd bomb", NRRD, nrrd_bomb),
    ("nrrd with a header without end", NRRD, nrrd_endless),
)

# --- MetaImage ---------------------------------------------------------------------------------

MHA, MHD = ".mha", ".mhd"


def meta(**entries: str) -> Callable[[Path, Place], None]:
    """Return a writer of a MetaImage; `{outside}` stands for the folder outside."""
    return lambda path, place: write_meta(
        path, **{key: value.format(outside=place.outside) for key, value in entries.items()}
    )


def beside(name: str, target: str, **entries: str) -> Callable[[Path, Place], None]:
    """Return a writer of a MetaImage and a file beside it: a link if it has a target."""

    def write(path: Path, place: Place) -> None:
        other = path.with_name(name)
        if target:
            other.symlink_to(target.format(outside=place.outside))
        else:
            other.write_bytes(bytes(range(64)))
        meta(**entries)(path, place)

    return write


def meta_lines(after: str, name: str = "ok.raw") -> Callable[[Path, Place], None]:
    """Return a writer of a MetaImage that ends in other lines, beside a whole data file."""

    def write(path: Path, place: Place) -> None:
        path.with_name(name).write_bytes(bytes(range(64)))
        write_meta(path)
        head = path.read_bytes()[:-64].replace(b"ElementDataFile = LOCAL\n", b"")
        path.write_bytes(head + after.format(outside=place.outside).encode())

    return write


def packed_stream(mebibytes: int, first: bytes = b"") -> bytes:
    """Return one stream that unpacks to so many zeros, made of one piece again and again."""
    packer = zlib.compressobj()
    start = packer.compress(first + BLOCK) + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(BLOCK) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + piece * mebibytes + packer.flush()


def meta_bomb(sizes: str, mebibytes: int) -> Callable[[Path, Place], None]:
    """Return a writer of a packed MetaImage that unpacks to as much as is asked."""

    def write(path: Path, place: Place) -> None:
        packed = packed_stream(mebibytes)
        claims = {"CompressedData": "True", "CompressedDataSize": str(len(packed))}
        meta(**claims, DimSize=sizes)(path, place)
        path.write_bytes(path.read_bytes()[:-64] + packed)

    return write


def meta_claims(path: Path, place: Place) -> None:
    meta(CompressedData="True", CompressedDataSize="1" + "0" * 12)(path, place)
    path.write_bytes(path.read_bytes()[:-64] + zlib.compress(bytes(range(64))))


def meta_endless(path: Path, _: Place) -> None:
    path.write_bytes(b"ObjectType = Image\nComment = " + b"x" * 50_000_000)


META_IMAGES = (
    ("mhd with an absolute data file", MHD, meta(ElementDataFile=ABSOLUTE)),
    ("mhd with a data file above it", MHD, meta(ElementDataFile=UP)),
    ("mha with a data file elsewhere", MHA, meta(ElementDataFile=ABSOLUTE)),
    (
        "mhd with a data file that is a link",
        MHD,
        beside("d.raw", "{outside}/secret.raw", ElementDataFile="d.raw"),
    ),
    (
        "mhd with local voxels behind a link",
        MHD,
        beside("LoCaL", "{outside}/secret.raw", ElementDataFile="LoCaL"),
    ),
    (
        "mhd with a list of data files",
        MHD,
        meta_lines("ElementDataFile = LIST\n{outside}/secret.raw\n"),
    ),
    (
        "mhd with a list that is a file too",
        MHD,
        meta_lines("ElementDataFile = LIST 2\n{outside}/secret.raw\n", "LIST 2"),
    ),
    ("mhd with a pattern of data files", MHD, meta(ElementDataFile=ABSOLUTE + "%d 0 3 1")),
    (
        "mhd with a pattern that is a file too",
        MHD,
        meta_lines("ElementDataFile = %s%s%n.raw 0 3 1\n", "%s%s%n.raw 0 3 1"),
    ),
    (
        "mhd with another mark before its data file",
        MHD,
        meta_lines("ElementDataFile: {outside}/secret.raw\nElementDataFile = ok.raw\n"),
    ),
    (
        "mhd with another line end before its data file",
        MHD,
        meta_lines(
            "Comment = x\rElementDataFile = {outside}/secret.raw\nElementDataFile = ok.raw\n"
        ),
    ),
    (
        "mhd with two data files",
        MHD,
        meta_lines("ElementDataFile = {outside}/secret.raw\nElementDataFile = ok.raw\n"),
    ),
    ("mha of negative size", MHA, meta(DimSize="-4 4 4")),
    ("mha of huge size", MHA, meta(DimSize="30000 30000 30000")),
    ("mha of a size that overflows", MHA, meta(DimSize="18446744073709551620 4 4")),
    ("mha of sizes whose product overflows", MHA, meta(DimSize="2147483647 2147483647 2147483647")),
    ("mha of 10^9 dimensions", MHA, meta(NDims="1000000000")),
    ("mha of 10^9 channels", MHA, meta(ElementNumberOfChannels="1000000000")),
    ("mha that claims a terabyte", MHA, meta_claims),
    ("mha of a negative number of dimensions", MHA, meta(NDims="-1")),
    ("mha of dimensions in other words", MHA, meta(NDims="1e9")),
    ("mha bomb", MHA, meta_bomb("20000 20000 20000", 1000)),
    ("mha bomb behind its voxels", MHA, meta_bomb("4 4 4", 2000)),
    ("mha with a header without end", MHA, meta_endless),
)


# What they say about sizes is not what is read: an image of the size that the others have.
HARMLESS_IMAGES = (
    ("nii.gz bomb behind its voxels", NII, bomb(3000)),
    ("nrrd bomb behind its voxels", NRRD, nrrd_bomb_behind),
    ("nrrd of a size that overflows", NRRD, nrrd(sizes="18446744073709551632 16 16")),
    (
        "mhd whose voxels begin before it",
        MHD,
        beside("d.raw", "", ElementDataFile="d.raw", HeaderSize="-1000000000"),
    ),
    (
        "mhd whose voxels begin after it",
        MHD,
        beside("d.raw", "", ElementDataFile="d.raw", HeaderSize="1000000000000"),
    ),
)

WRITERS = {NII: nifti, NIFTI: nifti, NRRD: nrrd, MHA: meta, MHD: meta}


def entry(name: str, ending: str, write: Callable[[Path, Place], object]) -> Hostile:
    """Return an image that is refused with a finding that names it."""
    says = ("img" + ending, "p1")
    return Hostile(name, DOORS, patient(ending, write), DatasetError, says)


IMAGES = (
    *(entry(*item) for item in (*NIFTI_IMAGES, *NRRD_IMAGES, *META_IMAGES)),
    Hostile(
        "dataset of a bomb sent to a training",
        (TRAIN,),
        patient(NII, bomb(300, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])),
        DatasetError,
        ("img.nii.gz", "p1"),
    ),
    *(
        Hostile(name, DOORS, patient(ending, write), None, ())
        for name, ending, write in HARMLESS_IMAGES
    ),
)
