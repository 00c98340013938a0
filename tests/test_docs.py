"""The documents say what the program does: help texts, names, links and examples are real."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import re
import shlex
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_help import CALLS, PYTHONS, help_of
from command_help import PAGE as REFERENCE
from command_help import page as page_of_commands

import nnunet_medseg
from nnunet_medseg import console, errors
from nnunet_medseg.cli.main import COMMANDS, exe_predict, exe_train, main
from nnunet_medseg.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, UserError
from nnunet_medseg.nnunet.history import Epoch
from nnunet_medseg.run_folder import HISTORIES_NAME
from nnunet_medseg.workflows.options import read_train_options
from nnunet_medseg.workflows.status import RunStatus, read_status, to_json
from nnunet_medseg.workflows.variables import MAX_VARIANTS, VARIABLES

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
INDEX = ROOT / "docs" / "README.md"
FILES = ROOT / "docs" / "reference" / "files.md"
TRAINING = ROOT / "docs" / "training.md"
VARIATION = ROOT / "docs" / "how-to" / "vary-and-compare.md"
PRETRAINED = ROOT / "docs" / "pretrained.md"
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
# Long options of other programs in our examples.
FOREIGN = {
    *("--c", "--no_pp"),  # stock nnU-Net
    *("--constraint", "--editable", "--find-links", "--force-reinstall", "--index-url"),  # pip
    "--no-index",
    *("--cpus-per-task", "--gres", "--mem", "--signal"),  # Slurm
    "--logdir",  # TensorBoard
}
# A command at the start of a line; what it does may stand after three blanks.
EXAMPLE = re.compile(r"^(?:python3 (exe_\w+)\.py|\.venv/bin/(medseg))\b(.*?)(?: {3,}.*)?$", re.M)
FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>\w*)\n(?P<body>.*?)^(?P=indent)```$", re.M | re.S)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
MACHINE_PATH = re.compile(r"(?<![\w.<>)-])/(?:home|root|work|Users|tmp|mnt|opt|usr|var)\b")


class Accepted(BaseException):
    """Raised in place of the work; the door lets it pass."""


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


@pytest.fixture(name="help_of")
def _help_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    # Commands bind the consoles to the streams of this test; the next one wants its own.
    monkeypatch.setattr(console, "_consoles", {})
    return help_of


@pytest.mark.skipif(
    not PYTHONS[0] <= sys.version_info < PYTHONS[1], reason="argparse of others writes otherwise"
)
def test_reference_holds_the_real_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_consoles", {})

    assert REFERENCE.read_text(encoding="utf-8") == page_of_commands(), (
        "run python tests/command_help.py"
    )


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
    if page.parent.name == "bench":
        scripts = (script.read_text(encoding="utf-8") for script in page.parent.glob("*.py"))
        real |= {name for script in scripts for name in re.findall(r'"(--\w+)"', script)}
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


@pytest.mark.parametrize(
    ("page", "commands"),
    [
        (VARIATION, ["vary", "compare", "datasets", "forget"]),
        (PRETRAINED, ["compare", "vary"]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_page_names_the_commands_it_is_about(page: Path, commands: list[str]) -> None:
    code = code_of(page)

    assert [name for name in commands if f"medseg {name}" not in code] == []


@pytest.mark.parametrize(
    ("page", "options"),
    [
        (README, ["--keep_dataset", "--pretrained", "--map_labels", "--against_scratch"]),
        (VARIATION, ["--keep_dataset", "--vary", "--dataset", "--output", "--delete_input"]),
        (PRETRAINED, ["--pretrained", "--map_labels", "--against_scratch", "--model"]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_page_names_the_options_it_is_about(page: Path, options: list[str]) -> None:
    code = re.findall(r"--\w+", code_of(page))

    assert [name for name in options if name not in code] == []


@pytest.mark.parametrize("page", [README, TRAINING, VARIATION], ids=lambda page: page.name)
def test_page_names_every_parameter_of_nnunet(page: Path) -> None:
    code = re.findall(r"--(\w+)", code_of(page))

    assert [name for name in VARIABLES if name not in code] == []


def test_table_of_parameters_is_in_order_and_has_the_values_that_are_accepted() -> None:
    section = VARIATION.read_text(encoding="utf-8").split("## Parameters of nnU-Net")[1]
    rows = dict(re.findall(r"^\| `--(\w+)` \|(.*)$", section.split("\n## ")[0], re.M))

    assert list(rows) == list(VARIABLES)
    for name, row in rows.items():
        values = re.findall(r"\b(?:\d[\d.x]*\w*|on|off|default|small|resenc_\w+)\b", row)
        accepted = re.findall(
            r"\b(?:\d[\d.x]*\w*|on|off|default|small|resenc_\w+)\b", VARIABLES[name].allowed
        )
        assert set(accepted) <= set(values), name


def test_least_numbers_of_cases_are_those_of_the_test() -> None:
    from nnunet_medseg.evaluation.statistics import smallest_p
    from nnunet_medseg.report.comparison import SIGNIFICANT

    section = VARIATION.read_text(encoding="utf-8").split("| variants | held-out patients |")[1]
    rows = re.findall(r"^\| (\d+)(?: to (\d+))? \| (\d+) \|$", section.split("\n\n")[0], re.M)
    documented = {
        variants: int(cases)
        for low, high, cases in rows
        for variants in range(int(low), int(high or low) + 1)
    }

    real = {
        variants: next(
            cases for cases in itertools.count() if (variants - 1) * smallest_p(cases) < SIGNIFICANT
        )
        for variants in range(2, MAX_VARIANTS + 1)
    }
    assert documented == real


def run_example(script: str, arguments: str, root: Path) -> None:
    words = shlex.split(arguments)
    scripts = {"exe_train": exe_train, "exe_predict": exe_predict}
    status = scripts[script](root, words) if script else main(words)
    pytest.fail(f"not understood, status {status}: {script or 'medseg'} {arguments}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_are_understood(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def accept(*_: object, **__: object) -> None:
        raise Accepted

    def accept_training(*_: object, **options: object) -> None:
        del options["resume"], options["fresh"], options["ending"]
        options.pop("tensorboard", None)
        read_train_options(**options)
        raise Accepted

    monkeypatch.setattr(console, "_consoles", {})
    monkeypatch.setattr("nnunet_medseg.workflows.train.train", accept_training)
    monkeypatch.setattr("nnunet_medseg.workflows.predict.predict", accept)
    for name in COMMANDS.keys() - {"train", "vary", "predict"}:
        monkeypatch.setattr(COMMANDS[name], "run", accept)
    examples = [match for _, body in fences(page) for match in EXAMPLE.findall(body)]
    for kind, body in fences(page):
        if kind == "toml":
            (tmp_path / "card.toml").write_text(body, encoding="utf-8")

    for script, _, arguments in examples:
        if "-t TIME" in arguments or "--help" in arguments:
            # The form of a command, not an example; and what ends the program.
            continue
        with pytest.raises(Accepted):
            run_example(script, arguments, tmp_path)


def test_every_public_function_is_documented() -> None:
    code = code_of(TRAINING)
    functions = [name for name in nnunet_medseg.__all__ if name.islower()]

    assert [name for name in functions if f"{name}(" not in code] == []


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
    cells = re.findall(r"^\| ([\d, ]+) \|", section, re.M)
    documented = {int(code) for cell in cells for code in cell.split(",")}
    kinds = (getattr(errors, name) for name in errors.__all__)
    ours = (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, UserError))
    real = {kind.exit_code for kind in ours if kind is not UserError}
    real |= {128 + number for number in (signal.SIGHUP, signal.SIGTERM)}

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

    # At the start of a line or a span: help texts also make other things.
    start = re.compile(r"^ *make ([a-z]+)", re.M)
    named = {name for page in PAGES for name in start.findall(code_of(page))}
    assert named <= targets


def test_the_index_leads_to_every_page() -> None:
    pages = {page.resolve() for page in (ROOT / "docs").rglob("*.md")} - {INDEX}
    linked = {
        (INDEX.parent / match["target"].partition("#")[0]).resolve()
        for match in LINK.finditer(INDEX.read_text(encoding="utf-8"))
    }

    assert sorted(page.name for page in pages - linked) == []


def test_the_index_fits_a_screen() -> None:
    assert len(INDEX.read_text(encoding="utf-8").splitlines()) <= 50


def test_the_pages_lie_in_their_four_parts() -> None:
    parts = {page.relative_to(INDEX.parent).parts[0] for page in INDEX.parent.rglob("*.md")}

    # The two pages that were there first keep their places.
    assert parts == {
        *("README.md", "get-started.md", "training.md", "pretrained.md"),
        *("how-to", "concepts", "reference"),
    }


def rows_of(section: str) -> list[str]:
    """Return the names in the first column of the tables under a heading of the page of files."""
    text = FILES.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]+) \|", text, re.M)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_the_fields_of_an_epoch_are_the_real_ones() -> None:
    assert rows_of("A line an epoch") == [field.name for field in dataclasses.fields(Epoch)]


def test_the_fields_of_a_status_are_the_real_ones(tmp_path: Path) -> None:
    status = to_json(read_status(tmp_path / "work", tmp_path / "out"))
    run = [field.name for field in dataclasses.fields(RunStatus)]

    documented = rows_of("`medseg status --json`")
    assert sorted(documented) == sorted([*status, *run])


def test_the_files_beside_a_model_are_the_real_ones() -> None:
    listed = {name for name in rows_of("What is delivered") if not name.startswith("model/")}
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))

    assert HISTORIES_NAME in listed
    assert all(f'"{name}"' in source for name in listed)
