"""Weights from elsewhere give the same detections, or a line that says why not."""

import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sonodetr.config import BackboneConfig, ModelConfig
from sonodetr.files import InputError
from sonodetr.model.detr import DETR
from sonodetr.model.resnet import Block
from sonodetr.model.weights import load_huggingface_detr, load_matching, read_weights

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def huggingface_detr(folder: Path, layer_type: str, attention: str):
    """A tiny random detector with batch norm statistics that matter, saved to `folder`."""
    transformers = pytest.importorskip("transformers", reason="needs sonodetr[huggingface]")
    torch.manual_seed(0)
    factor = 4 if layer_type == "bottleneck" else 1
    config = transformers.DetrConfig(
        backbone_config=transformers.ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8 * factor, 16 * factor, 32 * factor, 64 * factor],
            depths=[1, 2, 1, 1],
            layer_type=layer_type,
            out_features=["stage4"],
        ),
        use_timm_backbone=False,
        d_model=48,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=3,
        decoder_attention_heads=3,
        encoder_ffn_dim=37,
        decoder_ffn_dim=37,
        num_queries=7,
        id2label={0: "nerve", 1: "vessel", 2: "needle", 3: "bone", 4: "bowel"},
        # Asked for by name, sdpa fails on the ResNet; left alone, transformers chooses it.
        attn_implementation="eager" if attention == "eager" else None,
    )
    model = transformers.DetrForObjectDetection(config).eval()
    for module in model.modules():
        if type(module).__name__ == "DetrFrozenBatchNorm2d":
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    for name, parameter in model.named_parameters():
        if "conv" not in name:  # start values are too small and biases zero: they would hide errors
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


def timm_name(name: str) -> str:
    """The name that the first published checkpoints use for a backbone's tensor."""
    prefix = "model.backbone.conv_encoder.model."
    if not name.startswith(prefix):
        return name
    rest = name.removeprefix(prefix).replace("embedder.embedder.convolution", "conv1")
    rest = rest.replace("embedder.embedder.normalization", "bn1")
    rest = re.sub(r"encoder\.stages\.(\d)\.layers", lambda m: f"layer{int(m[1]) + 1}", rest)
    rest = re.sub(r"layer\.(\d)\.convolution", lambda m: f"conv{int(m[1]) + 1}", rest)
    rest = re.sub(r"layer\.(\d)\.normalization", lambda m: f"bn{int(m[1]) + 1}", rest)
    rest = rest.replace("shortcut.convolution", "downsample.0")
    return prefix + rest.replace("shortcut.normalization", "downsample.1")


