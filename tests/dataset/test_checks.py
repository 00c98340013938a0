"""Every rule of the check: what it finds, what it says, and that it never raises."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from makers import hashes_of, make_image, make_label, make_volume, write_case

from nnunet_medseg.dataset import contents
from nnunet_medseg.dataset.case import Case
from nnunet_medseg.dataset.checks import inspect_case, inspect_cases
from nnunet_medseg.dataset.dataset_rules import judge_dataset
from nnunet_medseg.volume import EXTENSIONS, GRID_TOLERANCE, Volume, files_of, write_volume
from nnunet_medseg.volume.grid import from_sitk, to_sitk


def rules_of(inspection):
    return [finding.rule for finding in inspection.findings]


def make_strange(array):
    return make_volume(np.asarray(array, dtype=np.float32))


def spoil(values, value):
    values = values.astype(np.float32)
    values[3, 3, 3] = value
    return make_volume(values)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_a_good_case_has_facts_and_no_findings(tmp_path, extension):
    case = write_case(tmp_path, label=make_label((2, 5)), extension=extension)

    inspection = inspect_case(case)

    assert inspection.findings == ()
    assert inspection.facts.name == "case_0001"
    assert inspection.facts.shape == (16, 16, 16)
    assert inspection.facts.spacing_mm == (2.0, 1.0, 1.5)
    assert inspection.facts.label_voxels == {2: 64, 5: 64}
    assert inspection.facts.changed_parts == ()
    assert inspection.facts.value_ranges == (
        (float(make_image().array.min()), float(make_image().array.max())),
    )


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("place", [0, 1])
def test_a_truncated_file_is_a_finding_that_names_the_case_the_file_and_the_fix(
    tmp_path, extension, place
):
    case = write_case(tmp_path, extension=extension)
    path = (*case.images, case.label)[place]
    data = files_of(path)[-1]
    data.write_bytes(data.read_bytes()[:-100])

    inspection = inspect_case(case)

    (finding,) = inspection.findings
    assert inspection.facts is None
    assert (finding.severity, finding.case, finding.rule) == ("error", "Müller", "unreadable")
    assert path.name in finding.message
    assert finding.fix


def test_images_that_are_2d_or_rgb_are_findings(tmp_path):
    case = write_case(tmp_path)
    images = {
        "2D": sitk.GetImageFromArray(make_image().array[0]),
        "RGB": sitk.GetImageFromArray(np.zeros((4, 4, 4, 3), np.uint8), isVector=True),
    }

    for rule, image in images.items():
        sitk.WriteImage(image, str(case.images[0]))
        assert rules_of(inspect_case(case)) == [rule]


def test_an_image_that_does_not_fit_into_memory_is_a_finding(tmp_path, monkeypatch):
    case = write_case(tmp_path)
    monkeypatch.setattr(contents, "free_memory_bytes", lambda: 1000)

    assert rules_of(inspect_case(case)) == ["too large", "too large"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_with_a_labelled_value_that_is_no_number_is_a_finding(tmp_path, value):
    label = make_label()
    label.array[3, 3, 3] = 1
    case = write_case(tmp_path, image=spoil(make_image().array, value), label=label)

    (finding,) = inspect_case(case).findings

    assert finding.rule == "NaN or Inf"
    assert "img.nii.gz: 1 voxels are NaN or infinite" in finding.message


def test_a_constant_image_is_a_finding(tmp_path):
    case = write_case(tmp_path, image=make_strange(np.full((16, 16, 16), 7)))

    (finding,) = inspect_case(case).findings

    assert finding.rule == "constant image"
    assert "7 everywhere" in finding.message


@pytest.mark.parametrize("value", [0.5, -1, -0.25])
def test_a_label_value_that_is_no_whole_positive_number_is_a_finding(tmp_path, value):
    case = write_case(tmp_path, label=spoil(make_label().array, value))

    assert rules_of(inspect_case(case)) == ["label values"]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32, np.float64])
def test_a_label_map_of_any_type_counts_its_values(tmp_path, dtype):
    case = write_case(tmp_path, label=make_label((1, 100), dtype=dtype))

    assert inspect_case(case).facts.label_voxels == {1: 64, 100: 64}


def test_another_shape_is_a_finding_with_both_shapes(tmp_path):
    # Without a header that says where it lies.
    label = Volume(make_label().array[:8], (1.0, 1.0, 1.0), np.eye(4))
    case = write_case(tmp_path, label=label)

    (finding,) = inspect_case(case).findings

    assert finding.rule == "shape mismatch"
    assert "8 x 16 x 16" in finding.message
    assert "16 x 16 x 16" in finding.message


@pytest.mark.parametrize(
    ("shift", "rules", "shifted"),
    [
        (0.0005, [], ()),
        (0.05, ["header noise"], (1,)),
        (0.09, ["header noise"], (1,)),
        (0.11, ["geometry mismatch"], None),
        (5.0, ["geometry mismatch"], None),
    ],
)
def test_a_grid_may_be_off_by_the_tolerance_and_this_is_remembered(tmp_path, shift, rules, shifted):
    label = make_label(origin_mm=(0, shift * 1.0, 0))
    case = write_case(tmp_path, label=label)

    inspection = inspect_case(case)

    assert rules_of(inspection) == rules
    if shifted is None:
        assert f"{GRID_TOLERANCE} is tolerated" in inspection.findings[0].message
    else:
        assert inspection.facts.changed_parts == shifted


def test_a_flipped_direction_is_a_geometry_mismatch(tmp_path):
    label = make_label()
    flipped = label.affine @ np.diag([-1.0, 1.0, 1.0, 1.0])
    case = write_case(tmp_path, label=replace(label, affine=flipped))

    assert rules_of(inspect_case(case)) == ["geometry mismatch"]


def test_a_second_channel_is_held_to_the_same_rules(tmp_path):
    case = write_case(tmp_path)
    second = tmp_path / "img_2.nii.gz"
    write_volume(second, make_volume(np.full((8, 16, 16), 3, np.int16)))

    inspection = inspect_case(replace(case, images=(*case.images, second)))

    assert rules_of(inspection) == ["shape mismatch", "constant image"]
    assert all("img_2.nii.gz" in finding.message for finding in inspection.findings)


def test_everything_wrong_with_a_case_is_found_in_one_go(tmp_path):
    case = write_case(tmp_path, image=spoil(make_image().array, np.nan))
    second = tmp_path / "img_2.nii.gz"
    second.write_bytes(b"junk")
    label = make_label().array.astype(np.float32)
    # Where the image has no number, so that it cannot be put right.
    label[3, 3, 3] = 0.5
    write_volume(case.label, make_volume(label))

    inspection = inspect_case(replace(case, images=(*case.images, second)))

    assert rules_of(inspection) == ["unreadable", "NaN or Inf", "label values"]


def test_a_case_whose_first_image_is_damaged_has_its_label_map_judged(tmp_path):
    case = write_case(tmp_path, label=spoil(make_label().array, -2))
    case.images[0].write_bytes(b"junk")

    assert rules_of(inspect_case(case)) == ["unreadable", "label values"]


def test_the_check_changes_no_file(tmp_path):
    case = write_case(tmp_path, image=spoil(make_image().array, np.nan))
    before = hashes_of(tmp_path)

    inspect_case(case)

    assert hashes_of(tmp_path) == before


def test_random_damage_is_always_a_finding_or_a_case(tmp_path):
    rng = random.Random(1)
    cases = [write_case(tmp_path / ending, extension=ending) for ending in EXTENSIONS]

    for case in cases:
        for _ in range(20):
            path = rng.choice([case.images[0], case.label])
            whole = path.read_bytes()
            content = bytearray(whole)
            for place in (rng.randrange(len(content)), rng.randrange(min(300, len(content)))):
                content[place] = rng.randrange(256)
            path.write_bytes(content)
            inspection = inspect_case(case)
            severities = {finding.severity for finding in inspection.findings}
            assert (inspection.facts is None) == ("error" in severities)
            path.write_bytes(whole)


def test_cases_are_read_in_order_and_counted(tmp_path):
    cases = [
        replace(write_case(tmp_path / str(number)), name=f"case_{number:04d}")
        for number in range(3)
    ]
    seen = []

    inspections = inspect_cases(cases, seen.append)

    assert [item.facts.name for item in inspections] == ["case_0000", "case_0001", "case_0002"]
    assert seen == [1, 2, 3]


def make_judged(tmp_path, images, labels):
    """Return cases `a`, `b` … with their facts."""
    cases = []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        source = "abc"[number]
        written = write_case(tmp_path / source, image, label)
        cases.append(Case(f"case_{number:04d}", source, written.images, written.label))
    return cases, [inspect_case(case).facts for case in cases]


def test_the_same_image_twice_is_a_finding_that_names_both(tmp_path):
    images = [make_image(1), make_image(2), make_image(1)]

    cases, facts = make_judged(tmp_path, images, [make_label()] * 3)
    (finding,) = judge_dataset(cases, facts)

    assert (finding.case, finding.rule) == ("c", "same image twice")
    assert "that of a" in finding.message


def test_an_empty_label_map_is_a_warning(tmp_path):
    cases, facts = make_judged(
        tmp_path, [make_image(1), make_image(2)], [make_label(()), make_label()]
    )
    (finding,) = judge_dataset(cases, facts)

    assert (finding.severity, finding.case, finding.rule) == ("warning", "a", "empty label map")


def test_no_foreground_anywhere_is_an_error(tmp_path):
    cases, facts = make_judged(tmp_path, [make_image(1), make_image(2)], [make_label(())] * 2)

    findings = judge_dataset(cases, facts)

    assert [finding.rule for finding in findings] == ["empty label map"] * 2 + ["no foreground"]
    assert findings[-1].severity == "error"


def test_real_cases_have_no_findings(real_data):
    folder = real_data / "hippocampus" / "0001"

    label = next(
        folder / f"{name}.nii.gz"
        for name in ("train", "validate")
        if (folder / f"{name}.nii.gz").exists()
    )
    inspection = inspect_case(Case("case_0001", "0001", (folder / "img.nii.gz",), label))

    assert inspection.findings == ()
    assert set(inspection.facts.label_voxels) == {1, 2}


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SAR", "PIR", "ILA"])
def test_a_scan_that_is_stored_the_other_way_round_is_almost_the_same(tmp_path, orientation):
    array = np.random.default_rng(0).integers(0, 900, (12, 16, 20)).astype(np.int16)
    image = make_volume(array)
    turned = from_sitk(sitk.DICOMOrient(to_sitk(image), orientation))
    label = make_volume((array > 800).astype(np.uint8))
    turned_label = from_sitk(sitk.DICOMOrient(to_sitk(label), orientation))
    cases = [
        replace(write_case(tmp_path / "a", image=image, label=label), source="a"),
        replace(
            write_case(tmp_path / "b", image=turned, label=turned_label),
            source="b",
            name="case_0002",
        ),
    ]

    facts = [inspect_case(case).facts for case in cases]

    assert facts[0].signature == facts[1].signature
    expected = "same image twice" if orientation == "LPS" else "almost identical images"
    assert expected in [finding.rule for finding in judge_dataset(cases, facts)]
