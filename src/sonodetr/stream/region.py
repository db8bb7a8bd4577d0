"""Where the ultrasound picture lies in a stream that cannot be looked through beforehand."""

from dataclasses import replace
from typing import Literal

import numpy as np

from sonodetr.data.region import SAMPLES, find_region_in
from sonodetr.types import Frame, Pixels, Region

# Frames looked at lie this far apart: speckle has changed, and text has not.
SAMPLE_GAP_S = 0.1


class LiveRegion:
    """Finds the rectangle that a model sees in the first frames of a stream.

    A source that names it is believed. Otherwise the first frame alone gives a first answer, and
    frames over about a second the last one, as `data.region` finds it in a recording.

    Args:
        choice: "auto", "full" or a rectangle in pixels.

    Attributes:
        state: "searching", "whole frame" (all of it is seen, and shown), or the rectangle.
    """

    state: Literal["searching", "whole frame"] | Region

    def __init__(self, choice: Literal["auto", "full"] | Region) -> None:
        self._choice = choice
        self.restart()

    def restart(self) -> None:
        """The next frame may be of another screen."""
        self._samples: list[Pixels] = []
        self._sampled_s = -np.inf
        self._first: Region | None = None
        if isinstance(self._choice, Region):
            self.state = self._choice
        else:
            self.state = "whole frame" if self._choice == "full" else "searching"

    def place(self, frame: Frame, captured_s: float) -> Frame:
        """The frame with its region; None there means all of it, or nothing found yet."""
        if self._choice == "auto":
            if frame.region_px is not None:
                self.state = frame.region_px
                return frame
            if self.state == "searching" and captured_s >= self._sampled_s + SAMPLE_GAP_S:
                self._sampled_s = captured_s
                self._search(frame.pixels)
        region = self.state if isinstance(self.state, Region) else self._first
        return replace(frame, region_px=region)

    def _search(self, pixels: Pixels) -> None:
        self._samples.append(pixels)
        if len(self._samples) == 1:
            self._first = find_region_in(self._samples)
        elif len(self._samples) == SAMPLES:
            self.state = find_region_in(self._samples) or "whole frame"
            self._first = None
            self._samples = []


def only_region(pixels: Pixels, region: Region | None) -> Pixels:
    """The picture, black outside the region; all black without one.

    >>> only_region(np.full((2, 3), 9, np.uint8), Region(1, 0, 2, 2))
    array([[0, 9, 0],
           [0, 9, 0]], dtype=uint8)
    """
    black = np.zeros_like(pixels)
    if region is not None:
        inside = slice(region.y0, region.y1), slice(region.x0, region.x1)
        black[inside] = pixels[inside]
    return black
