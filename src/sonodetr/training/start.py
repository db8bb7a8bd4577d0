"""What a training starts from: devices, model, task."""

from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import nn

from sonodetr.config import Config, DataConfig
from sonodetr.distill.targets import align
from sonodetr.distill.teachers import Teacher
from sonodetr.files import InputError
from sonodetr.model.detr import DETR
from sonodetr.model.tensors import Batch
from sonodetr.model.weights import load_matching, read_weights
from sonodetr.training.data import Data
from sonodetr.training.distillation import Distillation
from sonodetr.training.run import untrained_model
from sonodetr.training.tasks import Detection
from sonodetr.training.teachers import open_teacher
from sonodetr.training.unseen import check_unseen


def start_accelerator(precision: str) -> Accelerator:
    """The devices and processes of a training.

    Raises:
        InputError: they cannot train at that precision.
    """
    # A process may train several models, each at its own precision.
    AcceleratorState._reset_state()
    # Unless told so, accelerate lets processes without a GPU each train alone.
    cpu = not torch.accelerator.is_available()
    if cpu and precision == "fp16":  # would be ignored
        raise InputError("train.precision 'fp16' needs a GPU; use 'bf16' or 'no'")
    try:
        # The first process may fill a target cache while the others wait.
        patience = InitProcessGroupKwargs(timeout=timedelta(hours=12))
        return Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=[patience])
    except ValueError as error:
        raise InputError(
            f"train.precision {precision!r} does not work on this device ({error}); use 'no'"
        ) from None


def start_model(
    config: Config, class_names: tuple[str, ...], *, resume: bool
) -> tuple[DETR, list[str]]:
    """The model at the start, and lines that say what was taken over from `model.weights`.

    Args:
        resume: a checkpoint is about to be loaded; it holds all weights.

    Raises:
        InputError: the weights cannot be read, or nothing of them fits.
    """
    if resume:
        return untrained_model(config, len(class_names)), []
    model = DETR(config.model, len(class_names), config.data.channels)
    if not config.model.weights:
        return model, []
    taken = load_matching(model, read_weights(config.model.weights))
    return model, [f"{config.model.weights}: {taken}"]


def start_task(
    config: Config,
    data: Data,
    model: DETR,
    accelerator: Accelerator,
    teacher: Teacher | None = None,
) -> Detection | Distillation:
    """What the run optimises: detection, and what a teacher adds, the config's unless one is given.

    Raises:
        InputError: the teacher cannot be opened, or does not fit the student or the data.
    """
    detection = Detection(config.loss, config.model.classification, accelerator)
    if config.distill.teacher:
        return _start_distillation(config, data, model, detection, teacher)
    if teacher is not None:
        raise InputError("a teacher is given without a name; set distill.teacher to one")
    return detection


def _start_distillation(
    config: Config, data: Data, student: DETR, detection: Detection, teacher: Teacher | None
) -> Distillation:
    """Open the teacher, unless there is one, and find what of it and the student is compared.

    The student is given the parts that only its training needs.

    Raises:
        InputError: the teacher cannot be opened, or does not fit the student or the data.
    """
    if config.distill.cache and not config.data.augment.views:
        raise InputError(
            "distill.cache keeps targets of a limited number of augmented views; set for example "
            "data.augment.views=4"
        )
    device = detection.accelerator.device
    check_unseen("teacher", config.distill.teacher, config, data.videos, data.split)
    with torch.random.fork_rng():  # the student's start is that of its seed, whoever teaches
        teacher = (teacher or open_teacher(config.distill.teacher)).to(device)
    if config.distill.shuffle and config.train.batch_size == 1:
        raise InputError(
            "distill.shuffle takes the maps of another clip of the batch, but there is one clip a "
            "batch; set train.batch_size=2 or more"
        )
    clip = common_clip(config.data, teacher, max(len(video) for video in data.videos))
    images = torch.zeros(1, clip.channels, clip.clip_frames, *clip.image_size, device=device)
    student.to(device)
    alignment = align(config, student, data.class_names, teacher, images)
    task = Distillation(detection, student, teacher, alignment, config.data.clip_frames, clip)
    targets = task.ask(Batch(images, [], []))
    if not all(target.isfinite().all() for target in targets.values()):
        raise InputError(
            f"teacher {config.distill.teacher}: answers a black picture with what is not finite; "
            "its training has failed, or its weights are damaged; choose another"
        )
    width = student.config.hidden_dim
    if "memory" in targets:
        student.training_only["memory"] = nn.Linear(width, targets["memory"].shape[-1])
    if alignment.guided:
        student.training_only["queries"] = nn.Linear(targets["queries"].shape[-1], width)
        if student.config.queries == "learned":
            student.training_only["anchors"] = nn.Linear(width, width)
    return task


def common_clip(data: DataConfig, teacher: Teacher, longest: int) -> DataConfig:
    """Clips of which student and teacher each see the last frames."""
    if teacher.clip_frames == 1:
        return data
    if data.clip_frames > 1 and data.clip_step != teacher.clip_step:
        raise InputError(
            f"data.clip_step {data.clip_step}: the teacher's frames are {teacher.clip_step} apart; "
            f"set data.clip_step={teacher.clip_step}"
        )
    reach = (teacher.clip_frames - 1) * teacher.clip_step
    if reach >= longest:
        raise InputError(
            f"the teacher's clips reach back {reach} frames, but the longest recording in "
            f"{data.path} has {longest}; choose a teacher of shorter clips or of single frames"
        )
    if data.split.test_frames and data.split.border_frames < reach:
        raise InputError(
            f"the teacher's clips reach back {reach} frames, so data.split.border_frames must be "
            f"at least {reach}"
        )
    frames = max(data.clip_frames, teacher.clip_frames)
    return data.model_copy(update={"clip_frames": frames, "clip_step": teacher.clip_step})
