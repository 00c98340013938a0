"""What can go wrong: each kind of fault, as it is brought about inside of the command's process.

The product has no hooks for this: its functions are wrapped in the forked process before the
command is called.
"""

from __future__ import annotations

import ctypes
import functools
import json
import math
import os
import random
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import psutil
from fault_desk import STAGES, Desk, save, stamps

SECOND_SIGNAL_S = (0.05, 1.0)
LOADER_PATIENCE_S = 20.0
FILE_SIZES = (3_000, 20_000, 100_000, 400_000)
DURATIONS_S = {"plan": 0.9, "preprocess": 0.15, "train": 5.5, "verify": 0.3}
WHOLE_RUN_S = 7.5
OPENING_S = 0.3
PAGE_BYTES = 4096

# linux/capability.h and linux/mount.h
CAP_VERSION = 0x20080522
DAC_OVERRIDE, DAC_READ_SEARCH = 1, 2
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE = 1, 32, 16384, 1 << 18
ROOMY = "size=4g"

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Fault:
    """A fault that can be repeated alone.

    Attributes:
        kind: What goes wrong.
        place: When: `before-STAGE`, `after-STAGE`, `in-STAGE`; `then-STAGE`, before a stage that
            follows a training of the same command; `any`, `opening`; or what is truncated.
        seed: Of the instant, the size, the victim.
    """

    kind: str
    place: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.place}:{self.seed}"

    @property
    def stage(self) -> str:
        return self.place.partition("-")[2]


class Injection:
    """Watches a command in its own process, and lets the fault happen once at its place."""

    def __init__(self, fault: Fault, desk: Desk) -> None:
        self.fault = fault
        self.desk = desk
        self.random = random.Random(fault.name)
        self.has_acted = False

    def install(self) -> None:
        """Wrap what has to be wrapped; call it before the command."""
        watch_stages(self.desk, self._at)
        prepare = PREPARATIONS.get(self.fault.kind)
        if prepare is not None:
            prepare(self)
        if self.fault.place == "any":
            self._act_in(self.random.uniform(0, WHOLE_RUN_S))
        elif self.fault.place == "opening":
            self._act_in(self.random.uniform(0, OPENING_S))

    def _at(self, when: str, stage: str) -> None:
        if self.fault.place in (f"{when}-{stage}", f"then-{stage}" if when == "before" else ""):
            self.act()
        elif when == "before" and self.fault.place == f"in-{stage}":
            self._act_in(self.random.uniform(0, DURATIONS_S.get(stage, 0.05)))

    def _act_in(self, seconds: float) -> None:
        timer = threading.Timer(seconds, self.act)
        timer.daemon = True
        timer.start()

    def act(self) -> None:
        """Let it happen, once."""
        if self.has_acted:
            return
        self.has_acted = True
        self.desk.note(event="act", at=time.monotonic())
        try:
            ACTIONS[self.fault.kind](self)
        except OSError as error:
            self.desk.note(event="failed", error=repr(error))


def watch_stages(desk: Desk, at: Callable[[str, str], None]) -> None:
    """Call a function before and after each stage, and keep the history of the training."""
    from nnunet_medseg.run_folder import RunFolder

    desk.note(event="process", pid=os.getpid())
    original = RunFolder.recording

    @contextmanager
    def recording(self: RunFolder, stage: str, *least_s: Any) -> Iterator[None]:
        desk.note(event="begin", stage=stage)
        at("before", stage)
        with original(self, stage, *least_s):
            yield
        if stage == "train" and (desk.training / "history.jsonl").exists():
            shutil.copy(desk.training / "history.jsonl", desk.kept_history)
        desk.note(event="end", stage=stage)
        at("after", stage)

    RunFolder.recording = recording  # type: ignore[method-assign]


def take_states(desk: Desk) -> None:
    """In an undisturbed run: copy the desk before each stage, and at the second checkpoint."""
    from nnunet_medseg.nnunet.trainer import BudgetedTrainer

    watch_stages(desk, lambda when, stage: save(desk, f"{when}-{stage}") if when == "before" else 0)
    original = BudgetedTrainer.save_checkpoint
    written: list[str] = []

    def save_checkpoint(self: Any, filename: str) -> None:
        original(self, filename)
        written.append(filename)
        if len(written) == 2:
            save(desk, "in-train")

    BudgetedTrainer.save_checkpoint = save_checkpoint


