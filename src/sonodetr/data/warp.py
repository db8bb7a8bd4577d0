"""A frame's way into the model's input: one affine for the pixels, the same one for the labels.

Imports no torch: the live process uses it too.
"""

import cv2
import numpy as np

from sonodetr.geometry import apply_affine, warp_matrix_for_pixels
from sonodetr.shapes import Float, UInt8
from sonodetr.types import Labels, Pixels, Region

# Beyond this reduction bilinear sampling skips pixels, and speckle turns into moiré.
LARGEST_PLAIN_SHRINK = 1.5
# A structure of which less is left in the picture cannot be told from its surroundings.
LEAST_VISIBLE_SHARE = 0.25
LEAST_SIDE_PX = 1.5
# Two points that span this much of their box are the ends of a line (a needle), not landmarks.
LINE_SHARE = 0.8
# How far rounding may carry a point that lies on the input's edge.
EDGE_PX = 1e-3


def warp_frame(
    pixels: Pixels,
    region: Region,
    matrix: Float[np.ndarray, "3 3"],
    size: tuple[int, int],
    channels: int,
) -> UInt8[np.ndarray, "input_height input_width channels"]:
    """The region of a frame as the model sees it; black wherever the region does not reach.

    Args:
        pixels: a whole frame, grey or RGB.
        region: what may be seen of it.
        matrix: affine map from frame corners to input corners, as `Letterbox.matrix()`.
        size: height and width of the input in pixels.
        channels: 1 makes grey (BT.601 weights), 3 keeps colour or repeats grey.

    >>> frame = np.full((4, 8), 9, np.uint8)
    >>> warp_frame(frame, Region(0, 0, 8, 4), np.diag([0.5, 0.5, 1]), (2, 5), 1)[..., 0]
    array([[9, 9, 9, 9, 0],
           [9, 9, 9, 9, 0]], dtype=uint8)
    """
    crop = pixels[region.y0 : region.y1, region.x0 : region.x1]
    if crop.ndim == 3 and channels == 1:
        crop = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    move = np.array([[1, 0, region.x0], [0, 1, region.y0], [0, 0, 1.0]])
    crop, enlarge = _shrink(crop, matrix)
    picture = cv2.warpAffine(
        crop,
        warp_matrix_for_pixels(matrix @ move @ enlarge)[:2],
        (size[1], size[0]),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], channels, -1)
    return picture


def _shrink(crop: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average areas where `matrix` shrinks a lot; the crop, and the map from it to the old one."""
    height, width = crop.shape[:2]
    scale_x, scale_y = np.linalg.norm(matrix[:2, :2], axis=0)
    limit = 1 / LARGEST_PLAIN_SHRINK
    new_width = max(1, round(width * scale_x)) if scale_x < limit else width
    new_height = max(1, round(height * scale_y)) if scale_y < limit else height
    if (new_height, new_width) == (height, width):
        return crop, np.eye(3)
    small = cv2.resize(
        np.ascontiguousarray(crop), (new_width, new_height), interpolation=cv2.INTER_AREA
    )
    return small, np.diag([width / new_width, height / new_height, 1.0])


def warp_labels(
    labels: Labels, matrix: Float[np.ndarray, "3 3"], size: tuple[int, int], cropped: bool = False
) -> Labels:
    """Labels in pixels of the input, clipped to it; `matrix` and `size` as in `warp_frame`.

    An upright box tells only that the structure touches its four sides. When the picture turns, the
    box of the turned corners would be too large by up to 40 %; nerves and vessels are round rather
    than square, so the box of the turned *inscribed ellipse* is taken: with half sides a, b and
    matrix rows (m00, m01), (m10, m11) its half sides are hypot(m00 a, m01 b), hypot(m10 a, m11 b).
    Without rotation this is exact. Where both points are known and span the box, the structure is
    the line between them, and the box is that of the visible part of the line.

    Points outside the input become NaN (unknown), but the entry of a line whose shaft is cut off
    becomes the end of what is left of it: the line, and so its angle, stays known. With `cropped`
    (the picture was cut at random) boxes of which too little is left are dropped; without, only
    those that are wholly outside.

    >>> half = np.diag([0.5, 0.5, 1])
    >>> warp_labels(Labels.of([[2, 4, 6, 30]], [0]), half, (10, 10)).boxes_xyxy_px
    array([[ 1.,  2.,  3., 10.]], dtype=float32)
    """
    limit = np.array((size[1], size[0]), np.float64)
    boxes = labels.boxes_xyxy_px.astype(np.float64)
    points = apply_affine(matrix, labels.points_px.astype(np.float64))
    centre = apply_affine(matrix, (boxes[:, :2] + boxes[:, 2:]) / 2)
    half = _turned((boxes[:, 2:] - boxes[:, :2]) / 2, matrix)
    low, high = np.clip(centre - half, 0, limit), np.clip(centre + half, 0, limit)
    visible = (high - low).prod(1) / np.maximum(4 * half.prod(1), np.finfo(float).tiny)

    # A line may go on where its box, and so the frame, has ended.
    lines_px, _ = _visible_parts(labels.points_px, boxes[:, :2] - 1, boxes[:, 2:] + 1)
    line = np.flatnonzero(_are_lines(lines_px, boxes))
    whole = apply_affine(matrix, lines_px[line])
    ends, visible[line] = _visible_parts(whole, np.zeros(2), limit)
    # What the box has beyond the line, such as the thickness of a shaft, stays as it is.
    beyond = boxes[line, 2:] - boxes[line, :2] - abs(lines_px[line, 0] - lines_px[line, 1])
    margin = _turned(np.maximum(beyond, 0) / 2, matrix)
    middle = centre[line] - whole.mean(1)
    low[line] = np.clip(ends.min(1) + middle - margin, 0, limit)
    high[line] = np.clip(ends.max(1) + middle + margin, 0, limit)

    outside = np.any((points < -EDGE_PX) | (points > limit + EDGE_PX), axis=-1)
    points[outside] = np.nan
    cut = outside[line, 1] & (visible[line] > 0)
    points[line[cut], 1] = ends[cut, 1]
    points = np.clip(points, 0, limit)
    keep = (high > low).all(1)
    if cropped:
        keep &= (visible >= LEAST_VISIBLE_SHARE) & ((high - low).max(1) >= LEAST_SIDE_PX)
    return Labels(
        np.concatenate((low, high), 1).astype(np.float32)[keep],
        labels.classes[keep],
        labels.track_ids[keep],
        points.astype(np.float32)[keep],
        labels.crowd[keep],
    )


def _turned(half: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """`[..., 2]` half sides of the box round an upright ellipse after `matrix`."""
    return np.sqrt(half**2 @ (matrix[:2, :2] ** 2).T)


def _are_lines(ends: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """`[N]` whether two points are known and span the longer side of their box."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = np.arange(len(sides)), sides.argmax(1)
    return abs(ends[:, 0] - ends[:, 1])[longer] >= LINE_SHARE * sides[longer]  # False where NaN


def _visible_parts(
    ends: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`[N, 2, 2]` ends of what lines have within low..high, and its share (Liang-Barsky)."""
    along = ends[:, 1] - ends[:, 0]
    along = np.where(along == 0, 1e-9, along)
    crossings = np.stack((low - ends[:, 0], high - ends[:, 0])) / along
    first = np.maximum(crossings.min(0).max(-1), 0)
    last = np.maximum(np.minimum(crossings.max(0).min(-1), 1), first)
    reached = np.stack((first, last), 1)[..., None]
    return ends[:, :1] + along[:, None] * reached, last - first
