"""What has to hold after a fault, and after the same command has been given again."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_desk import MINUTES, Desk, Stamp, litter, new_models, stamps
from fault_kinds import Fault, put_back_files
from fault_process import Ended, fork_command

from nnunet_medseg.budget.epochs import nominal_epoch_s, tolerance_s
from nnunet_medseg.errors import BudgetError, DatasetError
from nnunet_medseg.files import hash_file
from nnunet_medseg.nnunet.history import Epoch, read_history

KILLED = -9
SECOND_CTRL_C = -2
INTERRUPTED = (129, 130, 143)
DOCUMENTED = {0, *range(2, 10), *INTERRUPTED}
BUSY = "busy"
TOLD = ("What to do", "The model is in")
MAX_TRIES = 3
RATE_TOLERANCE = 1.001
# Half a minute passes until a process that hangs is noticed: longer than these trainings.
WAITING = ("hang-loader", "kill-loader")
WARM_UP_SHARE = 0.02
ASKED_S = 60 * MINUTES
SLACK_S = 2.0


@dataclass
class Result:
    """What came of a fault.

    Attributes:
        fault: Which one.
        lost, stuck, traceback, other: What did not hold, in words.
        codes: Exit statuses: of the command with the fault, and of those after it.
        notes: What the messages asked for, and the like.
    """

    fault: Fault
    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    traceback: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    codes: list[int | None] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    text: str = ""
    skipped: bool = False

    @property
    def outcome(self) -> str:
        """The worst that happened, in a word."""
        if self.skipped:
            return "skipped"
        words = ("lost", "stuck", "traceback", "other")
        return next((word for word in words if getattr(self, word)), "ok")

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain types."""
        problems = {
            word: found
            for word in ("lost", "stuck", "traceback", "other")
            if (found := getattr(self, word))
        }
        return {
            "fault": self.fault.name,
            "outcome": self.outcome,
            "codes": self.codes,
            "notes": self.notes,
            "seconds": round(self.seconds, 1),
            **problems,
            **({"text": self.text[-20000:]} if problems else {}),
        }


def judge_words(result: Result, ended: Ended, *, may_die: bool) -> None:
    """Look at the end of a command: its status, its words, and what it left running."""
    result.codes.append(ended.code)
    result.text += f"\n--- {ended.code} after {ended.seconds:.1f} s\n{ended.text}"
    if ended.code is None:
        result.stuck.append(f"no end after {ended.seconds:.0f} s")
        return
    if ended.leftover:
        result.other.append(f"still running: {'; '.join(ended.leftover)}")
    if "Traceback" in ended.text:
        result.traceback.append("a traceback was printed")
    is_told = any(word in ended.text for word in TOLD)
    # A second Ctrl-C at the last breath: 130, as shells report it.
    if (ended.code == KILLED and may_die) or (ended.code == SECOND_CTRL_C and is_told):
        return
    if ended.code not in DOCUMENTED:
        result.other.append(f"exit status {ended.code}")
    elif ended.code != 0 and not is_told:
        result.other.append("no word of what to do")


def judge_input(result: Result, desk: Desk, before: dict[str, Stamp]) -> None:
    """Look at what the user copied in, and at what was delivered earlier.

    What the fault itself has changed, added or removed is expected to be as it left it.
    """
    found = stamps(desk.input)
    expected = dict(before)
    for event in desk.noted("changed"):
        expected.pop(event["path"], None)
        if event["stamp"] is not None:
            stamp: Any = tuple(event["stamp"])
            if found.get(event["path"]) != stamp:
                result.lost.append(f"changed or added, and not kept: {event['path']}")
            found.pop(event["path"], None)
    beside = {name for name in expected if not name.startswith(f"{desk.dataset.name}/")}
    may_be_gone = set(expected) - beside if new_models(desk) else set()
    for name, stamp in expected.items():
        if found.get(name) != stamp and not (name in may_be_gone and name not in found):
            result.lost.append(f"of the user's and not as it was: {name}")


def judge_earlier(result: Result, desk: Desk, before: dict[str, Stamp]) -> None:
    """Look at what was delivered earlier."""
    found = stamps(desk.output)
    touched = [name for name, stamp in before.items() if found.get(name) != stamp]
    if touched:
        result.lost.append(f"delivered earlier and touched: {', '.join(touched)}")


