"""BudgetedTrainer: nnU-Net's trainer, ended by a clock in place of a number of epochs.

The overrides, each with its reason, are few: the loop and the learning rate follow the clock; the
CPU may compute in bfloat16; data is read without pickle by workers that end with the program;
checkpoints hold plain types; and nothing is written that names a machine, a path or a case.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

from nnunet_medseg.budget.clock import TrainingClock
from nnunet_medseg.budget.epochs import (
    MAX_EPOCHS,
    MIN_ITERATIONS,
    PROBE_ITERATIONS,
    is_overdue,
    iterations_of_next_epoch,
    nominal_epoch_s,
)
from nnunet_medseg.budget.growth import small_patch
from nnunet_medseg.budget.overhead import Allowance
from nnunet_medseg.budget.recipe import Recipe
from nnunet_medseg.budget.schedule import learning_rate
from nnunet_medseg.errors import BudgetError, DivergedError, TrainingError
from nnunet_medseg.hardware import (
    Device,
    core_count,
    freed_memory_kept,
    give_memory_back,
)
from nnunet_medseg.nnunet.averaging import RunningAverage
from nnunet_medseg.nnunet.cases import PreprocessedCases, SafeLoader, unpacked_at_most_bytes
from nnunet_medseg.nnunet.environment import scrub
from nnunet_medseg.nnunet.feeding import PatchSupply, draws_centred_patches, weaken
from nnunet_medseg.nnunet.history import Epoch, append_epoch, trim_history
from nnunet_medseg.nnunet.layout import lay_channels_last
from nnunet_medseg.nnunet.loading import LoadingError
from nnunet_medseg.nnunet.optimizers import ClockedRate, make_optimizer
from nnunet_medseg.nnunet.rescue import (
    MAX_SETBACKS,
    Rescue,
    has_finite_weights,
    is_out_of_memory,
    smaller_batch,
)
from nnunet_medseg.nnunet.weights import read_checkpoint, write_checkpoint

__all__ = [
    "MIN_SUPERVISED_STAGES",
    "BudgetedTrainer",
    "TrainingSetup",
    "is_deeply_supervised",
    "make_trainer",
    "use_all_cores",
    "will_compile",
]

# Compiling takes minutes and speeds up what follows; short trainings do not earn it back. Not yet
# measured on a GPU.
COMPILE_FROM_S = 20 * 60.0
COMPILES_FROM = (7, 0)  # of a GPU: torch/_inductor/scheduler.py of 2.13, create_backend

VALIDATION_SHARE = 0.02  # of the time; with checkpoints and the start about 5 %
CHECKPOINT_SHARE = 0.015
CHECKPOINT_GUESS_S = 0.2
VALIDATION_BATCHES = 4
FORWARD_SHARE = 0.4  # of an iteration's time; a guess until the first look has been timed
MAX_LOADING_FAILURES = 3  # a process that dies again and again has a reason
# nnU-Net's loss leaves the coarsest output out, and divides by the weights of the others
# (nnUNetTrainer.py of 2.8.1, _build_loss): with two stages there is no other, and the loss is 0/0.
MIN_SUPERVISED_STAGES = 3
DICE_MEMORY = 0.7  # weight of the past in the shown Dice, which few patches make jump


@dataclass(frozen=True)
class TrainingSetup:
    """What a training needs beside plans and data.

    Attributes:
        device: Where to train.
        asked_s: The training duration in seconds.
        seed: Of weights, patches and augmentation.
        train: Names of the cases that train.
        watched: Names of held-out cases looked at during training; empty for none.
        checkpoint: File that a later run goes on from.
        history: File that takes one JSON line an epoch.
        log: File that takes what nnU-Net has to say.
        recipe: Optimizer, rates, augmentation and averaging.
        prepared: Folder of the preprocessed cases.
        start: Checkpoint with the weights to start from; None starts from random ones.
        sharing: How many trainings share what the user gave with -t.
        compiled: Whether the network is compiled first.
        by_deadline: Whether a deadline leaves less time than was asked for.
        threads: How many train on a CPU; None for one on each core.
        channels_last: Whether features lie channels last in memory.
    """

    device: Device
    asked_s: float
    seed: int
    train: tuple[str, ...]
    watched: tuple[str, ...]
    checkpoint: Path
    history: Path
    log: Path
    recipe: Recipe
    prepared: Path
    start: Path | None = None
    sharing: int = 1
    compiled: bool = False
    by_deadline: bool = False
    threads: int | None = None
    channels_last: bool = False


@dataclass
class _Progress:
    """Variables that the training loop updates; with the network's they make a checkpoint."""

    iterations: int = 0
    iteration_s: float = math.nan
    is_measured: bool = False
    waited_s: float = 0.0
    stepping_s: float = 0.0
    waited_share: float = 0.0
    setbacks: int = 0
    loss: float = math.nan
    patch_dice: float | None = None
    seen: Counter[str] = field(default_factory=Counter)
    saved_at_s: float = 0.0
    validation: Allowance = field(default_factory=lambda: Allowance(VALIDATION_SHARE))
    checkpoints: Allowance = field(default_factory=lambda: Allowance(CHECKPOINT_SHARE))


