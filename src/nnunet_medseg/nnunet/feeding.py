"""Patches for the steps: which are cut, and by how many processes.

Promises: there are more processes only while steps wait for patches, and only as far as the memory
has room; none holds a copy of what trains.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch

from nnunet_medseg.budget.recipe import STOCK_OVERSAMPLING
from nnunet_medseg.hardware import (
    Device,
    core_count,
    free_memory_bytes,
    give_memory_back,
    kept_from_forks,
)
from nnunet_medseg.nnunet.loading import PatchWorkers

__all__ = [
    "PatchSupply",
    "draws_centred_patches",
    "enough_loaders",
    "loader_count",
    "weaken",
]

CORES_A_LOADER_ON_CPU = 4  # the other cores train
MAX_LOADERS = 12  # nnU-Net's own default, default_n_proc_DA.py of 2.8.1
WAITED_SHARE = 0.05  # of the time of steps; less is not worth another process
EPOCHS_WATCHED = 3  # the first does not count, and one more may be chance

MEMORY_SHARE = 0.25  # of the free memory, for more processes
LOADER_BYTES = 1e9  # a process that cuts patches; of small ones it holds a third of that


def loader_count(device: Device) -> int:
    """Return how many processes augment training data at first."""
    if device.kind == "cuda":
        return max(1, min(MAX_LOADERS, core_count() - 1))
    return max(1, core_count() // CORES_A_LOADER_ON_CPU)


def enough_loaders(count: int, waited_share: float) -> int:
    """Return how many processes augment from now on: twice as many while steps wait for them.

    While a step waits, cores are idle, and a process without a core takes turns with the others; so
    there are at most as many as cores.

    Args:
        count: How many there are.
        waited_share: Of the time of an epoch's steps, what was spent waiting for data, in [0, 1].

    Examples:
        >>> enough_loaders(3, 0.01)
        3
    """
    if waited_share <= WAITED_SHARE:
        return count
    return min(2 * count, max(count, core_count()))


class PatchSupply:
    """The processes that cut patches for the steps of a training.

    Attributes:
        count: How many there are, or will be.
    """

    def __init__(self, device: Device, seed: int) -> None:
        self.count = loader_count(device)
        self._device = device
        self._seed = seed
        self._workers: PatchWorkers | None = None
        self._waited_shares: list[float] = []  # of the epochs since processes were started
        self._grows = True

    def start(self, loader: Any, epoch: int, held: Iterable[torch.Tensor]) -> PatchWorkers:
        """Start the processes, and wait for the first batch.

        Args:
            loader: nnU-Net's, which each of them gets.
            epoch: How many epochs are done. After an interruption other patches are to come, not
                the first ones again.
            held: Tensors that the processes are not to hold on to.

        Raises:
            LoadingError: When they cannot be started, or make no batch.
        """
        self._waited_shares.clear()
        workers = PatchWorkers(
            data_loader=loader,
            transform=None,
            num_processes=self.count,
            num_cached=max(6, self.count // 2),
            seeds=self._seeds(epoch),
            pin_memory=self._device.kind == "cuda",
            wait_time=0.002,
        )
        try:
            with _kept_from_forks(held):
                next(workers)
        except BaseException:
            workers.stop()
            raise
        self._workers = workers
        return workers

    def note_wait(self, share: float) -> None:
        """Note what share of the time of an epoch's steps was spent waiting."""
        self._waited_shares.append(share)

    def grow(self, epoch: int, held: Iterable[torch.Tensor]) -> None:
        """Start more processes when steps waited for those that there are, if the memory has room.

        Args:
            epoch: How many epochs are done.
            held: Tensors that the processes are not to hold on to.

        Raises:
            LoadingError: When the system refuses one.
        """
        shares = self._waited_shares
        if self._workers is None or not self._grows or len(shares) < EPOCHS_WATCHED:
            return
        wanted = enough_loaders(self.count, min(shares[-EPOCHS_WATCHED + 1 :]))
        room = int(MEMORY_SHARE * free_memory_bytes() / LOADER_BYTES)
        before, self.count = self.count, max(self.count, min(wanted, self.count + room))
        if self.count > before:
            give_memory_back()
            with _kept_from_forks(held):
                self._workers.add(self._seeds(epoch)[before:])
            shares.clear()

    def fall_back(self) -> None:
        """From now on have as many as at first: the memory ran out, of which each takes some."""
        self.count = loader_count(self._device)
        self._grows = False

    def stop(self) -> None:
        """End the processes."""
        if self._workers is not None:
            self._workers.stop()
            self._workers = None

    def _seeds(self, epoch: int) -> list[int]:
        first = self._seed + 1000 * epoch
        return [first + number for number in range(self.count)]


def _kept_from_forks(held: Iterable[torch.Tensor]) -> AbstractContextManager[None]:
    tensors = [tensor for tensor in held if tensor.device.type == "cpu"]
    return kept_from_forks((tensor.data_ptr(), tensor.nbytes) for tensor in tensors)


def weaken(augment: Any, factor: float) -> None:
    """Multiply the probability of each random augmentation; mirroring is not one of these."""
    for transform in augment.transforms:
        for name in ("apply_probability", "p_rotation", "p_scaling"):
            if hasattr(transform, name):
                setattr(transform, name, factor * getattr(transform, name))


def draws_centred_patches(batch: int, share: float) -> bool:
    """Tell whether it is drawn for each patch if it is centred on a label.

    nnU-Net's rule centres the last patches of each batch, as many as the share rounded: of a batch
    of two one for all shares between 0.25 and 0.75, of a batch of one none below 0.5. It is kept
    for nnU-Net's own share, with which larger batches are known to train well.

    Args:
        batch: Patches a step.
        share: Of the patches that are to be centred on a label, in [0, 1].
    """
    return batch == 1 or share != STOCK_OVERSAMPLING