# --- signals -------------------------------------------------------------------------------------


def _to_main(kind: signal.Signals) -> Callable[[Injection], None]:
    return lambda _: os.kill(os.getpid(), kind)


def _to_group(kind: signal.Signals) -> Callable[[Injection], None]:
    return lambda _: os.killpg(0, kind)


def _twice(kind: signal.Signals) -> Callable[[Injection], None]:
    def act(injection: Injection) -> None:
        pid = os.getpid()
        delay = injection.random.uniform(*SECOND_SIGNAL_S)
        timer = threading.Timer(delay, lambda: os.kill(pid, kind))
        timer.daemon = True
        timer.start()
        os.kill(pid, kind)

    return act


def _to_loader(kind: signal.Signals) -> Callable[[Injection], None]:
    def act(injection: Injection) -> None:
        def strike() -> None:
            deadline = time.monotonic() + LOADER_PATIENCE_S
            while not (found := _loaders()) and time.monotonic() < deadline:
                time.sleep(0.02)
            if found:
                victim = injection.random.choice(found)
                injection.desk.note(event="victim", pid=victim.pid)
                victim.send_signal(kind)

        threading.Thread(target=strike, daemon=True).start()

    return act


def _loaders() -> list[psutil.Process]:
    server = forkserver._forkserver._forkserver_pid
    tracker = forkserver.resource_tracker._resource_tracker._pid
    return [child for child in psutil.Process().children() if child.pid not in (server, tracker)]


# --- what is wrapped before the command starts ---------------------------------------------------


def _wrap(module: Any, name: str, around: Callable[..., Any]) -> None:
    """Replace a function by one that calls `around(original, *arguments)`."""
    original = getattr(module, name)

    @functools.wraps(original)
    def replaced(*arguments: Any, **named: Any) -> Any:
        return around(original, *arguments, **named)

    setattr(module, name, replaced)


def _take(flag: Path) -> bool:
    """Tell whether the flag was there; only one process gets it."""
    try:
        flag.unlink()
    except FileNotFoundError:
        return False
    return True


def _raise_flag(injection: Injection) -> None:
    injection.desk.flag.touch()


def _strike_workers(strike: Callable[[], None]) -> Callable[[Injection], None]:
    def prepare(injection: Injection) -> None:
        from nnunet_medseg.nnunet import planning

        main = os.getpid()

        def around(original: Callable[[Any], Any], job: Any) -> Any:
            if os.getpid() != main and _take(injection.desk.flag):
                strike()
            return original(job)

        for name in ("_analyse", "_preprocess_case"):
            _wrap(planning, name, around)

    return prepare


def _strike_proof(strike: Callable[[], None]) -> Callable[[Injection], None]:
    def prepare(injection: Injection) -> None:
        from nnunet_medseg.bundle import verify

        def around(original: Callable[[Any], Any], proof: Any) -> Any:
            if _take(injection.desk.flag):
                strike()
            return original(proof)

        _wrap(verify, "_check", around)

    return prepare


def _run_out_of_memory() -> None:
    raise MemoryError


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _memory_in_loader(injection: Injection) -> None:
    from nnunet_medseg.nnunet.cases import SafeLoader

    def around(original: Callable[[Any], Any], loader: Any) -> Any:
        if _take(injection.desk.flag):
            raise MemoryError
        return original(loader)

    _wrap(SafeLoader, "generate_train_batch", around)


def _memory_in_step(error: Callable[[], Exception]) -> Callable[[Injection], None]:
    def prepare(injection: Injection) -> None:
        from nnunet_medseg.nnunet.trainer import BudgetedTrainer

        def around(original: Callable[..., Any], trainer: Any, batch: Any) -> Any:
            if _take(injection.desk.flag):
                raise error()
            return original(trainer, batch)

        _wrap(BudgetedTrainer, "train_step", around)

    return prepare


def _cuda_memory() -> Exception:
    import torch

    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _cpu_memory() -> Exception:
    return RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes.")


