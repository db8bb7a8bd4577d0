"""The loss of dense proposals: which cells are to find an object, and how well they do.

Task-aligned assignment (Feng et al. 2021, "TOOD: Task-aligned One-stage Object Detection", section
3.2): the cells that already see an object best learn to, by their class score and overlap.
"""

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
SCORE_POWER, OVERLAP_POWER = 0.5, 6.0  # of the alignment s^a u^b


class Assignment(NamedTuple):
    """What the cells of one frame are to find.

    Attributes:
        quality: 0 for a cell that is to find nothing; the best cell of an object has the object's
            best overlap, the others less as they are worse aligned.
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
    # A cell that is hopeless still may have the object where all are: something must teach it.
    alignment = (scores.clamp(min=1e-9) ** SCORE_POWER * overlaps**OVERLAP_POWER).clamp(min=1e-12)
    alignment = alignment * inside
    best = alignment.topk(min(MOST, len(alignment)), dim=0).indices
    taken = torch.zeros_like(inside).scatter(0, best, True) & inside
    target = torch.where(taken, overlaps, -1.0).argmax(1)
    taken &= functional.one_hot(target, taken.shape[1]).bool()
    alignment, overlaps = alignment * taken, overlaps * taken
    relative = alignment / alignment.amax(0).clamp(min=1e-12)
    return Assignment((relative * overlaps.amax(0)).amax(1), target)


def dense_loss(dense: Dense, targets: list[Target], config: LossConfig) -> Float[Tensor, ""]:
    """The loss, already weighted.

    Classes are compared by cross-entropy with the quality as the score to give, boxes and points as
    in the set loss, by the quality of their cell; all is divided by the sum of qualities, at least
    1.

    Args:
        dense: of as many clips as there are targets.
    """
    wanted = torch.zeros_like(dense.logits)
    rows: list[Tensor] = []
    for clip, target in enumerate(targets):
        if not len(target.classes):
            continue
        assignment = _assign(dense, clip, target)
        (cells,) = assignment.quality.nonzero(as_tuple=True)
        chosen = assignment.target[cells]
        wanted[clip, cells, target.classes[chosen]] = assignment.quality[cells]
        rows.append(torch.stack((torch.full_like(cells, clip), cells, chosen)))
    divisor = wanted.sum().clamp(min=1)
    classification = functional.binary_cross_entropy_with_logits(
        dense.logits.float(), wanted, reduction="sum"
    )
    total = classification / divisor
    if rows:
        clips, cells, _ = torch.cat(rows, 1)
        quality = wanted[clips, cells].amax(-1)
        boxes = torch.cat([targets[int(each[0, 0])].boxes_cxcywh[each[2]] for each in rows])
        found = dense.boxes_cxcywh[clips, cells]
        distance = config.box_l1 * (found - boxes).abs().sum(-1)
        distance = distance + config.box_giou * (1 - generalised_iou(found, boxes))
        if dense.points is not None:
            points = torch.cat([targets[int(each[0, 0])].points[each[2]] for each in rows])
            error = dense.points[clips, cells] - torch.nan_to_num(points)
            error = torch.where(points.isfinite(), error, 0.0).abs().sum((-2, -1))
            distance = distance + config.points * error
        total = total + (quality * distance).sum() / divisor
    return config.dense * total


def _assign(dense: Dense, clip: int, target: Target) -> Assignment:
    boxes = xyxy_from_cxcywh(dense.boxes_cxcywh[clip].detach())
    wanted = xyxy_from_cxcywh(target.boxes_cxcywh)
    inner = torch.minimum(boxes[:, None, 2:], wanted[:, 2:]) - torch.maximum(
        boxes[:, None, :2], wanted[:, :2]
    )
    overlap = inner.clamp(min=0).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None]
    union = areas + (wanted[:, 2:] - wanted[:, :2]).prod(-1) - overlap
    # Half a cell more than the box, so that the thinnest one holds a cell.
    centres = dense.cells_cxcywh[:, None, :2]
    half = centres.new_tensor((0.5 / dense.grid.width, 0.5 / dense.grid.height))
    inside = ((centres > wanted[:, :2] - half) & (centres < wanted[:, 2:] + half)).all(-1)
    scores = dense.logits[clip].detach().sigmoid()[:, target.classes]
    return assign_cells(scores, overlap / union.clamp(min=1e-9), inside)
