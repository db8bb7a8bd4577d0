"""The network that turns pictures into features: normalise, run a network, fuse its maps.

A network is a module that returns its maps at strides 8, 16 and 32 and names their `channels`;
`build_backbone` is the one place that knows them all. To add one, write it and add a `case`.
"""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sonodetr.config import BackboneConfig
from sonodetr.model.compact import Compact
from sonodetr.model.efficientnet import EfficientNetLite0
from sonodetr.model.huggingface import IMAGENET_MEAN, IMAGENET_STD, HuggingFaceNetwork
from sonodetr.model.resnet import ResNet

STRIDES = (8, 16, 32)


class Backbone(nn.Module):
    """A network with its input normalisation and a top-down path to one output map.

    Deeper maps come down as in a feature pyramid (Lin et al. 2017, "Feature Pyramid Networks"):
    1x1 convolution, nearest upsampling by 2, sum. So a token of a fine map knows its surroundings.

    Args:
        network: returns maps at strides 8, 16 and 32; has `channels`, one number a map.
        stride: input pixels a cell of the output map, along each side: 8, 16 or 32.
        mean: subtracted from the images (0..1); one value a channel the network takes.
        std: divides them afterwards.

    Attributes:
        channels: of the output map.
        stride: as given.

    >>> backbone = build_backbone(BackboneConfig(width=16), in_channels=1)
    >>> backbone.channels, backbone(torch.rand(2, 1, 96, 64)).shape
    (64, torch.Size([2, 64, 6, 4]))
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, stride: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        first = STRIDES.index(stride)
        channels: tuple[int, ...] = network.channels[first:]  # type: ignore[assignment,index]
        self.network = network
        self.channels = channels[0]
        self.stride = stride
        self.top_down = nn.ModuleList(
            nn.Conv2d(deep, shallow, 1) for shallow, deep in itertools.pairwise(channels)
        )
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(
        self, images: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch channels h w"]:
        """Features of images in 0..1; sizes that the stride does not divide are rounded up."""
        # Grey images broadcast to the three channels of a network that was trained on colour.
        maps = self.network((images - self.mean) / self.std)[STRIDES.index(self.stride) :]
        fused = maps.pop()
        for project in reversed(self.top_down):
            shallow = maps.pop()
            fused = shallow + functional.interpolate(project(fused), size=shallow.shape[-2:])
        return fused


def build_backbone(config: BackboneConfig, in_channels: int) -> Backbone:
    """The backbone that `config` names, for images of `in_channels` (1 or 3).

    Raises:
        InputError: its weights were asked for and are not there.
    """
    network: nn.Module
    # Black stays 0, the value that convolutions pad with; the first batch norm does the rest.
    mean, std = (0.0,) * in_channels, (0.25,) * in_channels
    match config.name:
        case "compact":
            network = Compact(in_channels, config.width, config.depths)
        case "resnet":
            network = ResNet(in_channels, config.width, config.depths, bottleneck=config.bottleneck)
            if in_channels == 3:  # as all published weights expect it
                mean, std = IMAGENET_MEAN, IMAGENET_STD
        case "efficientnet_lite0":
            network = EfficientNetLite0(in_channels)
            if config.pretrained:
                network.load_imagenet()
            mean, std = (127 / 255,) * in_channels, (128 / 255,) * in_channels
        case "huggingface":
            network = HuggingFaceNetwork(config.path, pretrained=config.pretrained)
            mean, std = network.mean, network.std
    backbone = Backbone(network, config.stride, mean, std)
    if _channels_last_works(backbone):
        # Convolutions on a CPU are up to 1.6 times faster with the channels last in memory.
        backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return backbone


def _channels_last_works(backbone: nn.Module) -> bool:
    """False where torch 2.13 ends the process on a CPU with AVX-512: its oneDNN crashes in the
    gradient of a strided 1x1 convolution of fewer than 16 channels with the channels last."""
    return not any(
        layer.kernel_size == (1, 1) and layer.stride != (1, 1) and layer.in_channels < 16
        for layer in backbone.modules()
        if isinstance(layer, nn.Conv2d)
    )
