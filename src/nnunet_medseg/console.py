r"""The only module that prints: lines, tables, progress bars and errors.

A terminal gets bars and colours; anything else (a file, a batch system) gets plain lines, at most
one every few seconds, so that a log stays readable.

Promises: names of files and labels reach the terminal as text: what would control it, break the
line or turn the direction of reading is shown as an escape, such as \x1b.
"""

from __future__ import annotations

import errno
import io
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column, Table
from rich.text import Text

__all__ = [
    "Progress",
    "attach",
    "can_show",
    "clear",
    "counted",
    "detail",
    "duration",
    "error",
    "heading",
    "progress",
    "raw",
    "stage_line",
    "table",
    "visible",
    "warn",
]

LINE_INTERVAL_S = 15.0  # between two progress lines where there is no terminal
QUIET_S = 2.0  # work that is over sooner shows no progress line
PLAIN_WIDTH = 140  # characters a line where there is no terminal to ask

_consoles: dict[str, Console] = {}


def attach(out: TextIO | None = None, err: TextIO | None = None) -> None:
    """Bind the output to streams, so that a later redirection of stdout does not touch it."""
    for name, stream in (("out", out or sys.stdout), ("err", err or sys.stderr)):
        width = None if stream.isatty() else PLAIN_WIDTH
        if isinstance(stream, io.TextIOWrapper):
            # A mark that the encoding lacks must not end a training.
            stream.reconfigure(errors="replace")
        _consoles[name] = _Console(file=stream, highlight=False, width=width, soft_wrap=True)


class _Console(Console):
    """A console that falls silent when nobody reads it any more.

    That is so after `| head`, and when its terminal was closed.
    """

    def on_broken_pipe(self) -> None:
        """Go on without words: rich would end the program, and with it a training."""
        self.quiet = True

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError as error:
            # A terminal that is gone is an error of input and output, not a broken pipe.
            if error.errno != errno.EIO:
                raise
            self.quiet = True


def _console(name: str = "out") -> Console:
    if name not in _consoles:
        attach()
    return _consoles[name]


def visible(text: str) -> str:
    r"""Return a text with every character that does not print as an escape.

    Examples:
        >>> print(visible("a\x1b[2J\nb"))
        a\x1b[2J\nb
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def heading(text: str) -> None:
    """Print a line that opens a part of the output."""
    _console().print(Text(visible(text), style="bold"))


def detail(text: str) -> None:
    """Print an indented line that belongs to the stage in progress."""
    _console().print(Text(f"  {visible(text)}"))


def warn(text: str) -> None:
    """Print a warning line."""
    _console().print(Text(f"  ! {visible(text)}", style="yellow"))


def error(problem: str, fix: str) -> None:
    """Print what was found and what to do about it, on the error stream."""
    console = _console("err")
    console.print(Text.assemble(("Error:", "bold red"), f" {visible(problem)}"))
    if fix:
        console.print(Text.assemble(("What to do:", "bold"), f" {visible(fix)}"))


def raw(text: str) -> None:
    """Print a text for programs, as it is."""
    _console().print(Text(text))


def clear() -> None:
    """Empty the screen of a terminal, for what is shown again; a log is left as it is."""
    console = _console()
    if console.is_terminal:
        console.clear()


def can_show(text: str) -> bool:
    """Tell whether the output has signs for a text."""
    encoding = getattr(_console().file, "encoding", None) or "ascii"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def stage_line(name: str, seconds: float, expected_s: float | None) -> None:
    """Print the line of a finished stage with the time it took and the time it was given."""
    expected = "" if expected_s is None else f"   (expected about {duration(expected_s)})"
    line = f" {visible(name):<11}{duration(seconds):>9}{expected}"
    _console().print(Text.assemble(("✓", "green"), line))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; cells are plain text."""
    if title:
        detail(title)
    grid = Table(box=None, pad_edge=False)
    for column in columns:
        grid.add_column(Text(visible(column)), overflow="fold")
    for row in rows:
        grid.add_row(*(Text(visible(cell)) for cell in row))
    _console().print(grid, soft_wrap=False)


def counted(number: int, what: str) -> str:
    """Return a number of things, with the plural of their name as most names have it.

    Examples:
        >>> counted(1, "case"), counted(12, "case")
        ('1 case', '12 cases')
    """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def duration(seconds: float) -> str:
    """Return a duration as people say it.

    Examples:
        >>> duration(4.25), duration(75), duration(3720)
        ('4.2 s', '1 min 15 s', '1 h 02 min')
    """
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


class Progress:
    """A bar on a terminal, a line now and then elsewhere.

    Args:
        description: Verb and object, as in "Reading images".
        total: What `update` counts towards, in units.
        unit: Plural noun of what is counted; None where the total is seconds.
    """

    def __init__(self, description: str, total: float, unit: str | None) -> None:
        self._description = description
        self._total = total
        self._unit = unit
        self._started = self._last_line = time.monotonic()
        self._bar: RichProgress | None = None
        if _console().is_terminal:
            self._bar = _make_bar(unit)
            self._task = self._bar.add_task(visible(description), total=total, note="")
            self._bar.start()

    def update(self, completed: float, note: str = "") -> None:
        """Show that so much is done, with a note such as the loss."""
        if self._bar is not None:
            self._bar.update(self._task, completed=completed, note=visible(note))
            return
        now = time.monotonic()
        if now - self._last_line >= LINE_INTERVAL_S:
            self._last_line = now
            self._line(completed, note, now - self._started)

    def _line(self, completed: float, note: str, elapsed_s: float) -> None:
        if self._unit is None:
            state = f"{duration(completed)} of {duration(self._total)}"
        else:
            state = f"{completed:.0f} of {self._total:.0f} {self._unit}"
            if completed > 0 and elapsed_s > QUIET_S:
                left_s = elapsed_s * (self._total - completed) / completed
                state += f", {duration(left_s)} left"
        detail(f"{self._description}: {state}{', ' if note else ''}{note}")

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()


class _LeftColumn(ProgressColumn):
    """Time left: the rest of the budget where seconds are counted, else an estimate."""

    def __init__(self, *, is_budget: bool) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._is_budget = is_budget

    def render(self, task: Task) -> Text:
        """Return the cell of the bar."""
        left_s = task.remaining if self._is_budget else task.time_remaining
        return Text("" if left_s is None else f"{duration(left_s)} left")


def _make_bar(unit: str | None) -> RichProgress:
    count = "{task.completed:.0f}/{task.total:.0f} " + (unit or "s")
    one_line = Column(no_wrap=True)
    return RichProgress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False, table_column=one_line),
        BarColumn(bar_width=16),
        TextColumn(count, table_column=one_line),
        _LeftColumn(is_budget=unit is None),
        TextColumn("{task.fields[note]}", markup=False, table_column=one_line),
        console=_console(),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


@contextmanager
def progress(description: str, total: float, unit: str | None) -> Iterator[Progress]:
    """Show progress while the block runs."""
    bar = Progress(description, total, unit)
    try:
        yield bar
    finally:
        bar.close()