@dataclass(frozen=True)
class Mark:
    """How far a training was when its command ended.

    Attributes:
        epochs: Of the checkpoint.
        used_s: At the checkpoint.
        history: Its epochs, as written so far.
    """

    epochs: int
    used_s: float
    history: list[Epoch]


def mark_training(desk: Desk) -> Mark | None:
    """Return how far an unfinished training is; None where it has no readable checkpoint."""
    path = desk.training / "checkpoint.pth"
    if not path.exists():
        return None

    def read() -> dict[str, Any]:
        from nnunet_medseg.nnunet.weights import read_checkpoint

        content = read_checkpoint(path)
        return {"epochs": content["epoch"], "used_s": content["used_s"]}

    found = in_fork(desk, read)
    return None if found is None else Mark(**found, history=_safe_history(desk.training))


def _safe_history(folder: Path) -> list[Epoch]:
    path = folder / "history.jsonl"
    return read_history(path) if path.exists() else []


def in_fork(desk: Desk, read: Callable[[], Any]) -> Any:
    """Call a function in a process of its own; None where it fails.

    This process forks commands, and must not compute.
    """
    answer = desk.place / "answer.json"
    answer.unlink(missing_ok=True)

    def call() -> int:
        answer.write_text(json.dumps(read()))
        return 0

    fork_command(call, desk.place / "answer.txt", desk.temporary, lambda: None).wait()
    return json.loads(answer.read_text()) if answer.exists() else None


def judge_training(result: Result, desk: Desk, mark: Mark | None, *, is_continued: bool) -> None:
    """Look at the history of the training that was finished: its rates, and where it went on."""
    history = read_history(desk.kept_history)
    if not history:
        return
    for one, two in itertools.pairwise(history):
        is_warm = one.used_s > WARM_UP_SHARE * ASKED_S
        if is_warm and two.learning_rate > one.learning_rate * RATE_TOLERANCE:
            result.other.append(
                f"the rate jumps from {one.learning_rate:.4f} to {two.learning_rate:.4f}"
            )
        if two.used_s <= one.used_s or two.iterations <= one.iterations:
            result.other.append(f"epoch {two.number} is not after epoch {one.number}")
    last = history[-1]
    is_late = last.used_s > ASKED_S + tolerance_s(ASKED_S, last.iteration_s)
    if is_late and result.fault.kind not in WAITING and BUSY not in result.notes:
        result.other.append(f"the training used {last.used_s:.1f} s of {ASKED_S:.1f} s")
    if mark is not None and is_continued:
        _judge_continued(result, history, mark)


def _judge_continued(result: Result, history: list[Epoch], mark: Mark) -> None:
    kept = [epoch for epoch in mark.history if epoch.number <= mark.epochs]
    if history[: len(kept)] != kept:
        result.lost.append("epochs before the checkpoint are not in the history")
    after = next((epoch for epoch in history if epoch.number == mark.epochs + 1), None)
    if after is not None and after.used_s < mark.used_s:
        result.lost.append("the time used before is not counted")
    if mark.history and mark.history[-1].used_s - mark.used_s > nominal_epoch_s(ASKED_S) + SLACK_S:
        result.lost.append("the last checkpoint is older than it may be")


def judge_models(result: Result, desk: Desk, *, is_sample: bool) -> None:
    """Look at what was delivered: whole, readable, and for a sample: it predicts."""
    models = new_models(desk)
    if not models:
        result.lost.append("no model was delivered")
    for folder in models:
        problem = _damage_of(folder / "model") or in_fork(desk, lambda: _unreadable(folder))  # noqa: B023
        if problem:
            result.lost.append(f"{folder.name}: {problem}")
    if models and is_sample:
        _predict(result, desk, models[-1])


