"""Cores, memory, disk and device."""

from __future__ import annotations

import mmap
import os
import platform
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from page_faults import PAGES, only_with_glibc

from nnunet_medseg import hardware
from nnunet_medseg.errors import UsageError
from nnunet_medseg.hardware import (
    choose_device,
    core_count,
    free_disk_bytes,
    free_memory_bytes,
    freed_memory_kept,
    give_memory_back,
    kept_from_forks,
    workers_for,
)

GIB = 1 << 30


@pytest.fixture
def container(tmp_path, monkeypatch):
    """Return a function that makes a container with a limit on a machine with 64 GiB free."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GIB))
    files = {"CGROUP_LIMIT": "memory.max", "CGROUP_USAGE": "memory.current"}
    files["CGROUP_STATISTICS"] = "memory.stat"
    for constant, name in files.items():
        monkeypatch.setattr(hardware, constant, tmp_path / name)

    def make(limit: str, used_bytes: int, cached_bytes: int = 0) -> None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used_bytes}\n")
        (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {cached_bytes}\nslab 2\n")

    return make


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90"])
    # What is emulated is supported as well, and slow.
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda *, including_emulation: including_emulation
    )


def test_there_is_a_core():
    assert core_count() >= 1


def test_without_a_container_the_free_memory_is_that_of_the_machine(container):
    assert free_memory_bytes() == 64 * GIB


def test_a_container_without_limit_has_the_memory_of_the_machine(container):
    container("max", 10 * GIB)

    assert free_memory_bytes() == 64 * GIB


def test_a_container_has_what_its_limit_leaves(container):
    container(str(8 * GIB), 3 * GIB)

    assert free_memory_bytes() == 5 * GIB


def test_what_the_kernel_caches_of_files_is_free(container):
    container(str(8 * GIB), 8 * GIB, cached_bytes=6 * GIB)

    assert free_memory_bytes() == 6 * GIB


def test_a_container_above_its_limit_has_nothing_free(container):
    container(str(8 * GIB), 9 * GIB)

    assert free_memory_bytes() == 0


def test_the_disk_of_a_folder_that_does_not_exist_yet_is_that_of_its_parent(tmp_path):
    assert free_disk_bytes(tmp_path / "a" / "b") > 0


@pytest.mark.parametrize(
    ("need_gib", "items", "workers"), [(1, 100, 8), (1, 3, 3), (20, 100, 3), (1000, 100, 1)]
)
def test_workers_are_limited_by_cores_items_and_memory(monkeypatch, need_gib, items, workers):
    monkeypatch.setattr(hardware, "core_count", lambda: 8)
    monkeypatch.setattr(hardware, "free_memory_bytes", lambda: 100 * GIB)

    assert workers_for(need_gib * GIB, items) == workers


@pytest.mark.parametrize("wish", ["auto", "cpu", "CPU"])
def test_without_a_gpu_the_cpu_computes(no_gpu, wish):
    device = choose_device(wish)

    assert (device.kind, device.index) == ("cpu", 0)


@pytest.mark.parametrize("wish", ["gpu", "cpu:0", "cuda:x", "cuda:²", "auto:1", "cuda:-1", ""])
def test_a_wish_that_is_no_device_is_refused(no_gpu, wish):
    with pytest.raises(UsageError, match="is not a device"):
        choose_device(wish)


@pytest.mark.parametrize("wish", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_refused(no_gpu, wish):
    with pytest.raises(UsageError, match="shows 0 usable GPUs"):
        choose_device(wish)


def test_a_gpu_beyond_the_last_is_refused(two_gpus):
    with pytest.raises(UsageError, match="shows 2 usable GPUs"):
        choose_device("cuda:2")


@pytest.mark.parametrize(("wish", "index"), [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_a_gpu_is_chosen_by_its_number(two_gpus, wish, index):
    device = choose_device(wish)

    assert (device.kind, device.index, device.name) == ("cuda", index, f"GPU {index}")
    assert not device.has_fast_bf16


def test_the_cpu_can_be_chosen_beside_gpus(two_gpus):
    assert choose_device("cpu").kind == "cpu"


OLD, NEW = (6, 1), (12, 0)


@pytest.mark.parametrize(
    ("capability", "built_for", "has_code"),
    [
        (OLD, ["sm_75", "sm_80"], False),
        ((8, 0), ["sm_86"], False),
        ((8, 9), ["sm_86"], True),
        (NEW, ["sm_90", "sm_120"], True),
        (NEW, ["sm_90", "sm_100"], False),
        (NEW, ["sm_90", "compute_90"], True),
        ((9, 0), ["sm_90a"], True),
        # Of AMD, and of a torch that does not tell.
        (OLD, ["gfx90a"], True),
        (OLD, [], True),
    ],
)
def test_a_gpu_for_which_torch_has_no_code_is_not_chosen(
    two_gpus, monkeypatch, capsys, capability, built_for, has_code
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built_for)

    device = choose_device("auto")

    assert device.kind == ("cuda" if has_code else "cpu")
    said = capsys.readouterr()
    assert ("has no code for the GPU GPU 0" in said.out + said.err) != has_code


def test_a_gpu_for_which_torch_has_no_code_is_refused_when_it_was_asked_for(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: OLD)

    with pytest.raises(UsageError, match="has no code for the GPU GPU 1") as refused:
        choose_device("cuda:1")

    assert "--device cpu" in refused.value.fix


@pytest.mark.parametrize(
    ("capabilities", "is_fast"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx2": True}, False),
        ({}, False),
    ],
)
def test_bfloat16_is_fast_where_the_cpu_has_instructions_for_it(
    no_gpu, monkeypatch, capabilities, is_fast
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)

    assert choose_device("cpu").has_fast_bf16 is is_fast


# Each in a process of its own: what glibc keeps depends on what was freed before.


def print_from_python(*lines: str) -> list[float]:
    """Run lines that print numbers in a fresh process."""
    script = "\n".join(
        (
            "import psutil",
            "from page_faults import pages_of_a_step",
            "from nnunet_medseg.hardware import freed_memory_kept, give_memory_back",
            "def held_mb(): return psutil.Process().memory_info().rss / 1e6",
            *lines,
        )
    )
    search = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    printed = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": search},
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    return [float(word) for word in printed.split()]


@only_with_glibc
# Glibc maps blocks of more than 32 MiB apart, whatever it was told of smaller ones.
@pytest.mark.parametrize("blocks", [10, 4], ids=["16 MiB", "40 MiB"])
def test_memory_that_is_freed_is_kept_for_the_next_step_and_given_back_at_the_end(blocks):
    first, second, held_mb, held_after_mb, after = print_from_python(
        "with freed_memory_kept():",
        f"    print(pages_of_a_step({blocks}), pages_of_a_step({blocks}), held_mb())",
        "print(held_mb())",
        f"pages_of_a_step({blocks})",
        f"print(pages_of_a_step({blocks}))",
    )
    assert first > PAGES / 2
    assert second < PAGES / 10
    assert held_after_mb < held_mb - 140
    # From here on as before.
    assert after > PAGES / 2


@only_with_glibc
def test_memory_that_is_kept_is_given_back_after_an_error_and_when_asked():
    held_mb, asked_mb, held_again_mb, failed_mb = print_from_python(
        "try:",
        "    with freed_memory_kept():",
        "        pages_of_a_step()",
        "        print(held_mb())",
        "        give_memory_back()",
        "        print(held_mb())",
        "        pages_of_a_step()",
        "        print(held_mb())",
        "        raise ValueError",
        "except ValueError:",
        "    print(held_mb())",
    )
    assert asked_mb < held_mb - 140
    assert failed_mb < held_again_mb - 140


def test_without_glibc_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(hardware, "ctypes", None)

    with freed_memory_kept(), kept_from_forks([(mmap.PAGESIZE, mmap.PAGESIZE)]):
        give_memory_back()


# --- memory that a forked process does not hold -----------------------------------------------

FORKED = (
    "import os, torch",
    "from nnunet_medseg.hardware import kept_from_forks",
    # With whole pages and parts of pages, and less than a page.
    "large, small = torch.ones(16 << 18), torch.ones(10)",
    "blocks = [(large.data_ptr(), large.nbytes), (small.data_ptr(), small.nbytes)]",
    "def in_a_fork(look):",
    "    process = os.fork()",
    "    if process == 0:",
    "        os._exit(look())",
    "    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])",
    "def sum_of_large(): return int(large.sum() != large.numel())",
    "def sum_of_small(): return int(small.sum() != small.numel())",
)


@only_with_glibc
def test_what_is_kept_from_forks_is_not_there_in_a_fork_and_everything_else_is():
    assert print_from_python(
        *FORKED,
        "torch.set_num_threads(1)",
        "with kept_from_forks(blocks):",
        "    print(in_a_fork(sum_of_large), in_a_fork(sum_of_small))",
        "print(in_a_fork(sum_of_large), in_a_fork(sum_of_small))",
        "print(sum_of_large(), sum_of_small())",
    ) == [-signal.SIGSEGV, 0, 0, 0, 0, 0]


@only_with_glibc
def test_a_fork_takes_and_frees_memory_around_what_it_does_not_have():
    # In one heap with everything else, as in a training.
    assert print_from_python(
        *FORKED,
        "torch.set_num_threads(1)",
        "def work():",
        "    for size in range(1, 400):",
        "        held[size % len(held)] = torch.ones(size * 1000)",
        "    return int(sum(float(each[-1]) for each in held) != len(held))",
        "with freed_memory_kept():",
        "    held = [torch.ones(300_000) for _ in range(40)]",
        "    weights = held[1::2]",
        "    del held[1::2]",
        "    with kept_from_forks([(each.data_ptr(), each.nbytes) for each in weights]):",
        "        print(in_a_fork(work))",
        "    print(int(any(float(each.sum()) != 300_000 for each in weights)))",
    ) == [0, 0]


@only_with_glibc
def test_what_is_kept_from_forks_is_there_again_after_an_error():
    assert print_from_python(
        *FORKED,
        "torch.set_num_threads(1)",
        "try:",
        "    with kept_from_forks(blocks):",
        "        raise ValueError",
        "except ValueError:",
        "    print(in_a_fork(sum_of_large))",
    ) == [0]
