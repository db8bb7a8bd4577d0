"""A run folder as a teacher, in 2D and 3D; what every teacher's checks and scores say."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sonodetr.config import Config
from sonodetr.config_file import dump_config, load_config, parse_config
from sonodetr.distill.teachers import (
    AttentionShape,
    RunTeacher,
    Teacher,
    check_capture,
    class_scores,
    fingerprint,
)
from sonodetr.files import InputError, write_text
from sonodetr.model.detr import DETR, Capture
from sonodetr.model.tensors import Grid
from sonodetr.training.run import RunInfo, load_run, save_info, save_weights
from sonodetr.training.teachers import open_teacher

EVERYTHING = Capture((0, 1), (0, 1, 2), (0, 1, 2))


def tiny_config(**data: Any) -> Config:
    shape = {
        "backbone": {"width": 16, "depths": [1, 1, 1, 1], "stride": 16},
        **{"hidden_dim": 24, "num_heads": 3, "feedforward_dim": 19, "num_queries": 7},
        **{"encoder_layers": 2, "decoder_layers": 3, "query_groups": 2, "dropout": 0.3},
    }
    return parse_config({"data": {"image_size": [48, 80], **data}, "model": shape})


def tiny_model(config: Config) -> DETR:
    torch.manual_seed(5)
    return DETR(config.model, 2, config.data.channels)


def run_folder(folder: Path, config: Config) -> Path:
    folder.mkdir()
    write_text(folder / "config.yaml", dump_config(config))
    save_weights(folder / "model.safetensors", tiny_model(config).state_dict())
    facts: dict[str, Any] = {"step": 0, "validation": {}, "provenance": {}}
    save_info(folder, RunInfo(classes=("nerve", "vessel"), threshold=0.37, **facts))
    return folder


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("still") / "run", tiny_config())


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_config(clip_frames=4, clip_step=2)
    return run_folder(tmp_path_factory.mktemp("clip") / "run", config)


@pytest.mark.parametrize("time", [1, 4])
def test_run_teaches_what_its_model_answers(time: int, still: Path, clip: Path) -> None:
    folder = still if time == 1 else clip
    teacher, model = open_teacher(folder), load_run(folder)[0]
    assert isinstance(teacher, Teacher)
    assert (teacher.classes, teacher.threshold) == (("nerve", "vessel"), 0.37)
    assert (teacher.clip_frames, teacher.clip_step) == (time, 1 if time == 1 else 2)
    assert (teacher.image_size, teacher.classification) == ((48, 80), "focal")
    assert (teacher.layers, teacher.heads) == ((2, 3, 3), (3, 3, 3))
    images = torch.rand(2, 1, 6, 48, 80)  # longer than the teacher looks back
    given = teacher(images, EVERYTHING)
    with torch.no_grad():
        expected = model(images[:, :, -time:], EVERYTHING)
    assert given.grid == Grid(time, 3, 5)
    assert given.groups == 1  # in evaluation mode: one group, no dropout
    assert given.queries.shape == (2, 7, 24)
    for name in ("logits", "boxes_cxcywh", "memory", "queries"):
        assert torch.equal(getattr(given, name), getattr(expected, name))
    for kind in AttentionShape._fields:
        maps, references = getattr(given.attention, kind), getattr(expected.attention, kind)
        assert list(maps) == list(range(getattr(teacher.layers, kind)))
        for number, reference in references.items():
            assert torch.equal(maps[number], reference)
            torch.testing.assert_close(reference.sum(-1), torch.ones(reference.shape[:-1]))
    assert given.attention.encoder[1].shape == (2, 3, time * 15, time * 15)
    assert given.cross_grid == Grid(1, 6, 10)  # of the last frame, however long the clip
    assert given.attention.cross[2].shape == (2, 3, 7, 60)


def test_3d_teacher_sees_the_past(clip: Path) -> None:
    """Its tokens lie oldest frame first: a change of a frame changes that frame's tokens most."""
    teacher = open_teacher(clip)
    images = torch.rand(1, 1, 4, 48, 80) * 0.1
    changed = images.clone()
    changed[:, :, 1] += 0.8
    before, after = teacher(images, Capture()), teacher(changed, Capture())
    change = (after.memory - before.memory).norm(dim=-1).view(4, 15).mean(-1)
    assert change.argmax() == 1
    assert not torch.equal(after.logits, before.logits)


