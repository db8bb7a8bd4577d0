"""AdamW with a rate of its own for the backbone, and the rate over time."""

import math

from torch import nn
from torch.optim import AdamW

from sonodetr.config import TrainConfig
from sonodetr.model.detr import DETR


def build_optimizer(model: DETR, config: TrainConfig) -> AdamW:
    """AdamW whose groups carry their `peak_rate`; norms and biases are not decayed.

    A backbone rate of 0 freezes the backbone.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        # The blocks between frames start from nothing, whatever the network starts from.
        between_frames = name.startswith(("backbone.mixing.", "backbone.stages."))
        in_backbone = name.startswith("backbone.") and not between_frames
        if in_backbone and config.backbone_rate == 0:
            parameter.requires_grad_(False)
            continue
        groups.setdefault((in_backbone, parameter.dim() > 1), []).append(parameter)
    return AdamW(
        [
            {
                "params": parameters,
                "peak_rate": config.learning_rate * (config.backbone_rate if in_backbone else 1.0),
                "weight_decay": config.weight_decay if decayed else 0.0,
            }
            for (in_backbone, decayed), parameters in groups.items()
        ],
        lr=config.learning_rate,
        fused=True,
    )


def rate_factor(step: int, total_steps: int, warmup_steps: int) -> float:
    """Share of the peak rate at `step` (from 0): linear warm-up, then half a cosine down to 0.

    >>> [round(rate_factor(step, 11, 2), 2) for step in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.59, 0.03]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))
