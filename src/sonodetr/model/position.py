"""Where a token or a query is: sine encodings of grids and boxes, and the bias that boxes put on
cross-attention."""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sonodetr.model.linear import Linear
from sonodetr.model.tensors import Grid

TEMPERATURE = 10_000.0


def sine(coordinates: Float[Tensor, "*shape"], features: int) -> Float[Tensor, "*shape {features}"]:
    """Sine and cosine of a coordinate in 0..1 at geometric wavelengths, interleaved.

    `p[2i] = sin(2 pi x / 10000^(2i / features))`, `p[2i + 1]` its cosine (Vaswani et al. 2017,
    section 3.5, with DETR's scale of 2 pi).

    >>> [round(value, 3) for value in sine(torch.tensor(0.125), 2).tolist()]
    [0.707, 0.707]
    """
    index = torch.arange(features // 2, dtype=torch.float32, device=coordinates.device)
    frequencies = 2 * math.pi * TEMPERATURE ** (-2 * index / features)
    angles = coordinates.unsqueeze(-1) * frequencies.to(coordinates.dtype)
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)


def grid_positions(grid: Grid, dim: int) -> Float[Tensor, "1 tokens {dim}"]:
    """Position encoding of every token: half of the features say the row, half the column.

    Rows and columns count from 1 and are divided by their number, as DETR does, so that published
    weights fit. A token of an earlier frame adds the encoding of its age `a`, in frames of the clip
    (Vaswani et al. 2017, section 3.5, less its value at age 0): `sin(a / 10000^(2i / features))`
    and the cosine less 1. So the last frame's tokens are where those of a single picture are. The
    frequencies run backwards: age speaks loudest in the features in which places hardly differ.

    >>> bool((grid_positions(Grid(3, 2, 5), 8)[:, -10:] == grid_positions(Grid(1, 2, 5), 8)).all())
    True
    """
    rows = torch.arange(1, grid.height + 1) / (grid.height + 1e-6)
    columns = torch.arange(1, grid.width + 1) / (grid.width + 1e-6)
    row_part = sine(rows, dim // 2)[:, None].expand(-1, grid.width, -1)
    column_part = sine(columns, dim // 2)[None].expand(grid.height, -1, -1)
    frame = torch.cat((row_part, column_part), -1).flatten(0, 1)
    ages = torch.arange(grid.time - 1, -1, -1) / (2 * math.pi)
    age_part = (sine(ages, dim // 2) - sine(torch.zeros(1), dim // 2)).flip(-1).repeat(1, 2)
    return (frame + age_part[:, None]).flatten(0, 1)[None]


def cell_boxes(grid: Grid) -> Float[Tensor, "cells 4"]:
    """A box a fifth of the picture wide and high around every cell of a frame, cxcywh."""
    rows = (torch.arange(grid.height) + 0.5) / grid.height
    columns = (torch.arange(grid.width) + 0.5) / grid.width
    centres = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).flatten(0, 1)
    return torch.cat((centres, torch.full_like(centres, 0.2)), -1)


def box_points(
    boxes_cxcywh: Float[Tensor, "*shape 4"], offsets: Float[Tensor, "*shape 4"]
) -> Float[Tensor, "*shape 2 2"]:
    """Two points a box, from its centre and in units of its size."""
    return boxes_cxcywh[..., None, :2] + offsets.unflatten(-1, (2, 2)) * boxes_cxcywh[..., None, 2:]


def box_positions(
    boxes_cxcywh: Float[Tensor, "batch queries 4"], dim: int
) -> Float[Tensor, "batch queries {dim}"]:
    """Sine encoding of centre and size, a quarter each (DAB-DETR, Liu et al. 2022)."""
    return sine(boxes_cxcywh, dim // 4).flatten(-2)


class BoxFocus(nn.Module):
    """Cross-attention bias that makes each head look at a spot in or near the query's box.

    Head h of a query with box (cx, cy, w, h) adds the logarithm of a Gaussian to its logits,
    `-((x - cx - a w / 2)^2 / sx^2 + (y - cy - b h / 2)^2 / sy^2) / 2`, whose centre (a, b) and
    widths, in units of half the box, follow from the query's content (Gao et al. 2021, "Fast
    Convergence of DETR with Spatially Modulated Co-Attention", equations 2 to 4; widths by axis
    are ours). The heads start on a ring around the centre. Without this a query must first learn
    where to look, which takes DETR most of its long training.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.spots = nn.Linear(dim, 4 * num_heads)
        angle = 2 * math.pi * torch.arange(num_heads) / num_heads
        start = torch.stack((0.5 * angle.cos(), 0.5 * angle.sin(), *torch.zeros(2, num_heads)), -1)
        nn.init.zeros_(self.spots.weight)
        self.spots.bias.data.copy_(start.flatten())

    def forward(
        self,
        content: Float[Tensor, "batch queries dim"],
        boxes_cxcywh: Float[Tensor, "batch queries 4"],
        grid: Grid,
    ) -> Float[Tensor, "batch heads queries tokens"]:
        """Returns the bias, at most 0, for every head, query and token."""
        # [batch, heads, queries] each
        shift_x, shift_y, widen_x, widen_y = (
            self.spots(content).unflatten(-1, (self.num_heads, 4)).transpose(1, 2).unbind(-1)
        )
        centre_x, centre_y, width, height = boxes_cxcywh.unsqueeze(1).unbind(-1)
        across = _spot(centre_x, width, shift_x, widen_x, grid.width)
        down = _spot(centre_y, height, shift_y, widen_y, grid.height)
        frame = (down.unsqueeze(-1) + across.unsqueeze(-2)).flatten(-2)
        return frame.unsqueeze(-2).expand(-1, -1, -1, grid.time, -1).flatten(-2)


def _spot(
    centre: Tensor, size: Tensor, shift: Tensor, widen: Tensor, cells: int
) -> Float[Tensor, "batch heads queries {cells}"]:
    """Log of a Gaussian along one axis at the cells' centres; never narrower than half a cell."""
    places = (torch.arange(cells, dtype=centre.dtype, device=centre.device) + 0.5) / cells
    half = size / 2
    sigma = half * widen.clamp(-3, 3).exp() + 0.5 / cells
    offset = places - (centre + half * shift).unsqueeze(-1)
    return -0.5 * (offset / sigma.unsqueeze(-1)) ** 2


class Perceptron(nn.Sequential):
    """Linear layers with ReLU between them."""

    def __init__(self, *sizes: int) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [Linear(inputs, outputs), nn.ReLU()]
        super().__init__(*layers[:-1])


def logit(probabilities: Tensor) -> Tensor:
    """Inverse of the sigmoid, finite at 0 and 1."""
    clamped = probabilities.clamp(1e-4, 1 - 1e-4)
    return torch.log(clamped / (1 - clamped))
