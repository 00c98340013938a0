"""`medseg` and the two commands beside the input folders: which command is meant."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_medseg.cli import (
    check,
    clean,
    compare,
    datasets,
    demo,
    evaluate,
    forget,
    predict,
    status,
    train,
    vary,
)
from nnunet_medseg.cli.door import Parser, through_the_door

__all__ = ["exe_predict", "exe_train", "main", "program"]

COMMANDS = {
    "train": train,
    "predict": predict,
    "check": check,
    "status": status,
    "compare": compare,
    "evaluate": evaluate,
    "demo": demo,
    "vary": vary,
    "datasets": datasets,
    "forget": forget,
    "clean": clean,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `medseg`; return the exit status."""
    return through_the_door(lambda: _run(list(sys.argv[1:] if arguments is None else arguments)))


def program() -> int:
    """Run `medseg` as a program of its own; return the exit status."""
    status = main()
    # All is said: an impatient second Ctrl-C must not change the status.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return status


def _run(arguments: list[str]) -> int:
    parser = Parser(
        prog="medseg",
        description="The best nnU-Net v2 segmentation model that your minutes can buy.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_options(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    return int(options.run(options))


def exe_train(root: Path, arguments: Sequence[str]) -> int:
    """Run `exe_train.py` with the folders in `root`; return the exit status."""
    return through_the_door(lambda: train.run_beside(root, arguments))


def exe_predict(root: Path, arguments: Sequence[str]) -> int:
    """Run `exe_predict.py` with the folders in `root`; return the exit status."""
    return through_the_door(lambda: predict.run_beside(root, arguments))
