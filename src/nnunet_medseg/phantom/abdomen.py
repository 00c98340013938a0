"""Synthetic abdomens in CT or MRI, with label maps, for the demo, the tests and the benchmarks.

A case has a body with fat, muscle, ribs, spine, vessels, bowel and stomach, and three labelled
structures: a liver on the right of the patient, one or two kidneys, and a lesion in the liver.

Promises: case `i` of a seed is the same however many cases are made; every case holds all labels;
image and label map share one grid; the anatomy lies by the axes of the patient, however the file
stores them.
Does not promise: doses, relaxation times or body sizes of real patients. The anatomy fills the
field of view, whatever its size in mm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_medseg.files import write_json
from nnunet_medseg.volume import EXTENSIONS, Volume, write_volume

__all__ = [
    "LABELS",
    "PhantomSpec",
    "make_case",
    "write_images",
    "write_nnunet_raw",
    "write_patient_folders",
]

LABELS = {"liver": 1, "kidney": 2, "lesion": 3}

MODALITIES = ("CT", "MRI")
MIN_PLANE_VOXELS = 16  # below this a kidney falls between the voxels
MIN_LESION_VOXELS = 30  # enough to learn from
MAX_LESION_SHARE = 0.25  # of the liver, on grids too coarse for MIN_LESION_VOXELS

# What the three letters x, y, z point to; the last two are coronal and sagittal acquisitions.
ORIENTATIONS = ("LPS", "RAS", "LAS", "RPS", "LPI", "RAI", "LSA", "PSR")
# Letter to axis of LPS (0 = left, 1 = back, 2 = head) and direction along it.
AXES = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
MAX_TILT_DEGREES = 4.0
MAX_SHIFT_MM = 200.0

# Thin stacks keep the proportions of a body this thick, in units of half the plane's width.
MIN_HALF_THICKNESS = 0.5


class Tissue(IntEnum):
    """What a voxel is made of; the values index the tables of intensities."""

    AIR = 0
    FAT = 1
    SOFT = 2
    BONE = 3
    MARROW = 4
    VESSEL = 5
    FLUID = 6
    LIVER = 7
    KIDNEY = 8
    LESION = 9


# Hounsfield units in the portal venous phase, rounded from textbook ranges, in order of Tissue.
CT_HOUNSFIELD = (-1000.0, -100.0, 40.0, 600.0, 250.0, 150.0, 5.0, 110.0, 190.0, 110.0)
CT_RANGE = (-1024, 3071)  # what twelve bits of a scanner hold
CT_LESION_HOUNSFIELD = 50.0
CT_CASE_SPREAD_HOUNSFIELD = 5.0
CT_NOISE_HOUNSFIELD = 10.0
CT_STREAK_HOUNSFIELD = 8.0

# Signal as a share of the brightest tissue, in order of Tissue; plausible ranks, no physics.
# T1 is after contrast agent and with the fat suppressed.
MRI_SIGNAL = {
    "T1": (0.0, 0.20, 0.36, 0.06, 0.30, 0.45, 0.12, 0.64, 1.0, 0.64),
    "FLAIR": (0.0, 0.60, 0.25, 0.05, 0.35, 0.10, 0.12, 0.42, 0.90, 0.42),
    "T2": (0.0, 0.65, 0.22, 0.05, 0.40, 0.10, 1.0, 0.38, 0.80, 0.38),
    "DWI": (0.0, 0.05, 0.20, 0.03, 0.10, 0.08, 0.30, 0.45, 0.90, 0.45),
}
# A lesion that is dark in CT is dark in T1 and bright in the others.
MRI_LESION_SWING = {"T1": 0.45, "FLAIR": -0.45, "T2": -0.55, "DWI": -0.6}
MRI_SCALE = (150.0, 3000.0)  # MRI has no unit; vendors differ by more than this
MRI_NOISE = 0.03  # of the brightest tissue
MRI_BIAS = 0.15  # natural logarithm of the gain, about its standard deviation

IN_PLANE_BLUR = (0.15, 0.7, 0.15)  # the point spread of a scanner, in voxels


@dataclass(frozen=True)
class PhantomSpec:
    """What every case of a phantom dataset has in common.

    Attributes:
        shape: Voxels `(z, y, x)` before the axes are brought into their stored order.
        spacing_mm: Voxel size `(z, y, x)` in mm, in the order of `shape`.
        modality: `CT` in Hounsfield units, or `MRI` on a scale that differs between cases.
        channels: Images a case; more than one only for MRI.
        seed: Two seeds have no case in common.
        varied_orientation: Whether stored axes, tilt and origin differ between cases; otherwise
            the direction is the identity and the origin zero.
    """

    shape: tuple[int, int, int] = (24, 48, 48)
    spacing_mm: tuple[float, float, float] = (3.0, 1.5, 1.5)
    modality: str = "CT"
    channels: int = 1
    seed: int = 0
    varied_orientation: bool = True

    def __post_init__(self) -> None:
        depth, *plane = self.shape
        if len(plane) != 2 or depth < 1 or min(plane) < MIN_PLANE_VOXELS:
            problem = (
                f"The shape {self.shape} must be (z, y, x) with z at least 1, "
                f"y and x at least {MIN_PLANE_VOXELS}."
            )
            raise ValueError(problem)
        sides: Sequence[float] = self.spacing_mm
        if len(sides) != 3 or not all(0 < side < math.inf for side in sides):
            problem = f"The spacing {self.spacing_mm} must be three positive lengths in mm."
            raise ValueError(problem)
        if self.modality not in MODALITIES:
            problem = f"The modality {self.modality!r} must be one of {', '.join(MODALITIES)}."
            raise ValueError(problem)
        if self.channels < 1 or (self.modality == "CT" and self.channels > 1):
            problem = f"{self.channels} channels: CT has exactly one, MRI at least one."
            raise ValueError(problem)
        if self.seed < 0:
            problem = f"The seed {self.seed} must not be negative."
            raise ValueError(problem)


@dataclass(frozen=True)
class _Frame:
    """How a case is stored: axis letters, tilt against the patient, and centre in LPS mm."""

    code: str
    rotation: NDArray[np.float64]
    centre_mm: NDArray[np.float64]


@dataclass(frozen=True)
class _Points:
    """Where the voxels lie in the patient: to the left, back and head, in half fields of view."""

    left: NDArray[np.float32]
    back: NDArray[np.float32]
    head: NDArray[np.float32]


@dataclass(frozen=True)
class _Ellipsoid:
    """Centre and radii along (left, back, head), in half fields of view."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]


