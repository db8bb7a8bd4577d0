"""The whole model: what capture, groups, batches and modes may and may not change."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from sonodetr.config import BackboneConfig, ModelConfig
from sonodetr.model import linear
from sonodetr.model.dense import choose
from sonodetr.model.detr import DETR, Capture, Guide, Memory
from sonodetr.model.position import cell_boxes, logit
from sonodetr.model.tensors import Dense, Grid, Outputs

KINDS = get_args(ModelConfig.model_fields["queries"].annotation)
BATCH, CLASSES, QUERIES, HEADS, GROUPS = 2, 4, 5, 3, 2
DIM, TOKENS, CELLS = 8 * HEADS, 3 * 7, 6 * 14
EVERYTHING = Capture(encoder=(0, 1), decoder=(0, 1, 2), cross=(0, 1, 2))


def build(queries: str, **changes: object) -> DETR:
    """Random also where a new model has zeros, which would hide errors."""
    torch.manual_seed(0)
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
    assert outputs.logits.shape == (3, BATCH, QUERIES, CLASSES)
    assert outputs.boxes_cxcywh.shape == (3, BATCH, QUERIES, 4)
    assert outputs.points is not None
    assert outputs.points.shape == (3, BATCH, QUERIES, 2, 2)
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
    columns = CELLS if queries == "anchor" else TOKENS
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


def test_proposals_are_the_best_cells_and_each_group_sees_them_in_its_own_way() -> None:
    """The second group sees everything upside down; boxes are those of the cells."""
    model = build("anchor")
    for project, sign in zip(model.proposals, (1, -1), strict=True):
        project[0].load_state_dict({"weight": sign * torch.eye(DIM), "bias": torch.zeros(DIM)})
        project[1] = nn.Identity()
    for parameter in model.dense_head.box_head[-1].parameters():
        nn.init.zeros_(parameter)
    grid, chosen = Grid(1, 6, 14), [83, 0, 20, 45, 12]
    logits = torch.full((1, CELLS, CLASSES), -9.0)
    logits[0, chosen, 2] = torch.tensor([5.0, 4, 3, 2, 1])
    cells = cell_boxes(grid)
    dense = Dense(logits, cells[None], None, cells, grid)
    tokens = torch.randn(1, CELLS, DIM)
    features, anchors = model._propose(dense, Memory(tokens, tokens, grid), GROUPS)
    torch.testing.assert_close(features[:, :QUERIES], tokens[:, chosen])
    torch.testing.assert_close(features[:, QUERIES:], -tokens[:, chosen])
    # Cell 83 is row 5, column 13 of 6 x 14; 20 is row 1, column 6; 45 row 3, column 3.
    centres = [(13.5, 5.5), (0.5, 0.5), (6.5, 1.5), (3.5, 3.5), (12.5, 0.5)]
    expected = torch.tensor([(x / 14, y / 6, 0.2, 0.2) for x, y in centres])
    torch.testing.assert_close(anchors, expected.repeat(1, GROUPS, 1))


def test_anchors_move_by_the_box_head_of_each_layer() -> None:
    """Heads that always say the same move each layer's boxes by it in logit space."""
    model = build("anchor")
    steps = torch.tensor([1.0, 2.0, -3.0, 0.5])[:, None] * torch.tensor([0.1, 0.0, -0.1, 0.2])
    with torch.no_grad():
        heads = (model.dense_head.box_head, *model.refinements)
        for head, step in zip(heads, steps, strict=True):
            nn.init.zeros_(head[-1].weight)
            head[-1].bias.copy_(step)
        outputs = model(pictures())
    assert outputs.anchors is not None
    boxes = torch.cat((outputs.anchors[None], outputs.boxes_cxcywh))
    moves = steps[1:, None, None].expand(3, BATCH, QUERIES, 4)
    torch.testing.assert_close(logit(boxes).diff(dim=0), moves)
    start = (logit(boxes[0]) - steps[0]).sigmoid()
    assert start[..., 2:].allclose(torch.tensor(0.2))


def test_new_anchor_models_start_on_their_cells() -> None:
    torch.manual_seed(0)
    model = DETR(ModelConfig(num_queries=QUERIES), CLASSES).eval()
    with torch.no_grad():
        outputs = model(torch.rand(1, 1, 1, 64, 96))
    assert outputs.dense is not None
    cells = outputs.dense.cells_cxcywh[choose(outputs.dense, QUERIES)]
    torch.testing.assert_close(outputs.boxes_cxcywh, cells.expand(3, -1, -1, -1), atol=1e-5, rtol=0)
    assert torch.allclose(cells[..., 2:], torch.tensor(0.2))
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
    # As training in several processes demands.
    assert {name for name, p in model.named_parameters() if p.grad is None} == set()


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
        gradients = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
        results.append((outputs, gradients))
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
    assert outputs.attention.cross[2].shape == (BATCH, HEADS, 11, CELLS)
    outputs.attention.cross[2].square().sum().backward()
    for name in ("encoder.0.attention.query_key.weight", "decoder.1.cross_attention.key.weight"):
        assert model.get_parameter(name).grad.abs().sum() > 0
    assert model.class_head.weight.grad is None


@pytest.mark.parametrize("training", [False, True])
def test_all_cells_answer_and_the_best_become_anchors(training: bool) -> None:
    """Of a grid twice as fine as the tokens'; every group starts from the same ones."""
    outputs = build("anchor", points=True, classification="softmax").train(training)(pictures())
    dense, groups = outputs.dense, GROUPS if training else 1
    assert dense is not None
    assert (outputs.grid, dense.grid, outputs.cross_grid) == (Grid(1, 3, 7), *[Grid(1, 6, 14)] * 2)
    assert dense.logits.shape == (BATCH, CELLS, CLASSES)  # never "no object"
    assert dense.boxes_cxcywh.shape == (BATCH, CELLS, 4)
    assert dense.points is not None
    assert dense.points.shape == (BATCH, CELLS, 2, 2)
    assert outputs.logits.shape == (3, BATCH, groups * QUERIES, CLASSES + 1)
    assert outputs.anchors is not None
    chosen = choose(dense, QUERIES)
    expected = dense.boxes_cxcywh[torch.arange(BATCH)[:, None], chosen].repeat(1, groups, 1)
    torch.testing.assert_close(outputs.anchors, expected, atol=1e-6, rtol=0)
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
def test_cells_of_odd_sizes(
    size: tuple[int, int], stride: int, grids: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    model = build("anchor", backbone=BackboneConfig(width=8, depths=(1, 1, 1, 1), stride=stride))
    outputs = model(torch.rand(1, 1, 1, *size))
    assert (outputs.grid[1:], outputs.cross_grid[1:]) == grids


def test_the_decoder_teaches_the_cells_it_starts_from_but_not_their_boxes() -> None:
    model = build("anchor").train()
    model(pictures()).boxes_cxcywh.sum().backward()
    assert model.get_parameter("fine_memory.lateral.0.weight").grad is not None
    assert all(parameter.grad is None for parameter in model.dense_head.parameters())


@pytest.mark.parametrize("temporal", ["none", "mixing", "factorised"])
def test_proposals_of_a_clip_are_of_its_last_frame(temporal: str) -> None:
    backbone = BackboneConfig(width=8, depths=(1, 1, 1, 1), temporal=temporal)
    model = build("anchor", backbone=backbone)
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
