"""The set loss against hand-worked values, exhaustive matching and the loss of transformers."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sonodetr.config import BackboneConfig, LossConfig, ModelConfig
from sonodetr.dense_loss import dense_loss
from sonodetr.files import InputError
from sonodetr.geometry import box_iou, xyxy_from_cxcywh
from sonodetr.model.decode import decode
from sonodetr.model.detr import DETR
from sonodetr.model.tensors import Attention, Grid, Outputs, Target
from sonodetr.set_loss import SetLoss, focal_terms, generalised_iou, match, set_loss

LAYERS, BATCH, QUERIES, CLASSES = 3, 2, 7, 5
PLAIN = LossConfig(classification=1, box_l1=1, box_giou=1, points=1)


def outputs_of(
    logits: Tensor, boxes: Tensor, points: Tensor | None = None, groups: int = 1
) -> Outputs:
    memory, queries = torch.zeros(logits.shape[1], 1, 1), torch.zeros(*logits.shape[1:3], 1)
    return Outputs(logits, boxes, points, memory, queries, Grid(1, 1, 1), groups, Attention())


def target_of(boxes: list[list[float]], classes: list[int], points: Tensor | None = None) -> Target:
    count = len(classes)
    if points is None:
        points = torch.full((count, 2, 2), math.nan)
    return Target(torch.tensor(boxes).reshape(count, 4), torch.tensor(classes).long(), points)


def random_outputs(classes: int = CLASSES, groups: int = 1, seed: int = 0) -> Outputs:
    torch.manual_seed(seed)
    boxes = torch.rand(LAYERS, BATCH, groups * QUERIES, 4) * 0.5 + 0.1
    logits = torch.randn(LAYERS, BATCH, groups * QUERIES, classes)
    return outputs_of(logits.requires_grad_(), boxes.requires_grad_(), groups=groups)


def random_targets(counts: tuple[int, ...], seed: int = 1) -> list[Target]:
    torch.manual_seed(seed)
    return [
        Target(
            torch.rand(count, 4) * 0.5 + 0.1,
            torch.randint(0, CLASSES, (count,)),
            torch.rand(count, 2, 2),
        )
        for count in counts
    ]


def terms(loss: SetLoss) -> dict[str, float]:
    return {name: value.item() for name, value in loss.named().items()}


# Boxes


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0.5, 0.5, 0.4, 0.2], [0.5, 0.5, 0.4, 0.2], 1.0),
        # Unit squares that share a half: 1/3, and a hull that is their union.
        ([0.0, 0.0, 1.0, 1.0], [0.5, 0.0, 1.0, 1.0], 1 / 3),
        # Unit squares at a distance of 2 from centre to centre: a hull of 3, union 2.
        ([0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 1.0, 1.0], -1 / 3),
        # They share a corner of a quarter: 1/7 less the empty half of a hull of 9/4.
        ([0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 1.0, 1.0], 1 / 7 - 0.5 / 2.25),
        # One inside the other.
        ([0.5, 0.5, 0.8, 0.5], [0.5, 0.5, 0.2, 0.5], 1 / 4),
    ],
)
def test_generalised_iou_by_hand(first: list[float], second: list[float], expected: float) -> None:
    boxes = torch.tensor(first), torch.tensor(second)
    assert generalised_iou(*boxes).item() == pytest.approx(expected, abs=1e-6)
    assert generalised_iou(*reversed(boxes)).item() == pytest.approx(expected, abs=1e-6)


def test_generalised_iou_gradient() -> None:
    torch.manual_seed(0)
    boxes = (torch.rand(2, 11, 4, dtype=torch.float64) + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda b: generalised_iou(b[0], b[1]), boxes)


def test_generalised_iou_of_points_is_finite() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.0, 0.0]] * 3, requires_grad=True)
    others = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.7, 0.5, 0.0, 0.0], [0.5, 0.5, 0.2, 0.2]])
    overlap = generalised_iou(boxes, others)
    overlap.sum().backward()
    assert overlap.isfinite().all()
    assert boxes.grad is not None
    assert boxes.grad.isfinite().all()


# Scores


def test_focal_terms_by_hand() -> None:
    """Probability 3/4: alpha (1/4)^2 -ln 3/4 and (1 - alpha) (3/4)^2 -ln 1/4."""
    if_one, if_zero = focal_terms(torch.tensor(math.log(3)), LossConfig(focal_alpha=0.25))
    assert if_one.item() == pytest.approx(0.25 / 16 * math.log(4 / 3))
    assert if_zero.item() == pytest.approx(0.75 * 9 / 16 * math.log(4))


def test_focal_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(13, dtype=torch.float64, requires_grad=True)
    config = LossConfig(focal_alpha=0.3, focal_gamma=1.7)
    assert torch.autograd.gradcheck(lambda x: focal_terms(x, config), logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["focal", "softmax"])
def test_extreme_answers_stay_finite(dtype: torch.dtype, kind: str) -> None:
    """Also boxes that the sigmoid has squashed to nothing or to everything."""
    outputs = random_outputs()
    signs = outputs.logits.detach().sign()
    logits = (1e4 * signs).to(dtype).requires_grad_()
    squashed = (200 * torch.randn_like(outputs.boxes_cxcywh)).requires_grad_()
    extreme = outputs_of(logits, squashed.sigmoid().to(dtype))
    targets = random_targets((2, 3))
    targets = [replace(target, classes=target.classes % (CLASSES - 1)) for target in targets]
    loss = set_loss(extreme, targets, LossConfig(), kind).total
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    for leaf in (logits, squashed):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


# The whole, by hand


def two_queries() -> tuple[Tensor, Tensor]:
    """Query 0 is on the object, query 1 beside it."""
    boxes = torch.tensor([[[[0.5, 0.5, 0.4, 0.2], [0.8, 0.5, 0.4, 0.2]]]])
    return torch.zeros(1, 1, 2, 1), boxes


def test_one_object_two_queries_focal() -> None:
    logits, boxes = two_queries()
    target = target_of([[0.5, 0.5, 0.4, 0.4]], [0])
    loss = set_loss(outputs_of(logits, boxes), [target], PLAIN, "focal")
    half = math.log(2) / 4  # (1/2)^2 ln 2
    assert loss.classification.item() == pytest.approx(0.25 * half + 0.75 * half)
    assert loss.box_l1.item() == pytest.approx(0.2)
    assert loss.box_giou.item() == pytest.approx(0.5)  # half of it is covered
    assert loss.points.item() == 0
    weighted = LossConfig(classification=2, box_l1=3, box_giou=5)
    total = set_loss(outputs_of(logits, boxes), [target], weighted, "focal").total
    assert total.item() == pytest.approx(2 * half + 3 * 0.2 + 5 * 0.5)


def test_one_object_two_queries_softmax() -> None:
    """Query 0 gives its class 3/4, query 1 gives "no object" 1/5, at a weight of a tenth."""
    _, boxes = two_queries()
    logits = torch.tensor([[[[3.0, 1.0], [4.0, 1.0]]]]).log()
    target = target_of([[0.5, 0.5, 0.4, 0.4]], [0])
    loss = set_loss(outputs_of(logits, boxes), [target], PLAIN, "softmax")
    expected = (math.log(4 / 3) + 0.1 * math.log(5)) / 1.1
    assert loss.classification.item() == pytest.approx(expected)
    assert loss.box_l1.item() == pytest.approx(0.2)


def test_sums_are_divided_by_the_objects() -> None:
    outputs, targets = random_outputs(), random_targets((2, 3))
    own = terms(set_loss(outputs, targets, LossConfig(), "focal"))
    given = terms(set_loss(outputs, targets, LossConfig(), "focal", num_objects=20.0))
    assert given == pytest.approx({name: value / 4 for name, value in own.items()}, rel=1e-5)


def test_points_that_are_unknown_teach_nothing() -> None:
    """Errors of 0.1 + 0.2 at the tip; the entry's x is unknown, its y is off by 0.3."""
    logits, boxes = two_queries()
    points = torch.tensor([[[[[0.1, 0.2], [0.3, 0.4]], [[0.9, 0.9], [0.9, 0.9]]]]])
    points.requires_grad_()
    wanted = torch.tensor([[[0.2, 0.0], [math.nan, 0.7]]])
    target = target_of([[0.5, 0.5, 0.4, 0.2]], [0], wanted)
    loss = set_loss(outputs_of(logits, boxes, points), [target], PLAIN, "focal")
    assert loss.points.item() == pytest.approx(0.1 + 0.2 + 0.3)
    loss.total.backward()
    assert points.grad is not None
    assert points.grad[0, 0].tolist() == [[[-1, 1], [0, -1]], [[0, 0], [0, 0]]]


