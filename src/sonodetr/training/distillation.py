"""The distillation task: the detection loss, and what a teacher adds to it."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sonodetr.config import DataConfig, DistillConfig, LossTermConfig
from sonodetr.distill.align import foreground_weights
from sonodetr.distill.cache import TargetCache
from sonodetr.distill.losses import (
    attention_divergence,
    detection_distance,
    memory_distance,
)
from sonodetr.distill.targets import (
    Alignment,
    Targets,
    confident_boxes,
    current_memory,
    detections_of,
    student_maps,
    teacher_targets,
)
from sonodetr.distill.teachers import Teacher
from sonodetr.model.detr import DETR, Guide
from sonodetr.model.position import box_positions
from sonodetr.model.tensors import Batch, Outputs
from sonodetr.training.tasks import Detection


def weight_at(term: LossTermConfig, done: float) -> float:
    """Weight of a loss when a share `done` of the training is over.

    >>> [weight_at(LossTermConfig(weight=2.0, until=0.5), done) for done in (0.0, 0.25, 0.5, 1.0)]
    [2.0, 1.0, 0.0, 0.0]
    """
    return term.weight * max(0.0, 1 - done / term.until) if term.until else term.weight


@dataclass
class Distillation:
    """Find the labelled objects, and be like the teacher; `loss` is what is minimised.

    On clips without labels only the teacher is listened to.

    Attributes:
        detection: the task without a teacher.
        student: the model itself, however it is wrapped for training.
        teacher: on the student's device.
        alignment: what of the two is compared.
        student_frames: how many of a clip's frames the student sees, the last ones.
        clip: the clips that both look at.
        cache: keeps the targets of all training clips; None to ask the teacher each time.
    """

    detection: Detection
    student: DETR
    teacher: Teacher
    alignment: Alignment
    student_frames: int
    clip: DataConfig
    cache: TargetCache | None = None

    def __call__(self, model: nn.Module, batch: Batch, done: float) -> dict[str, Tensor]:
        weights = {
            name: weight
            for name in ("encoder", "decoder", "cross", "detections", "memory")
            if (weight := weight_at(getattr(self.config, name), done))
        }
        # Parameters that only a loss without weight uses still take part, as DDP demands.
        idle = sum(parameter.sum() * 0 for parameter in self.student.training_only.parameters())
        if not weights:  # the teacher is not asked any more
            outputs = self._look(model, batch, None).first(len(batch.targets))
            named = self.detection.of(outputs, batch)
            return named | {"loss": named["loss"] + idle}
        targets = self.targets(batch)
        outputs = self._look(model, batch, targets)
        named = self.detection.of(outputs.first(len(batch.targets)), batch)
        distances = self.distances(outputs, targets, batch, shuffle=self.config.shuffle)
        total = named["loss"] + idle
        for name, weight in weights.items():
            total = total + weight * distances[name]
        return named | {"loss": total} | {f"distill_{name}": distances[name] for name in distances}

    @property
    def config(self) -> DistillConfig:
        """The terms and their weights."""
        return self.alignment.config

    def targets(self, batch: Batch) -> Targets:
        """What the teacher says about the clips of a batch, from the cache if there is one."""
        if self.cache is None:
            return self.ask(batch)
        found = self.cache.read(places_of(batch))
        return {name: tensor.to(batch.images.device) for name, tensor in found.items()}

    def ask(self, batch: Batch) -> Targets:
        """What the teacher says about the clips of a batch when it is run."""
        outputs = self.teacher(batch.images, self.alignment.teacher_capture)
        return teacher_targets(outputs, self.alignment)

    def maps(self, batch: Batch, targets: Targets) -> dict[str, Tensor]:
        """The student's maps, by the names of the targets they are compared with."""
        return student_maps(self._look(self.student, batch, targets), self.alignment)

    def distances(
        self, outputs: Outputs, targets: Targets, batch: Batch, *, shuffle: bool = False
    ) -> dict[str, Tensor]:
        """Every loss that is asked for, before its weight.

        Args:
            shuffle: compare with the maps of another clip of the batch, the control.
        """
        config = self.config
        sure = confident_boxes(targets, self.teacher.threshold)
        boxes = [target.boxes_cxcywh for target in batch.targets] + sure[len(batch.targets) :]
        foreground = foreground_weights(boxes, self.alignment.grid, config.background)
        foreground = foreground / foreground.mean(1, keepdim=True)  # clips count the same
        confidence = targets["scores"].amax(-1).clamp(min=config.background)
        rows = {"encoder": foreground, "decoder": confidence, "cross": confidence}
        found: dict[str, list[Tensor]] = {}
        for name, maps in student_maps(outputs, self.alignment).items():
            kind = name.partition("_")[0]
            taught, weights = targets[name], rows[kind][:, None]
            mass = targets.get(f"{name}_mass", torch.ones_like(taught[..., 0]))
            if shuffle:
                taught, mass = taught.roll(1, 0), mass.roll(1, 0)
            weights = weights * mass
            found.setdefault(kind, []).append(attention_divergence(maps, taught, weights))
        distances = {kind: torch.stack(of_kind).mean() for kind, of_kind in found.items()}
        if config.detections.weight:
            terms = detection_distance(
                outputs,
                detections_of(targets),
                self.detection.config,
                self.detection.classification,
            )
            distances["detections"] = torch.stack(list(terms.values())).sum()
        if config.memory.weight:
            memory = self.student.training_only["memory"](
                current_memory(outputs, self.alignment.grid)
            )
            distances["memory"] = memory_distance(memory, targets["memory"], foreground)
        return distances

    @torch.no_grad()
    def held_out(self, examples: Iterable[tuple[Batch, Targets]]) -> dict[str, float]:
        """The distances on clips that nothing is learnt from.

        The student is left in evaluation mode.
        """
        self.student.eval()
        sums: dict[str, float] = {}
        clips = 0
        for batch, targets in examples:
            with self.detection.accelerator.autocast():  # as in training
                outputs = self._look(self.student, batch, targets)
                distances = self.distances(outputs, targets, batch)
            clips += len(batch.images)
            for name, value in distances.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(batch.images)
        return {f"validation/distill_{name}": total / clips for name, total in sums.items()}

    def _look(self, model: nn.Module, batch: Batch, targets: Targets | None) -> Outputs:
        """The student's outputs, with the maps that are compared if there are targets."""
        images = batch.images[:, :, -self.student_frames :]
        if targets is None:
            outputs: Outputs = model(images)
        elif self.alignment.guided:
            only, anchors = self.student.training_only, targets["anchors"]
            queries = only["queries"](targets["queries"])
            if "anchors" in only:  # learned queries know no boxes
                queries = queries + only["anchors"](box_positions(anchors, queries.shape[-1]))
            guide = Guide(queries, anchors)
            outputs = model(images, self.alignment.student_capture, guide)
        else:
            outputs = model(images, self.alignment.student_capture)
        return outputs


def places_of(batch: Batch) -> list[tuple[int, int]]:
    """View and number of each clip, by which a cache keeps its targets."""
    return [(source.view, source.example) for source in batch.sources]
