"""Alignment against hand-worked maps, areas of overlap summed cell by cell, and limiting cases."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sonodetr.distill.align import (
    averaging,
    common_grid,
    common_heads,
    current_rows,
    foreground_weights,
    mass_in_current_frame,
    overlap,
    pair_layers,
    pool_heads,
    regrid,
    regrid_columns,
    slice_in_time,
    sum_over_time,
    summing,
)
from sonodetr.distill.losses import attention_divergence
from sonodetr.model.tensors import Grid

BATCH, HEADS = 2, 3
GRIDS = st.builds(Grid, st.just(1), st.integers(1, 7), st.integers(1, 5))


def random_maps(rows: int, columns: int, seed: int = 0, heads: int = HEADS) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(BATCH, heads, rows, columns, generator=generator, dtype=torch.float64)
    return (2 * logits).softmax(-1)


def tokens(grid: Grid) -> int:
    return grid.time * grid.height * grid.width


def assert_rows_sum_to_one(maps: Tensor) -> None:
    assert maps.min() >= 0
    torch.testing.assert_close(maps.sum(-1), torch.ones_like(maps[..., 0]), atol=1e-12, rtol=0)


# Layers and heads


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (3, 3, [(0, 0), (1, 1), (2, 2)]),
        (2, 6, [(0, 2), (1, 5)]),
        (2, 5, [(0, 2), (1, 4)]),  # blocks of 3 and 2
        (3, 5, [(0, 1), (1, 3), (2, 4)]),
        (5, 3, [(1, 0), (3, 1), (4, 2)]),
        (1, 7, [(0, 6)]),
        (7, 1, [(6, 0)]),
    ],
)
def test_layers_by_hand(student: int, teacher: int, expected: list[tuple[int, int]]) -> None:
    assert [tuple(pair) for pair in pair_layers(student, teacher)] == expected


@given(st.integers(1, 13), st.integers(1, 13))
def test_layers_rise_to_the_last(student: int, teacher: int) -> None:
    pairs = pair_layers(student, teacher)
    assert len(pairs) == min(student, teacher)
    assert pairs[-1] == (student - 1, teacher - 1)
    for stack in zip(*pairs, strict=True):
        assert list(stack) == sorted(set(stack))
        assert stack[0] >= 0
    assert [(s, t) for t, s in pair_layers(teacher, student)] == list(pairs)


@pytest.mark.parametrize(("pair", "heads"), [((8, 8), 8), ((4, 8), 4), ((6, 4), 2), ((5, 3), 1)])
def test_common_heads(pair: tuple[int, int], heads: int) -> None:
    assert common_heads(*pair) == heads


def test_heads_are_pooled_in_consecutive_groups() -> None:
    """Six heads that all look at one column each: 0 0 1 | 1 1 2."""
    maps = torch.eye(3)[[0, 0, 1, 1, 1, 2]].reshape(1, 6, 1, 3)
    pooled = pool_heads(maps, 2)[0, :, 0] * 3
    torch.testing.assert_close(pooled, torch.tensor([[2.0, 1, 0], [0, 2, 1]]))
    torch.testing.assert_close(pool_heads(maps, 1)[0, 0, 0] * 6, torch.tensor([2.0, 3, 1]))
    assert pool_heads(maps, 6) is maps


@given(st.integers(1, 4), st.integers(1, 3))
def test_pooled_heads_sum_to_one(heads: int, group: int) -> None:
    pooled = pool_heads(random_maps(5, 7, heads=heads * group), heads)
    assert pooled.shape == (BATCH, heads, 5, 7)
    assert_rows_sum_to_one(pooled)


# Grids


def test_common_grid_is_the_coarser_along_each_axis() -> None:
    assert common_grid(Grid(1, 5, 7), Grid(3, 2, 11)) == Grid(1, 2, 7)
    assert common_grid(Grid(3, 2, 11), Grid(1, 5, 7)) == Grid(1, 2, 7)


def test_overlap_of_five_cells_and_three_parts() -> None:
    """In fifteenths: cells end at 3 6 9 12 15, parts at 5 10 15."""
    expected = torch.tensor([[3, 2, 0, 0, 0], [0, 1, 3, 1, 0], [0, 0, 0, 2, 3]]).double()
    torch.testing.assert_close(overlap(5, 3) * 15, expected)
    torch.testing.assert_close(overlap(3, 5) * 15, expected.T)


def test_regrid_by_hand() -> None:
    """2 x 3 tokens to 2 x 2: the middle column is shared, a third of each new cell.

    New row 0 is 2/3 of row 0, which looks at token 1 (the shared middle of the top), and 1/3 of
    row 1, which looks at token 5 (bottom right). New row 1 is 1/3 of row 1 and 2/3 of row 2, which
    looks at token 3 (bottom left). The others look everywhere.
    """
    rows = torch.full((6, 6), 1 / 6)
    rows[:3] = torch.eye(6)[[1, 5, 3]]
    grid, coarse = Grid(1, 2, 3), Grid(1, 2, 2)
    expected = torch.tensor([[1, 1, 0, 1], [0, 0, 2, 1], [0.75] * 4, [0.75] * 4]) / 3
    torch.testing.assert_close(regrid(rows[None, None], grid, coarse)[0, 0], expected)
    # Tall instead of wide: the same map now means other places.
    shared = regrid(rows[None, None], Grid(1, 3, 2), Grid(1, 2, 2))[0, 0]
    torch.testing.assert_close(shared[0] * 3, torch.tensor([0.0, 2.5, 0, 0.5]))

    columns = regrid_columns(rows[None, None], grid, coarse)[0, 0, :3]
    torch.testing.assert_close(
        columns, torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0, 1], [0, 0, 1.0, 0]])
    )


def shared_area(grid: Grid, token: int, other: Grid, other_token: int) -> float:
    """Area that two cells of grids on the unit square share."""
    sides = []
    for axis in (1, 2):
        place = (token // grid.width, token % grid.width)[axis - 1]
        other_place = (other_token // other.width, other_token % other.width)[axis - 1]
        low = max(place / grid[axis], other_place / other[axis])
        high = min((place + 1) / grid[axis], (other_place + 1) / other[axis])
        sides.append(max(high - low, 0.0))
    return sides[0] * sides[1]


@settings(deadline=None, max_examples=25)
@given(GRIDS, GRIDS, st.integers(0, 10**6))
def test_regrid_goes_by_area(grid: Grid, coarse: Grid, seed: int) -> None:
    """Any grid to any other: rows weighted by their share of the new cell, columns by where their
    own cell lies; nothing is lost and nothing is made."""
    old, new = tokens(grid), tokens(coarse)
    areas = torch.tensor(
        [[shared_area(grid, j, coarse, i) for j in range(old)] for i in range(new)]
    ).double()
    torch.testing.assert_close(averaging(grid, coarse), areas * new)
    torch.testing.assert_close(summing(grid, coarse), areas * old)
    maps = random_maps(old, old, seed)
    moved = regrid(maps, grid, coarse)
    torch.testing.assert_close(moved, areas * new @ maps @ (areas * old).T)
    assert_rows_sum_to_one(moved)
    queries = random_maps(11, old, seed)
    moved = regrid_columns(queries, grid, coarse)
    torch.testing.assert_close(moved, queries @ (areas * old).T)
    assert_rows_sum_to_one(moved)


@given(GRIDS, GRIDS)
def test_uniform_stays_uniform(grid: Grid, coarse: Grid) -> None:
    old, new = tokens(grid), tokens(coarse)
    moved = regrid(torch.full((1, 1, old, old), 1 / old).double(), grid, coarse)
    torch.testing.assert_close(moved, torch.full((1, 1, new, new), 1 / new).double())


@given(GRIDS, GRIDS)
def test_a_key_keeps_its_mass_where_it_is(grid: Grid, coarse: Grid) -> None:
    """Every token looked at alone: all of it stays, in cells that touch its own."""
    alone = torch.eye(tokens(grid)).double()[None, None]
    moved = regrid_columns(alone, grid, coarse)[0, 0]
    torch.testing.assert_close(moved.sum(-1), torch.ones(tokens(grid)).double())
    for token, new in itertools.product(range(tokens(grid)), range(tokens(coarse))):
        assert (moved[token, new] > 1e-12) == (shared_area(grid, token, coarse, new) > 1e-12)


def test_equal_grids_are_left_alone() -> None:
    maps = random_maps(35, 35)
    assert regrid(maps, Grid(1, 7, 5), Grid(1, 7, 5)) is maps
    assert regrid(maps, Grid(3, 7, 5), Grid(1, 7, 5)) is maps  # a row's frame is not its place
    assert regrid_columns(maps, Grid(1, 7, 5), Grid(1, 7, 5)) is maps


@given(GRIDS)
@settings(deadline=None)
def test_a_refined_teacher_says_the_same(grid: Grid) -> None:
    """Twice as fine, every cell as its parent, the mass shared evenly by the four children."""
    fine = Grid(1, 2 * grid.height, 2 * grid.width)
    student = random_maps(tokens(grid), tokens(grid))
    places = torch.arange(tokens(grid)).reshape(grid.height, grid.width)
    parent = places.repeat_interleave(2, 0).repeat_interleave(2, 1).flatten()
    teacher = student[:, :, parent][..., parent] / 4
    moved = regrid(teacher, fine, common_grid(grid, fine))
    torch.testing.assert_close(moved, student)
    weights = torch.ones(BATCH, tokens(grid))
    assert abs(attention_divergence(student, moved, weights).item()) < 1e-12


def test_regrid_is_not_rounded_in_mixed_precision() -> None:
    maps = random_maps(35, 35).float()
    grid, coarse = Grid(1, 7, 5), Grid(1, 3, 2)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = regrid(maps, grid, coarse)
    assert torch.equal(mixed, regrid(maps, grid, coarse))


def test_regrid_gradient() -> None:
    maps = random_maps(6, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: regrid(x, Grid(1, 3, 2), Grid(1, 2, 1)), maps)


# Time


def test_time_by_hand() -> None:
    """Three frames of 1 x 2 tokens; the last frame is the last two."""
    row = torch.tensor([0.1, 0.2, 0.05, 0.15, 0.3, 0.2])
    maps, grid = row.expand(BATCH, HEADS, 6, 6), Grid(3, 1, 2)
    torch.testing.assert_close(sum_over_time(maps, grid)[1, 2, 3], torch.tensor([0.45, 0.55]))
    torch.testing.assert_close(slice_in_time(maps, grid)[1, 2, 3], torch.tensor([0.6, 0.4]))
    torch.testing.assert_close(mass_in_current_frame(maps, grid), torch.full((2, 3, 6), 0.5))
    numbered = torch.arange(6.0)[:, None].expand(BATCH, HEADS, 6, 6)
    assert current_rows(numbered, grid)[1, 2, :, 0].tolist() == [4, 5]


def test_time_is_the_slowest_axis() -> None:
    """A key at frame 1, row 2, column 4 of 2 x 3 x 5, and one at frame 0, row 1, column 3."""
    grid = Grid(2, 3, 5)
    maps = torch.zeros(1, 1, 1, 30)
    maps[..., 1 * 15 + 2 * 5 + 4] = 0.75
    maps[..., 0 * 15 + 1 * 5 + 3] = 0.25
    summed = sum_over_time(maps, grid).reshape(3, 5)
    assert summed[2, 4] == 0.75
    assert summed[1, 3] == 0.25
    assert slice_in_time(maps, grid).reshape(3, 5)[2, 4] == 1
    assert mass_in_current_frame(maps, grid).item() == 0.75


@given(st.integers(1, 4), GRIDS)
@settings(deadline=None)
def test_rows_sum_to_one_over_time(time: int, frame: Grid) -> None:
    grid = frame._replace(time=time)
    maps = current_rows(random_maps(tokens(grid), tokens(grid)), grid)
    assert maps.shape[2] == tokens(frame)
    for moved in (sum_over_time(maps, grid), slice_in_time(maps, grid)):
        assert moved.shape[2:] == (tokens(frame), tokens(frame))
        assert_rows_sum_to_one(moved)
    mass = mass_in_current_frame(maps, grid)
    torch.testing.assert_close(
        slice_in_time(maps, grid) * mass[..., None], maps[..., -tokens(frame) :]
    )
    if time == 1:
        for moved in (maps, sum_over_time(maps, grid), slice_in_time(maps, grid)):
            assert torch.equal(moved, random_maps(tokens(grid), tokens(grid)))


def test_a_row_that_sees_nothing_now_is_uniform() -> None:
    """All of it in the past, or all but what hardly is a number."""
    grid = Grid(2, 1, 5)
    maps = torch.zeros(1, 1, 2, 10)
    maps[..., 3] = 1
    maps[0, 0, 1, 7] = 1e-40
    maps.requires_grad_()
    now = slice_in_time(maps, grid)
    torch.testing.assert_close(now[0, 0], torch.stack((torch.full((5,), 0.2), torch.eye(5)[2])))
    assert mass_in_current_frame(maps, grid)[0, 0, 0] == 0


# Rows


def test_foreground_weights_by_hand() -> None:
    """2 x 5 cells. One box is cell 1 of the top; a line box lies between the cells of column 4."""
    cell, line = [0.3, 0.25, 0.2, 0.5], [0.9, 0.5, 0.1, 0.0]
    boxes = [torch.tensor([cell]), torch.zeros(0, 4), torch.tensor([cell, line])]
    weights = foreground_weights(boxes, Grid(3, 2, 5), 0.1).reshape(3, 2, 5)
    d = {squared: math.exp(-squared / 2) for squared in (0.25, 0.5, 2.25, 2.5)}
    top, bottom = [d[0.25], 1, d[0.25], d[2.25], 0.1], [d[0.5], d[0.25], d[0.5], d[2.5], 0.1]
    torch.testing.assert_close(weights[0], torch.tensor([top, bottom]))
    assert torch.equal(weights[1], torch.ones(2, 5))
    # The line is half a cell from both centres of column 4, and 3/4 further from column 3.
    near, aside = d[0.25], math.exp(-(0.25 + 0.75**2) / 2)
    top, bottom = [*top[:3], aside, near], [*bottom[:3], aside, near]
    torch.testing.assert_close(weights[2], torch.tensor([top, bottom]))


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=3), GRIDS, st.floats(0.01, 1))
def test_foreground_weights_are_bounded(
    boxes: list[tuple[float, ...]], grid: Grid, background: float
) -> None:
    given_boxes = torch.tensor(boxes).reshape(-1, 4)
    weights = foreground_weights([given_boxes], grid, background)
    assert weights.shape == (1, tokens(grid))
    assert weights.min() >= torch.tensor(background)
    assert weights.max() <= 1
    whole = torch.cat((given_boxes, torch.tensor([[0.5, 0.5, 1.0, 1.0]])))
    assert torch.equal(foreground_weights([whole], grid, background), torch.ones(1, tokens(grid)))
