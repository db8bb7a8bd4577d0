"""The loss of proposals, by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sonodetr import dense_loss as module
from sonodetr.config import LossConfig
from sonodetr.dense_loss import assign_cells, dense_loss
from sonodetr.model.position import cell_boxes
from sonodetr.model.tensors import Dense, Grid, Target

GRID = Grid(1, 3, 5)  # cells of 0.2 x 0.333
CONFIG = LossConfig(box_l1=5.0, box_giou=2.0, points=5.0, dense=1.0)


def everywhere(overlaps: Tensor) -> Tensor:
    return torch.ones_like(overlaps, dtype=torch.bool)


def target_of(*boxes: tuple[float, ...], classes: tuple[int, ...] = ()) -> Target:
    count = len(boxes)
    return Target(
        torch.tensor(boxes).reshape(count, 4),
        torch.tensor(classes or [0] * count, dtype=torch.int64),
        torch.full((count, 2, 2), math.nan),
    )


def dense_of(logit: float = 0.0, batch: int = 1, *, points: bool = False) -> Dense:
    """Two classes, boxes around the cells."""
    cells = cell_boxes(GRID)
    return Dense(
        torch.full((batch, 15, 2), logit),
        cells.repeat(batch, 1, 1),
        torch.full((batch, 15, 2, 2), 0.5) if points else None,
        cells,
        GRID,
    )


def test_alignment_is_of_score_and_overlap() -> None:
    """s^0.5 u^6: 0.4 * 0.5^6 is less than 0.8 * 0.45^6, but the best overlap stays 0.5."""
    scores, overlaps = torch.tensor([[0.16], [0.64]]), torch.tensor([[0.5], [0.45]])
    found = assign_cells(scores, overlaps, everywhere(overlaps))
    ratio = (0.4 * 0.5**6) / (0.8 * 0.45**6)
    assert ratio < 1
    torch.testing.assert_close(found.quality, torch.tensor([0.5 * ratio, 0.5]))


def test_of_two_objects_a_cell_takes_the_one_it_overlaps_more() -> None:
    overlaps = torch.tensor([[0.5, 0.8], [0.4, 0.1], [0.2, 0.6]])
    found = assign_cells(torch.ones(3, 2), overlaps, everywhere(overlaps))
    assert found.target.tolist() == [1, 0, 1]
    # The first object's best cell went to the second: its best is now 0.4.
    expected = torch.tensor([0.8, 0.4, 0.8 * 0.75**6])
    torch.testing.assert_close(found.quality, expected)


def test_more_objects_than_cells() -> None:
    overlaps = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5], [0.6, 0.2, 0.3, 0.4, 0.5]])
    found = assign_cells(torch.ones(2, 5), overlaps, everywhere(overlaps))
    assert found.target.tolist() == [4, 0]
    torch.testing.assert_close(found.quality, torch.tensor([0.5, 0.6]))


def test_ten_cells_an_object() -> None:
    overlaps = torch.linspace(0.9, 0.3, 13)[:, None]
    found = assign_cells(torch.ones(13, 1), overlaps, everywhere(overlaps))
    assert found.quality.gt(0).tolist() == [True] * 10 + [False] * 3
    torch.testing.assert_close(found.quality[:10], 0.9 * (overlaps[:10, 0] / 0.9) ** 6)


def test_only_cells_inside() -> None:
    overlaps = torch.tensor([[0.9], [0.3], [0.2]])
    inside = torch.tensor([[False], [True], [False]])
    found = assign_cells(torch.ones(3, 1), overlaps, inside)
    torch.testing.assert_close(found.quality, torch.tensor([0.0, 0.3, 0.0]))
    assert not assign_cells(torch.ones(3, 1), overlaps, inside & False).quality.any()


def test_an_object_that_no_box_meets_still_teaches() -> None:
    overlaps = torch.zeros(3, 1)
    inside = torch.tensor([[True], [False], [True]])
    found = assign_cells(torch.full((3, 1), 0.25), overlaps, inside)
    torch.testing.assert_close(found.quality, torch.tensor([0.01, 0.0, 0.01]))
    # Far boxes too, through the whole loss: the gradient draws them nearer.
    dense = dense_of()
    boxes = torch.tensor([0.01, 0.01, 1e-4, 1e-4]).repeat(1, 15, 1).requires_grad_()
    target = target_of((0.5, 0.5, 0.1, 0.1))
    dense_loss(replace(dense, boxes_cxcywh=boxes), [target], CONFIG).backward()
    assert boxes.grad is not None
    assert (boxes.grad[0, 7] < 0).all()
    assert boxes.grad.abs().sum(-1).nonzero().tolist() == [[0, 7]]


@pytest.mark.parametrize(
    ("box", "cells"),
    [
        ((0.4, 0.5, 0.01, 0.1), [6, 7]),  # on the edge of two columns: no centre is in it
        ((0.5, 2 / 3, 0.01, 0.01), [7, 12]),
        ((0.5, 0.5, 0.01, 1.0), [2, 7, 12]),
        ((0.5, 0.5, 0.39, 0.1), [6, 7, 8]),
        ((0.01, 0.01, 0.02, 0.02), [0]),
    ],
)
def test_the_thinnest_box_holds_a_cell(box: tuple[float, ...], cells: list[int]) -> None:
    found = module._assign(dense_of(), 0, target_of(box))
    assert found.quality.nonzero().flatten().tolist() == cells


def test_a_perfect_answer_costs_nothing() -> None:
    dense = dense_of(-30.0)
    target = target_of((0.52, 0.49, 0.1, 0.2), (0.1, 0.2, 0.07, 0.1), classes=(1, 0))
    for cell, row in ((7, 0), (0, 1)):
        dense.boxes_cxcywh[0, cell] = target.boxes_cxcywh[row]
        dense.logits[0, cell, target.classes[row]] = 30.0
    assert dense_loss(dense, [target], CONFIG).item() == pytest.approx(0, abs=1e-5)
    dense.logits[0, 7, 1] = -30.0  # not seen: 30 nats of two objects' qualities, 1 each
    assert dense_loss(dense, [target], CONFIG).item() == pytest.approx(15, abs=1e-2)


def one_object(*, points: bool) -> tuple[Dense, Target]:
    """Cell 7 has the object's box at twice its width; tip 0.1 and 0.2 off, entry unknown."""
    dense = dense_of(points=points)
    dense.boxes_cxcywh[0, 7] = torch.tensor([0.5, 0.5, 0.2, 0.2])
    target = target_of((0.5, 0.5, 0.1, 0.2), classes=(1,))
    target.points[0, 0] = torch.tensor([0.4, 0.7])
    return dense, target


