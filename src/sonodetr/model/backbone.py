"""The network that turns pictures into features: normalise, run a network, fuse its maps.

A network is a module that returns its maps at strides 8, 16 and 32 and names their `channels`;
`build_backbone` is the one place that knows them all. To add one, write it and add a `case`. For
blocks over time inside it, it also takes what is to happen after each stage, and names
`stage_channels`.
"""

import itertools
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sonodetr.config import BackboneConfig
from sonodetr.model.compact import Compact
from sonodetr.model.efficientnet import EfficientNetLite0
from sonodetr.model.huggingface import IMAGENET_MEAN, IMAGENET_STD, HuggingFaceNetwork
from sonodetr.model.resnet import ResNet
from sonodetr.model.temporal import TemporalBlock

STRIDES = (8, 16, 32)


class Features(NamedTuple):
    """What a backbone sees in frames.

    Attributes:
        coarse: at the stride of the backbone, fused with all deeper maps.
        fine: at half of it, as the network gives it; None where nobody asks for it.
    """

    coarse: Float[Tensor, "frames channels h w"]
    fine: Float[Tensor, "frames fine_channels fine_h fine_w"] | None


Temporal = Literal["none", "mixing", "factorised"]


class Backbone(nn.Module):
    """A network with its input normalisation and a top-down path to one output map.

    Deeper maps come down as in a feature pyramid (Lin et al. 2017, "Feature Pyramid Networks"):
    1x1 convolution, nearest upsampling by 2, sum. So a token of a fine map knows its surroundings.

    Of a clip, each frame goes through the same 2D network. Where frames meet (`TemporalBlock`), a
    frame sees itself and earlier ones. `temporal` says where: "none"; "mixing", once on the output
    map; "factorised", after every stage of the network, which makes it a (2+1)D network.

    Args:
        network: returns maps at strides 8, 16 and 32; has `channels`, one number a map.
        stride: input pixels a cell of the output map, along each side: 16 or 32.
        mean: subtracted from the images (0..1); one value a channel the network takes.
        std: divides them afterwards.
        temporal: where the frames of a clip meet.
        fine: also give the network's map at half the stride.

    Attributes:
        channels: of the output map.
        fine_channels: of the finer map, 0 without.
        stride: as given.
        factorised: frames meet within the network.

    >>> backbone = build_backbone(BackboneConfig(width=16), in_channels=1)
    >>> backbone.channels, backbone(torch.rand(2, 1, 96, 64)).shape
    (64, torch.Size([2, 64, 6, 4]))
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        stride: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        temporal: Temporal = "none",
        *,
        fine: bool = False,
    ) -> None:
        super().__init__()
        first = STRIDES.index(stride)
        self.fine_channels: int = network.channels[first - 1] if fine else 0  # type: ignore[index,assignment]
        channels: tuple[int, ...] = network.channels[first:]  # type: ignore[assignment,index]
        self.network = network
        self.channels = channels[0]
        self.stride = stride
        self.factorised = temporal == "factorised"
        self.top_down = nn.ModuleList(
            nn.Conv2d(deep, shallow, 1) for shallow, deep in itertools.pairwise(channels)
        )
        self.stages = self.mixing = None
        match temporal:
            case "mixing":
                # What moves crosses a cell (16 or 32 pixels) in a few frames, so the block also
                # sees the cells around. Farther ones are the encoder's part.
                self.mixing = TemporalBlock(self.channels, kernel=3)
            case "factorised":  # neighbours meet in the convolutions of the stages
                widths: tuple[int, ...] = network.stage_channels  # type: ignore[assignment]
                self.stages = nn.ModuleList(TemporalBlock(width, kernel=1) for width in widths)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(
        self, images: Float[Tensor, "frames in_channels height width"], time: int = 1
    ) -> Float[Tensor, "frames channels h w"]:
        """Features of every frame; sizes that the stride does not divide are rounded up.

        Args:
            images: values in 0..1, clip by clip, within a clip the oldest frame first.
            time: frames a clip.
        """
        return self.join(self.see(images, time).coarse, time)

    def see(
        self, images: Float[Tensor, "frames in_channels height width"], time: int = 1
    ) -> Features:
        """The part of `forward` that, unless `factorised`, sees each frame alone."""
        # Grey images broadcast to the three channels of a network that was trained on colour.
        images = (images - self.mean) / self.std
        if self.stages is None:
            maps = self.network(images)
        else:
            blocks = self.stages
            maps = self.network(images, lambda stage, features: blocks[stage](features, time))
        first = STRIDES.index(self.stride)
        fine = maps[first - 1] if self.fine_channels else None
        maps = maps[first:]
        fused = maps.pop()
        for project in reversed(self.top_down):
            shallow = maps.pop()
            fused = shallow + functional.interpolate(project(fused), size=shallow.shape[-2:])
        return Features(fused, fine)

    def join(
        self, features: Float[Tensor, "frames channels h w"], time: int
    ) -> Float[Tensor, "frames channels h w"]:
        """The rest of `forward`: frames meet, where `temporal` is "mixing"."""
        return features if self.mixing is None else self.mixing(features, time)


def build_backbone(config: BackboneConfig, in_channels: int, *, fine: bool = False) -> Backbone:
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
    backbone = Backbone(network, config.stride, mean, std, config.temporal, fine=fine)
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
