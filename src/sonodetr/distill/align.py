"""Makes attention maps of a teacher and a student comparable: layers, heads, grids, time, rows.

Maps are attention probabilities `[batch, heads, rows, columns]`; every row sums to one before and
after each step here. Tokens run over time, height, width, width fastest; the labelled frame is the
last one. docs/distillation.md has the formulas.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sonodetr.geometry import xyxy_from_cxcywh
from sonodetr.model.tensors import Grid


class LayerPair(NamedTuple):
    """Numbers of two layers that are compared, 0 is the first."""

    student: int
    teacher: int


def pair_layers(student_layers: int, teacher_layers: int) -> tuple[LayerPair, ...]:
    """Pair the layers of two stacks evenly; the last ones always form a pair.

    The deeper stack is cut into as many blocks as the other has layers, and the end of each block
    is compared: layer s of S with layer `ceil((s + 1) T / S) - 1` of T.

    >>> [tuple(pair) for pair in pair_layers(2, 6)]
    [(0, 2), (1, 5)]
    """
    fewer, more = sorted((student_layers, teacher_layers))
    ends = [-(-(layer + 1) * more // fewer) - 1 for layer in range(fewer)]
    if student_layers <= teacher_layers:
        return tuple(LayerPair(layer, end) for layer, end in enumerate(ends))
    return tuple(LayerPair(end, layer) for layer, end in enumerate(ends))


def common_heads(student_heads: int, teacher_heads: int) -> int:
    """How many heads are compared: all if there are as many, else the greatest common divisor.

    >>> common_heads(4, 6)
    2
    """
    return math.gcd(student_heads, teacher_heads)


def pool_heads(
    maps: Float[Tensor, "batch heads rows columns"], heads: int
) -> Float[Tensor, "batch {heads} rows columns"]:
    """Average consecutive heads so that `heads`, a divisor of their number, remain."""
    return maps if maps.shape[1] == heads else maps.unflatten(1, (heads, -1)).mean(2)


def common_grid(student: Grid, teacher: Grid) -> Grid:
    """The grid of one frame that is as coarse along each axis as the coarser of the two.

    >>> common_grid(Grid(1, 5, 14), Grid(8, 10, 7))
    Grid(time=1, height=5, width=7)
    """
    return Grid(1, min(student.height, teacher.height), min(student.width, teacher.width))


def overlap(cells: int, parts: int) -> Float[Tensor, "{parts} {cells}"]:
    """Length that each of `parts` equal parts of 0..1 shares with each of `cells` equal cells.

    >>> overlap(3, 2) * 6
    tensor([[2., 1., 0.],
            [0., 1., 2.]], dtype=torch.float64)
    """
    part, cell = torch.arange(parts)[:, None] * cells, torch.arange(cells) * parts
    shared = torch.minimum(part + cells, cell + parts) - torch.maximum(part, cell)
    return shared.clamp(min=0).double() / (cells * parts)


def averaging(grid: Grid, coarse: Grid) -> Float[Tensor, "coarse_tokens tokens"]:
    """P: each coarse token is the mean of what its cell covers; rows sum to one. One frame."""
    down, across = overlap(grid.height, coarse.height), overlap(grid.width, coarse.width)
    return torch.kron(down * coarse.height, across * coarse.width)


def summing(grid: Grid, coarse: Grid) -> Float[Tensor, "coarse_tokens tokens"]:
    """S: each token's mass is shared out to the coarse cells by area; columns sum to one."""
    down, across = overlap(grid.height, coarse.height), overlap(grid.width, coarse.width)
    return torch.kron(down * grid.height, across * grid.width)


def regrid(
    maps: Float[Tensor, "batch heads tokens tokens"], grid: Grid, coarse: Grid
) -> Float[Tensor, "batch heads coarse_tokens coarse_tokens"]:
    """`A' = P A S^T`: rows are averaged and columns summed onto another grid of one frame.

    >>> maps = torch.eye(4)[None, None]  # every token of 2 x 2 looks at itself
    >>> regrid(maps, Grid(1, 2, 2), Grid(1, 1, 2))[0, 0]
    tensor([[1., 0.],
            [0., 1.]])
    """
    if _frame(grid) == _frame(coarse):
        return maps
    batch, heads, _, columns = maps.shape
    down, across = _overlaps(maps, grid, coarse)
    with torch.autocast(maps.device.type, enabled=False):
        rows = coarse.height * down @ maps.reshape(batch * heads, grid.height, -1)
        rows = coarse.width * across @ rows.reshape(-1, grid.width, columns)
    return regrid_columns(rows.reshape(batch, heads, -1, columns), grid, coarse)


