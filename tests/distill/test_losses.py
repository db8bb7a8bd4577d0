"""Distances of a student from its teacher: by hand, at equality, at the extremes, and against the
set loss for a teacher that is sure."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sonodetr.config import LossConfig
from sonodetr.distill.losses import (
    TeacherDetections,
    attention_divergence,
    detection_distance,
    match_teacher,
    memory_distance,
)
from sonodetr.model.tensors import Attention, Grid, Outputs, Target
from sonodetr.set_loss import class_costs, generalised_iou, match, set_loss

LAYERS, BATCH, QUERIES, CLASSES = 3, 2, 7, 5
KINDS = pytest.mark.parametrize("kind", ["focal", "softmax"])
DOUBLE = torch.float64
PLAIN = LossConfig(classification=1, box_l1=1, box_giou=1, points=1)


def outputs_of(
    logits: Tensor, boxes: Tensor, points: Tensor | None = None, groups: int = 1
) -> Outputs:
    memory, queries = torch.zeros(logits.shape[1], 1, 1), torch.zeros(*logits.shape[1:3], 1)
    return Outputs(logits, boxes, points, memory, queries, Grid(1, 1, 1), groups, Attention())


def random_outputs(
    kind: str, seed: int = 0, groups: int = 1, dtype: torch.dtype = DOUBLE
) -> Outputs:
    torch.manual_seed(seed)
    shape = (LAYERS, BATCH, groups * QUERIES)
    logits = torch.randn(*shape, CLASSES + (kind == "softmax"), dtype=dtype)
    boxes = torch.rand(*shape, 4, dtype=dtype) * 0.5 + 0.1
    points = torch.rand(*shape, 2, 2, dtype=dtype)
    leaves = [leaf.requires_grad_() for leaf in (logits, boxes, points)]
    return outputs_of(*leaves, groups=groups)


def scores_of(logits: Tensor, kind: str) -> Tensor:
    return logits.sigmoid() if kind == "focal" else logits.softmax(-1)[..., :-1]


def random_teacher(kind: str, queries: int = QUERIES, seed: int = 1) -> TeacherDetections:
    torch.manual_seed(seed)
    logits = 2 * torch.randn(BATCH, queries, CLASSES + (kind == "softmax"), dtype=DOUBLE)
    boxes = torch.rand(BATCH, queries, 4, dtype=DOUBLE) * 0.5 + 0.1
    points = torch.rand(BATCH, queries, 2, 2, dtype=DOUBLE)
    return TeacherDetections(scores_of(logits, kind), boxes, points)


def values(distance: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in distance.items()}


def gradients(loss: Tensor, outputs: Outputs) -> list[Tensor]:
    assert outputs.points is not None
    return list(torch.autograd.grad(loss, [outputs.logits, outputs.boxes_cxcywh, outputs.points]))


# Attention


def test_divergence_by_hand() -> None:
    """ln 2 / 2 + ln(2/3) / 2 = ln(4/3) / 2 in one row, -ln 2 / 4 + 3/4 ln(3/2) in the other."""
    teacher = torch.tensor([[[[0.5, 0.5], [0.25, 0.75]]]], dtype=DOUBLE)
    student = torch.tensor([[[[0.25, 0.75], [0.5, 0.5]]]], dtype=DOUBLE)
    first, second = math.log(4 / 3) / 2, 0.75 * math.log(1.5) - math.log(2) / 4
    for weights, expected in [
        ([1.0, 1.0], (first + second) / 2),
        ([1.0, 3.0], (first + 3 * second) / 4),
        ([10.0, 30.0], (first + 3 * second) / 4),  # the scale does not matter
        ([0.0, 5.0], second),
        ([0.0, 0.0], 0.0),
    ]:
        found = attention_divergence(student, teacher, torch.tensor([weights]))
        assert found.item() == pytest.approx(expected, abs=1e-12)


def test_weights_belong_to_rows_of_clips_and_heads() -> None:
    """Only one row of one head of one clip differs, by ln 2; sizes are different primes."""
    maps = torch.zeros(2, 3, 5, 7)
    maps[..., 0] = 1
    student = maps.clone()
    student[1, 2, 3, :2] = 0.5
    rows = torch.ones(2, 5)
    assert attention_divergence(student, maps, rows).item() == pytest.approx(math.log(2) / 30)
    rows[1, 3] = 11  # in all three heads of the clip
    expected = 11 * math.log(2) / (3 * (9 + 11))
    assert attention_divergence(student, maps, rows).item() == pytest.approx(expected)
    heads = torch.ones(2, 3, 5)
    heads[1, 2, 3] = 11
    expected = 11 * math.log(2) / (29 + 11)
    assert attention_divergence(student, maps, heads).item() == pytest.approx(expected)


def test_divergence_is_forward() -> None:
    """A key that the student leaves out costs much, one that it adds little."""
    broad, narrow = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[1.0, 0.0]]]])
    one = torch.ones(1, 1)
    assert attention_divergence(broad, narrow, one).item() == pytest.approx(math.log(2))
    tiny = torch.finfo(torch.float32).tiny
    expected = math.log(0.5) - math.log(tiny) / 2
    assert attention_divergence(narrow, broad, one).item() == pytest.approx(expected)


def test_the_student_moves_towards_the_teacher_and_only_it() -> None:
    """With respect to logits the gradient is `w (p_student - p_teacher) / sum w`."""
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5, 7, dtype=DOUBLE, requires_grad=True)
    teacher = torch.randn(2, 3, 5, 7, dtype=DOUBLE, requires_grad=True)
    weights = torch.rand(2, 5, dtype=DOUBLE, requires_grad=True)
    attention_divergence(logits.softmax(-1), teacher.softmax(-1), weights).backward()
    share = weights / (3 * weights.sum())
    expected = share[:, None, :, None] * (logits.softmax(-1) - teacher.softmax(-1))
    torch.testing.assert_close(logits.grad, expected.detach())
    assert teacher.grad is None
    assert weights.grad is None


def test_attention_equal_to_the_teachers() -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(2, 3, 5, 7, dtype=DOUBLE)).requires_grad_()
    loss = attention_divergence(logits.softmax(-1), logits.softmax(-1), torch.rand(2, 5))
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


@given(st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 30.0]))
@settings(deadline=None)
def test_divergence_is_not_negative(seed: int, sharpness: float) -> None:
    torch.manual_seed(seed)
    student, teacher = (sharpness * torch.randn(2, 2, 3, 5, 7)).softmax(-1)
    loss = attention_divergence(student, teacher, torch.rand(2, 3, 5))
    assert loss >= -1e-6
    assert loss.dtype == torch.float32


def test_divergence_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 2, 5, dtype=DOUBLE, requires_grad=True)
    teacher, weights = torch.randn(2, 3, 2, 5, dtype=DOUBLE).softmax(-1), torch.rand(2, 2)
    assert torch.autograd.gradcheck(
        lambda x: attention_divergence(x.softmax(-1), teacher, weights), logits
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_attention_stays_finite(dtype: torch.dtype) -> None:
    """All mass on one key, of the student, of the teacher and of both; also just above nothing."""
    torch.manual_seed(0)
    logits = (1e4 * torch.randn(2, 3, 5, 7).sign()).to(dtype)
    logits[1] = torch.linspace(-90, 90, 7)
    logits.requires_grad_()
    teacher = (1e4 * torch.randn(2, 3, 5, 7).sign()).to(dtype).softmax(-1)
    loss = attention_divergence(logits.softmax(-1), teacher, torch.ones(2, 5))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kept", [torch.float16, torch.float32])
def test_a_fine_student_and_a_teacher_of_certainties(kept: torch.dtype) -> None:
    student = torch.full((1, 1, 1, 2), 0.5, dtype=DOUBLE)
    teacher = torch.tensor([[[[1.0, 0.0]]]], dtype=kept)
    loss = attention_divergence(student, teacher, torch.ones(1, 1))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-12)


def test_a_teacher_kept_in_half_precision() -> None:
    """As the cache keeps it: the divergence moves by no more than the rounding."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 5, 7).softmax(-1)
    weights = torch.rand(2, 5)
    exact = attention_divergence(student, teacher, weights)
    rounded = attention_divergence(student, teacher.half(), weights)
    assert rounded.item() == pytest.approx(exact.item(), abs=2**-11)


