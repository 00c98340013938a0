"""Break the real command on purpose, many times, everywhere, and count.

`python tests/faults/faults.py` runs the whole plan; `--short` a part of it; `--only NAME` one row.
Each row is named KIND:PLACE:SEED and is repeatable alone. With PYTHONPATH pointing elsewhere,
another copy of the program is tried.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fault_checks import (
    INTERRUPTED,
    Result,
    finish,
    judge_earlier,
    judge_input,
    judge_models,
    judge_rest,
    judge_training,
    judge_words,
    mark_training,
)
from fault_desk import OPTIONS, STAGES, Desk, forget_states, make_desk, new_models, restore, stamps
from fault_kinds import (
    ACTIONS,
    MODEL_FILES,
    MOUNTED,
    NEED_MOUNTS,
    ROOMY,
    TRUNCATED,
    Fault,
    Injection,
    enter_namespace,
    make_old,
    mount,
    put_back,
    state_of,
    take_states,
    truncate,
)
from fault_process import (
    REPOSITORY,
    Command,
    Ended,
    fork_command,
    import_everything,
    kill_session,
)

SEED = 1
SLOTS = 2
SAMPLE = 8  # each so many-th fault ends with a real prediction
UNIT_PATIENCE_S = 400.0
NAME_BYTES = 96  # of a row in the pipe that hands the rows out
COLD_PATIENCE_S = 200.0
PREPARING_TRIES = 3  # a machine that is busy just now has no time for a tiny training

Before = tuple[str, ...]


# --- the plan ------------------------------------------------------------------------------------


def make_plan(seed: int = SEED) -> list[Fault]:
    """Return all faults; another seed means other instants, sizes and victims."""
    before = [f"before-{stage}" for stage in STAGES]
    after = [f"after-{stage}" for stage in STAGES]
    late = ["before-evaluate", "before-bundle", "in-verify", "before-deliver", "before-clean"]
    then = [f"then-{stage}" for stage in STAGES[5:]]
    disk = [f"before-{stage}" for stage in STAGES[1:]]
    places: dict[str, Sequence[str]] = {
        "kill": [*before, *after, "in-plan", *["in-train"] * 3, *["any"] * 4, *["opening"] * 3],
        "int": [*before, *then, *["in-train"] * 3, "in-verify", *["any"] * 3, "opening"],
        "term": [*before, *then, *["in-train"] * 3, "in-verify", *["any"] * 3, "opening"],
        "int-twice": ["before-plan", *["in-train"] * 3, *late, *then[:5], "any", "any"],
        "hup": ["before-check", "before-plan", *["in-train"] * 2, *late, *then[:5], "any"],
        "kill-group": ["in-plan", "in-train", "in-verify", "before-deliver", "any", "opening"],
        "int-group": ["in-plan", "in-train", "in-verify", "in-preprocess", "any", "any"],
        "term-group": ["in-plan", "in-train", "in-verify", "in-preprocess", "any", "any"],
        "hup-group": ["in-plan", "in-train", "in-verify", "any"],
        "kill-loader": ["in-train"] * 3,
        "term-loader": ["in-train"],
        "int-loader": ["in-train"],
        "hup-loader": ["in-train"],
        "hang-loader": ["in-train"] * 2,
        "memory-loader": ["in-train"] * 2,
        "kill-worker": ["before-plan", "before-preprocess"],
        "term-worker": ["before-plan", "before-preprocess"],
        "memory-worker": ["before-plan", "before-preprocess"],
        "kill-proof": ["before-verify"],
        "memory-proof": ["before-verify"],
        "memory-main": ["before-convert", "before-evaluate", "before-bundle"],
        "memory-step": ["in-train"] * 2,
        "memory-step-cpu": ["in-train"] * 2,
        "nan-once": ["before-train", "in-train"],
        "nan-always": ["in-train"],
        "explode-once": ["before-train", "in-train"],
        "explode-always": ["in-train"],
        "clock-forwards": ["any", "in-plan", "in-train", "before-evaluate"],
        "clock-backwards": ["any", "in-plan", "in-train", "before-evaluate"],
        "file-size": [*before[:6], "in-train", "before-bundle"],
        "disk-full-work": [*disk, "in-train"],
        "disk-full-output": ["before-bundle", "before-verify", "before-deliver", "before-clean"],
        "disk-full-temporary": ["before-plan", "before-train", "before-verify"],
        "readonly-output": ["before-plan", "before-bundle", "before-deliver"],
        "readonly-work": ["before-convert", "before-plan", "before-train", "before-evaluate"],
        "unreadable-input": [*before[1:5], "before-evaluate", "before-verify", "before-clean"],
        "input-away": [*before[1:6], "before-verify", "before-clean"],
        "file-changes": [*before[1:6], "before-verify", "before-clean"],
        "file-added": ["before-convert", "in-train", "before-verify", "before-clean"],
        "file-removed": [*before[1:6], "before-verify", "before-clean"],
        "two-commands": ["before-check", "in-train", "before-verify"],
        "stale-lock": ["fresh", "in-train", "before-verify"],
        "old-journal": ["before-plan", "in-train", "before-clean"],
    }
    faults = [
        Fault(kind, place, seed + list(where)[:number].count(place))
        for kind, where in places.items()
        for number, place in enumerate(where)
    ]
    faults += [
        Fault("truncated", place, seed + number + 2 * half)
        for number, place in enumerate([*TRUNCATED, *MODEL_FILES])
        for half in (0, 1)
    ]
    return faults + _cold_starts(seed)


def _cold_starts(seed: int) -> list[Fault]:
    kinds = ("kill", "term", "int", "int-twice", "hup")
    return [
        Fault(f"cold-{kind}", place, seed)
        for kind in kinds
        for place in ("starting", "preparing", "in-train", "after-train")
    ]


SHORT = (
    "kill:before-plan:1",
    "kill:in-train:1",
    "int:in-train:1",
    "kill:before-deliver:1",
    "file-changes:before-clean:1",
    "disk-full-work:before-train:1",
    "kill-worker:before-preprocess:1",
    "truncated:journal:0",
    "two-commands:before-verify:1",
)


def read_fault(name: str) -> Fault:
    """Return the fault of a name."""
    kind, place, seed = name.split(":")
    return Fault(kind, place, int(seed))


# --- one fault -----------------------------------------------------------------------------------


def call_of(desk: Desk, options: Sequence[str] = ()) -> Callable[[], int]:
    """Return the door of the command, with the options that all faults share."""
    from nnunet_medseg.cli.main import exe_train

    return lambda: exe_train(desk.root, [*OPTIONS, *options])


def start(desk: Desk, options: Sequence[str], prepare: Callable[[], None], name: str) -> Command:
    """Start the command in a forked process."""
    output = desk.place / f"{name}.txt"
    return fork_command(call_of(desk, options), output, desk.temporary, prepare)


def run_again(desk: Desk, options: Sequence[str] = ()) -> Ended:
    """Run the command without a fault."""

    def watch() -> None:
        from fault_kinds import watch_stages

        watch_stages(desk, lambda *_: None)

    return start(desk, options, watch, "again").wait()


def prepare_states(desk: Desk) -> None:
    """Run the command once undisturbed, and keep the desk as it was at each stage."""
    for _ in range(PREPARING_TRIES):
        restore(desk, "fresh")
        forget_states(desk)
        ended = start(desk, (), lambda: take_states(desk), "states").wait()
        if ended.code == 0:
            return
    raise RuntimeError(ended.text)


def run_fault(fault: Fault, desk: Desk) -> Result:
    """Let a fault happen, and see what comes of it."""
    result = Result(fault)
    started = time.monotonic()
    if fault.kind in NEED_MOUNTS:
        try:
            enter_namespace()
        except OSError as error:
            result.skipped = True
            result.notes.append(f"no mounts here: {error}")
            return result
        restore(desk, "fresh")
        for folder in MOUNTED:
            mount("none", getattr(desk, folder), "tmpfs", 0, ROOMY)
    restore(desk, state_of(fault) if not fault.kind.startswith("cold") else _cold_state(fault))
    before, earlier = stamps(desk.input), stamps(desk.output)
    earlier = {name: stamp for name, stamp in earlier.items() if not name.startswith(".")}
    _happen(result, desk)
    mark = mark_training(desk)
    put_back(fault, desk)
    judge_input(result, desk, before)
    judge_earlier(result, desk, earlier)
    _go_on(result, desk, mark)
    judge_input(result, desk, before)
    judge_earlier(result, desk, earlier)
    if "after the end" not in result.notes:
        judge_rest(result, desk)
    result.seconds = time.monotonic() - started
    return result


def _go_on(result: Result, desk: Desk, mark: Any) -> None:
    is_continued, is_over = True, result.codes[-1] == 0 or _is_delivered_early(result, desk)
    if not is_over:
        is_continued = finish(result, desk, lambda options: run_again(desk, options))
    else:
        result.notes.append("survived" if result.codes[-1] == 0 else "delivered early")
    judge_training(result, desk, mark, is_continued=is_continued)
    is_sample = random.Random(result.fault.name).randrange(SAMPLE) == 0
    judge_models(result, desk, is_sample=is_sample)


def _is_delivered_early(result: Result, desk: Desk) -> bool:
    """Tell whether a command that was ended has delivered what it had, and has nothing left to do.

    A signal may also come when all is done but the last breath.
    """
    code = result.codes[-1]
    has_ended = code is not None and (code in INTERRUPTED or code < 0)
    is_done = has_ended and bool(new_models(desk)) and not desk.run.exists()
    if is_done and code not in INTERRUPTED:
        result.other.clear()
        result.notes.append("after the end")
    return is_done


def _happen(result: Result, desk: Desk) -> None:
    fault = result.fault
    if fault.kind.startswith("cold-"):
        _cold(result, desk)
        return
    if fault.kind == "two-commands":
        _two_commands(result, desk)
        return
    standing = {"truncated": truncate, "old-journal": lambda _, desk: make_old(desk)}
    if fault.kind in standing:
        standing[fault.kind](fault, desk)
        result.codes.append(-int(signal.SIGKILL))
        return
    if fault.kind == "stale-lock":
        (desk.work / "lock").write_text("99999999")
        result.codes.append(-int(signal.SIGKILL))
        return
    ended = start(desk, (), Injection(fault, desk).install, "fault").wait()
    judge_words(result, ended, may_die="kill" in fault.kind)
    if not desk.noted("act"):
        result.notes.append("over before it happened")
    result.notes += [event["error"] for event in desk.noted("failed")]


def _two_commands(result: Result, desk: Desk) -> None:
    """Start a second command while the first one is at a place."""
    fault = result.fault
    other = Fault("hold", fault.place, fault.seed)
    ACTIONS["hold"] = lambda injection: _hold(injection)
    first = start(desk, (), Injection(other, desk).install, "fault")
    deadline = time.monotonic() + COLD_PATIENCE_S
    while not desk.noted("act") and time.monotonic() < deadline:
        time.sleep(0.02)
    second = start(desk, (), lambda: None, "second").wait()
    desk.flag.touch()
    result.text += second.text
    if second.code != 6 or "Another command is at work" not in second.text:
        result.other.append(f"the second command ended with {second.code}: {second.text[-300:]}")
    judge_words(result, first.wait(), may_die=False)
    if result.codes[-1] != 0:
        result.lost.append("the first command did not finish")


def _hold(injection: Injection) -> None:
    deadline = time.monotonic() + COLD_PATIENCE_S
    while not injection.desk.flag.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


# --- cold starts ---------------------------------------------------------------------------------


def _cold_state(fault: Fault) -> str:
    return {
        "starting": "fresh",
        "preparing": "fresh",
        "in-train": "in-train",
        "after-train": "before-evaluate",
    }[fault.place]


def _cold(result: Result, desk: Desk) -> None:
    """Start the real command as a user does, and send it a signal."""
    fault = result.fault
    chance = random.Random(fault.name)
    (desk.root / "exe_train.py").write_text((REPOSITORY / "exe_train.py").read_text())
    output = desk.place / "fault.txt"
    with output.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, str(desk.root / "exe_train.py"), *OPTIONS],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            env=os.environ | {"TMPDIR": str(desk.temporary)},
        )
    command = Command(process.pid, output, time.monotonic())
    _wait_for_place(command, desk, fault.place, chance)
    kind = fault.kind.removeprefix("cold-")
    number = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "hup": signal.SIGHUP}
    command.send(number.get(kind, signal.SIGINT))
    if kind == "int-twice":
        time.sleep(chance.uniform(0.1, 1.0))
        if not command.is_over():
            command.send(signal.SIGINT)
    ended = command.wait(COLD_PATIENCE_S)
    process.returncode = ended.code
    # Before its first word the interpreter itself ends as any program does.
    is_silent = ended.text == "" and not desk.run.exists()
    judge_words(result, ended, may_die=kind == "kill")
    if is_silent and ended.code in (-signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT):
        result.other.clear()


def _wait_for_place(command: Command, desk: Desk, place: str, chance: random.Random) -> None:
    if place == "starting":
        time.sleep(chance.uniform(0.05, 1.0))
        return
    waiting = {"preparing": "labels:", "in-train": "training on", "after-train": "going on"}
    deadline = time.monotonic() + COLD_PATIENCE_S
    while waiting[place] not in command.output.read_text():
        if command.is_over() or time.monotonic() > deadline:
            return
        time.sleep(0.05)
    time.sleep(chance.uniform(0.0, {"preparing": 4.0, "in-train": 3.0, "after-train": 8.0}[place]))


# --- many faults ---------------------------------------------------------------------------------


def work_off(rows: int, desk: Desk, results: Path) -> None:
    """Take faults from a pipe until it is empty, each in a process of its own."""
    prepare_states(desk)
    while row := os.read(rows, NAME_BYTES):
        fault = read_fault(row.decode().strip())
        pid = os.fork()
        if pid == 0:
            _run_and_write(fault, desk, results)
        _wait_for_unit(pid, fault, results)


def _run_and_write(fault: Fault, desk: Desk, results: Path) -> None:
    os.setpgid(0, 0)
    # Ignored where this runs in the background; a command that is started inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        result = run_fault(fault, desk)
    except BaseException:  # noqa: BLE001 told as a row of the table
        result = Result(fault, other=[f"the harness failed: {traceback.format_exc()}"])
    write_result(result, results)
    os._exit(0)


def write_result(result: Result, results: Path) -> None:
    """Add a line to the results, and tell."""
    handle = os.open(results, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(handle, (json.dumps(result.to_json()) + "\n").encode())
    os.close(handle)
    notes = f"  ({', '.join(result.notes)})" if result.notes else ""
    problems = [*result.lost, *result.stuck, *result.traceback, *result.other]
    codes = ", ".join(str(code) for code in result.codes)
    line = f"{result.outcome:<9} {result.fault.name:<36} {result.seconds:5.1f} s  [{codes}]{notes}"
    say("\n".join([line, *(f"          {problem}" for problem in problems)]))


def _wait_for_unit(pid: int, fault: Fault, results: Path) -> None:
    deadline = time.monotonic() + UNIT_PATIENCE_S
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        time.sleep(0.05)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    kill_session(pid)
    write_result(Result(fault, stuck=["the harness waited too long"]), results)


def say(text: str) -> None:
    """Print a line at once."""
    os.write(1, f"{text}\n".encode())


def run_all(faults: Sequence[Fault], folder: Path, slots: int, results: Path) -> None:
    """Run faults, several beside each other."""
    import_everything()
    rows, feed = os.pipe()
    os.set_blocking(feed, True)
    workers = []
    for slot in range(slots):
        pid = os.fork()
        if pid == 0:
            os.close(feed)
            code = 1
            try:
                work_off(rows, make_desk(folder / f"slot{slot}"), results)
                code = 0
            except BaseException:  # noqa: BLE001 the end of a process
                traceback.print_exc()
            finally:
                os._exit(code)
        workers.append(pid)
    os.close(rows)
    try:
        for fault in faults:
            os.write(feed, fault.name.ljust(NAME_BYTES).encode())
    except BrokenPipeError:
        say("no slot is left")
    os.close(feed)
    for pid in workers:
        os.waitpid(pid, 0)


def tell(results: Path, seconds: float) -> int:
    """Print the table kind x stage x outcome; return the number of faults that did not end well."""
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    table = Counter((*row["fault"].split(":")[:2], row["outcome"]) for row in rows)
    say(f"\n{'kind':<20} {'place':<20} outcome")
    for (kind, place, outcome), count in sorted(table.items()):
        say(f"{kind:<20} {place:<20} {outcome} {count}")
    outcomes = Counter(row["outcome"] for row in rows)
    cold = sum(row["fault"].startswith("cold-") for row in rows)
    shown = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    say(f"\n{len(rows)} faults in {seconds / 60:.1f} minutes, {cold} of them cold starts: {shown}")
    say(f"each fault in {results} is repeatable: tests/faults/faults.py --only NAME")
    return sum(count for outcome, count in outcomes.items() if outcome not in ("ok", "skipped"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the plan, or what was asked for; return 1 when any fault did not end well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="run a part of the plan")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these rows: KIND:PLACE:SEED")
    parser.add_argument("--kind", nargs="+", help="run the rows of these kinds")
    parser.add_argument("--seed", type=int, default=SEED, help="of instants, sizes and victims")
    parser.add_argument("--list", action="store_true", help="print the plan")
    parser.add_argument("--slots", type=int, default=SLOTS, help="how many beside each other")
    parser.add_argument("--results", type=Path, default=None, help="file of JSON lines")
    parser.add_argument("--folder", type=Path, default=None, help="where to work")
    options = parser.parse_args(arguments)
    faults = choose(options)
    if options.list:
        say("\n".join([*(fault.name for fault in faults), f"{len(faults)} faults"]))
        return 0
    folder = options.folder or Path(tempfile.mkdtemp(prefix="faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    results = options.results or folder / "results.jsonl"
    results.write_text("")
    say(f"{len(faults)} faults, seed {options.seed}, in {folder}")
    started = time.monotonic()
    run_all(faults, folder.resolve(), min(options.slots, len(faults)), results)
    failed = tell(results, time.monotonic() - started)
    is_complete = len(results.read_text().splitlines()) == len(faults)
    if options.folder is None and options.results is not None:
        shutil.rmtree(folder)
    return 0 if is_complete and not failed else 1


def choose(options: argparse.Namespace) -> list[Fault]:
    """Return the faults that were asked for."""
    if options.only:
        return [read_fault(name) for name in options.only]
    if options.short:
        return [read_fault(name) for name in SHORT]
    plan = make_plan(options.seed)
    return [fault for fault in plan if not options.kind or fault.kind in options.kind]


if __name__ == "__main__":
    raise SystemExit(main())
