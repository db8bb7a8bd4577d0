"""What is exported says the same as the model it is made of, with less in it."""

import pytest
import torch
from random_runs import (
    COMPACT,
    EFFICIENTNET,
    LEARNED,
    RESNET,
    config_of,
    random_model,
    save_huggingface,
)
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sonodetr.config import Config
from sonodetr.export.graph import ANSWERS, EVERYTHING, graphs_of
from sonodetr.model.backbone import Backbone
from sonodetr.model.decode import decode
from sonodetr.model.detr import DETR
from sonodetr.model.tensors import Outputs


def graphs(model: DETR, config: Config):
    data = config.data
    return graphs_of(model, data.image_size, data.channels, data.clip_frames)


@torch.no_grad()
def in_graphs(model: DETR, config: Config, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    """Answers by name, through one graph or two."""
    made = graphs(model, config)
    if "detect" in made:
        (graph,) = made.values()
        taken = pictures
    else:
        graph, frame = made["clip"], made["frame"].module
        taken = torch.stack([frame(picture) for picture in pictures])
    return dict(zip(graph.outputs, graph.module(taken), strict=True))


@torch.no_grad()
def in_model(model: DETR, pictures: torch.Tensor) -> Outputs:
    return model(pictures.permute(3, 0, 1, 2)[None].float() / 255)


def check(config: Config) -> dict[str, torch.Tensor]:
    """Graphs and model agree on random pictures; the answers of the graphs."""
    model, data = random_model(config), config.data
    pictures = torch.randint(0, 256, (data.clip_frames, *data.image_size, data.channels))
    pictures = pictures.to(torch.uint8)
    found, outputs = in_graphs(model, config, pictures), in_model(model, pictures)
    best = decode(outputs, config.model.classification)
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(found["scores"], best.scores[0], **close)
    assert torch.equal(found["classes"], best.classes[0])
    torch.testing.assert_close(found["boxes_cxcywh"], best.boxes_cxcywh[0], **close)
    torch.testing.assert_close(found["all_boxes_cxcywh"], outputs.boxes_cxcywh[-1, 0], **close)
    assert ("points" in found) == config.model.points
    if config.model.points:
        torch.testing.assert_close(found["points"], best.points[0], **close)
        torch.testing.assert_close(found["all_points"], outputs.points[-1, 0], **close)
    return found


@pytest.mark.parametrize("classification", ["focal", "softmax"])
@pytest.mark.parametrize("queries", ["anchor", "learned"])
def test_answers(classification, queries):
    model = {"classification": classification, "queries": queries, "points": queries == "anchor"}
    model |= {"decoder_layers": 3}  # of which the last one answers
    found = check(config_of(COMPACT, model))
    assert found["all_scores"].shape == (5, 2)
    assert found["scores"].shape == ((10,) if classification == "focal" else (5,))


def test_at_most_100_answers():
    found = check(config_of(COMPACT | {"stride": 16}, {"num_queries": 53}, image_size=[64, 128]))
    assert found["scores"].shape == (100,)
    assert found["all_scores"].numel() == 106


@pytest.mark.parametrize("queries", ["anchor", "learned"])
@pytest.mark.parametrize("temporal", ["none", "mixing", "factorised"])
def test_clips(temporal, queries):
    """Two graphs, unless frames meet within the backbone; a single frame is always one."""
    backbone, model = COMPACT | {"temporal": temporal}, {"queries": queries, "points": True}
    config = config_of(backbone, model, clip_frames=3)
    check(config)
    made = graphs(random_model(config), config)
    assert set(made) == ({"detect"} if temporal == "factorised" else {"frame", "clip"})
    for graph in made.values():
        assert not any(isinstance(module, _BatchNorm) for module in graph.module.modules())
    if temporal == "none":
        config = config_of(backbone, model)
        assert set(graphs(random_model(config), config)) == {"detect"}


@pytest.mark.parametrize("queries", ["anchor", "learned"])
def test_what_is_kept_of_a_frame_is_one_row(queries):
    """At stride 32, 2 x 3 cells of 64 channels; with anchors also 4 x 6 cells of 32."""
    config = config_of(COMPACT, {"queries": queries}, clip_frames=3)
    model = random_model(config)
    made = graphs(model, config)
    picture = torch.randint(0, 256, made["frame"].example.shape).to(torch.uint8)
    with torch.no_grad():
        row = made["frame"].module(picture)
        coarse, fine = model.backbone.see(picture.permute(2, 0, 1)[None].float() / 255)
    assert (fine is None) == (queries == "learned")
    expected = coarse.flatten() if fine is None else torch.cat((coarse.flatten(), fine.flatten()))
    assert len(row) == 2 * 3 * 64 + (4 * 6 * 32 if queries == "anchor" else 0)
    torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)
    assert made["clip"].example.shape == (3, len(row))


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [(COMPACT, 1), (COMPACT, 3), (RESNET, 3), (EFFICIENTNET, 1), ("huggingface", 1)],
    ids=str,
)
def test_batch_norms_become_part_of_convolutions(backbone, channels, tmp_path):
    if backbone == "huggingface":
        backbone = save_huggingface(tmp_path)
    config = config_of(backbone, {}, channels=channels)
    model = random_model(config)
    (graph,) = graphs(model, config).values()
    assert not any(isinstance(module, _BatchNorm) for module in graph.module.modules())
    pictures = torch.randint(0, 256, graph.example.shape)
    images = pictures.permute(0, 3, 1, 2).float()
    with torch.no_grad():
        folded, expected = graph.module.backbone(images), model.backbone(images / 255)
    scale = expected.abs().max()
    torch.testing.assert_close(folded / scale, expected / scale, atol=1e-5, rtol=0)


