"""Cases that are unlike those that trained are told from the others."""

from __future__ import annotations

import numpy as np
import pytest
from makers import make_image

from nnunet_medseg.dataset.facts import CaseFacts
from nnunet_medseg.volume import Volume
from nnunet_medseg.workflows.likeness import compare_case, describe_cases

MEASURED = {"0": {"percentile_00_5": 100.0, "percentile_99_5": 800.0}}


def facts_of(**changes) -> CaseFacts:
    plain = {
        "name": "case_0001",
        "shape": (16, 16, 16),
        "spacing_mm": (2.0, 1.0, 1.5),
        "value_ranges": ((1.0, 899.0),),
        "label_voxels": {1: 5},
        "changed_parts": (),
        "content": "",
        "orientation": "LPS",
    }
    return CaseFacts(**plain | changes)


DATA = describe_cases([facts_of(), facts_of(shape=(18, 16, 16))], MEASURED)
MARKED = np.ones((16, 16, 16), dtype=bool)


def with_spacing(image: Volume, spacing_mm: tuple[float, float, float]) -> Volume:
    affine = np.diag([*spacing_mm[::-1], 1.0])
    return Volume(image.array, spacing_mm, affine)


def test_a_case_like_the_others_is_not_flagged():
    assert compare_case([make_image(5)], MARKED, DATA).texts == ()


def test_a_record_holds_ranges_along_the_body_however_images_are_stored():
    # x runs to the head, z to the left.
    turned = facts_of(orientation="SPL", shape=(10, 16, 20), spacing_mm=(1.5, 1.0, 2.0))

    data = describe_cases([facts_of(), turned], {})

    assert [(each.low, each.high) for each in data.spacing_mm] == [(2, 2), (1, 1), (1.5, 1.5)]
    assert [(each.low, each.high) for each in data.size_mm] == [(32, 40), (16, 16), (15, 24)]
    assert data.channels[0].labelled is None


@pytest.mark.parametrize("side", [0.4, 5.0])
def test_voxels_of_another_size_are_flagged(side):
    unlike = compare_case([with_spacing(make_image(), (side, 1.0, 1.5))], MARKED, DATA)

    assert f"{side:g} x 1 x 1.5 mm, trained on 2 x 1 x 1.5 mm" in unlike.spacing


def test_an_image_of_another_size_is_flagged():
    image = make_image()
    small = Volume(image.array[:, :5], image.spacing_mm, image.affine)

    unlike = compare_case([small], MARKED[:, :5], DATA)

    assert unlike.size
    assert not unlike.spacing


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda array: array - 1024, "smallest value"),
        (lambda array: array * 3, "largest value"),
        (lambda array: np.where(array == array.max(), 899, array // 12), "median"),
    ],
)
def test_other_values_are_flagged(change, text):
    image = make_image()

    unlike = compare_case([image.with_array(change(image.array))], MARKED, DATA)

    assert text in unlike.intensity
    assert unlike.texts == (f"intensity {unlike.intensity}",)
