"""Pictures with boxes in them: overlays of detections, of labels, and sheets of many. cv2 only."""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from sonodetr.shapes import UInt8
from sonodetr.types import Detections, Frame, Labels, Pixels, Region

Picture = UInt8[np.ndarray, "height width 3"]
Sheet = UInt8[np.ndarray, "sheet_height sheet_width 3"]

# Okabe and Ito's colours that people with any colour vision tell apart, without black and dark
# blue, which drown in ultrasound, and with white in their place. Red, green, blue.
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (255, 255, 255),
)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(frame: Frame, detections: Detections, *, show_outside: bool = False) -> Picture:
    """The frame with every detection's box, class, score, and line from tip to entry.

    What lies outside `frame.region_px` is blacked out unless `show_outside`: scanners print names
    and dates there.

    Args:
        frame: the picture; it is not changed.
        detections: what to draw, in pixels of `frame`.
        show_outside: keep the scanner's screen around the ultrasound picture.

    Returns:
        RGB, uint8, as large as the frame.

    >>> nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32),
    ...                      np.zeros(0, np.int64), ("nerve",))
    >>> draw(Frame(np.zeros((5, 7), np.uint8)), nothing).shape
    (5, 7, 3)
    """
    picture = as_rgb(frame.pixels)
    if frame.region_px is not None and not show_outside:
        picture = _only(picture, frame.region_px)
    objects = []
    for row in range(len(detections)):
        text = f"{detections.class_names[detections.classes[row]]} {detections.scores[row]:.2f}"
        if detections.track_ids is not None and detections.track_ids[row] >= 0:
            text = f"#{detections.track_ids[row]} {text}"
        points = None if detections.points_px is None else detections.points_px[row]
        objects.append(
            _Object(
                detections.boxes_xyxy_px[row], text, _colour(int(detections.classes[row])), points
            )
        )
    _draw_objects(picture, objects)
    return picture


def draw_labels(pixels: Pixels, labels: Labels, class_names: Sequence[str]) -> Picture:
    """The picture with every labelled object's box, class and points.

    Args:
        pixels: grey or RGB; not changed.
        labels: what to draw, in pixels of `pixels`.
        class_names: names that `labels.classes` points into.
    """
    picture = as_rgb(pixels)
    rows = zip(labels.boxes_xyxy_px, labels.classes.tolist(), labels.points_px, strict=True)
    _draw_objects(
        picture,
        [_Object(box, class_names[index], _colour(index), points) for box, index, points in rows],
    )
    return picture


def grid(pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]], columns: int) -> Sheet:
    """One sheet with the pictures in rows of `columns`, in cells as large as the largest picture.

    >>> grid([np.zeros((4, 6, 3), np.uint8)] * 3, columns=2).shape  # 2 px between the cells
    (10, 14, 3)

    Raises:
        ValueError: no pictures, or fewer than one column.
    """
    if not pictures or columns < 1:
        raise ValueError(f"{len(pictures)} pictures in {columns} columns make no sheet")
    gap = 2
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    sheet = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 128, dtype=np.uint8
    )
    for place, picture in enumerate(pictures):
        y, x = place // columns * (height + gap), place % columns * (width + gap)
        sheet[y : y + height, x : x + width] = 0
        sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return sheet


def as_rgb(pixels: Pixels) -> Picture:
    """A copy in three channels."""
    return np.repeat(pixels[..., None], 3, -1) if pixels.ndim == 2 else pixels.copy()


def _only(picture: Picture, region: Region) -> Picture:
    """The picture, black outside the region."""
    x0, y0, x1, y1 = (max(0, edge) for edge in region)
    black = np.zeros_like(picture)
    black[y0:y1, x0:x1] = picture[y0:y1, x0:x1]
    return black


class _Object(NamedTuple):
    """One thing to draw, in pixels of the picture; what is not finite is not drawn."""

    box_xyxy_px: np.ndarray
    text: str
    colour: tuple[int, int, int]
    points_px: np.ndarray | None


def _colour(class_index: int) -> tuple[int, int, int]:
    return COLOURS[class_index % len(COLOURS)]


