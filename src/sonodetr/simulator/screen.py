"""What lies around and over the picture on a scanner's screen."""

from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from sonodetr.simulator import codec as codecs
from sonodetr.simulator.codec import Codec, CodecRanges, compress, draw_codec
from sonodetr.simulator.layout import Layout

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_PX = 22.0  # height of its capitals at scale 1
_CANVAS_PX = 480  # what is drawn is drawn at least this large and then shrunk, as recordings are

Share = tuple[float, float]  # x and y as shares of the picture's rectangle


@dataclass(frozen=True)
class Screen:
    """A scanner's screen, the same for all frames of a recording; `Screen()` is empty.

    Attributes:
        background: grey value around the picture.
        ink: grey value of text and marks.
        text_height: height of capitals as a share of the frame's larger side.
        corners: lines of text in the corners "top left", "top right", "bottom left" and
            "bottom right"; lines that would cross the picture are left out.
        panel: grey value of a bar along the bottom of the screen, 0 for none.
        frame: grey value of thin lines around the picture, 0 for none.
        ruler: where the depth ruler stands.
        fine_ruler: ticks every 5 mm instead of 10 where the picture is shallower than 100 mm.
        focus: marker of the focus beside the ruler, as a share of the depth.
        mark: mark of the probe's orientation beside its face.
        grey_bar: the grey scale as a bar at the side without the ruler.
        logo: a blob in the upper left.
        calipers: crosses in the picture, joined in pairs by dots.
        guide: both ends of a needle guide, a dotted line through the picture.
        cursor: tip of an arrow.
        codec: how the screen was recorded.
    """

    background: int = 0
    ink: int = 200
    text_height: float = 0.02
    corners: dict[str, tuple[str, ...]] = field(default_factory=dict)
    panel: int = 0
    frame: int = 0
    ruler: Literal["none", "left", "right"] = "none"
    fine_ruler: bool = False
    focus: float | None = None
    mark: Literal["none", "dot", "ring", "bar", "letter"] = "none"
    grey_bar: bool = False
    logo: bool = False
    calipers: tuple[Share, ...] = ()
    guide: tuple[Share, ...] = ()
    cursor: Share | None = None
    codec: Codec = field(default_factory=Codec)


@dataclass(frozen=True)
class ScreenRanges:
    """How screens may look; pairs are lowest and highest, single numbers are probabilities.

    Attributes:
        empty: nothing around the picture and nothing over it.
        grey_background: the background is not black.
    """

    empty: float
    grey_background: float
    background: tuple[int, int]
    ink: tuple[int, int]
    text_height: tuple[float, float]
    corner: float
    panel: float
    frame: float
    ruler: float
    focus: float
    mark: float
    grey_bar: float
    logo: float
    calipers: float
    guide: float
    cursor: float
    codec: CodecRanges


STANDARD = ScreenRanges(
    empty=0.35,
    grey_background=0.2,
    background=(3, 30),
    ink=(110, 255),
    text_height=(0.012, 0.026),
    corner=0.5,
    panel=0.15,
    frame=0.1,
    ruler=0.65,
    focus=0.4,
    mark=0.6,
    grey_bar=0.25,
    logo=0.25,
    calipers=0.06,
    guide=0.06,
    cursor=0.04,
    codec=codecs.STANDARD,
)
SHIFTED = ScreenRanges(
    empty=0.05,
    grey_background=0.6,
    background=(25, 70),
    ink=(200, 255),
    text_height=(0.022, 0.034),
    corner=0.8,
    panel=0.4,
    frame=0.3,
    ruler=0.9,
    focus=0.6,
    mark=0.8,
    grey_bar=0.5,
    logo=0.5,
    calipers=0.15,
    guide=0.2,
    cursor=0.15,
    codec=codecs.SHIFTED,
)


