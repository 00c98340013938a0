"""Planning for time: the largest plan of which enough steps fit into the training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nnunet_medseg.budget.size import NNUNET_SIZE, PlanSize

__all__ = [
    "TOO_LARGE",
    "Candidate",
    "Choice",
    "choose_candidate",
    "measuring_limit_s",
    "steps_that_fit",
]

MIN_MEASURING_S = 30.0
MEASURING_SHARE = 0.05  # of the training time
STEPS_A_MEASUREMENT = 3  # the first, a cold start, and two that count
# Small networks use a machine less well than large ones, so that a forecast for a larger one from
# a smaller one is too long. A guess for neighbours on the ladder.
FORECAST_ERROR = 1.6
# Of the time, what remains for steps beside looks, checkpoints and start (budget.overhead), and
# beside the loading of data, which is not measured and shares the cores. On two of them: 0.78.
STEPPING_SHARE = 0.8
# What is said of a plan that is trained all the same (nnunet.probe.fit_to_memory, nnunet.rescue).
TOO_LARGE = "into the memory; in training the batch becomes smaller, then the patch"


@dataclass(frozen=True)
class Candidate:
    """A plan that could be trained.

    Attributes:
        size: Of its voxels, patch and network.
        flops: Floating-point operations of one forward pass of a batch.
        steps_needed: Below that number of steps a smaller plan trains better.
        name: For people: "spacing 1.25 x 1.25 x 1.25 mm, patch 48 x 80 x 96, half the width".
    """

    size: PlanSize
    flops: float
    steps_needed: int
    name: str


@dataclass(frozen=True)
class Choice:
    """The candidate that was chosen, and why.

    Attributes:
        candidate: The choice.
        step_s: Seconds a step takes, measured, or forecast where measuring would take too long.
        steps: How many fit into the training.
        reason: One sentence.
        measured: Seconds a step for each candidate that was measured, by name.
    """

    candidate: Candidate
    step_s: float
    steps: int
    reason: str
    measured: dict[str, float] = field(default_factory=dict)


def measuring_limit_s(asked_s: float) -> float:
    """Return how long measuring may take: the larger of 30 s and 5 % of the training.

    Examples:
        >>> measuring_limit_s(60.0), measuring_limit_s(3600.0)
        (30.0, 180.0)
    """
    return max(MIN_MEASURING_S, MEASURING_SHARE * asked_s)


class _Stopwatch:
    """Measures candidates within a limit, and forecasts those that it has not measured."""

    def __init__(self, measure: Callable[[Candidate], float], limit_s: float) -> None:
        self._measure = measure
        self._left_s = limit_s
        self.steps_s: dict[Candidate, float] = {}

    def take(self, candidate: Candidate) -> None:
        started = time.monotonic()
        step_s = self.steps_s[candidate] = self._measure(candidate)
        # Building a network, and steps that were repeated, take their time too.
        steps_s = STEPS_A_MEASUREMENT * step_s if math.isfinite(step_s) else 0.0
        self._left_s -= max(steps_s, time.monotonic() - started)

    def can_take(self, candidate: Candidate) -> bool:
        return STEPS_A_MEASUREMENT * self.forecast_s(candidate) <= self._left_s

    @property
    def has_any(self) -> bool:
        """Whether any measurement can be forecast from."""
        return any(math.isfinite(step_s) for step_s in self.steps_s.values())

    def forecast_s(self, candidate: Candidate) -> float:
        """Return seconds a step, as measured, or by the operations of the nearest measured one."""
        if candidate in self.steps_s:
            return self.steps_s[candidate]
        known = {other: step_s for other, step_s in self.steps_s.items() if math.isfinite(step_s)}
        if not known:
            return math.inf
        nearest = min(known, key=lambda other: abs(math.log(other.flops / candidate.flops)))
        return known[nearest] * candidate.flops / nearest.flops


def choose_candidate(
    candidates: Sequence[Candidate],
    asked_s: float,
    measure: Callable[[Candidate], float],
    limit_s: float,
) -> Choice:
    """Choose the first candidate of which enough steps fit into the training.

    The cheapest is measured first: it takes little time, and tells by the number of operations
    what the others will take. Then the first that may fit is measured, and the forecasts are made
    again: a small network uses a machine badly, and what is forecast from it is too long.

    Args:
        candidates: At least one, in order of preference: from large to small.
        asked_s: The training duration in seconds.
        measure: Returns the seconds a step of a candidate takes; infinity when it does not fit
            into the memory.
        limit_s: How long measuring may take: what is left of `measuring_limit_s`.
    """
    watch = _Stopwatch(measure, limit_s)
    cheapest = min(candidates, key=lambda candidate: candidate.flops)
    watch.take(cheapest)
    while (candidate := _next_to_measure(candidates, asked_s, watch)) is not None:
        watch.take(candidate)
    for candidate in candidates:
        if steps_that_fit(asked_s, watch.forecast_s(candidate)) >= candidate.steps_needed:
            return _explain(candidates, candidate, asked_s, watch)
    fitting = [each for each in watch.steps_s if math.isfinite(watch.steps_s[each])]
    last = min(fitting or [cheapest], key=lambda candidate: candidate.flops)
    return _explain(candidates, last, asked_s, watch)


def _next_to_measure(
    candidates: Sequence[Candidate], asked_s: float, watch: _Stopwatch
) -> Candidate | None:
    """Return the first that may fit and has not been measured; None when none is better."""
    if not watch.has_any:
        new = [candidate for candidate in candidates if candidate not in watch.steps_s]
        return min(new, key=lambda candidate: candidate.flops, default=None)
    for candidate in candidates:
        is_known = candidate in watch.steps_s
        at_best_s = watch.forecast_s(candidate) / (1.0 if is_known else FORECAST_ERROR)
        if steps_that_fit(asked_s, at_best_s) < candidate.steps_needed:
            continue
        if is_known:
            return None
        if watch.can_take(candidate):
            return candidate
    return None


def steps_that_fit(asked_s: float, step_s: float) -> int:
    """Return how many steps of `step_s` seconds fit into a training of `asked_s` seconds.

    Looks at held-out patches, checkpoints and the loading of data take their share of the time.

    Examples:
        >>> steps_that_fit(60.0, 0.5), steps_that_fit(60.0, math.inf)
        (96, 0)
    """
    return int(STEPPING_SHARE * asked_s / step_s) if step_s > 0 else 0


def _counted(steps: int) -> str:
    return f"{steps} step" if steps == 1 else f"{steps} steps"


def _is_cut(candidate: Candidate) -> bool:
    return candidate.size.patch_voxels is not None or candidate.size.voxel_factor > 1


def _explain(
    candidates: Sequence[Candidate], chosen: Candidate, asked_s: float, watch: _Stopwatch
) -> Choice:
    step_s = watch.forecast_s(chosen)
    steps = steps_that_fit(asked_s, step_s)
    reason = _reason(candidates, chosen, asked_s, watch)
    if math.isfinite(step_s) and steps < chosen.steps_needed:
        reason += f"; {chosen.steps_needed} would train it well: give it more minutes"
    measured = {candidate.name: step_s for candidate, step_s in watch.steps_s.items()}
    return Choice(chosen, step_s, steps, reason, measured)


def _reason(
    candidates: Sequence[Candidate], chosen: Candidate, asked_s: float, watch: _Stopwatch
) -> str:
    steps = steps_that_fit(asked_s, watch.forecast_s(chosen))
    minutes = f"{round(asked_s / 60, 2):g} min"
    whole = [each for each in candidates if not _is_cut(each)] or [chosen]
    # The first may be a larger network, and narrower ones follow where the patch is given.
    own = [each for each in whole if each.size.width == whole[0].size.width][-1]
    own_s = watch.forecast_s(own)
    name = "nnU-Net's own plan" if own.size == NNUNET_SIZE else "the whole plan"
    if not math.isfinite(watch.forecast_s(chosen)):
        return f"{name} does not fit {TOO_LARGE}" if chosen is own else f"no plan fits {TOO_LARGE}"
    if chosen is own:
        return f"{_counted(steps)} of {name} fit into {minutes}"
    if not math.isfinite(own_s):
        return f"{name} does not fit into the memory; {_counted(steps)} of this one fit"
    return (
        f"about {_counted(steps_that_fit(asked_s, own_s))} of {name} would fit into "
        f"{minutes}; {steps} of this one do"
    )