def test_normalisation_becomes_part_of_the_first_convolution_where_padding_stays_zero():
    for backbone, channels, gone in [(COMPACT, 1, True), (RESNET, 1, True), (RESNET, 3, False)]:
        config = config_of(backbone, {}, channels=channels)
        (graph,) = graphs(random_model(config), config).values()
        std = graph.module.backbone.std.flatten()
        # ImageNet's standard deviation of red: 0.229 of 255
        assert std[0].item() == pytest.approx(1 if gone else 0.229 * 255)


class TwoReaders(nn.Module):
    """The first batch norm is not the only one that reads its convolution; the second one is."""

    channels = (3, 5, 7)

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.shared_norm = nn.Conv2d(1, 3, 8, 8), nn.BatchNorm2d(3)
        self.own, self.own_norm = nn.Conv2d(3, 5, 2, 2), nn.BatchNorm2d(5)
        self.last = nn.Conv2d(5, 7, 2, 2)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        shared = self.shared(images)
        first = self.shared_norm(shared) + shared
        second = self.own_norm(self.own(first))
        return [first, second, self.last(second)]


def test_a_batch_norm_stays_where_something_else_reads_the_convolution():
    config = config_of(COMPACT, LEARNED)
    model = random_model(config)
    model.backbone = Backbone(TwoReaders(), 32, (0.0,), (0.25,)).eval()
    model.projection = nn.Conv2d(7, 16, 1)
    for norm in (model.backbone.network.shared_norm, model.backbone.network.own_norm):
        nn.init.uniform_(norm.running_mean)
    (graph,) = graphs(model, config).values()
    network = graph.module.backbone.network
    assert isinstance(network.shared_norm, nn.BatchNorm2d)
    assert isinstance(network.own_norm, nn.Identity)
    images = torch.rand(1, 1, 64, 96)
    with torch.no_grad():
        expected = model.backbone(images)
        torch.testing.assert_close(graph.module.backbone(images * 255), expected)


def test_the_model_itself_stays_as_it_is():
    config = config_of(COMPACT, {})
    model = random_model(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graphs(model, config)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.auxiliary
    assert model.backbone.std.item() == 0.25


def test_names():
    config = config_of(COMPACT, {"points": True}, clip_frames=2)
    made = graphs(random_model(config), config)
    assert {name: (graph.input, graph.outputs) for name, graph in made.items()} == {
        "frame": ("picture", ("features",)),
        "clip": ("features", ANSWERS + EVERYTHING),
    }
