"""What the losses need of a teacher, reduced to the student's heads, layers and grid.

The targets of a batch are tensors by name, all with the clips along their first axis, so that they
can be stored clip by clip. With s the number of a student's layer:

| name | shape after the batch | what |
|---|---|---|
| `encoder_s` | heads, tokens, tokens | encoder self-attention on the common grid |
| `decoder_s` | heads, teacher queries, teacher queries | decoder self-attention |
| `cross_s` | heads, teacher queries, tokens | cross-attention on the common grid |
| `encoder_s_mass`, `cross_s_mass` | heads, rows | share of a row in the current frame |
| `memory` | tokens, teacher width | encoder memory of the current frame on the common grid |
| `queries`, `anchors` | teacher queries, teacher width or 4 | where its decoder starts |
| `scores`, `boxes`, `points` | teacher queries, ... | the teacher's answer |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sonodetr.config import Config, DistillConfig, ModelConfig
from sonodetr.distill.align import (
    LayerPair,
    averaging,
    common_grid,
    common_heads,
    current_rows,
    mass_in_current_frame,
    pair_layers,
    pool_heads,
    regrid,
    regrid_columns,
    slice_in_time,
    sum_over_time,
)
from sonodetr.distill.losses import TeacherDetections
from sonodetr.distill.teachers import KINDS, Teacher, check_capture, class_scores
from sonodetr.files import InputError
from sonodetr.model.detr import DETR, Capture
from sonodetr.model.tensors import Grid, Outputs

Targets = dict[str, Tensor]


@dataclass(frozen=True)
class Alignment:
    """Which of the teacher's maps teach which of the student's, and on what they are compared.

    Attributes:
        pairs: layers by kind of attention; only kinds whose weight is not 0.
        heads: how many heads of each kind are compared.
        grid: tokens that are compared, of one frame.
        config: the rest of what was asked for.
        teacher_classification: how the teacher's logits turn into scores.
    """

    pairs: dict[str, tuple[LayerPair, ...]]
    heads: dict[str, int]
    grid: Grid
    config: DistillConfig
    teacher_classification: str

    @property
    def student_capture(self) -> Capture:
        """Layers whose maps the student must return."""
        return Capture(
            **{kind: tuple(pair.student for pair in pairs) for kind, pairs in self.pairs.items()}
        )

    @property
    def teacher_capture(self) -> Capture:
        """Layers whose maps the teacher must return."""
        return Capture(
            **{kind: tuple(pair.teacher for pair in pairs) for kind, pairs in self.pairs.items()}
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the maps among the targets."""
        return tuple(f"{kind}_{pair.student}" for kind in self.pairs for pair in self.pairs[kind])

    @property
    def guided(self) -> bool:
        """Whether the student follows the teacher's queries."""
        return "decoder" in self.pairs or "cross" in self.pairs

    def describe(self) -> dict[str, Any]:
        """All that the targets depend on beside data and teacher, in plain values."""
        return {
            "pairs": {kind: [list(pair) for pair in pairs] for kind, pairs in self.pairs.items()},
            "heads": self.heads,
            "grid": list(self.grid),
            "time": self.config.time,
            "memory": self.config.memory.weight > 0,
        }


def align(
    config: Config,
    student: DETR,
    student_classes: tuple[str, ...],
    teacher: Teacher,
    images: Float[Tensor, "batch channels time height width"],
) -> Alignment:
    """Decide what is compared; both models look at `images` to show their grids.

    Args:
        config: of the student's run.
        student_classes: names, in the order of the student's class head.
        images: a clip as it comes in training, with the teacher's number of frames.

    Raises:
        InputError: no loss is asked for; teacher or student lack the attention or a layer;
            the classes do not fit; or the grids cannot be compared.
    """
    terms = config.distill
    kinds = [kind for kind in KINDS if getattr(terms, kind).weight]
    if not (kinds or terms.detections.weight or terms.memory.weight):
        raise InputError(
            "a teacher is named but no loss has a weight; set for example distill.encoder.weight=1"
        )
    if terms.detections.weight and tuple(teacher.classes) != student_classes:
        raise InputError(
            f"the teacher finds {', '.join(teacher.classes)}, the student is to find "
            f"{', '.join(student_classes)}: detections cannot be compared; set "
            "distill.detections.weight=0 (attention and memory fit any classes)"
        )
    pairs = {kind: _pairs(kind, terms, student.config, teacher) for kind in kinds}
    heads = {
        kind: common_heads(student.config.num_heads, getattr(teacher.heads, kind))
        if terms.heads == "grouped"
        else 1
        for kind in kinds
    }
    was_training = student.training
    with torch.no_grad():
        of_teacher = teacher(images, Capture())
        of_student = student.eval()(images[:, :, -config.data.clip_frames :])
    student.train(was_training)
    ours, theirs = of_student.grid, of_teacher.grid
    grid = common_grid(ours, theirs)
    if terms.memory.weight or kinds:
        _check_grids(ours, theirs, grid, images.shape[3:])
    return Alignment(pairs, heads, grid, terms, teacher.classification)


