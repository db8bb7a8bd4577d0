"""Detectors of transformers teach what they answer themselves, on the grid they look at."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from detectors import CLASSES, config_of, normalised, saved_detector

from sonodetr.distill.huggingface_teacher import HuggingFaceTeacher, _grid, open_huggingface
from sonodetr.distill.teachers import AttentionShape, Teacher
from sonodetr.files import InputError
from sonodetr.model.detr import Capture
from sonodetr.model.tensors import Grid
from sonodetr.model.weights import load_huggingface_detr
from sonodetr.training.teachers import open_teacher

# Family -> layers, heads, size of the pictures (rounded up where the family does), grid, scores
DENSE = ((2, 3, 3), (2, 3, 3), (200, 330), (7, 11))
PYRAMID = ((2, 3, 0), (2, 3, 0), (224, 352), (7, 11))
FAMILIES = {
    "detr": (*DENSE, "softmax"),
    "table-transformer": (*DENSE, "softmax"),
    "conditional_detr": (*DENSE, "focal"),
    "dab-detr": (*DENSE, "focal"),
    "rt_detr": (*PYRAMID, "focal"),
    "rt_detr_v2": (*PYRAMID, "focal"),
    "d_fine": (*PYRAMID, "focal"),
    "deimv2": (*PYRAMID, "focal"),
    "yolos": ((3, 0, 0), (2, 0, 0), (92, 148), (7, 11), "softmax"),
}


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory):
    """A saved tiny model of a family, its folder, and the teacher made from it; once each."""
    made: dict[str, tuple[Any, Path, HuggingFaceTeacher]] = {}

    def make(family: str) -> tuple[Any, Path, HuggingFaceTeacher]:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            model = saved_detector(folder, family)
            made[family] = (model, folder, open_huggingface(folder))
        return made[family]

    return make


def everything(teacher: Teacher) -> Capture:
    return Capture(*(tuple(range(count)) for count in teacher.layers))


@pytest.mark.parametrize("family", FAMILIES)
def test_teaches_what_transformers_answers(family: str, detector) -> None:
    model, _, teacher = detector(family)
    layers, heads, size, grid, classification = FAMILIES[family]
    assert isinstance(teacher, Teacher)
    assert (teacher.layers, teacher.heads) == (layers, heads)
    assert (teacher.classes, teacher.classification) == (CLASSES, classification)
    assert (teacher.clip_frames, teacher.clip_step, teacher.image_size) == (1, 1, None)
    clips = torch.rand(2, 3, 4, *size)
    outputs = teacher(clips, everything(teacher))
    with torch.no_grad():
        expected = model(normalised(clips[:, :, -1]))
    num_logits = len(CLASSES) + (classification == "softmax")
    assert outputs.logits.shape[1:] == (2, 7, num_logits)
    assert expected.logits.std(dim=1).max() > 0.003  # answers differ from query to query
    torch.testing.assert_close(outputs.logits[-1], expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs.boxes_cxcywh[-1], expected.pred_boxes, atol=1e-5, rtol=1e-5)
    assert outputs.grid == Grid(1, *grid)
    assert outputs.memory.shape == (2, grid[0] * grid[1], 24)
    assert outputs.queries.shape == (2, 7, 24)
    assert outputs.queries.std(dim=1).max() > 1e-5  # queries differ from each other
    assert not outputs.logits.requires_grad
    assert not outputs.logits.is_inference()  # may enter a loss


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_are_probabilities_over_the_grid(family: str, detector) -> None:
    _, _, teacher = detector(family)
    _, heads, size, (height, width), _ = FAMILIES[family]
    maps = teacher(torch.rand(2, 1, 1, *size), everything(teacher)).attention
    shapes = AttentionShape((height * width,) * 2, (7, 7), (7, height * width))
    for kind, layers, count in zip(AttentionShape._fields, teacher.layers, heads, strict=True):
        found = getattr(maps, kind)
        assert list(found) == list(range(layers))
        for layer in found.values():
            assert layer.shape == (2, count, *getattr(shapes, kind))
            assert layer.min() >= 0
            assert layer.std() > 1e-4  # not all the same
            torch.testing.assert_close(layer.sum(-1), torch.ones(layer.shape[:-1]))


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_run_along_the_width_first(family: str, detector) -> None:
    """A change of the picture's top, or left, changes the tokens there most, and the look there."""
    _, _, teacher = detector(family)
    cell_px = 13 if family == "yolos" else 32
    picture = torch.rand(1, 3, 1, 7 * cell_px, 11 * cell_px) * 0.1
    top, left = picture.clone(), picture.clone()
    top[..., : 2 * cell_px, :] += 0.9
    left[..., : 3 * cell_px] += 0.9
    before = teacher(picture, Capture(encoder=(0,)))
    for changed, cells, axis in ((top, 2, 0), (left, 3, 1)):
        after = teacher(changed, Capture(encoder=(0,)))
        tokens = (after.memory - before.memory)[0].norm(dim=-1)
        looks = (after.attention.encoder[0] - before.attention.encoder[0])[0].abs().sum((0, 1))
        for values, factor in ((tokens, 2), (looks, 1.3)):
            along = values.view(7, 11).mean(1 - axis)
            assert along[:cells].mean() > factor * along[-4:].mean()


