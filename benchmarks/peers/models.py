"""The peers, built from their authors' sizes alone and exported: no weights are downloaded.

ultralytics is AGPL-3.0: it is imported in this folder only, and never by the package sonodetr.
"""

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# Before any import of them: ultralytics neither installs nor downloads anything, and the checks
# inside transformers' graphs, which the ONNX exporter cannot express, are left out.
os.environ |= {"YOLO_AUTOINSTALL": "False", "YOLO_OFFLINE": "True", "YOLO_VERBOSE": "False"}
os.environ |= {"TRANSFORMERS_DISABLE_TORCH_CHECK": "1"}
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())

import numpy as np
import torch
from torch import Tensor, nn

from sonodetr.files import whole_file

# torchvision's operators are compiled for another build of torch ("operator torchvision::nms does
# not exist"), but with their schemas defined first it imports, and with it ultralytics.
_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


@dataclass(frozen=True)
class Peer:
    """A detector that a user would pick instead.

    Attributes:
        title: its name in tables.
        build: (number of classes, input side in pixels) -> the network with random weights.
        published: (parameters in millions, classes, input side) as its authors give them.
        answer: what its graph gives, see `answers.py`.
    """

    title: str
    build: Callable[[int, int], nn.Module]
    published: tuple[float, int, int]
    answer: str


def _yolo(size: str, classes: int, side: int) -> nn.Module:
    from ultralytics.nn.tasks import DetectionModel

    return DetectionModel(f"{size}.yaml", nc=classes, verbose=False)


def _dfine_n(classes: int, side: int) -> nn.Module:
    from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config

    backbone = HGNetV2Config(
        stem_channels=[3, 16, 16],
        stage_in_channels=[16, 64, 256, 512],
        stage_mid_channels=[16, 32, 64, 128],
        stage_out_channels=[64, 256, 512, 1024],
        stage_num_blocks=[1, 1, 2, 1],
        stage_numb_of_layers=[3, 3, 3, 3],
        stage_downsample=[False, True, True, True],
        stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 5, 5],
        hidden_sizes=[64, 256, 512, 1024],
        use_learnable_affine_block=True,
        out_indices=[3, 4],
    )
    config = DFineConfig(
        backbone_config=backbone,
        freeze_backbone_batch_norms=False,
        num_labels=classes,
        num_queries=min(300, _cells(side, 16, 32)),
        feat_strides=[16, 32],
        num_feature_levels=2,
        encoder_in_channels=[512, 1024],
        encode_proj_layers=[1],
        d_model=128,
        encoder_hidden_dim=128,
        encoder_ffn_dim=512,
        decoder_in_channels=[128, 128],
        decoder_ffn_dim=512,
        decoder_layers=3,
        decoder_n_points=[6, 6],
        hidden_expansion=0.34,
        depth_mult=0.5,
    )
    return DFineForObjectDetection(config)


def _rtdetr_r18(classes: int, side: int) -> nn.Module:
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_indices=[2, 3, 4],
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        freeze_backbone_batch_norms=False,
        num_labels=classes,
        num_queries=min(300, _cells(side, 8, 16, 32)),
        encoder_in_channels=[128, 256, 512],
        hidden_expansion=0.5,
        decoder_layers=3,
    )
    return RTDetrForObjectDetection(config)


def _detr_r50(classes: int, side: int) -> nn.Module:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(out_features=["stage4"])
    return DetrForObjectDetection(DetrConfig(backbone_config=backbone, num_labels=classes))


def _rfdetr_n(classes: int, side: int) -> nn.Module:
    from transformers import RfDetrConfig, RfDetrForObjectDetection

    backbone = {
        "model_type": "rf_detr_dinov2",
        "image_size": side,
        "hidden_size": 384,
        "num_attention_heads": 6,
        "num_hidden_layers": 12,
        "patch_size": 16,
        "num_windows": 2,
        "out_features": ["stage3", "stage6", "stage9", "stage12"],
    }
    config = RfDetrConfig(
        backbone_config=backbone,
        num_labels=classes,
        num_queries=min(300, _cells(side, 16)),
        decoder_layers=2,
        decoder_n_points=2,
    )
    return RfDetrForObjectDetection(config)


