"""The errors a user can put right."""

from __future__ import annotations

import pickle

import pytest

from nnunet_medseg import errors
from nnunet_medseg.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, UserError

KINDS = UserError.__subclasses__()


def test_every_class_has_an_exit_code_of_its_own():
    codes = [kind.exit_code for kind in KINDS]

    assert sorted(codes) == list(range(2, 10))
    assert not {EXIT_INTERNAL, EXIT_INTERRUPTED} & set(codes)


def test_the_tree_at_the_top_of_the_module_is_the_real_one():
    for kind in KINDS:
        line = next(line for line in str(errors.__doc__).splitlines() if kind.__name__ in line)

        assert f" {kind.exit_code} " in line


@pytest.mark.parametrize("kind", [UserError, *KINDS])
def test_an_error_crosses_process_borders_whole(kind):
    error = kind("The disk is full.", fix="Make room.")

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is kind
    assert (copy.problem, copy.fix) == ("The disk is full.", "Make room.")


def test_an_error_reads_as_problem_and_fix():
    error = UserError("The disk is full.", fix="Make room.")

    assert str(error) == "The disk is full. Make room."