# An infinite radius makes a tube along the body.
_TUBE = math.inf
LIVER_LOBES = (
    _Ellipsoid((-0.40, -0.08, 0.05), (0.37, 0.40, 0.62)),
    _Ellipsoid((-0.08, -0.27, 0.15), (0.32, 0.19, 0.45)),
)
KIDNEYS = (
    _Ellipsoid((-0.38, 0.27, -0.12), (0.18, 0.18, 0.46)),
    _Ellipsoid((0.38, 0.26, -0.05), (0.18, 0.18, 0.46)),
)
STOMACH = _Ellipsoid((0.40, -0.20, 0.15), (0.24, 0.22, 0.50))
VERTEBRA = _Ellipsoid((0.0, 0.36, 0.0), (0.14, 0.12, _TUBE))
VERTEBRAL_ARCH = _Ellipsoid((0.0, 0.53, 0.0), (0.10, 0.09, _TUBE))
SPINOUS_PROCESS = _Ellipsoid((0.0, 0.60, 0.0), (0.03, 0.09, _TUBE))
VESSELS = (
    _Ellipsoid((0.07, 0.17, 0.0), (0.06, 0.06, _TUBE)),
    _Ellipsoid((-0.09, 0.17, 0.0), (0.065, 0.05, _TUBE)),
)
BODY_RADII = (0.90, 0.72)  # to the left, to the back
BODY_EXPONENT = 2.4  # between an ellipse (2) and a rectangle
LESION_RADII = (0.15, 0.26)  # smallest, largest
MUSCLE_EDGE = 0.90  # share of the body's radius; fat lies outside
CAVITY_EDGE = 0.79  # organs lie inside
ONE_KIDNEY_SHARE = 0.1  # of cases, for each side

