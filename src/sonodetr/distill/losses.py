"""How far a student is from its teacher: attention maps, detections, encoder memory.

Pure functions with gradients to the student alone, zero where both agree. docs/distillation.md has
the formulas and their sources.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sonodetr.config import LossConfig
from sonodetr.model.tensors import Outputs
from sonodetr.set_loss import (
    Matching,
    assign,
    box_costs,
    class_costs,
    generalised_iou,
    last_layer,
)


class TeacherDetections(NamedTuple):
    """What a teacher answers.

    Attributes:
        scores: probabilities of the real classes, 0..1.
        boxes_cxcywh: boxes in the input, 0..1.
        points: x, y of tip and entry in the input, None for a teacher without points.
    """

    scores: Float[Tensor, "batch teacher_queries classes"]
    boxes_cxcywh: Float[Tensor, "batch teacher_queries 4"]
    points: Float[Tensor, "batch teacher_queries 2 2"] | None


def attention_divergence(
    student: Float[Tensor, "batch heads rows columns"],
    teacher: Float[Tensor, "batch heads rows columns"],
    weights: Float[Tensor, "batch rows"] | Float[Tensor, "batch heads rows"],
) -> Float[Tensor, ""]:
    """`sum w KL(teacher || student) / sum w` over the rows of two attention maps.

    The divergence of Hinton et al. 2015 at temperature 1, of attention rows as in MiniLM (Wang et
    al. 2020). In float32 at least.

    Args:
        student, teacher: probabilities, rows sum to one.
        weights: of rows, on any scale, not negative.

    >>> teacher, student = torch.tensor([[[[1.0, 0.0]]], [[[0.5, 0.5]]]])[:, None]
    >>> attention_divergence(student, teacher, torch.ones(1, 1))
    tensor(0.6931)
    """
    weights = weights if weights.dim() == 3 else weights[:, None].expand(student.shape[:3])
    # Zeros: of the teacher they weigh nothing, of the student they are very small.
    smallest = torch.finfo(student.dtype).tiny
    student = _wide(student)
    teacher = teacher.detach().to(student.dtype)
    ratio = teacher.clamp(min=smallest).log() - student.clamp(min=smallest).log()
    return _weighted_mean((teacher * ratio).sum(-1), weights)


def _wide(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """In float32, unless it is finer already."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _weighted_mean(
    values: Float[Tensor, "*shape"], weights: Float[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    weights = weights.detach().to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=torch.finfo(values.dtype).tiny)