# Matching


def sure_teacher(targets: list[Target]) -> TeacherDetections:
    one_hot = torch.nn.functional.one_hot
    return TeacherDetections(
        torch.stack([one_hot(target.classes, CLASSES).float() for target in targets]),
        torch.stack([target.boxes_cxcywh for target in targets]),
        torch.stack([target.points for target in targets]),
    )


def random_targets(count: int, seed: int = 1) -> list[Target]:
    torch.manual_seed(seed)
    return [
        Target(
            torch.rand(count, 4) / 2 + 0.1,
            torch.randint(CLASSES, (count,)),
            torch.rand(count, 2, 2),
        )
        for _ in range(BATCH)
    ]


@KINDS
def test_a_sure_teacher_is_a_label(kind: str) -> None:
    """Scores of 0 and 1: the matching and the terms are those of the set loss. The quality focal
    loss weighs both answers alike, so it is twice the focal loss with alpha 1/2."""
    outputs = random_outputs(kind, groups=2, dtype=torch.float32)
    targets, config = random_targets(5), LossConfig(focal_alpha=0.5)
    pairs = match_teacher(outputs, sure_teacher(targets), config, kind)
    expected = match(outputs, targets, config, kind)
    assert all(map(torch.equal, pairs, expected))
    distance = values(detection_distance(outputs, sure_teacher(targets), config, kind))
    loss = values(set_loss(outputs, targets, config, kind).named())
    loss["classification"] *= 2 if kind == "focal" else 1
    for name, value in distance.items():
        assert value == pytest.approx(loss[name], rel=1e-5), name


