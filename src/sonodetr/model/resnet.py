"""ResNet (He et al. 2016, "Deep Residual Learning for Image Recognition", table 1), 7x7 stem.

The stride of a bottleneck sits on its 3x3 convolution, and parameters are named as in torchvision
and timm (`layer1.0.conv1.weight`), so that published weights fit name by name. Eval mode is the
frozen batch norm of DETR: the same running statistics, the same epsilon of 1e-5.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sonodetr.model.temporal import AfterStage, unchanged

EXPANSION = 4  # a bottleneck's output channels over its inner ones


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 with `bottleneck`, beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        outputs = width * EXPANSION if bottleneck else width
        self.bottleneck = bottleneck
        if bottleneck:
            self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
            self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(outputs)
        else:
            self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(
        self, features: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs h w"]:
        branch = torch.relu(self.bn1(self.conv1(features)))
        branch = self.bn2(self.conv2(branch))
        if self.bottleneck:
            branch = self.bn3(self.conv3(torch.relu(branch)))
        shortcut = features if self.downsample is None else self.downsample(features)
        return torch.relu(branch + shortcut)


class ResNet(nn.Module):
    """The feature part of a ResNet; width 64, depths 3, 4, 6, 3, bottleneck is ResNet-50.

    Attributes:
        stage_channels: of the maps after the stages.
        channels: of the last three, which `forward` returns.
    """

    def __init__(
        self, in_channels: int, width: int, depths: tuple[int, ...], *, bottleneck: bool
    ) -> None:
        super().__init__()
        factor = EXPANSION if bottleneck else 1
        self.conv1 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = width
        for stage, depth in enumerate(depths):
            inner = width * 2**stage
            strides = [1 if stage == 0 else 2] + [1] * (depth - 1)
            blocks = []
            for stride in strides:
                blocks.append(Block(inputs, inner, stride, bottleneck=bottleneck))
                inputs = inner * factor
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stage_channels = tuple(width * 2**stage * factor for stage in range(4))
        self.channels = self.stage_channels[1:]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, images: Float[Tensor, "batch in_channels height width"], after: AfterStage = unchanged
    ) -> list[Float[Tensor, "batch _ _ _"]]:
        """Feature maps at strides 8, 16 and 32; every stage's map goes through `after`."""
        features = self.maxpool(torch.relu(self.bn1(self.conv1(images))))
        maps = []
        for number, name in enumerate(("layer1", "layer2", "layer3", "layer4")):
            features = after(number, self.get_submodule(name)(features))
            maps.append(features)
        return maps[1:]
