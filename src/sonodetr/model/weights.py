"""Weights from elsewhere: earlier runs, and DETR as Hugging Face publishes it. safetensors only."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, PositiveInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sonodetr.config import BackboneConfig, ModelConfig
from sonodetr.files import InputError, closest, existing_file, read_json
from sonodetr.model.detr import DETR


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors by name from a `.safetensors` file, a run folder, or a Hugging Face DETR's folder.

    Raises:
        InputError: nothing usable lies there, or the file is pickled or not whole.
    """
    source = Path(path)
    if not source.is_dir():
        return read_safetensors(source)
    if (source / "config.json").is_file():
        return load_huggingface_detr(source)[0].state_dict()
    return read_safetensors(source / "model.safetensors")


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors by name from one file.

    Raises:
        InputError: the file is missing, empty, pickled, or not whole.
    """
    source = existing_file(path)
    if source.suffix != ".safetensors":
        raise InputError(
            f"{source}: weights must be .safetensors, since a pickled checkpoint can run code when "
            "opened; convert it: safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
            "'model.safetensors')"
        )
    try:
        return load_file(source)
    except SafetensorError as error:
        raise InputError(
            f"{source}: not a whole safetensors file ({error}); copy it again"
        ) from error


def load_matching(model: DETR, state: dict[str, Tensor]) -> str:
    """Take over every tensor of equal name and shape; the rest of `model` keeps its start values.

    So a detector for other classes, or with another number of queries, starts from an earlier one.

    Returns:
        One line that says what was taken over and which parts are new.

    Raises:
        InputError: no tensor fits.

    >>> old = DETR(ModelConfig(), num_classes=2)
    >>> load_matching(DETR(ModelConfig(), num_classes=3), old.state_dict()).split("; ")[1]
    'new: dense_head.class_head.2 (2 -> 3), class_head (2 -> 3)'
    """
    own = model.state_dict()
    taken = {
        name: state[name]
        for name, tensor in own.items()
        if name in state and state[name].shape == tensor.shape
    }
    if not taken:
        raise InputError(
            f"none of the {len(state)} tensors fits the model; compare the model section of the "
            "config with the one the weights were trained with"
        )
    model.load_state_dict(taken, strict=False)
    new: dict[str, str] = {}
    for name, tensor in own.items():
        if name not in taken:
            given, part = state.get(name), ".".join(name.split(".")[:-1]) or name
            new.setdefault(part, f" ({len(given)} -> {len(tensor)})" if given is not None else "")
    parts = [part + change for part, change in new.items()]
    more = f" and {len(parts) - 8} more" if len(parts) > 8 else ""
    line = f"taken over {len(taken)} of {len(own)} tensors"
    return f"{line}; new: {', '.join(parts[:8])}{more}" if parts else line


class _ResNetSettings(BaseModel):
    """`backbone_config` of a Hugging Face DETR, with the values a file may leave out."""

    model_type: Literal["resnet"]
    embedding_size: PositiveInt = 64
    hidden_sizes: tuple[PositiveInt, ...] = (256, 512, 1024, 2048)
    depths: tuple[PositiveInt, ...] = (3, 4, 6, 3)
    layer_type: Literal["basic", "bottleneck"] = "bottleneck"
    hidden_act: Literal["relu"] = "relu"
    downsample_in_first_stage: Literal[False] = False
    downsample_in_bottleneck: Literal[False] = False


class _Settings(BaseModel):
    """`config.json` of a Hugging Face DETR; a fixed value is one our model has no choice about."""

    model_type: Literal["detr"]
    d_model: PositiveInt = 256
    encoder_layers: int = 6
    decoder_layers: PositiveInt = 6
    encoder_attention_heads: PositiveInt = 8
    decoder_attention_heads: PositiveInt = 8
    encoder_ffn_dim: PositiveInt = 2048
    decoder_ffn_dim: PositiveInt = 2048
    num_queries: PositiveInt = 100
    dropout: float = 0.1
    activation_function: Literal["relu"] = "relu"
    position_embedding_type: Literal["sine"] = "sine"
    dilation: Literal[False] = False
    num_channels: Literal[3] = 3
    backbone: str | None = "resnet50"
    backbone_config: dict[str, object] | None = None
    id2label: dict[int, str] = {}


# Depths and bottlenecks of the networks that timm-style checkpoints name.
_TIMM = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}


def _from_one(name: str) -> Callable[[re.Match[str]], str]:
    """A replacement that counts from 1 where the pattern counts from 0."""
    return lambda found: f"{name}{int(found[1]) + 1}."


# Hugging Face's names -> ours, applied in this order. Files hold `conv_encoder`, `out_proj`, `fc1`;
# transformers 5 calls the same tensors in memory `backbone.model`, `o_proj`, `mlp.fc1`.
_RENAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^model\.backbone\.(conv_encoder\.)?model\.", "backbone.network."),
    (r"embedder\.embedder\.convolution\.", "conv1."),
    (r"embedder\.embedder\.normalization\.", "bn1."),
    (r"encoder\.stages\.(\d+)\.layers\.", _from_one("layer")),
    (r"(?<=\d\.)layer\.(\d+)\.convolution\.", _from_one("conv")),
    (r"(?<=\d\.)layer\.(\d+)\.normalization\.", _from_one("bn")),
    (r"shortcut\.convolution\.", "downsample.0."),
    (r"shortcut\.normalization\.", "downsample.1."),
    (r"^model\.((en|de)coder)\.layers\.", r"\1."),
    (r"^(encoder\.\d+)\.self_attn\.", r"\1.attention."),
    (r"^(encoder\.\d+)\.self_attn_layer_norm\.", r"\1.norm."),
    (r"\.self_attn\.", ".self_attention."),
    (r"\.self_attn_layer_norm\.", ".self_norm."),
    (r"\.encoder_attn\.", ".cross_attention."),
    (r"\.encoder_attn_layer_norm\.", ".cross_norm."),
    (r"\.q_proj\.", ".query."),
    (r"\.k_proj\.", ".key."),
    (r"\.v_proj\.", ".value."),
    (r"\.(out|o)_proj\.", ".output."),
    (r"\.(mlp\.)?fc1\.", ".feedforward.expand."),
    (r"\.(mlp\.)?fc2\.", ".feedforward.contract."),
    (r"\.final_layer_norm\.", ".feedforward.norm."),
    (r"^model\.decoder\.layernorm\.", "decoder_norm."),
    (r"^model\.query_position_embeddings\.", "queries."),
    (r"^model\.input_projection\.", "projection."),
    (r"^class_labels_classifier\.", "class_head."),
    (
        r"^bbox_predictor\.layers\.(\d)\.",
        lambda found: f"box_head.{2 * int(found[1])}.",
    ),  # ReLUs between
)


def load_huggingface_detr(folder: str | os.PathLike[str]) -> tuple[DETR, tuple[str, ...]]:
    """Our DETR with the weights of a Hugging Face `DetrForObjectDetection`, and its class names.

    Logits and boxes equal the original's (tests/model/test_weights.py). It wants colour images.

    Args:
        folder: holds `config.json` and `model.safetensors`, the backbone named as in transformers
            (`encoder.stages.0`) or as in timm (`layer1.0`).

    Raises:
        InputError: a file is missing or not whole; the config asks for what DETR here does not do;
            or a tensor is missing, superfluous (it is named), or of another shape.
    """
    source = Path(folder)
    path = source / "config.json"
    try:
        settings = _Settings.model_validate(read_json(path))
        backbone = _backbone_config(path, settings)
        config = _model_config(path, settings, backbone)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        given = f"{key}: {first['input']!r}" if key else "this config"
        raise InputError(
            f"{path}: {given} cannot be taken over ({first['msg']}); "
            "a DetrForObjectDetection with a plain ResNet is needed"
        ) from None
    weights = source / "model.safetensors"
    if not weights.is_file() and (source / "pytorch_model.bin").is_file():
        weights = source / "pytorch_model.bin"  # refused, with advice
    stored = read_safetensors(weights)
    if "class_labels_classifier.bias" not in stored:
        raise InputError(f"{weights}: lacks class_labels_classifier.bias, so it is not a detector")
    num_classes = len(stored["class_labels_classifier.bias"]) - 1
    model = DETR(config, num_classes, channels=3)
    model.load_state_dict(_translate(weights, stored, model.state_dict()))
    names = (settings.id2label.get(index, f"LABEL_{index}") for index in range(num_classes))
    return model.eval(), tuple(names)


def _backbone_config(path: Path, settings: _Settings) -> BackboneConfig:
    given = settings.backbone_config
    if given is not None and given.get("model_type") == "resnet":
        resnet = _ResNetSettings.model_validate(given)
        bottleneck, width = resnet.layer_type == "bottleneck", resnet.embedding_size
        sizes = tuple(width * (4 if bottleneck else 1) * 2**stage for stage in range(4))
        if resnet.hidden_sizes != sizes:
            raise InputError(
                f"{path}: a ResNet with hidden_sizes {resnet.hidden_sizes} cannot be taken over; "
                f"with embedding_size {width} they must be {sizes}"
            )
        depths = resnet.depths
    else:
        name = str(given["backbone"]) if given and "backbone" in given else settings.backbone
        if name not in _TIMM:
            raise InputError(
                f"{path}: backbone {name!r} cannot be taken over; {closest(str(name), _TIMM)}"
            )
        width, (depths, bottleneck) = 64, _TIMM[name]
    return BackboneConfig(
        name="resnet", width=width, depths=depths, bottleneck=bottleneck, stride=32
    )


def _model_config(path: Path, settings: _Settings, backbone: BackboneConfig) -> ModelConfig:
    for part in ("attention_heads", "ffn_dim"):
        pair = [getattr(settings, f"{side}_{part}") for side in ("encoder", "decoder")]
        if pair[0] != pair[1]:
            raise InputError(f"{path}: encoder_{part} and decoder_{part} must be equal, not {pair}")
    return ModelConfig(
        backbone=backbone,
        hidden_dim=settings.d_model,
        num_heads=settings.encoder_attention_heads,
        encoder_layers=settings.encoder_layers,
        decoder_layers=settings.decoder_layers,
        feedforward_dim=settings.encoder_ffn_dim,
        dropout=settings.dropout,
        queries="learned",
        num_queries=settings.num_queries,
        classification="softmax",
    )


def _rename(name: str) -> str:
    """Our name for one of Hugging Face's tensors."""
    for pattern, ours in _RENAMES:
        name = re.sub(pattern, ours, name)
    return name


