"""The length of epochs, on simulated machines of every speed and mood."""

from __future__ import annotations

import bisect
import math
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

from nnunet_medseg.budget.clock import TrainingClock
from nnunet_medseg.budget.epochs import (
    MAX_EPOCHS,
    MIN_ITERATIONS,
    PROBE_ITERATIONS,
    is_overdue,
    iterations_of_next_epoch,
    nominal_epoch_s,
    tolerance_s,
)
from nnunet_medseg.budget.schedule import learning_rate
from nnunet_medseg.errors import BudgetError

EXACT_ITERATIONS = 64  # longer epochs take the mean of their noise


@dataclass(frozen=True)
class Machine:
    """A machine that trains.

    Attributes:
        iteration_s: Seconds of an iteration while nothing else runs.
        noise: Largest deviation of an iteration, as a share.
        start_s: Start-up of workers, counted by the clock.
        loads: (share of the asked time, factor) from which on iterations take so much longer.
        overhead: Checkpoints and validation after an epoch, as a share of it.
        seed: Of the noise.
    """

    iteration_s: float
    noise: float = 0.0
    start_s: float = 0.0
    loads: tuple[tuple[float, float], ...] = ()
    overhead: float = 0.0
    seed: int = 0


@dataclass
class Training:
    """What a simulated training has shown."""

    asked_s: float
    time_s: float = 0.0
    longest_iteration_s: float = 0.0
    epochs_s: list[float] = field(default_factory=list)
    rates: list[tuple[float, float]] = field(default_factory=list)
    iterations: int = 0

    @property
    def tolerance_s(self) -> float:
        return tolerance_s(self.asked_s, self.longest_iteration_s)


def run_iterations(
    machine: Machine, training: Training, count: int, rng: random.Random
) -> tuple[int, float]:
    """Let the time of `count` iterations pass; return how many were done, and the longest."""
    longest_s, left = 0.0, count
    starts = [share * training.asked_s for share, _ in machine.loads]
    while left > 0:
        place = bisect.bisect_right(starts, training.time_s)
        factor = machine.loads[place - 1][1] if place else 1.0
        end_s = starts[place] if place < len(starts) else math.inf
        step_s = machine.iteration_s * factor
        if count <= EXACT_ITERATIONS:
            step_s *= 1 + machine.noise * rng.uniform(-1, 1)
            steps = 1
        else:
            steps = min(left, max(1, math.ceil(min(left, (end_s - training.time_s) / step_s))))
        training.time_s += steps * step_s
        longest_s = max(longest_s, step_s)
        left -= steps
        if is_overdue(training.asked_s - training.time_s, step_s, training.asked_s):
            break
    return count - left, longest_s


def train(machine: Machine, asked_s: float) -> Training:
    """Do what BudgetedTrainer.run_training does, with a clock that the machine turns."""
    rng = random.Random(machine.seed)
    training = Training(asked_s)
    clock = TrainingClock(asked_s, now=lambda: training.time_s)
    clock.start()
    training.time_s += machine.start_s
    iteration_s = math.nan
    while len(training.epochs_s) < MAX_EPOCHS:
        is_probe = math.isnan(iteration_s)
        count = (
            PROBE_ITERATIONS
            if is_probe
            else iterations_of_next_epoch(clock.left_s, iteration_s, asked_s)
        )
        if count == 0:
            break
        began_s = training.time_s
        training.rates.append((clock.share, learning_rate(clock.share, 0.05, 0.02, "linear")))
        count, longest_s = run_iterations(machine, training, count, rng)
        epoch_s = training.time_s - began_s
        iteration_s = epoch_s / count
        training.iterations += count
        training.epochs_s.append(epoch_s)
        training.longest_iteration_s = longest_s
        if is_probe and count + clock.left_s / iteration_s < MIN_ITERATIONS:
            problem = "fewer than 20 iterations"
            raise BudgetError(problem, fix="")
        if clock.left_s > iteration_s:
            training.time_s += machine.overhead * epoch_s
    training.rates.append((clock.share, learning_rate(clock.share, 0.05, 0.02, "linear")))
    return training


def evenly(low: float, high: float) -> st.SearchStrategy[float]:
    """Draw numbers evenly over the orders of magnitude."""
    return st.integers(0, 1000).map(lambda step: low * (high / low) ** (step / 1000))


def train_if_possible(machine: Machine, asked_s: float) -> Training:
    """Train, or let hypothesis draw another machine."""
    try:
        return train(machine, asked_s)
    except BudgetError:
        reject()


