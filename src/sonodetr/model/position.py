"""Where a token or a query is: sine encodings of grids and boxes, and the bias that boxes put on
cross-attention."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sonodetr.model.tensors import Grid

TEMPERATURE = 10_000.0


def sine(
    coordinates: Float[Tensor, "*shape"], features: int
) -> Float[Tensor, "*shape {features}"]:
    """Sine and cosine of a coordinate in 0..1 at geometric wavelengths, interleaved.

    `p[2i] = sin(2 pi x / 10000^(2i / features))`, `p[2i + 1]` its cosine (Vaswani et al. 2017,
    section 3.5, with DETR's scale of 2 pi).

    >>> sine(torch.tensor([0.25]), 2)
    tensor([[1.0000e+00, ...]])
    """
    index = torch.arange(features // 2, dtype=torch.float32, device=coordinates.device)
    frequencies = 2 * math.pi * TEMPERATURE ** (-2 * index / features)
    angles = coordinates.unsqueeze(-1) * frequencies.to(coordinates.dtype)
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)


def grid_positions(grid: Grid, dim: int) -> Float[Tensor, "1 tokens {dim}"]:
    """Position encoding of every token: half of the features say the row, half the column.

    Rows and columns count from 1 and are divided by their number, as DETR does, so that published
    weights fit.
    """
    rows = torch.arange(1, grid.height + 1) / (grid.height + 1e-6)
    columns = torch.arange(1, grid.width + 1) / (grid.width + 1e-6)
    row_part = sine(rows, dim // 2)[:, None].expand(-1, grid.width, -1)
    column_part = sine(columns, dim // 2)[None].expand(grid.height, -1, -1)
    frame = torch.cat((row_part, column_part), -1).flatten(0, 1)
    return frame.repeat(grid.time, 1)[None]


def box_positions(
    boxes_cxcywh: Float[Tensor, "batch queries 4"], dim: int
) -> Float[Tensor, "batch queries {dim}"]:
    """Sine encoding of centre and size, a quarter of the features each (Liu et al. 2022, DAB-DETR)."""
    return sine(boxes_cxcywh, dim // 4).flatten(-2)


class BoxBias(nn.Module):
    """Cross-attention bias from where a token lies relative to a query's box.

    Lin et al. 2023, "DETR Does Not Need Multi-Scale or Locality Design", section 3.2: the signed
    distances of a token from the two vertical edges pass through a small network, those from the
    horizontal edges through another, and the two answers add up. A query so starts by looking at
    its own box instead of having to learn where to look.
    """

    def __init__(self, num_heads: int, hidden: int = 32) -> None:
        super().__init__()
        self.columns = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, num_heads))
        self.rows = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, num_heads))

    def forward(
        self, boxes_cxcywh: Float[Tensor, "batch queries 4"], grid: Grid
    ) -> Float[Tensor, "batch heads queries tokens"]:
        """Returns the bias for every head, query and token."""
        centre_x, centre_y, width, height = boxes_cxcywh.unbind(-1)
        across = self.columns(_edge_distances(centre_x, width, grid.width))
        down = self.rows(_edge_distances(centre_y, height, grid.height))
        # [batch, queries, size, heads] each -> [batch, heads, queries, height, width]
        bias = down.permute(0, 3, 1, 2).unsqueeze(-1) + across.permute(0, 3, 1, 2).unsqueeze(-2)
        return bias.flatten(-2).repeat(1, 1, 1, grid.time)


def _edge_distances(
    centre: Float[Tensor, "batch queries"], size: Float[Tensor, "batch queries"], cells: int
) -> Float[Tensor, "batch queries {cells} 2"]:
    """Signed distances of cell centres from a box's two edges, compressed by a logarithm."""
    places = (torch.arange(cells, dtype=centre.dtype, device=centre.device) + 0.5) / cells
    edges = torch.stack((centre - size / 2, centre + size / 2), -1)
    distances = places[:, None] - edges[:, :, None]
    return distances.sign() * torch.log1p(16 * distances.abs()) / math.log(17)


class Perceptron(nn.Sequential):
    """Linear layers with ReLU between them."""

    def __init__(self, *sizes: int) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        super().__init__(*layers[:-1])


def logit(probabilities: Tensor) -> Tensor:
    """Inverse of the sigmoid, finite at 0 and 1."""
    clamped = probabilities.clamp(1e-4, 1 - 1e-4)
    return torch.log(clamped / (1 - clamped))