# Matching


def test_points_do_not_choose_the_query() -> None:
    outputs, targets = random_outputs(), random_targets((2, 3))
    unknown = [
        replace(target, points=torch.full_like(target.points, math.nan)) for target in targets
    ]
    known = [replace(target, points=torch.rand_like(target.points)) for target in targets]
    first, second = (match(outputs, each, LossConfig(), "focal") for each in (unknown, known))
    assert all(map(torch.equal, first, second))


def pair_cost(outputs: Outputs, target: Target, place: tuple[int, int], kind: str) -> np.ndarray:
    """`[queries, objects]` cost of one layer and clip, spelled out pair by pair."""
    config = LossConfig()
    logits, boxes = outputs.logits[place], outputs.boxes_cxcywh[place]
    costs = np.zeros((len(logits), len(target.classes)))
    for query, item in itertools.product(*(range(n) for n in costs.shape)):
        score = logits[query]
        if kind == "focal":
            if_one, if_zero = focal_terms(score[target.classes[item]], config)
            class_cost = if_one - if_zero
        else:
            class_cost = -score.softmax(0)[target.classes[item]]
        l1 = (boxes[query] - target.boxes_cxcywh[item]).abs().sum()
        overlap = generalised_iou(boxes[query], target.boxes_cxcywh[item])
        cost = config.classification * class_cost + config.box_l1 * l1 - config.box_giou * overlap
        costs[query, item] = cost.item()
    return costs


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    counts=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    kind=st.sampled_from(["focal", "softmax"]),
)
def test_matching_is_the_cheapest_of_all(seed: int, counts: tuple[int, int], kind: str) -> None:
    outputs = random_outputs(CLASSES + (kind == "softmax"), seed=seed)
    targets = random_targets(counts, seed)
    found = match(outputs, targets, LossConfig(), kind)
    assert len(found.query) == LAYERS * sum(counts)
    for layer, row in itertools.product(range(LAYERS), range(BATCH)):
        costs = pair_cost(outputs, targets[row], (layer, row), kind)
        here = (found.layer == layer) & (found.batch == row)
        items = found.target[here] - sum(counts[:row])
        assert sorted(items.tolist()) == [*range(counts[row])]
        assert len(set(found.query[here].tolist())) == counts[row]
        cheapest = min(
            sum(costs[query, item] for item, query in enumerate(queries))
            for queries in itertools.permutations(range(QUERIES), counts[row])
        )
        total = costs[found.query[here].numpy(), items.numpy()].sum()
        assert total == pytest.approx(cheapest, abs=1e-5)


