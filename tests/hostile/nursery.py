"""Runs the real command on hostile input, each time in a child of its own that is watched.

A program of its own, started once: it imports what the commands import, then forks for every line
that it reads. A line is the JSON of one errand; the answer is the JSON of what was seen.

Watched: what the child starts, connects to or unpickles in full; where it opens files to write;
how far its memory grows; how much time it takes. What is read is seen from outside, by the access
times of files that must not be read.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

WALL_LIMIT_S = 30  # ends the child; the tests ask for less, in seconds of the processor
MEMORY_LIMIT_BYTES = 8 << 30  # spares the machine; the tests ask for less
FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty"),
    *("subprocess.Popen", "pickle.find_class", "pty.spawn"),
    *("socket.connect", "socket.getaddrinfo", "socket.sendto"),
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGING = {"os.remove": 1, "os.rename": 2, "os.rmdir": 1, "os.mkdir": 1, "os.truncate": 1}


class Watch:
    """Collects what the child does that it must not do."""

    def __init__(self, allowed: Path) -> None:
        self._allowed = (str(allowed.resolve()), "/dev/null")
        self.seen: list[str] = []
        self.is_on = False

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self.is_on:
            return
        if event in FORBIDDEN:
            self.seen.append(f"{event} {arguments}"[:300])
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            self._place(event, arguments[0])
        else:
            for path in arguments[: CHANGING.get(event, 0)]:
                self._place(event, path)

    def _place(self, event: str, path: object) -> None:
        # A number is a file that is open already; its opening was looked at.
        if isinstance(path, int):
            return
        # Names relative to an open folder come from rmtree, which was given an absolute one.
        name = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 as it is called for each event
        if not name.startswith(self._allowed):
            self.seen.append(f"{event} {name}"[:300])


def serve() -> None:
    """Answer errands until the input ends."""
    prepare()
    # What is frozen is not looked through again in each child, which would copy its memory.
    gc.collect()
    gc.freeze()
    answer("ready")
    for line in sys.stdin:
        errand = json.loads(line)
        answer(json.dumps(run_in_child(errand)))


def answer(line: str) -> None:
    """Write a line to whoever sends the errands."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def prepare() -> None:
    """Import all that commands import late, so that no child has to."""
    import nibabel  # noqa: F401
    import SimpleITK  # noqa: F401
    import torch

    import nnunet_medseg.nnunet.inference
    import nnunet_medseg.nnunet.pretrained
    import nnunet_medseg.workflows.predict
    import nnunet_medseg.workflows.train

    # It imports the same once more in the background, for workers that are not needed here.
    nnunet_medseg.workflows.train.warm_up = lambda *_: None
    torch.set_num_threads(1)


def run_in_child(errand: dict) -> dict:
    """Fork, run the command, and tell how it ended."""
    report = Path(errand["root"]) / "report.json"
    child = os.fork()
    if child == 0:
        try:
            os.setpgid(0, 0)
            run_errand(errand, report)
        finally:
            # Whatever happened: nothing of the child goes on in the loop of its parent.
            os._exit(1)
    _, status = os.waitpid(child, 0)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if os.WIFSIGNALED(status):
        return {"died": signal.Signals(os.WTERMSIG(status)).name}
    return json.loads(report.read_text()) if report.exists() else {"died": "without a word"}


def run_errand(errand: dict, report: Path) -> None:
    """Run a command in the child, and write what was seen."""
    from nnunet_medseg.cli.main import main

    root = Path(errand["root"])
    settle(root)
    watch = Watch(root)
    sys.addaudithook(watch)
    signal.alarm(WALL_LIMIT_S)
    before = memory_bytes()
    limit = before["VmSize"] + MEMORY_LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    spent_s, watch.is_on = time.process_time(), True
    try:
        status = main(errand["command"])
    finally:
        watch.is_on = False
        sys.stdout.flush()
        sys.stderr.flush()
    found = {
        "status": status,
        "cpu_s": time.process_time() - spent_s,
        "grown_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before["VmRSS"],
        "seen": watch.seen,
    }
    report.write_text(json.dumps(found))


def settle(root: Path) -> None:
    """Give the child folders, streams and a home of its own."""
    for name in ("home", "tmp", "cwd"):
        (root / name).mkdir(exist_ok=True)
    os.environ |= {
        "HOME": str(root / "home"),
        "TMPDIR": str(root / "tmp"),
        "HOSTILE_MARKER": str(root / "marker"),
    }
    tempfile.tempdir = str(root / "tmp")
    os.chdir(root / "cwd")
    for number, name in ((1, "said.txt"), (2, "errors.txt")):
        handle = os.open(root / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(handle, number)
    handle = os.open("/dev/null", os.O_RDONLY)
    os.dup2(handle, 0)


def memory_bytes() -> dict[str, int]:
    """Return what the process takes, as the system counts it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    pairs = [line.split(":") for line in lines if line.startswith(("VmRSS", "VmSize"))]
    return {name: 1024 * int(value.split()[0]) for name, value in pairs}


if __name__ == "__main__":
    serve()
    # At once: the libraries take seconds to say goodbye.
    os._exit(0)
