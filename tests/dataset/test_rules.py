"""Rules on cases and datasets: each fires on what it is for, and not on ordinary data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from makers import make_image, make_volume, write_case

from nnunet_medseg.dataset.case import Case
from nnunet_medseg.dataset.case_rules import CASE_RULES
from nnunet_medseg.dataset.checks import inspect_case
from nnunet_medseg.dataset.dataset_rules import DATASET_RULES, judge_channels, judge_dataset
from nnunet_medseg.dataset.facts import CaseFacts, signature_of
from nnunet_medseg.dataset.intake import read_dataset
from nnunet_medseg.dataset.repairs import REPAIRS
from nnunet_medseg.phantom import PhantomSpec, write_patient_folders


def make_facts(number, **changes):
    rng = np.random.default_rng(number)
    facts = CaseFacts(
        name=f"case_{number:04d}",
        shape=(16, 16, 16),
        spacing_mm=(2.0, 1.0, 1.5),
        value_ranges=((-1000.0, 900.0),),
        label_voxels={1: 60 + number},
        changed_parts=(),
        content=str(number),
        orientation="LPS",
        signature=signature_of(rng.random((16, 16, 16))),
    )
    return replace(facts, **changes)


def judged(facts, **cases):
    """Return rule and case of every finding on these facts; `cases` changes some of the cases."""
    own = [
        replace(
            Case(fact.name, f"p{place}", (Path("img"),), Path("train")),
            **cases.get(f"p{place}", {}),
        )
        for place, fact in enumerate(facts)
    ]
    return [(finding.rule, finding.case) for finding in judge_dataset(own, facts)]


USUAL = [make_facts(number) for number in range(8)]


def test_every_rule_and_repair_says_in_its_first_line_what_it_is_for():
    for function in (*CASE_RULES, *DATASET_RULES, *REPAIRS):
        first = (function.__doc__ or "").splitlines()[0]
        assert first.endswith("."), function.__name__


def test_ordinary_facts_have_no_findings():
    assert judged(USUAL) == []


def test_phantoms_have_no_findings(tmp_path):
    write_patient_folders(tmp_path, PhantomSpec(shape=(16, 32, 32)), cases=6, validate=0)
    dataset = read_dataset(tmp_path, None)

    inspections = [inspect_case(case) for case in dataset.cases]

    assert [item.findings for item in inspections] == [()] * 6
    found = judge_dataset(dataset.cases, [item.facts for item in inspections])
    # Phantoms lie all ways on purpose.
    assert [(finding.severity, finding.rule) for finding in found] == [("repair", "orientation")]


def test_real_cases_have_no_findings_together(real_data):
    dataset = read_dataset(real_data / "hippocampus", None)
    cases = dataset.cases[:20]

    inspections = [inspect_case(case) for case in cases]

    assert {finding for item in inspections for finding in item.findings} == set()
    assert judge_dataset(cases, [item.facts for item in inspections]) == []


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"spacing_mm": (2.0, 1.0, 9.0)}, "unusual spacing"),
        ({"spacing_mm": (0.2, 0.1, 0.15)}, "unusual spacing"),
        ({"shape": (160, 160, 160)}, "unusual size"),
        ({"label_voxels": {1: 6000}}, "unusual volume"),
        ({"label_voxels": {1: 1}}, "unusual volume"),
        ({"content": "0"}, "same image twice"),
        ({"signature": USUAL[0].signature}, "almost identical images"),
        ({"label_voxels": {}}, "empty label map"),
        ({"value_ranges": ((0.0, 1.0), (0.0, 1.0))}, "channels"),
    ],
)
def test_a_case_that_is_unlike_the_others_is_named(change, rule):
    found = judged([*USUAL[:-1], replace(USUAL[-1], **change)])

    assert (rule, "p7") in found


def test_labels_of_any_size_are_usual_where_sizes_vary():
    sizes = (1, 5, 30, 200, 900, 4000, 20000, 90000)
    facts = [replace(fact, label_voxels={1: size}) for fact, size in zip(USUAL, sizes, strict=True)]

    assert judged(facts) == []


def test_another_protocol_for_half_of_the_cases_is_usual():
    facts = [
        replace(fact, spacing_mm=(5.0, 0.7, 0.7)) if place % 2 else fact
        for place, fact in enumerate(USUAL)
    ]

    assert judged(facts) == []


def test_a_label_in_two_of_many_cases_is_said():
    facts = [replace(fact, label_voxels={1: 60, 7: 50}) for fact in USUAL[:2]] + USUAL[2:]

    assert judged(facts) == [("rare label", "")]


def test_axes_that_point_different_ways_are_told_as_put_right():
    facts = [replace(USUAL[0], orientation="RAS"), *USUAL[1:]]

    assert judged(facts) == [("orientation", "")]


def test_a_patient_on_both_sides_is_an_error():
    cases = {"p1": {"patient": "anna"}, "p2": {"patient": "anna", "is_held_out": True}}

    assert judged(USUAL, **cases) == [("patient on both sides", "anna")]


def channel_findings(ranges, name):
    facts = [make_facts(number, value_ranges=(values,)) for number, values in enumerate(ranges)]
    cases = {fact.name: f"p{number}" for number, fact in enumerate(facts)}
    return [(finding.rule, finding.case) for finding in judge_channels(cases, facts, [name])]


def test_values_that_are_not_those_of_the_image_type_are_said():
    hounsfield, shifted = (-1000.0, 900.0), (0.0, 3000.0)

    assert channel_findings([hounsfield] * 5, "CT") == []
    assert channel_findings([shifted] * 5, "CT") == [("image type", "")]
    assert channel_findings([hounsfield] * 4 + [shifted], "CT") == [("image type", "p4")]
    assert channel_findings([hounsfield] * 5, "MRI") == [("image type", "")]
    assert channel_findings([shifted] * 5, "MRI") == []


def rules_of(case):
    return [(finding.severity, finding.rule) for finding in inspect_case(case).findings]


def test_specks_beside_a_large_structure_are_counted(tmp_path):
    array = np.zeros((16, 16, 16), np.uint8)
    array[4:12, 4:12, 4:12] = 1
    array[0, 0, 0] = array[15, 15, 14:] = 1
    case = write_case(tmp_path, label=make_volume(array))

    (finding,) = inspect_case(case).findings

    assert (finding.severity, finding.rule) == ("warning", "specks")
    assert "2 of label 1" in finding.message


def test_many_small_lesions_are_no_specks(tmp_path):
    array = np.zeros((16, 16, 16), np.uint8)
    array[::4, ::4, ::4] = 1
    array[1:4, 1:4, 1:4] = 2

    assert rules_of(write_case(tmp_path, label=make_volume(array))) == []


def test_a_label_map_of_more_than_half_of_the_image_is_said(tmp_path):
    array = np.ones((16, 16, 16), np.uint8)
    array[0] = 0

    assert rules_of(write_case(tmp_path, label=make_volume(array))) == [
        ("warning", "label covers most")
    ]


def test_a_label_map_on_empty_space_is_said(tmp_path):
    image = make_image()
    image.array[:8] = 0

    assert rules_of(write_case(tmp_path, image=image)) == [("warning", "label off the patient")]


@pytest.mark.parametrize("padding", [-1024, -2000, -3024])
def test_a_label_map_on_air_is_said_whatever_lies_outside_of_the_scan(tmp_path, padding):
    rng = np.random.default_rng(0)
    values = rng.normal(-1000, 20, (16, 16, 16)).clip(-1024)
    values[4:12, 4:12, 4:12] = rng.normal(60, 300, (8, 8, 8))
    values[:, 0, :] = padding
    label = np.zeros((16, 16, 16), np.uint8)
    label[1:3, 4:12, 4:12] = 1
    on_body = np.zeros((16, 16, 16), np.uint8)
    on_body[5:9, 5:9, 5:9] = 1
    values[on_body != 0] = rng.normal(-850, 60, 64)
    image = make_volume(values.astype(np.int16))

    off = rules_of(write_case(tmp_path / "off", image=image, label=make_volume(label)))
    on = rules_of(write_case(tmp_path / "on", image=image, label=make_volume(on_body)))

    assert on == []
    assert off == [("warning", "label off the patient")]


def test_what_is_dim_beside_a_bright_spot_is_no_empty_space(tmp_path):
    image = make_image(dtype=np.float32)
    image.array[14, 14, 14:] = 1e6

    assert rules_of(write_case(tmp_path, image=image)) == []


def test_twins_far_apart_among_many_cases_are_found():
    facts = [make_facts(number) for number in range(600)]
    facts[590] = replace(facts[590], signature=facts[7].signature)

    assert judged(facts) == [("almost identical images", "p590")]
