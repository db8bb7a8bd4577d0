import math

import pytest
import torch
from torch import nn

from sonodetr.model.detr import DETR
from sonodetr.training.average import WeightAverage
from sonodetr.training.optimizer import build_optimizer, rate_factor


def test_rate_factor_by_hand():
    # 10 steps of warm-up, then half a cosine over the 100 that remain.
    assert rate_factor(0, 110, 10) == pytest.approx(0.1)
    assert rate_factor(9, 110, 10) == 1
    assert rate_factor(10, 110, 10) == 1
    assert rate_factor(35, 110, 10) == pytest.approx(0.5 * (1 + math.sqrt(0.5)))
    assert rate_factor(60, 110, 10) == pytest.approx(0.5)
    assert rate_factor(110, 110, 10) == pytest.approx(0)
    assert rate_factor(0, 5, 0) == 1
    assert rate_factor(2, 3, 7) == pytest.approx(3 / 7)  # a run shorter than its warm-up


def test_groups_have_their_rate_and_decay(tiny):
    config = tiny(train={"learning_rate": 1e-3, "backbone_rate": 0.3, "weight_decay": 0.07})
    model = DETR(config.model, num_classes=2)
    optimizer = build_optimizer(model, config.train)
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found[parameter] = (group["peak_rate"], group["weight_decay"])
    assert len(found) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        rate = 3e-4 if name.startswith("backbone.") else 1e-3
        decay = 0.07 if parameter.dim() > 1 else 0.0
        assert found[parameter] == (pytest.approx(rate), decay), name
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d)]
    assert len(norms) > 5
    assert all(found[norm.weight][1] == 0 for norm in norms)


def test_rate_zero_freezes_the_backbone(tiny):
    config = tiny(train={"backbone_rate": 0.0})
    model = DETR(config.model, num_classes=2)
    trained = sum(
        len(group["params"]) for group in build_optimizer(model, config.train).param_groups
    )
    backbone = list(model.backbone.parameters())
    assert trained == len(list(model.parameters())) - len(backbone)
    assert not any(parameter.requires_grad for parameter in backbone)


def test_weight_average_by_hand():
    model = nn.BatchNorm1d(1)
    average = WeightAverage(model, decay=0.25)
    model.weight.data.fill_(3.0)
    model.num_batches_tracked.fill_(5)
    average.update(model, step=0)  # decay (1 + 0) / (10 + 0) = 0.1: 0.1 * 1 + 0.9 * 3
    assert average.state["weight"].item() == pytest.approx(2.8)
    assert average.state["num_batches_tracked"].item() == 5
    model.weight.data.fill_(7.0)
    average.update(model, step=8)  # 9 / 18 is above 0.25: 0.25 * 2.8 + 0.75 * 7
    assert average.state["weight"].item() == pytest.approx(5.95)


def test_weight_average_without_decay_copies():
    model = nn.Linear(3, 2)
    average = WeightAverage(model, decay=0.0)
    model.weight.data.normal_()
    average.update(model, step=0)
    assert torch.equal(average.state["weight"], model.weight)