@KINDS
def test_matching_is_the_cheapest_of_all(kind: str) -> None:
    outputs, teacher = random_outputs(kind, groups=1), random_teacher(kind, queries=3)
    pairs = match_teacher(outputs, teacher, LossConfig(), kind)
    assert len(pairs.query) == LAYERS * BATCH * 3
    config = LossConfig()
    for layer, row in itertools.product(range(LAYERS), range(BATCH)):
        class_cost = class_costs(outputs.logits[layer, row], config, kind)[:, :CLASSES]
        costs = torch.zeros(QUERIES, 3)
        for query, item in itertools.product(range(QUERIES), range(3)):
            scores, box = teacher.scores[row, item], outputs.boxes_cxcywh[layer, row, query]
            wanted = teacher.boxes_cxcywh[row, item]
            costs[query, item] = (
                config.classification * (class_cost[query] * scores).sum()
                + (
                    config.box_l1 * (box - wanted).abs().sum()
                    - config.box_giou * generalised_iou(box, wanted)
                )
                * scores.max()
            )
        cheapest = min(
            sum(costs[query, item].item() for item, query in enumerate(queries))
            for queries in itertools.permutations(range(QUERIES), 3)
        )
        here = (pairs.layer == layer) & (pairs.batch == row)
        items = pairs.target[here] - 3 * row
        assert sorted(items.tolist()) == [0, 1, 2]
        assert costs[pairs.query[here], items].sum().item() == pytest.approx(cheapest, abs=1e-5)