@torch.no_grad()
def match_teacher(
    student: Outputs, teacher: TeacherDetections, config: LossConfig, classification: str
) -> Matching:
    """Assign every teacher query to one student query of each layer and group.

    The cost is that of the set loss, where the teacher's score of a class takes the place of a
    label and its confidence, the largest score, weighs the box. If a group has fewer queries than
    the teacher, the teacher's most confident ones take part.

    Returns:
        Pairs; `target` counts the teacher's queries through the batch.
    """
    batch, teacher_queries, num_classes = teacher.scores.shape
    scores = teacher.scores.float()
    confidence, order = scores.amax(-1).topk(
        min(teacher_queries, student.logits.shape[2] // student.groups)
    )
    rows = torch.arange(batch, device=order.device)[:, None]
    class_cost = class_costs(student.logits.float(), config, classification)[..., :num_classes]
    with torch.autocast(class_cost.device.type, enabled=False):
        class_cost = class_cost @ scores[rows, order].mT
    cost = config.classification * class_cost + confidence[:, None] * box_costs(
        student.boxes_cxcywh.float(), teacher.boxes_cxcywh.float()[rows, order], config
    )
    matching = assign(cost, [order.shape[1]] * batch, student.groups)
    chosen = (rows * teacher_queries + order).flatten()
    return matching._replace(target=chosen[matching.target])


def detection_distance(
    student: Outputs, teacher: TeacherDetections, config: LossConfig, classification: str
) -> dict[str, Tensor]:
    """Classes, boxes and points of matched queries, weighted as in the set loss.

    Sums over pairs are weighted by the teacher's confidence and divided by its sum over the batch,
    at least 1, and by the groups. Classes count for all of the student's queries.

    Args:
        student: of the model in training mode.
        teacher: of the same clips.
        config: weights of the terms.
        classification: "focal" or "softmax", as the student was built.

    Returns:
        "classification", "box_l1", "box_giou", "points": scalars, summed over decoder layers.
    """
    if not config.auxiliary:
        student = last_layer(student)
    matching = match_teacher(student, teacher, config, classification)
    place = (matching.layer, matching.batch, matching.query)
    logits, found = _wide(student.logits), _wide(student.boxes_cxcywh)[place]
    scores = _matched(teacher.scores, matching, logits)
    confidence = scores.amax(-1)
    # Every layer and group has each of the teacher's queries that take part once.
    divisor = (confidence.sum() / len(student.logits)).clamp(min=student.groups)

    wanted = _matched(teacher.boxes_cxcywh, matching, found)
    box_l1 = (confidence * (found - wanted).abs().sum(-1)).sum() / divisor
    box_giou = (confidence * (1 - generalised_iou(found, wanted))).sum() / divisor

    if classification == "focal":
        targets = torch.zeros_like(logits).index_put(place, scores)
        class_loss = _quality_focal(logits, targets).sum() / divisor
    else:
        class_loss = _soft_classes(logits, place, scores, config)

    points = torch.zeros_like(box_l1)
    if student.points is not None and teacher.points is not None:
        seen = _wide(student.points)[place]
        error = seen - _matched(teacher.points, matching, seen)
        points = (confidence * error.abs().sum((-2, -1))).sum() / divisor
    return {
        "classification": config.classification * class_loss,
        "box_l1": config.box_l1 * box_l1,
        "box_giou": config.box_giou * box_giou,
        "points": config.points * points,
    }


def _matched(
    of_teacher: Float[Tensor, "batch teacher_queries *shape"],
    matching: Matching,
    like: Tensor,
) -> Float[Tensor, "m *shape"]:
    return of_teacher.detach().flatten(0, 1)[matching.target].to(like)


def _quality_focal(
    logits: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """`|p - y|^2 BCE(p, y)` (Li et al. 2020, Generalized Focal Loss, beta 2): 0 where p = y."""
    surprise = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (logits.sigmoid() - targets) ** 2 * surprise


def _soft_classes(
    logits: Float[Tensor, "layers batch queries classes"],
    place: tuple[Tensor, Tensor, Tensor],
    scores: Float[Tensor, "m real_classes"],
    config: LossConfig,
) -> Float[Tensor, ""]:
    """KL to the teacher's classes and "no object"; the latter alone for unmatched queries."""
    wanted = torch.cat((scores, (1 - scores.sum(-1, keepdim=True)).clamp(min=0)), -1)
    nothing = torch.zeros_like(logits)
    nothing[..., -1] = 1
    targets = nothing.index_put(place, wanted / wanted.sum(-1, keepdim=True))
    confidence = torch.zeros_like(logits[..., 0]).index_put(place, scores.amax(-1))
    weights = confidence + config.no_object * (1 - confidence)
    surprise = functional.kl_div(logits.log_softmax(-1), targets, reduction="none").sum(-1)
    return ((surprise * weights).sum((1, 2)) / weights.sum((1, 2))).sum()


def memory_distance(
    student: Float[Tensor, "batch tokens dim"],
    teacher: Float[Tensor, "batch tokens dim"],
    weights: Float[Tensor, "batch tokens"],
) -> Float[Tensor, ""]:
    """Mean squared difference of features that are normalised to mean 0, variance 1 a token.

    Hints as in FitNets (Romero et al. 2015), whatever the scale and the shift of the features.

    Args:
        student, teacher: encoder memories on the same grid and of the same width.
        weights: of tokens, on any scale, not negative.
    """
    first, second = (
        functional.layer_norm(_wide(memory), memory.shape[-1:])
        for memory in (student, teacher.detach())
    )
    return _weighted_mean(((first - second) ** 2).mean(-1), weights)