def _spoil_loss(spoiled: float, *, for_ever: bool) -> Callable[[Injection], None]:
    def prepare(injection: Injection) -> None:
        from nnunet_medseg.nnunet.trainer import BudgetedTrainer

        def around(original: Callable[[Any], Any], trainer: Any) -> Any:
            loss = original(trainer)

            def spoil(*arguments: Any) -> Any:
                is_spoiled = (
                    injection.desk.flag.exists() if for_ever else _take(injection.desk.flag)
                )
                value = loss(*arguments)
                return value * 0 + spoiled if is_spoiled else value

            return spoil

        _wrap(BudgetedTrainer, "_build_loss", around)

    return prepare


# --- disks, files and clocks ---------------------------------------------------------------------


def _limit_file_size(injection: Injection) -> None:
    size = injection.random.choice(FILE_SIZES)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _fill(folder: str) -> Callable[[Injection], None]:
    def act(injection: Injection) -> None:
        path = getattr(injection.desk, folder)
        disk = os.statvfs(path)
        used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
        room = injection.random.choice((0, 0, 8_192, 131_072, 1_000_000))
        # Nought would mean no limit.
        mount("none", path, None, MS_REMOUNT, f"size={max(used + room, PAGE_BYTES)}")

    return act


def _make_read_only(injection: Injection) -> None:
    mount("none", injection.desk.output, None, MS_REMOUNT | MS_RDONLY, None)


def _forbid_writing(injection: Injection) -> None:
    for folder in (injection.desk.work, *injection.desk.work.rglob("*")):
        if folder.is_dir() and not folder.is_symlink():
            folder.chmod(0o500)


def _forbid_reading(injection: Injection) -> None:
    injection.desk.input.chmod(0)


def _take_input_away(injection: Injection) -> None:
    injection.desk.input.rename(injection.desk.place / "away")


def _some_file(injection: Injection) -> Path:
    files = sorted(injection.desk.dataset.rglob("*.nii.gz"))
    return injection.random.choice(files)


def _change_file(injection: Injection) -> None:
    path = _some_file(injection)
    path.write_bytes(path.read_bytes() + b"\0")
    _note_change(injection, path)


def _add_file(injection: Injection) -> None:
    path = injection.desk.dataset / "patient_99" / "img.nii.gz"
    path.parent.mkdir(exist_ok=True)
    shutil.copy(_some_file(injection), path)
    _note_change(injection, path)


def _remove_file(injection: Injection) -> None:
    path = _some_file(injection)
    path.unlink()
    name = path.relative_to(injection.desk.input).as_posix()
    injection.desk.note(event="changed", path=name, stamp=None)


def _note_change(injection: Injection, path: Path) -> None:
    stamp = stamps(path.parent)[path.name]
    name = path.relative_to(injection.desk.input).as_posix()
    injection.desk.note(event="changed", path=name, stamp=stamp)


def _jump(direction: int) -> Callable[[Injection], None]:
    def act(injection: Injection) -> None:
        offset = direction * injection.random.choice((90.0, 3600.0, 40 * 86400.0))
        original, original_ns = time.time, time.time_ns
        time.time = lambda: original() + offset
        time.time_ns = lambda: original_ns() + int(offset * 1e9)

    return act


def _drop_rights(_: Injection) -> None:
    """Let permissions hold for the superuser too, in this process and those it forks."""
    if os.geteuid() != 0:
        return
    header = (ctypes.c_uint32 * 2)(CAP_VERSION, 0)
    data = (ctypes.c_uint32 * 6)()
    _check(_libc.capget(header, data))
    for word in (0, 1):
        data[word] &= ~(1 << DAC_OVERRIDE | 1 << DAC_READ_SEARCH)
    _check(_libc.capset(header, data))


def mount(source: str, target: Path, kind: str | None, flags: int, options: str | None) -> None:
    """Mount as mount(2) does."""
    _check(
        _libc.mount(
            source.encode(),
            str(target).encode(),
            None if kind is None else kind.encode(),
            ctypes.c_ulong(flags),
            None if options is None else options.encode(),
        )
    )


