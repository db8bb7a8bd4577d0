"""Boxes of the reflecting line in a water-tank sequence of the PLUS toolkit.

Upstream: PlusToolkit/PlusLibData (GitHub), folder TestImages. BSD-3-Clause, PLUS toolkit. Needs
WaterTankBottomTranslationVideoBuffer.igs.mha and LineSegmentationResultsBaseline.xml: one straight
line a frame that the toolkit's own algorithm found (no person marked it). A box is what is bright
near that line, without its outermost half per cent at either end. All frames are listed; where the
line is too faint to be measured the frame has no box.

    python scripts/label_plus_line.py plus plus/watertank_line_coco_vid.json
"""

import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from defusedxml import ElementTree
from label_tool import Coco, Recording, TrackBox, coco_video, run

from sonodetr.files import InputError, existing_file
from sonodetr.formats.metaimage import read_metaimage

NAME = "WaterTankBottomTranslationVideoBuffer"
BRIGHTER_THAN = 30  # of 255, after a 3 x 3 blur
DISTANCE_PX = 9
ENDS_PERCENT = 0.5
FEWEST_PIXELS = 20


class Line(NamedTuple):
    """A straight line: a point on it and its direction (unit length), in pixels."""

    x: float
    y: float
    across: float
    down: float


def build(folder: Path) -> Coco:
    """COCO-video labels: one track, the line."""
    lines = read_lines(folder / "LineSegmentationResultsBaseline.xml")
    (video,) = read_metaimage(folder / f"{NAME}.igs.mha")
    boxes = []
    for frame, line in lines.items():
        if not 0 <= frame < len(video):
            raise InputError(
                f"{folder}: the XML names frame {frame} of {len(video)} in the sequence"
            )
        box = line_box(video.frames[frame], line)
        if box is not None:
            boxes.append(TrackBox(frame, 1, "plane_line", box))
    recording = Recording(NAME, f"{NAME}.igs.mha", len(video), video.frames.size)
    return coco_video(recording, lines, boxes, ("plane_line",))


def read_lines(path: Path) -> dict[int, Line]:
    """Frame -> its line, for the frames with a successful segmentation."""
    source = existing_file(path)
    found = {}
    try:
        for frame in ElementTree.parse(source).getroot().iter("Frame"):
            if frame.get("SegmentationStatus") == "OK":
                words = frame.get("LineOriginPointPx").split()
                words += frame.get("LineDirectionVectorPx").split()
                found[int(frame.get("Index"))] = Line(*(float(word) for word in words))
    except (ElementTree.ParseError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a PLUS line segmentation baseline; copy it again") from error
    return found


def line_box(pixels: np.ndarray, line: Line) -> tuple[int, int, int, int] | None:
    """Left, top, width, height of what is bright near the line; None where it is too faint."""
    y, x = np.nonzero(cv2.GaussianBlur(pixels, (3, 3), 0) > BRIGHTER_THAN)
    near = np.abs((x - line.x) * line.down - (y - line.y) * line.across) <= DISTANCE_PX
    x, y = x[near], y[near]
    if len(x) < FEWEST_PIXELS:
        return None
    left, right = np.percentile(x, (ENDS_PERCENT, 100 - ENDS_PERCENT))
    top, bottom = int(y.min()), int(y.max())
    return int(left), top, int(right - left) + 1, bottom - top + 1


if __name__ == "__main__":
    sys.exit(run(build, __doc__))