def _draw_objects(picture: Picture, objects: Sequence[_Object]) -> None:
    """Draw into the picture: boxes, then lines, then labels, so that each can be read."""
    size = max(picture.shape[:2])
    thickness = max(1, round(size / 600))
    visible = [item for item in objects if np.isfinite(item.box_xyxy_px).all()]
    edges = [_edges(item.box_xyxy_px, size) for item in visible]
    # What comes first is best, and is drawn last, on top.
    for item, (x0, y0, x1, y1) in zip(reversed(visible), reversed(edges), strict=True):
        cv2.rectangle(picture, (x0, y0), (x1, y1), (0, 0, 0), thickness + 2)
        cv2.rectangle(picture, (x0, y0), (x1, y1), item.colour, thickness)
    for item in reversed(visible):
        if item.points_px is not None:
            _draw_line(picture, item.points_px, item.colour, thickness)
    taken: list[Region] = []
    for item, box in zip(visible, edges, strict=True):
        taken.append(_draw_label(picture, item, box, taken))


def _edges(box_xyxy_px: np.ndarray, size: int) -> Region:
    """The outermost pixels inside a box that is given by its corners."""
    x0, y0, x1, y1 = (round(float(edge)) for edge in np.clip(box_xyxy_px, -size, 2 * size))
    return Region(x0, y0, max(x0, x1 - 1), max(y0, y1 - 1))


def _draw_line(
    picture: Picture, points_px: np.ndarray, colour: tuple[int, int, int], thickness: int
) -> None:
    """A line from entry to tip; the tip is a ring that it ends at, the entry a dot.

    The ring is open, so that what is at the tip can still be seen.
    """
    known = np.isfinite(points_px).all(-1)
    # Pixel i covers i to i + 1: a corner coordinate lies in pixel floor(x).
    tip, entry = np.floor(np.nan_to_num(points_px).clip(-1e5, 1e5)).astype(int)
    radius = 6 * thickness
    if known.all():
        along = (entry - tip) * min(1.0, radius / max(1.0, float(np.hypot(*(entry - tip)))))
        start = np.rint(tip + along).astype(int).tolist()
        cv2.line(picture, start, entry.tolist(), colour, thickness, cv2.LINE_AA)
    if known[0]:
        cv2.circle(picture, tip.tolist(), radius, (0, 0, 0), thickness + 2, cv2.LINE_AA)
        cv2.circle(picture, tip.tolist(), radius, colour, thickness, cv2.LINE_AA)
    if known[1]:
        cv2.circle(picture, entry.tolist(), 2 * thickness, colour, -1, cv2.LINE_AA)


def _draw_label(picture: Picture, item: _Object, box: Region, taken: Sequence[Region]) -> Region:
    """Write above, below or inside the box, wherever no label is yet; the place that was taken."""
    # OpenCV's fonts know ASCII only.
    text = unicodedata.normalize("NFKD", item.text).encode("ascii", "ignore").decode()
    height, width = picture.shape[:2]
    scale = min(1.2, max(0.34, max(height, width) / 1600))
    thickness = max(1, round(2 * scale))
    (across, up), below = cv2.getTextSize(text, _FONT, scale, thickness)
    across, tall = across + 4, up + below + 2
    x = max(0, min(box.x0, width - across))
    places = [
        Region(x, y, x + across, y + tall)
        for y in (box.y0 - tall - 1, box.y1 + 2, box.y0 + 2, box.y1 - tall - 1)
        if 0 <= y <= height - tall
    ] or [Region(x, 0, x + across, tall)]
    place = next((p for p in places if not any(_meet(p, other) for other in taken)), places[0])
    cv2.rectangle(picture, (x, place.y0), (place.x1 - 1, place.y1 - 1), (0, 0, 0), -1)
    origin = (x + 2, place.y0 + up + 1)
    cv2.putText(picture, text, origin, _FONT, scale, item.colour, thickness, cv2.LINE_AA)
    return place


def _meet(first: Region, second: Region) -> bool:
    return (
        first.x0 < second.x1
        and second.x0 < first.x1
        and first.y0 < second.y1
        and second.y0 < first.y1
    )
