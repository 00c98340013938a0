"""A running average of the weights, over a share of the steps so far."""

from __future__ import annotations

import torch

__all__ = ["RunningAverage"]

# Steps. In each step it took 1 to 2 % of the time of plans for slices, on two cores with bfloat16.
AVERAGED_EVERY = 4


class RunningAverage:
    """An average in which late steps weigh more: it forgets as the training goes on.

    Attributes:
        weights: Tensors with the shapes of the weights; None before the first step, and always
            where there is no averaging.
    """

    def __init__(self, averaging: float) -> None:
        """Begin without weights.

        Args:
            averaging: Its width as a share of the steps so far, in [0, 1); 0 for none.
        """
        self.weights: list[torch.Tensor] | None = None
        self._averaging = averaging

    @torch.no_grad()
    def take(self, network: torch.nn.Module, iterations: int) -> None:
        """Take the weights of a step in.

        Args:
            network: As it is after the step.
            iterations: Steps before it.
        """
        if not self._averaging or (self.weights is not None and iterations % AVERAGED_EVERY):
            return
        weights = [weight.detach() for weight in network.parameters()]
        if self.weights is None:
            self.weights = [weight.clone() for weight in weights]
        share = 1.0 / (1.0 + self._averaging * iterations)
        # As much as that share in each of the steps since the last time.
        torch._foreach_lerp_(self.weights, weights, 1.0 - (1.0 - share) ** AVERAGED_EVERY)

    def forget(self) -> None:
        """Begin anew, as when the weights have exploded."""
        self.weights = None