def enter_namespace() -> None:
    """Let this process and its children mount what nobody else sees.

    Raises:
        OSError: Where the system does not allow it.
    """
    user, group = os.getuid(), os.getgid()
    _check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNS))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    mount("none", Path("/"), None, MS_REC | MS_PRIVATE, None)


def make_room(desk: Desk) -> None:
    """Let the mounted folders of a desk be large, and be written to."""
    for folder in MOUNTED:
        mount("none", getattr(desk, folder), None, MS_REMOUNT, ROOMY)


def _check(status: int) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# --- the tables ----------------------------------------------------------------------------------

MOUNTED = ("work", "output", "temporary")
NEED_MOUNTS = {"disk-full-work", "disk-full-output", "disk-full-temporary", "readonly-output"}

ACTIONS: dict[str, Callable[[Injection], None]] = {
    "kill": _to_main(signal.SIGKILL),
    "term": _to_main(signal.SIGTERM),
    "int": _to_main(signal.SIGINT),
    "int-twice": _twice(signal.SIGINT),
    "hup": _to_main(signal.SIGHUP),
    "kill-group": _to_group(signal.SIGKILL),
    "term-group": _to_group(signal.SIGTERM),
    "int-group": _to_group(signal.SIGINT),
    "hup-group": _to_group(signal.SIGHUP),
    "kill-loader": _to_loader(signal.SIGKILL),
    "term-loader": _to_loader(signal.SIGTERM),
    "int-loader": _to_loader(signal.SIGINT),
    "hup-loader": _to_loader(signal.SIGHUP),
    "hang-loader": _to_loader(signal.SIGSTOP),
    "memory-loader": _raise_flag,
    "kill-worker": _raise_flag,
    "term-worker": _raise_flag,
    "memory-worker": _raise_flag,
    "kill-proof": _raise_flag,
    "memory-proof": _raise_flag,
    "memory-main": lambda _: _run_out_of_memory(),
    "memory-step": _raise_flag,
    "memory-step-cpu": _raise_flag,
    "nan-once": _raise_flag,
    "nan-always": _raise_flag,
    "explode-once": _raise_flag,
    "explode-always": _raise_flag,
    "clock-forwards": _jump(1),
    "clock-backwards": _jump(-1),
    "file-size": _limit_file_size,
    "disk-full-work": _fill("work"),
    "disk-full-output": _fill("output"),
    "disk-full-temporary": _fill("temporary"),
    "readonly-output": _make_read_only,
    "readonly-work": _forbid_writing,
    "unreadable-input": _forbid_reading,
    "input-away": _take_input_away,
    "file-changes": _change_file,
    "file-added": _add_file,
    "file-removed": _remove_file,
}

PREPARATIONS: dict[str, Callable[[Injection], None]] = {
    "memory-loader": _memory_in_loader,
    "kill-worker": _strike_workers(_die),
    "term-worker": _strike_workers(lambda: os.kill(os.getpid(), signal.SIGTERM)),
    "memory-worker": _strike_workers(_run_out_of_memory),
    "kill-proof": _strike_proof(_die),
    "memory-proof": _strike_proof(_run_out_of_memory),
    "memory-step": _memory_in_step(_cuda_memory),
    "memory-step-cpu": _memory_in_step(_cpu_memory),
    "nan-once": _spoil_loss(math.nan, for_ever=False),
    "nan-always": _spoil_loss(math.nan, for_ever=True),
    "explode-once": _spoil_loss(1e6, for_ever=False),
    "explode-always": _spoil_loss(1e6, for_ever=True),
    "readonly-work": _drop_rights,
    "unreadable-input": _drop_rights,
}


def put_back(fault: Fault, desk: Desk) -> None:
    """Undo what the user or the system would put right before the next command."""
    desk.flag.unlink(missing_ok=True)
    if fault.kind in NEED_MOUNTS:
        make_room(desk)
    away = desk.place / "away"
    if away.exists():
        if desk.input.exists():
            shutil.rmtree(desk.input)
        away.rename(desk.input)
    if fault.kind == "unreadable-input":
        desk.input.chmod(0o755)
    if fault.kind == "readonly-work":
        for folder in (desk.work, *desk.work.rglob("*")):
            if folder.is_dir() and not folder.is_symlink():
                folder.chmod(0o700)


