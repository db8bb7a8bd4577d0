"""A result as OpenIGTLink messages, so that 3D Slicer shows it on the picture."""

import json
import time

import numpy as np

from sonodetr.draw import COLOURS, draw
from sonodetr.formats.openigtlink import (
    MAX_STRING_BYTES,
    Matrix,
    Point,
    flat_matrix,
    image_content,
    outline_content,
    pack,
    point_content,
    points_ras_mm,
    string_content,
)
from sonodetr.stream.flow import Result
from sonodetr.types import Detections

IMAGE, POINTS, OUTLINES, TEXT = (
    "SonoDETR_Image",
    "SonoDETR_Points",
    "SonoDETR_Outlines",
    "SonoDETR_Detections",
)


def messages_of(result: Result) -> list[bytes]:
    """STRING, POINT, POLYDATA and IMAGE, in this order and with the same time: the capture's.

    Args:
        result: its frame's `ijk_to_ras_mm` is where they lie, or a plane of ours if it has none.
            The pipeline has blacked out what lies around the ultrasound region.
    """
    frame, detections = result.frame, result.detections
    matrix = frame.ijk_to_ras_mm
    if matrix is None:
        matrix = flat_matrix(frame.spacing_mm)
    time_s = time.time() - time.monotonic() + result.captured_s
    points = point_content(_points(detections, matrix))
    # The OpenIGTLink library does not unpack a message without content, and 3D Slicer would go on
    # showing the last tip; one with metadata it does unpack.
    empty = None if points else {"points": "none were found"}
    picture = draw(frame, detections, show_outside=True)
    return [
        pack("STRING", TEXT, string_content(_json(detections)), time_s=time_s),
        pack("POINT", POINTS, points, time_s=time_s, metadata=empty),
        pack("POLYDATA", OUTLINES, outline_content(_outlines(detections, matrix)), time_s=time_s),
        pack("IMAGE", IMAGE, *image_content(picture, matrix), time_s=time_s),
    ]


def _json(detections: Detections) -> str:
    """`Detections.to_dict`; the least certain are left out, and counted, if a STRING is too short.

    Without characters beyond ASCII, which the JSON escapes.
    """
    values = detections.to_dict()
    text = json.dumps(values)
    while len(text) > MAX_STRING_BYTES:
        rows = values["detections"]
        del rows[len(rows) // 2 :]
        values["left_out"] = len(detections) - len(rows)
        text = json.dumps(values)
    return text


def _points(detections: Detections, matrix: Matrix) -> list[Point]:
    """Tip and entry of every detection that has them."""
    if detections.points_px is None:
        return []
    points = []
    for row, pair in enumerate(points_ras_mm(detections.points_px, matrix).tolist()):
        number = int(detections.classes[row])
        name = detections.class_names[number]
        if detections.track_ids is not None and detections.track_ids[row] >= 0:
            name = f"#{detections.track_ids[row]} {name}"
        colour = (*COLOURS[number % len(COLOURS)], 255)
        points += [
            Point(f"{name} {what}", what, colour, (x, y, z), IMAGE)
            for what, (x, y, z) in zip(("tip", "entry"), pair, strict=True)
            if np.isfinite((x, y, z)).all()
        ]
    return points


def _outlines(detections: Detections, matrix: Matrix) -> np.ndarray:
    """`[n, 4, 3]` corners of every box, in mm."""
    boxes = detections.boxes_xyxy_px[np.isfinite(detections.boxes_xyxy_px).all(-1)]
    return points_ras_mm(boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]], matrix)
