"""What `-l` means: every form of it, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_medseg.dataset.convert import from_training_labels, to_training_labels
from nnunet_medseg.dataset.labels import Label, LabelWish, parse_labels, resolve_labels
from nnunet_medseg.errors import UsageError

NAMED = {1: "liver", 2: "tumor"}


def resolve(text, found, names=None):
    return [(item.name, item.value, item.index) for item in resolve_text(text, found, names)]


def resolve_text(text, found, names=None):
    return resolve_labels(parse_labels(text), found, names or {})


@pytest.mark.parametrize(
    ("text", "wishes"),
    [
        ("NONE", ()),
        (" none ", ()),
        ("", ()),
        ("TUMOR", (LabelWish("TUMOR", None),)),
        ("2", (LabelWish(None, 2),)),
        ("007", (LabelWish(None, 7),)),
        ("TUMOR=2", (LabelWish("TUMOR", 2),)),
        (" TUMOR = 2 ", (LabelWish("TUMOR", 2),)),
        ("LIVER=1,TUMOR=2", (LabelWish("LIVER", 1), LabelWish("TUMOR", 2))),
        ("LIVER=1, 3 ,X", (LabelWish("LIVER", 1), LabelWish(None, 3), LabelWish("X", None))),
        ("linke Niere=4", (LabelWish("linke Niere", 4),)),
        ("Schädel=65535", (LabelWish("Schädel", 65535),)),
        ("T2", (LabelWish("T2", None),)),
        ("NONE=3", (LabelWish("NONE", 3),)),
    ],
)
def test_every_form_of_a_label_is_read(text, wishes):
    assert parse_labels(text) == wishes


@pytest.mark.parametrize(
    "text",
    [
        ",",
        "A,",
        "=2",
        "A=",
        "A=B",
        "A=-1",
        "A=1.5",
        "A==2",
        "A=0",
        "0",
        "00",
        "65536",
        "A=" + "9" * 5000,
        "9" * 5000,
        "A=1,A=2",
        "A=1,a=2",
        "A=1,B=1",
        "A=1,1",
        "2,2",
        "background=1",
        "Background",
        "ignore=3",
        "A\0=1",
        "A\nB=1",
        "A=²",
        "A=٣",
    ],
)
def test_what_is_no_label_is_refused_with_the_fix(text):
    with pytest.raises(UsageError) as caught:
        parse_labels(text)

    assert caught.value.problem.startswith("-l ")
    assert caught.value.fix


def test_without_a_wish_every_value_is_a_label_with_the_name_that_the_dataset_has():
    found = {1: 5, 7: 2, 2: 1}

    assert resolve("NONE", found, NAMED) == [("liver", 1, 1), ("tumor", 2, 2), ("label_7", 7, 3)]


def test_indices_follow_the_values_and_not_the_order_of_the_wishes():
    assert resolve("B=9,A=4", {4: 1, 9: 1}) == [("A", 4, 1), ("B", 9, 2)]


def test_a_value_takes_the_name_of_the_dataset_and_a_pair_its_own():
    assert resolve("2", {1: 1, 2: 1}, NAMED) == [("tumor", 2, 1)]
    assert resolve("2", {1: 1, 2: 1}) == [("label_2", 2, 1)]
    assert resolve("LESION=2", {1: 1, 2: 1}, NAMED) == [("LESION", 2, 1)]


def test_a_name_finds_its_value_in_the_dataset_whatever_the_case():
    assert resolve("TUMOR", {1: 1, 2: 1}, NAMED) == [("TUMOR", 2, 1)]


def test_a_name_means_the_only_value_there_is():
    assert resolve("TUMOR", {5: 3}) == [("TUMOR", 5, 1)]


def test_a_name_does_not_mean_the_only_value_when_the_dataset_calls_it_otherwise():
    with pytest.raises(UsageError) as caught:
        resolve("TUMOR", {1: 5}, {1: "spleen"})

    assert "1 = spleen (in 5 of the cases)" in caught.value.problem
    assert "-l TUMOR=1" in caught.value.fix
    assert resolve("TUMOR=1", {1: 5}, {1: "spleen"}) == [("TUMOR", 1, 1)]


@pytest.mark.parametrize(
    "given",
    [
        "",
        "label_1",
        "Label",
        "foreground",
        "mask",
        "seg",
        "Segment_1",
        "1",
        "ROI-1",
        "GT",
        "ground truth",
    ],
)
def test_a_name_means_the_only_value_when_its_own_name_says_nothing(given):
    assert resolve("TUMOR", {1: 5}, {1: given}) == [("TUMOR", 1, 1)]


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("LIVER", "liver_mask"),
        ("liver tumor", "Tumor"),
        ("Left-Kidney", "left kidney"),
        ("LeftKidney", "left_kidney"),
        ("Scha\u0308del", "sch\u00e4del"),
    ],
)
def test_names_that_mean_the_same_need_not_be_written_alike(asked, given):
    assert resolve(asked, {1: 5}, {1: given}) == [(asked, 1, 1)]


@pytest.mark.parametrize(("asked", "given"), [("LIVER", "nonliver"), ("mask", "liver"), ("+", "l")])
def test_a_part_of_a_word_does_not_make_two_names_the_same(asked, given):
    with pytest.raises(UsageError, match="Which label value"):
        resolve(asked, {1: 5}, {1: given})


def test_a_name_that_could_mean_several_values_is_a_question_that_lists_them():
    with pytest.raises(UsageError) as caught:
        resolve("TUMOR", {1: 3, 4: 2})

    assert "1 (in 3 of the cases), 4 (in 2 of the cases)" in caught.value.problem
    assert "-l TUMOR=1" in caught.value.fix


def test_a_name_that_the_dataset_gives_to_two_values_is_a_question():
    with pytest.raises(UsageError, match="Which label value is tumor"):
        resolve("tumor", {1: 3, 2: 2}, {1: "tumor", 2: "Tumor"})


def test_two_names_without_values_are_a_question_even_with_one_value():
    with pytest.raises(UsageError, match="Which label value"):
        resolve("A,B", {1: 1})


def test_a_name_and_a_value_that_mean_the_same_are_refused():
    with pytest.raises(UsageError, match="twice"):
        resolve("liver,1", {1: 1, 2: 1}, NAMED)


@pytest.mark.parametrize("text", ["3", "TUMOR=3"])
def test_a_value_that_no_label_map_has_is_refused_with_those_there_are(text):
    with pytest.raises(UsageError) as caught:
        resolve(text, {1: 2}, NAMED)

    assert "the value 3" in caught.value.problem
    assert "1 = liver (in 2 of the cases)" in caught.value.problem


def test_a_value_asked_of_empty_label_maps_says_that_they_are_empty():
    with pytest.raises(UsageError, match="nothing but background"):
        resolve("2", {})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("NONE", {1: "tumor", 2: "tumor"}),
        ("NONE", {1: "label_2"}),
        ("label_2=1,2", {}),
        ("1,2", {1: "x", 2: "x"}),
    ],
)
def test_two_values_of_one_name_are_refused_since_one_would_be_lost(text, names):
    with pytest.raises(UsageError, match="have the name"):
        resolve(text, {1: 1, 2: 1}, names)


def test_a_value_beyond_sixteen_bits_is_refused_unless_it_becomes_background():
    found = {1: 1, 70000: 1}

    with pytest.raises(UsageError, match="70000"):
        resolve("NONE", found)
    assert resolve("A=1", found) == [("A", 1, 1)]


@pytest.mark.parametrize("values", [(2,), (1, 3), (300, 65535)])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float64])
def test_the_users_values_come_back_from_training_and_all_others_are_background(values, dtype):
    array = np.array([0, 7, *values], dtype=dtype)
    labels = tuple(Label(f"l{value}", value, place) for place, value in enumerate(values, start=1))

    trained = to_training_labels(array, labels)
    back = from_training_labels(trained, labels)

    assert trained.tolist() == [0, 0, *range(1, len(values) + 1)]
    assert back.tolist() == [0, 0, *values]
    assert trained.dtype == np.uint8
