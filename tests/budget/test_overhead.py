"""The allowance for what is not training."""

from __future__ import annotations

from nnunet_medseg.budget.overhead import Allowance


def test_a_job_that_never_ran_is_judged_by_a_guess():
    allowance = Allowance(0.05)

    assert not allowance.permits(used_s=10, guess_s=1)
    assert allowance.permits(used_s=20, guess_s=1)


def test_a_job_that_ran_is_judged_by_what_it_cost():
    allowance = Allowance(0.05)

    allowance.spend(4)

    assert not allowance.permits(used_s=100, guess_s=0)
    assert allowance.permits(used_s=160, guess_s=0)


def test_what_was_spent_before_an_interruption_counts():
    allowance = Allowance(0.05, spent_s=5)

    assert not allowance.permits(used_s=100, guess_s=1)
    assert allowance.spent_s == 5


def test_the_share_is_never_exceeded_by_a_job_of_constant_cost():
    allowance = Allowance(0.03)

    for used_s in range(1, 1000):
        if allowance.permits(used_s, guess_s=2):
            allowance.spend(2)

        assert allowance.spent_s <= 0.03 * used_s
    assert allowance.spent_s > 0.03 * 1000 - 4
