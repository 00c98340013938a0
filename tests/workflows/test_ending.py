"""When a run is asked to end early, and when it stops at once."""

from __future__ import annotations

import math
import os
import signal
import time

import pytest

from nnunet_medseg.errors import Stopped
from nnunet_medseg.workflows.ending import CTRL_C, SIGTERM, Ending


@pytest.fixture(autouse=True)
def with_a_terminal():
    """Let a closed terminal be heard, also where `nohup` runs the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    # Python handles a signal between two instructions of the main thread.
    time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (signal.SIGINT, KeyboardInterrupt),
        (signal.SIGTERM, Stopped),
        (signal.SIGHUP, Stopped),
    ],
)
def test_before_the_training_every_request_stops_at_once(number, expected):
    ending = Ending()

    with pytest.raises(expected), ending.listening():
        send(number)

    assert not ending.is_asked()


def test_the_first_ctrl_c_in_training_is_a_wish_and_the_second_stops():
    ending = Ending()

    with ending.listening(), ending.training():
        send(signal.SIGINT)
        assert ending.cause == CTRL_C
        assert math.isinf(ending.left_s)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_wish_holds_for_the_stages_after_the_training():
    ending = Ending()

    with ending.listening():
        with ending.training():
            pass
        send(signal.SIGINT)

    assert ending.cause == CTRL_C


def test_sigterm_leaves_the_grace_and_no_more_than_the_deadline():
    now = [100.0]
    ending, near = (Ending(deadline_s, 25.0, lambda: now[0]) for deadline_s in (math.inf, 10.0))

    for each in (ending, near):
        with each.listening(), each.training():
            send(signal.SIGTERM)
        now[0] += 5

    assert ending.cause == near.cause == SIGTERM
    assert (ending.left_s, near.left_s) == (15.0, 0.0)


def test_when_the_grace_is_over_the_command_stops():
    ending = Ending(grace_s=0.05)

    def ignore_sigterm() -> None:
        with ending.listening(), ending.training():
            send(signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(Stopped) as stopped:
        ignore_sigterm()

    assert stopped.value.signal == signal.SIGTERM


def test_no_alarm_is_left_when_the_command_is_over_in_time():
    ending = Ending(grace_s=30)

    with ending.listening(), ending.training():
        send(signal.SIGTERM)

    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_closed_terminal_lets_the_training_write_its_checkpoint():
    ending = Ending()

    with ending.listening(), ending.training():
        send(signal.SIGHUP)
        assert ending.is_asked()

    with pytest.raises(Stopped):
        ending.stop_if_hung_up()


def test_nohup_keeps_a_command_going():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ending = Ending()
    try:
        with ending.listening(), ending.training():
            send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)

    assert not ending.is_asked()
