"""What `-i` means: names of the channels, and their order."""

from __future__ import annotations

import pytest

from nnunet_medseg.dataset.channels import choose_channels, parse_image_types
from nnunet_medseg.dataset.facts import CaseFacts, guess_image_type
from nnunet_medseg.errors import UsageError

CT_RANGE = (-1024.0, 2000.0)
MRI_RANGE = (0.0, 900.0)


def make_facts(*ranges):
    return CaseFacts("case_0001", (16, 16, 16), (1.0, 1.0, 1.0), ranges, {1: 1}, (), "")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("NONE", ()),
        ("", ()),
        ("CT", ("CT",)),
        (" T1 , FLAIR ", ("T1", "FLAIR")),
        ("T1 Gd,ADC-b1000", ("T1 Gd", "ADC-b1000")),
        ("Röntgen", ("Röntgen",)),
    ],
)
def test_every_form_of_image_types_is_read(text, names):
    assert parse_image_types(text) == names


@pytest.mark.parametrize("text", ["T1,", ",", "T1,,T2", "../x", "T1;T2", "a/b", "-", "T\n1"])
def test_what_is_no_list_of_image_types_is_refused(text):
    with pytest.raises(UsageError, match="list of image types"):
        parse_image_types(text)


def test_names_that_match_the_files_decide_the_order():
    plan = choose_channels(("T1", "flair"), ("FLAIR", "T1"), [])

    assert plan.names == ("T1", "flair")
    assert plan.order == (1, 0)


def test_other_names_are_taken_in_the_order_of_the_files():
    plan = choose_channels(("T1", "T2"), ("0000", "0001"), [])

    assert plan.names == ("T1", "T2")
    assert plan.order == (0, 1)


def test_one_type_serves_all_images_but_keeps_their_own_names():
    assert choose_channels(("MRI",), ("T1", ""), []).names == ("T1", "MRI")
    assert choose_channels(("ct",), ("a", "b"), []).names == ("CT", "CT")


@pytest.mark.parametrize(("wishes", "listed"), [(("A", "B"), ("",)), (("A", "B"), ("", "", ""))])
def test_a_wrong_number_of_types_is_refused(wishes, listed):
    with pytest.raises(UsageError, match=f"but a patient has {len(listed)}"):
        choose_channels(wishes, listed, [])


def test_names_of_the_dataset_are_taken_and_ct_is_written_as_nnunet_wants_it():
    assert choose_channels((), ("ct",), []).names == ("CT",)


def test_unnamed_channels_are_guessed_from_their_values_and_this_is_said():
    facts = [make_facts(CT_RANGE, MRI_RANGE)] * 2

    plan = choose_channels((), ("", ""), facts)

    assert plan.names == ("CT", "MRI")
    assert "range of the values" in plan.reason


@pytest.mark.parametrize(
    ("ranges", "kind"),
    [
        ([CT_RANGE], "CT"),
        ([(-2048.0, 3071.0), (-1000.0, 400.0), MRI_RANGE], "CT"),
        ([MRI_RANGE, CT_RANGE], "MRI"),
        ([(-1.0, 1.0)], "MRI"),
        ([], "MRI"),
    ],
)
def test_most_cases_decide_the_type(ranges, kind):
    assert guess_image_type(ranges) == kind


def test_channels_of_one_name_are_all_taken_in_the_order_of_the_files():
    plan = choose_channels(("MRI", "mri"), ("MRI", "MRI"), [])

    assert plan.names == ("MRI", "mri")
    assert plan.order == (0, 1)


def test_the_name_of_one_of_several_images_is_not_taken_for_all():
    with pytest.raises(UsageError, match=r"a patient has 2 \(CT, PET\)"):
        choose_channels(("ct",), ("CT", "PET"), [])
    assert choose_channels(("MRI",), ("MRI", "MRI"), []).names == ("MRI", "MRI")
