"""What goes into a model and what comes out, and the one legend of axis names.

| name | axis |
|---|---|
| batch | clips of a batch |
| channels | 1 (grey) or 3 (red, green, blue) |
| time | frames of a clip, oldest first; the last one is the labelled one |
| height, width | pixels the model sees |
| layers | decoder layers, the last one is the answer |
| queries | object queries: all groups in turn in training, the first group at inference |
| classes | class scores (with softmax the last one is "no object") |
| tokens | cells of the feature grid, time x height x width flattened, width fastest |
| cells | what the decoder looks at: tokens, or with anchors the last frame's finer grid |
| heads | attention heads |
| group | queries of one group, which see each other |
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sonodetr.geometry import Letterbox


class Grid(NamedTuple):
    """Size of a grid of tokens or cells, `time * height * width` of them."""

    time: int
    height: int
    width: int


@dataclass(frozen=True)
class Target:
    """What the set loss wants to be found in one clip's last frame, normalised to the input 0..1.

    Attributes:
        boxes_cxcywh: `[N, 4]` boxes, clipped to the input and never empty.
        classes: `[N]` class indices.
        points: `[N, 2, 2]` x, y of tip and entry, NaN where unknown.
    """

    boxes_cxcywh: Float[Tensor, "n 4"]
    classes: Int64[Tensor, " n"]
    points: Float[Tensor, "n 2 2"]


class Source(NamedTuple):
    """Where a clip's last frame came from, and the way from input pixels back to its pixels.

    Attributes:
        key, frame_index: recording and frame.
        letterbox: of the picture before augmentation.
        view, example: which augmentation of which example of its data set; targets are kept by it.
    """

    key: str
    frame_index: int
    letterbox: Letterbox
    view: int = 0
    example: int = 0


@dataclass(frozen=True)
class Batch:
    """Clips that go through the model together.

    Attributes:
        images: float32 in 0..1, black outside the picture.
        targets: one a labelled clip; clips without labels come last and have none.
        sources: one a clip.
    """

    images: Float[Tensor, "batch channels time height width"]
    targets: list[Target]
    sources: list[Source]

    def to(self, device: torch.device) -> "Batch":
        """The same batch with all tensors on `device`."""
        targets = [
            Target(t.boxes_cxcywh.to(device), t.classes.to(device), t.points.to(device))
            for t in self.targets
        ]
        return Batch(self.images.to(device), targets, self.sources)


@dataclass(frozen=True)
class Attention:
    """Attention probabilities of the layers that were asked for; every row sums to one.

    Each maps a layer's number (0 is the first) to its map: rows are what asks, columns what is
    looked at. Teachers from elsewhere may have other numbers of heads in each kind.
    """

    encoder: dict[int, Float[Tensor, "batch heads tokens tokens"]] = field(default_factory=dict)
    decoder: dict[int, Float[Tensor, "batch _ queries group"]] = field(default_factory=dict)
    cross: dict[int, Float[Tensor, "batch _ queries cells"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Dense:
    """What every cell of a grid of the last frame answers, before any is chosen.

    Attributes:
        logits: class scores before the sigmoid.
        boxes_cxcywh: boxes in the input, 0..1.
        points: tip and entry in the input, or None for a model without points.
        cells_cxcywh: the boxes that the answers start from, around the cells' centres.
        grid: how the cells lie on the picture.
    """

    logits: Float[Tensor, "batch cells classes"]
    boxes_cxcywh: Float[Tensor, "batch cells 4"]
    points: Float[Tensor, "batch cells 2 2"] | None
    cells_cxcywh: Float[Tensor, "cells 4"]
    grid: Grid

    def first(self, clips: int) -> "Dense":
        """Those of the first clips."""
        points = None if self.points is None else self.points[:clips]
        return replace(
            self,
            logits=self.logits[:clips],
            boxes_cxcywh=self.boxes_cxcywh[:clips],
            points=points,
        )


@dataclass(frozen=True)
class Outputs:
    """What a detection transformer returns.

    Attributes:
        logits: class scores before sigmoid or softmax.
        boxes_cxcywh: boxes in the input, 0..1.
        points: x, y of tip and entry in the input, or None for a model without points.
        memory: encoder output.
        queries: what the decoder starts from: content of anchors, positions of learned queries.
        grid: how `memory`'s tokens lie on the picture.
        groups: number of query groups that `queries` holds.
        attention: the maps that were asked for.
        anchors: boxes that anchor queries start from.
        dense: what every cell of the finer grid answers, of a model with anchors.
    """

    logits: Float[Tensor, "layers batch queries classes"]
    boxes_cxcywh: Float[Tensor, "layers batch queries 4"]
    points: Float[Tensor, "layers batch queries 2 2"] | None
    memory: Float[Tensor, "batch tokens hidden"]
    queries: Float[Tensor, "batch queries hidden"]
    grid: Grid
    groups: int
    attention: Attention
    anchors: Float[Tensor, "batch queries 4"] | None = None
    dense: Dense | None = None

    @property
    def cross_grid(self) -> Grid:
        """How the columns of the cross-attention's maps lie on the picture."""
        return self.grid if self.dense is None else self.dense.grid

    def first(self, clips: int) -> "Outputs":
        """Those of the first clips, without attention."""
        return replace(
            self,
            logits=self.logits[:, :clips],
            boxes_cxcywh=self.boxes_cxcywh[:, :clips],
            points=None if self.points is None else self.points[:, :clips],
            memory=self.memory[:clips],
            queries=self.queries[:clips],
            attention=Attention(),
            anchors=None if self.anchors is None else self.anchors[:clips],
            dense=None if self.dense is None else self.dense.first(clips),
        )