def make_trainer(
    plans: dict[str, Any], configuration: str, description: dict[str, Any], setup: TrainingSetup
) -> BudgetedTrainer:
    """Build a trainer directly, without nnU-Net's search for a class of that name.

    Args:
        plans: From `plan`.
        configuration: The configuration to train.
        description: The dataset.json.
        setup: Everything else.
    """
    kind = torch.device(setup.device.kind)
    # The constructor pops this key, and fails without it.
    trainer = BudgetedTrainer(
        {**plans, "continue_training": False}, configuration, "all", description, kind
    )
    trainer.set_up(setup)
    return trainer


def is_deeply_supervised(configuration: Any) -> bool:
    """Tell whether coarser outputs are trained too; the weights have the same names if not.

    Args:
        configuration: nnU-Net's ConfigurationManager.
    """
    return len(configuration.pool_op_kernel_sizes) >= MIN_SUPERVISED_STAGES


def will_compile(device: Device, asked_s: float) -> bool:
    """Tell whether the network is compiled: on CUDA, when the budget earns it back.

    Neither for Windows nor for old GPUs is there a compiler.
    """
    if device.kind != "cuda" or asked_s < COMPILE_FROM_S or os.name == "nt":
        return False
    return torch.cuda.get_device_capability(device.index) >= COMPILES_FROM


