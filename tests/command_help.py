"""docs/reference/commands.md: the help text of every command, made from the parsers.

`python tests/command_help.py` writes the page anew; a test compares the two.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path

from nnunet_medseg.cli.main import COMMANDS, exe_predict, exe_train, main

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "commands.md"
WIDTH = "80"
PYTHONS = ((3, 10), (3, 13))  # argparse of others writes otherwise
HEAD = """# Commands

The help text of every command, as `--help` prints it. What the options mean in practice:
[training and predicting](../training.md), [training again on the same
dataset](../how-to/vary-and-compare.md), [pre-trained models](../pretrained.md),
[watching a training](../how-to/watch-a-training.md), [measures](evaluation.md). A test compares
this page with the commands; `python tests/command_help.py` writes it anew.
"""

CALLS: dict[str, Callable[[], int]] = {
    "exe_train.py": lambda: exe_train(ROOT, ["--help"]),
    "exe_predict.py": lambda: exe_predict(ROOT, ["--help"]),
    "medseg": lambda: main(["--help"]),
}
for _name in COMMANDS:
    CALLS[f"medseg {_name}"] = lambda name=_name: main([name, "--help"])  # type: ignore[misc]


def help_of(command: str) -> str:
    """Return what a command prints for --help, 80 signs wide."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    try:
        # The parser ends the program when it has printed.
        with redirect_stdout(io.StringIO()) as out, suppress(SystemExit):
            CALLS[command]()
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before
    return out.getvalue()


def page() -> str:
    """Return the page as it should be."""
    sections = [f"## {command}\n\n```text\n{help_of(command)}```\n" for command in CALLS]
    return "\n".join([HEAD, *sections])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE.name} is written\n")