def test_order_of_objects_does_not_matter() -> None:
    outputs, (first, second) = random_outputs(), random_targets((3, 5))
    order = torch.tensor([4, 2, 0, 3, 1])
    shuffled = Target(second.boxes_cxcywh[order], second.classes[order], second.points[order])
    straight = set_loss(outputs, [first, second], LossConfig(), "focal")
    other = set_loss(outputs, [first, shuffled], LossConfig(), "focal")
    assert terms(other) == pytest.approx(terms(straight), rel=1e-5)


def test_more_objects_than_queries() -> None:
    with pytest.raises(InputError, match=r"8 objects, the model finds at most 7; .*num_queries"):
        set_loss(random_outputs(groups=2), random_targets((1, 8)), LossConfig(), "focal")
    loss = set_loss(random_outputs(groups=2), random_targets((1, 7)), LossConfig(), "focal")
    assert loss.total.isfinite()


@pytest.mark.parametrize("kind", ["focal", "softmax"])
def test_a_diverged_model_has_no_finite_loss(kind: str) -> None:
    """It is for the training to say so, which knows the step and the pictures."""
    outputs = random_outputs(CLASSES + 1)
    for field in ("boxes_cxcywh", "logits"):
        answers = torch.full_like(getattr(outputs, field), math.nan)
        loss = set_loss(replace(outputs, **{field: answers}), random_targets((1, 2)), PLAIN, kind)
        assert loss.total.isnan()


# Layers, groups, empty frames


@pytest.mark.parametrize("kind", ["focal", "softmax"])
def test_every_layer_has_the_loss_it_has_alone(kind: str) -> None:
    outputs, targets = random_outputs(CLASSES + 1), random_targets((2, 3))
    together = set_loss(outputs, targets, LossConfig(), kind)
    for layer in range(LAYERS):
        one = slice(layer, layer + 1)
        only = outputs_of(outputs.logits[one], outputs.boxes_cxcywh[one])
        alone = set_loss(only, targets, LossConfig(), kind)
        for name in ("classification", "box_l1", "box_giou"):
            torch.testing.assert_close(getattr(together, name)[one], getattr(alone, name))
    last = set_loss(outputs, targets, LossConfig(auxiliary=False), kind)
    assert len(last.box_l1) == 1
    torch.testing.assert_close(last.total, alone.total)


