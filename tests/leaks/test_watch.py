"""The watch over commands sees what it is there for, so that its silence means something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WATCH = Path(__file__).with_name("watch")


def notes_of(folder: Path, code: str) -> str:
    """Run Python code under watch, and return what was noted about a network."""
    settings = {"PYTHONPATH": str(WATCH), "MEDSEG_WATCH": str(folder)}
    command = [sys.executable, "-c", code]
    subprocess.run(command, env=os.environ | settings, cwd=folder, check=True)
    assert (folder / "processes.txt").is_file()
    noted = folder / "network.txt"
    return noted.read_text() if noted.exists() else ""


@pytest.mark.parametrize(
    ("code", "event"),
    [
        ("socket.socket(socket.AF_INET)", "socket.__new__"),
        ("socket.socket(socket.AF_INET6)", "socket.__new__"),
        ("socket.socket(socket.AF_INET).connect_ex(('127.0.0.1', 9))", "socket.connect"),
        ("socket.socket(socket.AF_INET, 2).sendto(b'x', ('127.0.0.1', 9))", "socket.sendto"),
        ("socket.getaddrinfo('127.0.0.1', 80)", "socket.getaddrinfo"),
        (
            "import multiprocessing as m; p = m.get_context('spawn').Pool(1); "
            "p.apply(socket.getaddrinfo, ('::1', 1)); p.terminate()",
            "socket.getaddrinfo",
        ),
    ],
)
def test_a_use_of_the_network_is_noted(tmp_path, code, event):
    assert event in notes_of(tmp_path, f"import socket\nif __name__ == '__main__':\n    {code}")


def test_sockets_within_the_machine_are_not(tmp_path):
    assert notes_of(tmp_path, "import socket; socket.socketpair(); socket.gethostname()") == ""


def test_logs_that_are_removed_are_kept_with_the_rights_of_their_folders(tmp_path):
    run = tmp_path / "work" / "runs" / "name"
    run.mkdir(parents=True)
    (run / "log.txt").write_text("said")
    (tmp_path / "predict-log.txt").write_text("predicted")
    moved = run.with_name(".removed-12ab")

    notes_of(tmp_path, f"import os; os.remove('predict-log.txt'); os.rename('{run}', '{moved}')")

    kept = sorted(path.read_text() for path in tmp_path.glob("[0-9]*-log.txt"))
    assert kept == ["predicted", "said"]
    assert (tmp_path / "rights.txt").read_text().split() == ["755"] * 3
