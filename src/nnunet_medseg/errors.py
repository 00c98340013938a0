"""The errors a user can put right, each with an exit code of its own class.

UserError                   the user can put it right: one paragraph, no traceback
├── UsageError          2   an option is wrong
├── DatasetError        3   the dataset or an image has problems
├── FolderError         4   a folder or disk is missing, read-only, full or occupied
├── BudgetError         5   the time is too short for this dataset on this machine
├── ResumeError         6   an unfinished run stands in the way, or another run is active
├── ModelError          7   a model cannot be read, or does not fit the images
├── VerificationError   8   the finished model did not pass its check; nothing was deleted
└── TrainingError       9   training cannot go on: it diverged, or the memory does not suffice
    └── DivergedError   9   … it diverged, and would again

Ctrl-C is 130, a request of the system to end 128 plus the number of its signal (SIGTERM 143, SIGHUP
129), also when the model so far was delivered; anything else is our fault and is 70.
"""

from __future__ import annotations

__all__ = [
    "EXIT_INTERNAL",
    "EXIT_INTERRUPTED",
    "BudgetError",
    "DatasetError",
    "DivergedError",
    "FolderError",
    "ModelError",
    "ResumeError",
    "Stopped",
    "TrainingError",
    "UsageError",
    "UserError",
    "VerificationError",
]

EXIT_INTERNAL = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class UserError(Exception):
    """Something the user can put right.

    Attributes:
        problem: What was found, and where.
        fix: What to do about it.
        exit_code: Exit status of the command, 2 to 9.
    """

    exit_code = 2

    def __init__(self, problem: str, *, fix: str) -> None:
        super().__init__(problem, fix)
        self.problem = problem
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders; the default would lose the keyword argument.
        return (_rebuild, (type(self), self.problem, self.fix))

    def __str__(self) -> str:
        return f"{self.problem} {self.fix}"


class UsageError(UserError):
    """An option is wrong."""

    exit_code = 2


class DatasetError(UserError):
    """The dataset has problems."""

    exit_code = 3


class FolderError(UserError):
    """A folder or disk is missing, read-only, full or occupied."""

    exit_code = 4


class BudgetError(UserError):
    """The time is too short for this dataset on this machine."""

    exit_code = 5


class ResumeError(UserError):
    """An unfinished run stands in the way, or another run is active."""

    exit_code = 6


class ModelError(UserError):
    """A model cannot be read, or does not fit the images."""

    exit_code = 7


class VerificationError(UserError):
    """The finished model did not pass its check."""

    exit_code = 8


class TrainingError(UserError):
    """Training cannot go on."""

    exit_code = 9


class DivergedError(TrainingError):
    """The loss exploded again and again, which the same training would do another time."""


class Stopped(KeyboardInterrupt):
    """The system, a scheduler or a closed terminal ends the command.

    Attributes:
        signal: The number of the signal.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


def _rebuild(kind: type[UserError], problem: str, fix: str) -> UserError:
    return kind(problem, fix=fix)
