"""What cells of a student's proposals learn from a teacher's: by hand, at equality, at extremes."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sonodetr.config import LossConfig
from sonodetr.distill.losses import TeacherDetections, cell_distance
from sonodetr.distill.targets import align, detections_of, teacher_targets
from sonodetr.distill.teachers import RunTeacher
from sonodetr.files import InputError
from sonodetr.model.detr import DETR, Capture
from sonodetr.model.tensors import Dense, Grid

BATCH, CLASSES, GRID = 2, 3, Grid(1, 5, 7)
PLAIN = LossConfig(classification=1, box_l1=1, box_giou=1, points=1)
DOUBLE = torch.float64


def student_of(logits: Tensor, boxes: Tensor, points: Tensor | None = None) -> Dense:
    return Dense(logits, boxes, points, boxes[0], GRID)


def random_student(seed: int = 0) -> Dense:
    torch.manual_seed(seed)
    shape = (BATCH, GRID.height * GRID.width)
    logits = 2 * torch.randn(*shape, CLASSES, dtype=DOUBLE)
    boxes = torch.rand(*shape, 4, dtype=DOUBLE) * 0.5 + 0.1
    points = torch.rand(*shape, 2, 2, dtype=DOUBLE)
    return student_of(*(leaf.requires_grad_() for leaf in (logits, boxes, points)))


def as_teacher(student: Dense) -> TeacherDetections:
    points = None if student.points is None else student.points.detach()
    return TeacherDetections(
        student.logits.detach().sigmoid(), student.boxes_cxcywh.detach(), points
    )


def leaves_of(student: Dense) -> tuple[Tensor, ...]:
    assert student.points is not None
    return student.logits, student.boxes_cxcywh, student.points


def test_by_hand() -> None:
    """One clip, two cells, one class: the teacher is sure of the first one by 3/4."""
    logits = torch.tensor([[[0.0], [0.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.5, 0.5, 0.2, 0.2]]])
    points = torch.tensor([[[[0.1, 0.2], [0.3, 0.4]], [[9.0, 9.0], [9.0, 9.0]]]])
    wanted = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2]]])
    ends = torch.tensor([[[[0.1, 0.0], [0.3, 0.4]], [[0.0, 0.0], [0.0, 0.0]]]])
    teacher = TeacherDetections(torch.tensor([[[0.75], [0.0]]]), wanted, ends)
    weights = LossConfig(box_l1=2, box_giou=3, points=5)
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    classes = 2 * math.log(2) - entropy
    # Half of the student's box is the teacher's; the sum of confidences counts as 1 at least.
    places = 0.75 * (2 * 0.2 + 3 * 0.5 + 5 * 0.2)
    found = cell_distance(student_of(logits, boxes, points), teacher, weights)
    assert found.item() == pytest.approx(classes + places, rel=1e-5)
    twice = [each.repeat(2, 1, 1) for each in (logits, boxes)]
    both = teacher._replace(
        scores=teacher.scores.repeat(2, 1, 1), boxes_cxcywh=wanted.repeat(2, 1, 1), points=None
    )
    places = 0.75 * (2 * 0.2 + 3 * 0.5)
    expected = 2 * (classes + places) / 1.5
    assert cell_distance(student_of(*twice), both, weights).item() == pytest.approx(expected)


def test_equal_cells_have_nothing_to_learn() -> None:
    student = random_student()
    distance = cell_distance(student, as_teacher(student), PLAIN)
    assert distance.item() == pytest.approx(0, abs=1e-6)
    for gradient in torch.autograd.grad(distance, leaves_of(student)):
        assert gradient.abs().max() < 1e-6


def test_gradient() -> None:
    student, teacher = random_student(), as_teacher(random_student(1))

    def distance(*leaves: Tensor) -> Tensor:
        return cell_distance(student_of(*leaves), teacher, PLAIN)

    assert torch.autograd.gradcheck(distance, leaves_of(student))
    assert distance(*leaves_of(student)).item() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_extreme_scores_stay_finite(dtype: torch.dtype) -> None:
    logits = torch.tensor([[[1e4], [-1e4], [1e4]]], dtype=dtype).requires_grad_()
    boxes = torch.full((1, 3, 4), 0.5, dtype=dtype).requires_grad_()
    teacher = TeacherDetections(torch.tensor([[[0.0], [1.0], [1.0]]]), boxes.detach(), None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distance = cell_distance(student_of(logits, boxes), teacher, PLAIN)
    assert distance.dtype == torch.float32
    gradients = torch.autograd.grad(distance, (logits, boxes))
    assert all(each.isfinite().all() for each in (distance, *gradients))


def pair(student: dict[str, Any], teacher: dict[str, Any]) -> tuple[Any, DETR, RunTeacher]:
    from test_targets import config_of, teacher_of

    config = config_of({"cells": {"weight": 1.0}}, **student)
    return config, DETR(config.model, 2).eval(), teacher_of(config_of(**teacher))


def test_targets_are_what_the_teachers_cells_say() -> None:
    config, student, teacher = pair({}, {})
    images = torch.rand(BATCH, 1, 1, 96, 160)
    alignment = align(config, student, teacher.classes, teacher, images)
    outputs = teacher(images, Capture())
    said = detections_of(teacher_targets(outputs, alignment), "cell_")
    assert torch.equal(said.scores, outputs.dense.logits.sigmoid())
    assert torch.equal(said.boxes_cxcywh, outputs.dense.boxes_cxcywh)
    assert alignment.describe()["cells"] is True


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ({"queries": "learned"}, {}, "the student has no proposals"),
        ({}, {"queries": "learned"}, "the teacher has no proposals"),
        (
            {"backbone": {"width": 16, "depths": [1, 1, 1, 1], "stride": 32}, "num_queries": 5},
            {},
            "on 6 x 10 and 12 x 20 cells; set the same model.backbone.stride",
        ),
    ],
)
def test_cells_that_cannot_be_compared(student: Any, teacher: Any, message: str) -> None:
    config, model, taught = pair(student, teacher)
    with pytest.raises(InputError, match=message):
        align(config, model, taught.classes, taught, torch.rand(1, 1, 1, 96, 160))
    with pytest.raises(InputError, match="detections cannot be compared"):
        align(config, model, ("needle",), taught, torch.rand(1, 1, 1, 96, 160))
