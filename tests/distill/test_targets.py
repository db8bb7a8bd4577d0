"""What is compared: planned from both models, reduced by hand-computed maps."""

from dataclasses import replace

import pytest
import torch

from sonodetr.config import Config, DistillConfig, LossTermConfig
from sonodetr.config_file import parse_config
from sonodetr.distill.align import LayerPair
from sonodetr.distill.targets import (
    Alignment,
    align,
    confident_boxes,
    current_memory,
    detections_of,
    grid_of,
    student_maps,
    teacher_targets,
)
from sonodetr.distill.teachers import RunTeacher
from sonodetr.files import InputError
from sonodetr.model.detr import DETR, Capture, Guide
from sonodetr.model.tensors import Attention, Grid, Outputs

SIZE = (96, 160)  # 6 x 10 tokens at stride 16


def config_of(distill: dict[str, object] | None = None, **model: object) -> Config:
    shape = {
        "backbone": {"width": 16, "depths": [1, 1, 1, 1]},
        **{"hidden_dim": 32, "num_heads": 4, "feedforward_dim": 19, "num_queries": 7},
        **{"encoder_layers": 2, "decoder_layers": 3, "points": True},
    }
    return parse_config(
        {"data": {"image_size": SIZE}, "model": shape | model, "distill": distill or {}}
    )


def teacher_of(config: Config) -> RunTeacher:
    torch.manual_seed(5)
    model = DETR(config.model, 2)
    return RunTeacher(model, config, ("nerve", "vessel"), 0.3, "teacher")


def plan(distill: dict[str, object], teacher: Config | None = None, **student: object) -> Alignment:
    config = config_of(distill, **student)
    of_teacher = teacher or config_of(num_heads=8, encoder_layers=3, hidden_dim=64)
    images = torch.rand(1, 1, of_teacher.data.clip_frames, *SIZE)
    names = ("nerve", "vessel")
    return align(config, DETR(config.model, 2), names, teacher_of(of_teacher), images)


def test_every_kind_is_paired_evenly() -> None:
    weight = {"weight": 1.0}
    found = plan({"encoder": weight, "decoder": weight, "cross": weight})
    assert found.pairs["encoder"] == (LayerPair(0, 1), LayerPair(1, 2))
    assert found.pairs["decoder"] == found.pairs["cross"] == ((0, 0), (1, 1), (2, 2))
    assert found.heads == {"encoder": 4, "decoder": 4, "cross": 4}
    assert found.grid == Grid(1, 6, 10)
    assert found.student_capture == Capture((0, 1), (0, 1, 2), (0, 1, 2))
    assert found.teacher_capture == Capture((1, 2), (0, 1, 2), (0, 1, 2))
    assert found.names == (
        "encoder_0", "encoder_1", "decoder_0", "decoder_1", "decoder_2",
        "cross_0", "cross_1", "cross_2",
    )  # fmt: skip
    assert found.guided


def test_layers_heads_and_grid_as_asked() -> None:
    coarse = config_of(backbone={"width": 16, "depths": [1, 1, 1, 1], "stride": 32}, num_queries=5)
    found = plan({"encoder": {"weight": 1.0, "layers": [[1, 0]]}, "heads": "mean"}, coarse)
    assert found.pairs == {"encoder": (LayerPair(1, 0),)}
    assert found.heads == {"encoder": 1}
    assert found.grid == Grid(1, 3, 5)
    assert not found.guided


