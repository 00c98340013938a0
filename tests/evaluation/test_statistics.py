"""Intervals, paired tests and their correction."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nnunet_medseg.evaluation.statistics import (
    Interval,
    bootstrap_mean,
    bootstrap_mean_of_labels,
    compare_paired,
    holm,
    smallest_p,
)

DICE = [0.91, 0.85, 0.93, 0.78, 0.88, 0.9, 0.83, 0.95]
P_VALUES = st.lists(st.floats(0, 1), max_size=12)


# --- the mean and its interval -----------------------------------------------------------------


def test_the_interval_is_that_of_scipy():
    expected = stats.bootstrap(
        (np.array(DICE),), np.mean, n_resamples=2000, rng=np.random.default_rng(7)
    ).confidence_interval

    found = bootstrap_mean(DICE, seed=7)

    assert found == Interval(np.mean(DICE), expected.low, expected.high)


def test_the_interval_of_many_normal_values_is_that_of_the_textbook():
    values = np.random.default_rng(0).normal(0.8, 0.1, 400)

    found = bootstrap_mean(values.tolist())

    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.0015)
    assert found.high == pytest.approx(values.mean() + half, abs=0.0015)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    assert bootstrap_mean(DICE, seed=1) == bootstrap_mean(DICE, seed=1)
    assert bootstrap_mean(DICE, seed=1) != bootstrap_mean(DICE, seed=2)


def test_cases_without_a_value_are_left_out():
    assert bootstrap_mean([math.nan, *DICE, math.nan]) == bootstrap_mean(DICE)


def test_one_label_has_the_interval_of_its_cases():
    rows = [[dice] for dice in DICE] + [[math.nan]]

    found = bootstrap_mean_of_labels(rows, seed=3)

    expected = bootstrap_mean(DICE, seed=3)
    assert (found.mean, found.low, found.high) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )


def test_labels_count_alike_in_however_many_cases_they_are():
    rows = [[dice, math.nan] for dice in DICE] + [[math.nan, 0.5], [math.nan, 0.7]]

    found = bootstrap_mean_of_labels(rows)

    assert found.mean == pytest.approx((np.mean(DICE) + 0.6) / 2)
    assert found.low < found.mean < found.high


@given(
    st.lists(
        st.lists(st.sampled_from([math.nan, 0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=2),
        max_size=6,
    )
)
@settings(max_examples=40, deadline=None)
def test_the_mean_of_labels_lies_in_its_interval(rows):
    found = bootstrap_mean_of_labels(rows)

    has_values = not all(math.isnan(value) for row in rows for value in row)
    assert math.isnan(found.mean) != has_values
    if has_values:
        assert 0 <= found.low <= found.mean + 1e-9
        assert found.mean - 1e-9 <= found.high <= 1


@pytest.mark.parametrize("values", [[], [math.nan], [math.nan, math.nan]])
def test_no_value_at_all_has_no_mean(values):
    found = bootstrap_mean(values)

    assert all(math.isnan(number) for number in (found.mean, found.low, found.high))


@pytest.mark.parametrize(
    "values", [[0.7], [0.7, math.nan], [0.7] * 5, [0.0, 0.0], [0.1 + 0.2, 0.3]]
)
def test_values_without_spread_have_an_interval_of_no_width(values):
    found = bootstrap_mean(values)

    assert found.low == found.mean == found.high
    assert found.mean == pytest.approx(values[0])


@pytest.mark.parametrize(
    "values", [[0.0, 1.0], [0.0] * 9 + [1.0], [1.0, 1.0, 0.0], [0.9, 0.9 + 1e-9]]
)
def test_few_and_extreme_values_have_an_interval_around_their_mean(values):
    found = bootstrap_mean(values)

    assert min(values) <= found.low <= found.mean <= found.high <= max(values)


# --- several cases of one patient --------------------------------------------------------------

TWICE = [dice for dice in DICE for _ in range(2)]
PATIENTS = [f"p{number}" for number in range(len(DICE)) for _ in range(2)]


def test_patients_with_one_case_each_change_nothing():
    owners = [f"p{number}" for number in range(len(DICE))]
    rows, second = [[dice, dice / 2] for dice in DICE], [dice**2 for dice in DICE]

    assert bootstrap_mean(DICE, owners=owners) == bootstrap_mean(DICE)
    assert bootstrap_mean_of_labels(rows, owners=owners) == bootstrap_mean_of_labels(rows)
    assert compare_paired(DICE, second, owners=owners) == compare_paired(DICE, second)


def test_the_same_image_twice_makes_nobody_surer():
    found = bootstrap_mean(TWICE, owners=PATIENTS, seed=4)

    assert found == bootstrap_mean(DICE, seed=4)
    naive = bootstrap_mean(TWICE, seed=4)
    assert naive.high - naive.low < 0.8 * (found.high - found.low)


def test_patients_are_drawn_with_all_of_their_cases_wherever_these_stand():
    turned = [*zip(TWICE, PATIENTS, strict=True)][::2] + [*zip(TWICE, PATIENTS, strict=True)][1::2]
    values, owners = zip(*turned, strict=True)

    assert bootstrap_mean(values, owners=owners) == bootstrap_mean(TWICE, owners=PATIENTS)


def test_the_interval_of_many_patients_is_that_of_the_textbook():
    rng = np.random.default_rng(0)
    of_patients = rng.normal(0.8, 0.1, 400)
    values = (of_patients[:, None] + rng.normal(0.0, 0.02, (400, 3))).ravel()

    found = bootstrap_mean(values.tolist(), owners=[str(place // 3) for place in range(1200)])

    half = 1.96 * values.reshape(400, 3).mean(axis=1).std(ddof=1) / math.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.0015)
    assert found.high == pytest.approx(values.mean() + half, abs=0.0015)


def test_a_patient_with_more_cases_weighs_more_in_the_mean():
    found = bootstrap_mean([0.5, 0.9, 0.9, 0.9, math.nan], owners=["a", "b", "b", "b", "c"])

    assert found.mean == pytest.approx(0.8)
    assert (found.low, found.high) == pytest.approx((0.5, 0.9))


def test_one_patient_alone_shows_no_spread():
    assert bootstrap_mean([0.5, 0.7], owners=["a", "a"]) == Interval(0.6, 0.6, 0.6)
    assert bootstrap_mean_of_labels([[0.5], [0.7]], owners=["a", "a"]) == Interval(0.6, 0.6, 0.6)


def test_labels_have_the_interval_of_their_patients():
    found = bootstrap_mean_of_labels([[dice] for dice in TWICE], owners=PATIENTS, seed=3)

    expected = bootstrap_mean(TWICE, owners=PATIENTS, seed=3)
    assert (found.mean, found.low, found.high) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )


@given(
    st.lists(
        st.tuples(st.sampled_from([math.nan, 0.0, 0.25, 0.5, 1.0]), st.sampled_from("abc")),
        max_size=7,
    )
)
@settings(max_examples=40, deadline=None)
def test_the_mean_of_cases_lies_in_the_interval_of_their_patients(cases):
    values, owners = [value for value, _ in cases], [owner for _, owner in cases]

    found = bootstrap_mean(values, owners=owners)

    if not all(map(math.isnan, values)):
        assert 0 <= found.low <= found.mean + 1e-9
        assert found.mean - 1e-9 <= found.high <= 1


def test_the_paired_test_takes_each_patient_once_with_the_mean_difference():
    first = [value + 0.01 + 0.001 * place for place, value in enumerate(TWICE)]

    found = compare_paired(first, TWICE, owners=PATIENTS)

    assert (found.cases, found.owners) == (16, 8)
    assert found.p_value == smallest_p(8)
    differences = [round(0.01 + 0.001 * place, 3) for place in range(16)]
    assert found.difference == bootstrap_mean(differences, owners=PATIENTS)


# --- two measurements of the same cases --------------------------------------------------------


def test_the_difference_is_the_first_minus_the_second_by_case():
    second = [value - 0.02 - place / 1000 for place, value in enumerate(DICE)]

    found = compare_paired(DICE, second)

    assert found.difference.mean == pytest.approx(0.0235)
    assert 0.02 <= found.difference.low < found.difference.mean < found.difference.high <= 0.027
    assert found.cases == 8


def test_the_p_value_is_that_of_scipy():
    second = [0.89, 0.86, 0.9, 0.7, 0.88, 0.84, 0.85, 0.88]
    expected = stats.wilcoxon(np.round(np.array(DICE) - second, 6)).pvalue

    assert compare_paired(DICE, second).p_value == pytest.approx(expected)


def test_the_p_value_counts_the_ways_to_put_signs_to_the_ranks():
    # Of the 1024 ways for ten ranks, 25 have a sum of at most 8, and as many on the other side.
    differences = [-8.0 if rank == 8 else float(rank) for rank in range(1, 11)]

    assert compare_paired(differences, [0.0] * 10).p_value == pytest.approx(2 * 25 / 1024)


def test_the_p_value_does_not_depend_on_who_is_first():
    second = [value * 0.97 for value in DICE]

    one, other = compare_paired(DICE, second), compare_paired(second, DICE)

    assert one.p_value == other.p_value
    assert one.difference.mean == -other.difference.mean


def test_cases_that_one_of_them_lacks_are_left_out():
    first, second = [math.nan, 0.9, 0.8, 0.7], [0.5, math.nan, 0.6, 0.4]

    found = compare_paired(first, second)

    assert found.cases == 2
    assert found.difference.mean == pytest.approx(0.25)


def test_equal_measurements_differ_by_chance_only():
    found = compare_paired(DICE, DICE)

    assert found.difference == Interval(0.0, 0.0, 0.0)
    assert found.p_value == 1.0
    assert found.cases == 8


def test_rounding_in_a_sum_is_no_difference():
    assert compare_paired([0.1 + 0.2] * 8, [0.3] * 8).p_value == 1.0


@pytest.mark.parametrize("first", [[], [math.nan]])
def test_without_any_pair_nothing_is_significant(first):
    found = compare_paired(first, first)

    assert math.isnan(found.difference.mean)
    assert found.p_value == 1.0
    assert found.cases == 0


def test_measurements_of_other_numbers_of_cases_are_not_compared():
    with pytest.raises(ValueError, match="1 and 2"):
        compare_paired([0.5], [0.5, 0.6])


# --- many comparisons --------------------------------------------------------------------------


def test_holm_corrects_as_in_the_textbook():
    found = holm([0.01, 0.04, 0.03, 0.005])

    assert found == pytest.approx((0.03, 0.06, 0.06, 0.02))


def test_holm_leaves_a_single_p_value_alone():
    assert holm([0.04]) == (0.04,)
    assert holm([]) == ()


@given(P_VALUES)
def test_holm_never_makes_a_p_value_smaller_nor_larger_than_one(p_values):
    corrected = holm(p_values)

    assert all(raw <= found <= 1 for raw, found in zip(p_values, corrected, strict=True))


@given(P_VALUES)
def test_holm_keeps_the_order_of_the_p_values(p_values):
    corrected = holm(p_values)

    in_order = [corrected[place] for place in np.argsort(p_values, kind="stable")]
    assert in_order == sorted(corrected)


@given(P_VALUES)
def test_holm_is_never_stricter_than_bonferroni(p_values):
    corrected = holm(p_values)

    strictest = [min(1.0, len(p_values) * raw) for raw in p_values]
    assert all(found <= most for found, most in zip(corrected, strictest, strict=True))


# --- what so few cases can show ----------------------------------------------------------------


@pytest.mark.parametrize("cases", range(1, 14))
def test_the_smallest_p_value_is_that_of_differences_of_one_sign(cases):
    differences = [float(rank) for rank in range(1, cases + 1)]

    assert compare_paired(differences, [0.0] * cases).p_value == pytest.approx(smallest_p(cases))


@pytest.mark.parametrize("cases", [1, 4, 8, 13])
def test_differences_of_one_size_reach_the_smallest_p_value_too(cases):
    found = compare_paired([0.5] * cases, [0.25] * cases)

    assert found.p_value == pytest.approx(smallest_p(cases))


def test_no_case_shows_nothing():
    assert smallest_p(0) == 1.0
