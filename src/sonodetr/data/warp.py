"""A frame's way into the model's input: one affine for the pixels, the same one for the labels.

Imports no torch: the live process uses it too.
"""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from sonodetr.geometry import apply_affine, warp_matrix_for_pixels
from sonodetr.types import Labels, Pixels, Region

# Beyond this reduction bilinear sampling skips pixels, and speckle turns into moiré.
LARGEST_PLAIN_SHRINK = 1.5
# A structure of which less is left in the picture cannot be told from its surroundings.
LEAST_VISIBLE_SHARE = 0.25
LEAST_SIDE_PX = 1.5
# Two points that span this much of their box are the ends of a line (a needle), not landmarks.
LINE_SHARE = 0.8


def warp_frame(
    pixels: Pixels,
    region: Region,
    matrix: Float[np.ndarray, "3 3"],
    size: tuple[int, int],
    channels: int,
) -> UInt8[np.ndarray, "height width channels"]:
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
    box of the turned corners would grow by up to 40 %; nerves and vessels are round rather than
    square, so the box of the turned *inscribed ellipse* is taken: with half sides a, b and matrix
    rows (m00, m01), (m10, m11) its half sides are hypot(m00 a, m01 b) and hypot(m10 a, m11 b).
    Without rotation this is exact. Where both points are known and span the box, the structure is
    the line between them, and the box follows the part of the line that is visible.

    Points outside the input become NaN (unknown). With `cropped` (the picture was cut at random)
    boxes of which too little is left are dropped; without, only those that are wholly outside.
    """
    limit = np.array((size[1], size[0]), np.float64)
    boxes = labels.boxes_xyxy_px.astype(np.float64)
    linear = matrix[:2, :2]
    centre = apply_affine(matrix, (boxes[:, :2] + boxes[:, 2:]) / 2)
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    points = apply_affine(matrix, labels.points_px.astype(np.float64))

    new_half = np.sqrt((half**2) @ (linear**2).T)
    full = 4 * new_half.prod(1)
    low, high = np.clip(centre - new_half, 0, limit), np.clip(centre + new_half, 0, limit)
    sides = high - low
    visible = sides.prod(1) / np.maximum(full, 1e-9)
    keep = (sides > 0).all(1)
    if cropped:
        keep &= (visible >= LEAST_VISIBLE_SHARE) & (sides >= LEAST_SIDE_PX).all(1)
    outside = ((points < 0) | (points > limit)).any(-1)
    points[outside] = np.nan
    return Labels(
        np.concatenate((low, high), 1).astype(np.float32)[keep],
        labels.classes[keep],
        labels.track_ids[keep],
        points.astype(np.float32)[keep],
        labels.crowd[keep],
    )
