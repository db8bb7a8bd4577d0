"""What lies around and over the picture on a scanner's screen."""

from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from sonodetr.simulator import codec as codecs
from sonodetr.simulator.codec import Codec, CodecRanges, compress, draw_codec
from sonodetr.simulator.layout import Layout
from sonodetr.simulator.pen import Pen

Share = tuple[float, float]  # x and y as shares of the picture's rectangle


@dataclass(frozen=True)
class Screen:
    """A scanner's screen, the same for all frames of a recording; `Screen()` is empty.

    Attributes:
        background: grey value around the picture.
        ink: grey value of text and marks.
        text_height: height of capitals as a share of the frame's larger side.
        corners: lines of text in the corners "top left", "top right", "bottom left" and
            "bottom right"; lines that would cross the picture or others are left out.
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
        corners=_settings(random, [corner for corner in corners if chance(ranges.corner)]),
        panel=int(random.integers(20, 60)) * chance(ranges.panel),
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


def _settings(random: np.random.Generator, corners: list[str]) -> dict[str, tuple[str, ...]]:
    """Lines such as "Gn 52  DR 60", one or several settings a line, dealt out to the corners."""
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
    items = random.permutation(items)[: number(3, len(items) + 1)].tolist()
    dealt = {}
    for place, corner in enumerate(corners):
        own, a_line = items[place :: len(corners)], int(number(1, 5))
        dealt[corner] = tuple("  ".join(own[i : i + a_line]) for i in range(0, len(own), a_line))
    return dealt


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
    pen = Pen(mask, screen.ink, screen.text_height)
    _surroundings(pen, screen, layout)
    _text(pen, screen)
    _ruler(pen, screen, layout)
    _mark(pen, screen, layout)
    _overlays(pen, screen, layout)
    return pen.shrunk()


def _surroundings(pen: Pen, screen: Screen, layout: Layout) -> None:
    """Panel, frame lines, logo and grey bar."""
    unit, (x0, y0, x1, y1) = pen.unit, layout.rectangle_px
    if screen.panel and y1 + 2 * unit < pen.height:
        top = max(y1 + unit, pen.height - 6 * unit)
        cv2.rectangle(pen.around, pen.at(0, top), pen.at(pen.width, pen.height), screen.panel, -1)
    if screen.frame:
        corners = pen.at(x0 - unit, y0 - unit), pen.at(x1 + unit, y1 + unit)
        cv2.rectangle(pen.around, *corners, screen.frame, pen.thin)
    if screen.logo:
        middle, (long, short) = pen.at(4 * unit, 4 * unit), (pen.length(2.5), pen.length(1.5))
        cv2.ellipse(pen.around, middle, (long, short), 20, 0, 360, screen.ink, -1, cv2.LINE_AA)
        cv2.ellipse(pen.around, middle, (short, short), 0, 0, 250, 0, pen.length(0.7))
    if screen.grey_bar:
        left = 2 * unit if screen.ruler == "right" else pen.width - 4 * unit
        start = max(y0, 8 * unit)
        end = max(start + unit, (y0 + 2 * y1) / 3)
        (a, top), (b, bottom) = pen.at(left, start), pen.at(left + 2 * unit, end)
        bar = pen.around[top:bottom, a:b]
        bar[:] = np.linspace(255, 0, len(bar)).astype(np.uint8)[:, None]


def _text(pen: Pen, screen: Screen) -> None:
    """Lines of text in the corners."""
    step = 1.7 * pen.text_px
    for corner, lines in screen.corners.items():
        first = 1.5 * step if corner.startswith("top") else pen.height - step * len(lines)
        first += 8 * pen.unit * (screen.logo and corner == "top left")
        boxes = []
        for number, text in enumerate(lines):
            right = pen.width - pen.unit - pen.text_width(text)
            x = pen.unit if corner.endswith("left") else right
            boxes.append(pen.write(text, x, first + number * step))
        for box in boxes:
            box[:] = True


def _ruler(pen: Pen, screen: Screen, layout: Layout) -> None:
    """Ticks by depth, numbers where they have room, and the marker of the focus."""
    if screen.ruler == "none":
        return
    unit, (x0, y0, x1, y1) = pen.unit, layout.rectangle_px
    out = 1 if screen.ruler == "right" else -1
    # Beside the picture; where that leaves the frame, over its edge.
    start = float(np.clip(x1 + unit if out > 0 else x0 - unit, 2 * unit, pen.width - 2 * unit))
    step_mm, long = (5, 2) if screen.fine_ruler and layout.bottom_mm < 100 else (10, 5)
    for number in range(int(layout.bottom_mm // step_mm) + 1):
        y = layout.top_px + (number * step_mm - layout.top_mm) / layout.mm_per_px
        if y0 <= y <= y1:
            pen.line(start, y, start + out * unit * (1.8 if number % long == 0 else 0.9), y)
            if number % long == 0 and number:
                text = str(number * step_mm // 10)
                near = start + out * 2.5 * unit - pen.text_width(text) * (out < 0)
                pen.write(text, near, y + pen.text_px / 2)
    if screen.focus is not None:
        y = y0 + screen.focus * (y1 - y0)
        base = start + out * 1.8 * unit
        pen.polygon([(start, y), (base, y - unit), (base, y + unit)])


def _mark(pen: Pen, screen: Screen, layout: Layout) -> None:
    """The mark of the probe's orientation, beside the end of its face."""
    if screen.mark == "none" or not pen.mask.any():
        return
    unit, top = pen.unit, int(pen.mask.any(1).argmax())
    face = np.flatnonzero(pen.mask[top])
    x = face[-1] + 2.5 * unit if layout.mirrored else face[0] - 2.5 * unit
    x, y = float(np.clip(x, 2 * unit, pen.width - 2 * unit)), max(top + unit, 2.5 * unit)
    match screen.mark:
        case "dot":
            pen.circle(x, y, 1.2)
        case "ring":
            pen.circle(x, y, 1.2, filled=False)
        case "bar":
            pen.line(x, y - 1.5 * unit, x, y + 1.5 * unit)
        case "letter":
            pen.write("V", x - unit, y + unit)


def _overlays(pen: Pen, screen: Screen, layout: Layout) -> None:
    """Calipers, needle guide and cursor, which may lie over the picture."""
    x0, y0, x1, y1 = layout.rectangle_px

    def place(share: Share) -> tuple[float, float]:
        return x0 + share[0] * (x1 - x0), y0 + share[1] * (y1 - y0)

    ends = [place(share) for share in screen.calipers]
    arm = 1.2 * pen.unit
    for x, y in ends:
        pen.line(x - arm, y, x + arm, y)
        pen.line(x, y - arm, x, y + arm)
    for first, second in zip(ends[::2], ends[1::2], strict=True):
        pen.dots(first, second)
    if screen.guide:
        pen.dots(place(screen.guide[0]), place(screen.guide[1]))
    if screen.cursor:
        x, y = place(screen.cursor)
        shape = np.array([(0, 0), (0, 4), (1, 3), (2.6, 3)]) * pen.unit + (x, y)
        pen.polygon(shape.tolist())
