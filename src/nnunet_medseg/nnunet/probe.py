"""How much work a plan is, and how long a step of it takes on this machine."""

from __future__ import annotations

import copy
import gc
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch.utils.flop_counter import FlopCounterMode

from nnunet_medseg.budget.fit import STEPS_A_MEASUREMENT
from nnunet_medseg.budget.threads import choose_threads
from nnunet_medseg.hardware import core_count, free_memory_bytes, freed_memory_kept
from nnunet_medseg.nnunet.rescue import is_out_of_memory, smaller_batch
from nnunet_medseg.nnunet.trainer import (
    TrainingSetup,
    is_deeply_supervised,
    make_trainer,
    use_all_cores,
)

__all__ = [
    "count_flops",
    "fastest_threads",
    "fit_to_memory",
    "fits_memory",
    "in_faster_layout",
    "measure_step",
]

# A convolution's output, what the norm and the nonlinearity keep of it, and its gradient.
BYTES_A_FEATURE = 12

ENOUGH_S = 1.5
MAX_STEPS = 20
# So that three steps with all cores and three with half of them take a part of the 30 s that
# measuring may take at least; a step that takes longer has work for every core.
MAX_STEP_TO_COMPARE_S = 1.0


def count_flops(plans: dict[str, Any], configuration: str, description: dict[str, Any]) -> float:
    """Return the floating-point operations of one forward pass of a batch.

    Counted by torch on its meta device: nothing is computed and no memory is taken.
    """
    network, batch = _on_meta(plans, configuration, description)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(batch)
    return float(counter.get_total_flops())


def fits_memory(plans: dict[str, Any], configuration: str, description: dict[str, Any]) -> bool:
    """Tell whether the features of a training step are likely to fit into the memory of a CPU.

    Where a system promises more memory than it has, it ends the program rather than refuse.
    """
    network, batch = _on_meta(plans, configuration, description)
    features = network.compute_conv_feature_map_size(tuple(batch.shape[2:])) * batch.shape[0]
    return bool(features * BYTES_A_FEATURE < free_memory_bytes())


def fit_to_memory(
    plans: dict[str, Any], configuration: str, description: dict[str, Any]
) -> dict[str, Any]:
    """Return plans whose batch, then patch, is as small as the free memory of a CPU asks for.

    Raises:
        TrainingError: When it is too small for any patch.
    """
    fitted = copy.deepcopy(plans)
    chosen = fitted["configurations"][configuration]
    stages = chosen["architecture"]["arch_kwargs"]["strides"]
    strides = [math.prod(sides) for sides in zip(*stages, strict=True)]
    while not fits_memory(fitted, configuration, description):
        chosen["batch_size"], chosen["patch_size"] = smaller_batch(
            chosen["batch_size"], chosen["patch_size"], strides
        )
    return fitted


def _on_meta(
    plans: dict[str, Any], configuration: str, description: dict[str, Any]
) -> tuple[Any, torch.Tensor]:
    """Return the network and a batch, both without memory."""
    manager = PlansManager(plans)
    chosen = manager.get_configuration(configuration)
    inputs = determine_num_input_channels(manager, chosen, description)
    heads = manager.get_label_manager(description).num_segmentation_heads
    with torch.device("meta"):
        network = nnUNetTrainer.build_network_architecture(
            manager, chosen, inputs, heads, enable_deep_supervision=is_deeply_supervised(chosen)
        )
        return network, torch.empty(chosen.batch_size, inputs, *chosen.patch_size)


def _wants_more(times: list[float]) -> bool:
    # Other programs disturb short steps most: of many, some run undisturbed.
    is_short = sum(times) < ENOUGH_S and len(times) < MAX_STEPS
    return len(times) < STEPS_A_MEASUREMENT or is_short


@freed_memory_kept()
def measure_step(
    plans: dict[str, Any],
    configuration: str,
    description: dict[str, Any],
    setup: TrainingSetup,
    until_s: float,
) -> float:
    """Return the seconds that a training step takes, on random tensors.

    Network, loss, precision and optimizer are those of the training; loading of data is not in it.

    Args:
        plans: nnU-Net's plans.
        configuration: Which of their configurations.
        description: The dataset.json.
        setup: Of the training.
        until_s: When measuring is to end, on the monotonic clock. One step is done in any case.

    Returns:
        The fastest of a few steps: the first is a cold start. Fewer are done where there is no time
        for more. Infinity when the memory does not suffice.
    """
    if setup.device.kind == "cpu" and not fits_memory(plans, configuration, description):
        return math.inf
    trainer = None
    try:
        # Compiling would take longer than measuring may.
        trainer = make_trainer(plans, configuration, description, replace(setup, compiled=False))
        trainer.prepare_network()
        if trainer.grad_scaler is not None:
            # A step whose gradients overflow, as the first ones with nnU-Net's scale do, is left
            # out by the optimizer, and would be the fastest.
            trainer.grad_scaler = torch.amp.GradScaler(trainer.device.type, init_scale=1.0)
        batch = trainer.random_batch()
        times: list[float] = []
        while not times or (_wants_more(times) and time.monotonic() + min(times) <= until_s):
            started = time.monotonic()
            # The loss comes back to the CPU, so a GPU has done its work by then.
            trainer.train_step(batch)
            times.append(time.monotonic() - started)
        return min(times)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return math.inf
    finally:
        use_all_cores(setup.device)
        del trainer
        gc.collect()
        if setup.device.kind == "cuda":
            torch.cuda.empty_cache()


def in_faster_layout(
    setup: TrainingSetup, measure: Callable[[TrainingSetup], float], until_s: float
) -> tuple[TrainingSetup, float]:
    """Return the setup with the layout in which steps are faster, and the seconds of a step.

    Both layouts are measured on a CPU. That of the setup stays where there is no time to measure
    the other.

    Args:
        setup: Of the training.
        measure: Returns the seconds that a step takes with a setup; infinity when it does not fit
            into the memory.
        until_s: When measuring is to end, on the monotonic clock.
    """
    step_s = measure(setup)
    is_in_time = time.monotonic() + STEPS_A_MEASUREMENT * step_s <= until_s
    if setup.device.kind != "cpu" or not is_in_time:
        return setup, step_s
    other = replace(setup, channels_last=not setup.channels_last)
    other_s = measure(other)
    return (other, other_s) if other_s < step_s else (setup, step_s)


def fastest_threads(
    plans: dict[str, Any],
    configuration: str,
    description: dict[str, Any],
    setup: TrainingSetup,
    step_s: float,
    until_s: float,
) -> tuple[int | None, float]:
    """Return how many threads do a training step fastest on a CPU, and the seconds it then takes.

    None is for a thread on each core. Where a step takes longer than a second with these, or there
    is no time to compare two numbers of threads, nothing is measured.

    Args:
        plans: nnU-Net's plans.
        configuration: Which of their configurations.
        description: The dataset.json.
        setup: Of the training.
        step_s: What a step takes with a thread on each core.
        until_s: When measuring is to end, on the monotonic clock.
    """
    needed_s = 2 * STEPS_A_MEASUREMENT * step_s
    if (
        setup.device.kind != "cpu"
        or step_s > MAX_STEP_TO_COMPARE_S
        or time.monotonic() + needed_s > until_s
    ):
        return None, step_s

    def measure(threads: int) -> float:
        if time.monotonic() > until_s:
            return math.inf
        chosen = replace(setup, threads=threads)
        return measure_step(plans, configuration, description, chosen, until_s)

    return choose_threads(core_count(), measure) or (None, step_s)