def regrid_columns(
    maps: Float[Tensor, "batch heads rows tokens"], grid: Grid, coarse: Grid
) -> Float[Tensor, "batch heads rows coarse_tokens"]:
    """`A' = A S^T`: columns alone, for rows that are queries and not places."""
    if _frame(grid) == _frame(coarse):
        return maps
    down, across = _overlaps(maps, grid, coarse)
    with torch.autocast(maps.device.type, enabled=False):
        columns = grid.height * down @ maps.reshape(-1, grid.height, grid.width)
        columns = columns @ (grid.width * across).T
    return columns.reshape(*maps.shape[:3], -1)


def _overlaps(maps: Tensor, grid: Grid, coarse: Grid) -> tuple[Tensor, Tensor]:
    """P and S are Kronecker products of these: an axis at a time takes a third of the work."""
    down, across = overlap(grid.height, coarse.height), overlap(grid.width, coarse.width)
    return down.to(maps), across.to(maps)


def _frame(grid: Grid) -> Grid:
    return grid._replace(time=1)


def current_rows(
    maps: Float[Tensor, "batch heads tokens columns"], grid: Grid
) -> Float[Tensor, "batch heads rows columns"]:
    """What the tokens of the last frame look at."""
    return maps[:, :, -grid.height * grid.width :]


def sum_over_time(
    maps: Float[Tensor, "batch heads rows tokens"], grid: Grid
) -> Float[Tensor, "batch heads rows columns"]:
    """How much is looked at each place of the picture, whatever the frame."""
    return maps if grid.time == 1 else maps.unflatten(-1, (grid.time, -1)).sum(-2)


def slice_in_time(
    maps: Float[Tensor, "batch heads rows tokens"], grid: Grid
) -> Float[Tensor, "batch heads rows columns"]:
    """Where in the last frame is looked, rows summing to one again.

    A row that looks at nothing in it says nothing: it becomes uniform.
    """
    if grid.time == 1:
        return maps
    kept = maps[..., -grid.height * grid.width :]
    mass = kept.sum(-1, keepdim=True)
    seen = mass > 0
    return torch.where(seen, kept / torch.where(seen, mass, 1.0), 1 / kept.shape[-1])


def mass_in_current_frame(
    maps: Float[Tensor, "batch heads rows tokens"], grid: Grid
) -> Float[Tensor, "batch heads rows"]:
    """Share of each row that stays in the last frame, 0..1."""
    return maps[..., -grid.height * grid.width :].sum(-1)


def foreground_weights(
    boxes: list[Float[Tensor, "_ 4"]], grid: Grid, background: float
) -> Float[Tensor, "batch tokens"]:
    """Weights of one frame's rows: 1 in a box, falling softly around it, never below `background`.

    `max(background, exp(-d^2 / 2))` of the largest box, with d the distance in cells from the
    cell's centre to the box. A frame without boxes has ones: all its rows count the same.

    Args:
        boxes: one `[n, 4]` a clip, centre x, y, width, height in 0..1.
        background: in 0..1, not 0.

    >>> left_cell = torch.tensor([[0.125, 0.5, 0.25, 1.0]])
    >>> foreground_weights([left_cell], Grid(1, 1, 4), 0.1)
    tensor([[1.0000, 0.8825, 0.3247, 0.1000]])
    """
    return torch.stack([_nearness(each, grid).clamp(min=background) for each in boxes])


def _nearness(boxes_cxcywh: Float[Tensor, "n 4"], grid: Grid) -> Float[Tensor, " tokens"]:
    device, dtype = boxes_cxcywh.device, boxes_cxcywh.dtype
    if len(boxes_cxcywh) == 0:
        return torch.ones(grid.height * grid.width, device=device, dtype=dtype)
    y = torch.arange(grid.height, device=device, dtype=dtype) + 0.5
    x = torch.arange(grid.width, device=device, dtype=dtype) + 0.5
    left, top, right, bottom = xyxy_from_cxcywh(boxes_cxcywh).unsqueeze(-1).unbind(1)
    across = torch.maximum(left * grid.width - x, x - right * grid.width).clamp(min=0)
    down = torch.maximum(top * grid.height - y, y - bottom * grid.height).clamp(min=0)
    squared = down[:, :, None] ** 2 + across[:, None] ** 2
    return torch.exp(-squared / 2).amax(0).flatten()
