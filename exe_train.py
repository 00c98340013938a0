#!/usr/bin/env python3
"""Train a segmentation model on the dataset in Input_nnUNet_train; --help tells the options."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
NOT_INSTALLED = 69  # EX_UNAVAILABLE of sysexits.h


def main() -> int:
    """Run the command in an interpreter that has the package: this one, or .venv's beside it."""
    # Until the command listens: an import that is interrupted would print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if importlib.util.find_spec("nnunet_medseg") is not None:
        from nnunet_medseg.cli.main import exe_train

        status = exe_train(HERE, sys.argv[1:])
        # All is said: an impatient second Ctrl-C must not change the status.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return status
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if python.is_file() and Path(sys.prefix).resolve() != VENV.resolve():
        command = [str(python), str(Path(__file__).resolve()), *sys.argv[1:]]
        if os.name == "nt":
            return subprocess.call(command)  # noqa: S603 our own script
        os.execv(command[0], command)  # noqa: S606 our own script
    sys.stderr.write(f"nnunet_medseg is not installed. Install it with: make -C {HERE} install\n")
    return NOT_INSTALLED


if __name__ == "__main__":
    raise SystemExit(main())
