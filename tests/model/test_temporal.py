"""Clips: where frames meet, that none sees a later one, and that one frame is as it always was."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sonodetr.config import BackboneConfig, ModelConfig
from sonodetr.model.backbone import Features, build_backbone
from sonodetr.model.detr import DETR, Capture
from sonodetr.model.temporal import TemporalBlock, with_past
from sonodetr.model.tensors import Grid
from sonodetr.model.weights import load_matching

BATCH, TIME, ROWS, COLUMNS = 2, 5, 3, 7  # of tokens, at stride 16
CLASSES, QUERIES, HEADS, DIM = 4, 11, 2, 16
NETWORKS = {
    "compact": {"width": 8, "depths": (1, 1, 1, 1)},
    "resnet": {"width": 8, "depths": (1, 2, 1, 1)},
    "efficientnet_lite0": {},
}
TEMPORAL = ("none", "mixing", "factorised")


def build(temporal: str, network: str = "compact", **changes: object) -> DETR:
    """Random also where a new model has zeros, which would hide errors."""
    torch.manual_seed(0)
    backbone = BackboneConfig(name=network, temporal=temporal, **NETWORKS[network])
    shape = {"hidden_dim": DIM, "num_heads": HEADS, "feedforward_dim": 19, "num_queries": QUERIES}
    shape |= {"encoder_layers": 1, "decoder_layers": 1, "query_groups": 2} | changes
    model = DETR(ModelConfig(backbone=backbone, **shape), CLASSES)
    for name, parameter in model.named_parameters():
        if name.endswith("expand.weight") and parameter.dim() == 4:
            nn.init.normal_(parameter, std=0.5)
    return model.eval()


def clips() -> Tensor:
    torch.manual_seed(1)
    coarse = torch.rand(BATCH * TIME, 1, 2 * ROWS, 2 * COLUMNS)
    fine = functional.interpolate(coarse, scale_factor=8)
    return fine.unflatten(0, (BATCH, TIME)).transpose(1, 2).contiguous()


def tokens_by_place(model: DETR, images: Tensor) -> Tensor:
    """`[batch, time, rows, columns, hidden]`"""
    with torch.no_grad():
        tokens, grid, _ = model.embed(images)
    return tokens.unflatten(1, grid)


def test_past_is_stacked_within_each_clip() -> None:
    frames = torch.tensor([2.0, 3, 5, 7, 11, 13, 17, 19]).reshape(8, 1, 1, 1)
    pairs = torch.cat((frames, -frames), 1)  # two channels
    stacked = with_past(pairs, 4)[..., 0, 0]
    assert stacked[:, [0, 2, 4]].tolist() == [
        [2, 2, 2], [3, 2, 2], [5, 3, 2], [7, 5, 3],
        [11, 11, 11], [13, 11, 11], [17, 13, 11], [19, 17, 13],
    ]  # fmt: skip
    assert torch.equal(stacked[:, [1, 3, 5]], -stacked[:, [0, 2, 4]])
    assert torch.equal(with_past(pairs, 1)[:, 4:], pairs)  # a single frame stands still
    with pytest.raises(ValueError, match="8 frames are no clips of 3 frames"):
        with_past(pairs, 3)


def test_block_by_hand() -> None:
    """Weights that answer with the speed of the first channel, if it grows."""
    block = TemporalBlock(3, kernel=1).eval()
    reduce, look_back = block.reduce[0], block.look_back[0]
    for layer in (reduce, look_back, block.expand):
        nn.init.zeros_(layer.weight)
    with torch.no_grad():
        reduce.weight[0, 0] = 1.0
        look_back.weight[0, 0], look_back.weight[0, 16] = 1.0, -1.0  # now less the frame before
        block.expand.weight[2, 0] = 10.0
    features = torch.tensor([3.0, 5, 4, 11]).reshape(4, 1, 1, 1).expand(-1, 3, 2, 2)
    added = (block(features, 4) - features).detach()
    torch.testing.assert_close(added[:, 2, 0, 1], torch.tensor([0.0, 20, 0, 70]), atol=1e-3, rtol=0)
    assert not added[:, :2].any()


class Cells(nn.Module):
    """Features that are the mean of their cell."""

    def see(self, frames: Tensor, time: int) -> Features:
        return Features(functional.avg_pool2d(frames, 16), None)

    def join(self, features: Tensor, time: int) -> Tensor:
        return features


def test_tokens_are_in_order_time_slowest_and_width_fastest() -> None:
    """The tokens of pictures whose cells say where they are."""
    model = build("none", queries="learned")
    model.backbone, model.projection = Cells(), nn.Identity()
    places = torch.arange(BATCH * TIME * ROWS * COLUMNS, dtype=torch.float32)
    cells = places.reshape(BATCH, 1, TIME, ROWS, COLUMNS)
    images = cells.repeat_interleave(16, -1).repeat_interleave(16, -2)
    tokens, grid, _ = model.embed(images)
    assert grid == Grid(TIME, ROWS, COLUMNS)
    assert torch.equal(tokens.flatten(), places)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("queries", ["anchor", "learned"])
def test_one_frame_is_as_it_always_was(queries: str, channels: int) -> None:
    """Bit for bit: the features of the picture, in row order, at the encodings of a picture."""
    torch.manual_seed(0)
    config = ModelConfig(backbone=BackboneConfig(width=16), num_queries=5, queries=queries)
    model = DETR(config, CLASSES, channels).eval()
    images = torch.rand(BATCH, channels, 1, 48, 112)
    features = model.projection(model.backbone(images[:, :, 0]))
    expected = features.flatten(2).transpose(1, 2)
    if queries == "anchor":
        expected = model.token_norm(expected)
    tokens, grid, _ = model.embed(images)
    assert torch.equal(tokens, expected)
    assert grid == Grid(1, 3, 7)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("temporal", TEMPORAL)
def test_no_token_knows_a_later_frame(temporal: str, network: str) -> None:
    model, images = build(temporal, network), clips()
    before = tokens_by_place(model, images)
    assert before.shape == (BATCH, TIME, ROWS, COLUMNS, DIM)
    for frame in range(TIME):
        changed = images.clone()
        changed[1, :, frame] = 1 - changed[1, :, frame]
        moved = (tokens_by_place(model, changed) - before).abs().amax((2, 3, 4))
        reach = {"none": 1, "mixing": 3, "factorised": TIME}[temporal]
        for other in range(TIME):
            if frame <= other < frame + reach:
                assert moved[1, other] > 1e-6
            else:
                assert moved[1, other] == 0
        assert not moved[0].any()  # the other clip


@pytest.mark.parametrize("temporal", ["mixing", "factorised"])
def test_what_stands_still_looks_the_same_in_every_frame(temporal: str) -> None:
    tokens = tokens_by_place(build(temporal), clips()[:, :, :1].expand(-1, -1, TIME, -1, -1))
    torch.testing.assert_close(tokens, tokens[:, :1].expand_as(tokens), atol=1e-5, rtol=0)
    moving = tokens_by_place(build(temporal), clips())
    assert (moving[:, -1] - tokens[:, -1]).abs().max() > 1e-3


def test_mixing_sees_what_comes_from_the_neighbouring_cell() -> None:
    """Cells far from what moved stay as they were, those beside it do not."""
    block = TemporalBlock(5, kernel=3).eval()
    nn.init.normal_(block.expand.weight)
    still = torch.rand(2, 5, ROWS, COLUMNS)
    other = still.clone()
    other[0, :, 1, 2] += 1  # the earlier frame
    moved = (block(other, 2) - block(still, 2))[1].abs().amax(0)
    assert (moved[:, 1:4] > 1e-5).all()
    assert not moved[:, 0].any()
    assert not moved[:, 4:].any()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("temporal", TEMPORAL)
def test_a_clip_model_starts_as_the_picture_model_it_came_from(temporal: str, network: str) -> None:
    picture_model, images = build("none", network), clips()
    backbone = BackboneConfig(name=network, temporal=temporal, **NETWORKS[network])
    clip_model = DETR(picture_model.config.model_copy(update={"backbone": backbone}), CLASSES)
    line = load_matching(clip_model, picture_model.state_dict())
    own, known = clip_model.state_dict(), picture_model.state_dict()
    assert line.startswith(f"taken over {len(known)} of {len(own)} tensors")
    assert all(".stages." in name or ".mixing." in name for name in own.keys() - known.keys())
    tokens = tokens_by_place(clip_model.eval(), images)
    for frame in range(TIME):
        alone = tokens_by_place(picture_model, images[:, :, frame : frame + 1])
        torch.testing.assert_close(tokens[:, frame], alone[:, 0], atol=1e-5, rtol=0)


def test_checkpoints_of_networks_keep_their_names() -> None:
    for network, shape in NETWORKS.items():
        names = build_backbone(BackboneConfig(name=network, **shape), 1).state_dict().keys()
        first = {"compact": "stages.0.0", "resnet": "layer1.0", "efficientnet_lite0": "blocks.0"}
        assert any(name.startswith(f"network.{first[network]}.") for name in names)
        assert all(name.startswith(("network.", "top_down.")) for name in names)


@pytest.mark.parametrize("queries", ["anchor", "learned"])
@pytest.mark.parametrize("temporal", TEMPORAL)
def test_past_frames_answer_and_learn(temporal: str, queries: str) -> None:
    model, images = build(temporal, queries=queries).train(), clips().requires_grad_()
    outputs = model(images)
    (outputs.logits[-1].square().sum() + outputs.boxes_cxcywh[-1].square().sum()).backward()
    assert images.grad is not None
    assert (images.grad.abs().amax((1, 3, 4)) > 0).all()
    idle = {name for name, p in model.named_parameters() if p.grad is None}
    assert not {name for name in idle if name.startswith(("backbone", "encoder"))}
    with torch.no_grad():
        model.eval()
        answer, other = model(images), images.clone()
        other[:, :, 0] = 1 - other[:, :, 0]
        assert not torch.allclose(model(other).logits, answer.logits, atol=1e-4)


@pytest.mark.parametrize(("queries", "layers"), [("learned", 0), ("learned", 1), ("anchor", 1)])
def test_order_of_frames_matters_without_blocks_too(queries: str, layers: int) -> None:
    """Tokens of earlier frames carry their age: for the encoder and, without anchors, for the
    decoder."""
    model, images = build("none", queries=queries, encoder_layers=layers), clips()
    backwards = torch.cat((images[:, :, :-1].flip(2), images[:, :, -1:]), 2)
    difference = model(images).logits - model(backwards).logits
    assert difference.abs().max() > 1e-4


def test_clips_of_a_batch_are_independent() -> None:
    model, images = build("factorised"), clips()
    together = model(images).logits
    for clip in range(BATCH):
        alone = model(images[clip : clip + 1]).logits[:, 0]
        torch.testing.assert_close(together[:, clip], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("queries", ["anchor", "learned"])
def test_maps_cover_all_frames_of_any_clip(queries: str) -> None:
    """Those of the decoder with anchors: the last frame, on a grid twice as fine."""
    model, images = build("none", queries=queries), clips()
    for time in (1, TIME):
        maps = model(images[:, :, -time:], Capture(encoder=(0,), cross=(0,))).attention
        tokens = time * ROWS * COLUMNS
        assert maps.encoder[0].shape == (BATCH, HEADS, tokens, tokens)
        seen = tokens if queries == "learned" else 4 * ROWS * COLUMNS
        assert maps.cross[0].shape == (BATCH, HEADS, QUERIES, seen)
        torch.testing.assert_close(maps.cross[0].sum(-1), torch.ones(BATCH, HEADS, QUERIES))


@pytest.mark.parametrize("temporal", TEMPORAL)
def test_exports_clips_with_static_shapes(temporal: str) -> None:
    backbone, frames = build(temporal).backbone, clips()[0].transpose(0, 1)
    program = torch.export.export(backbone, (frames, TIME))
    torch.manual_seed(3)
    others = torch.rand_like(frames)
    torch.testing.assert_close(program.module()(others, TIME), backbone(others, TIME))