def _damage_of(model: Path) -> str:
    try:
        listed: dict[str, str] = json.loads((model / "manifest.json").read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        return f"its manifest cannot be read: {error!r}"
    present = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    if present != {*listed, "manifest.json"}:
        return "its files are not those of the manifest"
    damaged = [name for name, digest in listed.items() if hash_file(model / name) != digest]
    return f"damaged: {', '.join(damaged)}" if damaged else ""


def _unreadable(folder: Path) -> str:
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    model = folder / "model"
    plans = json.loads((model / "plans.json").read_text())
    ((_, chosen),) = plans["configurations"].items()
    network = chosen["architecture"]
    (path,) = model.glob("fold_*/checkpoint_final.pth")
    weights = torch.load(path, weights_only=True)["network_weights"]
    built = get_network_from_plans(
        network["network_class_name"],
        network["arch_kwargs"],
        network["_kw_requires_import"],
        1,
        len(json.loads((model / "dataset.json").read_text())["labels"]),
        deep_supervision=True,
    )
    built.load_state_dict(weights)
    finite = all(bool(tensor.isfinite().all()) for tensor in weights.values())
    return "" if finite else "its weights are no numbers"


def _predict(result: Result, desk: Desk, folder: Path) -> None:
    from nnunet_medseg.cli.main import exe_predict

    root = desk.place / "predict"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(folder, root / "model" / folder.name)
    shutil.copytree(desk.place / "images", root / "Input_nnUNet_predict")
    names = {path.name for path in (root / "Input_nnUNet_predict").iterdir()} | {"volumes.csv"}
    call = fork_command(
        lambda: exe_predict(root, []), desk.place / "predict.txt", desk.temporary, lambda: None
    )
    ended = call.wait()
    made = {path.name for path in (root / "Output_nnUNet_predict").glob("*")}
    if ended.code != 0 or made != names:
        result.lost.append(f"{folder.name} does not predict: {ended.text[-500:]}")
    result.notes.append("predicted")


def finish(result: Result, desk: Desk, run_again: Callable[[tuple[str, ...]], Ended]) -> bool:
    """Give the same command again until it succeeds, as its messages say.

    Args:
        result: Takes what did not hold.
        desk: Where.
        run_again: Runs the command with further options.

    Returns:
        Whether the training was continued, not begun anew.
    """
    options: tuple[str, ...] = ()
    is_continued = True
    for _ in range(MAX_TRIES):
        ended = run_again(options)
        judge_words(result, ended, may_die=False)
        if ended.code == 0:
            return is_continued
        is_put_back = "files back" in result.notes or not desk.noted("changed")
        asked = _what_is_asked(ended, options, is_put_back=is_put_back)
        if asked is None:
            break
        result.notes.append(asked)
        if asked == "files back":
            put_back_files(desk)
            options = ()
        elif asked.startswith("--"):
            options = (asked,)
            is_continued = asked == "--resume"
        elif asked == BUSY:
            # Other programs take the cores just now; a longer training is another one.
            options = ("--fresh", "-t", str(3 * MINUTES))
            is_continued = False
    result.lost.append("the same command again does not finish")
    return is_continued


def _what_is_asked(ended: Ended, options: tuple[str, ...], *, is_put_back: bool) -> str | None:
    _, _, fix = ended.text.rpartition("What to do")
    if "--resume" in fix and "--resume" not in options:
        return "--resume"
    is_about_files = "Put" in fix or ended.code == DatasetError.exit_code
    if is_about_files and not is_put_back:
        return "files back"
    if "--fresh" in fix and "--fresh" not in options:
        return "--fresh"
    if ended.code == BudgetError.exit_code and "just now" in ended.text:
        return BUSY
    return "again" if "same command" in fix else None


def judge_rest(result: Result, desk: Desk) -> None:
    """Look at what a finished command must not leave behind."""
    from filelock import FileLock, Timeout

    shared = shared_memory_of(event["pid"] for event in desk.noted("process"))
    if result.fault.kind == "kill-group":
        # With the group dies the process of Python that removes semaphores, of 32 bytes each.
        result.notes += shared
        shared = []
    found = litter(desk) + shared
    if result.fault.place == "delivery":
        # Where the model was being built stood in the file that is damaged.
        found = [name for name in found if ".unfinished-" not in name]
    if found:
        result.other.append(f"left behind: {', '.join(found)}")
    try:
        with FileLock(desk.work / "lock", timeout=0):
            pass
    except Timeout:
        result.other.append("the lock is still held")


def shared_memory_of(pids: Iterable[int]) -> list[str]:
    """Return the names of shared memory that processes have left behind; each holds its maker."""
    folder = Path("/dev/shm")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return [name for name in names if any(str(pid) in re.split(r"[-_.]", name) for pid in pids)]
