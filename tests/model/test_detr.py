"""The whole model: what capture, groups, batches and modes may and may not change."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from sonodetr.config import BackboneConfig, ModelConfig
from sonodetr.model import linear
from sonodetr.model.dense import choose
from sonodetr.model.detr import DETR, Capture, Guide
from sonodetr.model.position import logit
from sonodetr.model.tensors import Grid, Outputs

KINDS = (*get_args(ModelConfig.model_fields["queries"].annotation), "dense")
BATCH, CLASSES, QUERIES, HEADS, GROUPS = 2, 4, 5, 3, 2
DIM, TOKENS, CELLS = 8 * HEADS, 3 * 7, 6 * 14
EVERYTHING = Capture(encoder=(0, 1), decoder=(0, 1, 2), cross=(0, 1, 2))


def build(queries: str, **changes: object) -> DETR:
    """Random also where a new model has zeros, which would hide errors; "dense" are anchors from
    dense proposals."""
    torch.manual_seed(0)
    if queries == "dense":
        queries, changes = "anchor", {"proposals": "dense", **changes}
    config = ModelConfig(
        **{
            "backbone": BackboneConfig(width=8, depths=(1, 1, 1, 1)),
            "hidden_dim": DIM,
            "num_heads": HEADS,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "feedforward_dim": 17,
            "queries": queries,
            "num_queries": QUERIES,
            "query_groups": GROUPS,
            **changes,
        }
    )
    model = DETR(config, CLASSES)
    for name, parameter in model.named_parameters():
        if "norm" not in name and not name.startswith("backbone"):
            nn.init.normal_(parameter, std=0.4)
    return model.eval()


def pictures(batch: int = BATCH) -> Tensor:
    torch.manual_seed(1)
    coarse = torch.rand(batch, 1, 6, 14)
    return nn.functional.interpolate(coarse, scale_factor=8)[:, :, None]


def assert_same(first: Outputs, second: Outputs, atol: float = 1e-5) -> None:
    for name in ("logits", "boxes_cxcywh", "points", "memory"):
        pair = getattr(first, name), getattr(second, name)
        assert (pair[0] is None) == (pair[1] is None)
        if pair[0] is not None:
            torch.testing.assert_close(*pair, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("queries", KINDS)
def test_shapes(queries: str) -> None:
    outputs = build(queries, points=True)(pictures())
    layers = 3 + (queries == "anchor")  # the proposals are an answer too
    assert outputs.logits.shape == (layers, BATCH, QUERIES, CLASSES)
    assert outputs.boxes_cxcywh.shape == (layers, BATCH, QUERIES, 4)
    assert outputs.points is not None
    assert outputs.points.shape == (layers, BATCH, QUERIES, 2, 2)
    assert outputs.memory.shape == (BATCH, TOKENS, DIM)
    assert (outputs.grid, outputs.groups) == (Grid(1, 3, 7), 1)
    assert ((outputs.boxes_cxcywh > 0) & (outputs.boxes_cxcywh < 1)).all()
    softmax = build(queries, classification="softmax")(pictures())
    assert softmax.logits.shape[-1] == CLASSES + 1
    assert softmax.points is None


@pytest.mark.parametrize("queries", KINDS)
@pytest.mark.parametrize("training", [False, True])
def test_capture_changes_nothing_else(queries: str, training: bool) -> None:
    model = build(queries, points=True)
    model.train(training)
    model.backbone.eval()
    asked = Capture(encoder=(1,), decoder=(0, 2), cross=(2,))
    plain, captured = model(pictures()), model(pictures(), asked)
    assert_same(plain, captured)
    empty, maps = plain.attention, captured.attention
    assert empty.encoder == empty.decoder == empty.cross == {}
    assert (*maps.encoder,) == asked.encoder
    assert (*maps.decoder,) == asked.decoder
    assert (*maps.cross,) == asked.cross
    rows = QUERIES * (GROUPS if training and queries != "learned" else 1)
    assert maps.encoder[1].shape == (BATCH, HEADS, TOKENS, TOKENS)
    assert maps.decoder[0].shape == (BATCH, HEADS, rows, QUERIES)  # its own group only
    columns = CELLS if queries == "dense" else TOKENS
    assert maps.cross[2].shape == (BATCH, HEADS, rows, columns)
    assert math.prod(captured.cross_grid) == columns
    for each in (maps.encoder[1], maps.decoder[0], maps.decoder[2], maps.cross[2]):
        torch.testing.assert_close(each.sum(-1), torch.ones(each.shape[:-1]))


@pytest.mark.parametrize("queries", KINDS)
def test_captured_maps_are_those_of_every_layer_alone(queries: str) -> None:
    # In double precision: fused and explicit attention round differently in all layers before.
    model, images = build(queries).double(), pictures().double()
    with torch.no_grad():
        together = model(images, EVERYTHING).attention
        for kind in Capture._fields:
            for number in getattr(EVERYTHING, kind):
                alone = getattr(model(images, Capture(**{kind: (number,)})).attention, kind)
                torch.testing.assert_close(alone[number], getattr(together, kind)[number])


@pytest.mark.parametrize("queries", KINDS)
def test_training_answers_hold_those_of_inference(queries: str) -> None:
    """The first group is the one that stays; the others answer differently."""
    model = build(queries)
    images = pictures()
    with torch.no_grad():
        inference = model(images)
        model.train()
        for module in model.modules():  # batch norm is the one part with another mode
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        training = model(images)
    groups = 1 if queries == "learned" else GROUPS
    assert (inference.groups, training.groups) == (1, groups)
    assert training.logits.shape[2] == groups * QUERIES
    logits, boxes = training.logits[:, :, :QUERIES], training.boxes_cxcywh[:, :, :QUERIES]
    torch.testing.assert_close(logits, inference.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(boxes, inference.boxes_cxcywh, atol=1e-5, rtol=1e-5)
    if groups > 1:
        assert not torch.allclose(training.logits[:, :, QUERIES:], logits, atol=1e-2)


@pytest.mark.parametrize("queries", KINDS)
def test_pictures_of_a_batch_are_independent(queries: str) -> None:
    model = build(queries, points=True)
    images = pictures(3)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        straight, shuffled = model(images), model(images[order])
        single = model(images[1:2])
    torch.testing.assert_close(shuffled.logits, straight.logits[:, order], atol=1e-5, rtol=1e-5)
    boxes = straight.boxes_cxcywh
    torch.testing.assert_close(shuffled.boxes_cxcywh, boxes[:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(single.logits, straight.logits[:, 1:2], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(straight.logits[:, 0], straight.logits[:, 1], atol=1e-3)


@pytest.mark.parametrize("queries", KINDS)
def test_same_seed_same_bits(queries: str) -> None:
    first, second = build(queries, dropout=0.3), build(queries, dropout=0.3)
    images = pictures()
    assert torch.equal(first(images).logits, first(images).logits)
    results = []
    for model in (first, second):
        torch.manual_seed(7)
        results.append(model.train()(images).logits)
    assert torch.equal(*results)


def test_points_hang_on_their_box() -> None:
    """Offsets of a half-box are corners; they move and grow with the box."""
    model = build("anchor", points=True)
    assert model.point_head is not None
    nn.init.zeros_(model.point_head[-1].weight)
    with torch.no_grad():
        model.point_head[-1].bias.copy_(torch.tensor([-0.5, -0.5, 0.5, 0.25]))
    outputs = model(pictures())
    assert outputs.points is not None
    x, y, width, height = outputs.boxes_cxcywh.unbind(-1)
    expected = torch.stack(
        (x - width / 2, y - height / 2, x + width / 2, y + height / 4), -1
    ).unflatten(-1, (2, 2))
    torch.testing.assert_close(outputs.points, expected)


def likeness_at(model: DETR, cells: dict[int, float]) -> Tensor:
    """A memory whose proposals have the given class scores at the given cells, else -9."""
    memory = torch.zeros(1, TOKENS, DIM)
    memory[0, :, 0] = -9
    for cell, score in cells.items():
        memory[0, cell, 0] = score
    for project in model.proposals:
        project[0].load_state_dict({"weight": torch.eye(DIM), "bias": torch.zeros(DIM)})
        project[1] = nn.Identity()
    nn.init.zeros_(model.class_head.weight)
    nn.init.zeros_(model.class_head.bias)
    with torch.no_grad():
        model.class_head.weight[2, 0] = 1.0
        model.class_head.bias.fill_(-20.0)
        model.class_head.bias[2] = 0.0
    return memory


def keep_boxes(model: DETR) -> None:
    """Proposals answer with the boxes around their cells."""
    with torch.no_grad():
        model.box_head[-1].weight.zero_()
        model.box_head[-1].bias.zero_()


def test_proposals_are_the_most_likely_cells_of_each_group() -> None:
    model = build("anchor")
    memory = likeness_at(model, {20: 5.0, 0: 4.0, 8: 3.0, 13: 2.0, 6: 1.0})
    with torch.no_grad():  # the second group sees everything upside down
        model.proposals[1][0].weight.mul_(-1)
    keep_boxes(model)
    features, boxes = model._propose(memory, Grid(1, 3, 7), GROUPS)
    assert features[0, :QUERIES, 0].tolist() == [5, 4, 3, 2, 1]
    assert features[0, QUERIES:, 0].tolist() == [9] * QUERIES
    # Cell 20 is row 2, column 6 of 3 x 7; 8 is row 1, column 1.
    centres = [(6.5 / 7, 2.5 / 3), (0.5 / 7, 0.5 / 3), (1.5 / 7, 1.5 / 3), (6.5 / 7, 1.5 / 3)]
    expected = torch.tensor([(*centre, 0.2, 0.2) for centre in centres])
    torch.testing.assert_close(boxes[0, :4], expected)
    assert torch.equal(features[0, :QUERIES], memory[0, [20, 0, 8, 13, 6]])


def test_proposals_come_from_the_last_frame() -> None:
    model = build("anchor")
    now = likeness_at(model, {1: 5.0, 2: 4.0, 3: 3.0, 4: 2.0, 5: 1.0})
    before = torch.full_like(now, 99.0)
    keep_boxes(model)
    features, boxes = model._propose(torch.cat((before, now), 1), Grid(2, 3, 7), 1)
    assert features[0, :, 0].tolist() == [5, 4, 3, 2, 1]
    torch.testing.assert_close(boxes[0, 0, :2], torch.tensor([1.5 / 7, 0.5 / 3]))


def test_anchors_move_by_the_box_head_of_each_layer() -> None:
    """Heads that always say the same move each layer's boxes by it in logit space."""
    model = build("anchor")
    steps = torch.tensor([1.0, 2.0, -3.0, 0.5])[:, None] * torch.tensor([0.1, 0.0, -0.1, 0.2])
    with torch.no_grad():
        for head, step in zip((model.box_head, *model.refinements), steps, strict=True):
            nn.init.zeros_(head[-1].weight)
            head[-1].bias.copy_(step)
        boxes = model(pictures()).boxes_cxcywh
    moves = steps[1:, None, None].expand(3, BATCH, QUERIES, 4)
    torch.testing.assert_close(logit(boxes).diff(dim=0), moves)
    start = (logit(boxes[0]) - steps[0]).sigmoid()
    assert start[..., 2:].allclose(torch.tensor(0.2))


