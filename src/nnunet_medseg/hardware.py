"""What the machine has, and what that allows: cores, memory, disk, device."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from nnunet_medseg import console
from nnunet_medseg.errors import UsageError

__all__ = [
    "Device",
    "choose_device",
    "core_count",
    "describe_hardware",
    "free_disk_bytes",
    "free_memory_bytes",
    "freed_memory_kept",
    "give_memory_back",
    "held_memory_bytes",
    "kept_from_forks",
    "workers_for",
]

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
CGROUP_USAGE = Path("/sys/fs/cgroup/memory.current")
CGROUP_STATISTICS = Path("/sys/fs/cgroup/memory.stat")
USABLE_SHARE = 0.7  # of the free memory; the rest is for the main process and the system

# Of mallopt(3), from malloc.h of glibc. 32 MiB is the most that every glibc takes on 64 bits.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
LARGEST_KEPT_BYTES = 32 << 20
NEVER = -1
MMAP_MAX = 65536  # glibc's own
# As torch names what it was built for: sm_86, compute_120, sm_90a.
_BUILT_FOR = re.compile(r"(sm|compute)_(\d+)(\d)[a-z]?")
# Of madvise(2), from asm-generic/mman-common.h of Linux.
MADV_DONTFORK, MADV_DOFORK = 10, 11


@dataclass(frozen=True)
class Device:
    """The device that trains and predicts.

    Attributes:
        kind: "cpu" or "cuda".
        index: Number of the GPU as the system counts; 0 on a CPU.
        name: What to call it in front of a person.
        has_fast_bf16: Whether the hardware itself computes in bfloat16.
    """

    kind: str
    index: int
    name: str
    has_fast_bf16: bool


def describe_hardware(device: Device) -> str:
    """Return what computed, for people: the device, the cores, the memory; no name of a machine."""
    memory_gb = psutil.virtual_memory().total / 1e9
    cores = "" if device.kind == "cpu" else f", {core_count()} cores"
    return f"{device.name}{cores}, {memory_gb:.0f} GB of memory"


def core_count() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory_bytes() -> int:
    """Return the memory that is free, within the limit of a container if there is one."""
    free = int(psutil.virtual_memory().available)
    if CGROUP_LIMIT.is_file() and CGROUP_USAGE.is_file():
        limit = CGROUP_LIMIT.read_text(encoding="ascii").strip()
        if limit.isdigit():
            used = int(CGROUP_USAGE.read_text(encoding="ascii")) - _cached_bytes()
            free = min(free, max(0, int(limit) - used))
    return free


def _cached_bytes() -> int:
    # The kernel counts files it has read as used, and gives that memory back on demand.
    if not CGROUP_STATISTICS.is_file():
        return 0
    lines = CGROUP_STATISTICS.read_text(encoding="ascii").splitlines()
    return int(dict(line.split() for line in lines).get("inactive_file", 0))


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let glibc keep the memory that is freed within, and give it back at the end.

    A step of a training takes and frees the same memory as the last one. By itself glibc gives much
    of it back to the system each time, which clears every page when it is taken again
    (docs/concepts/budget.md). Blocks of more than 32 MiB are kept too, since none is mapped apart.

    Not to be nested. What glibc would learn by itself about large blocks stays switched off after
    it, at the values where that ends. Without glibc nothing is changed.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        if libc is not None:
            libc.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_KEPT_BYTES)
            libc.mallopt(M_MMAP_MAX, MMAP_MAX)
        give_memory_back()


@contextmanager
def kept_from_forks(blocks: Iterable[tuple[int, int]]) -> Iterator[None]:
    """Leave blocks of memory out of the processes that are forked within.

    A forked process holds on to the memory as it was: when this one writes into it, the system
    copies it first. A process that never looks at a block need not hold it; one that does look
    ends there, by SIGSEGV.

    Args:
        blocks: Address and length in bytes of each. Of a block the whole pages are left out.
            Without glibc, and where the system refuses, all are forked as ever.
    """
    libc, pages = _glibc(), [_whole_pages(*block) for block in blocks]
    try:
        _advise(libc, pages, MADV_DONTFORK)
        yield
    finally:
        _advise(libc, pages, MADV_DOFORK)


def _whole_pages(address: int, length: int) -> tuple[int, int]:
    first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    return first, max(0, (address + length - first) // mmap.PAGESIZE * mmap.PAGESIZE)


def _advise(libc: ctypes.CDLL | None, pages: Iterable[tuple[int, int]], advice: int) -> None:
    if libc is not None:
        for address, length in pages:
            libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), advice)


def give_memory_back() -> None:
    """Let glibc give the system what has been freed and kept; without glibc nothing is done."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def free_disk_bytes(folder: Path) -> int:
    """Return the free bytes of the disk that holds a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def workers_for(need_bytes: float, items: int) -> int:
    """Return how many workers fit: at most a core each, at most what the free memory holds.

    Args:
        need_bytes: Memory of the largest item.
        items: Number of items.

    Returns:
        At least 1: when one item does not fit, trying is all that is left.

    Examples:
        >>> workers_for(1.0, items=1)
        1
    """
    by_memory = int(USABLE_SHARE * free_memory_bytes() / max(need_bytes, 1.0))
    return max(1, min(core_count(), items, by_memory))


def held_memory_bytes(device: Device) -> int:
    """Return the memory that this process holds; on a GPU, the most since it was asked last.

    Workers are not counted.
    """
    if device.kind == "cuda":
        import torch

        peak = int(torch.cuda.max_memory_allocated(device.index))
        torch.cuda.reset_peak_memory_stats(device.index)
        return peak
    return int(psutil.Process().memory_info().rss)


def choose_device(wish: str) -> Device:
    """Return the device for a wish of the user.

    Args:
        wish: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        UsageError: When the wish is not one of these, there is no such GPU, or torch has no code
            for it; with "auto" the CPU is taken then, and a warning says so.
    """
    import torch

    kind, _, number = wish.lower().partition(":")
    if kind not in {"auto", "cpu", "cuda"} or (
        number and not (kind == "cuda" and number.isdecimal())
    ):
        problem = f"--device {wish} is not a device."
        raise UsageError(problem, fix="Use auto, cpu, cuda or cuda:0, cuda:1 …")
    index = int(number or 0)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and index >= found:
        problem = f"--device {wish}: this machine shows {found} usable GPU{'s' * (found != 1)}."
        raise UsageError(problem, fix="Use --device cpu, or check the GPU driver with nvidia-smi.")
    if kind == "cpu" or found == 0:
        return _cpu()
    name = str(torch.cuda.get_device_name(index))
    if not _has_kernels(index):
        problem = f"The installed torch {torch.__version__} has no code for the GPU {name}."
        if kind == "cuda":
            fix = "Install a torch that is made for this GPU, or use --device cpu."
            raise UsageError(problem, fix=fix)
        console.warn(f"{problem} The CPU computes; a torch that is made for this GPU would use it")
        return _cpu()
    with torch.cuda.device(index):
        has_bf16 = bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return Device("cuda", index, name, has_bf16)


def _cpu() -> Device:
    return Device("cpu", 0, f"CPU with {core_count()} cores", _cpu_has_bf16())


def _has_kernels(index: int) -> bool:
    """Tell whether torch was built for a GPU, as its wheels no longer are for old ones.

    Code for one GPU runs on later ones of the same generation (its major number); what the driver
    translates, which is called compute, on all later ones.
    """
    import torch

    capability = torch.cuda.get_device_capability(index)
    built = [_BUILT_FOR.fullmatch(name) for name in torch.cuda.get_arch_list()]
    # A build for GPUs of AMD names none of these.
    known = [(match[1], (int(match[2]), int(match[3]))) for match in built if match]
    return not known or any(
        version <= capability and (kind == "compute" or version[0] == capability[0])
        for kind, version in known
    )


def _cpu_has_bf16() -> bool:
    import torch

    # Emulated bfloat16 is slower than float32, so only instructions in silicon count.
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
