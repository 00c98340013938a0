"""Names that are made to harm a terminal, a shell or a disk, and links out of the input folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pydicom
from corpus import CHECK, PREDICT, TRAIN, Hostile, Place
from layout_makers import write_dicom
from makers import make_image, write_patient, write_patients, write_raw
from pydicom.uid import JPEGLSLossless

from nnunet_medseg.errors import DatasetError
from nnunet_medseg.files import write_json
from nnunet_medseg.volume import extension_of, write_volume

# Clears the screen, names the window, and asks some terminals to send text to the shell.
ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m"
FORGED = "p\nError: all is lost\r\n"
REVERSED = "p\u202egnp.exe"
DASHES, DEVICE = "--delete_input", "CON"
LONG = "n" * 255


# --- names -------------------------------------------------------------------------------------


def patients_called(name: str, *, is_whole: bool) -> Callable[[Place], Path]:
    """Return a maker of a dataset with such a patient, whose label map may be missing."""

    def make(place: Place) -> Path:
        write_patients(place.given, cases=2)
        write_patient(place.given / name, seed=3)
        if not is_whole:
            (place.given / name / "train.nii.gz").unlink()
        return place.given

    return make


def images_called(name: str, content: bytes | None = None) -> Callable[[Place], Path]:
    """Return a maker of a folder with one image of such a name, good or not."""

    def make(place: Place) -> Path:
        path = place.given / name
        if content is not None:
            path.write_bytes(content)
            return place.given
        plain = place.given / f"plain{extension_of(path)}"
        write_volume(plain, make_image())
        plain.rename(path)
        return place.given

    return make


def not_text(place: Place) -> Path:
    folder = place.given / os.fsdecode(b"m\xfcller\x1b[2J")
    write_patients(place.given, cases=2)
    write_patient(folder.with_name("plain"), seed=3).rename(folder)
    return place.given


def series_not_text(place: Place) -> Path:
    """Write series with contours, one of them packed as only a reader of SimpleITK unpacks it."""
    write_dicom(place.given, cases=2)
    folder = (place.given / "d1").rename(place.given / os.fsdecode(b"m\xfcller"))
    for path in (folder / "study" / "CT").iterdir():
        packed = pydicom.dcmread(path)
        packed.compress(JPEGLSLossless)
        packed.save_as(path)
    return place.given


def described_with(content: object) -> Callable[[Place], Path]:
    """Return a maker of a raw dataset with such a dataset.json."""

    def make(place: Place) -> Path:
        write_raw(place.given / "Raw", cases=2)
        path = place.given / "Raw" / "dataset.json"
        path.write_bytes(content) if isinstance(content, bytes) else write_json(path, content)
        return place.given

    return make


def training_called(name: str) -> Callable[[Place], Path]:
    """Return a maker of a raw dataset with a case of such a name and no label map."""

    def make(place: Place) -> Path:
        write_raw(place.given / "Raw", cases=2)
        write_volume(place.given / "plain.nii.gz", make_image())
        target = place.given / "Raw" / "imagesTr" / f"{name}_0000.nii.gz"
        (place.given / "plain.nii.gz").rename(target)
        return place.given

    return make


BROKEN = b"not an image"
CONTROLS = ("escape codes", "a newline")
KINDS = (
    ("escape codes", ESCAPES, r"\x1b[2J\x1b]0;owned\x07\x9b31m"),
    ("a newline", FORGED, r"p\nError: all is lost\r\n"),
    ("letters that run backwards", REVERSED, r"p\u202egnp.exe"),
    ("leading dashes", DASHES, DASHES),
    ("a name of a device", DEVICE, DEVICE),
    ("markup", "[red]x", "[red]x"),
)
NAMES = (
    *(
        Hostile(
            f"patient called by {kind}",
            (CHECK, TRAIN) if kind in CONTROLS else (CHECK,),
            patients_called(name, is_whole=False),
            DatasetError,
            (shown, "no label map"),
        )
        for kind, name, shown in KINDS
    ),
    *(
        Hostile(
            f"image called by {kind}",
            (PREDICT,),
            images_called(f"{name}.nii.gz", BROKEN),
            DatasetError,
            (shown,),
        )
        for kind, name, shown in KINDS
    ),
    *(
        Hostile(
            f"good patient called by {kind}",
            (CHECK,),
            patients_called(name, is_whole=True),
            None,
            (),
        )
        for kind, name, _ in KINDS
    ),
    *(
        Hostile(
            f"good image called by {kind} as {ending}",
            (PREDICT,),
            images_called(name + ending),
            DatasetError if kind in CONTROLS else None,
            (shown, "file name") if kind in CONTROLS else (),
        )
        for kind, name, shown in KINDS
        for ending in ((".nii.gz", ".mhd", ".nrrd") if kind in CONTROLS else (".mhd",))
    ),
    *(
        Hostile(
            f"good image of 255 bytes as {ending}",
            (PREDICT,),
            images_called("n" * (255 - len(ending)) + ending),
            *((DatasetError, ("too long",)) if ending == ".mhd" else (None, ())),
        )
        for ending in (".nii.gz", ".nrrd", ".mhd")
    ),
    Hostile(
        *("patient of 255 bytes", (CHECK, TRAIN)),
        *(patients_called(LONG, is_whole=False), DatasetError, ("nnnnnn", "no label map")),
    ),
    Hostile("good patient of 255 bytes", (CHECK,), patients_called(LONG, is_whole=True), None, ()),
    Hostile(
        *("patient whose name is no text", (CHECK, TRAIN), not_text, DatasetError),
        ("file name", r"\x1b[2J"),
    ),
    Hostile(
        *("series whose folder's name is no text", (CHECK, TRAIN, PREDICT), series_not_text),
        *(DatasetError, ("file name", r"m\udcfcller")),
    ),
    Hostile(
        *("raw case called by escape codes", (CHECK,), training_called(ESCAPES), DatasetError),
        (r"\x1b[2J",),
    ),
    Hostile(
        *("dataset.json with names of escape codes", (CHECK,)),
        described_with({"channel_names": {"0": ESCAPES}, "labels": {"background": 0, FORGED: 1}}),
        None,
        (r"\x1b[2J",),
    ),
    Hostile(
        *("dataset.json nested without end", (CHECK, TRAIN), described_with(b"[" * 10**6)),
        *(DatasetError, ("dataset.json",)),
    ),
    Hostile(
        *("dataset.json with numbers of 5,000 digits", (CHECK,)),
        described_with(b'{"labels": {"background": 0, "a": 1' + b"0" * 5000 + b"}}"),
        *(DatasetError, ("dataset.json",)),
    ),
    Hostile(
        *("dataset.json of 100 MB", (CHECK,), described_with(b'["' + b"x" * 10**8 + b'"]')),
        *(DatasetError, ("dataset.json",)),
    ),
)


# --- links -------------------------------------------------------------------------------------


def linked(name: str, target: str) -> Callable[[Place], Path]:
    """Return a maker of a dataset in which one part is a link."""

    def make(place: Place) -> Path:
        write_patients(place.given, cases=2)
        path = place.given / name
        if path.exists():
            path.rename(place.root / "rest")
        path.symlink_to(target.format(outside=place.outside, given=place.given))
        return place.given

    return make


def only_link(target: str) -> Callable[[Place], Path]:
    """Return a maker of an input folder that holds nothing but a link."""

    def make(place: Place) -> Path:
        (place.given / "Patients").symlink_to(target.format(outside=place.outside))
        return place.given

    return make


def raw_linked(name: str) -> Callable[[Place], Path]:
    """Return a maker of a raw dataset in which one part is a link."""

    def make(place: Place) -> Path:
        write_raw(place.given / "Raw", cases=2, description={"channel_names": {"0": "CT"}})
        path = place.given / "Raw" / name
        path.rename(place.root / "rest")
        path.symlink_to(place.outside / "Raw" / name)
        return place.given

    return make


def image_linked(target: str) -> Callable[[Place], Path]:
    """Return a maker of a folder with an image that is a link."""

    def make(place: Place) -> Path:
        (place.given / "a.nii.gz").symlink_to(target.format(outside=place.outside))
        return place.given

    return make


def piped(name: str) -> Callable[[Place], Path]:
    """Return a maker of a dataset in which one file is a pipe that nobody writes to."""

    def make(place: Place) -> Path:
        write_patients(place.given, cases=2)
        (place.given / name).unlink(missing_ok=True)
        os.mkfifo(place.given / name)
        return place.given

    return make


def endless_folders(place: Place) -> Path:
    """Nest folders two hundred deep around nothing."""
    deepest = place.given
    for _ in range(200):
        deepest = deepest / "d"
    deepest.mkdir(parents=True)
    return place.given


SECRET = "{outside}/Patients/p1/img.nii.gz"
LINKS = (
    Hostile(
        "image that is a link",
        (CHECK, TRAIN),
        linked("p1/img.nii.gz", SECRET),
        DatasetError,
        ("p1", "no image"),
    ),
    Hostile(
        "label map that is a link",
        (CHECK,),
        linked("p1/train.nii.gz", "{outside}/Patients/p1/train.nii.gz"),
        DatasetError,
        ("no label map",),
    ),
    Hostile(
        "patient that is a link beside others",
        (CHECK,),
        linked("p3", "{outside}/Patients/p1"),
        None,
        (),
    ),
    Hostile("link that leads in a circle", (CHECK,), linked("p3", "{given}"), None, ()),
    Hostile("link that leads to itself", (CHECK,), linked("p3", "p3"), None, ()),
    Hostile("link that leads nowhere", (CHECK,), linked("p3", "/nothing/there"), None, ()),
    Hostile(
        "dataset that is a link",
        (CHECK, TRAIN),
        only_link("{outside}/Patients"),
        DatasetError,
        ("Patients, a link, which is not followed",),
    ),
    Hostile(
        "raw images that are a link", (CHECK,), raw_linked("imagesTr"), DatasetError, ("imagesTr",)
    ),
    Hostile(
        "raw labels that are a link", (CHECK,), raw_linked("labelsTr"), DatasetError, ("labelsTr",)
    ),
    Hostile(
        "image that is a pipe", (CHECK, TRAIN), piped("p1/img.nii.gz"), DatasetError, ("no image",)
    ),
    Hostile(
        "label map that is a pipe", (CHECK,), piped("p1/train.nii.gz"), DatasetError, ("no label",)
    ),
    Hostile(
        "image to segment that is a link",
        (PREDICT,),
        image_linked("{outside}/Patients/p1/img.nii.gz"),
        DatasetError,
        ("a.nii.gz",),
    ),
    Hostile(
        "folder to segment that is a link",
        (PREDICT,),
        only_link("{outside}/Patients"),
        DatasetError,
        ("Patients",),
    ),
    Hostile(
        "image to segment from a device",
        (PREDICT,),
        image_linked("/dev/zero"),
        DatasetError,
        ("a.nii.gz",),
    ),
    Hostile("folders nested two hundred deep", (CHECK, PREDICT), endless_folders, DatasetError, ()),
)
