"""Proposals: the finer memory, what a new head answers, which cells become anchors."""

import pytest
import torch
from torch import Tensor, nn

from sonodetr.model.dense import DenseHead, FineMemory, choose, rank
from sonodetr.model.position import cell_boxes
from sonodetr.model.tensors import Dense, Grid

GRID = Grid(1, 3, 5)


def dense_of(scores: Tensor) -> Dense:
    """The first class has the scores."""
    logits = torch.stack((scores, torch.full_like(scores, -50.0)), -1)
    cells = cell_boxes(GRID)
    return Dense(logits, cells.expand(len(scores), 15, 4), None, cells, GRID)


def scores_of(cells: dict[int, float], others: float = -9.0) -> Tensor:
    scores = torch.full((1, 15), others)
    for cell, score in cells.items():
        scores[0, cell] = score
    return scores


def test_a_cell_that_a_neighbour_beats_goes_behind_all() -> None:
    """Cells 0 (left), 6 (below) and 12 (diagonally below 6) are each beaten by a neighbour; 3 and 4
    see none better than themselves."""
    dense = dense_of(scores_of({1: 5.0, 6: 4.5, 0: 4.0, 14: 3.0, 12: 1.0}))
    chosen = choose(dense, 7)
    assert chosen[0, :2].tolist() == [1, 14]
    assert sorted(chosen[0, 2:4].tolist()) == [3, 4]
    assert chosen[0, 4:].tolist() == [6, 0, 12]
    assert rank(dense)[0, [1, 6, 4]].tolist() == [5.0, 4.5 - 100, -9.0]


def test_equal_neighbours_are_both_peaks() -> None:
    dense = dense_of(scores_of({7: 2.0, 8: 2.0, 2: 1.0}))
    assert sorted(choose(dense, 2)[0].tolist()) == [7, 8]
    flat = dense_of(torch.full((1, 15), -4.0))  # a black picture
    assert rank(flat).unique().tolist() == [-4.0]
    assert len(set(choose(flat, 15)[0].tolist())) == 15


def test_any_class_counts_and_clips_choose_for_themselves() -> None:
    dense = dense_of(torch.cat((scores_of({3: 1.0}), scores_of({11: 1.0}))))
    dense.logits[0, 10, 1] = 2.0
    assert choose(dense, 2).tolist()[0] == [10, 3]
    assert choose(dense, 1).tolist() == [[10], [11]]


def test_slack_spares_what_is_hardly_beaten() -> None:
    dense = dense_of(scores_of({7: 2.0, 8: 1.75}))
    assert rank(dense)[0, 8] == 1.75 - 100
    assert rank(dense, slack=0.5)[0, 8] == 1.75


def test_beaten_cells_keep_their_order_in_half_precision() -> None:
    """Near -100 bfloat16 tells 0.5 apart; in a wall of rising scores only the last is a peak."""
    rising = torch.arange(15)[None] / 16
    assert choose(dense_of(rising.bfloat16()), 15)[0].tolist() == [*range(14, -1, -1)]


def test_finer_memory_repeats_tokens_and_adds_details() -> None:
    """2 x 3 tokens on 3 x 5 cells, as a picture of 24 x 40 pixels has at strides 16 and 8."""
    memory = FineMemory(7, 4).eval()
    nn.init.zeros_(memory.blend[-1].weight)
    nn.init.zeros_(memory.blend[-1].bias)
    memory.norm = nn.Identity()
    tokens = torch.arange(6.0)[None, :, None].expand(1, 6, 4)
    nn.init.zeros_(memory.lateral[0].weight)
    cells, grid = memory(tokens, Grid(2, 2, 3), torch.rand(1, 7, 3, 5))
    assert grid == GRID
    expected = [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]
    assert cells[0, :, 3].reshape(3, 5).tolist() == expected
    with torch.no_grad():
        memory.lateral[0].weight[3, 6] = 1.0
    fine = torch.rand(1, 7, 3, 5)
    cells, _ = memory(tokens, Grid(2, 2, 3), fine)
    torch.testing.assert_close(
        cells[0, :, 3].reshape(3, 5), fine[0, 6] + torch.tensor(expected), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("points", [False, True])
def test_a_new_head_answers_with_its_cells(points: bool) -> None:
    torch.manual_seed(0)
    dense = DenseHead(8, 2, points=points)(torch.randn(3, 15, 8), GRID)
    cells = cell_boxes(GRID)
    assert torch.equal(dense.cells_cxcywh, cells)
    torch.testing.assert_close(dense.boxes_cxcywh, cells.expand(3, -1, -1))
    assert dense.logits.shape == (3, 15, 2)
    assert dense.logits.sigmoid().mean().item() == pytest.approx(0.01, abs=0.005)
    assert (dense.points is None) != points


def test_boxes_and_points_move_from_the_cell() -> None:
    head = DenseHead(8, 2, points=True)
    assert head.point_head is not None
    nn.init.zeros_(head.point_head[-1].weight)
    with torch.no_grad():
        head.box_head[-1].bias.copy_(torch.tensor([0.3, 0.0, -0.2, 0.1]))
        head.point_head[-1].bias.copy_(torch.tensor([-0.5, -0.5, 0.5, 0.25]))
    dense = head(torch.randn(1, 15, 8), GRID)
    # Cell 7 is in the middle, its box a fifth wide and high.
    move = torch.tensor([0.0, 0.0, -1.386294, -1.386294]) + torch.tensor([0.3, 0.0, -0.2, 0.1])
    x, y, width, height = move.sigmoid().tolist()
    torch.testing.assert_close(dense.boxes_cxcywh[0, 7], torch.tensor([x, y, width, height]))
    ends = [[x - width / 2, y - height / 2], [x + width / 2, y + height / 4]]
    torch.testing.assert_close(dense.points[0, 7], torch.tensor(ends))


def test_boxes_of_some_cells_are_those_of_all_and_teach_nothing() -> None:
    torch.manual_seed(0)
    head, memory = DenseHead(8, 2, points=True), torch.randn(3, 15, 8)
    nn.init.normal_(head.box_head[-1].weight)
    dense = head(memory, GRID)
    chosen = torch.tensor([[7, 2], [14, 0], [3, 3]])
    clips = torch.arange(3)[:, None]
    boxes = head.boxes(memory[clips, chosen], dense.cells_cxcywh[chosen])
    torch.testing.assert_close(boxes, dense.boxes_cxcywh[clips, chosen], atol=1e-6, rtol=0)
    assert (boxes - dense.cells_cxcywh[chosen]).abs().amax(-1).min() > 0.03
    assert dense.boxes_cxcywh.requires_grad
    assert not boxes.requires_grad


def test_boxes_are_exact_in_mixed_precision() -> None:
    head = DenseHead(8, 2, points=True)
    grid = Grid(1, 61, 67)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dense = head(torch.randn(1, 61 * 67, 8).bfloat16(), grid)
    assert dense.logits.dtype == torch.bfloat16
    assert dense.points.dtype == dense.boxes_cxcywh.dtype == torch.float32
    torch.testing.assert_close(dense.boxes_cxcywh[0], cell_boxes(grid))