def _check_grids(ours: Grid, theirs: Grid, grid: Grid, size: Sequence[int]) -> None:
    """Check that there is more than one cell to compare, and that cells lie where they seem to."""
    if grid.height * grid.width == 1:
        raise InputError(
            f"student and teacher have {ours.height} x {ours.width} and {theirs.height} x "
            f"{theirs.width} tokens a frame, one in common: there is nothing to compare; lower "
            "model.backbone.stride or use larger images"
        )
    height, width = size
    whole = all(
        _whole(height, each.height) and _whole(width, each.width) for each in (ours, theirs)
    )
    if ours[1:] != theirs[1:] and not whole:
        raise InputError(
            f"pictures of {height} x {width} pixels are no whole number of cells of "
            f"{ours.height} x {ours.width} and {theirs.height} x {theirs.width} tokens, which "
            "therefore lie at different places; make data.image_size multiples of both strides"
        )


def _whole(side: int, cells: int) -> bool:
    """Whether so many cells end where the picture does; strides are powers of two."""
    stride, beyond = divmod(side, cells)
    return not beyond and stride.bit_count() == 1


def _pairs(
    kind: str, terms: DistillConfig, shape: ModelConfig, teacher: Teacher
) -> tuple[LayerPair, ...]:
    """Layers of one kind, all of which exist."""
    own = shape.encoder_layers if kind == "encoder" else shape.decoder_layers
    if not own:
        raise InputError(f"the student has no {KINDS[kind]}; set distill.{kind}.weight=0")
    theirs = getattr(teacher.layers, kind)
    asked = tuple(LayerPair(*pair) for pair in getattr(terms, kind).layers)
    # A teacher without any is refused by `check_capture`, which says what it has.
    pairs = asked or (pair_layers(own, theirs) if theirs else (LayerPair(0, 0),))
    check_capture(teacher, Capture(**{kind: tuple(pair.teacher for pair in pairs)}))
    students = [pair.student for pair in pairs]
    if len(set(students)) < len(students) or not all(0 <= layer < own for layer in students):
        raise InputError(
            f"distill.{kind}.layers {[list(pair) for pair in pairs]}: the student has layers 0 to "
            f"{own - 1}, each of which can be in one pair"
        )
    return pairs


def teacher_targets(outputs: Outputs, alignment: Alignment) -> Targets:
    """A teacher's outputs as the losses want them; see the table above."""
    targets: Targets = {}
    for kind, pairs in alignment.pairs.items():
        maps = getattr(outputs.attention, kind)
        for pair in pairs:
            of_layer = _comparable(maps[pair.teacher], kind, grid_of(outputs, kind), alignment)
            targets |= {f"{kind}_{pair.student}{end}": each for end, each in of_layer.items()}
    if alignment.config.memory.weight:
        targets["memory"] = current_memory(outputs, alignment.grid)
    if alignment.guided:
        targets["queries"] = outputs.queries
        anchors = outputs.boxes_cxcywh[0] if outputs.anchors is None else outputs.anchors
        targets["anchors"] = anchors
    targets["scores"] = class_scores(outputs.logits[-1], alignment.teacher_classification)
    targets["boxes"] = outputs.boxes_cxcywh[-1]
    if outputs.points is not None:
        targets["points"] = outputs.points[-1]
    return targets


def student_maps(outputs: Outputs, alignment: Alignment) -> dict[str, Tensor]:
    """A student's maps by the names of the targets that they are compared with."""
    return {
        f"{kind}_{pair.student}": _comparable(
            getattr(outputs.attention, kind)[pair.student],
            kind,
            grid_of(outputs, kind),
            alignment,
        )[""]
        for kind, pairs in alignment.pairs.items()
        for pair in pairs
    }


def grid_of(outputs: Outputs, kind: str) -> Grid:
    """How the columns of maps of this kind lie on the pictures."""
    return outputs.cross_grid if kind == "cross" else outputs.grid


def current_memory(outputs: Outputs, grid: Grid) -> Float[Tensor, "batch tokens hidden"]:
    """Encoder memory of the last frame, averaged onto `grid`."""
    own = outputs.grid._replace(time=1)
    memory = outputs.memory[:, -own.height * own.width :]
    return memory if own == grid else averaging(own, grid).to(memory) @ memory


def detections_of(targets: Targets) -> TeacherDetections:
    """The teacher's answer."""
    return TeacherDetections(targets["scores"], targets["boxes"], targets.get("points"))


def confident_boxes(targets: Targets, threshold: float) -> list[Float[Tensor, "_ 4"]]:
    """Boxes of each clip that the teacher is sure of, where there are no labels."""
    sure = targets["scores"].amax(-1) >= threshold
    return [boxes[kept] for boxes, kept in zip(targets["boxes"], sure, strict=True)]


def _comparable(
    maps: Float[Tensor, "batch heads rows columns"], kind: str, grid: Grid, alignment: Alignment
) -> dict[str, Tensor]:
    """One layer's map on the common heads and grid, and under "_mass" what stays in the frame."""
    # Half precision, as autocast leaves it, is too coarse to add up in.
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    maps = pool_heads(maps, alignment.heads[kind])
    if kind == "decoder":
        return {"": maps}
    if kind == "encoder":
        maps = current_rows(maps, grid)
    found = {}
    if grid.time > 1:
        found["_mass"] = mass_in_current_frame(maps, grid)
    in_time = sum_over_time if alignment.config.time == "sum" else slice_in_time
    frame, common = grid._replace(time=1), alignment.grid
    found[""] = (regrid if kind == "encoder" else regrid_columns)(
        in_time(maps, grid), frame, common
    )
    if "_mass" in found and kind == "encoder" and frame != common:
        found["_mass"] = found["_mass"] @ averaging(frame, common).to(maps).T
    return found