def _translate(path: Path, stored: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """`stored` under our names; every tensor must find its place, and every place its tensor."""
    counter = "num_batches_tracked"  # no weight: batch norm does not use it at a fixed momentum
    state = {name: tensor for name, tensor in own.items() if name.endswith(counter)}
    origin: dict[str, str] = {}
    for theirs, tensor in stored.items():
        if not theirs.endswith(counter):
            ours = _rename(theirs)
            origin[ours], state[ours] = theirs, tensor
    for name in own:
        if ".query_key." in name:  # queries and keys of self-attention come from one product here
            parts = [name.replace("query_key", part) for part in ("query", "key")]
            if all(part in state for part in parts):
                state[name] = torch.cat([state.pop(part) for part in parts])
                origin[name] = origin[parts[0]]
    unknown, missing = sorted(state.keys() - own.keys()), sorted(own.keys() - state.keys())
    if unknown or missing:
        what = (
            f"an unknown tensor {origin[unknown[0]]}" if unknown else f"no tensor for {missing[0]}"
        )
        raise InputError(
            f"{path}: has {what} ({len(unknown)} unknown, {len(missing)} missing); "
            "a DetrForObjectDetection that fits its config.json is needed"
        )
    for name, tensor in own.items():
        if state[name].shape != tensor.shape:
            raise InputError(
                f"{path}: {origin[name]} has the shape {tuple(state[name].shape)}, but config.json "
                f"asks for {tuple(tensor.shape)}"
            )
    return state
