"""Sources, models and sinks whose every step a test decides."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event

import numpy as np

from sonodetr.contract import Interface
from sonodetr.predictor import Predictor
from sonodetr.stream.flow import Captured
from sonodetr.types import Answer, Frame, Video

CLASSES = ("needle", "nerve")
# Nothing here takes longer; what does hangs.
LONGEST_S = 20.0


class Model:
    """An engine: the mean grey of the last frame is the score of one object in the middle.

    It also remembers the mean grey of all frames of every clip, and does `before(clip)` first.
    """

    def __init__(self, before: Callable[[list[int]], None] = lambda clip: None) -> None:
        self.clips: list[list[int]] = []
        self.before = before

    def see(self, picture: np.ndarray) -> np.ndarray:
        return picture

    def detect(self, clip: list[np.ndarray]) -> Answer:
        greys = [round(float(picture.mean())) for picture in clip]
        self.clips.append(greys)
        self.before(greys)
        return Answer(
            np.float32([greys[-1] / 255]), np.int64([1]), np.float32([[0.5, 0.5, 0.5, 0.5]])
        )


def predictor(
    before: Callable[[list[int]], None] = lambda clip: None,
    *,
    clip_frames: int = 1,
    clip_step: int = 1,
    region: str = "full",
    threshold: float = 0.0,
) -> Predictor:
    interface = Interface((8, 12), 1, clip_frames, clip_step, region, CLASSES, threshold, False)
    return Predictor(Model(before), interface)


def grey(level: int, size: tuple[int, int] = (8, 12)) -> np.ndarray:
    return np.full(size, level, np.uint8)


class Pictures(list):
    """Frames of a recording that are in memory already."""

    @property
    def size(self) -> tuple[int, int]:
        return self[0].shape[:2]


def recording(count: int, rate_hz: float = 100.0) -> Video:
    """Frames of 8 x 12 pixels; frame i has grey level i + 1."""
    return Video(
        "folder/made-up.mp4", Pictures(map(grey, range(1, count + 1))), np.arange(count) / rate_hz
    )


class LiveSource:
    """A live source; `steps` are its frames, and between them whatever is to be done.

    A step is a picture, a number (a new part, as after a loss), or a function to call.
    """

    name = "made up"
    live = True

    def __init__(self, steps, period_s: float = 0.0, rate_hz: float | None = None) -> None:
        self.steps, self.period_s, self.rate_hz = steps, period_s, rate_hz

    def frames(self, stop: Event) -> Iterator[Captured]:
        index, part, started_s = 0, 0, time.monotonic()
        for step in self.steps:
            if callable(step):
                step()
            elif isinstance(step, int):
                part = step
            else:
                stop.wait(self.period_s)
                if stop.is_set():
                    return
                now_s = time.monotonic()
                yield Captured(Frame(step, index, now_s - started_s), now_s, part)
                index += 1


class Kept:
    """A sink that keeps what it gets, and calls `each(result)` before."""

    def __init__(self, name: str = "kept", each=lambda result: None, every_frame=False) -> None:
        self.name, self.each, self.every_frame = name, each, every_frame
        self.results: list = []
        self.opened = self.closed = False

    @contextmanager
    def open(self):
        self.opened = True

        def deliver(result) -> None:
            self.each(result)
            self.results.append(result)

        try:
            yield deliver
        finally:
            self.closed = True

    @property
    def indices(self) -> list[int]:
        return [result.frame.index for result in self.results]


def wait_until(ready: Callable[[], bool]) -> None:
    end_s = time.monotonic() + LONGEST_S
    while not ready():
        assert time.monotonic() < end_s, "this hangs"
        time.sleep(0.002)
