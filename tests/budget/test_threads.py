"""How many threads train: what was measured to be the fastest."""

from __future__ import annotations

import pytest

from nnunet_medseg.budget.threads import MIN_CORES, choose_threads


def choose(cores, seconds):
    """Choose, and return what was measured as well."""
    asked = []

    def measure(threads):
        asked.append(threads)
        return seconds[threads]

    return choose_threads(cores, measure), asked


@pytest.mark.parametrize("cores", range(1, MIN_CORES))
def test_few_cores_are_all_used_and_nothing_is_measured(cores):
    assert choose(cores, {}) == (None, [])


def test_all_cores_are_used_where_half_of_them_is_slower():
    assert choose(8, {8: 1.0, 4: 1.5}) == (None, [8, 4])


def test_threads_are_halved_as_long_as_that_is_faster():
    assert choose(24, {24: 1.0, 12: 0.8, 6: 0.7, 3: 0.9}) == (
        (6, 0.7),
        [24, 12, 6, 3],
    )


def test_one_thread_is_the_end():
    assert choose(4, {4: 1.0, 2: 0.9, 1: 0.8}) == ((1, 0.8), [4, 2, 1])


def test_equally_fast_is_no_reason_for_fewer():
    assert choose(4, {4: 1.0, 2: 1.0}) == (None, [4, 2])