def test_teacher_is_frozen_but_its_outputs_enter_a_loss(still: Path) -> None:
    config = tiny_config()
    model = tiny_model(config).train()
    teacher = RunTeacher(model, config, ("nerve", "vessel"), 0.5, "tiny")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    outputs = teacher(torch.rand(1, 1, 1, 48, 80), Capture(encoder=(0,)))
    weight = torch.ones(1, requires_grad=True)
    (outputs.attention.encoder[0] * weight).sum().backward()
    assert weight.grad is not None
    assert teacher.to("cpu") is teacher


def test_grey_student_may_have_a_colour_teacher() -> None:
    config = tiny_config(channels=3)
    teacher = RunTeacher(tiny_model(config), config, ("nerve", "vessel"), 0.5, "tiny")
    grey = torch.rand(2, 1, 1, 48, 80)
    given = teacher(grey, Capture()).logits
    torch.testing.assert_close(given, teacher(grey.repeat(1, 3, 1, 1, 1), Capture()).logits)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 3, 4, 48, 80), r"takes pictures with 1 channel, not 3; set data\.channels=1$"),
        ((1, 1, 3, 48, 80), r"sees 4 frames, but the clips have 3; set data\.clip_frames=4$"),
        ((1, 1, 4, 80, 48), r"\[48, 80\] pixels, .* they are \[80, 48\]; set data\.image_size="),
    ],
)
def test_clips_it_cannot_see(shape: tuple[int, ...], words: str, clip: Path) -> None:
    with pytest.raises(InputError, match=words) as error:
        open_teacher(clip)(torch.rand(shape), Capture())
    assert "\n" not in str(error.value)


def test_layers_it_has_not_are_refused(still: Path) -> None:
    teacher = open_teacher(still)
    check_capture(teacher, EVERYTHING)
    words = (
        "the teacher has layers 0 and 1 of encoder self-attention, but layer 5 was asked for; "
        r"change distill\.encoder\.layers$"
    )
    with pytest.raises(InputError, match=words):
        check_capture(teacher, Capture(encoder=(1, 5)))
    with pytest.raises(InputError, match=r"has layers 0 to 2 of cross-attention, but layer -1 was"):
        teacher(torch.rand(1, 1, 1, 48, 80), Capture(cross=(-1,)))
    teacher.layers = AttentionShape(1, 0, 0)
    with pytest.raises(InputError, match=r"has layer 0 of encoder self-attention, but layer 1 was"):
        check_capture(teacher, Capture(encoder=(1,)))
    words = "returns no cross-attention, only encoder self-attention; leave distill.cross.weight"
    with pytest.raises(InputError, match=words):
        check_capture(teacher, Capture(cross=(0,)))


def test_class_scores_by_hand() -> None:
    logits = torch.tensor([[0.0, 3.0, -1.0]]).log1p().nan_to_num(neginf=-100.0)  # odds 1, 4, 0
    torch.testing.assert_close(class_scores(logits, "focal"), torch.tensor([[0.5, 0.8, 0.0]]))
    torch.testing.assert_close(class_scores(logits, "softmax"), torch.tensor([[0.2, 0.8]]))


def test_fingerprint_follows_weights_and_settings(still: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(still, tmp_path / "elsewhere"))
    first = open_teacher(still).fingerprint
    assert open_teacher(copy).fingerprint == first
    assert len(first) == 64

    def changed(*words: str) -> str:
        write_text(copy / "config.yaml", dump_config(load_config(still / "config.yaml", words)))
        return open_teacher(copy).fingerprint

    same = changed("train.epochs=3", "model.dropout=0.1", "model.weights=runs/older", "seed=4")
    assert same == first
    others = {changed("data.clip_step=2"), changed("data.clip_frames=2")}
    assert len(others | {first}) == 3
    model = tiny_model(tiny_config())
    prints = {fingerprint(model, {})}
    with torch.no_grad():
        model.decoder_norm.bias[3] += 1e-6
    prints.add(fingerprint(model, {}))
    model.backbone.mean += 0.1  # not saved, but it changes the outputs
    prints.add(fingerprint(model, {}))
    assert len(prints) == 3


def test_what_is_no_teacher_is_named(still: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    unfinished = Path(shutil.copytree(still, tmp_path / "unfinished"))
    (unfinished / "model.safetensors").unlink()
    for path, words in {
        tmp_path / "absent": "no such folder; give a run folder",
        still / "model.safetensors": "is a file; give a run folder",
        empty: r"holds neither config\.yaml \(a run\) nor config\.json \(a detector saved by",
        unfinished: r"the run has no model\.safetensors yet",
    }.items():
        with pytest.raises(InputError, match=words) as error:
            open_teacher(path)
        assert "\n" not in str(error.value)
