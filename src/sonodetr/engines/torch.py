"""A run folder's model in torch itself, as it was trained."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sonodetr.config import Config
from sonodetr.contract import Interface
from sonodetr.files import InputError
from sonodetr.model.decode import answers_of
from sonodetr.model.detr import DETR, Capture
from sonodetr.shapes import Float, Float32, UInt8
from sonodetr.training.run import WEIGHTS, RunInfo, load_run
from sonodetr.types import Answer


class TorchEngine:
    """Runs a model in evaluation mode.

    Args:
        model: it is moved to the device.
        device: as torch names it.

    Raises:
        InputError: the device is not there.
    """

    def __init__(self, model: DETR, device: str = "cpu") -> None:
        self._device = _device(device)
        self.model = model.to(self._device).eval()

    def see(self, picture: UInt8[np.ndarray, "height width channels"]) -> np.ndarray:
        """As `Engine.see`."""
        return picture

    @torch.inference_mode()
    def detect(self, clip: Sequence[np.ndarray]) -> Answer:
        """As `Engine.detect`."""
        (answer,) = answers_of(self.model(self._images(clip)), self.model.config.classification)
        return answer

    @property
    def attends(self) -> bool:
        """Whether there is an encoder, whose attention can be asked for."""
        return self.model.config.encoder_layers > 0

    @torch.inference_mode()
    def attention(
        self, clip: Sequence[np.ndarray], x: float, y: float
    ) -> Float32[np.ndarray, "rows columns"]:
        """Where the last frame's token at a point looks in that frame.

        It is the row of that token in the last encoder layer's self-attention, the mean of its
        heads. Over all frames of the clip a row sums to one.

        Args:
            clip: as for `detect`.
            x, y: in 0..1 of the model's input; beyond it, the token at its edge is taken.

        Raises:
            InputError: the model has no encoder.
        """
        if not self.attends:
            raise InputError(
                "the model has no encoder layers, so it has no self-attention to show; choose one "
                "with model.encoder_layers of 1 or more"
            )
        last = self.model.config.encoder_layers - 1
        outputs = self.model(self._images(clip), Capture(encoder=(last,)))
        _, rows, columns = outputs.grid
        row = min(max(0, int(y * rows)), rows - 1)
        column = min(max(0, int(x * columns)), columns - 1)
        # Tokens lie frame by frame; those of the last one are at the end.
        among = outputs.attention.encoder[last][0].mean(0)[-rows * columns :, -rows * columns :]
        return among[row * columns + column].view(rows, columns).float().cpu().numpy()

    def _images(
        self, clip: Sequence[np.ndarray]
    ) -> Float[torch.Tensor, "1 channels time height width"]:
        pictures = torch.from_numpy(np.stack(clip)).to(self._device)
        # [time, height, width, channels] -> [batch, channels, time, height, width]
        return pictures.permute(3, 0, 1, 2)[None].float() / 255


def open_run(
    folder: str | os.PathLike[str], device: str = "cpu", threads: int = 0
) -> tuple[TorchEngine, Interface]:
    """The model of a run folder.

    Args:
        threads: processor threads, of the whole process; 0 leaves it to torch.

    Raises:
        InputError: the folder holds no usable model, or the device is not there.
    """
    if threads:
        torch.set_num_threads(threads)
    model, config, info = load_checked(folder)
    return TorchEngine(model, device), interface_of(config, info)


def load_checked(folder: str | os.PathLike[str]) -> tuple[DETR, Config, RunInfo]:
    """As `load_run`, and the numbers can be those of a model.

    Raises:
        InputError: the folder holds no usable model, its weights are not all finite, or its
            threshold is no score.
    """
    model, config, info = load_run(folder)
    for name, values in model.state_dict().items():
        if not values.isfinite().all():
            raise InputError(
                f"{Path(folder) / WEIGHTS}: {name} is not all finite; the file is damaged, or the "
                "training came to nothing: copy it again, or train with a lower learning rate"
            )
    if not 0 <= info.threshold <= 1:
        raise InputError(
            f"{folder}: run.json has the threshold {info.threshold}, but only 0 to 1 is allowed; "
            "restore it"
        )
    return model, config, info


def interface_of(config: Config, info: RunInfo) -> Interface:
    """What the model of a run sees and answers."""
    data = config.data
    return Interface(
        image_size=data.image_size,
        channels=data.channels,
        clip_frames=data.clip_frames,
        clip_step=data.clip_step,
        region=data.region,
        classes=info.classes,
        threshold=info.threshold,
        points=config.model.points,
    )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used ({reason}); use 'cpu'") from None
    return device