def draw_screen(random: np.random.Generator, ranges: ScreenRanges) -> Screen:
    """Draw how a screen looks and how it is recorded."""
    codec = draw_codec(random, ranges.codec)
    if random.random() < ranges.empty:
        return Screen(codec=codec)

    def chance(probability: float) -> bool:
        return bool(random.random() < probability)

    def share() -> Share:
        return random.uniform(0.1, 0.9), random.uniform(0.1, 0.9)

    corners = ("top left", "top right", "bottom left", "bottom right")
    return Screen(
        background=int(random.integers(*ranges.background)) * chance(ranges.grey_background),
        ink=int(random.integers(*ranges.ink)),
        text_height=random.uniform(*ranges.text_height),
        corners={corner: _settings(random) for corner in corners if chance(ranges.corner)},
        panel=int(random.integers(20, 90)) * chance(ranges.panel),
        frame=int(random.integers(40, 130)) * chance(ranges.frame),
        ruler=("right" if chance(0.7) else "left") if chance(ranges.ruler) else "none",
        fine_ruler=chance(0.5),
        focus=random.uniform(0.1, 0.8) if chance(ranges.focus) else None,
        mark=random.choice(["dot", "ring", "bar", "letter"]).item()
        if chance(ranges.mark)
        else "none",
        grey_bar=chance(ranges.grey_bar),
        logo=chance(ranges.logo),
        calipers=tuple(share() for _ in range(2 * random.integers(1, 3)))
        if chance(ranges.calipers)
        else (),
        guide=_guide(random) if chance(ranges.guide) else (),
        cursor=share() if chance(ranges.cursor) else None,
        codec=codec,
    )


def _settings(random: np.random.Generator) -> tuple[str, ...]:
    """Lines such as "Gn 52  DR 60": one or several settings a line."""
    number = random.integers
    items = [
        "B",
        "2D",
        "THI",
        f"MI {number(4, 15) / 10}",
        f"TIS {number(1, 20) / 10}",
        f"Gn {number(20, 90)}",
        f"DR {number(45, 80)}",
        f"{number(20, 150) / 10}MHz",
        f"{number(20, 200) / 10}cm",
        f"{number(8, 60)}Hz",
        f"AO {number(40, 100)}%",
        f"Map {number(1, 9)}",
        f"PRS {number(0, 5)}",
        str(random.choice(["MSK", "Nerve", "Vascular", "Abdomen", "Small Parts", "Breast"])),
        f"{random.choice(['L', 'C', 'P'])}{number(8, 18)}-{number(2, 6)}",
        f"{number(1, 13):02}/{number(1, 29):02}/{number(2008, 2026)}",
        f"{number(0, 24):02}:{number(0, 60):02}:{number(0, 60):02}",
    ]
    items = random.permutation(items)[: number(1, 10)].tolist()
    a_line = int(number(1, 5))
    return tuple("  ".join(items[i : i + a_line]) for i in range(0, len(items), a_line))


def _guide(random: np.random.Generator) -> tuple[Share, Share]:
    """From a side of the picture near the face to the depth, or the other way round."""
    side = float(random.integers(0, 2))
    return (side, random.uniform(0, 0.3)), (
        abs(side - random.uniform(0.4, 1.0)),
        random.uniform(0.5, 1),
    )


def paint(
    screen: Screen,
    pictures: UInt8[np.ndarray, "frames height width"],
    mask: Bool[np.ndarray, "height width"],
    layout: Layout,
) -> UInt8[np.ndarray, "frames height width"]:
    """The recorded screen: pictures in place, the background around them, text and marks, codec.

    Args:
        pictures: the picture in its place in every frame; what is outside `mask` is not used.
        mask: the pixels that belong to the picture (see `Layout.mask`).
    """
    around, over = _ink(screen, mask, layout)
    surround = np.maximum(around, np.uint8(screen.background))
    frames = np.maximum(np.where(mask, pictures, surround), over)
    return compress(screen.codec, frames)


