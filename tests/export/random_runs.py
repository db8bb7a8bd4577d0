"""Run folders with very small models of every shape, that never learned anything."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sonodetr.config import Config
from sonodetr.config_file import dump_config, parse_config
from sonodetr.files import write_json, write_text
from sonodetr.model.detr import DETR
from sonodetr.training.run import RunInfo, provenance, save_info, save_weights

CLASSES = ("nerve", "vessel")
COMPACT = {"name": "compact", "width": 8, "depths": [1, 1, 1, 1]}
RESNET = {"name": "resnet", "width": 8, "depths": [1, 1, 2, 1], "bottleneck": True}
EFFICIENTNET = {"name": "efficientnet_lite0"}

ANCHOR = {"points": True}
LEARNED = {"queries": "learned", "classification": "softmax"}
# Format, backbone, model, data: every kind of each at least once.
KINDS = {
    "compact-onnx": ("onnx", COMPACT, ANCHOR, {}),
    "compact-openvino": ("openvino", COMPACT, ANCHOR, {}),
    "resnet-colour": ("onnx", RESNET, LEARNED, {"channels": 3}),
    "efficientnet": ("openvino", EFFICIENTNET, LEARNED, {"clip_frames": 2}),
    "mixing": ("onnx", {"temporal": "mixing"}, ANCHOR, {"clip_frames": 3, "clip_step": 2}),
    "factorised": (
        *("openvino", COMPACT | {"temporal": "factorised"}),
        *({"classification": "softmax"}, {"clip_frames": 2}),
    ),
}
SPLIT = ("efficientnet", "mixing")  # into one graph for a frame and one for a clip


def config_of(backbone: dict[str, Any], model: dict[str, Any], **data: Any) -> Config:
    shape = {
        **{"hidden_dim": 16, "num_heads": 2, "feedforward_dim": 19, "num_queries": 5},
        **{"encoder_layers": 1, "decoder_layers": 1, "backbone": {"stride": 32} | backbone},
    }
    return parse_config({"data": {"image_size": [64, 96]} | data, "model": shape | model})


def random_model(config: Config) -> DETR:
    """Every weight and running statistic at random, so that nothing is zero or one by chance."""
    torch.manual_seed(7)
    model = DETR(config.model, len(CLASSES), config.data.channels).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    for name, parameter in model.named_parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
        elif "class_head" in name:
            nn.init.normal_(parameter)
    return model


def write_run(folder: Path, config: Config, division: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True)
    write_text(folder / "config.yaml", dump_config(config))
    save_weights(folder / "model.safetensors", random_model(config).state_dict())
    facts = RunInfo(
        classes=CLASSES, threshold=0.25, step=3, validation={"ap": 0.5}, provenance=provenance(0)
    )
    save_info(folder, facts)
    if division is not None:
        write_json(folder / "split.json", division)
    return folder


def save_huggingface(folder: Path) -> dict[str, Any]:
    """A tiny ResNet of transformers, as the backbone's config."""
    transformers = pytest.importorskip("transformers", reason="needs sonodetr[huggingface]")
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8, 12, 20], depths=[1, 1, 1, 1], layer_type="basic"
    )
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    return {"name": "huggingface", "path": str(folder)}
