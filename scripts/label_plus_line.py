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
from label_tool import Coco, run

from sonodetr.files import InputError, existing_file

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
    frames = read_frames(folder / f"{NAME}.igs.mha")
    length, height, width = frames.shape
    size = {"width": width, "height": height}
    images, annotations = [], []
    for frame, line in lines.items():
        if frame >= length:
            raise InputError(f"{folder}: the XML names frame {frame}, the sequence has {length}")
        file_name = f"{NAME}/{frame:04d}.png"
        images.append(
            {"id": frame + 1, "file_name": file_name, **size, "video_id": 1, "frame_id": frame}
        )
        box = line_box(frames[frame], line)
        if box is not None:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": frame + 1,
                    "video_id": 1,
                    "category_id": 1,
                    "instance_id": 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    video = {"id": 1, "name": NAME, "length": length, **size, "file_name": f"{NAME}.igs.mha"}
    return {
        "videos": [video],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "plane_line"}],
    }


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
        raise InputError(f"{path}: not a PLUS line segmentation baseline ({error})") from error
    return found


def line_box(pixels: np.ndarray, line: Line) -> list[int] | None:
    """Left, top, width, height of what is bright near the line; None where it is too faint."""
    y, x = np.nonzero(cv2.GaussianBlur(pixels, (3, 3), 0) > BRIGHTER_THAN)
    near = np.abs((x - line.x) * line.down - (y - line.y) * line.across) <= DISTANCE_PX
    x, y = x[near], y[near]
    if len(x) < FEWEST_PIXELS:
        return None
    left, right = np.percentile(x, (ENDS_PERCENT, 100 - ENDS_PERCENT))
    top, bottom = int(y.min()), int(y.max())
    return [int(left), top, int(right - left) + 1, bottom - top + 1]


def read_frames(path: Path) -> np.ndarray:
    from label_plus_wires import read_frames as r

    return r(path)


if __name__ == "__main__":
    sys.exit(run(build, __doc__))
