"""Set prediction loss of DETR: match queries to objects one to one, then compare.

Carion et al. 2020, section 3.1. All decoder layers, query groups and clips are priced in one tensor
and compared in one; only the assignment itself runs case by case, on the CPU.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from sonodetr.config import LossConfig
from sonodetr.files import InputError
from sonodetr.geometry import xyxy_from_cxcywh
from sonodetr.model.tensors import Outputs, Target


class Matching(NamedTuple):
    """M pairs: `query` of `layer` and clip `batch` is to find row `target` of all targets."""

    layer: Int64[Tensor, " m"]
    batch: Int64[Tensor, " m"]
    query: Int64[Tensor, " m"]
    target: Int64[Tensor, " m"]


@dataclass(frozen=True)
class SetLoss:
    """The terms of every decoder layer, already weighted; the last layer is the answer.

    Attributes:
        classification, box_l1, box_giou, points: one value a decoder layer.
    """

    classification: Float[Tensor, " layers"]
    box_l1: Float[Tensor, " layers"]
    box_giou: Float[Tensor, " layers"]
    points: Float[Tensor, " layers"]

    @property
    def total(self) -> Float[Tensor, ""]:
        """Sum of all terms over all layers."""
        return (self.classification + self.box_l1 + self.box_giou + self.points).sum()

    def named(self) -> dict[str, Tensor]:
        """Each term summed over the layers, for the log."""
        return {
            "loss": self.total,
            "classification": self.classification.sum(),
            "box_l1": self.box_l1.sum(),
            "box_giou": self.box_giou.sum(),
            "points": self.points.sum(),
        }


def generalised_iou(
    first_cxcywh: Float[Tensor, "*shape 4"], second_cxcywh: Float[Tensor, "*shape 4"]
) -> Float[Tensor, "*shape"]:
    """`IoU - (hull - union) / hull` of boxes in pairs (Rezatofighi et al. 2019, equation 3).

    >>> box = torch.tensor([0.5, 0.5, 1.0, 1.0])
    >>> generalised_iou(box, box)
    tensor(1.)
    """
    first, second = xyxy_from_cxcywh(first_cxcywh), xyxy_from_cxcywh(second_cxcywh)
    inner = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(
        first[..., :2], second[..., :2]
    )
    outer = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(
        first[..., :2], second[..., :2]
    )
    overlap = inner.clamp(min=0).prod(-1)
    areas = first_cxcywh[..., 2:].prod(-1) + second_cxcywh[..., 2:].prod(-1)
    tiny = torch.finfo(areas.dtype).tiny
    union = (areas - overlap).clamp(min=tiny)
    hull = outer.prod(-1).clamp(min=tiny)
    return overlap / union - (hull - union) / hull


def focal_terms(
    logits: Float[Tensor, "*shape"], config: LossConfig
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Focal loss of a score that should be one, and that should be zero (Lin et al. 2017, 5)."""
    probability = logits.sigmoid()
    if_one = (
        config.focal_alpha * (1 - probability) ** config.focal_gamma * functional.softplus(-logits)
    )
    if_zero = (
        (1 - config.focal_alpha) * probability**config.focal_gamma * functional.softplus(logits)
    )
    return if_one, if_zero


def class_costs(
    logits: Float[Tensor, "*shape classes"], config: LossConfig, classification: str
) -> Float[Tensor, "*shape classes"]:
    """Cost of giving a query to an object of each class."""
    if classification == "focal":
        if_one, if_zero = focal_terms(logits, config)
        return if_one - if_zero
    return -logits.softmax(-1)


def box_costs(
    boxes_cxcywh: Float[Tensor, "layers batch queries 4"],
    wanted_cxcywh: Float[Tensor, "batch wanted 4"],
    config: LossConfig,
) -> Float[Tensor, "layers batch queries wanted"]:
    """L1 and (minus) generalised IoU term of every query with every box of its clip, weighted."""
    layers, _, queries, _ = boxes_cxcywh.shape
    wanted = wanted_cxcywh[None].expand(layers, -1, -1, -1)
    distance = torch.cdist(boxes_cxcywh, wanted, p=1)
    overlap = generalised_iou(
        boxes_cxcywh.unsqueeze(-2).expand(-1, -1, -1, wanted.shape[2], -1),
        wanted.unsqueeze(2).expand(-1, -1, queries, -1, -1),
    )
    return config.box_l1 * distance - config.box_giou * overlap


def assign(
    cost: Float[Tensor, "layers batch queries wanted"], counts: list[int], groups: int
) -> Matching:
    """Give each of the first `counts[batch]` columns a query of its own in every layer and group,
    at the smallest total cost; `target` counts the columns in use through the batch."""
    # Answers that are not finite are matched too: the loss then shows it, and its caller knows why.
    cost = torch.nan_to_num(cost, nan=1e9, posinf=1e9, neginf=-1e9)
    grouped = cost.unflatten(2, (groups, -1)).cpu().numpy()
    first_target = [sum(counts[:row]) for row in range(len(counts))]
    pairs = []
    for layer, row, group in np.ndindex(grouped.shape[:3]):
        chosen, found = linear_sum_assignment(grouped[layer, row, group, :, : counts[row]])
        shift = group * grouped.shape[3]
        pairs += [
            (layer, row, shift + int(q), first_target[row] + int(t))
            for q, t in zip(chosen, found, strict=True)
        ]
    table = torch.tensor(pairs, dtype=torch.int64, device=cost.device).reshape(-1, 4)
    return Matching(*table.unbind(1))


