"""What a teacher is, and a trained run of ours as one. Others: `huggingface_teacher`."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sonodetr.config import Config
from sonodetr.files import InputError
from sonodetr.model.detr import DETR, Capture
from sonodetr.model.tensors import Outputs

KINDS = {
    "encoder": "encoder self-attention",
    "decoder": "decoder self-attention",
    "cross": "cross-attention",
}


class AttentionShape(NamedTuple):
    """A number for each kind of attention: of layers that return their maps, or of their heads; 0
    where the teacher has no dense attention of that kind."""

    encoder: int
    decoder: int
    cross: int


@runtime_checkable
class Teacher(Protocol):
    """A frozen detector that shows its attention; anything with these members can teach.

    Attributes:
        classes: names of the classes, in the order of `class_scores`.
        threshold: score from which a detection counts.
        clip_frames: frames it wants; of a longer clip it sees the last ones.
        clip_step: distance between them in the recording.
        image_size: height and width in pixels that it must be given; None where any will do.
        classification: how logits turn into scores, "focal" or "softmax" (see `class_scores`).
        layers: layers of each kind that can be asked for.
        heads: attention heads of each kind.
        fingerprint: SHA-256 of the weights and of all else that changes the outputs.
    """

    classes: tuple[str, ...]
    threshold: float
    clip_frames: int
    clip_step: int
    image_size: tuple[int, int] | None
    classification: str
    layers: AttentionShape
    heads: AttentionShape
    fingerprint: str

    def to(self, device: torch.device | str) -> "Teacher":
        """The same teacher on `device`."""
        ...

    def __call__(
        self, images: Float[Tensor, "batch channels time height width"], capture: Capture
    ) -> Outputs:
        """Detect in the last frame of each clip, in evaluation mode and without gradients.

        Args:
            images: values in 0..1, grey or red, green, blue.
            capture: layers whose attention is returned (see `check_capture`).

        Returns:
            Outputs of one query group.
        """
        ...


class RunTeacher:
    """The trained model of a run as a `Teacher`; a run of clips is a 3D teacher.

    Args:
        model: of the run; it is frozen here.
        config: of the run.
        classes: names of its classes.
        threshold: its operating score.
        name: how errors call it.
    """

    def __init__(
        self, model: DETR, config: Config, classes: tuple[str, ...], threshold: float, name: str
    ) -> None:
        shape, data = config.model, config.data
        self.model = model.eval().requires_grad_(False)
        self.name = name
        self.classes = classes
        self.threshold = threshold
        self.channels = data.channels
        self.clip_frames, self.clip_step = data.clip_frames, data.clip_step
        self.image_size: tuple[int, int] | None = data.image_size
        self.classification: str = shape.classification
        self.layers = AttentionShape(
            shape.encoder_layers, shape.decoder_layers, shape.decoder_layers
        )
        self.heads = AttentionShape(*(shape.num_heads if count else 0 for count in self.layers))
        # What only says how training begins or goes changes no output.
        begins: dict[str, Any] = {"weights": True, "dropout": True, "backbone": {"pretrained"}}
        values = {
            "model": shape.model_dump(mode="json", exclude=begins),
            "data": [data.channels, data.clip_frames, data.clip_step, data.image_size],
            "classes": classes,
            "threshold": threshold,  # above which a box counts where there are no labels
        }
        self.fingerprint = fingerprint(model, values)

    def to(self, device: torch.device | str) -> "Teacher":
        """The same teacher on `device`."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "batch channels time height width"], capture: Capture
    ) -> Outputs:
        """See `Teacher`.

        Raises:
            InputError: the clips have too few frames, another size or channels it does not take, or
                a layer is asked for that it does not have.
        """
        check_capture(self, capture)
        check_frames(self, images, self.name)
        last = images[:, :, -self.clip_frames :]
        return self.model(in_channels(last, self.channels, self.name), capture)


def check_frames(
    teacher: Teacher, images: Float[Tensor, "batch channels time height width"], name: str
) -> None:
    """Check that clips have the frames and the size that a teacher wants.

    Raises:
        InputError: they have fewer frames, or another size.
    """
    frames, *given = images.shape[2:]
    if frames < teacher.clip_frames:
        raise InputError(
            f"teacher {name} sees {teacher.clip_frames} frames, but the clips have {frames}; "
            f"set data.clip_frames={teacher.clip_frames}"
        )
    if teacher.image_size is not None and teacher.image_size != tuple(given):
        wanted = list(teacher.image_size)
        raise InputError(
            f"teacher {name} sees pictures of {wanted} pixels, height and width, but they are "
            f"{given}; set data.image_size={wanted}"
        )


def in_channels(
    images: Float[Tensor, "batch channels time height width"], channels: int, name: str
) -> Float[Tensor, "batch {channels} time height width"]:
    """Images with the channels a teacher takes: a grey picture is a colour picture too.

    Raises:
        InputError: colour is given to a teacher that sees grey, or neither grey nor colour.
    """
    given = images.shape[1]
    if given == channels:
        return images
    if given == 1:
        return images.expand(-1, channels, -1, -1, -1)
    raise InputError(
        f"teacher {name} takes pictures with {channels} channel{'s' if channels > 1 else ''}, not "
        f"{given}; set data.channels=1"
    )


def check_capture(teacher: Teacher, capture: Capture) -> None:
    """Check that a teacher has the layers whose attention is asked for.

    Raises:
        InputError: it has no dense attention of a kind, or fewer layers; the layers it has are
            named.

    >>> check_capture(teacher, Capture(encoder=(5,)))  # doctest: +SKIP
    InputError: the teacher has layers 0 and 1 of encoder self-attention, but layer 5 was ...
    """
    for kind, name in KINDS.items():
        count, asked = getattr(teacher.layers, kind), getattr(capture, kind)
        wrong = [layer for layer in asked if not 0 <= layer < count]
        if wrong and not count:
            have = " and ".join(
                words for key, words in KINDS.items() if getattr(teacher.layers, key)
            )
            raise InputError(
                f"the teacher returns no {name}, only {have or 'detections'}; "
                f"leave distill.{kind}.weight at 0 or choose another teacher"
            )
        if wrong:
            few = {1: "layer 0", 2: "layers 0 and 1"}
            numbers = few.get(count, f"layers 0 to {count - 1}")
            raise InputError(
                f"the teacher has {numbers} of {name}, but layer {wrong[0]} was asked for; "
                f"change distill.{kind}.layers"
            )


def class_scores(
    logits: Float[Tensor, "*any logits"], classification: str
) -> Float[Tensor, "*any classes"]:
    """Probabilities of the real classes: sigmoids ("focal"), or the softmax without its last,
    "no object".

    >>> class_scores(torch.zeros(4), "softmax")
    tensor([0.2500, 0.2500, 0.2500])
    """
    return logits.sigmoid() if classification == "focal" else logits.softmax(-1)[..., :-1]


def fingerprint(model: nn.Module, settings: Mapping[str, Any]) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers (those that are not
    saved too, such as the normalisation of the input), and over plain settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
