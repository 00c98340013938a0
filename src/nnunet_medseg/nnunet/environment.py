"""Paths, threads and switches for nnU-Net, and a place for what it prints.

nnU-Net takes its folders from environment variables and reads some switches when it is imported,
so `prepare` runs before the first import of `nnunetv2`.
"""

from __future__ import annotations

import getpass
import io
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from nnunet_medseg.hardware import core_count

__all__ = ["chatter", "prepare", "scrub"]

IMAGES = r"\.(?:nii\.gz|nii|nrrd|mha|mhd|dcm)\b"
FILES = rf"(?:{IMAGES}|\.(?:json|jsonl|npz|pth|pkl|b2nd|zip|csv|txt|py)\b)"
START = r"(?:[A-Za-z]:|~\w*|\.{1,2})?[\\/]"

# Folders are called "Miller, Anna (2)" and "O'Brien": without quotes nobody can tell where such a
# path ends, so all of the line goes, up to the last file of a known kind or to the end.
PATHS = re.compile(
    rf"""
    (?<=") (?: {START} [^"\n]* | [^"\n]*{IMAGES} ) (?=")
    | (?<=') (?: {START} (?:\\.|[^'\\\n])* | (?:\\.|[^'\\\n])*{IMAGES} ) (?=')
    | (?<![\w.<~]) {START} (?=\S) (?: .*{FILES}(?!.*[\\/]) | .* )
    | [^\s'"<>]{{1,300}}{IMAGES}
    """,
    re.VERBOSE | re.IGNORECASE,
)
MIN_WORD = 4  # shorter names of machines and users stand in other words


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


def scrub(text: str) -> str:
    """Replace paths and the names of machine and user, so that a log can be shown to others.

    Examples:
        >>> scrub("reading /data/Miller_Anna/img.nii.gz")
        'reading <path>'
    """
    text = PATHS.sub("<path>", text)
    for word, stand_in in ((platform.node(), "<machine>"), (_user(), "<user>")):
        if len(word) >= MIN_WORD and word != "root":
            text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", stand_in, text, flags=re.IGNORECASE)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    # In a container a user may have a number only.
    except (OSError, KeyError, ImportError):
        return ""


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
