"""Spoil datasets, one file or name at a time, and look what `medseg check` makes of them.

`python tests/fuzz/fuzz.py` tries 2,400 inputs; `--count` another number of them, `--seed` others,
`--only KIND:NUMBER` one again, with what was shown. The same seed gives the same inputs.

What must hold for each: the check ends with success or with an error for the user, never otherwise;
it takes at most 10 s of the processor, and 300 MB more than the honest dataset; a refusal names the
file that was spoilt. Each runs in a child of its own, so that one that dies is seen.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "hostile")]

from fuzz_datasets import Tree  # noqa: E402
from fuzz_inputs import draw, kinds, make  # noqa: E402
from nursery import run_in_child  # noqa: E402

COUNT, SEED = 2400, 1
CPU_S = 10.0
MORE_BYTES = 300 * 10**6
SHARES = {
    "file": 6,
    "dicom": 9,
    "json": 3,
    "names": 2,
    "tree": 2,
}  # of the inputs, for each kind of a group
# What a check imports late: it would otherwise count for each child.
MODULES = (
    *("SimpleITK", "nibabel", "scipy.ndimage", "cc3d", "rich.table", "rich.progress"),
    *("nnunet_medseg.cli.check", "nnunet_medseg.workflows.check", "nnunet_medseg.dataset.convert"),
    *("pydicom", "pydicom.pixels", "nnunet_medseg.volume.dicom.series"),
)
SHOWN_CHARACTERS = 1500
SHOWN_NAMES = 20


@dataclass(frozen=True)
class Outcome:
    """How the check of one input ended.

    Attributes:
        name: `KIND:NUMBER`.
        status: "passes", "is refused" or "FAILS".
        why: What must not be, for a failure.
        shown: What the check printed.
        grown_bytes: How far its memory grew.
        cpu_s: Its time on the processor.
    """

    name: str
    status: str
    why: str
    shown: str
    grown_bytes: int = 0
    cpu_s: float = 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the inputs that are asked for; return 1 when any fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--kind", nargs="+", help="inputs of these kinds only")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="one input, with all that is shown")
    given = parser.parse_args(arguments)
    prepare()
    if given.only:
        return try_one(given.only, given.seed)
    started = time.monotonic()
    counts = plan(given.count, given.kind)
    say(f"{sum(counts.values())} inputs, seed {given.seed}")
    outcomes = [
        item for kind, count in counts.items() for item in try_kind(kind, count, given.seed)
    ]
    tell(outcomes, given.seed, time.monotonic() - started)
    return int(any(item.status == "FAILS" for item in outcomes))


def prepare() -> None:
    """Import what a check imports, once for all children."""
    os.environ["COLUMNS"] = "2000"  # names are looked for in lines, and must not be cut
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def say(text: str) -> None:
    """Print."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def plan(count: int, chosen: Sequence[str] | None) -> dict[str, int]:
    """Return how many inputs of each kind are tried."""
    shares = {kind: SHARES[kind.partition(".")[0]] for kind in kinds()}
    shares = {kind: share for kind, share in shares.items() if not chosen or kind in chosen}
    whole = sum(shares.values())
    return {kind: -(-count * share // whole) for kind, share in shares.items()}


def try_kind(kind: str, count: int, seed: int) -> list[Outcome]:
    """Try so many inputs of a kind, and say how they ended."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        honest = check_honest(kind, Path(folder))
        outcomes = [
            try_input(f"{kind}:{number}", drawn, honest, Path(folder))
            for number, drawn in enumerate(draw(kind, count, seed))
        ]
    found = Counter(item.status for item in outcomes)
    say(f"{kind:18} " + ", ".join(f"{number} {status}" for status, number in sorted(found.items())))
    return outcomes


def check_honest(kind: str, folder: Path) -> dict[str, Any]:
    """Return what was seen of the dataset that is spoilt, before it is."""
    _, honest, _ = kinds()[kind]
    report, shown = check(honest(), folder)
    if report.get("status") and honest():
        say(f"{kind}: the honest dataset is refused: {shown[-SHOWN_CHARACTERS:]}")
    return report


def check(tree: Tree, folder: Path) -> tuple[dict[str, Any], str]:
    """Write a dataset, check it in a child, and return what was seen and shown."""
    root = folder / "case"
    root.mkdir()
    try:
        write(root / "given", tree)
        report = run_in_child({"root": str(root), "command": ["check", str(root / "given")]})
        shown = (root / "said.txt").read_bytes() + (root / "errors.txt").read_bytes()
    finally:
        shutil.rmtree(root)
    return report, shown.decode("utf-8", errors="surrogateescape")


def write(folder: Path, tree: Tree) -> None:
    """Write a dataset; what cannot be a name, or lies where a file is, is left out."""
    folder.mkdir()
    for name, content in tree.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except (OSError, ValueError):
            continue


def try_input(name: str, drawn: Any, honest: dict[str, Any], folder: Path) -> Outcome:
    """Try one input."""
    tree, spoilt = make(name.partition(":")[0], drawn)
    report, shown = check(tree, folder)
    # Of a dataset that is refused as it is, no more can be said.
    why = judge(report, shown, "" if honest["status"] else spoilt, honest["grown_bytes"])
    status = "FAILS" if why else "is refused" if report["status"] else "passes"
    measured = (report.get("grown_bytes", 0), report.get("cpu_s", 0.0))
    outcome = Outcome(name, status, why, shown, *measured)
    if why:
        say(f"{name} FAILS: {why}\n  {json.dumps(drawn, default=repr)[:SHOWN_CHARACTERS]}")
    return outcome


def judge(report: dict[str, Any], shown: str, spoilt: str, need: int) -> str:
    """Return what must not be; nothing when all is well."""
    if "died" in report:
        return f"the check died: {report['died']}"
    if report["seen"]:
        return f"it did what it must not: {report['seen']}"
    if report["cpu_s"] > CPU_S:
        return f"it took {report['cpu_s']:.1f} s"
    if report["grown_bytes"] > need + MORE_BYTES:
        return f"it took {report['grown_bytes'] / 1e6:.0f} MB, honest {need / 1e6:.0f} MB"
    return judge_words(report["status"], shown, spoilt)


def judge_words(status: int, shown: str, spoilt: str) -> str:
    """Return what is wrong with what was shown."""
    if not 0 <= status < 10 or "Traceback" in shown:
        return f"it ended with status {status}: {shown[-SHOWN_CHARACTERS:]}"
    if strange := {letter for letter in shown if not letter.isprintable()} - {"\n", "\t"}:
        return f"it shows characters that drive a terminal: {strange}"
    if status and "What to do:" not in shown:
        return f"a refusal says no fix: {shown[-SHOWN_CHARACTERS:]}"
    if status and not names_it(shown, spoilt):
        return f"a refusal does not name {spoilt}: {shown[-SHOWN_CHARACTERS:]}"
    return ""


def names_it(shown: str, spoilt: str) -> bool:
    """Tell whether an error names a file; the voxels of an .mhd are a part of it."""
    names = [spoilt.partition(".")[0] + "." if spoilt.endswith("raw") else spoilt]
    if spoilt.endswith(".json"):
        # What it tells wrongly may be seen at a file that it is about.
        names.append(".nii.gz")
    errors = [line for line in shown.splitlines() if line.lower().startswith("error")]
    return any(name in line for name in names for line in errors)


def try_one(name: str, seed: int) -> int:
    """Try one input again, and print it and what is shown."""
    kind, _, number = name.rpartition(":")
    drawn = draw(kind, plan_of(kind, int(number)), seed)[int(number)]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        outcome = try_input(name, drawn, check_honest(kind, Path(folder)), Path(folder))
    say(f"{drawn!r}\n\n{outcome.shown}\n{name} {outcome.status} {outcome.why.partition(':')[0]}")
    return int(outcome.status == "FAILS")


def plan_of(kind: str, number: int) -> int:
    """Return how many inputs of a kind have to be drawn to have one of them again."""
    return max(number + 1, plan(COUNT, None).get(kind, 0))


def tell(outcomes: list[Outcome], seed: int, seconds: float) -> None:
    """Print how all ended, and how to try a failure again."""
    found = Counter(item.status for item in outcomes)
    ends = ", ".join(f"{number} {status}" for status, number in sorted(found.items()))
    memory = max(item.grown_bytes for item in outcomes) / 1e6
    slowest = max(item.cpu_s for item in outcomes)
    say(f"{len(outcomes)} inputs in {seconds:.0f} s: {ends}")
    say(f"at most {slowest:.1f} s and {memory:.0f} MB each")
    failed = [item.name for item in outcomes if item.status == "FAILS"]
    if failed:
        say(f"again: python tests/fuzz/fuzz.py --seed {seed} --only {failed[0]}")
        say("failed: " + " ".join(failed[:SHOWN_NAMES]))


if __name__ == "__main__":
    raise SystemExit(main())