@KINDS
def test_the_surest_take_part(kind: str) -> None:
    """A teacher of 11 queries and students of 7: as if it had its 7 most confident ones."""
    outputs, teacher = random_outputs(kind, groups=2), random_teacher(kind, queries=11)
    surest = teacher.scores.amax(-1).topk(7).indices
    pairs = match_teacher(outputs, teacher, LossConfig(), kind)
    assert len(pairs.query) == LAYERS * BATCH * 2 * 7
    for row in range(BATCH):
        found = pairs.target[pairs.batch == row] - 11 * row
        assert set(found.tolist()) == set(surest[row].tolist())
    assert teacher.points is not None
    rows = torch.arange(BATCH)[:, None]
    seven = TeacherDetections(*(part[rows, surest] for part in teacher if part is not None))
    one, other = (
        values(detection_distance(outputs, each, LossConfig(), kind)) for each in (teacher, seven)
    )
    assert one == pytest.approx(other)


def test_matching_is_not_rounded_in_mixed_precision() -> None:
    """Scores of 0.70 to 0.71, in other orders, find their equals by the class term alone."""
    scores, order = torch.linspace(0.70, 0.71, 7)[:, None], torch.tensor([3, 0, 6, 2, 5, 1, 4])
    boxes, config = torch.full((7, 4), 0.5), LossConfig(box_l1=0, box_giou=0)
    teacher = TeacherDetections(scores[None, order], boxes[None], None)
    with torch.autocast("cpu", torch.bfloat16):
        student = outputs_of(scores.logit()[None, None], boxes[None, None])
        pairs = match_teacher(student, teacher, config, "focal")
    assert order[pairs.target].tolist() == pairs.query.tolist()


# Detections


def two_queries(num_logits: int, clips: int = 1, groups: int = 1) -> Outputs:
    """Query 0 is on the teacher's box, query 1 beside it; logits of zero."""
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.2], [0.8, 0.5, 0.4, 0.2]], dtype=DOUBLE)
    points = torch.full((1, clips, 2 * groups, 2, 2), 0.5, dtype=DOUBLE)
    boxes = boxes.repeat(1, clips, groups, 1)
    logits = torch.zeros(1, clips, 2 * groups, num_logits, dtype=DOUBLE)
    return outputs_of(logits, boxes, points, groups)


def one_query(score: float, clips: int = 1) -> TeacherDetections:
    points = torch.tensor([[0.6, 0.4], [0.5, 0.8]], dtype=DOUBLE)
    return TeacherDetections(
        torch.full((clips, 1, 1), score, dtype=DOUBLE),
        torch.tensor([0.5, 0.5, 0.4, 0.4], dtype=DOUBLE).repeat(clips, 1, 1),
        points.repeat(clips, 1, 1, 1),
    )


def entropy(probability: float) -> float:
    return -sum(p * math.log(p) for p in (probability, 1 - probability))


@pytest.mark.parametrize(("clips", "divisor"), [(1, 1.0), (3, 2.25)])
@pytest.mark.parametrize("groups", [1, 2])
def test_focal_by_hand(clips: int, divisor: float, groups: int) -> None:
    """Confidence 3/4; 0.2 off in height, half covered, points off by 0.1 + 0.1 + 0 + 0.3."""
    found = values(
        detection_distance(two_queries(1, clips, groups), one_query(0.75, clips), PLAIN, "focal")
    )
    matched, unmatched = math.log(2) / 16, math.log(2) / 4
    assert found == pytest.approx(
        {
            "classification": clips * (matched + unmatched) / divisor,
            "box_l1": clips * 0.75 * 0.2 / divisor,
            "box_giou": clips * 0.75 * 0.5 / divisor,
            "points": clips * 0.75 * 0.5 / divisor,
        }
    )


def test_softmax_by_hand() -> None:
    """The teacher says 3/4 object, 1/4 nothing; both queries say half and half."""
    config = PLAIN.model_copy(update={"no_object": 0.2})
    found = values(detection_distance(two_queries(2), one_query(0.75), config, "softmax"))
    matched, weight = math.log(2) - entropy(0.75), 0.75 + 0.2 * 0.25
    expected = (weight * matched + 0.2 * math.log(2)) / (weight + 0.2)
    assert found["classification"] == pytest.approx(expected)
    assert found["box_l1"] == pytest.approx(0.75 * 0.2)