# How cases differ: standard deviation of places in half fields of view, factor on radii, and
# unevenness of surfaces in radii.
ORGAN_SHIFT = 0.03
ORGAN_GROWTH = (0.88, 1.14)
ORGAN_WAVES = 0.09
SKIN_WAVES = 0.02


def make_case(spec: PhantomSpec, index: int) -> tuple[tuple[Volume, ...], Volume]:
    """Make one case.

    Args:
        spec: What the dataset has in common.
        index: Number of the case, from 0.

    Returns:
        The images, int16, one a channel, and the label map, uint8, all on one grid.

    Raises:
        ValueError: When the index is negative.
    """
    if index < 0:
        problem = f"The case index {index} must not be negative."
        raise ValueError(problem)
    rng = np.random.default_rng([spec.seed, index])
    frame = _draw_frame(spec, rng)
    points = _place_voxels(spec, frame)
    tissue = _build_anatomy(points, rng)
    render = _render_ct if spec.modality == "CT" else _render_mri
    images = render(_channel_names(spec), tissue, points, rng)
    stored = tuple(_store(spec, frame, image.astype(np.int16)) for image in images)
    return stored, _store(spec, frame, _label(tissue))


def write_patient_folders(
    folder: Path,
    spec: PhantomSpec,
    *,
    cases: int,
    validate: int = 0,
    extension: str = ".nii.gz",
    first: int = 0,
) -> None:
    """Write one folder a patient: `patient_01/img.nii.gz` and `patient_01/train.nii.gz`.

    Args:
        folder: Where to; made when missing.
        spec: What the dataset has in common.
        cases: How many patients.
        validate: How many of them, the last ones, are for validation: `validate.nii.gz`.
        extension: One of `volume.EXTENSIONS`.
        first: Index of the first case; patients are numbered by index, from 1.

    Raises:
        ValueError: When a number or the extension is out of range.
    """
    if not 0 <= validate <= cases:
        problem = f"{validate} cases for validation must lie between 0 and {cases}."
        raise ValueError(problem)
    names = _channel_names(spec)
    suffixes = [""] if len(names) == 1 else [f"_{name}" for name in names]
    for index, images, label in _make_cases(spec, cases, first, extension):
        patient = folder / f"patient_{index + 1:02d}"
        patient.mkdir(parents=True, exist_ok=True)
        role = "train" if index < first + cases - validate else "validate"
        for suffix, image in zip(suffixes, images, strict=True):
            write_volume(patient / f"img{suffix}{extension}", image)
        write_volume(patient / f"{role}{extension}", label)


def write_nnunet_raw(
    folder: Path, spec: PhantomSpec, *, cases: int, extension: str = ".nii.gz", first: int = 0
) -> None:
    """Write a raw dataset of nnU-Net: `imagesTr`, `labelsTr` and `dataset.json`.

    Args:
        folder: Where to; made when missing.
        spec: What the dataset has in common.
        cases: How many.
        extension: One of `volume.EXTENSIONS`.
        first: Index of the first case; cases are numbered by index, from 1.

    Raises:
        ValueError: When a number or the extension is out of range.
    """
    made = _make_cases(spec, cases, first, extension)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index, images, label in made:
        case = f"phantom_{index + 1:03d}"
        for channel, image in enumerate(images):
            write_volume(folder / "imagesTr" / f"{case}_{channel:04d}{extension}", image)
        write_volume(folder / "labelsTr" / f"{case}{extension}", label)
    description = {
        "channel_names": {str(number): name for number, name in enumerate(_channel_names(spec))},
        "labels": {"background": 0, **LABELS},
        "numTraining": cases,
        "file_ending": extension,
    }
    write_json(folder / "dataset.json", description)