@pytest.mark.parametrize(
    ("distill", "teacher", "message"),
    [
        ({}, {}, "no loss has a weight; set for example distill.encoder.weight=1"),
        ({"encoder": {"weight": 1.0, "layers": [[2, 0]]}}, {}, "layers 0 to 1"),
        ({"encoder": {"weight": 1.0, "layers": [[1, 0], [1, 1]]}}, {}, "in one pair"),
        ({"encoder": {"weight": 1.0, "layers": [[1, 7]]}}, {}, "layer 7 was asked for"),
        ({"encoder": {"weight": 1.0}}, {"encoder_layers": 0}, "returns no encoder self-attention"),
    ],
)
def test_what_cannot_be_compared(
    distill: dict[str, object], teacher: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        plan(distill, config_of(**teacher))


def test_a_student_without_an_encoder_cannot_follow_one() -> None:
    with pytest.raises(InputError, match="student has no encoder self-attention"):
        plan({"encoder": {"weight": 1.0}}, encoder_layers=0)


@pytest.mark.parametrize(
    ("height", "cells", "coarse_cells"),
    [(72, 5, 3), (48, 3, 2)],
    ids=["4.5 and 2.25 cells", "3 and 1.5 cells, 24 pixels a cell"],
)
def test_cells_that_reach_beyond_the_picture_are_compared_with_their_like_alone(
    height: int, cells: int, coarse_cells: int
) -> None:
    attention = {"encoder": {"weight": 1.0}}
    fine, coarse = config_of(attention, num_queries=5), config_of(**COARSE)
    images = torch.rand(1, 1, 1, height, 96)

    def taught_by(teacher: Config, student: Config) -> Alignment:
        free = teacher_of(teacher)
        free.image_size = None
        return align(student, DETR(student.model, 2), free.classes, free, images)

    assert taught_by(fine, fine).grid == Grid(1, cells, 6)
    with pytest.raises(InputError, match=f"{cells} x 6 and {coarse_cells} x 3 tokens"):
        taught_by(coarse, fine)
    found = DistillConfig(detections=LossTermConfig(weight=1.0))
    assert taught_by(coarse, fine.model_copy(update={"distill": found})).pairs == {}


def test_one_token_in_common_is_nothing_to_compare() -> None:
    config = config_of({"encoder": {"weight": 1.0}}, num_queries=1)
    small = config.model_copy(
        update={"data": config.data.model_copy(update={"image_size": (16, 16)})}
    )
    teacher = teacher_of(small)
    with pytest.raises(InputError, match="one in common"):
        align(small, DETR(small.model, 2), teacher.classes, teacher, torch.rand(1, 1, 1, 16, 16))
    found = small.model_copy(
        update={"distill": DistillConfig(detections=LossTermConfig(weight=1.0))}
    )
    images = torch.rand(1, 1, 1, 16, 16)
    asked = align(found, DETR(small.model, 2), teacher.classes, teacher, images)
    assert asked.grid == Grid(1, 1, 1)  # what it finds needs no tokens


def test_other_classes_fit_attention_but_not_detections() -> None:
    config = config_of({"encoder": {"weight": 1.0}})
    teacher, images = teacher_of(config_of()), torch.rand(1, 1, 1, *SIZE)
    align(config, DETR(config.model, 1), ("needle",), teacher, images)
    config = config_of({"detections": {"weight": 1.0}})
    with pytest.raises(InputError, match=r"finds nerve, vessel, the student is to find needle"):
        align(config, DETR(config.model, 1), ("needle",), teacher, images)


def outputs_of(grid: Grid, heads: int, queries: int) -> Outputs:
    """Two clips with random maps of the first layer."""
    random = torch.Generator().manual_seed(3)
    tokens = grid.time * grid.height * grid.width

    def rows(*shape: int) -> torch.Tensor:
        return torch.rand(2, heads, *shape, generator=random, dtype=torch.float64).softmax(-1)

    return Outputs(
        logits=torch.rand(3, 2, queries, 2, generator=random),
        boxes_cxcywh=torch.rand(3, 2, queries, 4, generator=random),
        points=None,
        memory=torch.rand(2, tokens, 11, generator=random),
        queries=torch.rand(2, queries, 11, generator=random),
        grid=grid,
        groups=1,
        attention=Attention(
            {0: rows(tokens, tokens)}, {0: rows(queries, queries)}, {0: rows(queries, tokens)}
        ),
    )


def alignment_of(grid: Grid, heads: int, **distill: object) -> Alignment:
    config = config_of({"memory": {"weight": 1.0}, **distill}).distill
    kinds = ("encoder", "decoder", "cross")
    pairs = {kind: (LayerPair(0, 0),) for kind in kinds}
    return Alignment(pairs, dict.fromkeys(kinds, heads), grid, config, "focal")


@pytest.mark.parametrize("time", ["sum", "current"])
def test_a_clips_maps_become_one_frames(time: str) -> None:
    """3 frames of 2 x 5 tokens, 4 heads to 2: the last frame's rows, all frames' columns."""
    teacher = outputs_of(Grid(3, 2, 5), heads=4, queries=7)
    targets = teacher_targets(teacher, alignment_of(Grid(1, 2, 5), 2, time=time))
    whole = teacher.attention.encoder[0].unflatten(1, (2, 2)).mean(2)  # clips heads 30 30
    by_frame = whole[:, :, 20:].unflatten(-1, (3, 10))
    mass = by_frame[..., 2, :].sum(-1)
    expected = by_frame.sum(-2) if time == "sum" else by_frame[..., 2, :] / mass[..., None]
    torch.testing.assert_close(targets["encoder_0"], expected)
    torch.testing.assert_close(targets["encoder_0_mass"], mass)
    assert targets["cross_0"].shape == (2, 2, 7, 10)
    torch.testing.assert_close(targets["cross_0"].sum(-1), torch.ones(2, 2, 7).double())
    torch.testing.assert_close(
        targets["decoder_0"], teacher.attention.decoder[0].unflatten(1, (2, 2)).mean(2)
    )
    torch.testing.assert_close(targets["memory"], teacher.memory[:, 20:])
    torch.testing.assert_close(targets["scores"], teacher.logits[-1].sigmoid())
    assert torch.equal(targets["boxes"], teacher.boxes_cxcywh[-1])
    assert torch.equal(targets["anchors"], teacher.boxes_cxcywh[0])
    assert "points" not in targets


def test_maps_of_half_precision_are_added_up_in_full() -> None:
    teacher = outputs_of(Grid(2, 4, 6), heads=4, queries=5)
    maps = teacher.attention.encoder[0].bfloat16()
    rough = replace(teacher, attention=replace(teacher.attention, encoder={0: maps}))
    exact = replace(teacher, attention=replace(teacher.attention, encoder={0: maps.float()}))
    alignment = alignment_of(Grid(1, 2, 3), 2)
    targets = teacher_targets(rough, alignment)["encoder_0"]
    assert targets.dtype == torch.float32
    assert torch.equal(targets, teacher_targets(exact, alignment)["encoder_0"])


def test_a_finer_teacher_comes_down_to_the_students_grid() -> None:
    teacher = outputs_of(Grid(2, 4, 6), heads=3, queries=5)
    targets = teacher_targets(teacher, alignment_of(Grid(1, 2, 3), 3))
    assert targets["encoder_0"].shape == (2, 3, 6, 6)
    torch.testing.assert_close(targets["encoder_0"].sum(-1), torch.ones(2, 3, 6).double())
    # Token 0 of 2 x 3 is the mean of tokens 0, 1, 6 and 7 of the last frame of 4 x 6.
    mass = teacher.attention.encoder[0][:, :, 24:, 24:].sum(-1)
    torch.testing.assert_close(targets["encoder_0_mass"][..., 0], mass[..., [0, 1, 6, 7]].mean(-1))
    torch.testing.assert_close(targets["memory"][:, 0], teacher.memory[:, [24, 25, 30, 31]].mean(1))


def test_a_teacher_of_one_frame_has_no_mass_to_weigh() -> None:
    outputs = outputs_of(Grid(1, 2, 5), heads=2, queries=7)
    alignment = alignment_of(Grid(1, 2, 5), 2)
    targets, maps = teacher_targets(outputs, alignment), student_maps(outputs, alignment)
    assert not any(name.endswith("mass") for name in targets)
    assert set(maps) == {"encoder_0", "decoder_0", "cross_0"}
    for name, own in maps.items():
        assert torch.equal(own, targets[name])
    assert current_memory(outputs, Grid(1, 2, 5)) is not None


def test_confident_boxes_are_those_above_the_threshold() -> None:
    outputs = outputs_of(Grid(1, 2, 5), heads=2, queries=3)
    logits = torch.tensor([[[0.9, 0.1], [0.1, 0.4], [0.3, 0.6]], [[0.1, 0.1]] * 3]).logit()
    outputs = replace(outputs, logits=logits[None].expand(3, -1, -1, -1))
    targets = teacher_targets(outputs, alignment_of(Grid(1, 2, 5), 2))
    first, second = confident_boxes(targets, 0.5)
    assert torch.equal(first, outputs.boxes_cxcywh[-1, 0, [0, 2]])
    assert second.shape == (0, 4)
    assert detections_of(targets).points is None


LEARNED = {"queries": "learned"}
COARSE = {"backbone": {"width": 16, "depths": [1, 1, 1, 1], "stride": 32}, "num_queries": 5}


@pytest.mark.parametrize(
    ("student", "teacher", "grids"),
    [
        ({}, {}, ((12, 20), (12, 20), (6, 10))),
        (LEARNED, {}, ((6, 10), (12, 20), (6, 10))),
        ({}, LEARNED, ((12, 20), (6, 10), (6, 10))),
        ({}, COARSE, ((12, 20), (6, 10), (3, 5))),
        (COARSE, {}, ((6, 10), (12, 20), (3, 5))),
    ],
    ids=[
        *("both anchored", "learned student of anchored teacher"),
        *("anchored student of learned teacher", "coarse teacher", "coarse student"),
    ],
)
def test_anchors_look_at_a_finer_grid(
    student: dict[str, object],
    teacher: dict[str, object],
    grids: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
) -> None:
    """Cross-attention of student and teacher, and what both are compared on."""
    weight = {"weight": 1.0}
    config = config_of({"encoder": weight, "decoder": weight, "cross": weight}, **student)
    taught = teacher_of(config_of(**teacher))
    model, images = DETR(config.model, 2).eval(), torch.rand(2, 1, 1, *SIZE)
    alignment = align(config, model, taught.classes, taught, images)
    theirs = taught(images, alignment.teacher_capture)
    targets = teacher_targets(theirs, alignment)
    with torch.no_grad():
        guide = Guide(targets["queries"], targets["anchors"])
        ours = model(images, alignment.student_capture, guide)
    assert (grid_of(ours, "cross")[1:], grid_of(theirs, "cross")[1:], alignment.grid[1:]) == grids
    assert grid_of(ours, "encoder") == ours.grid
    assert (theirs.anchors is None) == (teacher == LEARNED)
    starts = theirs.boxes_cxcywh[0] if theirs.anchors is None else theirs.anchors
    assert torch.equal(targets["anchors"], starts)
    queries, tokens = theirs.queries.shape[1], grids[2][0] * grids[2][1]
    for maps in (targets, student_maps(ours, alignment)):
        assert maps["encoder_1"].shape == (2, 4, tokens, tokens)
        assert maps["decoder_2"].shape == (2, 4, queries, queries)
        assert maps["cross_2"].shape == (2, 4, queries, tokens)
        torch.testing.assert_close(maps["cross_2"].sum(-1), torch.ones(2, 4, queries))
    # Token 0 is what its cells sum up to.
    own, side = theirs.attention.cross[2].unflatten(-1, grids[1]), grids[1][0] // grids[2][0]
    torch.testing.assert_close(targets["cross_2"][..., 0], own[..., :side, :side].sum((-2, -1)))


def test_anchors_of_a_clip_look_at_one_frame() -> None:
    """So all of a row stays in it, and there is no share to weigh by."""
    teacher = config_of()
    teacher = teacher.model_copy(
        update={"data": teacher.data.model_copy(update={"clip_frames": 3})}
    )
    config = config_of({"encoder": {"weight": 1.0}, "cross": {"weight": 1.0}})
    images, taught = torch.rand(1, 1, 3, *SIZE), teacher_of(teacher)
    alignment = align(config, DETR(config.model, 2), taught.classes, taught, images)
    targets = teacher_targets(taught(images, alignment.teacher_capture), alignment)
    assert targets["encoder_1_mass"].shape == (1, 4, 60)
    assert "cross_2_mass" not in targets
    torch.testing.assert_close(targets["cross_2"].sum(-1), torch.ones(1, 4, 7))