def _cells(side: int, *strides: int) -> int:
    """Cells of all feature maps: small inputs have fewer than the published number of queries."""
    return sum((side // stride) ** 2 for stride in strides)


# Parameters as published: ultralytics' tables and yaml files, the model zoos of D-FINE, RT-DETR,
# DETR and RF-DETR (transformers' own checkpoint of D-FINE-N says 3.8 where its zoo says 4).
PEERS = {
    "yolo11n": Peer("YOLO11n", partial(_yolo, "yolo11n"), (2.6, 80, 640), "yolo"),
    "yolo26n": Peer("YOLO26n", partial(_yolo, "yolo26n"), (2.57, 80, 640), "yolo"),
    "yolo26n-free": Peer(
        "YOLO26n, NMS-free", partial(_yolo, "yolo26n"), (2.57, 80, 640), "end to end"
    ),
    "dfine-n": Peer("D-FINE-N", _dfine_n, (3.8, 80, 640), "sigmoid"),
    "rtdetr-r18": Peer("RT-DETR-R18", _rtdetr_r18, (20, 80, 640), "sigmoid"),
    "detr-r50": Peer("DETR-R50", _detr_r50, (41, 91, 640), "softmax"),
    "rfdetr-n": Peer("RF-DETR-N", _rfdetr_n, (30.5, 91, 384), "sigmoid"),
}


def parameters(model: nn.Module) -> int:
    """Numbers that are trained, or were before the backbone was frozen."""
    return sum(parameter.numel() for parameter in model.parameters())


def check_published(name: str) -> None:
    """Assert that the peer is as large as its authors say: the same layers and channels."""
    millions, classes, side = PEERS[name].published
    built = parameters(PEERS[name].build(classes, side)) / 1e6
    assert abs(built / millions - 1) < 0.025, f"{name}: {built:.2f} M, published {millions} M"


def export(name: str, side: int, folder: Path) -> Path:
    """The peer for one class as an ONNX file with input [1, 3, side, side] in 0..1; kept if there.

    YOLO goes through ultralytics' own exporter, the others through torch's, with their
    re-parameterised blocks fused as their authors do when they deploy.
    """
    path = folder.resolve() / f"{name}-{side}.onnx"  # its export changes the working folder
    if path.is_file():
        return path
    check_published(name)
    torch.manual_seed(0)
    model = PEERS[name].build(1, side).eval()
    with whole_file(path) as part:
        if name.startswith("yolo"):
            _export_yolo(name, model, side, part)
        else:
            _export_detr(model, side, part)
    return path


def _export_yolo(name: str, model: nn.Module, side: int, path: Path) -> None:
    from ultralytics import YOLO

    size = name.removesuffix("-free")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        peer = YOLO(f"{size}.yaml", verbose=False)
        model.args, model.task = peer.model.args, peer.task  # which the exporter asks for
        peer.model = model
        nms = False if name.endswith("-free") else None
        file = peer.export(format="onnx", imgsz=side, device="cpu", nms=nms, verbose=False)
        shutil.move(file, path)


class _Plain(nn.Module):
    """Takes and gives tensors only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        answer: Any = self.model(pixel_values=images)
        return answer.logits, answer.pred_boxes


def _export_detr(model: nn.Module, side: int, path: Path) -> None:
    import onnxruntime

    images = torch.rand(1, 3, side, side)
    with torch.inference_mode():
        before = _Plain(model)(images)
    plain = _Plain(_fused(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(plain, (images,), dynamo=True, verbose=False)
    assert program is not None
    program.optimize()
    program.save(path)
    session = onnxruntime.InferenceSession(path)
    after = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    for torch_gave, graph_gives in zip(before, after, strict=True):
        # Random weights score queries nearly alike, so that rounding may change their order.
        difference = np.abs(np.sort(torch_gave.numpy(), 1) - np.sort(graph_gives, 1)).max()
        assert difference < 1e-3, f"{path.name}: the graph differs from torch by {difference}"


def _fused(model: nn.Module) -> nn.Module:
    """With every RepVGG block (3 x 3 plus 1 x 1, each normalised) as one convolution."""
    for module in list(model.modules()):
        if type(module).__name__ in ("DFineRepVggBlock", "RTDetrRepVggBlock"):
            large, small = (
                nn.utils.fuse_conv_bn_eval(branch.conv, branch.norm)
                for branch in (module.conv1, module.conv2)
            )
            large.weight.data += nn.functional.pad(small.weight.data, (1, 1, 1, 1))
            large.bias.data += small.bias.data
            module.conv1, module.conv2 = large, _Nothing()
    return model


class _Nothing(nn.Module):
    def forward(self, x: Tensor) -> float:
        return 0.0
