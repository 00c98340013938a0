"""The phantoms look like medicine, are the same every time, and are written as they were made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnunet_medseg.phantom import (
    LABELS,
    PhantomSpec,
    make_case,
    write_images,
    write_nnunet_raw,
    write_patient_folders,
)
from nnunet_medseg.volume import (
    EXTENSIONS,
    Volume,
    grid_shift,
    orientation_code,
    read_volume,
    to_ras,
)

SMALL = PhantomSpec(shape=(16, 16, 16))
SMALL_MRI = replace(SMALL, modality="MRI", channels=2)
INDICES = range(12)


def world_mm(label: Volume, mask: np.ndarray) -> np.ndarray:
    """Return the centre of a mask in LPS mm."""
    z, y, x = np.argwhere(mask).mean(axis=0)
    return (label.affine @ (x, y, z, 1))[:3]


def grow(mask: np.ndarray) -> np.ndarray:
    """Return a mask with its six neighbours a voxel; the mask must not touch the border."""
    grown = mask.copy()
    for axis in range(3):
        grown |= np.roll(mask, 1, axis) | np.roll(mask, -1, axis)
    return grown


def assert_same(first: Volume, second: Volume) -> None:
    np.testing.assert_array_equal(first.array, second.array)
    assert first.array.dtype == second.array.dtype
    assert grid_shift(first, second) < 1e-3
    np.testing.assert_allclose(first.spacing_mm, second.spacing_mm, rtol=1e-5)


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


@pytest.mark.parametrize("spec", [PhantomSpec(), replace(SMALL_MRI, channels=5)])
def test_a_case_is_the_same_every_time_and_another_index_or_seed_is_another_case(spec):
    images, label = make_case(spec, 3)
    again_images, again_label = make_case(spec, 3)
    _, other_index = make_case(spec, 4)
    _, other_seed = make_case(replace(spec, seed=1), 3)

    assert len(images) == spec.channels
    for image, again in zip((*images, label), (*again_images, again_label), strict=True):
        np.testing.assert_array_equal(image.array, again.array)
        np.testing.assert_array_equal(image.affine, again.affine)
    assert not np.array_equal(to_ras(label).array, to_ras(other_index).array)
    assert not np.array_equal(to_ras(label).array, to_ras(other_seed).array)


def test_a_case_is_the_same_whatever_the_number_of_cases_and_the_first_one(tmp_path):
    write_patient_folders(tmp_path / "few", SMALL, cases=1, first=1)
    write_patient_folders(tmp_path / "many", SMALL, cases=3)

    for name in ("img.nii.gz", "train.nii.gz"):
        few = tmp_path / "few" / "patient_02" / name
        assert_same(read_volume(few), read_volume(tmp_path / "many" / "patient_02" / name))


@pytest.mark.parametrize("index", INDICES)
def test_the_liver_is_on_the_right_of_the_patient_however_the_case_is_stored(index):
    (image,), label = make_case(PhantomSpec(), index)

    body_mm = world_mm(label, image.array > -300)
    liver_mm = world_mm(label, label.array == LABELS["liver"])
    kidney_mm = world_mm(label, label.array == LABELS["kidney"])

    assert liver_mm[0] < body_mm[0] - 5
    assert kidney_mm[1] > body_mm[1] + 5
    assert image.array.shape == label.array.shape
    assert grid_shift(image, label) == 0


def test_stored_axes_and_origins_differ_between_cases():
    labels = [make_case(SMALL, index)[1] for index in range(30)]

    assert len({orientation_code(label) for label in labels}) >= 5
    assert len({tuple(label.affine[:3, 3]) for label in labels}) == 30
    for label in labels:
        direction = label.affine[:3, :3] / label.spacing_mm[::-1]
        np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-12)
        tilt = np.rad2deg(np.arccos(np.abs(direction).max(axis=0)))
        assert 0 < tilt.max() < 10


def test_plain_storage_has_identity_direction_and_zero_origin():
    spec = replace(SMALL, varied_orientation=False)

    _, label = make_case(spec, 0)

    np.testing.assert_array_equal(label.affine, np.diag([1.5, 1.5, 3.0, 1.0]))
    assert label.array.shape == spec.shape
    assert label.spacing_mm == spec.spacing_mm


@pytest.mark.parametrize("index", range(4))
def test_spacing_follows_the_axes_into_their_stored_order(index):
    spec = PhantomSpec(shape=(18, 20, 22), spacing_mm=(5.0, 0.7, 0.9))

    _, label = make_case(spec, index)

    stored = set(zip(label.array.shape, label.spacing_mm, strict=True))
    assert stored == {(18, 5.0), (20, 0.7), (22, 0.9)}
    assert to_ras(label).array.shape == spec.shape
    np.testing.assert_allclose(to_ras(label).spacing_mm, spec.spacing_mm)


@pytest.mark.parametrize("shape", [(16, 16, 16), (24, 48, 48), (1, 48, 48), (3, 32, 40)])
def test_every_case_holds_every_label_and_a_lesion_of_some_size(shape):
    for index in range(25):
        _, label = make_case(PhantomSpec(shape=shape), index)

        counts = np.bincount(label.array.ravel(), minlength=4)
        assert label.array.dtype == np.uint8
        assert len(counts) == 4
        assert counts[LABELS["liver"]] > counts[LABELS["kidney"]] > 0
        assert counts[LABELS["liver"]] > counts[LABELS["lesion"]] > 0
        if shape[0] >= 16:
            assert counts[LABELS["lesion"]] >= 30


@pytest.mark.parametrize("index", INDICES)
def test_the_lesion_lies_in_the_liver(index):
    _, label = make_case(PhantomSpec(), index)

    lesion = label.array == LABELS["lesion"]
    shell = label.array[grow(lesion) & ~lesion]

    assert (shell == LABELS["liver"]).mean() > 0.4


def test_lesions_differ_in_place_and_size_and_are_darker_or_brighter_than_the_liver():
    spec = replace(PhantomSpec(), varied_orientation=False)
    contrasts, sizes, places = [], [], []

    for index in range(20):
        (image,), label = make_case(spec, index)
        lesion = label.array == LABELS["lesion"]
        liver_median = np.median(image.array[label.array == LABELS["liver"]])
        contrasts.append(np.median(image.array[lesion]) - liver_median)
        sizes.append(lesion.sum())
        places.append(world_mm(label, lesion))

    assert min(contrasts) < -25
    assert max(contrasts) > 25
    assert min(np.abs(contrasts)) > 15
    assert max(sizes) > 2 * min(sizes)
    assert np.std(places, axis=0).min() > 2


def test_some_cases_have_one_kidney_and_most_have_two():
    spec = replace(PhantomSpec(), varied_orientation=False)
    sides = []

    for index in range(30):
        _, label = make_case(spec, index)
        _, _, x = np.nonzero(label.array == LABELS["kidney"])
        sides.append(int((x < 24).any()) + int((x >= 24).any()))

    assert 0 < sides.count(1) < 15
    assert sides.count(1) + sides.count(2) == 30


def test_ct_is_in_hounsfield_units():
    for index in range(4):
        (image,), label = make_case(PhantomSpec(), index)

        assert image.array.dtype == np.int16
        assert image.array.min() >= -1024
        assert 300 < image.array.max() < 1500
        assert abs(np.median(image.array[image.array < -500]) + 1000) < 20
        assert 85 < np.median(image.array[label.array == LABELS["liver"]]) < 135
        assert 160 < np.median(image.array[label.array == LABELS["kidney"]]) < 215


def test_mri_is_positive_and_its_scale_differs_between_cases():
    spec = replace(PhantomSpec(), modality="MRI")

    scales = []
    for index in range(8):
        (image,), _ = make_case(spec, index)
        assert image.array.min() >= 0
        scales.append(np.percentile(image.array, 99))

    assert max(scales) > 2 * min(scales)
    assert min(scales) > 100


def test_channels_show_the_same_anatomy_in_different_contrast():
    spec = replace(PhantomSpec(), modality="MRI", channels=2)

    (t1, flair), label = make_case(spec, 0)

    liver, kidney = (label.array == LABELS[name] for name in ("liver", "kidney"))
    ratios = [image.array[kidney].mean() / image.array[liver].mean() for image in (t1, flair)]
    assert ratios[1] > 1.2 * ratios[0] > 1.5
    assert grid_shift(t1, flair) == 0


@pytest.mark.parametrize("modality", ["CT", "MRI"])
@pytest.mark.parametrize("organ", ["liver", "kidney"])
def test_an_organ_stands_out_from_what_surrounds_it(modality, organ):
    spec = replace(PhantomSpec(), modality=modality)
    for index in range(4):
        (image,), label = make_case(spec, index)

        organ_mask = label.array == LABELS[organ]
        rim = grow(grow(grow(organ_mask))) & (label.array == 0) & ~grow(organ_mask)
        inside, outside = image.array[organ_mask], image.array[rim]
        apart = np.abs(outside - np.median(inside)) > 1.5 * inside.std()
        assert apart.mean() > 0.7


def test_patient_folders_are_named_by_role_and_channel(tmp_path):
    write_patient_folders(tmp_path, SMALL_MRI, cases=3, validate=1, extension=".nrrd")

    expected = [
        f"patient_0{number}/{name}.nrrd"
        for number, role in ((1, "train"), (2, "train"), (3, "validate"))
        for name in ("img_FLAIR", "img_T1", role)
    ]
    assert names_in(tmp_path) == expected


def test_further_channels_have_names_of_their_own(tmp_path):
    write_patient_folders(tmp_path, replace(SMALL_MRI, channels=6), cases=1)

    suffixes = [name[len("patient_01/") : -len(".nii.gz")] for name in names_in(tmp_path)]
    expected = ["img_C5", "img_C6", "img_DWI", "img_FLAIR", "img_T1", "img_T2", "train"]
    assert suffixes == expected


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("spec", [SMALL, SMALL_MRI], ids=["CT", "MRI"])
def test_patient_folders_read_back_as_they_were_made(tmp_path, spec, extension):
    write_patient_folders(tmp_path, spec, cases=2, validate=1, extension=extension, first=4)

    names = ["img"] if spec.channels == 1 else ["img_T1", "img_FLAIR"]
    for index, role in ((4, "train"), (5, "validate")):
        images, label = make_case(spec, index)
        patient = tmp_path / f"patient_{index + 1:02d}"
        for name, volume in zip([*names, role], [*images, label], strict=True):
            assert_same(read_volume(patient / f"{name}{extension}"), volume)


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("spec", [SMALL, SMALL_MRI], ids=["CT", "MRI"])
def test_raw_datasets_read_back_as_they_were_made(tmp_path, spec, extension):
    write_nnunet_raw(tmp_path, spec, cases=2, extension=extension)

    for index in range(2):
        images, label = make_case(spec, index)
        case = f"phantom_{index + 1:03d}"
        assert_same(read_volume(tmp_path / "labelsTr" / f"{case}{extension}"), label)
        for channel, image in enumerate(images):
            path = tmp_path / "imagesTr" / f"{case}_{channel:04d}{extension}"
            assert_same(read_volume(path), image)
    names = {"0": "CT"} if spec.channels == 1 else {"0": "T1", "1": "FLAIR"}
    assert json.loads((tmp_path / "dataset.json").read_text(encoding="utf-8")) == {
        "channel_names": names,
        "labels": {"background": 0, "liver": 1, "kidney": 2, "lesion": 3},
        "numTraining": 2,
        "file_ending": extension,
    }


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("spec", [SMALL, SMALL_MRI], ids=["CT", "MRI"])
def test_images_and_truth_read_back_as_they_were_made(tmp_path, spec, extension):
    images_folder, labels_folder = tmp_path / "new" / "images", tmp_path / "new" / "labels"

    write_images(images_folder, labels_folder, spec, cases=2, extension=extension)

    suffixes = [""] if spec.channels == 1 else ["_0000", "_0001"]
    for index in range(2):
        images, label = make_case(spec, index)
        patient = f"patient_{index + 1:02d}"
        assert_same(read_volume(labels_folder / f"{patient}{extension}"), label)
        for suffix, image in zip(suffixes, images, strict=True):
            assert_same(read_volume(images_folder / f"{patient}{suffix}{extension}"), image)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_a_single_slice_reads_back_as_it_was_made(tmp_path, extension):
    spec = PhantomSpec(shape=(1, 48, 48))
    write_patient_folders(tmp_path, spec, cases=8, extension=extension)

    for index in range(8):
        (image,), label = make_case(spec, index)
        patient = tmp_path / f"patient_{index + 1:02d}"
        assert sorted(label.array.shape) == [1, 48, 48]
        assert_same(read_volume(patient / f"img{extension}"), image)
        assert_same(read_volume(patient / f"train{extension}"), label)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": (0, 48, 48)},
        {"shape": (24, 8, 48)},
        {"shape": (48, 48)},
        {"spacing_mm": (3.0, 0.0, 1.5)},
        {"spacing_mm": (3.0, float("nan"), 1.5)},
        {"spacing_mm": (3.0, 1.5)},
        {"modality": "PET"},
        {"channels": 0},
        {"channels": 2},
        {"seed": -1},
    ],
)
def test_an_impossible_spec_is_refused(wrong):
    with pytest.raises(ValueError, match=r"must|channels"):
        PhantomSpec(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cases": 0},
        {"cases": 2, "validate": 3},
        {"cases": 1, "first": -1},
        {"cases": 1, "extension": ".png"},
    ],
)
def test_an_impossible_number_of_cases_or_extension_is_refused_before_writing(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"must|at least"):
        write_patient_folders(tmp_path / "data", SMALL, **wrong)

    assert not (tmp_path / "data").exists()


def test_a_negative_index_is_refused():
    with pytest.raises(ValueError, match="index"):
        make_case(SMALL, -1)