def write_images(
    images: Path,
    labels: Path,
    spec: PhantomSpec,
    *,
    cases: int,
    extension: str = ".nii.gz",
    first: int = 0,
) -> None:
    """Write images without labels, and the truth elsewhere.

    Args:
        images: Gets `patient_01.nii.gz`, or `patient_01_0000.nii.gz` and so on with several
            channels; made when missing.
        labels: Gets `patient_01.nii.gz`; made when missing.
        spec: What the dataset has in common.
        cases: How many.
        extension: One of `volume.EXTENSIONS`.
        first: Index of the first case; patients are numbered by index, from 1.

    Raises:
        ValueError: When a number or the extension is out of range.
    """
    made = _make_cases(spec, cases, first, extension)
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    for index, channels, label in made:
        patient = f"patient_{index + 1:02d}"
        for channel, image in enumerate(channels):
            suffix = "" if len(channels) == 1 else f"_{channel:04d}"
            write_volume(images / f"{patient}{suffix}{extension}", image)
        write_volume(labels / f"{patient}{extension}", label)


def _make_cases(
    spec: PhantomSpec, cases: int, first: int, extension: str
) -> Iterator[tuple[int, tuple[Volume, ...], Volume]]:
    # Checked outside of the generator, so that a wrong argument leaves no empty folder behind.
    if cases < 1 or first < 0:
        problem = f"{cases} cases from index {first}: at least one case, from index 0 on."
        raise ValueError(problem)
    if extension not in EXTENSIONS:
        problem = f"The extension {extension!r} must be one of {', '.join(EXTENSIONS)}."
        raise ValueError(problem)
    return ((index, *make_case(spec, index)) for index in range(first, first + cases))


def _channel_names(spec: PhantomSpec) -> tuple[str, ...]:
    if spec.modality == "CT":
        return ("CT",)
    further = [f"C{number}" for number in range(len(MRI_SIGNAL) + 1, spec.channels + 1)]
    return (*MRI_SIGNAL, *further)[: spec.channels]


# Grid: where the voxels lie in the patient, and how they are stored.


def _draw_frame(spec: PhantomSpec, rng: np.random.Generator) -> _Frame:
    # Drawn in any case, so that the anatomy of a case does not depend on how it is stored.
    code = str(rng.choice(ORIENTATIONS))
    rotation = _rotation(rng.uniform(-MAX_TILT_DEGREES, MAX_TILT_DEGREES, 3))
    centre_mm = rng.uniform(-MAX_SHIFT_MM, MAX_SHIFT_MM, 3)
    if spec.varied_orientation:
        return _Frame(code, rotation, centre_mm)
    last = np.array(spec.shape[::-1]) - 1
    return _Frame("LPS", np.eye(3), last * np.array(spec.spacing_mm[::-1]) / 2)