def test_new_anchor_models_start_on_their_cells() -> None:
    torch.manual_seed(0)
    model = DETR(ModelConfig(num_queries=QUERIES), CLASSES).eval()
    with torch.no_grad():
        outputs = model(torch.rand(1, 1, 1, 64, 96))
    assert torch.allclose(outputs.boxes_cxcywh, outputs.boxes_cxcywh[:1], atol=1e-5)
    assert torch.allclose(outputs.boxes_cxcywh[..., 2:], torch.tensor(0.2))
    assert outputs.logits.sigmoid().mean().item() == pytest.approx(0.01, abs=0.01)


@pytest.mark.parametrize("queries", KINDS)
def test_every_parameter_learns(queries: str) -> None:
    model = build(queries, points=True).train()
    outputs = model(pictures())
    total = outputs.logits.square().sum() + outputs.boxes_cxcywh.square().sum()
    assert outputs.points is not None
    if outputs.dense is not None:
        answers = outputs.dense.logits, outputs.dense.boxes_cxcywh, outputs.dense.points
        total = total + torch.stack([each.square().sum() for each in answers]).sum()
    (total + outputs.points.square().sum()).backward()
    # All that asks for a gradient gets one, as training in several processes demands.
    idle = {name for name, p in model.named_parameters() if (p.grad is None) == p.requires_grad}
    # Learned queries start from content zero, which the first look around can only pass on.
    assert idle == set()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert all(name.startswith("box_head.") for name in frozen)
    assert bool(frozen) == (queries == "dense")


