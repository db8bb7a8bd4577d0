"""Proposals: every cell of a fine grid answers for itself, the best become anchors.

Many cells learn from each object, which teaches a network that starts from nothing far more a step
than a few queries do (Zong et al. 2023, "DETRs with Collaborative Hybrid Assignments Training").
The loss is `sonodetr.dense_loss`.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from sonodetr.model.linear import Linear
from sonodetr.model.position import Perceptron, box_points, cell_boxes, logit
from sonodetr.model.tensors import Dense, Grid


class FineMemory(nn.Module):
    """The encoder's tokens on a grid twice as fine, with the details of the backbone's finer map.

    One step of a feature pyramid (Lin et al. 2017), and a depthwise 3x3 convolution that lets
    neighbours agree.
    """

    def __init__(self, fine_channels: int, dim: int) -> None:
        super().__init__()
        self.lateral = nn.Sequential(
            nn.Conv2d(fine_channels, dim, 1, bias=False), nn.BatchNorm2d(dim)
        )
        self.blend = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False),
            nn.BatchNorm2d(dim),
            nn.ReLU(),
            nn.Conv2d(dim, dim, 1),
        )
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        grid: Grid,
        fine: Float[Tensor, "batch fine_channels fine_h fine_w"],
    ) -> tuple[Float[Tensor, "batch cells dim"], Grid]:
        """Returns the finer tokens and their grid.

        Args:
            tokens: of the last frame.
            grid: how they lie on it.
            fine: the backbone's finer map of that frame.
        """
        details = self.lateral(fine)
        coarse = tokens.transpose(1, 2).unflatten(-1, (grid.height, grid.width))
        joined = details + functional.interpolate(coarse, size=details.shape[-2:])
        joined = joined + self.blend(joined)
        return self.norm(joined.flatten(2).transpose(1, 2)), Grid(1, *details.shape[-2:])


class DenseHead(nn.Module):
    """Class scores, a box and two points for every cell, each alone."""

    def __init__(self, dim: int, num_classes: int, *, points: bool) -> None:
        super().__init__()
        self.class_head = Perceptron(dim, dim, num_classes)
        self.box_features = nn.Sequential(Linear(dim, dim), nn.ReLU())
        self.box_head = Perceptron(dim, dim, 4)
        self.point_head = Perceptron(dim, dim, 4) if points else None
        nn.init.constant_(self.class_head[-1].bias, -math.log(99))  # type: ignore[arg-type]
        for parameter in self.box_head[-1].parameters():
            nn.init.zeros_(parameter)  # boxes start where their cell is

    def forward(self, memory: Float[Tensor, "batch cells dim"], grid: Grid) -> Dense:
        """Returns the answers of all cells."""
        # Boxes stay exact in mixed precision.
        cells = cell_boxes(grid).to(memory.device, torch.promote_types(memory.dtype, torch.float32))
        features = self.box_features(memory)
        boxes = self._move(cells, features)
        points = None
        if self.point_head is not None:
            points = box_points(boxes, self.point_head(features))
        return Dense(self.class_head(memory), boxes, points, cells, grid)

    @torch.no_grad()
    def boxes(
        self,
        memory: Float[Tensor, "batch chosen dim"],
        cells_cxcywh: Float[Tensor, "batch chosen 4"],
    ) -> Float[Tensor, "batch chosen 4"]:
        """The boxes alone, of some cells: all that is left of them in an exported model."""
        return self._move(cells_cxcywh, self.box_features(memory))

    def _move(self, cells_cxcywh: Tensor, features: Tensor) -> Tensor:
        return (logit(cells_cxcywh) + self.box_head(features)).sigmoid()


def choose(dense: Dense, count: int) -> Int64[Tensor, "batch {count}"]:
    """Numbers of the best cells that no neighbour beats, then the best of the rest, best first.

    A cell whose score is below one of its eight neighbours' goes behind all others (as peaks are
    found in Zhou et al. 2019, "Objects as Points"): otherwise nearly all would be the same object.
    """
    return rank(dense).topk(count, dim=1).indices


def rank(dense: Dense, slack: float = 0.0) -> Float[Tensor, "batch cells"]:
    """By what `choose` chooses: the best class score, of a cell that a neighbour beats less 100.

    Args:
        slack: by how much a neighbour must be better to beat a cell.
    """
    # In float32, which still tells scores apart when 100 is taken off.
    score = dense.logits.detach().amax(-1).float()
    score = score.unflatten(-1, (dense.grid.height, dense.grid.width))
    peak = score >= functional.max_pool2d(score, 3, 1, 1) - slack
    return torch.where(peak, score, score - 100.0).flatten(1)
