"""A small convolutional network for grey ultrasound on a CPU, our own.

Plain 3x3 convolutions throughout: per multiply-add they run several times faster on a CPU than
depthwise ones, and each batch norm folds into its convolution at export.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sonodetr.model.temporal import AfterStage, unchanged


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution and batch norm, padded so that stride 1 keeps the size."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, "Deep Residual Learning", fig. 5)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, 3, stride)
        self.second = convolution(outputs, outputs, 3)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else convolution(inputs, outputs, 1, stride)
        nn.init.zeros_(self.second[1].get_parameter("weight"))  # a block starts as its shortcut

    def forward(
        self, features: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs h w"]:
        branch = self.second(torch.relu(self.first(features)))
        return torch.relu(branch + self.shortcut(features))


class Compact(nn.Module):
    """Two strided 3x3 convolutions, then four stages of `width` x 1, 2, 4, 8 channels.

    Attributes:
        stage_channels: of the maps after the stages.
        channels: of the last three, which `forward` returns.
    """

    def __init__(self, in_channels: int, width: int, depths: tuple[int, ...]) -> None:
        super().__init__()
        widths = [width * factor for factor in (1, 2, 4, 8)]
        self.stage_channels = tuple(widths)
        self.channels = self.stage_channels[1:]
        self.stem = nn.Sequential(
            convolution(in_channels, width // 2, 3, 2), nn.ReLU(),
            convolution(width // 2, width, 3, 2), nn.ReLU(),
        )  # fmt: skip
        self.stages = nn.ModuleList()
        inputs = width
        for index, (outputs, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = [ResidualBlock(inputs, outputs, 1 if index == 0 else 2)]
            blocks += [ResidualBlock(outputs, outputs, 1) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))
            inputs = outputs

    def forward(
        self, images: Float[Tensor, "batch in_channels height width"], after: AfterStage = unchanged
    ) -> list[Float[Tensor, "batch _ _ _"]]:
        """Feature maps at strides 8, 16 and 32; every stage's map goes through `after`."""
        features = self.stem(images)
        maps = []
        for number, stage in enumerate(self.stages):
            features = after(number, stage(features))
            maps.append(features)
        return maps[1:]
