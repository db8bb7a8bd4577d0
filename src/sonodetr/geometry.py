"""Boxes, and the way between pixels of a frame and the picture the model sees.

Boxes are named by format: `xyxy` is left, top, right, bottom; `cxcywh` is centre, width, height.
Units stand in the name: `_px` is pixels of the original frame, no unit means normalised to 0..1 of
the model's input.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sonodetr.shapes import Float32, Float64
from sonodetr.types import Answer, Detections, Region


def cxcywh_from_xyxy(boxes: Any) -> Any:
    """`[..., 4]` left, top, right, bottom -> centre x, centre y, width, height (array or tensor).

    >>> cxcywh_from_xyxy(np.array([0.0, 2.0, 4.0, 3.0]))
    array([2. , 2.5, 4. , 1. ])
    """
    low, high = boxes[..., :2], boxes[..., 2:]
    return _join((low + high) / 2, high - low)


def xyxy_from_cxcywh(boxes: Any) -> Any:
    """`[..., 4]` centre x, y, width, height -> left, top, right, bottom (array or tensor)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return _join(centre - half, centre + half)


def _join(first: Any, second: Any) -> Any:
    if isinstance(first, np.ndarray):
        return np.concatenate((first, second), -1)
    import torch  # only ever reached by a caller that already holds tensors

    return torch.cat((first, second), -1)


def box_iou(
    first_xyxy: Float32[np.ndarray, "n 4"], second_xyxy: Float32[np.ndarray, "m 4"]
) -> Float32[np.ndarray, "n m"]:
    """Intersection over union of every pair of boxes; 0 where both are empty.

    >>> box_iou(np.float32([[0, 0, 2, 2]]), np.float32([[1, 0, 3, 2]]))
    array([[0.33333334]], dtype=float32)
    """
    low = np.maximum(first_xyxy[:, None, :2], second_xyxy[None, :, :2])
    high = np.minimum(first_xyxy[:, None, 2:], second_xyxy[None, :, 2:])
    overlap = np.clip(high - low, 0, None).prod(-1)
    area_first = np.clip(first_xyxy[:, 2:] - first_xyxy[:, :2], 0, None).prod(-1)
    area_second = np.clip(second_xyxy[:, 2:] - second_xyxy[:, :2], 0, None).prod(-1)
    union = area_first[:, None] + area_second[None] - overlap
    return (overlap / np.maximum(union, np.finfo(np.float32).tiny)).astype(np.float32)


def line_angles_deg(
    first: Float64[np.ndarray, "n 2 2"], second: Float64[np.ndarray, "n 2 2"]
) -> Float64[np.ndarray, " n"]:
    """Angle between lines through two points each, 0 to 90 degrees, whatever their direction.

    `atan2(|a x b|, |a . b|)`. NaN where a point is not known or the second line has no length; 90
    where the first one has none.

    >>> level, steep = np.array([[[0.0, 0], [2, 0]]]), np.array([[[0.0, 0], [-1, 1]]])
    >>> line_angles_deg(level, steep)
    array([45.])
    """
    a, b = first[:, 1] - first[:, 0], second[:, 1] - second[:, 0]
    cross = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    angles = np.degrees(np.arctan2(abs(cross), abs((a * b).sum(-1))))
    angles[(a == 0).all(-1) & np.isfinite(angles)] = 90.0
    angles[(b == 0).all(-1)] = np.nan
    return angles


@dataclass(frozen=True)
class Letterbox:
    """Fits a region of a frame into the model's input, aspect kept, centred, the rest black.

    `input_x = (frame_x - x0) * scale + left`, and the same for y; coordinates are of pixel corners,
    so that the region's left edge falls on the picture's left edge exactly.
    """

    x0: float
    y0: float
    scale: float
    left: float
    top: float

    @staticmethod
    def fit(region: Region, height: int, width: int) -> "Letterbox":
        """The letterbox that shows `region` as large as possible in `height` x `width` pixels.

        >>> Letterbox.fit(Region(0, 0, 200, 100), 64, 64)
        Letterbox(x0=0.0, y0=0.0, scale=0.32, left=0.0, top=16.0)
        """
        across, down = region.x1 - region.x0, region.y1 - region.y0
        scale = min(width / across, height / down)
        return Letterbox(
            float(region.x0),
            float(region.y0),
            scale,
            (width - across * scale) / 2,
            (height - down * scale) / 2,
        )

    def matrix(self) -> np.ndarray:
        """`[3, 3]` homogeneous map from frame corners to input corners, float64."""
        return np.array(
            [
                [self.scale, 0, self.left - self.x0 * self.scale],
                [0, self.scale, self.top - self.y0 * self.scale],
                [0, 0, 1],
            ]
        )

    def to_input(self, points_px: np.ndarray) -> np.ndarray:
        """`[..., 2]` x, y in frame pixels -> x, y in input pixels."""
        return (points_px - (self.x0, self.y0)) * self.scale + (self.left, self.top)

    def to_frame(self, points: np.ndarray) -> np.ndarray:
        """`[..., 2]` x, y in input pixels -> x, y in frame pixels; undoes `to_input`."""
        return (points - (self.left, self.top)) / self.scale + (self.x0, self.y0)


def detections_in_frame(
    answer: Answer,
    letterbox: Letterbox,
    image_size: tuple[int, int],
    class_names: tuple[str, ...],
    **where: Any,
) -> Detections:
    """An answer as detections in the frame, none left out by score.

    Args:
        letterbox: the one that made the model's input.
        image_size: height and width of that input in pixels.
        where: what `Detections` is to know of the frame: its index, time, spacing.

    >>> answer = Answer(np.float32([0.9]), np.int64([0]), np.float32([[0.5, 0.5, 0.25, 0.5]]))
    >>> letterbox = Letterbox.fit(Region(0, 0, 200, 100), 64, 64)  # bars above and below
    >>> detections_in_frame(answer, letterbox, (64, 64), ("nerve",)).boxes_xyxy_px
    array([[ 75.,   0., 125., 100.]], dtype=float32)
    """
    size = (image_size[1], image_size[0])
    corners = xyxy_from_cxcywh(answer.boxes_cxcywh).reshape(-1, 2, 2)
    points = answer.points
    return Detections(
        _in_frame(corners, letterbox, size).reshape(-1, 4),
        answer.scores,
        answer.classes,
        class_names,
        None if points is None else _in_frame(points, letterbox, size),
        **where,
    )


def _in_frame(
    points: Float32[np.ndarray, "n 2 2"], letterbox: Letterbox, size: tuple[int, int]
) -> Float32[np.ndarray, "n 2 2"]:
    """Points in 0..1 of the input as pixels of the frame, none beyond the picture's edges: the
    letterbox's black bars are in the model's view, but not in the picture."""
    border = np.array((letterbox.left, letterbox.top))
    inside = (points * size).clip(border, size - border)
    return letterbox.to_frame(inside).astype(np.float32)


def apply_affine(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """`[..., 2]` points through a `[3, 3]` affine matrix."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def warp_matrix_for_pixels(matrix: np.ndarray) -> np.ndarray:
    """A corner-coordinate affine as OpenCV wants it: OpenCV counts from pixel centres."""
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    return np.linalg.inv(shift) @ matrix @ shift
