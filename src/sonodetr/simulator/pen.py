"""Draws text and marks around and over a picture, large, and then shrinks them."""

from collections.abc import Iterable

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_PX = 22.0  # height of its capitals at scale 1
_CANVAS_PX = 480  # drawn about this large or larger and then shrunk, as recordings of screens are

Number = float | int
Point = tuple[Number, Number]


class Pen:
    """Two canvases, `around` the picture and `over` it, `scale` times as large as the frame.

    Positions are in pixels of the frame, sizes of marks in `unit`, a hundredth of its larger side.

    Args:
        mask: the pixels of the picture, which nothing `around` may touch.
        ink: grey value of what is drawn.
        text_height: height of capitals as a share of the frame's larger side.
    """

    def __init__(
        self, mask: Bool[np.ndarray, "height width"], ink: int, text_height: float
    ) -> None:
        self.mask, self.ink = mask, ink
        self.taken = mask.copy()  # where no text may go
        self.height, self.width = mask.shape
        self.unit = max(mask.shape) / 100
        self.scale = max(1, round(_CANVAS_PX / max(mask.shape)))
        self.thin = max(1, self.scale // 2)
        self.text_px = text_height * max(mask.shape)
        self._font_scale = self.text_px * self.scale / _FONT_PX
        self._font_thickness = max(1, round(self._font_scale))
        shape = (self.height * self.scale, self.width * self.scale)
        self.around, self.over = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)

    def shrunk(
        self,
    ) -> tuple[UInt8[np.ndarray, "height width"], UInt8[np.ndarray, "height width"]]:
        """Both canvases at the size of the frame, `around` without what the picture hides."""
        size = (self.width, self.height)
        around = cv2.resize(self.around, size, interpolation=cv2.INTER_AREA)
        over = cv2.resize(self.over, size, interpolation=cv2.INTER_AREA)
        return np.where(self.mask, np.uint8(0), around), over

    def at(self, x: Number, y: Number) -> tuple[int, int]:
        """The canvas's pixel whose centre is nearest."""
        return round(x * self.scale - 0.5), round(y * self.scale - 0.5)

    def length(self, units: Number) -> int:
        """Length on the canvas, at least one pixel."""
        return max(1, round(units * self.unit * self.scale))

    def text_width(self, text: str) -> float:
        """Width of a text in pixels of the frame."""
        size, _ = cv2.getTextSize(text, _FONT, self._font_scale, self._font_thickness)
        return size[0] / self.scale

    def write(self, text: str, x: Number, y: Number) -> Bool[np.ndarray, "rows columns"]:
        """Text with its lower left corner at (x, y), unless it would cross what is taken.

        Returns its part of `taken`, for the caller to take.
        """
        top, left = max(0, int(y - 1.2 * self.text_px)), max(0, int(x - 1))
        bottom, right = int(y + 0.4 * self.text_px) + 1, int(x + self.text_width(text)) + 2
        box = self.taken[top : max(top, bottom), left : max(left, right)]
        if not box.any():
            style = (self._font_scale, self.ink, self._font_thickness, cv2.LINE_AA)
            cv2.putText(self.around, text, self.at(x, y), _FONT, *style)
        return box

    def line(self, x0: Number, y0: Number, x1: Number, y1: Number) -> None:
        """A thin line."""
        cv2.line(self.over, self.at(x0, y0), self.at(x1, y1), self.ink, self.thin, cv2.LINE_AA)

    def circle(self, x: Number, y: Number, units: Number, *, filled: bool = True) -> None:
        """A disc or a ring."""
        radius = self.length(units)
        thickness = -1 if filled else max(1, radius // 3)
        cv2.circle(self.over, self.at(x, y), radius, self.ink, thickness, cv2.LINE_AA)

    def polygon(self, points: Iterable[Iterable[Number]]) -> None:
        """A filled polygon."""
        corners = np.array([self.at(x, y) for x, y in points])
        cv2.fillPoly(self.over, [corners], self.ink, cv2.LINE_AA)

    def dots(self, first: Point, second: Point) -> None:
        """A dotted straight line."""
        start, end = np.array(first), np.array(second)
        count = int(np.hypot(*(end - start)) / (1.8 * self.unit)) + 2
        for share in np.linspace(0, 1, count):
            x, y = start + share * (end - start)
            self.circle(x, y, 0.25)
