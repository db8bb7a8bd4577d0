"""Our DETR beside Hugging Face's on the CPU, same configuration, same arithmetic.

    python benchmarks/transformer.py [--repeats 15] [--tokens 64 256 1024] [--image 256]

First the transformer alone on fixed features (encoder, decoder, heads; in a training step also the
set loss with auxiliary layers and all gradients), then the whole model with the same ResNet. Both
sides: width 256, 8 heads, 6 + 6 layers, feed-forward 2048, 100 learned queries, softmax, dropout
0.1, fused attention. Hugging Face's DETR freezes its whole backbone without being asked to and
replaces its batch norm by a frozen one; here the convolutions of both sides train and the batch
norms of both are frozen. Runs take turns (ours, theirs, ours, ...); a ratio is the median over the
turns, below 1 where ours is faster. The last line is one JSON object.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sonodetr.config import BackboneConfig, LossConfig, ModelConfig
from sonodetr.model.detr import DETR, Capture, Embedded
from sonodetr.model.tensors import Grid, Target
from sonodetr.set_loss import set_loss

CLASSES, OBJECTS = 3, 4
LOSS = LossConfig(classification=1.0)
Work = Callable[[], object]


def build_ours(depths: tuple[int, ...]) -> DETR:
    backbone = BackboneConfig(name="resnet", width=64, depths=depths, bottleneck=True, stride=32)
    config = ModelConfig(
        backbone=backbone,
        hidden_dim=256,
        num_heads=8,
        encoder_layers=6,
        decoder_layers=6,
        feedforward_dim=2048,
        dropout=0.1,
        queries="learned",
        num_queries=100,
        classification="softmax",
    )
    return DETR(config, CLASSES, channels=3)


def build_theirs(depths: tuple[int, ...]) -> nn.Module:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    resnet = ResNetConfig(depths=list(depths), out_features=["stage4"])
    config = DetrConfig(
        backbone_config=resnet,
        use_timm_backbone=False,
        auxiliary_loss=True,
        id2label={index: str(index) for index in range(CLASSES)},
    )
    model = DetrForObjectDetection(config)
    assert config._attn_implementation == "sdpa"
    assert (config.d_model, config.encoder_ffn_dim, config.num_queries) == (256, 2048, 100)
    return model


def same_tensors_train(ours: DETR, theirs: nn.Module) -> None:
    """All convolutions, no batch norm (theirs has buffers in its place)."""
    for parameter in theirs.parameters():
        parameter.requires_grad_(True)
    for module in ours.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    counts = [
        sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ours, theirs)
    ]
    assert counts[0] == counts[1], counts


def make_targets(batch: int) -> list[Target]:
    return [
        Target(
            0.1 + 0.5 * torch.rand(OBJECTS, 4),
            torch.randint(0, CLASSES, (OBJECTS,)),
            torch.full((OBJECTS, 2, 2), math.nan),
        )
        for _ in range(batch)
    ]


def labels_of(targets: list[Target]) -> list[dict[str, Tensor]]:
    return [{"class_labels": t.classes, "boxes": t.boxes_cxcywh} for t in targets]


def train_mode(ours: DETR, theirs: nn.Module, training: bool) -> None:
    for model in (ours, theirs):
        model.train(training)
        model.zero_grad(set_to_none=True)
    ours.backbone.eval()  # frozen statistics, as theirs


def step(model: nn.Module, loss: Callable[[], Tensor]) -> None:
    loss().backward()
    model.zero_grad(set_to_none=True)


def transformer_work(ours: DETR, theirs: nn.Module, tokens: int, batch: int, train: bool):
    """Two functions to time: detect on fixed features, or a training step on them."""
    side = math.isqrt(tokens)
    features = torch.randn(batch, tokens, 256, requires_grad=train)
    embedded, targets = Embedded(features, Grid(1, side, side), None), make_targets(batch)
    labels = labels_of(targets)
    if not train:
        return (
            lambda: ours.detect(embedded, Capture()),
            lambda: theirs(inputs_embeds=features, pixel_values=None),
        )
    return (
        lambda: step(
            ours,
            lambda: set_loss(ours.detect(embedded, Capture()), targets, LOSS, "softmax").total,
        ),
        lambda: step(
            theirs, lambda: theirs(inputs_embeds=features, pixel_values=None, labels=labels).loss
        ),
    )


def whole_work(ours: DETR, theirs: nn.Module, image: int, batch: int, train: bool):
    """The same from pictures."""
    images, targets = torch.rand(batch, 3, image, image), make_targets(batch)
    labels = labels_of(targets)
    if not train:
        return lambda: ours(images[:, :, None]), lambda: theirs(images)
    return (
        lambda: step(
            ours, lambda: set_loss(ours(images[:, :, None]), targets, LOSS, "softmax").total
        ),
        lambda: step(theirs, lambda: theirs(images, labels=labels).loss),
    )


def take_turns(ours: Work, theirs: Work, repeats: int) -> dict[str, float]:
    """Median milliseconds of each side, and the median ratio of neighbouring runs."""
    for work in (ours, theirs):
        work()
    times: list[list[float]] = [[], []]
    for _ in range(repeats):
        for side, work in enumerate((ours, theirs)):
            start = time.perf_counter()
            work()
            times[side].append(1e3 * (time.perf_counter() - start))
    ratios = [mine / other for mine, other in zip(*times, strict=True)]
    return {
        "ours_ms": round(statistics.median(times[0]), 2),
        "theirs_ms": round(statistics.median(times[1]), 2),
        "ratio": round(statistics.median(ratios), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--tokens", type=int, nargs="*", default=(64, 256, 1024))
    parser.add_argument("--image", type=int, default=256, help="side in pixels; 0 skips it")
    parser.add_argument("--depths", type=int, nargs=4, default=(3, 4, 6, 3), help="of the ResNet")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    ours, theirs = build_ours(tuple(options.depths)), build_theirs(tuple(options.depths))
    same_tensors_train(ours, theirs)

    results = {}
    print("| | ours ms | Hugging Face ms | ratio |\n|---|---|---|---|")
    cases = [(f"{tokens} tokens", transformer_work, tokens) for tokens in options.tokens]
    if options.image:
        cases.append((f"whole model, {options.image} pixels", whole_work, options.image))
    for name, make, size in cases:
        for kind, batch in (("forward", 1), ("training step", 4)):
            training = kind != "forward"
            train_mode(ours, theirs, training)
            with torch.set_grad_enabled(training):
                pair = make(ours, theirs, size, batch, training)
                row = take_turns(*pair, options.repeats)
            results[f"{name}, {kind}, batch {batch}"] = row
            print(
                f"| {name}, {kind}, batch {batch} | {row['ours_ms']:.1f} | "
                f"{row['theirs_ms']:.1f} | {row['ratio']:.2f} |",
                flush=True,
            )
    print(json.dumps({"threads": options.threads, "repeats": options.repeats, "cases": results}))


if __name__ == "__main__":
    main()
