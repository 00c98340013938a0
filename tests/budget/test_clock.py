"""The training clock, turned by hand."""

from __future__ import annotations

import pytest

from nnunet_medseg.budget.clock import TrainingClock


class HandTurned:
    """A monotonic clock that stands still until it is turned."""

    def __init__(self, time_s: float = 1000.0) -> None:
        self.time_s = time_s

    def __call__(self) -> float:
        return self.time_s


def test_nothing_is_used_before_the_start():
    hand = HandTurned()
    clock = TrainingClock(600.0, now=hand)

    hand.time_s += 100

    assert clock.used_s == 0
    assert clock.left_s == 600
    assert clock.share == 0


def test_running_time_is_counted_from_the_start():
    hand = HandTurned()
    clock = TrainingClock(600.0, now=hand)

    clock.start()
    hand.time_s += 150

    assert clock.used_s == 150
    assert clock.left_s == 450
    assert clock.share == 0.25


def test_time_used_before_an_interruption_stays_used():
    hand = HandTurned()
    clock = TrainingClock(600.0, used_before_s=300.0, now=hand)

    clock.start()
    hand.time_s += 60

    assert clock.used_s == 360


def test_a_second_start_starts_over_with_the_time_of_the_checkpoint():
    hand = HandTurned()
    clock = TrainingClock(600.0, now=hand)

    clock.start()
    hand.time_s += 20
    clock.start(used_before_s=200.0)
    hand.time_s += 1

    assert clock.used_s == 201


def test_the_share_ends_at_one_and_what_is_left_goes_below_zero():
    hand = HandTurned()
    clock = TrainingClock(60.0, now=hand)

    clock.start()
    hand.time_s += 61

    assert clock.share == 1
    assert clock.left_s == pytest.approx(-1)


def test_without_another_duration_an_interruption_changes_no_share():
    hand = HandTurned()
    clock = TrainingClock(600.0, now=hand)

    clock.start(used_before_s=150.0, share_before=0.25)
    hand.time_s += 150

    assert clock.share == pytest.approx(0.5)


@pytest.mark.parametrize("asked_s", [300.0, 450.0, 6000.0])
def test_with_another_duration_the_schedule_goes_on_where_it_was(asked_s):
    hand = HandTurned()
    clock = TrainingClock(asked_s, now=hand)

    clock.start(used_before_s=200.0, share_before=0.6)
    at_start = clock.share
    hand.time_s += (asked_s - 200) / 2

    assert at_start == pytest.approx(0.6)
    assert clock.share == pytest.approx(0.8)
    hand.time_s += (asked_s - 200) / 2
    assert clock.share == pytest.approx(1.0)


def test_a_duration_that_is_used_up_already_is_the_end_of_the_schedule():
    clock = TrainingClock(100.0, now=HandTurned())

    clock.start(used_before_s=150.0, share_before=0.3)

    assert clock.share == 1
