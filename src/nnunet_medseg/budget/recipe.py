"""How a network is trained: optimizer, rates, mirroring, augmentation and averaging."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["STOCK_OVERSAMPLING", "Recipe", "choose_fine_tuning", "choose_recipe"]

# A tenth of nnU-Net's own training. What short trainings do otherwise was measured up to some
# thousands of steps (docs/concepts/budget.md); in between nobody has measured.
LONG_STEPS = 25_000

# Share of the time with small patches: better than none on each of three datasets (measured,
# docs/concepts/budget.md).
GROWTH = 0.6

# Of short trainings, with Muon (measured, docs/concepts/budget.md). The effect of the decay grows
# with the number of steps: long trainings keep nnU-Net's 0.00003.
PEAK_RATE = 0.1
WEIGHT_DECAY = 0.05
AVERAGING = 0.1

# From a model. Muon's rate is that from scratch: of 0.01, 0.03 and 0.1 the best on images that the
# model does not know, and never below SGD (measured, docs/concepts/budget.md). SGD's was the best
# of 0.001 to 0.05 after 400 steps; nobody has measured as many as it is used for.
LONG_FINE_TUNING_RATE = 0.02
FINE_TUNING_WARM_UP = 0.1

STOCK_OVERSAMPLING = 0.33  # nnUNetTrainer.py of 2.8.1


@dataclass(frozen=True)
class Recipe:
    """Everything about a training that is chosen by the steps that fit.

    Attributes:
        optimizer: "muon", "sgd" (both with Nesterov momentum) or "adamw".
        momentum: How much of the past steps goes on, in [0, 1); not of "adamw".
        peak_rate: The highest learning rate.
        schedule: Name of the curve that the rate follows; see `budget.schedule`.
        warm_up_share: Share of the time in which the rate rises, in [0, 1).
        weight_decay: How much of itself each weight loses in a step, as a multiple of the rate.
        mirroring: Whether patches are mirrored in training, and images in prediction.
        augmentation: Factor on the probabilities of nnU-Net's augmentations, in [0, 2].
        oversampling: Share of the patches that are centred on a labelled voxel, in [0, 1]. It is
            drawn for each patch; 0.33 is nnU-Net's rule in batches of two and more: the last third
            of each, rounded.
        growth: Share of the time in which patches are about half as large as those of the plan,
            in [0, 1).
        averaging: Width of the running average of the weights as a share of the steps so far, in
            (0, 1); 0 for none. It is the model when a training is cut off.
    """

    optimizer: str = "sgd"
    # nnU-Net's 0.99 averages over about 100 iterations, of which a short training has few.
    momentum: float = 0.9
    peak_rate: float = 0.05
    schedule: str = "linear"
    warm_up_share: float = 0.02
    weight_decay: float = 3e-5
    mirroring: bool = True
    augmentation: float = 1.0
    oversampling: float = STOCK_OVERSAMPLING
    growth: float = 0.0
    averaging: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as plain types."""
        return asdict(self)


def choose_recipe(steps: int) -> Recipe:
    """Return the recipe for a number of steps.

    Short trainings take orthogonal steps, which learn in half as many of them what SGD does. They
    begin with smaller patches, of which more fit into the time, and have a stronger weight decay.
    They do not mirror: what is left and what is right, in front and behind, is then learned faster,
    and prediction takes an eighth of the time. nnU-Net's own trainings, of 250,000 steps, mirror.

    Examples:
        >>> choose_recipe(500).mirroring, choose_recipe(100_000).mirroring
        (False, True)
    """
    if steps >= LONG_STEPS:
        return Recipe(mirroring=True)
    return Recipe(
        optimizer="muon",
        peak_rate=PEAK_RATE,
        weight_decay=WEIGHT_DECAY,
        mirroring=False,
        growth=GROWTH,
        averaging=AVERAGING,
    )


def choose_fine_tuning(steps: int) -> Recipe:
    """Return the recipe for a number of steps from the weights of a trained model.

    The rate rises slowly: the first steps on other images and a new head have large gradients,
    which would undo what the model knows. Weights decay as little as in nnU-Net, since they are
    worth keeping, and patches have their full size from the beginning.
    """
    if steps >= LONG_STEPS:
        return Recipe(peak_rate=LONG_FINE_TUNING_RATE, warm_up_share=FINE_TUNING_WARM_UP)
    return Recipe(
        optimizer="muon",
        peak_rate=PEAK_RATE,
        warm_up_share=FINE_TUNING_WARM_UP,
        mirroring=False,
        averaging=AVERAGING,
    )