@KINDS
def test_terms_have_their_weights(kind: str) -> None:
    outputs, teacher = random_outputs(kind), random_teacher(kind, queries=3)
    plain = values(detection_distance(outputs, teacher, PLAIN, kind))
    for name in plain:
        # Alone in the matching, so that it does not change with the weight.
        alone = LossConfig(**(dict.fromkeys(plain, 0.0) | {name: 1.0}))
        thrice = LossConfig(**(dict.fromkeys(plain, 0.0) | {name: 3.0}))
        one, three = (
            values(detection_distance(outputs, teacher, each, kind)) for each in (alone, thrice)
        )
        assert three[name] == pytest.approx(3 * one[name])
        assert [other for other, value in three.items() if value] == [name]


def test_scores_that_sum_to_more_than_one() -> None:
    """A sigmoid teacher of a softmax student: 0.9 and 0.6 are 3/5 and 2/5, nothing is 0."""
    teacher = one_query(0.9)._replace(scores=torch.tensor([[[0.9, 0.6]]], dtype=DOUBLE))
    found = detection_distance(two_queries(3), teacher, PLAIN, "softmax")["classification"]
    matched, weight = math.log(3) - entropy(0.6), 0.9 + 0.1 * 0.1
    expected = (weight * matched + 0.1 * math.log(3)) / (weight + 0.1)
    assert found.item() == pytest.approx(expected)


@KINDS
def test_no_points_no_term(kind: str) -> None:
    outputs, teacher = random_outputs(kind), random_teacher(kind)
    without = replace(outputs, points=None)
    for student, other in ((without, teacher), (outputs, teacher._replace(points=None))):
        assert detection_distance(student, other, PLAIN, kind)["points"].item() == 0


@KINDS
def test_equal_detections(kind: str) -> None:
    """Every layer and group of the student answers as the teacher does, in another order."""
    one = random_outputs(kind)
    order = torch.cat([torch.randperm(QUERIES), torch.randperm(QUERIES)])
    assert one.points is not None
    leaves = [
        leaf.detach()[-1:, :, order].repeat(LAYERS, 1, 1, *[1] * (leaf.dim() - 3)).requires_grad_()
        for leaf in (one.logits, one.boxes_cxcywh, one.points)
    ]
    teacher = TeacherDetections(
        scores_of(one.logits[-1], kind), one.boxes_cxcywh[-1], one.points[-1]
    )
    outputs = outputs_of(*leaves, groups=2)
    distance = detection_distance(outputs, teacher, PLAIN, kind)
    assert values(distance) == pytest.approx(dict.fromkeys(distance, 0.0), abs=1e-6)
    for gradient in gradients(torch.stack([*distance.values()]).sum(), outputs):
        assert gradient.abs().max() < 1e-6
    assert one.logits.grad is None


@KINDS
def test_only_the_student_learns(kind: str) -> None:
    outputs, teacher = random_outputs(kind), random_teacher(kind)
    parts = [part.requires_grad_() for part in teacher if part is not None]
    distance = detection_distance(outputs, TeacherDetections(*parts), PLAIN, kind)
    torch.stack([*distance.values()]).sum().backward()
    assert all(part.grad is None for part in parts)
    assert outputs.logits.grad is not None


@KINDS
@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 11))
def test_detection_distance_is_not_negative(kind: str, seed: int, queries: int) -> None:
    outputs, teacher = random_outputs(kind, seed), random_teacher(kind, queries, seed + 1)
    for value in detection_distance(outputs, teacher, LossConfig(), kind).values():
        assert value >= 0


