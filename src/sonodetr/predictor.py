"""One `predict` over every kind of model and every kind of source.

Imports no torch: an exported model runs without it.
"""

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from sonodetr.bundled import model_folder
from sonodetr.contract import CONTRACT, Interface, read_contract
from sonodetr.data.region import find_region, region_of
from sonodetr.data.warp import warp_frame
from sonodetr.engines import Engine, open_engine
from sonodetr.files import InputError
from sonodetr.formats import open_source
from sonodetr.geometry import Letterbox, detections_in_frame
from sonodetr.types import (
    Detections,
    Frame,
    Pixels,
    Region,
    Spacing,
    Video,
    clip_indices,
    frames_of,
)

RegionChoice = Literal["auto", "full"] | Region


class Seen(NamedTuple):
    """A frame as the model sees it; small enough to keep the last ones of a live source.

    Attributes:
        kept: its ultrasound picture, as large as it fits, black where that does not reach; or what
            the engine made of it.
        letterbox: the way back to its pixels.
        frame_index, time_s, spacing_mm: as of the frame.
    """

    kept: np.ndarray
    letterbox: Letterbox
    frame_index: int
    time_s: float
    spacing_mm: Spacing | None


class Predictor:
    """A trained model that finds objects in frames; made by `load`.

    Attributes:
        class_names: what it can find.
        threshold: score from which on a detection is reported, chosen on validation data.
        image_size: height and width in pixels that the model sees.
        interface: all that it sees and answers.
    """

    def __init__(self, engine: Engine, interface: Interface) -> None:
        self.engine, self.interface = engine, interface
        self.class_names = interface.classes
        self.threshold = interface.threshold
        self.image_size = interface.image_size

    def predict(
        self,
        source: str | os.PathLike[str] | Video | Iterable[Frame | Pixels],
        *,
        threshold: float | None = None,
        region: RegionChoice | None = None,
    ) -> Iterator[Detections]:
        """Detections of every frame, in order, as they are made.

        Args:
            source: address of a recording, a recording, or frames (plain pictures are taken whole).
            threshold: least score; default is the model's own, 0 gives everything.
            region: what of a recording the model sees: its ultrasound picture ("auto"), all of it
                ("full"), or a rectangle; default is as in training.

        Raises:
            InputError: the source cannot be read.

        >>> for found in load("runs/nerves").predict("cine.dcm"):  # doctest: +SKIP
        ...     print(found.time_s, found.scores)
        """
        if isinstance(source, str | os.PathLike):
            source = open_source(source)
        if isinstance(source, Video):
            frames: Iterable[Frame | Pixels] = frames_of(self.with_region(source, region))
        else:
            frames = source
        return self.predict_frames(map(_as_frame, frames, itertools.count()), threshold=threshold)

    def with_region(self, video: Video, region: RegionChoice | None = None) -> Video:
        """The recording with the rectangle that the model is to see (see `predict`).

        Its `region_px` is None where "auto" finds no ultrasound picture: the model then sees whole
        frames, and overlays show them, with whatever names are burned in.

        Raises:
            InputError: a given rectangle does not lie inside the frames.
        """
        choice = self.interface.region if region is None else region
        if isinstance(choice, Region):
            return replace(video, region_px=_inside(choice, video.frames.size, video.key))
        if choice == "auto":
            return replace(video, region_px=video.region_px or find_region(video.frames))
        return replace(video, region_px=region_of(video, "full"))

    def predict_frames(
        self, frames: Iterable[Frame], *, threshold: float | None = None
    ) -> Iterator[Detections]:
        """Detections of each frame; what lies outside `Frame.region_px` is never looked at.

        One frame goes through the model at a time, and none is read ahead: on a CPU batches are not
        faster, and with a live source they would come late. A model of clips also sees the frames
        given before, so they must be consecutive frames of one recording; at the beginning the
        first one is repeated, as in training.

        Raises:
            InputError: a frame is no picture, or its region does not lie inside it.
        """
        least = self.threshold if threshold is None else threshold
        frames_a_clip, step = self.interface.clip_frames, self.interface.clip_step
        seen: deque[Seen] = deque(maxlen=(frames_a_clip - 1) * step + 1)
        for frame in frames:
            seen.append(self.see(frame))
            clip = [seen[index] for index in clip_indices(len(seen) - 1, frames_a_clip, step)]
            yield self.detect(clip).above(least)

    def see(self, frame: Frame) -> Seen:
        """A frame as the model sees it, for `detect`.

        Raises:
            InputError: the frame is no picture, or its region does not lie inside it.
        """
        _check_pixels(frame)
        height, width = frame.pixels.shape[:2]
        region = frame.region_px or Region(0, 0, width, height)
        region = _inside(region, (height, width), f"frame {frame.index}")
        letterbox = Letterbox.fit(region, *self.image_size)
        picture = warp_frame(
            frame.pixels, region, letterbox.matrix(), self.image_size, self.interface.channels
        )
        kept = self.engine.see(picture)
        return Seen(kept, letterbox, frame.index, frame.time_s, frame.spacing_mm)

    def detect(self, clip: Sequence[Seen]) -> Detections:
        """Everything found in the last frame of a clip, whatever its score.

        Args:
            clip: the frames that `types.clip_indices` names, oldest first.
        """
        last = clip[-1]
        return detections_in_frame(
            self.engine.detect([seen.kept for seen in clip]),
            last.letterbox,
            self.image_size,
            self.class_names,
            frame_index=last.frame_index,
            time_s=last.time_s,
            spacing_mm=last.spacing_mm,
        )


def load(model: str | os.PathLike[str], *, device: str = "cpu", threads: int = 0) -> Predictor:
    """Open a trained model.

    Args:
        model: a run folder, an exported folder, or the name of a bundled model.
        device: as torch names it, "cpu" or "cuda"; exported models run on the CPU.
        threads: processor threads; 0 leaves it to the runtime.

    Raises:
        InputError: the folder holds no usable model, its files are not those of its contract, or
            the device is not there.
        ModuleNotFoundError: its runtime is not installed.
    """
    folder = model_folder(model)
    if (folder / CONTRACT).is_file():
        if device != "cpu":
            raise InputError(
                f"{folder}: an exported model runs on the CPU, not on {device!r}; use 'cpu', or "
                "the run folder it came from"
            )
        contract = read_contract(folder)
        return Predictor(open_engine(contract, folder, threads), contract)
    if not (folder / "config.yaml").is_file():
        raise InputError(
            f"{folder}: has no config.yaml, as a run folder has, and no {CONTRACT}, as an exported "
            "folder has; give the folder that `sonodetr train` or `sonodetr export` wrote"
        )
    from sonodetr.engines.torch import open_run

    return Predictor(*open_run(folder, device, threads))


def _as_frame(item: Frame | Pixels, index: int) -> Frame:
    return item if isinstance(item, Frame) else Frame(item, index)


def _check_pixels(frame: Frame) -> None:
    pixels = frame.pixels
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise InputError(
            f"frame {frame.index}: is {pixels.dtype} {list(pixels.shape)}, "
            "but must be uint8, [height, width] or [height, width, 3] in RGB"
        )


def _inside(region: Region, size: tuple[int, int], where: str) -> Region:
    height, width = size
    if not (0 <= region.x0 < region.x1 <= width and 0 <= region.y0 < region.y1 <= height):
        raise InputError(
            f"{where}: region {','.join(map(str, region))} does not lie inside the {width} x "
            f"{height} pixels; give x0,y0,x1,y1 with x0 < x1 <= {width} and y0 < y1 <= {height}"
        )
    return region
