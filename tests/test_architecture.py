"""The house: floors, rooms, the one door to nnU-Net, and a start without heavy libraries."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nnunet_medseg

SOURCE = Path(nnunet_medseg.__file__).parent
PACKAGE = "nnunet_medseg"
FLOORS = [
    {"console", "files", "errors", "signals"},
    {"archive", "volume", "evaluation", "budget", "run_folder", "hardware", "parallel"},
    {"nnunet"},
    {"dataset", "bundle"},
    {"report", "phantom"},
    {"workflows"},
    {"cli"},
]
# The public names and `python -m` stand above the house.
ROOF = {"__init__", "__main__"}
NNUNET_LIBRARIES = {
    "nnunetv2",
    "batchgenerators",
    "batchgeneratorsv2",
    "blosc2",
    "dynamic_network_architectures",
}
HEAVY = ("torch", "nnunetv2", "SimpleITK", "matplotlib", "pydantic")
MODULES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            found.add(str(node.module))
            if node.module == PACKAGE:
                found.update(f"{PACKAGE}.{alias.name}" for alias in node.names)
    return found


def our_rooms(path: Path) -> set[str]:
    ours = {name for name in imports_of(path) if name.startswith(f"{PACKAGE}.")}
    return {name.split(".")[1] for name in ours}


def floor_of(room: str) -> int:
    (floor,) = (number for number, rooms in enumerate(FLOORS) if room in rooms)
    return floor


def test_every_room_stands_on_a_floor():
    rooms = {room_of(path) for path in MODULES} - ROOF

    assert rooms == set().union(*FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_imports_only_from_its_own_room_and_the_floors_below(path):
    room = room_of(path)
    if room in ROOF:
        return

    above = {
        other for other in our_rooms(path) if other != room and floor_of(other) >= floor_of(room)
    }

    assert not above, f"{path.name} on floor {floor_of(room)} imports {above}"


def test_only_the_room_nnunet_imports_nnunet():
    intruders = [
        path
        for path in MODULES
        if room_of(path) != "nnunet"
        and any(name.split(".")[0] in NNUNET_LIBRARIES for name in imports_of(path))
    ]

    assert intruders == []


def test_only_the_console_imports_the_terminal_library():
    users = [
        path
        for path in MODULES
        if path.name != "console.py"
        and any(name.split(".")[0] == "rich" for name in imports_of(path))
    ]

    assert users == []


def test_the_check_of_floors_can_fail(tmp_path):
    planted = tmp_path / "planted.py"
    planted.write_text("def f():\n    from nnunet_medseg.workflows import train\n")

    assert our_rooms(planted) == {"workflows"}


@pytest.mark.parametrize(
    "call",
    [
        "from nnunet_medseg.cli.main import main as run; arguments = ['--help']",
        "from nnunet_medseg.cli.main import main as run; arguments = ['train', '--help']",
        "from nnunet_medseg.cli.main import main as run; arguments = ['predict', '--help']",
        "from functools import partial; from pathlib import Path;"
        "from nnunet_medseg.cli.main import exe_train; run = partial(exe_train, Path('.'));"
        "arguments = ['--help']",
    ],
)
def test_help_imports_no_heavy_library(call):
    program = (
        f"{call}\nimport sys\ntry:\n    run(arguments)\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )

    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert "usage:" in result.stdout
    assert result.stderr.strip() == "[]"


def test_the_workflows_load_without_torch_so_that_its_threads_can_be_told_how_to_wait():
    program = (
        "import sys, nnunet_medseg.workflows.train, nnunet_medseg.workflows.predict;"
        "print([name for name in ('torch', 'nnunetv2') if name in sys.modules])"
    )

    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert result.stdout.strip() == "[]"


def test_the_public_names_are_those_that_are_listed():
    for name in nnunet_medseg.__all__:
        assert getattr(nnunet_medseg, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = nnunet_medseg.something_else