def put_back_files(desk: Desk) -> None:
    """Put back the files of the dataset that a fault has removed or changed."""
    for event in desk.noted("changed"):
        original = desk.state("fresh") / desk.input.name / event["path"]
        if original.exists():
            (desk.input / event["path"]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(original, desk.input / event["path"])
        elif (desk.input / event["path"]).exists():
            shutil.rmtree((desk.input / event["path"]).parent)
    desk.forget("changed")


# --- files that a run was cut off in writing -----------------------------------------------------

# By the stage that reads it next: the run was killed before that one.
TRUNCATED: dict[str, tuple[str, str]] = {
    "journal": ("before-plan", "journal.json"),
    "journal-late": ("before-verify", "journal.json"),
    "journal-delivered": ("before-clean", "journal.json"),
    "inventory": ("before-plan", "inventory.json"),
    "inventory-late": ("before-clean", "inventory.json"),
    "check": ("before-convert", "check.json"),
    "check-late": ("before-evaluate", "check.json"),
    "findings": ("before-bundle", "findings.json"),
    "description": ("before-plan", "nnUNet_raw/*/dataset.json"),
    "fingerprint": ("before-preprocess", "fingerprints/*/dataset_fingerprint.json"),
    "plans": ("before-preprocess", "trainings/training/nnUNetPlans.json"),
    "plans-late": ("before-bundle", "trainings/training/nnUNetPlans.json"),
    "plan": ("before-train", "trainings/training/plan.json"),
    "images": ("before-train", "prepared/*/case_0002.b2nd"),
    "labels": ("before-train", "prepared/*/case_0002_seg.b2nd"),
    "locations": ("before-train", "prepared/*/case_0002_locations.npy"),
    "checkpoint": ("in-train", "trainings/training/checkpoint.pth"),
    "checkpoint-late": ("before-evaluate", "trainings/training/checkpoint.pth"),
    "history": ("in-train", "trainings/training/history.jsonl"),
    "training": ("before-evaluate", "trainings/training/training.json"),
    "reference": ("before-bundle", "trainings/training/reference.npz"),
    "evaluation": ("before-report", "trainings/training/evaluation.jsonl"),
    "quality": ("before-bundle", "quality.json"),
    "delivery": ("before-verify", "delivery.json"),
    "delivery-late": ("before-clean", "delivery.json"),
}
MODEL_FILES = {
    "model-weights": "model/fold_0/checkpoint_final.pth",
    "model-manifest": "model/manifest.json",
    "model-plans": "model/plans.json",
}
SHARES = (0.0, 0.3, 0.7, 0.99)


def truncate(fault: Fault, desk: Desk) -> None:
    """Cut a file of a killed run off."""
    if fault.place in MODEL_FILES:
        (path,) = desk.output.glob(f".*.unfinished-*/{MODEL_FILES[fault.place]}")
    else:
        path = next(iter(sorted(desk.run.glob(TRUNCATED[fault.place][1]))))
    size = path.stat().st_size
    kept = int(size * SHARES[fault.seed % len(SHARES)])
    with path.open("r+b") as stream:
        stream.truncate(min(kept, size - 1))


def make_old(desk: Desk) -> None:
    """Let the journal be one of an older version."""
    path = desk.run / "journal.json"
    journal = json.loads(path.read_text())
    path.write_text(json.dumps(journal | {"format": 2}))


def state_of(fault: Fault) -> str:
    """Return the state of the desk from which a fault starts."""
    if fault.kind == "truncated":
        if fault.place in MODEL_FILES:
            return "before-verify"
        return TRUNCATED[fault.place][0]
    if fault.place == "any":
        return "fresh"
    if fault.place == "opening":
        names = ["fresh", "in-train", *(f"before-{stage}" for stage in STAGES[1:])]
        return random.Random(fault.seed).choice(names)
    if fault.kind in ("old-journal", "stale-lock"):
        return fault.place
    if fault.place.startswith("then-"):
        return "in-train"
    return f"before-{fault.stage}"
