"""What the program prints where there is no terminal, and on one."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from nnunet_medseg import console


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def streams():
    """Return the output and error streams that the console prints to."""
    out, err = io.StringIO(), io.StringIO()
    console.attach(out, err)
    yield SimpleNamespace(out=out, err=err)
    console._consoles.clear()


@pytest.fixture
def hand(monkeypatch):
    """Return a clock that is turned by hand."""
    clock = SimpleNamespace(time_s=0.0)
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: clock.time_s))
    return clock


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (9.5, "9.5 s"),
        (10, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3599.9, "1 h 00 min"),
        (86400, "24 h 00 min"),
    ],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert console.duration(seconds) == text


def test_an_error_goes_to_the_error_stream_in_two_parts(streams):
    console.error("The disk is full.", "Make room.")

    assert streams.err.getvalue() == "Error: The disk is full.\nWhat to do: Make room.\n"
    assert streams.out.getvalue() == ""


def test_brackets_in_names_are_printed_as_they_are(streams):
    console.error("No file [bold]x[/].nii", "")
    console.detail("folder [red]y[/]")
    console.warn("folder [/] z")
    console.heading("[h]")

    assert "No file [bold]x[/].nii" in streams.err.getvalue()
    assert streams.out.getvalue() == "  folder [red]y[/]\n  ! folder [/] z\n[h]\n"


CONTROLLING = "a\x1b[2J\x1b]0;x\x07\x9b1m\r\nError: b\u202ec\udcff"
SHOWN = r"a\x1b[2J\x1b]0;x\x07\x9b1m\r\nError: b\u202ec\udcff"


def test_names_that_would_control_a_terminal_are_shown_and_do_nothing(streams, hand):
    console.heading(CONTROLLING)
    console.detail(CONTROLLING)
    console.warn(CONTROLLING)
    console.stage_line(CONTROLLING, 1.0, None)
    console.table(CONTROLLING, [CONTROLLING], [[CONTROLLING]])
    with console.progress(CONTROLLING, 10, "cases") as bar:
        hand.time_s = 20.0
        bar.update(1, CONTROLLING)
    console.error(CONTROLLING, CONTROLLING)

    shown = streams.out.getvalue() + streams.err.getvalue()
    assert shown.replace("\n", "").isprintable()
    assert shown.count(SHOWN) == 11
    assert len(shown.splitlines()) == 10


def test_a_bar_on_a_terminal_shows_names_that_would_control_it(monkeypatch):
    terminal = Terminal()
    console.attach(terminal, terminal)

    with console.progress("a\x07[bold]b", 3, "cases") as bar:
        bar.update(2, "c\x9b2Jd")
        bar._bar.refresh()
    console._consoles.clear()

    assert r"a\x07[bold]b" in terminal.getvalue()
    assert r"c\x9b2Jd" in terminal.getvalue()


def test_letters_of_every_language_are_printed_as_they_are(streams):
    console.detail("Müller Änne 山田 Иванов ✓ …")

    assert streams.out.getvalue() == "  Müller Änne 山田 Иванов ✓ …\n"


def test_a_long_line_is_not_broken(streams):
    console.detail("x" * 500)

    assert streams.out.getvalue() == "  " + "x" * 500 + "\n"


def test_the_line_of_a_stage_says_what_it_took_and_what_was_expected(streams):
    console.stage_line("train", 601.0, 600.0)
    console.stage_line("check", 1.5, None)

    lines = [" ".join(line.split()) for line in streams.out.getvalue().splitlines()]
    assert lines == ["✓ train 10 min 01 s (expected about 10 min 00 s)", "✓ check 1.5 s"]


def test_a_table_shows_every_cell(streams):
    console.table("Cases", ["case", "Dice"], [["case_0001", "0.85"], ["[b]", "0.9"]])

    lines = [line.split() for line in streams.out.getvalue().splitlines()]
    assert lines == [["Cases"], ["case", "Dice"], ["case_0001", "0.85"], ["[b]", "0.9"]]


def test_output_stays_on_its_stream_when_stdout_is_redirected(streams, capsys):
    sys.stdout.write("elsewhere\n")
    console.detail("here")

    assert streams.out.getvalue() == "  here\n"
    assert capsys.readouterr().out == "elsewhere\n"


def test_progress_prints_a_line_now_and_then_where_there_is_no_terminal(streams, hand):
    with console.progress("Reading", 100, "cases") as bar:
        for done in range(1, 101):
            hand.time_s = done * 0.5
            bar.update(done)

    assert streams.out.getvalue().splitlines() == [
        "  Reading: 30 of 100 cases, 35 s left",
        "  Reading: 60 of 100 cases, 20 s left",
        "  Reading: 90 of 100 cases, 5.0 s left",
    ]


def test_progress_of_a_budget_counts_time_and_shows_the_note(streams, hand):
    with console.progress("Training", 600, None) as bar:
        hand.time_s = 75.0
        bar.update(75.0, "loss 0.5")

    assert streams.out.getvalue() == "  Training: 1 min 15 s of 10 min 00 s, loss 0.5\n"


def test_short_work_prints_no_progress(streams, hand):
    with console.progress("Reading", 3, "cases") as bar:
        bar.update(3)

    assert streams.out.getvalue() == ""


def test_a_terminal_gets_a_bar():
    terminal = Terminal()
    console.attach(terminal, terminal)

    with console.progress("Reading", 3, "cases") as bar:
        bar.update(2, "[note]")
        bar._bar.refresh()
    console._consoles.clear()

    assert "2/3 cases" in terminal.getvalue()
    assert "[note]" in terminal.getvalue()


def test_a_reader_that_is_gone_does_not_end_the_program():
    program = (
        "import sys, os\n"
        "from nnunet_medseg import console\n"
        "console.attach()\n"
        "reading, writing = os.pipe()\n"
        "os.close(reading)\n"
        "os.dup2(writing, 1)\n"
        "console.detail('nobody reads this')\n"
        "console.detail('nor this')\n"
        "sys.stderr.write('trained')\n"
        "os._exit(0)\n"
    )

    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert (result.returncode, result.stderr) == (0, "trained")


GOES_ON = """
import signal, sys, time
from pathlib import Path
from nnunet_medseg import console
signal.signal(signal.SIGHUP, signal.SIG_IGN)
console.detail("there")
with console.progress("Training", 10, None) as bar:
    sys.stdin.read()
    for second in range(5):
        bar.update(second, "a note")
        console.warn("nobody reads this")
        time.sleep(0.1)
Path(sys.argv[1]).write_text("went on")
"""


def test_a_terminal_that_is_closed_ends_nothing(tmp_path):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", GOES_ON, str(tmp_path / "mark")],
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    assert os.read(ours, 100)

    os.close(ours)
    process.stdin.close()
    process.wait(timeout=30)

    assert (tmp_path / "mark").read_text() == "went on"
