"""Run a trained model on recordings, pictures, or frames as they come."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from sonodetr.config import Config
from sonodetr.data.region import region_of
from sonodetr.data.warp import warp_frame
from sonodetr.files import InputError
from sonodetr.formats import open_source
from sonodetr.geometry import Letterbox
from sonodetr.model.decode import detections_of
from sonodetr.model.detr import DETR
from sonodetr.model.tensors import Source
from sonodetr.training.run import RunInfo, load_run
from sonodetr.types import Detections, Frame, Region, Video, frames_of


def load(model: str | os.PathLike[str], *, device: str = "cpu", threads: int = 0) -> "Predictor":
    """Open a trained model.

    Args:
        model: run folder, as `sonodetr train` writes it.
        device: where it runs: "cpu", "cuda", "cuda:1", ...
        threads: processor threads of this process; 0 leaves their number to torch.

    Raises:
        InputError: the folder is no run or lacks weights, a file in it is damaged, or the device is
            not there.

    >>> predictor = load("runs/nerves")  # doctest: +SKIP
    >>> for detections in predictor.predict("needle.mp4"):  # doctest: +SKIP
    ...     print(detections.frame_index, len(detections))
    """
    path = Path(model)
    if not path.is_dir():
        found = "is a file, not a run folder" if path.exists() else "no such run folder"
        raise InputError(
            f"{path}: {found}; give the folder that `sonodetr train` wrote, "
            "with config.yaml, run.json and model.safetensors (pickled checkpoints are not opened)"
        )
    network, config, info = load_run(path)
    if threads:
        torch.set_num_threads(threads)
    return Predictor(network.to(_device(device)), config, info)


class Predictor:
    """A trained model, from frames to detections. Made by `load`.

    Attributes:
        class_names: names of the classes.
        threshold: operating score of the model, chosen on its validation data.
        image_size: height and width of the model's input in pixels.
        config: of the training run.
        info: what the run folder says of the model.
        model: the network, in evaluation mode.
    """

    def __init__(self, model: DETR, config: Config, info: RunInfo) -> None:
        self.model = model.eval()
        self.config = config
        self.info = info
        self.class_names = info.classes
        self.threshold = info.threshold
        self.image_size = config.data.image_size

    def predict(
        self,
        source: str | os.PathLike[str] | Video | Iterable[Frame | np.ndarray],
        *,
        threshold: float | None = None,
    ) -> Iterator[Detections]:
        """Detections of every frame of a source, in order.

        Args:
            source: address of a recording or picture, a `Video`, or frames; plain arrays are
                `[H, W]` or `[H, W, 3]`, uint8. Of a recording only the ultrasound picture is shown
                to the model, if it was trained so (`data.region`); of single frames everything is,
                unless their `region_px` says otherwise.
            threshold: least score; the model's own where none is given.

        Raises:
            InputError: the source cannot be read, or an array is no picture.
        """
        if isinstance(source, str | os.PathLike):
            source = open_source(source)
        if isinstance(source, Video):
            region = region_of(source, self.config.data.region)
            source = frames_of(replace(source, region_px=region))
        frames = (
            item if isinstance(item, Frame) else Frame(item, index)
            for index, item in enumerate(source)
        )
        yield from self.predict_frames(frames, threshold=threshold)

    def predict_frames(
        self, frames: Iterable[Frame], *, threshold: float | None = None, batch_size: int = 1
    ) -> Iterator[Detections]:
        """Detections of every frame, in order, boxes and points clipped to its region.

        Args:
            frames: read as they are needed, never ahead of what is yielded by more than a batch.
            threshold: least score; the model's own where none is given.
            batch_size: frames that go through the model together. More than one pays on a GPU.

        Raises:
            InputError: a frame is no picture, or its region lies outside it.
        """
        least = self.threshold if threshold is None else threshold
        frames = iter(frames)
        while batch := list(islice(frames, batch_size)):
            for found in self._detect(batch):
                yield found.above(least)

    def _detect(self, frames: Sequence[Frame]) -> list[Detections]:
        regions = [_region(frame) for frame in frames]
        boxes = [Letterbox.fit(region, *self.image_size) for region in regions]
        pictures = [
            warp_frame(
                frame.pixels, region, box.matrix(), self.image_size, self.config.data.channels
            )
            for frame, region, box in zip(frames, regions, boxes, strict=True)
        ]
        # Batch of clips of one frame, channels first: [B, H, W, C] -> [B, C, 1, H, W].
        images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)[:, :, None]
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            outputs = self.model(images.to(device, torch.float32, copy=True).div_(255))
        sources = [Source("", frame.index, box) for frame, box in zip(frames, boxes, strict=True)]
        found = detections_of(
            outputs,
            sources,
            self.image_size,
            self.class_names,
            self.config.model.classification,
        )
        return [
            _in_frame(one, frame, region)
            for one, frame, region in zip(found, frames, regions, strict=True)
        ]


def _in_frame(found: Detections, frame: Frame, region: Region) -> Detections:
    """With the frame's time and spacing, clipped to what the model saw."""
    low, high = np.array(region, np.float32).reshape(2, 2)
    points = found.points_px
    return replace(
        found,
        boxes_xyxy_px=found.boxes_xyxy_px.clip(np.tile(low, 2), np.tile(high, 2)),
        points_px=None if points is None else points.clip(low, high),
        time_s=frame.time_s,
        spacing_mm=frame.spacing_mm,
    )


def _region(frame: Frame) -> Region:
    """What of the frame is shown to the model."""
    pixels = frame.pixels
    colours = pixels.shape[2:]
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or colours not in ((), (3,)):
        raise InputError(
            f"frame {frame.index}: is {pixels.dtype} {list(pixels.shape)}, "
            "but must be uint8, [height, width] or [height, width, 3] in RGB"
        )
    height, width = pixels.shape[:2]
    region = frame.region_px or Region(0, 0, width, height)
    if not (0 <= region.x0 < region.x1 <= width and 0 <= region.y0 < region.y1 <= height):
        raise InputError(
            f"frame {frame.index}: region {','.join(map(str, region))} is not inside the frame of "
            f"{width} x {height} pixels; give x0,y0,x1,y1 with 0 <= x0 < x1 <= {width} and "
            f"0 <= y0 < y1 <= {height}"
        )
    return region


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used ({reason}); use 'cpu'") from None
    return device
