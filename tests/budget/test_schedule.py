"""The learning rate over the share of the time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_medseg.budget.schedule import WARM_UP_SHARE, learning_rate

SHARES = st.floats(0, 1)


def test_the_first_iteration_is_not_lost_to_a_rate_of_zero():
    rate = learning_rate(0.0, peak=0.05)

    assert rate == pytest.approx(0.0005)


def test_the_peak_is_reached_when_the_warm_up_ends():
    rate = learning_rate(WARM_UP_SHARE, peak=0.05)

    assert rate == pytest.approx(0.05)


def test_half_of_what_follows_the_warm_up_leaves_half_of_the_peak():
    rate = learning_rate((1 + WARM_UP_SHARE) / 2, peak=0.05)

    assert rate == pytest.approx(0.025)


def test_the_rate_is_zero_when_the_time_is_over():
    rate = learning_rate(1.0, peak=0.05)

    assert rate == 0


def test_a_schedule_without_warm_up_starts_at_the_peak():
    rate = learning_rate(0.0, peak=0.05, warm_up_share=0.0)

    assert rate == 0.05


@given(SHARES)
def test_the_rate_stays_between_zero_and_the_peak(share):
    rate = learning_rate(share, peak=0.05)

    assert 0 <= rate <= 0.05


@given(SHARES, SHARES)
def test_the_rate_rises_in_the_warm_up_and_falls_afterwards(one, other):
    early, late = sorted((one, other))

    first, second = learning_rate(early, peak=0.05), learning_rate(late, peak=0.05)

    if late <= WARM_UP_SHARE:
        assert first <= second + 1e-12
    if early >= WARM_UP_SHARE:
        assert first >= second
