"""Preprocessed cases for training, read without pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from multiprocessing.queues import Queue
from pathlib import Path
from types import MappingProxyType
from typing import Any

import blosc2
import numpy as np
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_medseg.hardware import free_memory_bytes
from nnunet_medseg.parallel import die_with_parent

__all__ = [
    "PreprocessedCases",
    "SafeLoader",
    "discard_damaged",
    "unpacked_at_most_bytes",
    "write_locations",
]

# nnU-Net recognises the kind of a folder by its endings, and passes over .npy beside .b2nd.
LOCATIONS_ENDING = "_locations.npy"
CACHED_CASES = 256  # of about 100 kB a label each; more would be felt in every worker

CACHE_SHARE = 0.25  # of the free memory, for unpacked cases
UNPACKING_SHARE = 0.01  # of the time
UNPACKED_BYTES_A_S = 3e8  # one thread, measured: 4e8 and more on a 2-core machine


def unpacked_at_most_bytes(asked_s: float) -> float:
    """Return how much of unpacked cases a training may hold in memory.

    Args:
        asked_s: The training duration in seconds, of which unpacking is to take little.
    """
    in_time_bytes = UNPACKING_SHARE * asked_s * UNPACKED_BYTES_A_S
    return min(CACHE_SHARE * free_memory_bytes(), in_time_bytes)


def discard_damaged(folder: Path) -> tuple[str, ...]:
    """Remove the marks of cases whose files cannot be opened; return their names."""
    cases = PreprocessedCases(str(folder), PreprocessedCases.get_identifiers(str(folder)))
    damaged = tuple(name for name in cases.identifiers if not cases.is_whole(name))
    for name in damaged:
        (folder / f"{name}{LOCATIONS_ENDING}").unlink()
    return damaged


def write_locations(target: Path, locations: Mapping[int, Any]) -> None:
    """Write where each label is, as one plain array of rows: label, channel, z, y, x."""
    rows = [
        np.column_stack([np.full(len(places), label), np.asarray(places).reshape(-1, 4)])
        for label, places in locations.items()
    ]
    array = np.concatenate(rows) if rows else np.zeros((0, 5))
    temporary = Path(f"{target}.partial.npy")
    np.save(temporary, array.astype(np.int32), allow_pickle=False)
    temporary.replace(f"{target}{LOCATIONS_ENDING}")


@lru_cache(maxsize=CACHED_CASES)
def _read_locations(path: str) -> dict[int, np.ndarray[Any, Any]]:
    array = np.load(path, allow_pickle=False)
    return {int(label): array[array[:, 0] == label, 1:] for label in np.unique(array[:, 0])}


class _Held:
    """An array in memory that, as a packed one on disk does, gives out copies.

    Augmentation works in place.
    """

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __getitem__(self, place: Any) -> np.ndarray[Any, Any]:
        return np.array(self._array[place])


class PreprocessedCases(nnUNetDatasetBlosc2):
    """nnU-Net's dataset, with the places of labels from plain arrays in place of a pickle."""

    _unpacked: Mapping[str, tuple[Any, Any]] = MappingProxyType({})

    def unpack(self, limit_bytes: float) -> int:
        """Hold all cases unpacked in memory, if they fit; workers that are forked share them.

        Returns:
            The bytes that are held; 0 when the limit does not allow it.
        """
        size_bytes = 0
        for name in self.identifiers:
            # One after the other: a thousand open files are more than a process may have.
            size_bytes += sum(int(array.nbytes) for array in self._open(name))
            if size_bytes > limit_bytes:
                return 0
        self._unpacked = {name: self._hold(name) for name in self.identifiers}
        return size_bytes

    def _hold(self, name: str) -> tuple[_Held, _Held]:
        data, seg = self._open(name)
        return _Held(data[:]), _Held(seg[:])

    def load_case(self, identifier: str) -> tuple[Any, Any, None, dict[str, Any]]:
        """Open a case; voxels are read when a patch is cut."""
        base = str(Path(self.source_folder) / identifier)
        data, seg = self._unpacked.get(identifier) or self._open(identifier)
        return data, seg, None, {"class_locations": _read_locations(base + LOCATIONS_ENDING)}

    def _open(self, identifier: str) -> tuple[Any, Any]:
        base = str(Path(self.source_folder) / identifier)
        options = {"mode": "r", "dparams": {"nthreads": 1}, **self.mmap_kwargs}
        data = blosc2.open(urlpath=f"{base}.b2nd", **options)
        seg = blosc2.open(urlpath=f"{base}_seg.b2nd", **options)
        return data, seg

    def is_whole(self, name: str) -> bool:
        """Tell whether the files of a case can be opened; a file that was cut short cannot."""
        try:
            self._open(name)
            _read_locations(str(Path(self.source_folder) / name) + LOCATIONS_ENDING)
        except (OSError, RuntimeError, ValueError, EOFError):
            return False
        return True

    @staticmethod
    def get_identifiers(folder: str) -> list[str]:
        """Return the names of the cases that are complete."""
        files = sorted(Path(folder).glob(f"*{LOCATIONS_ENDING}"))
        return [path.name[: -len(LOCATIONS_ENDING)] for path in files]


def _give_up(*_: object) -> None:
    os._exit(1)


class SafeLoader(nnUNetDataLoader):
    """nnU-Net's loader; its workers end when the program does, however that ends."""

    def set_thread_id(self, thread_id: int) -> None:
        """Note the worker's number; nnU-Net calls this first in each worker."""
        super().set_thread_id(thread_id)
        die_with_parent(deaf_to_sigterm=True)
        # A queue drops what it cannot send, as when shared memory is full (64 MB in many
        # containers), and the training would wait for it for minutes.
        Queue._on_queue_feeder_error = staticmethod(_give_up)  # type: ignore[attr-defined]