def _ink(screen: Screen, mask: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """`[H, W]` twice: what is written around the picture, and what lies over it."""
    if screen == Screen(codec=screen.codec):
        return np.zeros(mask.shape, np.uint8), np.zeros(mask.shape, np.uint8)
    pen = _Pen(screen, mask, layout)
    pen.surroundings()
    pen.text()
    pen.ruler()
    pen.mark()
    pen.overlays()
    size = mask.shape[::-1]
    return (
        cv2.resize(pen.around, size, interpolation=cv2.INTER_AREA),
        cv2.resize(pen.over, size, interpolation=cv2.INTER_AREA),
    )


class _Pen:
    """Draws on two canvases, `scale` times as large as the frame; takes positions in its pixels."""

    def __init__(self, screen: Screen, mask: np.ndarray, layout: Layout) -> None:
        self.screen, self.mask, self.layout = screen, mask, layout
        self.height, self.width = mask.shape
        side = max(mask.shape)
        self.scale = max(1, round(_CANVAS_PX / side))
        self.unit = side / 100  # hundredths of the frame's larger side, in which marks are measured
        self.around, self.over = np.zeros(
            (2, self.height * self.scale, self.width * self.scale), np.uint8
        )

    def at(self, x: float, y: float) -> tuple[int, int]:
        """Position on the canvas."""
        return round(x * self.scale), round(y * self.scale)

    def size(self, units: float) -> int:
        """Length on the canvas, at least one pixel."""
        return max(1, round(units * self.unit * self.scale))

    def line(self, canvas: np.ndarray, x0: float, y0: float, x1: float, y1: float) -> None:
        thick = max(1, self.scale // 2)
        cv2.line(canvas, self.at(x0, y0), self.at(x1, y1), self.screen.ink, thick, cv2.LINE_AA)

    def write(self, text: str, x: float, y: float) -> None:
        """Text with its lower left corner at (x, y), unless it would cross the picture."""
        size = self.screen.text_height * max(self.mask.shape)
        width = self.text_width(text)
        top, left = max(0, int(y - 1.2 * size)), max(0, int(x - 1))
        if not self.mask[top : int(y + 0.4 * size) + 1, left : int(x + width) + 2].any():
            scale = size * self.scale / _FONT_PX
            args = (_FONT, scale, self.screen.ink, max(1, round(scale)), cv2.LINE_AA)
            cv2.putText(self.around, text, self.at(x, y), *args)

    def text_width(self, text: str) -> float:
        scale = self.screen.text_height * max(self.mask.shape) * self.scale / _FONT_PX
        return cv2.getTextSize(text, _FONT, scale, max(1, round(scale)))[0][0] / self.scale

    def surroundings(self) -> None:
        """Panel, frame lines, logo and grey bar."""
        screen, unit = self.screen, self.unit
        x0, y0, x1, y1 = self.layout.rectangle_px
        if screen.panel and y1 + 2 * unit < self.height:
            top = max(y1 + unit, self.height - 6 * unit)
            corner = self.at(self.width, self.height)
            cv2.rectangle(self.around, self.at(0, top), corner, screen.panel, -1)
        if screen.frame:
            corners = self.at(x0 - unit, y0 - unit), self.at(x1 + unit, y1 + unit)
            cv2.rectangle(self.around, *corners, screen.frame, max(1, self.scale // 2))
        if screen.logo:
            middle, axes = self.at(4 * unit, 4 * unit), (self.size(2.5), self.size(1.5))
            cv2.ellipse(self.around, middle, axes, 20, 0, 360, screen.ink, -1, cv2.LINE_AA)
            cv2.ellipse(self.around, middle, (axes[1], axes[1]), 0, 0, 250, 0, self.size(0.7))
        if screen.grey_bar:
            left = 2 * unit if screen.ruler == "right" else self.width - 4 * unit
            (a, top), (b, bottom) = self.at(left, y0), self.at(left + 2 * unit, (y0 + 2 * y1) / 3)
            grey = np.linspace(255, 0, max(1, bottom - top)).astype(np.uint8)
            self.around[top:bottom, a:b] = grey[:, None][: self.around.shape[0] - top]

    def text(self) -> None:
        """Lines of text in the corners."""
        step = 1.7 * self.screen.text_height * max(self.mask.shape)
        for corner, lines in self.screen.corners.items():
            first = 1.5 * step if corner.startswith("top") else self.height - step * len(lines)
            first += step * 3 * (self.screen.logo and corner == "top left")
            for number, text in enumerate(lines):
                right = self.width - self.unit - self.text_width(text)
                x = self.unit if corner.endswith("left") else right
                self.write(text, x, first + number * step)

    def ruler(self) -> None:
        """Ticks by depth, numbers where they have room, and the marker of the focus."""
        screen, layout, unit = self.screen, self.layout, self.unit
        if screen.ruler == "none":
            return
        x0, y0, x1, y1 = layout.rectangle_px
        out = 1 if screen.ruler == "right" else -1
        # Beside the picture; where that leaves the frame, over its edge.
        start = float(np.clip(x1 + unit if out > 0 else x0 - unit, 2 * unit, self.width - 2 * unit))
        fine = screen.fine_ruler and layout.bottom_mm < 100
        step_mm, long = (5, 2) if fine else (10, 5)
        for number in range(int(layout.bottom_mm // step_mm) + 1):
            y = layout.top_px + (number * step_mm - layout.top_mm) / layout.mm_per_px
            if y0 <= y <= y1:
                length = (1.8 if number % long == 0 else 0.9) * unit
                self.line(self.over, start, y, start + out * length, y)
                if number % long == 0 and number:
                    text = str(number * step_mm // 10)
                    near = start + out * 2.5 * unit
                    near -= self.text_width(text) * (out < 0)
                    self.write(text, near, y + screen.text_height * self.height / 2)
        if screen.focus is not None:
            y = y0 + screen.focus * (y1 - y0)
            points = [(start, y), (start + out * 1.8 * unit, y - unit)]
            points.append((points[1][0], y + unit))
            marker = np.array([self.at(*point) for point in points])
            cv2.fillPoly(self.over, [marker], screen.ink, cv2.LINE_AA)

    def mark(self) -> None:
        """The mark of the probe's orientation, beside the end of its face."""
        if self.screen.mark == "none" or not self.mask.any():
            return
        y = int(self.mask.any(1).argmax())
        face = np.flatnonzero(self.mask[min(y + 1, self.height - 1)])
        if not len(face):
            return
        out = 1 if self.layout.mirrored else -1
        x = (face[-1] if out > 0 else face[0]) + out * 2.5 * self.unit
        x = float(np.clip(x, 2 * self.unit, self.width - 2 * self.unit))
        y_px = max(y + self.unit, 2.5 * self.unit)
        radius, ink = self.size(1.2), self.screen.ink
        match self.screen.mark:
            case "dot":
                cv2.circle(self.over, self.at(x, y_px), radius, ink, -1, cv2.LINE_AA)
            case "ring":
                thick = max(1, radius // 3)
                cv2.circle(self.over, self.at(x, y_px), radius, ink, thick, cv2.LINE_AA)
            case "bar":
                self.line(self.over, x, y_px - 1.5 * self.unit, x, y_px + 1.5 * self.unit)
            case _:
                self.write("V", x - self.unit, y_px + self.unit)

    def overlays(self) -> None:
        """Calipers, needle guide and cursor, which may lie over the picture."""
        x0, y0, x1, y1 = self.layout.rectangle_px

        def place(share: Share) -> tuple[float, float]:
            return x0 + share[0] * (x1 - x0), y0 + share[1] * (y1 - y0)

        ends = [place(share) for share in self.screen.calipers]
        arm = 1.2 * self.unit
        for x, y in ends:
            self.line(self.over, x - arm, y, x + arm, y)
            self.line(self.over, x, y - arm, x, y + arm)
        for first, second in zip(ends[::2], ends[1::2], strict=True):
            self.dots(first, second)
        if self.screen.guide:
            first, second = (place(share) for share in self.screen.guide)
            self.dots(first, second)
        if self.screen.cursor:
            x, y = place(self.screen.cursor)
            shape = np.array([(0, 0), (0, 4), (1, 3), (2.6, 3)]) * self.unit + (x, y)
            arrow = np.array([self.at(*point) for point in shape])
            cv2.fillPoly(self.over, [arrow], self.screen.ink, cv2.LINE_AA)

    def dots(self, first: tuple[float, float], second: tuple[float, float]) -> None:
        """A dotted straight line."""
        start, end = np.array(first), np.array(second)
        count = int(np.hypot(*(end - start)) / (1.8 * self.unit)) + 2
        for share in np.linspace(0, 1, count):
            spot = self.at(*(start + share * (end - start)))
            cv2.circle(self.over, spot, self.size(0.25), self.screen.ink, -1, cv2.LINE_AA)
