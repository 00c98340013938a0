"""Imported by every Python process of a watched command, before anything else.

It notes each use of a network, and keeps logs, which the program removes when all went well, in the
folder that MEDSEG_WATCH names.
"""

import os
import shutil
import stat
import sys
import time
from pathlib import Path

TALK = {"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"}
LOOK_UPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
FAMILIES = {2, 10, 23, 30}  # AF_INET, and AF_INET6 of Linux, Windows and macOS
NOTES = Path(os.environ.get("MEDSEG_WATCH", os.devnull))


def note(file: str, line: str) -> None:
    with (NOTES / file).open("a", encoding="utf-8") as lines:
        lines.write(f"{line}\n")


def keep_log(path: Path) -> None:
    if path.is_file():
        shutil.copy(path, NOTES / f"{time.monotonic_ns()}-log.txt")


def is_network(event: str, arguments: tuple) -> bool:
    if event == "socket.__new__":
        return arguments[1] in FAMILIES
    return event in LOOK_UPS or (event in TALK and arguments[0].family in FAMILIES)


def is_probe() -> bool:
    """Tell whether urllib3, which pydicom imports, looks if this machine knows IPv6.

    It binds a socket to ::1 while it is imported, closes it, and sends nothing.
    """
    frame = sys._getframe()
    while frame is not None:
        code, frame = frame.f_code, frame.f_back
        if code.co_name == "_has_ipv6" and code.co_filename.endswith("urllib3/util/connection.py"):
            return True
    return False


def watch(event: str, arguments: tuple) -> None:
    if is_network(event, arguments) and not is_probe():
        note("network.txt", f"{event} {arguments[1:]}")
    elif event == "os.rename" and ".removed-" in str(arguments[1]):
        run = Path(arguments[0])
        keep_log(run / "log.txt")
        for folder in (run, run.parent, run.parent.parent):
            note("rights.txt", f"{stat.S_IMODE(folder.stat().st_mode):o}")
    elif event == "os.remove" and str(arguments[0]).endswith("predict-log.txt"):
        keep_log(Path(arguments[0]))


if NOTES.is_dir():
    note("processes.txt", str(os.getpid()))
    sys.addaudithook(watch)
