"""The documents say what the program does: help texts, names, links and examples are real."""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import nnunet_medseg
from nnunet_medseg import console, errors
from nnunet_medseg.cli.main import COMMANDS, exe_predict, exe_train, main
from nnunet_medseg.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, UserError

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TRAINING = ROOT / "docs" / "training.md"
REFERENCE = ROOT / "docs" / "reference" / "commands.md"
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").rglob("*.md")]
)

# The contract: neither letters nor names may change.
CONTRACT = {
    "-d": "--dataset_name",
    "-l": "--label",
    "-i": "--image_type",
    "-t": "--time",
    "-f": "--fold",
    "-e": "--image_extension",
}
# Long options of other programs in our examples, and one of ours that is said to be missing.
FOREIGN = {"--c", "--no_pp", "--force-reinstall", "--constraint", "--index-url", "--pretrained"}
FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>\w*)\n(?P<body>.*?)^(?P=indent)```$", re.M | re.S)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
MACHINE_PATH = re.compile(r"(?<![\w.<>)-])/(?:home|root|work|Users|tmp|mnt|opt|usr|var)\b")

CALLS: dict[str, Callable[[], int]] = {
    "exe_train.py": lambda: exe_train(ROOT, ["--help"]),
    "exe_predict.py": lambda: exe_predict(ROOT, ["--help"]),
    "medseg": lambda: main(["--help"]),
}
for _name in COMMANDS:
    CALLS[f"medseg {_name}"] = lambda name=_name: main([name, "--help"])  # type: ignore[misc]


def fences(page: Path) -> Iterator[tuple[str, str]]:
    """Yield kind and body of each fenced block."""
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        yield match["kind"], textwrap.dedent(match["body"])


def code_of(page: Path) -> str:
    """Return all code of a page: fenced blocks and spans."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    return "\n".join([*(body for _, body in fences(page)), *SPAN.findall(prose)])


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that a code host makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in headings}


@pytest.fixture
def help_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    # Commands bind the consoles to the streams of this test; the next one wants its own.
    monkeypatch.setattr(console, "_consoles", {})
    monkeypatch.setenv("COLUMNS", "80")

    def run(command: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            CALLS[command]()
        assert stopped.value.code == 0
        return capsys.readouterr().out

    return run


@pytest.mark.skipif(
    not (3, 10) <= sys.version_info < (3, 13), reason="argparse of other versions writes otherwise"
)
@pytest.mark.parametrize("command", CALLS)
def test_reference_holds_the_real_help(command: str, help_of: Callable[[str], str]) -> None:
    sections = re.split(r"^## (.+)$", REFERENCE.read_text(encoding="utf-8"), flags=re.M)
    documented = dict(zip(sections[1::2], sections[2::2], strict=True))

    assert list(documented) == list(CALLS)
    assert documented[command].strip() == f"```text\n{help_of(command)}```"


@pytest.mark.parametrize("page", [README, TRAINING], ids=lambda page: page.name)
def test_page_names_every_command(page: Path) -> None:
    code = code_of(page)

    missing = [name for name in CALLS if name not in code]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_names_no_other_command(page: Path) -> None:
    named = set(re.findall(r"(?<![\w.-])(?:\.venv/bin/)?medseg ([a-z_]+)", code_of(page)))

    assert named <= set(COMMANDS)


@pytest.mark.parametrize("page", [README, TRAINING], ids=lambda page: page.name)
def test_page_names_every_letter_and_name_of_the_contract(page: Path) -> None:
    code = code_of(page).split()

    assert [option for pair in CONTRACT.items() for option in pair if option not in code] == []


def test_contract_is_what_the_parser_has(help_of: Callable[[str], str]) -> None:
    text = help_of("exe_train.py")

    for letter, name in CONTRACT.items():
        assert re.search(rf"^  {letter}\b.*{name}\b", text, re.M), letter


def test_training_page_names_every_option(help_of: Callable[[str], str]) -> None:
    code = code_of(TRAINING)
    options = {name for command in CALLS for name in re.findall(r"--\w+", help_of(command))}

    assert sorted(name for name in options - {"--help"} if name not in code) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_names_no_option_that_does_not_exist(
    page: Path, help_of: Callable[[str], str]
) -> None:
    real = {name for command in CALLS for name in re.findall(r"--[\w-]+", help_of(command))}
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code_of(page)))

    assert sorted(named - real - FOREIGN) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    broken = []
    for match in LINK.finditer(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = match["target"].partition("#")
        if "://" in path or path.startswith("mailto:"):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(match["target"])

    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_names_no_path_of_a_machine(page: Path) -> None:
    text = re.sub(r"https?://\S+", "", page.read_text(encoding="utf-8"))

    assert MACHINE_PATH.findall(text) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_compile_and_use_public_names(page: Path) -> None:
    for kind, body in fences(page):
        if kind == "python":
            tree = ast.parse(body)
            compile(tree, page.name, "exec")
            used = [
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "nnunet_medseg"
            ]
            assert set(used) <= set(nnunet_medseg.__all__)


def test_python_example_uses_real_options() -> None:
    from nnunet_medseg.workflows.options import TrainOptions

    fields = {field.name for field in dataclasses.fields(TrainOptions)}
    (example,) = [body for kind, body in fences(TRAINING) if kind == "python"]
    keywords = {
        keyword.arg
        for node in ast.walk(ast.parse(example))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"train", "check"}
        for keyword in node.keywords
    }

    assert keywords
    assert keywords <= fields
    assert all(f"`{name}`" in TRAINING.read_text(encoding="utf-8") for name in fields)


def test_exit_codes_are_the_real_ones() -> None:
    section = TRAINING.read_text(encoding="utf-8").split("## Exit codes")[1].split("\n## ")[0]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.M)}
    kinds = [getattr(errors, name) for name in errors.__all__]
    real = {kind.exit_code for kind in kinds if isinstance(kind, type) and kind is not UserError}

    # 0 is success; 1 is the demo's verdict; 69 is what the two scripts say without the package.
    assert documented == real | {0, 1, 69, EXIT_INTERNAL, EXIT_INTERRUPTED}


def test_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    assert "## [Unreleased]" in text
    assert "### Added" in text
    assert "### Changed results" in text


def test_make_targets_in_the_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))

    named = {name for page in PAGES for name in re.findall(r"\bmake ([a-z]+)", code_of(page))}
    assert named <= targets
