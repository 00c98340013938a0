"""Paths, threads and switches for nnU-Net, and a place for what it prints.

nnU-Net takes its folders from environment variables and reads some switches when it is imported,
so `prepare` runs before the first import of `nnunetv2`.
"""

from __future__ import annotations

import io
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from nnunet_medseg.hardware import Device, core_count

__all__ = ["chatter", "prepare", "scrub"]

CORES_A_LOADER_ON_CPU = 4  # the other cores train
MAX_LOADERS = 12  # nnU-Net's own default, default_n_proc_DA.py of 2.8.1

# Folders are called "Miller, Anna (2)" and "O'Brien": without quotes nobody can tell where such a
# path ends, so all up to the last separator or image file of the line goes.
PATHS = re.compile(
    r"""
    (?<=['"]) (?:[A-Za-z]:)? [\\/] [^'"\n]* (?=['"])
    | (?<![\w.<]) (?:[A-Za-z]:)? [\\/] (?=\S)
      (?: (?:[^'"<>|:\n] | (?<=\w)'(?=\w))* (?:[\\/] | \.(?:nii|gz|nrrd|mha|mhd|dcm)\b) )?
      [^\s'"<>|:,)]*
    """,
    re.VERBOSE,
)


def prepare(folders: Mapping[str, Path] | None = None) -> None:
    """Set the environment of nnU-Net for this process and those it starts.

    Args:
        folders: `nnUNet_raw`, `nnUNet_preprocessed` and `nnUNet_results`; None for prediction,
            which needs none.
    """
    for name, path in (folders or {}).items():
        os.environ[name] = str(path)
    os.environ["nnUNet_def_n_proc"] = str(core_count())
    os.environ["nnUNet_n_proc_DA"] = str(core_count())
    # Threads that wait actively take the cores from each other as soon as another program runs:
    # measured with other programs on two cores, a step took up to six times as long as with this.
    # The short spin of the second line, for the library that torch uses on Linux, costs a quiet
    # machine nothing, where purely passive waiting takes 5 to 10 %.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    os.environ["nnUNet_wandb_enabled"] = "0"
    os.environ["nnUNet_compile"] = "f"
    # nnU-Net reads checkpoints with the full unpickler; this switch of torch overrules it.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    # nnU-Net imports every Python file of this folder.
    os.environ.pop("nnUNet_extTrainer", None)


def loader_count(device: Device) -> int:
    """Return how many processes augment training data."""
    if device.kind == "cuda":
        return max(1, min(MAX_LOADERS, core_count() - 1))
    return max(1, core_count() // CORES_A_LOADER_ON_CPU)


def scrub(text: str) -> str:
    """Replace folders and the name of the machine, so that a log can be shown to others.

    Examples:
        >>> scrub("reading /data/Miller_Anna/img.nii.gz")
        'reading <path>'
    """
    text = PATHS.sub("<path>", text)
    host = platform.node()
    return text.replace(host, "<machine>") if len(host) > 3 else text


class _ScrubbedLog(io.TextIOBase):
    """A text stream that appends scrubbed lines to a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace")

    def write(self, text: str) -> int:
        # A logger that was made in the block keeps this stream; what it says later has no place.
        if not self.closed:
            self._file.write(scrub(text))
        return len(text)

    def flush(self) -> None:
        if not self.closed:
            self._file.flush()

    def close(self) -> None:
        # The base class flushes, so the file goes last.
        super().close()
        self._file.close()


@contextmanager
def chatter(log: Path) -> Iterator[None]:
    """Send what nnU-Net prints in this block to a log file, without paths or machine names."""
    sys.stdout.flush()
    stream = _ScrubbedLog(log)
    try:
        with redirect_stdout(stream), redirect_stderr(stream):
            yield
    finally:
        stream.close()