def _rotation(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    rotation = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[[first, second], [first, second]] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    return rotation


def _place_voxels(spec: PhantomSpec, frame: _Frame) -> _Points:
    spacing_mm = np.array(spec.spacing_mm[::-1])
    half_mm = np.array(spec.shape[::-1]) * spacing_mm / 2
    scale_mm = half_mm.copy()
    scale_mm[2] = max(half_mm[2], MIN_HALF_THICKNESS * half_mm[:2].mean())
    lines = [
        (np.arange(size) - (size - 1) / 2) * side
        for size, side in zip(spec.shape[::-1], spacing_mm, strict=True)
    ]
    x, y, z = lines[0][None, None, :], lines[1][None, :, None], lines[2][:, None, None]
    left, back, head = (
        ((row[0] * x + row[1] * y + row[2] * z) / scale).astype(np.float32)
        for row, scale in zip(frame.rotation, scale_mm, strict=True)
    )
    return _Points(left, back, head)


def _store(spec: PhantomSpec, frame: _Frame, array: NDArray[Any]) -> Volume:
    """Bring an array, stored as LPS and tilted, into the order of axes of the frame."""
    spacing_mm = np.array(spec.spacing_mm[::-1])
    columns = frame.rotation * spacing_mm
    first_voxel = -(np.array(spec.shape[::-1]) - 1) / 2
    axes = [AXES[letter][0] for letter in frame.code]
    signs = np.array([AXES[letter][1] for letter in frame.code])
    affine = np.eye(4)
    affine[:3, :3] = columns[:, axes] * signs
    affine[:3, 3] = frame.centre_mm + affine[:3, :3] @ first_voxel[axes]
    # The affine counts axes from x, the array from z.
    turned = array.T.transpose(axes)
    turned = np.flip(turned, tuple(axis for axis, sign in enumerate(signs) if sign < 0))
    x, y, z = (float(side) for side in spacing_mm[axes])
    return Volume(np.ascontiguousarray(turned.T), (z, y, x), affine)


# Anatomy: which tissue every voxel is made of.


def _build_anatomy(points: _Points, rng: np.random.Generator) -> NDArray[np.uint8]:
    depth = _body_depth(points, rng)
    tissue = _paint_body(points, depth, rng)
    cavity = depth < CAVITY_EDGE
    stomach = _jitter(STOMACH, rng)
    in_stomach = cavity & (_level(points, stomach) < 1)
    # The patient lies on the back, so gas rises to the front.
    in_gas = in_stomach & (points.back < stomach.centre[1] - stomach.radii[1] * rng.uniform(0.1, 1))
    liver_level = _liver_level(points, rng)
    tissue[in_stomach] = Tissue.FLUID
    tissue[in_gas] = Tissue.AIR
    tissue[cavity & (liver_level < 1)] = Tissue.LIVER
    tissue[cavity & (_kidney_level(points, rng) < 1)] = Tissue.KIDNEY
    _paint_spine(tissue, points, rng)
    _paint_lesion(tissue, points, liver_level, rng)
    return tissue


def _waves(points: _Points, rng: np.random.Generator, frequency: float) -> NDArray[np.float32]:
    """Return a smooth random field with values of about -1 to 1."""
    field = np.zeros_like(points.left)
    for _ in range(3):
        left, back, head = (float(value) for value in rng.normal(0, frequency, 3))
        phase = float(rng.uniform(0, 2 * np.pi))
        field += np.sin(left * points.left + back * points.back + head * points.head + phase)
    field /= 2
    return field


def _level(points: _Points, shape: _Ellipsoid) -> NDArray[np.float32]:
    """Return the distance from the centre in units of the radius: 1 on the surface."""
    squares = np.zeros_like(points.left)
    coordinates = (points.left, points.back, points.head)
    for coordinate, centre, radius in zip(coordinates, shape.centre, shape.radii, strict=True):
        if radius < math.inf:
            squares += ((coordinate - centre) / radius) ** 2
    np.sqrt(squares, out=squares)
    return squares


def _jitter(shape: _Ellipsoid, rng: np.random.Generator) -> _Ellipsoid:
    left, back, head = (np.array(shape.centre) + rng.normal(0, ORGAN_SHIFT, 3)).tolist()
    wide, deep, tall = (np.array(shape.radii) * rng.uniform(*ORGAN_GROWTH, 3)).tolist()
    return _Ellipsoid((left, back, head), (wide, deep, tall))


def _body_depth(points: _Points, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the share of the way from the middle of the body to the skin, 1 on the skin."""
    wide, deep = (float(value) for value in np.array(BODY_RADII) * rng.uniform(0.96, 1.04, 2))
    powers = np.abs(points.left / wide) ** BODY_EXPONENT
    powers += np.abs(points.back / deep) ** BODY_EXPONENT
    depth: NDArray[np.float32] = powers ** (1 / BODY_EXPONENT)
    depth += SKIN_WAVES * _waves(points, rng, 2.5)
    return depth


def _paint_body(
    points: _Points, depth: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.uint8]:
    tissue = np.full(depth.shape, Tissue.AIR, np.uint8)
    tissue[depth < 1] = Tissue.FAT
    tissue[depth < MUSCLE_EDGE] = Tissue.SOFT
    # Bowel lies in fat; the muscles beside the spine bound the cavity at the back.
    in_fat = (depth < CAVITY_EDGE) & (points.back < 0.36) & (_waves(points, rng, 9.0) < 0.1)
    tissue[in_fat] = Tissue.FAT
    angle = np.arctan2(points.back, points.left)
    slope = float(rng.uniform(4, 6))
    between = np.sin(12 * angle + slope * points.head + float(rng.uniform(0, 2 * np.pi)))
    in_rib = (between > 0.6) & (depth > CAVITY_EDGE + 0.02) & (depth < MUSCLE_EDGE - 0.02)
    tissue[in_rib] = Tissue.BONE
    return tissue


def _liver_level(points: _Points, rng: np.random.Generator) -> NDArray[np.float32]:
    right, left = (_level(points, _jitter(lobe, rng)) for lobe in LIVER_LOBES)
    np.minimum(right, left, out=right)
    right += ORGAN_WAVES * _waves(points, rng, 4.0)
    return right


def _kidney_level(points: _Points, rng: np.random.Generator) -> NDArray[np.float32]:
    right, left = (_level(points, _jitter(kidney, rng)) for kidney in KIDNEYS)
    chance = rng.random()
    if chance < ONE_KIDNEY_SHARE:
        left.fill(np.inf)
    elif chance > 1 - ONE_KIDNEY_SHARE:
        right.fill(np.inf)
    np.minimum(right, left, out=right)
    right += ORGAN_WAVES * _waves(points, rng, 5.0)
    return right


def _paint_spine(tissue: NDArray[np.uint8], points: _Points, rng: np.random.Generator) -> None:
    vertebra = _level(points, VERTEBRA)
    arch = _level(points, VERTEBRAL_ARCH)
    disc = np.sin(float(rng.uniform(7, 9)) * points.head + float(rng.uniform(0, 2 * np.pi))) > 0.8
    for vessel in VESSELS:
        tissue[_level(points, _jitter(vessel, rng)) < 1] = Tissue.VESSEL
    tissue[_level(points, SPINOUS_PROCESS) < 1] = Tissue.BONE
    tissue[arch < 1] = Tissue.BONE
    tissue[arch < 0.6] = Tissue.SOFT
    tissue[vertebra < 1] = Tissue.BONE
    tissue[vertebra < 0.8] = Tissue.MARROW
    tissue[(vertebra < 1) & disc] = Tissue.SOFT


def _paint_lesion(
    tissue: NDArray[np.uint8],
    points: _Points,
    liver_level: NDArray[np.float32],
    rng: np.random.Generator,
) -> None:
    liver = np.flatnonzero(tissue == Tissue.LIVER)
    depths = liver_level.ravel()[liver]
    # The inner half, so that most of the lesion has liver around it.
    inner = liver[depths <= np.median(depths)]
    middle = int(inner[rng.integers(len(inner))])
    left, back, head = (
        float(line.ravel()[middle]) for line in (points.left, points.back, points.head)
    )
    wide, deep, tall = (rng.uniform(*LESION_RADII) * rng.uniform(0.85, 1.15, 3)).tolist()
    shape = _Ellipsoid((left, back, head), (wide, deep, tall))
    level = _level(points, shape) + ORGAN_WAVES * _waves(points, rng, 6.0)
    inside = level.ravel()[liver]
    # Grids differ in how many voxels a radius holds; too small a lesion grows to the minimum.
    wanted = min(MIN_LESION_VOXELS, max(1, int(MAX_LESION_SHARE * len(liver))))
    edge = max(1.0, float(np.partition(inside, wanted - 1)[wanted - 1]))
    tissue.ravel()[liver[inside <= edge]] = Tissue.LESION


def _label(tissue: NDArray[np.uint8]) -> NDArray[np.uint8]:
    values = np.zeros(len(Tissue), np.uint8)
    for name, value in LABELS.items():
        values[Tissue[name.upper()]] = value
    return values[tissue]


# Intensities: what a scanner makes of the tissue.


def _draw_lesion_contrast(rng: np.random.Generator) -> float:
    # More lesions are darker than the liver than brighter, as in portal venous CT.
    sign = -1 if rng.random() < 0.6 else 1
    return sign * float(rng.uniform(0.8, 1.2))


def _render_ct(
    names: Sequence[str],
    tissue: NDArray[np.uint8],
    points: _Points,
    rng: np.random.Generator,
) -> Iterator[NDArray[Any]]:
    values = np.array(CT_HOUNSFIELD, np.float32)
    values[Tissue.FAT :] += rng.normal(0, CT_CASE_SPREAD_HOUNSFIELD, len(values) - 1)
    contrast = CT_LESION_HOUNSFIELD * _draw_lesion_contrast(rng)
    values[Tissue.LESION] = values[Tissue.LIVER] + contrast
    for _ in names:
        image = _blur(values[tissue]) + _streaks(points, rng)
        image += CT_NOISE_HOUNSFIELD * rng.standard_normal(image.shape, np.float32)
        yield np.rint(image).clip(*CT_RANGE)


def _streaks(points: _Points, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return stripes through the spine, as hardened beams leave them."""
    _, back, _ = VERTEBRA.centre
    stripes = np.zeros_like(points.left)
    for angle in rng.uniform(0, np.pi, 3):
        across = points.left * float(np.cos(angle)) + (points.back - back) * float(np.sin(angle))
        stripes += np.cos(40 * across) * np.exp(-((across / 0.12) ** 2))
    stripes *= CT_STREAK_HOUNSFIELD / 2
    return stripes


def _render_mri(
    names: Sequence[str],
    tissue: NDArray[np.uint8],
    points: _Points,
    rng: np.random.Generator,
) -> Iterator[NDArray[Any]]:
    contrast = _draw_lesion_contrast(rng)
    for name in names:
        values = _signal(name)
        values[Tissue.LESION] *= 1 + MRI_LESION_SWING.get(name, 0.5) * contrast
        gain = np.exp(np.float32(MRI_BIAS) * _waves(points, rng, 1.5))
        real = _blur(values[tissue]) * gain
        real += MRI_NOISE * rng.standard_normal(real.shape, np.float32)
        imaginary = MRI_NOISE * rng.standard_normal(real.shape, np.float32)
        scale = float(np.exp(rng.uniform(*np.log(MRI_SCALE))))
        # The magnitude of a complex signal with noise in both parts is Rician.
        yield np.rint(scale * np.hypot(real, imaginary))


def _signal(name: str) -> NDArray[np.float32]:
    if name in MRI_SIGNAL:
        return np.array(MRI_SIGNAL[name], np.float32)
    # A contrast belongs to the channel, not to the case, so it hangs on the name alone.
    values = np.random.default_rng(list(name.encode())).uniform(0.1, 1, len(Tissue))
    values[Tissue.AIR] = 0
    values[Tissue.LESION] = values[Tissue.LIVER]
    return values.astype(np.float32)


def _blur(image: NDArray[np.float32]) -> NDArray[np.float32]:
    side, middle, _ = (np.float32(weight) for weight in IN_PLANE_BLUR)
    for axis in (1, 2):
        padded = np.pad(image, [(int(axis == each),) * 2 for each in range(3)], mode="edge")
        before, after = np.delete(padded, [-1, -2], axis), np.delete(padded, [0, 1], axis)
        image = middle * image + side * (before + after)
    return image