class BudgetedTrainer(nnUNetTrainer):
    """Trains until the clock says that the time is over."""

    setup: TrainingSetup
    clock: TrainingClock
    network: Any
    dataloader_train: Any
    dataloader_val: Any
    grad_scaler: Any

    # The constructor is nnU-Net's: it reads its own signature, so that nothing can be added to it.

    def set_up(self, setup: TrainingSetup) -> None:
        """Take what the constructor cannot."""
        self.setup = setup
        self.clock = TrainingClock(setup.asked_s)
        self.num_epochs = MAX_EPOCHS
        self.enable_deep_supervision = is_deeply_supervised(self.configuration_manager)
        self.progress = _Progress()
        self.rescue = Rescue()
        self.supply = PatchSupply(setup.device, setup.seed)
        self.average = RunningAverage(setup.recipe.averaging)
        self.cached_bytes = 0
        self._last: list[torch.Tensor] | None = None
        self.is_cut_off = False
        self.divergence: DivergedError | None = None
        self._has_stepped = False  # with this network and these shapes
        self._is_compiling = False
        self._loading_failures = 0
        # The patch of the plan, or what the memory has room for.
        self._whole_patch = [int(side) for side in self.configuration_manager.patch_size]
        if setup.device.kind == "cuda":
            # nnU-Net forces the first GPU.
            torch.cuda.set_device(setup.device.index)
            self.device = torch.device("cuda", setup.device.index)
            torch.backends.cudnn.benchmark = True
            torch.backends.cudnn.deterministic = False
        use_all_cores(setup.device)
        if setup.threads is not None:
            torch.set_num_threads(min(setup.threads, core_count()))
        self.threads = torch.get_num_threads()
        self.dataset_class = PreprocessedCases

    @property
    def state(self) -> list[torch.Tensor]:
        """What is held beside weights and gradients: momentum, average and last good weights."""
        momentum = [value for state in self.optimizer.state.values() for value in state.values()]
        averaged = self.average.weights or []
        return [*filter(torch.is_tensor, momentum), *averaged, *self.rescue.weights]

    # --- the loop ------------------------------------------------------------------------------

    @freed_memory_kept()
    def run_training(
        self,
        on_iteration: Callable[[float], None] = lambda _: None,
        on_epoch: Callable[[Epoch], None] = lambda _: None,
        should_stop: Callable[[], bool] = lambda: False,
        on_trouble: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Train from the start, or from the checkpoint, until the time is over.

        When the memory does not suffice, the batch becomes smaller, then the patch. When the loss
        explodes, or the weights do, the training goes back to its last good weights with half the
        learning rate. When the network cannot be compiled, it is trained as it is.
        When a process that loads patches ends or hangs, all are started again. A checkpoint is
        written at the end, whatever ended the training.

        Args:
            on_iteration: Called after each iteration with the seconds used.
            on_epoch: Called after each epoch.
            should_stop: Asked after each iteration; when true, the training ends early and
                `is_cut_off` is set.
            on_trouble: Called with a sentence for the user when any of these has happened.

        Raises:
            BudgetError: When the time does not suffice for 20 iterations.
            DivergedError: When the loss or the weights have exploded four times; the network has
                the last good weights then, and the checkpoint too.
            TrainingError: When no patch fits the memory, patches cannot be loaded, or no epoch was
                in order when the time was over.
        """
        self.clock.start()
        self.on_train_start()
        while self._goes_on():
            try:
                self._train_on(on_iteration, on_epoch, should_stop, on_trouble)
                continue
            except LoadingError as error:
                on_trouble(self._load_again(error))
                continue
            except Exception as error:
                is_full = is_out_of_memory(error)
                # What compiles fails with errors of many kinds: its own and those of compilers.
                if not (is_full or self._is_compiling):
                    raise
                self.print_to_log_file(f"{type(error).__name__}: {error}")
            finally:
                self.supply.stop()
                # With it go the cases that it holds.
                self.dataloader_train = self.dataloader_val = None
            # Outside of the handler, whose traceback holds on to the memory of the failed step.
            on_trouble(self._shrink() if is_full else self._stop_compiling())
        self._require_good_weights(on_trouble)
        # The model predicts with the patch of the plan, also when cut off with a smaller one.
        self._resize(self.batch_size, self._whole_patch)
        use_all_cores(self.setup.device)
        # Also after a kill between the last epoch and the journal.
        self.save_checkpoint(str(self.setup.checkpoint))
        if self.divergence is not None:
            raise self.divergence

    def _train_on(
        self,
        on_iteration: Callable[[float], None],
        on_epoch: Callable[[Epoch], None],
        should_stop: Callable[[], bool],
        on_trouble: Callable[[str], None],
    ) -> None:
        patch = self._due_patch(self.clock.share)
        self._take_patch(patch)
        # What earlier steps have left: the processes that are started now would hold on to it.
        give_memory_back()
        self.dataloader_train, self.dataloader_val = self.get_dataloaders()
        while self._goes_on() and patch == self._due_patch(self.clock.share):
            self.supply.grow(self.current_epoch, self._held())
            count = self._next_iterations()
            if count == 0:
                # That took what was left of the time.
                return
            losses = self._run_iterations(count, on_iteration, should_stop)
            if self._is_exploded(losses):
                self._go_back(on_trouble)
            elif losses:
                # None when all steps were left out: it was no epoch then.
                on_epoch(self._close_epoch(losses))

    def _is_exploded(self, losses: list[float]) -> bool:
        # A loss is computed before its update, so that none tells what the last update did.
        return self.rescue.is_exploded(losses) or not has_finite_weights(self._bare_network())

    def _require_good_weights(self, on_trouble: Callable[[str], None]) -> None:
        # An epoch may have found no end, as when patches could not be loaded: nobody looked then.
        while not has_finite_weights(self._bare_network()):
            self._go_back(on_trouble)
        if self.current_epoch == 0 and not self.is_cut_off and self.divergence is None:
            problem = "The time of the training was over before one epoch was in order."
            fix = (
                "Start again with --fresh and a longer -t; if it happens again, check the images' "
                "intensities."
            )
            raise TrainingError(problem, fix=fix)

    def _due_patch(self, share: float) -> list[int]:
        """Return the patch for a share of the time: smaller than the plan's at first."""
        # What has been compiled would be compiled again.
        if self.setup.compiled or share >= self.setup.recipe.growth:
            return self._whole_patch
        return small_patch(self._whole_patch, self._strides())

    def _take_patch(self, patch: list[int]) -> None:
        before = [int(side) for side in self.configuration_manager.patch_size]
        # Until it has been measured, a step takes as long as it has voxels.
        self.progress.iteration_s *= math.prod(patch) / math.prod(before)
        self._resize(self.batch_size, patch)

    def _goes_on(self) -> bool:
        if self.progress.iterations == 0 and self.divergence is None:
            # Also when the start took all of the time: the first steps tell how much is needed.
            return True
        # A training that had come to its end stays there, though more time is given now: its
        # learning rate is zero.
        is_over = self.current_epoch >= MAX_EPOCHS or self.clock.share >= 1.0
        return not (is_over or self.is_cut_off or self.divergence) and self._next_iterations() > 0

    def _load_again(self, error: LoadingError) -> str:
        """Return what to tell the user, unless it happened too often."""
        self._loading_failures += 1
        self.supply.fall_back()
        if self._loading_failures > MAX_LOADING_FAILURES:
            problem = f"In training, {error}, {self._loading_failures} times."
            fix = (
                "Most likely the memory ran out: close other programs or take a machine with "
                "more, then run the same command; it goes on."
            )
            raise TrainingError(problem, fix=fix) from error
        return f"{error}; going on with new ones"

    def _go_back(self, on_trouble: Callable[[str], None]) -> None:
        """Return to the last good weights with half the rate, or for good after the last time."""
        self.rescue.restore(self._bare_network())
        # The momentum is part of what went wrong.
        self.optimizer.state.clear()
        self.average.forget()
        self.progress.setbacks += 1
        self._note_divergence()
        if self.divergence is None:
            on_trouble(
                "the loss exploded; going on from the last good weights with "
                f"{2**self.progress.setbacks} times lower a learning rate"
            )

    def _note_divergence(self) -> None:
        if self.progress.setbacks > MAX_SETBACKS:
            problem = (
                f"The training diverged {MAX_SETBACKS + 1} times, each time with a lower rate."
            )
            fix = (
                "Start again with --fresh and another --seed; if it happens again, check the "
                "images' intensities."
            )
            self.divergence = DivergedError(problem, fix=fix)

    def _shrink(self) -> str:
        """Make batch or patch smaller; return what to tell the user."""
        patch = [int(side) for side in self.configuration_manager.patch_size]
        configuration = self.configuration_manager.configuration
        had = list(patch)
        batch, patch = smaller_batch(int(configuration["batch_size"]), patch, self._strides())
        self._resize(batch, patch)
        if patch != had:
            self._whole_patch = patch
        self.optimizer.zero_grad(set_to_none=True)
        self._renew_scaler()
        if self.device.type == "cpu":
            self.supply.fall_back()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.progress.is_measured = False
        shown = " x ".join(str(side) for side in patch)
        return f"the memory does not suffice; going on with batch {batch} and patch {shown}"

    def _stop_compiling(self) -> str:
        """Go on with the network as it is; return what to tell the user."""
        self.setup, self._is_compiling = replace(self.setup, compiled=False), False
        self.network = self._bare_network()
        # A part of it is compiled as well.
        self.loss = self._build_loss()
        self.optimizer.zero_grad(set_to_none=True)
        self._renew_scaler()
        self.progress.is_measured = False
        return (
            "the network cannot be compiled on this machine (the log says why); going on without, "
            "which is slower"
        )

    def _renew_scaler(self) -> None:
        """Take a new scaler of gradients, with the scale of the old one, if there is one.

        One whose step failed after it had unscaled the gradients refuses to do so again.
        """
        if self.grad_scaler is not None:
            state = self.grad_scaler.state_dict()
            self.grad_scaler = torch.amp.GradScaler(self.device.type)
            self.grad_scaler.load_state_dict(state)

    def _resize(self, batch: int, patch: list[int]) -> None:
        configuration = self.configuration_manager.configuration
        before = (configuration["batch_size"], list(configuration["patch_size"]))
        configuration["batch_size"] = self.batch_size = batch
        configuration["patch_size"] = patch
        self._has_stepped = self._has_stepped and before == (batch, list(patch))

    def _strides(self) -> list[int]:
        return [
            math.prod(sides)
            for sides in zip(*self.configuration_manager.pool_op_kernel_sizes, strict=True)
        ]

    def _next_iterations(self) -> int:
        step_s = self.progress.iteration_s
        if math.isnan(step_s):
            return PROBE_ITERATIONS
        count = iterations_of_next_epoch(self.clock.left_s, step_s, self.clock.asked_s)
        # Looked at once: the clock goes on meanwhile.
        share = self.clock.share
        if self._due_patch(share) != self._whole_patch:
            until_s = (self.setup.recipe.growth - share) / (1 - share) * self.clock.left_s
            count = min(count, max(1, math.ceil(until_s / step_s)))
        # After an interruption the machine may be another, or busier: measure anew.
        return count if self.progress.is_measured else min(count, PROBE_ITERATIONS)

    def _run_iterations(
        self, count: int, on_iteration: Callable[[float], None], should_stop: Callable[[], bool]
    ) -> list[float]:
        self.network.train()
        losses, times = [], []
        waited_before_s = self.progress.waited_s
        for _ in range(count):
            started_s = self.clock.used_s
            batch = next(self.dataloader_train)
            self.progress.waited_s += self.clock.used_s - started_s
            self.progress.seen.update(str(name) for name in batch["keys"])
            self._is_compiling = self.setup.compiled and not self._has_stepped
            loss = float(self.train_step(batch)["loss"])
            if self.grad_scaler is None or not self.rescue.is_left_out(loss):
                losses.append(loss)
            self._has_stepped, self._is_compiling = True, False
            self.average.take(self._bare_network(), self.progress.iterations)
            self.progress.iterations += 1
            times.append(self.clock.used_s - started_s)
            on_iteration(self.clock.used_s)
            self.is_cut_off = should_stop()
            is_late = is_overdue(self.clock.left_s, times[-1], self.clock.asked_s)
            if self.is_cut_off or is_late or not all(map(math.isfinite, losses[-1:])):
                break
        self.progress.stepping_s += sum(times)
        waited_s = self.progress.waited_s - waited_before_s
        self.progress.waited_share = waited_s / sum(times) if waited_s else 0.0
        self.supply.note_wait(self.progress.waited_share)
        is_probe, self.progress.is_measured = not self.progress.is_measured, True
        self.progress.iteration_s = float(np.mean(times[1:] if is_probe and times[1:] else times))
        if is_probe and not self.is_cut_off:
            # The fastest: a machine that is still warming up must not refuse what it could do.
            self._require_enough_time(min(times))
        return losses

    def _close_epoch(self, losses: list[float]) -> Epoch:
        self.rescue.remember(self._bare_network())
        self.current_epoch += 1
        self.progress.loss = float(np.mean(losses))
        if not self.is_cut_off:
            self._maybe_validate()
            self._maybe_save()
        return self._record()

    def _require_enough_time(self, step_s: float) -> None:
        if self.progress.iterations + self.clock.left_s / step_s < MIN_ITERATIONS:
            sharing = self.setup.sharing
            needed = 1.5 * sharing * (self.clock.used_s + MIN_ITERATIONS * step_s) / 60
            shared = f" for {sharing} trainings" if sharing > 1 else ""
            has = sharing * self.setup.asked_s / 60
            too_short = f"-t {has:g} is too short{shared}"
            fix = f"Use -t {math.ceil(needed * 10) / 10:g} at least; ten times that is sensible."
            if self.setup.by_deadline:
                too_short = f"The deadline leaves {has:.1f} minutes for training, too few{shared}"
                fix = f"Put it off by {math.ceil(needed - has)} minutes at least."
            problem = (
                f"{too_short}: an iteration takes {step_s:.2f} s on this machine just now, and "
                f"fewer than {MIN_ITERATIONS} do not make a model."
            )
            raise BudgetError(problem, fix=fix)

    def _record(self) -> Epoch:
        epoch = Epoch(
            number=self.current_epoch,
            iterations=self.progress.iterations,
            used_s=self.clock.used_s,
            iteration_s=self.progress.iteration_s,
            loss=self.progress.loss,
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            patch_dice=self.progress.patch_dice,
            asked_s=self.clock.asked_s,
            waited_share=self.progress.waited_share,
        )
        append_epoch(self.setup.history, epoch)
        return epoch

    # --- one step ------------------------------------------------------------------------------

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, ClockedRate]:
        """Return the recipe's optimizer, and the rate that follows the clock."""
        optimizer = make_optimizer(self.setup.recipe, dict(self.network.named_parameters()))
        return optimizer, ClockedRate(optimizer, self._rate)

    def _rate(self) -> float:
        recipe = self.setup.recipe
        rate = learning_rate(
            self.clock.share, recipe.peak_rate, recipe.warm_up_share, recipe.schedule
        )
        return rate / 2**self.progress.setbacks

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do one iteration; on a CPU that has it, in bfloat16 with the loss in float32."""
        self.lr_scheduler.step()
        if self.device.type == "cuda":
            return dict(super().train_step(batch))
        self.optimizer.zero_grad(set_to_none=True)
        with self._precision():
            outputs = self.network(batch["data"])
        loss = self.loss(_as_float(outputs), batch["target"])
        loss.backward()
        # 12, as nnU-Net clips (nnUNetTrainer.py of 2.8.1, train_step).
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        self.optimizer.step()
        return {"loss": loss.detach().numpy()}

    def _precision(self) -> AbstractContextManager[Any]:
        if self.setup.device.kind == "cpu" and self.setup.device.has_fast_bf16:
            return torch.autocast("cpu", dtype=torch.bfloat16)
        return nullcontext()

    def _do_i_compile(self) -> bool:
        return self.setup.compiled

    # --- a look at held-out patches ------------------------------------------------------------

    def _maybe_validate(self) -> None:
        guess_s = VALIDATION_BATCHES * FORWARD_SHARE * self.progress.iteration_s
        if self.dataloader_val is None or not self._may_spend(self.progress.validation, guess_s):
            return
        started = time.monotonic()
        dice = self._validate()
        past = self.progress.patch_dice
        smooth = dice if past is None else DICE_MEMORY * past + (1 - DICE_MEMORY) * dice
        self.progress.patch_dice = past if math.isnan(smooth) else smooth
        self.progress.validation.spend(time.monotonic() - started)

    def _may_spend(self, allowance: Allowance, guess_s: float) -> bool:
        """Tell whether a side job fits its share, and what is left of the time."""
        fits = allowance.cost_s(guess_s) < self.clock.left_s
        return fits and allowance.permits(self.clock.used_s, guess_s)

    @torch.no_grad()
    def _validate(self) -> float:
        self.network.eval()
        counts = []
        with self._precision(), self._uncompiled():
            for _ in range(VALIDATION_BATCHES):
                result = self.validation_step(next(self.dataloader_val))
                counts.append([result["tp_hard"], result["fp_hard"], result["fn_hard"]])
        true, false, missed = np.sum(counts, axis=0)
        total = 2 * true + false + missed
        dice = np.divide(2 * true, total, out=np.full(total.shape, np.nan), where=total > 0)
        return float(np.nanmean(dice)) if np.isfinite(dice).any() else math.nan

    def _uncompiled(self) -> AbstractContextManager[Any]:
        """Return a context without compiling: for a few patches it takes longer than a look may."""
        # What was compiled for training is compiled once more where there are no gradients.
        return torch.compiler.set_stance("force_eager") if self.setup.compiled else nullcontext()

    # --- checkpoints ---------------------------------------------------------------------------

    def _maybe_save(self) -> None:
        since_s = self.clock.used_s - self.progress.saved_at_s
        is_due = since_s >= nominal_epoch_s(self.clock.asked_s) / 2
        if self.current_epoch == 1 or (
            is_due and self._may_spend(self.progress.checkpoints, CHECKPOINT_GUESS_S)
        ):
            self.save_checkpoint(str(self.setup.checkpoint))

    def save_checkpoint(self, filename: str) -> None:
        """Write everything that a later run needs to go on, as tensors and plain types."""
        started = time.monotonic()
        content = {
            **self.network_state(),
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": self.grad_scaler.state_dict() if self.grad_scaler else None,
            "epoch": self.current_epoch,
            "iterations": self.progress.iterations,
            "iteration_s": self.progress.iteration_s,
            "loss": self.progress.loss,
            "patch_dice": self.progress.patch_dice,
            "waited_s": self.progress.waited_s,
            "stepping_s": self.progress.stepping_s,
            "setbacks": self.progress.setbacks,
            "seen": dict(self.progress.seen),
            "first_loss": self.rescue.first_loss,
            "batch_size": int(self.configuration_manager.batch_size),
            "patch_size": self._whole_patch,
            "average": self.average.weights,
            "last": self._last,
            "used_s": self.clock.used_s,
            "share": self.clock.share,
            "validation_s": self.progress.validation.spent_s,
            "checkpoints_s": self.progress.checkpoints.spent_s,
        }
        write_checkpoint(Path(filename), content)
        self.progress.saved_at_s = self.clock.used_s
        self.progress.checkpoints.spend(time.monotonic() - started)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Go on where a checkpoint was written; the time used before it stays used."""
        content = read_checkpoint(Path(filename_or_checkpoint))
        self._load_tensors(content)
        # Building the network and loading took time of the training too, as in a first start.
        loading_s = self.clock.used_s
        self.current_epoch = content["epoch"]
        self.progress.iterations = content["iterations"]
        self.progress.iteration_s = content["iteration_s"]
        # The first versions wrote none.
        self.progress.loss = content.get("loss", math.nan)
        self.progress.patch_dice = content["patch_dice"]
        self.progress.waited_s = content["waited_s"]
        self.progress.stepping_s = content["stepping_s"]
        self.progress.setbacks = content["setbacks"]
        self._note_divergence()
        self.progress.seen = Counter(content["seen"])
        self.rescue.first_loss = content["first_loss"]
        self._whole_patch = list(content["patch_size"])
        self._resize(content["batch_size"], self._whole_patch)
        self.progress.saved_at_s = content["used_s"]
        self.progress.validation = Allowance(VALIDATION_SHARE, content["validation_s"])
        self.progress.checkpoints = Allowance(CHECKPOINT_SHARE, content["checkpoints_s"])
        axes = content["mirror_axes"]
        self.inference_allowed_mirroring_axes = tuple(axes) if axes else None
        self.clock.start(content["used_s"] + loading_s, content["share"])

    def _load_tensors(self, content: dict[str, Any]) -> None:
        self._bare_network().load_state_dict(content["network_weights"])
        self.optimizer.load_state_dict(content["optimizer_state"])
        if self.grad_scaler is not None and content["grad_scaler_state"] is not None:
            self.grad_scaler.load_state_dict(content["grad_scaler_state"])
        if content["average"] is not None:
            place = self._weights()[0].device
            self.average.weights = [weight.to(place) for weight in content["average"]]
        if content.get("last") is not None:
            # The average was handed over, or would have been.
            self._put(content["last"])

    def network_state(self) -> dict[str, Any]:
        """Return weights and mirror axes from memory, named and laid as in a checkpoint."""
        # Weights have several names, and are to lie in a file once.
        laid: dict[int, torch.Tensor] = {}
        weights = {
            name: laid.setdefault(weight.data_ptr(), weight.contiguous())
            for name, weight in self._bare_network().state_dict().items()
        }
        return {
            "network_weights": weights,
            "mirror_axes": self.inference_allowed_mirroring_axes,
        }

    def _bare_network(self) -> torch.nn.Module:
        # A compiled network wraps the one whose names checkpoints use.
        return cast("torch.nn.Module", getattr(self.network, "_orig_mod", self.network))

    def _weights(self) -> list[torch.nn.Parameter]:
        return list(self._bare_network().parameters())

    def use_average(self) -> None:
        """Put the running average in the place of the weights, if the recipe has one.

        Of a training that was cut off it is the better model: the rate is still high, and the last
        weights jump about what they approach. A checkpoint also keeps these, to go on from.
        """
        if self.average.weights is not None:
            self._last = [weight.detach().clone() for weight in self._weights()]
            self._put(self.average.weights)

    @torch.no_grad()
    def _put(self, values: list[torch.Tensor]) -> None:
        for weight, value in zip(self._weights(), values, strict=True):
            weight.copy_(value)

    # --- data ----------------------------------------------------------------------------------

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:  # noqa: N802 - nnU-Net's name
        """Return what nnU-Net chooses, without mirroring when the recipe has none."""
        chosen = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        if self.setup.recipe.mirroring:
            return tuple(chosen)
        self.inference_allowed_mirroring_axes = None
        return (*chosen[:3], None)

    def on_train_start(self) -> None:
        """Build network and loss; go on from the checkpoint if there is one.

        nnU-Net also copies files and plots the network here, which nobody would see.
        """
        self.prepare_network()
        if self.setup.start is not None:
            weights = read_checkpoint(self.setup.start)["network_weights"]
            self._bare_network().load_state_dict(weights)
        if self.setup.checkpoint.is_file():
            self.load_checkpoint(str(self.setup.checkpoint))
        self.rescue.remember(self._bare_network())
        trim_history(self.setup.history, self.current_epoch)

    def prepare_network(self) -> None:
        """Build network, loss and optimizer."""
        torch.manual_seed(self.setup.seed)
        self.initialize()
        self.set_deep_supervision_enabled(self.enable_deep_supervision)
        self.network.train()

    def initialize(self) -> None:
        """Do what nnU-Net's does on one device, without a look at preprocessed files.

        Plans are measured before there are any, and ours are read by our class.
        """
        self._set_batch_size_and_oversample()
        self.num_input_channels = determine_num_input_channels(
            self.plans_manager, self.configuration_manager, self.dataset_json
        )
        self.network = self.build_network_architecture(
            self.plans_manager,
            self.configuration_manager,
            self.num_input_channels,
            self.label_manager.num_segmentation_heads,
            self.enable_deep_supervision,
        ).to(self.device)
        if self.setup.channels_last:
            lay_channels_last(self.network)
        if self._do_i_compile():
            # Of an earlier training: another patch would be compiled for patches of any size.
            torch.compiler.reset()
            self.network = torch.compile(self.network)
        self.optimizer, self.lr_scheduler = self.configure_optimizers()
        self.loss = self._build_loss()
        self.was_initialized = True

    def random_batch(self) -> dict[str, Any]:
        """Return a batch of noise with the shapes of a real one, to measure a step with."""
        patch = self.configuration_manager.patch_size
        scales = self._get_deep_supervision_scales() or [[1.0] * len(patch)]
        labels = len(self.label_manager.all_labels)
        targets = [
            torch.randint(
                labels,
                (self.batch_size, 1, *(round(s * f) for s, f in zip(patch, scale, strict=True))),
            ).to(torch.int16)
            for scale in scales
        ]
        data = torch.randn(self.batch_size, self.num_input_channels, *patch)
        return {"data": data, "target": targets if self.enable_deep_supervision else targets[0]}

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return the training loader, and one of held-out patches or None.

        nnU-Net would start half as many workers again for validation; a few patches now and then
        are cut in this process.
        """
        rotation, dummy_2d, initial_patch, mirror_axes = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        scales = self._get_deep_supervision_scales()
        labels = self.label_manager.foreground_labels
        patch = self.configuration_manager.patch_size
        augment = self.get_training_transforms(
            patch, rotation, scales, mirror_axes, dummy_2d,
            use_mask_for_norm=self.configuration_manager.use_mask_for_norm,
            foreground_labels=labels,
        )  # fmt: skip
        weaken(augment, self.setup.recipe.augmentation)
        train = self._loader(SafeLoader, self.setup.train, initial_patch, augment)
        loader = self._start_workers(train)
        if not self.setup.watched:
            return loader, None
        plain = self.get_validation_transforms(scales, foreground_labels=labels)
        held_out = self._loader(nnUNetDataLoader, self.setup.watched, patch, plain)
        return loader, SingleThreadedAugmenter(held_out, None)

    def _loader(
        self, kind: type[Any], cases: tuple[str, ...], cut: Any, transforms: Any
    ) -> nnUNetDataLoader:
        dataset = PreprocessedCases(str(self.setup.prepared), list(cases))
        # Where workers are not forked, each would get a copy of its own.
        if kind is SafeLoader and multiprocessing.get_start_method() == "fork":
            self.cached_bytes = dataset.unpack(unpacked_at_most_bytes(self.setup.asked_s))
        return kind(
            dataset,
            self.batch_size,
            cut,
            self.configuration_manager.patch_size,
            self.label_manager,
            oversample_foreground_percent=self.setup.recipe.oversampling,
            probabilistic_oversampling=draws_centred_patches(
                self.batch_size, self.setup.recipe.oversampling
            ),
            transforms=transforms,
        )

    def _start_workers(self, loader: nnUNetDataLoader) -> Any:
        return self.supply.start(loader, self.current_epoch, self._held())

    def _held(self) -> list[torch.Tensor]:
        """Return what training holds beside data: weights, gradients and state."""
        weights = self._weights()
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        return [*weights, *gradients, *self.state]

    # --- silence -------------------------------------------------------------------------------

    def print_to_log_file(
        self, *args: Any, also_print_to_console: bool = True, add_timestamp: bool = True
    ) -> None:
        """Write nnU-Net's words, scrubbed, into the log of the run, without a time or a console."""
        del also_print_to_console, add_timestamp
        setup = getattr(self, "setup", None)
        if setup is not None:
            with setup.log.open("a", encoding="utf-8") as log:
                log.write(scrub(" ".join(str(arg) for arg in args)) + "\n")

    def _save_debug_information(self) -> None:
        """Write nothing: nnU-Net's file names the machine and its folders."""


def use_all_cores(device: Device) -> None:
    """Let torch compute with a thread on each core, as nnU-Net does; with a GPU, with one."""
    # run_training.py of 2.8.1.
    torch.set_num_threads(1 if device.kind == "cuda" else core_count())


def _as_float(outputs: Any) -> Any:
    if isinstance(outputs, (list, tuple)):
        return [output.float() for output in outputs]
    return outputs.float()