def test_only_asked_layers_are_returned(detector) -> None:
    _, _, teacher = detector("conditional_detr")
    clips = torch.rand(1, 3, 1, 64, 64)
    maps = teacher(clips, Capture(encoder=(1,), cross=(2, 0))).attention
    assert (set(maps.encoder), set(maps.decoder), set(maps.cross)) == ({1}, set(), {0, 2})
    nothing = teacher(clips, Capture()).attention
    assert (nothing.encoder, nothing.decoder, nothing.cross) == ({}, {}, {})


def test_proposals_come_first_where_the_decoder_starts_from_them(detector) -> None:
    model, _, teacher = detector("rt_detr")
    clips = torch.rand(2, 3, 1, 96, 160)
    with torch.no_grad():
        expected = model(normalised(clips[:, :, 0]))
    outputs = teacher(clips, Capture())
    assert len(outputs.logits) == len(outputs.boxes_cxcywh) == 2
    torch.testing.assert_close(outputs.boxes_cxcywh[0], expected.enc_topk_bboxes)
    torch.testing.assert_close(outputs.logits[0], expected.enc_topk_logits)


def test_detr_shows_the_maps_of_our_detr(tmp_path: Path) -> None:
    """Two implementations of one model: layers, heads, rows and columns are in the same order."""
    changes = {"hidden_sizes": [8, 16, 32, 64]}
    config = config_of("detr").backbone_config.to_dict() | changes
    from transformers import ResNetConfig

    backbone = ResNetConfig(**{k: v for k, v in config.items() if k != "model_type"})
    saved_detector(
        tmp_path,
        "detr",
        backbone_config=backbone,
        encoder_attention_heads=3,
        encoder_ffn_dim=23,
    )
    values = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    teacher = open_huggingface(tmp_path)
    ours, names = load_huggingface_detr(tmp_path)
    clips, capture = torch.rand(2, 3, 1, 90, 150), everything(teacher)
    with torch.no_grad():
        expected = ours(clips, capture)
    given = teacher(clips, capture)
    assert names == teacher.classes
    assert given.grid == expected.grid
    for field in ("memory", "queries"):
        torch.testing.assert_close(
            getattr(given, field), getattr(expected, field), atol=1e-5, rtol=1e-5
        )
    for kind in AttentionShape._fields:
        maps, references = getattr(given.attention, kind), getattr(expected.attention, kind)
        assert maps.keys() == references.keys()
        for number, reference in references.items():
            torch.testing.assert_close(maps[number], reference, atol=1e-5, rtol=1e-5)


def test_yolos_keeps_what_patches_see_in_patches(detector) -> None:
    model, _, teacher = detector("yolos")
    clips = torch.rand(1, 3, 1, 92, 148)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        whole = model(normalised(clips[:, :, 0]), output_attentions=True).attentions[1]
    kept = teacher(clips, Capture(encoder=(1,))).attention.encoder[1]
    assert whole.shape[-1] == 1 + 77 + 7
    row = whole[0, 1, 1 + 5, 1:78]  # head 1, patch 5
    torch.testing.assert_close(kept[0, 1, 5], row / row.sum())


def test_dab_detr_patterns_are_queries_of_their_own(tmp_path: Path) -> None:
    saved_detector(tmp_path, "dab-detr", num_patterns=2)
    outputs = open_huggingface(tmp_path)(torch.rand(1, 3, 1, 64, 64), Capture(cross=(0,)))
    assert outputs.queries.shape == (1, 14, 24)
    first, second = outputs.queries[0].split(7)
    torch.testing.assert_close(second - first, (second - first)[:1].expand(7, -1))


def test_grey_is_colour_and_only_the_last_frame_is_seen(detector) -> None:
    _, _, teacher = detector("detr")
    grey = torch.rand(1, 1, 2, 64, 64)
    given = teacher(grey, Capture()).logits
    colour = teacher(grey[:, :, 1:].repeat(1, 3, 1, 1, 1), Capture()).logits
    torch.testing.assert_close(given, colour)
    with pytest.raises(InputError, match=r"takes pictures with 3 channels, not 2"):
        teacher(torch.rand(1, 2, 1, 64, 64), Capture())


