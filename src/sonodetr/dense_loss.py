"""The loss of proposals: which cells are to find an object, and how well they do.

Task-aligned assignment (Feng et al. 2021, "TOOD: Task-aligned One-stage Object Detection", section
3.2): the cells that already see an object best learn to, by their class score and overlap.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from sonodetr.config import LossConfig
from sonodetr.geometry import xyxy_from_cxcywh
from sonodetr.model.tensors import Dense, Target
from sonodetr.set_loss import generalised_iou

MOST = 10  # cells that an object teaches
LEAST = 0.01  # best overlap that an object counts as having: one that no box meets must teach too
SCORE_POWER, OVERLAP_POWER = 0.5, 6.0  # of the alignment s^a u^b


class Assignment(NamedTuple):
    """What the cells of one frame are to find.

    Attributes:
        quality: 0 for a cell that is to find nothing; the best cell of an object has the object's
            best overlap (at least `LEAST`), the others less as they are worse aligned.
        target: the object, where quality is above 0.
    """

    quality: Float[Tensor, " cells"]
    target: Int64[Tensor, " cells"]


@torch.no_grad()
def assign_cells(
    scores: Float[Tensor, "cells objects"],
    overlaps: Float[Tensor, "cells objects"],
    inside: Bool[Tensor, "cells objects"],
) -> Assignment:
    """Give each object the best aligned of the cells inside it, and each cell one object.

    Args:
        scores: what each cell says of each object's class, 0..1.
        overlaps: IoU of each cell's box with each object's.
        inside: whether a cell may have the object.

    >>> overlaps = torch.tensor([[0.8], [0.4], [0.6]])
    >>> assign_cells(torch.full((3, 1), 0.25), overlaps, torch.tensor([[True], [True], [False]]))
    Assignment(quality=tensor([0.8000, 0.0125, 0.0000]), target=tensor([0, 0, 0]))
    """
    # Where all cells are hopeless, some of them have the object all the same.
    alignment = (scores.clamp(min=1e-9) ** SCORE_POWER * overlaps**OVERLAP_POWER).clamp(min=1e-12)
    alignment = alignment * inside
    best = alignment.topk(min(MOST, len(alignment)), dim=0).indices
    taken = torch.zeros_like(inside).scatter(0, best, True) & inside
    target = torch.where(taken, overlaps, -1.0).argmax(1)
    taken &= functional.one_hot(target, taken.shape[1]).bool()
    alignment, overlaps = alignment * taken, overlaps * taken
    relative = alignment / alignment.amax(0).clamp(min=1e-12)
    return Assignment((relative * overlaps.amax(0).clamp(min=LEAST)).amax(1), target)


def dense_loss(
    dense: Dense,
    targets: list[Target],
    config: LossConfig,
    over_processes: Callable[[Tensor], Tensor] = lambda total: total,
) -> Float[Tensor, ""]:
    """The loss, already weighted.

    Classes are compared by cross-entropy with the quality as the score to give, boxes and points as
    in the set loss, by the quality of their cell; all is divided by the sum of qualities, at least
    1.

    Args:
        dense: of as many clips as there are targets.
        config: weights of the terms.
        over_processes: the mean of that sum over all processes, so that every object weighs the
            same wherever it is processed.
    """
    logits, boxes = _wide(dense.logits), _wide(dense.boxes_cxcywh)
    wanted = torch.zeros_like(logits)
    rows = [torch.zeros(3, 0, dtype=torch.int64, device=logits.device)]  # clip, cell, object
    objects_before = 0
    for clip, target in enumerate(targets):
        if len(target.classes):
            quality, found = _assign(dense, clip, target)
            (cells,) = quality.nonzero(as_tuple=True)
            wanted[clip, cells, target.classes[found[cells]]] = quality[cells].to(wanted)
            clips = torch.full_like(cells, clip)
            rows.append(torch.stack((clips, cells, objects_before + found[cells])))
        objects_before += len(target.classes)
    clips, cells, objects = torch.cat(rows, 1)
    # Without objects the sums below are empty, but all parameters still take part, as DDP demands.
    quality = wanted[clips, cells].amax(-1)
    wanted_boxes = torch.cat([target.boxes_cxcywh for target in targets])[objects]
    found_boxes = boxes[clips, cells]
    distance = config.box_l1 * (found_boxes - wanted_boxes).abs().sum(-1)
    distance = distance + config.box_giou * (1 - generalised_iou(found_boxes, wanted_boxes))
    if dense.points is not None:
        points = torch.cat([target.points for target in targets])[objects]
        error = _wide(dense.points)[clips, cells] - torch.nan_to_num(points)
        error = torch.where(points.isfinite(), error, 0.0).abs().sum((-2, -1))
        distance = distance + config.points * error
    classes = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    divisor = over_processes(wanted.sum()).clamp(min=1)
    return config.dense * (classes + (quality * distance).sum()) / divisor


def _wide(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """In float32, unless it is finer already."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _assign(dense: Dense, clip: int, target: Target) -> Assignment:
    boxes = xyxy_from_cxcywh(_wide(dense.boxes_cxcywh[clip].detach()))
    wanted = xyxy_from_cxcywh(target.boxes_cxcywh)
    inner = torch.minimum(boxes[:, None, 2:], wanted[:, 2:]) - torch.maximum(
        boxes[:, None, :2], wanted[:, :2]
    )
    overlap = inner.clamp(min=0).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None]
    union = areas + (wanted[:, 2:] - wanted[:, :2]).prod(-1) - overlap
    # Half a cell more than the box, so that the thinnest one holds a cell.
    centres = _wide(dense.cells_cxcywh)[:, None, :2]
    half = centres.new_tensor((0.5 / dense.grid.width, 0.5 / dense.grid.height))
    inside = ((centres > wanted[:, :2] - half) & (centres < wanted[:, 2:] + half)).all(-1)
    scores = _wide(dense.logits[clip].detach()).sigmoid()[:, target.classes]
    return assign_cells(scores, overlap / union.clamp(min=1e-9), inside)