@pytest.mark.parametrize("queries", KINDS)
def test_fast_products_change_nothing(queries: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and gradients, whether all linear layers go through oneDNN or none."""
    if not linear.AVAILABLE:
        pytest.skip("this torch has no oneDNN for AVX-512")
    model = build(queries, points=True).train()
    results = []
    for worthwhile in (0, 10**12):
        monkeypatch.setattr(linear, "WORTHWHILE", worthwhile)
        outputs = model(pictures())
        total = outputs.logits.square().mean() + outputs.boxes_cxcywh.square().mean()
        learns = [parameter for parameter in model.parameters() if parameter.requires_grad]
        results.append((outputs, torch.autograd.grad(total, learns, allow_unused=True)))
    (first, gradients), (second, other_gradients) = results
    assert_same(first, second, 1e-4)
    for given, expected in zip(gradients, other_gradients, strict=True):
        assert (given is None) == (expected is None)
        if given is not None and expected is not None:
            torch.testing.assert_close(given, expected, atol=1e-4, rtol=1e-3)


class Answers(nn.Module):
    """Tensors alone, as an exporter wants them."""

    def __init__(self, model: DETR) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.model(images)
        return outputs.logits[-1], outputs.boxes_cxcywh[-1]


@pytest.mark.parametrize("queries", KINDS)
def test_exports_without_control_flow_on_data(queries: str) -> None:
    model = Answers(build(queries)).eval()
    program = torch.export.export(model, (pictures(1),))
    torch.manual_seed(3)
    images = torch.rand(1, 1, 1, 48, 112)  # others than it was traced with
    with torch.no_grad():
        for given, expected in zip(program.module()(images), model(images), strict=True):
            torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)


def test_focal_start_score() -> None:
    model = DETR(ModelConfig(), CLASSES)
    torch.testing.assert_close(
        model.class_head.bias, torch.full((CLASSES,), -math.log(99)), check_stride=False
    )


@pytest.mark.parametrize("queries", KINDS)
def test_a_guide_of_the_models_own_queries_gives_its_own_maps(queries: str) -> None:
    """Maps follow the guide, query by query; answers stay those of the model's own queries."""
    model = build(queries)
    with torch.no_grad():
        own = model(pictures(), EVERYTHING)
        anchors = own.anchors
        assert (anchors is None) == (queries == "learned")
        turned = Guide(own.queries.flip(1), None if anchors is None else anchors.flip(1))
        guided = model(pictures(), EVERYTHING, turned)
    assert_same(own, guided)
    for layer in range(3):
        cross, decoder = own.attention.cross[layer], own.attention.decoder[layer]
        torch.testing.assert_close(guided.attention.cross[layer], cross.flip(2))
        torch.testing.assert_close(guided.attention.decoder[layer], decoder.flip(2, 3))


def test_a_guide_is_seen_by_nobody_in_training() -> None:
    """Any number of queries, beside all groups; gradients reach encoder and decoder through it."""
    model = build("anchor").train()
    guide = Guide(torch.randn(BATCH, 11, DIM), torch.rand(BATCH, 11, 4) * 0.5 + 0.2)
    outputs = model(pictures(), Capture(cross=(2,)), guide)
    assert outputs.logits.shape[2] == GROUPS * QUERIES
    assert outputs.attention.cross[2].shape == (BATCH, HEADS, 11, TOKENS)
    outputs.attention.cross[2].square().sum().backward()
    for name in ("encoder.0.attention.query_key.weight", "decoder.1.cross_attention.key.weight"):
        assert model.get_parameter(name).grad.abs().sum() > 0
    assert model.class_head.weight.grad is None


@pytest.mark.parametrize("training", [False, True])
def test_dense_proposals(training: bool) -> None:
    """All cells of the finer grid answer; every group starts from the same best of them."""
    outputs = build("dense", points=True, classification="softmax").train(training)(pictures())
    dense, groups = outputs.dense, GROUPS if training else 1
    assert dense is not None
    assert (outputs.grid, dense.grid, outputs.cross_grid) == (Grid(1, 3, 7), *[Grid(1, 6, 14)] * 2)
    assert dense.logits.shape == (BATCH, CELLS, CLASSES)  # never "no object"
    assert dense.boxes_cxcywh.shape == (BATCH, CELLS, 4)
    assert dense.points is not None
    assert dense.points.shape == (BATCH, CELLS, 2, 2)
    assert outputs.logits.shape == (3, BATCH, groups * QUERIES, CLASSES + 1)  # layers alone
    assert outputs.anchors is not None
    expected, _ = choose(dense, QUERIES)
    assert torch.equal(outputs.anchors, expected.repeat(1, groups, 1))
    assert not torch.equal(*outputs.queries[:, : 2 * QUERIES].chunk(2, 1)) or not training
    first = outputs.first(1)
    assert first.dense is not None
    assert first.anchors is not None
    assert torch.equal(first.dense.logits, dense.logits[:1])
    assert torch.equal(first.dense.points, dense.points[:1])
    assert torch.equal(first.anchors, outputs.anchors[:1])


@pytest.mark.parametrize(
    ("size", "stride", "grids"),
    [((37, 83), 16, ((3, 6), (5, 11))), ((65, 97), 32, ((3, 4), (5, 7)))],
)
def test_dense_proposals_of_odd_sizes(
    size: tuple[int, int], stride: int, grids: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    model = build("dense", backbone=BackboneConfig(width=8, depths=(1, 1, 1, 1), stride=stride))
    outputs = model(torch.rand(1, 1, 1, *size))
    assert (outputs.grid[1:], outputs.cross_grid[1:]) == grids


def test_dense_answers_start_a_step_of_their_own() -> None:
    """What the decoder says teaches the cells it starts from, but not their boxes."""
    model = build("dense").train()
    model(pictures()).boxes_cxcywh.sum().backward()
    assert model.get_parameter("fine_memory.lateral.0.weight").grad is not None
    assert model.get_parameter("dense_head.box_head.2.weight").grad is None


@pytest.mark.parametrize("temporal", ["none", "mixing", "factorised"])
def test_dense_proposals_of_a_clip_are_of_its_last_frame(temporal: str) -> None:
    backbone = BackboneConfig(width=8, depths=(1, 1, 1, 1), temporal=temporal)
    model = build("dense", backbone=backbone)
    clips = torch.cat((pictures(BATCH), pictures(2 * BATCH)[BATCH:], pictures(BATCH).flip(0)), 2)
    with torch.no_grad():
        embedded, outputs = model.embed(clips), model(clips)
        last = model.embed(clips[:, :, 2:])
        still = model(clips[:, :, 2:].expand(-1, -1, 3, -1, -1))
    assert embedded.fine is not None
    assert last.fine is not None
    assert (outputs.grid, outputs.cross_grid) == (Grid(3, 3, 7), Grid(1, 6, 14))
    if temporal != "factorised":  # whose finer map knows the frames before
        torch.testing.assert_close(embedded.fine, last.fine, atol=1e-5, rtol=1e-5)
    # Earlier frames are seen all the same, by the encoder.
    assert outputs.dense is not None
    assert still.dense is not None
    assert not torch.allclose(outputs.dense.logits, still.dense.logits, atol=1e-3)
