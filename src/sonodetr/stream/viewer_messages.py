"""What the viewer's server and its page say to each other (docs/viewer.md). No torch."""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from sonodetr.geometry import line_angles_deg
from sonodetr.shapes import Float32, Float64, UInt8
from sonodetr.stream.flow import Result
from sonodetr.stream.region import only_region
from sonodetr.types import Detections, Frame, Spacing

JPEG_QUALITY = 85
# A page that asks for a frame beyond this is not ours.
LARGEST_INDEX = 10**9


class Attended(NamedTuple):
    """How much a model looks at every part of a picture from one point of it.

    Attributes:
        weights: at least 0; coarse cells that cover `box_xyxy_px` evenly.
        box_xyxy_px: in pixels of the frame, which it may exceed.
        point_px: x, y of the point.
    """

    weights: Float32[np.ndarray, "rows columns"]
    box_xyxy_px: tuple[float, float, float, float]
    point_px: tuple[float, float]


class Malformed(ValueError):
    """A message that the page would never send."""


class Command(NamedTuple):
    """What a page asks for.

    Attributes:
        verb: "pause", "play", "step", "seek" or "attend".
        frame: how many frames to step, or which to go to.
        point_px: x, y in pixels of the frame, to attend to.
    """

    verb: str
    frame: int = 0
    point_px: tuple[float, float] = (0.0, 0.0)


def parse_command(text: str | bytes) -> Command:
    """What a page asks for, as the JSON text `{verb: value}`.

    Raises:
        Malformed: it is anything else.

    >>> parse_command('{"step": -1}')
    Command(verb='step', frame=-1, point_px=(0.0, 0.0))
    """
    if not isinstance(text, str):
        raise Malformed("not a text message")
    try:
        asked = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON ({type(error).__name__})") from None
    if not isinstance(asked, dict) or len(asked) != 1:
        raise Malformed("not an object of one key")
    ((verb, value),) = asked.items()
    match verb, value:
        case "pause" | "play", True:
            return Command(verb)
        case "step" | "seek", int() if not isinstance(value, bool) and abs(value) <= LARGEST_INDEX:
            return Command(verb, frame=value)
        case "attend", [x, y] if all(map(_is_place, (x, y))):
            return Command(verb, point_px=(float(x), float(y)))
    raise Malformed("unknown command")


def _is_place(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and abs(value) <= LARGEST_INDEX


def frame_message(
    result: Result,
    state: Mapping[str, Any],
    *,
    show_outside: bool,
    attended: Attended | None = None,
) -> bytes:
    """A frame and what was found in it, as the page takes it.

    Args:
        state: what the page is told beside the frame.
        show_outside: show also what lies around the region; scanners print names there.
        attended: to be drawn over it.
    """
    height, width = result.frame.pixels.shape[:2]
    region = None if show_outside else result.frame.region_px
    header = {
        "frame": result.frame.index,
        "time_s": round(result.frame.time_s, 6),
        "width": width,
        "height": height,
        "view_px": region or (0, 0, width, height),
        "classes": list(result.everything.class_names),
        "detections": detection_rows(result.everything),
        "latency_ms": round((result.found_s - result.captured_s) * 1000, 3),
        **state,
    }
    if attended is not None:
        most = max(float(attended.weights.max()), 1e-12)
        header["attended"] = {
            "levels": (attended.weights * (255 / most)).round().astype(int).tolist(),
            "box_xyxy_px": [round(float(edge), 2) for edge in attended.box_xyxy_px],
            "point_px": [round(float(place), 2) for place in attended.point_px],
        }
    return pack(header, jpeg(result.frame, show_outside=show_outside))


def pack(header: Mapping[str, Any], picture: bytes = b"") -> bytes:
    """A message: length of the header as uint32 little-endian, header, picture."""
    text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    return struct.pack("<I", len(text)) + text + picture


def unpack(message: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the picture of a message; undoes `pack`.

    >>> unpack(pack({"frame": 3}, b"jpeg"))
    ({'frame': 3}, b'jpeg')
    """
    (length,) = struct.unpack_from("<I", message)
    return json.loads(message[4 : 4 + length]), message[4 + length :]


def jpeg(frame: Frame, *, show_outside: bool) -> bytes:
    """A frame as JPEG, grey or in colour; black outside its region unless `show_outside`."""
    pixels = frame.pixels
    if frame.region_px is not None and not show_outside:
        pixels = only_region(pixels, frame.region_px)
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    good, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not good:
        raise ValueError(f"OpenCV could not encode frame {frame.index}")
    encoded: UInt8[np.ndarray, " bytes"] = data
    return encoded.tobytes()


def detection_rows(detections: Detections) -> list[dict[str, Any]]:
    """Rows of `Detections.to_dict`, with `angle_deg` of the shaft where both points are known.

    What is not finite cannot be said in JSON, nor drawn: such a row, its points or its angle are
    left out.
    """
    rows = detections.to_dict()["detections"]
    if detections.points_px is not None:
        known = np.isfinite(detections.points_px).all((1, 2))
        angles = shaft_angles_deg(detections.points_px, detections.spacing_mm)
        for row, both, angle in zip(rows, known, angles, strict=True):
            if not both:
                del row["points_px"]
            elif np.isfinite(angle):
                row["angle_deg"] = round(float(angle), 1)
    finite = np.isfinite(detections.boxes_xyxy_px).all(1) & np.isfinite(detections.scores)
    return [row for row, good in zip(rows, finite, strict=True) if good]


def shaft_angles_deg(
    points_px: Float32[np.ndarray, "n 2 2"], spacing_mm: Spacing | None
) -> Float64[np.ndarray, " n"]:
    """Angle of each line from tip to entry against the horizontal, 0 to 90 degrees.

    It is the angle in the body where the spacing is known, else the one in the picture. NaN where
    a point is unknown or both are the same.

    >>> points_px = np.float32([[[0, 0], [10, 10]]])
    >>> shaft_angles_deg(points_px, Spacing(y_mm=0.1, x_mm=0.1))
    array([45.])
    """
    scale = (1.0, 1.0) if spacing_mm is None else (spacing_mm.x_mm, spacing_mm.y_mm)
    lines = points_px.astype(np.float64) * scale
    level = np.broadcast_to(np.array([[0.0, 0.0], [1.0, 0.0]]), lines.shape)
    return line_angles_deg(level, lines)