def test_grid_of_rounded_sizes() -> None:
    assert _grid(3 * 5, (90, 150)) == Grid(1, 3, 5)
    assert _grid(3 * 5, (65, 160)) == Grid(1, 3, 5)
    assert _grid(6 * 10, (90, 150)) == Grid(1, 6, 10)
    with pytest.raises(InputError, match=r"90 x 150 pixels .* 8 tokens, .*; make .* of 64$"):
        _grid(8, (90, 150))


def test_sizes_a_pyramid_cannot_take(detector, tmp_path: Path) -> None:
    _, _, teacher = detector("rt_detr")
    with pytest.raises(InputError, match=r"cannot see 90 x 160 pixels: .* multiples of 32"):
        teacher(torch.rand(1, 3, 1, 90, 160), Capture())
    saved_detector(tmp_path, "d_fine", num_queries=43)
    hungry = open_huggingface(tmp_path)
    hungry(torch.rand(1, 3, 1, 64, 96), Capture())  # 8 x 12 + 4 x 6 + 2 x 3 cells
    with pytest.raises(InputError, match=r"cannot see 32 x 64 pixels: .* at least 43 cells"):
        hungry(torch.rand(1, 3, 1, 32, 64), Capture())


def test_a_detector_of_one_size_says_so(tmp_path: Path) -> None:
    saved_detector(tmp_path, "rt_detr", anchor_image_size=[96, 160])
    teacher = open_huggingface(tmp_path)
    assert teacher.image_size == (96, 160)
    with pytest.raises(
        InputError, match=r"sees pictures of \[96, 160\] pixels, .*\[160, 96\]; set"
    ):
        teacher(torch.rand(1, 3, 1, 160, 96), Capture())


def test_fingerprint_follows_what_changes_the_outputs(detector, tmp_path: Path) -> None:
    _, folder, teacher = detector("detr")
    copy = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert open_huggingface(copy).fingerprint == teacher.fingerprint
    assert len(teacher.fingerprint) == 64
    seen = {teacher.fingerprint}
    for name, change in {
        "preprocessor_config.json": {"image_mean": [0.4, 0.5, 0.7]},
        "config.json": {"activation_function": "gelu"},
    }.items():
        path = copy / name
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        seen.add(open_huggingface(copy).fingerprint)
    assert len(seen) == 3


@pytest.mark.parametrize("family", ["deformable_detr", "grounding-dino", "lw_detr", "bert"])
def test_families_without_dense_attention_are_named(family: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(InputError, match=f"{family} has no dense attention.*use detr, ") as error:
        open_teacher(tmp_path)
    assert "\n" not in str(error.value)


def test_what_a_folder_lacks_is_named(detector, tmp_path: Path) -> None:
    _, folder, _ = detector("detr")
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(copy, "transformers cannot load a detector from it")
    weights.unlink()
    refused(copy, "holds no weights; save it again with save_pretrained")
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    refused(copy, "only pytorch_model.bin, which could run code when opened")
    shutil.copy(folder / "model.safetensors", weights)
    (copy / "preprocessor_config.json").unlink()
    refused(copy, "holds no preprocessor_config.json, so it is unknown how")
    (copy / "config.json").write_text("{")
    refused(copy, "not valid JSON")
    (copy / "config.json").write_text("[]")
    refused(copy, "is not the config of a detector")


def refused(folder: Path, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        open_teacher(folder)
    assert "\n" not in str(error.value)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    saved_detector(tmp_path, "detr")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"encoder_layers": 3}))
    refused(
        tmp_path, r"weights lack \d+ tensors of the detector, such as model\.encoder\.layers\.2"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"num_queries": 9},
            r"query_position_embeddings\.weight has the shape \[7, 24\], but .* \[9",
        ),
        ({"id2label": {"0": "nerve"}}, r"class_labels_classifier\.bias has the shape \[6\], but"),
        ({"d_model": "wide"}, r"cannot load a detector .*'d_model' expected int, got str"),
    ],
)
def test_config_that_does_not_fit_is_named(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    saved_detector(tmp_path, "detr")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refused(tmp_path, words)


def test_lite_deimv2_has_decoder_attention_only(tmp_path: Path) -> None:
    saved_detector(tmp_path, "deimv2", encoder_type="lite")
    teacher = open_huggingface(tmp_path)
    assert (teacher.layers, teacher.heads) == ((0, 3, 0), (0, 3, 0))
    with pytest.raises(InputError, match="no encoder self-attention, only decoder self-attention"):
        teacher(torch.rand(1, 3, 1, 224, 352), Capture(encoder=(0,)))


def test_a_backbone_that_needs_another_package_is_named(tmp_path: Path) -> None:
    saved_detector(tmp_path, "detr")
    path = tmp_path / "config.json"
    timm = {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [4]}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"backbone_config": timm}))
    refused(tmp_path, "transformers cannot load a detector from it .*timm")
