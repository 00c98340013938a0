"""The learning rate over the share of the time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_medseg.budget.schedule import SCHEDULES, learning_rate

SHARES = st.floats(0, 1)
WARM_UP_SHARE = 0.02


def linear(share: float, warm_up_share: float = WARM_UP_SHARE) -> float:
    return learning_rate(share, 0.05, warm_up_share, "linear")


def test_the_first_iteration_is_not_lost_to_a_rate_of_zero():
    rate = linear(0.0)

    assert rate == pytest.approx(0.0005)


def test_the_peak_is_reached_when_the_warm_up_ends():
    rate = linear(WARM_UP_SHARE)

    assert rate == pytest.approx(0.05)


def test_half_of_what_follows_the_warm_up_leaves_half_of_the_peak():
    rate = linear((1 + WARM_UP_SHARE) / 2)

    assert rate == pytest.approx(0.025)


def test_the_rate_is_zero_when_the_time_is_over():
    rate = linear(1.0)

    assert rate == 0


def test_a_schedule_without_warm_up_starts_at_the_peak():
    rate = linear(0.0, 0.0)

    assert rate == 0.05


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_falls_from_the_peak_to_zero(schedule):
    rates = [learning_rate(share / 100, 0.05, 0.02, schedule) for share in range(2, 101)]

    assert rates[0] == pytest.approx(0.05)
    assert rates[-1] == 0
    assert rates == sorted(rates, reverse=True)


@given(SHARES)
def test_the_rate_stays_between_zero_and_the_peak(share):
    rate = linear(share)

    assert 0 <= rate <= 0.05


@given(SHARES, SHARES)
def test_the_rate_rises_in_the_warm_up_and_falls_afterwards(one, other):
    early, late = sorted((one, other))

    first, second = linear(early), linear(late)

    if late <= WARM_UP_SHARE:
        assert first <= second + 1e-12
    if early >= WARM_UP_SHARE:
        assert first >= second
