"""Recordings in memory."""

import numpy as np

from sonodetr.types import Labels, Video


class Stack:
    """Frames held as one array `[N, H, W]` or `[N, H, W, 3]`."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self.pixels):
            raise IndexError(index)
        return self.pixels[index]

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[2]


def video(
    pixels: np.ndarray,
    labels: dict[int, Labels] | None = None,
    key: str = "a",
    patient: str | None = None,
    classes: tuple[str, ...] = ("nerve", "vessel"),
) -> Video:
    """A recording of 10 frames a second."""
    return Video(
        key, Stack(pixels), np.arange(len(pixels)) / 10, classes, labels or {}, patient=patient
    )


def blob(height: int, width: int, x: float, y: float, sigma: float = 2.0) -> np.ndarray:
    """A smooth bright dot about the corner coordinate (x, y)."""
    across, down = np.arange(width) + 0.5 - x, np.arange(height) + 0.5 - y
    dot = np.exp(-(across[None] ** 2 + down[:, None] ** 2) / (2 * sigma**2))
    return np.round(250 * dot).astype(np.uint8)


def centroid(picture: np.ndarray) -> np.ndarray:
    """x, y of the middle of what is bright, in corner coordinates."""
    weights = picture.astype(np.float64)
    x = (weights.sum(0) * (np.arange(picture.shape[1]) + 0.5)).sum()
    y = (weights.sum(1) * (np.arange(picture.shape[0]) + 0.5)).sum()
    return np.array((x, y)) / weights.sum()
