"""What a model costs: parameters and arithmetic."""

import copy
from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sonodetr.model.detr import DETR


class Cost(NamedTuple):
    """Size and arithmetic of one detection.

    Attributes:
        parameters: numbers that are trained.
        gflops: 10^9 floating-point operations a clip in convolutions, matrix products and
            attention. A multiply-add counts as 2; many tables of papers count it as 1.
    """

    parameters: int
    gflops: float


def count(model: DETR, image_size: tuple[int, int], channels: int, frames: int = 1) -> Cost:
    """Count what `model` does at inference with one clip.

    Args:
        image_size: height and width of the input in pixels.
        channels: 1 or 3.
        frames: of the clip.

    >>> from sonodetr.config import ModelConfig
    >>> count(DETR(ModelConfig(), num_classes=2), (256, 256), 1).parameters > 1_000_000
    True
    """
    # On the device without numbers the count takes no time and no kernel hides from the counter.
    shapes = copy.deepcopy(model).to("meta").eval()
    clip = torch.zeros(1, channels, frames, *image_size, device="meta")
    # The counter does not know the fused attention of a CPU; spelled out it is plain products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        shapes(clip)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, counter.get_total_flops() / 1e9)