@pytest.mark.parametrize(
    ("layer_type", "attention"),
    [("bottleneck", "eager"), ("bottleneck", "sdpa"), ("basic", "sdpa")],
)
def test_huggingface_detr_gives_the_same_detections(
    tmp_path: Path, layer_type: str, attention: str
) -> None:
    theirs = huggingface_detr(tmp_path, layer_type, attention)
    assert theirs.model.config._attn_implementation == attention
    ours, names = load_huggingface_detr(tmp_path)
    assert names == ("nerve", "vessel", "needle", "bone", "bowel")
    assert not ours.training
    images = torch.rand(2, 3, 130, 190)  # not square, and no multiple of the stride
    with torch.no_grad():
        expected = theirs((images - MEAN) / STD)
        given = ours(images[:, :, None])
    assert given.logits.shape == (2, 2, 7, 6)
    assert expected.logits.std() > 0.5  # the answers differ from query to query
    torch.testing.assert_close(given.logits[-1], expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(given.boxes_cxcywh[-1], expected.pred_boxes, atol=1e-5, rtol=1e-5)


def test_timm_and_in_memory_names_mean_the_same(tmp_path: Path) -> None:
    theirs = huggingface_detr(tmp_path, "bottleneck", "sdpa")
    native = load_huggingface_detr(tmp_path)[0].state_dict()
    stored = load_file(tmp_path / "model.safetensors")
    for state in ({timm_name(k): v for k, v in stored.items()}, theirs.state_dict()):
        assert state.keys() != stored.keys()
        save_file(dict(state), tmp_path / "model.safetensors")
        again = load_huggingface_detr(tmp_path)[0].state_dict()
        assert all(torch.equal(again[name], native[name]) for name in native)


def test_published_resnet_50_config(tmp_path: Path) -> None:
    """The keys of the first published configs, which leave the backbone to timm's name."""
    pytest.importorskip("transformers")
    from sonodetr.model import weights

    config = {"model_type": "detr", "backbone": "resnet50", "use_timm_backbone": True}
    settings = weights._Settings.model_validate(config)
    backbone = weights._backbone_config(tmp_path, settings)
    model = weights._model_config(tmp_path, settings, backbone)
    expected = BackboneConfig(
        name="resnet", width=64, depths=(3, 4, 6, 3), bottleneck=True, stride=32
    )
    assert backbone == expected
    with torch.device("meta"):
        detr = DETR(model, num_classes=91, channels=3)
    # What transformers counts in DetrForObjectDetection(DetrConfig(id2label of 91)), whose batch
    # norms do not train, and those 53,120 scales and offsets.
    count = sum(parameter.numel() for parameter in detr.parameters())
    assert count == 41_524_768 + 53_120
    assert isinstance(detr.backbone.network.layer1[0], Block)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dilation": True}, "dilation: True"),
        ({"model_type": "conditional_detr"}, "model_type: 'conditional_detr'"),
        ({"position_embedding_type": "learned"}, "position_embedding_type: 'learned'"),
        (
            {"decoder_ffn_dim": 41},
            r"encoder_ffn_dim and decoder_ffn_dim must be equal, not \[37, 41\]",
        ),
        ({"backbone_config": None, "backbone": "resnet49"}, "did you mean 'resnet34'"),
        ({"num_queries": 11}, r"query_position_embeddings.weight has the shape \(7, 48\)"),
        ({"encoder_layers": 2}, r"no tensor for encoder\.1\..* \(0 unknown, 14 missing\)"),
    ],
)
def test_unfit_config_is_named(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    huggingface_detr(tmp_path, "basic", "sdpa")
    edit(tmp_path / "config.json", **changes)
    with pytest.raises(InputError, match=words) as error:
        load_huggingface_detr(tmp_path)
    assert "\n" not in str(error.value)


def test_superfluous_tensor_is_named(tmp_path: Path) -> None:
    huggingface_detr(tmp_path, "basic", "sdpa")
    path = tmp_path / "model.safetensors"
    save_file(load_file(path) | {"mask_head.lay1.weight": torch.ones(3)}, path)
    with pytest.raises(InputError, match=r"unknown tensor mask_head\.lay1\.weight"):
        load_huggingface_detr(tmp_path)


def test_pickled_missing_and_truncated_weights(tmp_path: Path) -> None:
    huggingface_detr(tmp_path, "basic", "sdpa")
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_huggingface_detr(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"model\.safetensors: no such file"):
        load_huggingface_detr(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InputError, match=r"pickled checkpoint can run code.*convert it"):
        load_huggingface_detr(tmp_path)


class Trap:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.safetensors"])
def test_no_pickle_is_ever_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError):
        read_weights(tmp_path / name)


def small(num_classes: int, **changes: object) -> DETR:
    config = ModelConfig(
        backbone=BackboneConfig(width=8),
        hidden_dim=32,
        num_heads=2,
        encoder_layers=1,
        decoder_layers=1,
        feedforward_dim=17,
        num_queries=5,
        **changes,
    )
    return DETR(config, num_classes)


def test_class_head_is_new_when_classes_differ(tmp_path: Path) -> None:
    old, new = small(2), small(3)
    heads = ("dense_head.class_head.2", "class_head")
    fresh = [new.get_parameter(f"{head}.weight").clone() for head in heads]
    state = {name: tensor.contiguous() for name, tensor in old.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    line = load_matching(new, read_weights(tmp_path))
    total = len(old.state_dict())
    first, second = (f"{head} (2 -> 3)" for head in heads)
    assert line == f"taken over {total - 4} of {total} tensors; new: {first}, {second}"
    for head, weight in zip(heads, fresh, strict=True):
        assert torch.equal(new.get_parameter(f"{head}.weight"), weight)
    assert torch.equal(new.refinements[0][0].weight, old.refinements[0][0].weight)
    stem = "backbone.network.stem.0.1.running_mean"
    assert torch.equal(new.state_dict()[stem], old.state_dict()[stem])


def test_equal_models_are_taken_over_whole() -> None:
    old, new = small(2), small(2)
    total = len(old.state_dict())
    assert load_matching(new, old.state_dict()) == f"taken over {total} of {total} tensors"
    assert all(torch.equal(a, b) for a, b in zip(new.parameters(), old.parameters(), strict=True))


def test_nothing_fits() -> None:
    state: dict[str, Tensor] = {"weight": torch.ones(3)}
    with pytest.raises(InputError, match="none of the 1 tensors fits"):
        load_matching(small(2), state)


def test_fine_tuning_from_huggingface(tmp_path: Path) -> None:
    """A folder of Hugging Face serves as start of a detector with other queries and classes."""
    huggingface_detr(tmp_path, "basic", "sdpa")
    config = load_huggingface_detr(tmp_path)[0].config
    model = DETR(config.model_copy(update={"num_queries": 11}), 2, channels=3)
    line = load_matching(model, read_weights(tmp_path))
    assert line.endswith("new: queries (7 -> 11), class_head (6 -> 3)")