SHARES = st.floats(0, 1, exclude_max=True)
FACTORS = st.floats(1, 2)
LOADS = st.lists(st.tuples(SHARES, FACTORS), max_size=8).map(lambda loads: tuple(sorted(loads)))
SLOWING = st.floats(0.9, 1.0, exclude_max=True).map(lambda share: ((share, 4.0),))
MACHINES = st.builds(
    Machine,
    iteration_s=evenly(0.001, 120.0),
    noise=st.floats(0, 0.2),
    start_s=st.floats(0, 20),
    loads=LOADS | SLOWING,
    overhead=st.floats(0, 0.05),
    seed=st.integers(0, 1000),
)
BUDGETS = evenly(30.0, 24 * 3600.0)


@settings(max_examples=400, deadline=None)
@given(MACHINES, BUDGETS)
@example(Machine(1.0, loads=((0.95, 4.0),)), 60.0)
@example(Machine(120.0, loads=((0.99, 4.0),)), 3600.0)
@example(Machine(0.001, noise=0.2, loads=((0.5, 2.0), (0.99, 1.0))), 86400.0)
def test_training_ends_when_the_time_does_on_any_machine(machine, asked_s):
    training = train_if_possible(machine, asked_s)

    assert abs(training.time_s - asked_s) <= training.tolerance_s
    assert len(training.epochs_s) < MAX_EPOCHS


@settings(max_examples=200, deadline=None)
@given(MACHINES, BUDGETS)
def test_the_rate_falls_after_the_warm_up_and_ends_near_zero(machine, asked_s):
    training = train_if_possible(machine, asked_s)

    falling = [rate for share, rate in training.rates if share >= 0.02]
    assert falling == sorted(falling, reverse=True)
    # Training stops early only when less than half an iteration is left.
    assert falling[-1] <= 0.05 * training.longest_iteration_s / asked_s + 1e-9


@settings(max_examples=100, deadline=None)
@given(MACHINES, BUDGETS)
@example(Machine(1.0), 86400.0)
def test_no_epoch_of_a_quiet_machine_is_longer_than_the_nominal_one(machine, asked_s):
    quiet = Machine(machine.iteration_s)

    training = train_if_possible(quiet, asked_s)

    longest_s = max(training.epochs_s[1:])
    assert longest_s <= max(nominal_epoch_s(asked_s), quiet.iteration_s) + quiet.iteration_s / 2


def test_the_longest_training_has_fewer_epochs_than_allowed():
    a_year_s = 365 * 24 * 3600.0

    training = train(Machine(0.51 * nominal_epoch_s(a_year_s)), a_year_s)

    assert len(training.epochs_s) < MAX_EPOCHS
    assert training.time_s == pytest.approx(a_year_s, rel=0.01)


def test_a_machine_that_slows_down_gets_shorter_epochs():
    quick = iterations_of_next_epoch(300.0, 0.5, 600.0)
    slow = iterations_of_next_epoch(300.0, 1.0, 600.0)

    assert (quick, slow) == (24, 12)


def test_an_iteration_longer_than_an_epoch_is_an_epoch():
    assert iterations_of_next_epoch(300.0, 100.0, 600.0) == 1


@pytest.mark.parametrize("left_s", [-5.0, 0.0, 0.2])
def test_no_epoch_starts_when_less_than_half_an_iteration_is_left(left_s):
    assert iterations_of_next_epoch(left_s, 0.5, 600.0) == 0


@pytest.mark.parametrize(
    ("asked_s", "iteration_s", "expected_s"),
    [(60.0, 0.5, 5.0), (3600.0, 0.5, 36.0), (3600.0, 100.0, 100.0)],
)
def test_the_tolerance_is_the_largest_of_three(asked_s, iteration_s, expected_s):
    assert tolerance_s(asked_s, iteration_s) == expected_s


@pytest.mark.parametrize("factor", [1.0, 4.0, 10.0, 100.0])
@pytest.mark.parametrize("slow_from_s", [10.0, 40.0, 55.0, 59.0])
def test_however_slow_a_machine_becomes_training_ends_within_the_tolerance(factor, slow_from_s):
    asked_s, time_s, iteration_s = 60.0, 1.0, 0.05

    while count := iterations_of_next_epoch(asked_s - time_s, iteration_s, asked_s):
        for _ in range(count):
            iteration_s = 0.05 * (factor if time_s >= slow_from_s else 1.0)
            time_s += iteration_s
            if is_overdue(asked_s - time_s, iteration_s, asked_s):
                break

    assert abs(time_s - asked_s) <= tolerance_s(asked_s, 0.05 * factor)