@torch.no_grad()
def match(
    outputs: Outputs, targets: list[Target], config: LossConfig, classification: str
) -> Matching:
    """Assign every object to one query of each layer and group, at the smallest total cost.

    The cost of a pair is its class, L1 and (minus) generalised IoU term, weighted as in the loss.

    Raises:
        InputError: a clip has more objects than a group has queries.
    """
    logits, boxes = outputs.logits.float(), outputs.boxes_cxcywh.float()
    layers, batch, queries, _ = boxes.shape
    counts = [len(target.classes) for target in targets]
    widest = max(counts, default=0)
    if widest > queries // outputs.groups:
        raise InputError(
            f"a frame has {widest} objects, the model finds at most {queries // outputs.groups}; "
            "raise model.num_queries"
        )
    # Padded to the same number of objects, so that one expression prices all of them.
    wanted_boxes = boxes.new_zeros(batch, widest, 4)
    wanted_classes = torch.zeros(batch, widest, dtype=torch.int64, device=boxes.device)
    for row, target in enumerate(targets):
        wanted_boxes[row, : counts[row]] = target.boxes_cxcywh
        wanted_classes[row, : counts[row]] = target.classes
    index = wanted_classes[None, :, None].expand(layers, -1, queries, -1)
    class_cost = class_costs(logits, config, classification).gather(-1, index)
    cost = config.classification * class_cost + box_costs(boxes, wanted_boxes, config)
    return assign(cost, counts, outputs.groups)


def set_loss(
    outputs: Outputs,
    targets: list[Target],
    config: LossConfig,
    classification: str,
    num_objects: float | None = None,
) -> SetLoss:
    """The detection loss of a batch.

    Args:
        outputs: of the model in training mode.
        targets: one a clip; a clip without objects teaches "nothing here" to every query.
        config: weights of the terms.
        classification: "focal" or "softmax", as the model was built.
        num_objects: what the sums are divided by; with several devices the mean over the devices.
            Default: the number of objects in the batch, at least 1.

    Raises:
        InputError: see `match`.
    """
    if not config.auxiliary:
        outputs = last_layer(outputs)
    matching = match(outputs, targets, config, classification)
    layers = len(outputs.logits)
    logits, boxes = outputs.logits.float(), outputs.boxes_cxcywh.float()
    wanted_boxes = torch.cat([target.boxes_cxcywh for target in targets])[matching.target]
    wanted_classes = torch.cat([target.classes for target in targets])[matching.target]
    objects = sum(len(target.classes) for target in targets) if num_objects is None else num_objects
    divisor = max(float(objects), 1.0) * outputs.groups

    found = boxes[matching.layer, matching.batch, matching.query]
    per_layer = boxes.new_zeros(layers)
    box_l1 = per_layer.index_add(0, matching.layer, (found - wanted_boxes).abs().sum(-1)) / divisor
    overlap = generalised_iou(found, wanted_boxes)
    box_giou = per_layer.index_add(0, matching.layer, 1 - overlap) / divisor

    if classification == "focal":
        if_one, if_zero = focal_terms(logits, config)
        place = (matching.layer, matching.batch, matching.query, wanted_classes)
        background = if_zero.sum((1, 2, 3))
        objects_instead = per_layer.index_add(0, matching.layer, if_one[place] - if_zero[place])
        class_loss = (background + objects_instead) / divisor
    else:
        class_loss = _softmax_loss(logits, matching, wanted_classes, config)

    points = per_layer
    if outputs.points is not None:
        wanted_points = torch.cat([target.points for target in targets])[matching.target]
        distance = outputs.points.float()[matching.layer, matching.batch, matching.query]
        known = torch.isfinite(wanted_points)
        error = torch.where(known, distance - torch.nan_to_num(wanted_points), 0.0).abs()
        points = per_layer.index_add(0, matching.layer, error.sum((-2, -1))) / divisor
    return SetLoss(
        config.classification * class_loss,
        config.box_l1 * box_l1,
        config.box_giou * box_giou,
        config.points * points,
    )


def _softmax_loss(
    logits: Float[Tensor, "layers batch queries classes"],
    matching: Matching,
    wanted_classes: Int64[Tensor, " m"],
    config: LossConfig,
) -> Float[Tensor, " layers"]:
    """Cross-entropy where unmatched queries are to say "no object", at a lower weight."""
    no_object = logits.shape[-1] - 1
    labels = torch.full(logits.shape[:3], no_object, dtype=torch.int64, device=logits.device)
    labels[matching.layer, matching.batch, matching.query] = wanted_classes
    weight = torch.where(labels == no_object, config.no_object, 1.0)
    surprise = -logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return (surprise * weight).sum((1, 2)) / weight.sum((1, 2))


def last_layer(outputs: Outputs) -> Outputs:
    """The answer alone, without the layers on the way to it."""
    return replace(
        outputs,
        logits=outputs.logits[-1:],
        boxes_cxcywh=outputs.boxes_cxcywh[-1:],
        points=None if outputs.points is None else outputs.points[-1:],
    )
