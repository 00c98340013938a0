"""Who trains and who is evaluated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_medseg.dataset.case import Case
from nnunet_medseg.dataset.splits import check_fold, split_cases, split_folds
from nnunet_medseg.errors import DatasetError, UsageError


def make_cases(number, *, held_out=()):
    return [
        Case(f"case_{place:04d}", f"p{place}", (), Path("train.nii.gz"), place in held_out)
        for place in range(1, number + 1)
    ]


@pytest.mark.parametrize("text", ["all", " ALL ", "0", "4", "CV"])
def test_every_fold_is_read(text):
    assert check_fold(text) == text.strip().lower()


@pytest.mark.parametrize("text", ["5", "7", "-1", "", "x", "1.0", "cv1", "01"])
def test_another_fold_is_refused(text):
    with pytest.raises(UsageError, match="-f"):
        check_fold(text)


@pytest.mark.parametrize("number", [2, 3, 4, 5, 6, 12, 23])
def test_folds_are_disjoint_cover_all_and_train_on_the_others(number):
    cases = make_cases(number)
    names = {case.name for case in cases}

    splits = [split_cases(cases, {}, str(fold), seed=3) for fold in range(min(5, number))]

    evaluated = [name for split in splits for name in split.evaluate]
    assert sorted(evaluated) == sorted(names)
    for split in splits:
        assert split.evaluate
        assert set(split.train) == names - set(split.evaluate)


def test_folds_are_the_same_every_time_and_differ_by_seed():
    cases = make_cases(20)

    assert split_cases(cases, {}, "1", 7) == split_cases(cases, {}, "1", 7)
    assert split_cases(cases, {}, "1", 7) != split_cases(cases, {}, "1", 8)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_fold_that_fewer_than_five_patients_do_not_have_is_refused(number):
    with pytest.raises(DatasetError) as caught:
        split_cases(make_cases(number), {}, str(number), 0)

    assert f"0 to {number - 1}" in caught.value.fix


def test_one_patient_trains_alone_and_cannot_be_split():
    cases = make_cases(1)

    assert split_cases(cases, {}, "all", 0).train == ("case_0001",)
    with pytest.raises(DatasetError, match="one patient cannot be split"):
        split_cases(cases, {}, "0", 0)


def test_all_trains_on_everybody_and_evaluates_nobody():
    split = split_cases(make_cases(3), {}, "all", 0)

    assert len(split.train) == 3
    assert split.evaluate == ()


@pytest.mark.parametrize("fold", ["all", "0"])
def test_held_out_patients_are_evaluated_and_never_trained_on(fold):
    split = split_cases(make_cases(6, held_out={2, 5}), {}, fold, 0)

    assert split.evaluate == ("case_0002", "case_0005")
    assert split.train == ("case_0001", "case_0003", "case_0004", "case_0006")


@pytest.mark.parametrize("fold", ["1", "2", "3", "4"])
def test_further_folds_are_refused_with_held_out_patients(fold):
    with pytest.raises(DatasetError, match="one split only"):
        split_cases(make_cases(6, held_out={1}), {}, fold, 0)


def test_a_dataset_where_all_are_held_out_is_refused():
    with pytest.raises(DatasetError, match="No patient is left to train on"):
        split_cases(make_cases(2, held_out={1, 2}), {}, "all", 0)


# --- cross-validation --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 3, 4, 5, 6, 23])
def test_a_cross_validation_evaluates_every_case_once_with_the_others_trained(number):
    cases = make_cases(number)
    names = [case.name for case in cases]

    folds = split_folds(cases, {}, "cv", seed=3)

    assert sorted(name for split in folds.values() for name in split.evaluate) == names
    for split in folds.values():
        assert sorted(split.train + split.evaluate) == names


@pytest.mark.parametrize(("number", "expected"), [(2, 2), (3, 3), (4, 4), (5, 5), (40, 5)])
def test_a_cross_validation_has_a_fold_a_patient_below_five_and_five_otherwise(number, expected):
    folds = split_folds(make_cases(number), {}, "cv", seed=0)

    assert list(folds) == [str(place) for place in range(expected)]


def test_the_folds_of_a_cross_validation_are_those_that_a_number_picks():
    cases = make_cases(12)

    folds = split_folds(cases, {}, "cv", seed=7)

    assert folds == {str(fold): split_cases(cases, {}, str(fold), 7) for fold in range(5)}


@pytest.mark.parametrize("fold", ["all", "2"])
def test_any_other_fold_is_one_training(fold):
    cases = make_cases(6)

    assert split_folds(cases, {}, fold, 0) == {fold: split_cases(cases, {}, fold, 0)}


@pytest.mark.parametrize("fold", ["1", "cv"])
def test_several_images_of_a_patient_who_is_held_out_are_one_patient(fold):
    *others, first, second = make_cases(6, held_out={4, 5, 6})
    cases = [*others, replace(first, patient="Q"), replace(second, patient="Q")]

    with pytest.raises(DatasetError, match="2 patients are marked for validation"):
        split_folds(cases, {}, fold, 0)


def test_a_cross_validation_is_refused_with_patients_who_are_held_out():
    with pytest.raises(DatasetError, match="2 patients are marked for validation") as caught:
        split_folds(make_cases(6, held_out={1, 4}), {}, "cv", 0)

    assert "-f 0" in caught.value.fix
    assert "rename validate to train" in caught.value.fix


def test_a_cross_validation_is_refused_with_one_patient():
    with pytest.raises(DatasetError, match="one patient cannot be split into folds") as caught:
        split_folds(make_cases(1), {}, "cv", 0)

    assert "-f all, or add patients" in caught.value.fix


def test_a_cross_validation_with_nobody_left_to_train_is_refused():
    with pytest.raises(DatasetError, match="2 patients are marked for validation"):
        split_folds(make_cases(2, held_out={1, 2}), {}, "cv", 0)


@settings(max_examples=60, deadline=None)
@given(
    owners=st.lists(
        st.lists(st.frozensets(st.integers(1, 4)), min_size=1, max_size=3), min_size=2, max_size=30
    ),
    seed=st.integers(0, 1000),
)
def test_folds_keep_patients_whole_and_share_out_the_labels(owners, seed):
    cases, classes = [], {}
    for owner, images in enumerate(owners):
        for labels in images:
            name = f"case_{len(cases):04d}"
            cases.append(Case(name, name, (), Path("train"), patient=f"p{owner}"))
            classes[name] = labels

    folds = split_folds(cases, classes, "cv", seed)

    evaluated = [name for split in folds.values() for name in split.evaluate]
    assert sorted(evaluated) == [case.name for case in cases]
    owner_of = {case.name: case.owner for case in cases}
    sizes = []
    for split in folds.values():
        sides = [{owner_of[name] for name in side} for side in (split.train, split.evaluate)]
        assert not sides[0] & sides[1]
        sizes.append(len(sides[1]))
    assert max(sizes) - min(sizes) <= 1


def spread_of(folds, classes):
    """Return over all labels how far apart the folds are in cases that have it."""
    labels = {label for values in classes.values() for label in values}
    counts = [
        [sum(label in classes[name] for name in split.evaluate) for split in folds.values()]
        for label in labels
    ]
    return sum(max(row) - min(row) for row in counts)


def test_a_rare_label_is_in_every_fold():
    cases = make_cases(25)
    classes = {
        case.name: frozenset({1, 2} if place % 5 == 0 else {1}) for place, case in enumerate(cases)
    }

    for seed in range(20):
        folds = split_folds(cases, classes, "cv", seed)
        assert spread_of(folds, classes) == 0


def test_labels_are_shared_out_better_than_by_chance():
    rng = np.random.default_rng(0)
    cases = make_cases(37)
    ours = by_chance = 0
    for seed in range(30):
        classes = {
            case.name: frozenset(np.flatnonzero(rng.random(5) < (0.1, 0.2, 0.3, 0.5, 0.9)).tolist())
            for case in cases
        }
        ours += spread_of(split_folds(cases, classes, "cv", seed), classes)
        by_chance += spread_of(split_folds(cases, {}, "cv", seed), classes)

    assert ours < 0.6 * by_chance
