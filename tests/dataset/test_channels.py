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


@pytest.mark.parametrize(
    ("wishes", "listed", "told"),
    [
        (("T1", "T1Gd", "T2", "FLAIR"), ("flair", "t1", "t1ce", "t2"), "T1 would be flair"),
        (("PET", "CT"), ("CT", "PT"), "CT would be PT"),
        (("T1", "T1"), ("T1", "T2"), "T1 would be T2"),
    ],
)
def test_a_name_that_another_image_has_is_not_given_to_the_one_in_its_place(wishes, listed, told):
    with pytest.raises(UsageError) as caught:
        choose_channels(wishes, listed, [])

    assert f"in this order: {', '.join(listed)}" in caught.value.problem
    assert told in caught.value.problem
    assert f"-i {','.join(listed)}" in caught.value.fix


def test_the_list_that_the_refusal_shows_is_taken():
    assert choose_channels(("CT", "PT"), ("CT", "PT"), []).order == (0, 1)


def test_it_is_said_which_image_each_name_is_given_to():
    renamed = choose_channels(("CT", "PET"), ("ct", "pt"), [])
    unnamed = choose_channels(("T1", "T2"), ("", ""), [])

    assert renamed.order == unnamed.order == (0, 1)
    assert "CT <- ct, PET <- pt" in renamed.reason
    assert "T1 <- image_1, T2 <- image_2" in unnamed.reason
    assert "<-" not in choose_channels(("CT",), ("ct",), []).reason


def test_of_numbered_images_the_order_is_what_is_meant():
    plan = choose_channels(("1", "2"), ("0000", "1"), [])

    assert plan.names == ("1", "2")
    assert plan.order == (0, 1)


def test_what_is_said_of_images_does_not_name_the_only_patient():
    listed = ("Miller", "CT")

    plan = choose_channels(("MRI", "CT"), listed, [], of_one_patient=True)
    with pytest.raises(UsageError) as caught:
        choose_channels(("CT", "MRI"), listed, [], of_one_patient=True)

    assert "MRI <- image_1, CT <- CT" in plan.reason
    assert "Miller" not in f"{caught.value.problem} {caught.value.fix}"
