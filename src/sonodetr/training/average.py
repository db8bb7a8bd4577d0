"""Exponential moving average of a model's weights."""

import torch
from torch import Tensor, nn


class WeightAverage:
    """Follows the weights slowly; the averaged model detects better than the last one.

    `average += (1 - d) * (weights - average)` after every step, with
    `d = min(decay, (1 + step) / (10 + step))`, so that the random start is soon forgotten. Counters
    and, with a decay of 0, everything is simply copied.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> average = WeightAverage(model, decay=0.9)
        >>> average.update(model, step=0)
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state: dict[str, Tensor] = {
            name: tensor.detach().clone() for name, tensor in model.state_dict().items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after optimisation step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.decay else 0.0
        averaged, latest = [], []
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                averaged.append(self.state[name])
                latest.append(tensor)
            else:
                self.state[name].copy_(tensor)
        torch._foreach_lerp_(averaged, latest, 1 - decay)