@KINDS
def test_detection_gradient(kind: str) -> None:
    outputs, teacher = random_outputs(kind, groups=2), random_teacher(kind, queries=3)
    leaves = (outputs.logits, outputs.boxes_cxcywh, outputs.points)

    def total(*parts: Tensor) -> Tensor:
        distance = detection_distance(outputs_of(*parts, groups=2), teacher, PLAIN, kind)
        return torch.stack([*distance.values()]).sum()

    assert torch.autograd.gradcheck(total, leaves, fast_mode=True)


@KINDS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_extreme_detections_stay_finite(kind: str, dtype: torch.dtype) -> None:
    outputs, teacher = random_outputs(kind), random_teacher(kind)
    logits = (1e4 * outputs.logits.detach().sign()).to(dtype).requires_grad_()
    boxes = (200 * torch.randn_like(outputs.boxes_cxcywh)).detach().requires_grad_()
    for scores in (teacher.scores, teacher.scores.round(), torch.zeros_like(teacher.scores)):
        student = outputs_of(logits, boxes.sigmoid().to(dtype))
        distance = detection_distance(student, teacher._replace(scores=scores), PLAIN, kind)
        for part in torch.autograd.grad(torch.stack([*distance.values()]).sum(), (logits, boxes)):
            assert part.isfinite().all()
        assert all(value.isfinite() for value in distance.values())


@KINDS
def test_layers_add_up(kind: str) -> None:
    outputs, teacher = random_outputs(kind, groups=2), random_teacher(kind)
    assert outputs.points is not None
    alone = []
    for layer in range(LAYERS):
        one = slice(layer, layer + 1)
        parts = (outputs.logits[one], outputs.boxes_cxcywh[one], outputs.points[one])
        alone.append(values(detection_distance(outputs_of(*parts, groups=2), teacher, PLAIN, kind)))
    together = values(detection_distance(outputs, teacher, PLAIN, kind))
    assert together == pytest.approx({name: sum(a[name] for a in alone) for name in together})
    last = detection_distance(outputs, teacher, PLAIN.model_copy(update={"auxiliary": False}), kind)
    assert values(last) == pytest.approx(alone[-1])


# Memory


def test_memory_by_hand() -> None:
    """Normalised, (1, 3) is (-1, 1) and (5, 2) is (1, -1): 4 apart; (1, 3) and (20, 50) agree."""
    student = torch.tensor([[[1.0, 3.0], [1.0, 3.0], [1.0, 3.0]]], dtype=DOUBLE)
    teacher = torch.tensor([[[5.0, 2.0], [20.0, 50.0], [5.0, 2.0]]], dtype=DOUBLE)
    for weights, expected in [([1.0, 1.0, 1.0], 8 / 3), ([1.0, 3.0, 0.0], 1.0), ([2, 6, 0], 1.0)]:
        found = memory_distance(student, teacher, torch.tensor([weights]).double())
        assert found.item() == pytest.approx(expected, rel=1e-4)


def test_memory_equal_up_to_scale_and_shift() -> None:
    torch.manual_seed(0)
    teacher, weights = torch.randn(2, 5, 7, dtype=DOUBLE), torch.rand(2, 5)
    student = teacher.clone().requires_grad_()
    loss = memory_distance(student, teacher, weights)
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6
    assert memory_distance(3 * teacher + 11, teacher, weights).item() < 1e-6


def test_memory_gradient() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 5, dtype=DOUBLE, requires_grad=True)
    weights = torch.rand(2, 3)
    assert torch.autograd.gradcheck(lambda x: memory_distance(x, teacher, weights), student)


def test_extreme_memory_stays_finite() -> None:
    student = torch.full((2, 3, 5), 1e4, dtype=torch.bfloat16)
    student[1, :, 2] = -1e4
    student.requires_grad_()
    loss = memory_distance(student, torch.zeros(2, 3, 5), torch.ones(2, 3))
    loss.backward()
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    assert student.grad is not None
    assert student.grad.isfinite().all()
