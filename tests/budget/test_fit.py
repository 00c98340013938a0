"""The choice of a plan, on machines that are tables of seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_medseg.budget.fit import (
    FORECAST_ERROR,
    STEPPING_SHARE,
    STEPS_A_MEASUREMENT,
    Candidate,
    Choice,
    choose_candidate,
    measuring_limit_s,
)
from nnunet_medseg.budget.size import NNUNET_SIZE, PlanSize

ASKED_S = 1500.0  # measuring may take 75 s
STEPS_OF_A_SECOND = 1200  # 80 % of the time


@dataclass
class Machine:
    """A machine that trains.

    Attributes:
        steps_s: Seconds a step takes, by the name of the candidate.
        measured: Names, in the order in which they were measured.
    """

    steps_s: Mapping[str, float]
    measured: list[str] = field(default_factory=list)

    def measure(self, candidate: Candidate) -> float:
        self.measured.append(candidate.name)
        return self.steps_s[candidate.name]

    def choose(self, candidates: Sequence[Candidate], asked_s: float = ASKED_S) -> Choice:
        return choose_candidate(candidates, asked_s, self.measure, measuring_limit_s(asked_s))

    @property
    def spent_s(self) -> float:
        """Seconds that went into measuring; what does not fit the memory fails at once."""
        seconds = [self.steps_s[name] for name in self.measured]
        return STEPS_A_MEASUREMENT * sum(step_s for step_s in seconds if step_s < math.inf)


def make_candidate(
    name: str, flops: float, steps_needed: int = 1000, size: PlanSize = NNUNET_SIZE
) -> Candidate:
    return Candidate(size, flops, steps_needed, name)


OWN = make_candidate("own", 10.0)
HALF = make_candidate("half", 5.0, size=PlanSize(patch_voxels=50_000))
TINY = make_candidate("tiny", 1.0, size=PlanSize(width=0.5, patch_voxels=50_000))
LADDER = [OWN, HALF, TINY]


# --- the choice --------------------------------------------------------------------------------


def test_the_own_plan_is_chosen_when_enough_steps_of_it_fit():
    machine = Machine({"own": 1.0, "half": 0.5, "tiny": 0.1})

    choice = machine.choose(LADDER)

    assert choice.candidate is OWN
    assert choice.steps == STEPS_OF_A_SECOND
    assert choice.measured == {"tiny": 0.1, "own": 1.0}


def test_the_first_smaller_plan_that_fits_is_chosen():
    machine = Machine({"own": 2.0, "half": 1.0, "tiny": 0.2})

    choice = machine.choose(LADDER)

    assert choice.candidate is HALF
    assert choice.step_s == 1.0
    assert choice.steps == STEPS_OF_A_SECOND


def test_the_cheapest_is_chosen_when_no_plan_fits():
    machine = Machine({"own": 20.0, "half": 10.0, "tiny": 2.0})

    choice = machine.choose(LADDER)

    assert choice.candidate is TINY
    assert choice.steps == STEPS_OF_A_SECOND // 2


def test_the_cheapest_is_chosen_by_operations_wherever_it_stands():
    machine = Machine({"own": 20.0, "half": 10.0, "tiny": 2.0})

    choice = machine.choose([OWN, TINY, HALF])

    assert choice.candidate is TINY


def test_the_only_plan_is_chosen_however_slow_it_is():
    machine = Machine({"own": 5000.0})

    choice = machine.choose([make_candidate("own", 10.0, steps_needed=0)])

    assert (choice.candidate.name, choice.steps) == ("own", 0)
    assert machine.measured == ["own"]


def test_each_plan_has_a_need_of_its_own():
    modest = make_candidate("modest", 5.0, steps_needed=500)
    machine = Machine({"own": 2.0, "modest": 2.0, "tiny": 0.2})

    choice = machine.choose([OWN, modest, TINY])

    assert choice.candidate is modest


# --- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("too_large", [{"own"}, {"own", "half"}], ids=["one", "two"])
def test_a_plan_that_does_not_fit_the_memory_gives_way_to_the_next(too_large):
    seconds = {"own": 1.0, "half": 0.5, "tiny": 0.1}
    machine = Machine(seconds | dict.fromkeys(too_large, math.inf))

    choice = machine.choose(LADDER)

    assert choice.candidate is next(plan for plan in LADDER if plan.name not in too_large)


def test_the_cheapest_is_what_remains_when_the_memory_holds_none():
    machine = Machine(dict.fromkeys(("own", "half", "tiny"), math.inf))

    choice = machine.choose(LADDER)

    assert choice.candidate is TINY
    assert (choice.step_s, choice.steps) == (math.inf, 0)


def test_the_cheapest_gives_way_when_another_plan_fits_the_memory():
    # Fewest operations do not mean least memory: a narrow network on a large patch has both.
    machine = Machine({"own": 1.0, "half": 0.5, "tiny": math.inf})

    choice = machine.choose(LADDER)

    assert choice.candidate is OWN


@pytest.mark.parametrize("half_s", [10.0, math.inf])
def test_a_plan_with_too_few_steps_goes_before_one_that_does_not_fit_the_memory(half_s):
    machine = Machine({"own": 20.0, "half": half_s, "tiny": math.inf})

    choice = machine.choose(LADDER)

    assert choice.step_s < math.inf


# --- measuring and forecasts -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked_s", "expected_s"), [(60.0, 30.0), (600.0, 30.0), (1200.0, 60.0), (86400.0, 4320.0)]
)
def test_measuring_may_take_half_a_minute_or_a_twentieth_of_the_training(asked_s, expected_s):
    assert measuring_limit_s(asked_s) == pytest.approx(expected_s)


def test_a_pessimistic_forecast_does_not_rule_a_plan_out():
    # By operations a step would take 1.5 s, of which too few fit.
    machine = Machine({"own": 1.0, "tiny": 0.15})

    choice = machine.choose([OWN, TINY])

    assert choice.candidate is OWN
    assert choice.step_s == 1.0


def test_a_plan_that_cannot_fit_by_any_forecast_is_not_measured():
    hopeless_s = 1.1 * FORECAST_ERROR * STEPS_OF_A_SECOND / OWN.steps_needed
    machine = Machine({"own": hopeless_s, "tiny": hopeless_s / 10})

    choice = machine.choose([OWN, TINY])

    assert choice.candidate is TINY
    assert machine.measured == ["tiny"]


def test_a_forecast_decides_where_measuring_would_take_too_long():
    huge = make_candidate("huge", 25.0, steps_needed=40)
    machine = Machine({"huge": 25.0, "tiny": 1.0})

    choice = machine.choose([huge, TINY])

    assert choice.candidate is huge
    assert choice.step_s == 25.0
    assert choice.measured == {"tiny": 1.0}


def test_what_has_been_measured_leaves_less_time_for_others():
    own, half = make_candidate("own", 8.0, 100), make_candidate("half", 4.0, 140)
    # Of 75 s the tiny plan takes 6, the own one 51; half would take 25.
    machine = Machine({"own": 17.0, "tiny": 2.0})

    choice = machine.choose([own, half, TINY])

    assert machine.measured == ["tiny", "own"]
    assert (choice.candidate, choice.step_s) == (half, 8.5)


def test_a_forecast_follows_the_nearest_plan_that_was_measured():
    # By the tiny plan alone a step of the huge one would take 40 s, of which too few fit.
    half, huge = make_candidate("half", 5.0, 300), make_candidate("huge", 40.0, 32)
    machine = Machine({"half": 4.2, "tiny": 1.0})

    choice = machine.choose([half, huge, TINY])

    assert machine.measured == ["tiny", "half"]
    assert (choice.candidate, choice.step_s) == (huge, pytest.approx(33.6))


# --- the reason --------------------------------------------------------------------------------


def test_the_reason_for_the_own_plan_names_steps_and_minutes():
    machine = Machine({"own": 1.0, "half": 0.5, "tiny": 0.1})

    choice = machine.choose(LADDER)

    assert choice.reason == "1200 steps of nnU-Net's own plan fit into 25 min"


def test_the_reason_for_a_smaller_plan_names_the_steps_of_both():
    machine = Machine({"own": 4.0, "half": 1.0, "tiny": 0.2})

    choice = machine.choose(LADDER)

    # Half is measured after the own plan was forecast, and tells more about it: 2 s a step.
    assert choice.reason == (
        "about 600 steps of nnU-Net's own plan would fit into 25 min; 1200 of this one do"
    )


def test_the_reason_names_the_memory_when_the_own_plan_does_not_fit_it():
    machine = Machine({"own": math.inf, "half": 1.0, "tiny": 0.1})

    choice = machine.choose(LADDER)

    assert choice.reason == (
        "nnU-Net's own plan does not fit into the memory; 1200 steps of this one fit"
    )


def test_the_reason_names_the_memory_when_the_only_plan_does_not_fit_it():
    machine = Machine({"own": math.inf})

    choice = machine.choose([OWN])

    assert choice.reason == (
        "nnU-Net's own plan does not fit into the memory; in training the batch becomes smaller, "
        "then the patch"
    )


def test_the_reason_names_the_memory_when_no_plan_fits_it():
    machine = Machine({"own": math.inf, "half": math.inf, "tiny": math.inf})

    choice = machine.choose(LADDER)

    assert choice.candidate is TINY
    assert choice.reason == (
        "no plan fits into the memory; in training the batch becomes smaller, then the patch"
    )


@pytest.mark.parametrize(("steps_s", "chosen"), [(1.0, "whole"), (4.0, "narrow")])
def test_with_a_patch_that_is_asked_for_the_reason_is_about_the_widest_network(steps_s, chosen):
    # The patch does not shrink, so that only the width follows from the minutes.
    whole = make_candidate("whole", 10.0)
    narrow = make_candidate("narrow", 3.0, size=PlanSize(width=0.5))
    machine = Machine({"whole": steps_s, "narrow": 0.3 * steps_s})

    choice = machine.choose([whole, narrow])

    assert choice.candidate.name == chosen
    assert (
        choice.reason
        == {
            "whole": "1200 steps of nnU-Net's own plan fit into 25 min",
            "narrow": (
                "about 300 steps of nnU-Net's own plan would fit into 25 min; 1000 of this one do"
            ),
        }[chosen]
    )


def test_the_reason_says_whole_plan_where_another_network_is_asked_for():
    whole = make_candidate("whole", 12.0, size=PlanSize(width=0.5))
    cut = make_candidate("cut", 3.0, size=PlanSize(width=0.5, patch_voxels=50_000))
    machine = Machine({"whole": 4.0, "cut": 1.0})

    choice = machine.choose([whole, cut])

    assert choice.reason == (
        "about 300 steps of the whole plan would fit into 25 min; 1200 of this one do"
    )


def test_the_reason_says_how_many_steps_would_train_a_plan_well():
    machine = Machine({"own": 20.0, "half": 10.0, "tiny": 2.0})

    choice = machine.choose(LADDER)

    assert "; 600 of this one do; 1000 would train it well" in choice.reason


# --- on any machine ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Candidates from large to small, and what a step of each takes."""

    candidates: list[Candidate]
    steps_s: dict[str, float]
    asked_s: float


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw plans whose time goes with their operations, as well as a forecast assumes."""
    sizes = sorted(draw(st.lists(st.integers(1, 1000), min_size=1, max_size=8)), reverse=True)
    second = draw(st.integers(-40, 20).map(lambda tenth: 10 ** (tenth / 10)))
    # The cheapest always fits: what if it does not is another test.
    holds = draw(st.integers(sizes[-1], 2000))
    candidates, steps_s = [], {}
    for number, flops in enumerate(sizes):
        name = f"plan {number}"
        candidates.append(make_candidate(name, float(flops), draw(st.integers(1, 2000))))
        speed = draw(st.floats(1.0, FORECAST_ERROR))
        steps_s[name] = second * flops / speed if flops <= holds else math.inf
    return Case(candidates, steps_s, draw(st.sampled_from([60.0, 600.0, 3600.0, 86400.0])))


@settings(max_examples=200)
@given(cases())
def test_no_plan_is_measured_twice(case):
    machine = Machine(case.steps_s)

    choice = machine.choose(case.candidates, case.asked_s)

    assert len(machine.measured) == len(set(machine.measured))
    assert choice.measured == {name: case.steps_s[name] for name in machine.measured}


@settings(max_examples=200)
@given(cases())
def test_measuring_keeps_its_limit_as_well_as_forecasts_hold(case):
    machine = Machine(case.steps_s)

    machine.choose(case.candidates, case.asked_s)

    # The first is measured in any case: without it there is no forecast.
    first_s = STEPS_A_MEASUREMENT * case.steps_s[machine.measured[0]]
    limit_s = FORECAST_ERROR * measuring_limit_s(case.asked_s)
    assert machine.spent_s <= max(first_s, limit_s) * (1 + 1e-9)


@settings(max_examples=200)
@given(cases())
def test_a_chosen_plan_has_enough_steps_or_is_the_cheapest(case):
    machine = Machine(case.steps_s)

    choice = machine.choose(case.candidates, case.asked_s)

    fewest = min(candidate.flops for candidate in case.candidates)
    assert choice.steps == int(STEPPING_SHARE * case.asked_s / choice.step_s)
    assert choice.steps >= choice.candidate.steps_needed or choice.candidate.flops == fewest


@settings(max_examples=200)
@given(cases())
def test_no_plan_that_was_measured_and_fits_is_passed_over(case):
    machine = Machine(case.steps_s)

    choice = machine.choose(case.candidates, case.asked_s)

    before = case.candidates[: case.candidates.index(choice.candidate)]
    for candidate in before:
        step_s = choice.measured.get(candidate.name, math.inf)
        assert int(STEPPING_SHARE * case.asked_s / step_s) < candidate.steps_needed
    assert choice.measured.get(choice.candidate.name, 0.0) < math.inf
