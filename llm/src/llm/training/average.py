"""A moving average of the weights, which is often better than the weights themselves.

Reference: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J.
Control Optim. 30(4), 1992; in the exponential form of Morales-Brotons et al., "Exponential Moving
Average of Weights in Deep Learning", arXiv:2411.18704.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from llm.training.parallel import set_weights, share_like


class WeightAverage:
    """average = decay · average + (1 - decay) · weights, after each step.

    The first steps count for more, so that the initial weights are soon forgotten:
    after n steps the decay is at most (1 + n) / (10 + n).

    Args:
        model: whose parameters; the average begins as a copy.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, num_steps: int) -> None:
        """Take in the weights after `num_steps` steps."""
        decay = min(self.decay, (1 + num_steps) / (10 + num_steps))
        averages = [self.weights[name] for name, _ in model.named_parameters()]
        torch._foreach_lerp_(averages, list(model.parameters()), 1 - decay)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from another average, by parameter name."""
        for name, average in self.weights.items():
            average.copy_(share_like(weights[name], average))

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Where the model has the averaged weights."""
        own = {name: p.detach().clone() for name, p in model.named_parameters()}
        set_weights(model, self.weights)
        try:
            yield
        finally:
            set_weights(model, own)