@pytest.mark.parametrize("kind", ["focal", "softmax"])
def test_equal_groups_weigh_as_one(kind: str) -> None:
    outputs, targets = random_outputs(CLASSES + 1), random_targets((2, 3))
    points = torch.rand(LAYERS, BATCH, QUERIES, 2, 2)
    once = outputs_of(outputs.logits, outputs.boxes_cxcywh, points)
    thrice = outputs_of(
        outputs.logits.repeat(1, 1, 3, 1),
        outputs.boxes_cxcywh.repeat(1, 1, 3, 1),
        points.repeat(1, 1, 3, 1, 1),
        groups=3,
    )
    one, three = (set_loss(given, targets, LossConfig(), kind) for given in (once, thrice))
    assert terms(three) == pytest.approx(terms(one), rel=1e-5)


@pytest.mark.parametrize("counts", [(0, 0), (0, 3)])
@pytest.mark.parametrize("kind", ["focal", "softmax"])
def test_empty_frames_say_nothing_here(counts: tuple[int, int], kind: str) -> None:
    outputs, targets = random_outputs(CLASSES + 1), random_targets(counts)
    loss = set_loss(outputs, targets, LossConfig(), kind)
    loss.total.backward()
    logits, boxes = outputs.logits.grad, outputs.boxes_cxcywh.grad
    assert logits is not None
    assert boxes is not None
    assert not boxes[:, 0].any()
    if kind == "focal":
        assert (logits[:, 0] > 0).all()  # every score is to fall
    else:
        assert (logits[:, 0, :, -1] < 0).all()
        assert (logits[:, 0, :, :-1] > 0).all()
    assert boxes[:, 1].any() == bool(counts[1])


# The reference


@pytest.mark.parametrize("counts", [(2, 3), (0, 5), (0, 0)])
def test_equals_the_loss_of_transformers(counts: tuple[int, int]) -> None:
    module = pytest.importorskip("transformers.loss.loss_for_object_detection")
    outputs, targets = random_outputs(CLASSES + 1), random_targets(counts)
    config = LossConfig(classification=1.0, no_object=0.1)
    ours = set_loss(outputs, targets, config, "softmax")
    # Its classification weight is the same in the matching and in the loss, as here.
    matcher = module.HungarianMatcher(1, config.box_l1, config.box_giou)
    criterion = module.ImageLoss(matcher, CLASSES, config.no_object, ["labels", "boxes"])
    layers = [
        {"logits": logits, "pred_boxes": boxes}
        for logits, boxes in zip(outputs.logits, outputs.boxes_cxcywh, strict=True)
    ]
    labels = [{"class_labels": t.classes, "boxes": t.boxes_cxcywh} for t in targets]
    theirs = criterion(layers[-1] | {"auxiliary_outputs": layers[:-1]}, labels)
    names = {"classification": "loss_ce", "box_l1": "loss_bbox", "box_giou": "loss_giou"}
    total = torch.zeros(())
    for name, their_name in names.items():
        expected = torch.stack(
            [theirs[f"{their_name}_{layer}"] for layer in range(LAYERS - 1)] + [theirs[their_name]]
        )
        expected = getattr(config, name) * expected
        torch.testing.assert_close(getattr(ours, name), expected, atol=1e-5, rtol=1e-5)
        total = total + expected.sum()
    leaves = (outputs.logits, outputs.boxes_cxcywh)
    gradients = [torch.autograd.grad(loss, leaves) for loss in (ours.total, total)]
    for given_gradient, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(given_gradient, expected, atol=1e-5, rtol=1e-5)


# It teaches


@pytest.mark.parametrize(("queries", "kind"), [("anchor", "focal"), ("learned", "softmax")])
def test_one_picture_is_learnt(queries: str, kind: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        backbone=BackboneConfig(width=8, depths=(1, 1, 1, 1)),
        hidden_dim=32,
        num_heads=2,
        encoder_layers=1,
        decoder_layers=2,
        feedforward_dim=64,
        queries=queries,
        num_queries=5,
        query_groups=2,
        classification=kind,
    )
    model = DETR(config, CLASSES).train()
    image = torch.zeros(1, 1, 1, 64, 64)
    image[..., 16:40, 24:56] = 1
    target = target_of([[40 / 64, 28 / 64, 32 / 64, 24 / 64]], [3])
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    history = []
    for _ in range(80):
        outputs = model(image)
        loss = set_loss(outputs, [target], LossConfig(), kind).total
        # Nothing else teaches the proposals that anchors start from.
        dense = 0.0 if outputs.dense is None else dense_loss(outputs.dense, [target], LossConfig())
        optimizer.zero_grad()
        (loss + dense).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < history[0] / 4
    with torch.no_grad():
        best = decode(model.eval()(image), kind)
    assert best.classes[0, 0] == 3
    overlap = box_iou(
        xyxy_from_cxcywh(best.boxes_cxcywh[0, :1].numpy()),
        xyxy_from_cxcywh(target.boxes_cxcywh.numpy()),
    )
    assert overlap.item() > 0.8
