"""How the features of a frame come to know the frames before it.

Frames of all clips of a batch are in one tensor: clip by clip, within a clip the oldest first.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

SPAN = 3  # frames a block sees: this one and two before, enough to tell a speed from a change

AfterStage = Callable[[int, Tensor], Tensor]  # number of the stage (from 0), its features


def unchanged(stage: int, features: Tensor) -> Tensor:
    """What a network does after its stages if nobody asks for more."""
    return features


class TemporalBlock(nn.Module):
    """Adds to the features of a frame what the frames before it tell.

    A residual bottleneck whose middle convolution looks back over `SPAN` frames. With `kernel` 1
    after the 2D convolutions of a stage it is the temporal half of a factorised (2+1)D convolution
    (Tran et al. 2018, "A Closer Look at Spatiotemporal Convolutions for Action Recognition",
    section 3.5). It never looks at later frames. The last weights are zero at the start, so that a
    new block changes nothing and weights of a 2D network keep their meaning.

    Args:
        channels: of the features.
        kernel: cells it sees along height and width.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        inner = max(16, channels // 4)
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU()
        )
        # As a 2D convolution over stacked frames: 3D ones are several times slower on a CPU.
        self.look_back = nn.Sequential(
            nn.Conv2d(SPAN * inner, inner, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(inner), nn.ReLU(),
        )  # fmt: skip
        self.expand = nn.Conv2d(inner, channels, 1, bias=False)
        nn.init.zeros_(self.expand.weight)

    def forward(
        self, features: Float[Tensor, "frames channels height width"], time: int
    ) -> Float[Tensor, "frames channels height width"]:
        """Features of clips of `time` frames each."""
        past = with_past(self.reduce(features), time)
        return features + self.expand(self.look_back(past))


def with_past(
    features: Float[Tensor, "frames channels height width"], time: int
) -> Float[Tensor, "frames stacked height width"]:
    """Each frame's channels, then those of one frame before, and so on for `SPAN` frames.

    Before the clip its first frame is repeated, as it is before a recording begins (data.clips):
    there nothing seems to move.

    Raises:
        ValueError: the frames are not a whole number of clips.

    >>> with_past(torch.tensor([5.0, 7.0, 11.0]).reshape(3, 1, 1, 1), time=3).flatten(1)
    tensor([[ 5.,  5.,  5.],
            [ 7.,  5.,  5.],
            [11.,  7.,  5.]])
    """
    if len(features) % time:
        raise ValueError(f"{len(features)} frames are no clips of {time} frames")
    frames = torch.arange(len(features), device=features.device)
    place = frames % time  # within the clip
    # By index, which keeps the channels last in memory where they are.
    earlier = [features[frames - place.clamp(max=lag)] for lag in range(1, SPAN)]
    return torch.cat((features, *earlier), 1)
