"""Tiny random detectors of transformers, saved as a user would have them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
CLASSES = ("nerve", "vessel", "needle", "bone", "bowel")


def _backbone(transformers: Any, *, pyramid: bool) -> dict[str, Any]:
    name = "RTDetrResNetConfig" if pyramid else "ResNetConfig"
    config = getattr(transformers, name)(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"] if pyramid else ["stage4"],
    )
    return {"backbone_config": config}


def config_of(family: str, **changes: Any) -> Any:
    """A tiny config: 2 encoder heads, 3 decoder heads, 7 queries; other numbers differ too."""
    transformers = pytest.importorskip("transformers", reason="needs sonodetr[huggingface]")
    from transformers import CONFIG_MAPPING

    layers = {"encoder_layers": 2, "decoder_layers": 3}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 3}
    width = {"encoder_ffn_dim": 19, "decoder_ffn_dim": 23, "num_queries": 7}
    match family:
        case "yolos":
            values = {
                **{"hidden_size": 24, "intermediate_size": 19, "num_attention_heads": 2},
                **{"num_hidden_layers": 3, "num_detection_tokens": 7, "patch_size": 13},
                **{"image_size": [39, 65], "use_mid_position_embeddings": True},
            }
        case "rt_detr" | "rt_detr_v2" | "d_fine" | "deimv2":
            values = {
                **{"encoder_hidden_dim": 24, "decoder_in_channels": [24, 24, 24], "d_model": 24},
                **{"encoder_in_channels": [8, 16, 16], "num_denoising": 0},
                **_backbone(transformers, pyramid=True),
            }
            if family in ("d_fine", "deimv2"):
                values["decoder_n_points"] = [2, 2, 2]
            values |= layers | heads | width
        case _:
            dim = "hidden_size" if family == "dab-detr" else "d_model"
            values = {dim: 24, "use_timm_backbone": False} | layers | heads | width
            values |= _backbone(transformers, pyramid=False)
    labels = dict(enumerate(CLASSES))
    return CONFIG_MAPPING[family](id2label=labels, **(values | changes))


def saved_detector(folder: Path, family: str, **changes: Any) -> Any:
    """A model of random weights that differ enough from token to token, in `folder` and in memory;
    its pictures are normalised with `MEAN` and `STD`."""
    torch.manual_seed(0)
    from transformers import AutoModelForObjectDetection

    model = AutoModelForObjectDetection.from_config(config_of(family, **changes)).eval()
    # The usual start values are too small to tell one token or query from another.
    for name, parameter in model.named_parameters():
        if parameter.dim() == 4:
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="linear")
        elif parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1 if ".encoder." in name else 0.3)
    model.save_pretrained(folder)
    values = {"do_normalize": True, "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return model


def normalised(frames: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))
    return (frames - mean) / std
