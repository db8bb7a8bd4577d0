"""Pictures that show almost the same: two stills of one scene, saved twice or moments apart.

Imports no torch.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32

from sonodetr.types import Pixels

# Measured on 204 nerve stills, looking at all pairs above 0.5: 26 pairs of the same scene reach
# 0.71 and more, 4 pairs of one site moments apart lie at 0.60 to 0.65, different people at 0.59 and
# less. Without the high-pass the common build of all pictures (bright skin above, dark below)
# reaches 0.9, and different people mix with near-identical stills.
THUMBNAIL_PX = 48
HIGH_PASS_PX = 4.8
SHIFTS_PX = range(0, 9, 2)
_CHUNK = 1024


def thumbnail(pixels: Pixels) -> Float32[np.ndarray, "48 48"]:
    """A picture as `near_identical` compares it: small, grey, without its slow changes."""
    grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    return small - cv2.GaussianBlur(small, (0, 0), HIGH_PASS_PX)


def near_identical(
    thumbnails: Sequence[Float32[np.ndarray, "48 48"]], similarity: float
) -> list[tuple[int, int, float]]:
    """Pairs of pictures whose similarity is at least `similarity`: (first, second, similarity).

    The similarity is the zero-mean normalised correlation (-1..1, blind to gain), best over shifts
    of up to 1/12 of the picture. It takes time with the square of the number: 0.3 s for 200
    pictures, about 10 s for 2,000.
    """
    if len(thumbnails) < 2:
        return []
    stack = np.stack(thumbnails)
    inner = stack.shape[1] - SHIFTS_PX[-1]
    middle = SHIFTS_PX[-1] // 2
    centres = _normalised(stack[:, middle : middle + inner, middle : middle + inner])
    found: dict[tuple[int, int], float] = {}
    for start in range(0, len(stack), _CHUNK):
        rows = stack[start : start + _CHUNK]
        best = np.full((len(rows), len(stack)), -1, np.float32)
        for y in SHIFTS_PX:
            for x in SHIFTS_PX:
                shifted = _normalised(rows[:, y : y + inner, x : x + inner])
                np.maximum(best, shifted @ centres.T, out=best)
        for row, other in np.argwhere(best >= similarity).tolist():
            pair = (min(start + row, other), max(start + row, other))
            if pair[0] != pair[1]:
                found[pair] = max(found.get(pair, -1.0), float(best[row, other]))
    return [(first, second, value) for (first, second), value in sorted(found.items())]


def _normalised(pictures: np.ndarray) -> np.ndarray:
    """`[N, H, W]` -> `[N, H * W]` with mean 0 and length 1; a picture without content becomes 0."""
    rows = pictures.reshape(len(pictures), -1)
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-3)