@pytest.mark.parametrize("points", [False, True])
def test_by_hand(points: bool) -> None:
    dense, target = one_object(points=points)
    # IoU and generalised IoU 0.5; 30 classifications at a score of a half.
    quality, distance = 0.5, 5 * 0.1 + 2 * 0.5 + (5 * 0.3 if points else 0)
    expected = 30 * math.log(2) + quality * distance
    assert dense_loss(dense, [target], CONFIG).item() == pytest.approx(expected)
    twice = CONFIG.model_copy(update={"dense": 2.0})
    assert dense_loss(dense, [target], twice).item() == pytest.approx(2 * expected)


def test_divided_by_the_sum_of_qualities_over_processes() -> None:
    dense, target = one_object(points=False)
    seen = []

    def mean(total: Tensor) -> Tensor:
        seen.append(total.item())
        return total + 3.5

    once = dense_loss(dense, [target], CONFIG)
    assert dense_loss(dense, [target], CONFIG, mean).item() == pytest.approx(once.item() / 4)
    assert seen == pytest.approx([0.5])


def test_a_cell_learns_its_quality_as_score() -> None:
    """The gradient of cross-entropy is the score less what it should be."""
    dense, target = one_object(points=False)
    logits = dense.logits.requires_grad_()
    dense_loss(dense, [target], CONFIG).backward()
    expected = torch.full((1, 15, 2), 0.5)
    expected[0, 7, 1] = 0.0
    torch.testing.assert_close(logits.grad, expected)


def test_frames_without_objects_teach_silence_alone() -> None:
    dense = dense_of(batch=2, points=True)
    leaves = [dense.logits, dense.boxes_cxcywh, dense.points]
    for leaf in leaves:
        assert leaf is not None
        leaf.requires_grad_()
    loss = dense_loss(dense, [target_of(), target_of()], CONFIG)
    assert loss.item() == pytest.approx(60 * math.log(2))
    loss.backward()
    scores, boxes, points = (leaf.grad for leaf in leaves if leaf is not None)
    assert (scores == 0.5).all()
    # Not None, for which other processes would wait.
    assert boxes is not None
    assert points is not None
    assert not boxes.any()
    assert not points.any()


def test_clips_keep_their_own_objects() -> None:
    dense = dense_of(batch=3)
    first = target_of((0.1, 0.2, 0.1, 0.1))
    last = target_of((0.9, 0.8, 0.1, 0.1), (0.5, 0.5, 0.1, 0.1))
    together = dense_loss(dense, [first, target_of(), last], CONFIG, torch.ones_like)
    alone = [
        dense_loss(dense.first(1), [target], CONFIG, torch.ones_like)
        for target in (first, target_of(), last)
    ]
    assert together.item() == pytest.approx(sum(map(float, alone)), rel=1e-5)


def test_gradient_by_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the assignment held, which has no gradient."""
    torch.manual_seed(2)
    target = target_of((0.5, 0.5, 0.3, 0.4), (0.2, 0.3, 0.2, 0.3), classes=(1, 0))
    target = replace(target, points=torch.rand(2, 2, 2))
    dense = dense_of(points=True)
    dense = replace(
        dense,
        logits=torch.randn(1, 15, 2, dtype=torch.float64),
        boxes_cxcywh=(dense.boxes_cxcywh + 0.05 * torch.randn(1, 15, 4)).double(),
        points=torch.rand(1, 15, 2, 2, dtype=torch.float64),
    )
    held = module._assign(dense, 0, target)
    assert held.quality.count_nonzero() > 3
    monkeypatch.setattr(module, "_assign", lambda *_: held)

    def loss(logits: Tensor, boxes: Tensor, points: Tensor) -> Tensor:
        moved = replace(dense, logits=logits, boxes_cxcywh=boxes, points=points)
        return dense_loss(moved, [target], CONFIG)

    leaves = dense.logits, dense.boxes_cxcywh, dense.points
    torch.autograd.gradcheck(loss, [leaf.requires_grad_() for leaf in leaves if leaf is not None])


def test_mixed_precision() -> None:
    dense, target = one_object(points=True)
    assert dense.points is not None
    half = replace(dense, logits=dense.logits.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dense_loss(half, [target], CONFIG)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(dense_loss(dense, [target], CONFIG).item())
