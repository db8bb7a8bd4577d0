"""Where the picture lies in the frame: millimetres of the probe's plane to pixels and back."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from sonodetr.files import InputError
from sonodetr.simulator.probe import Probe
from sonodetr.types import Region


@dataclass(frozen=True)
class Layout:
    """The shown part of the probe's plane, and where it lies in a frame with square pixels.

    Pixels are counted from the frame's upper left corner: pixel i spans `i..i + 1`, its centre is
    at `i + 0.5`.

    Attributes:
        mm_per_px: side of a pixel.
        left_px, top_px: upper left corner of the shown part in the frame, not rounded.
        left_mm, right_mm, top_mm, bottom_mm: the shown part of the probe's plane (x and z).
        height_px, width_px: size of the frame.
        mirrored: x grows to the left.

    >>> layout = Layout(0.5, 10.0, 0.0, -20.0, 20.0, 0.0, 40.0, 80, 100)
    >>> layout.to_pixels(np.array([0.0]), np.array([40.0]))
    (array([50.]), array([80.]))
    """

    mm_per_px: float
    left_px: float
    top_px: float
    left_mm: float
    right_mm: float
    top_mm: float
    bottom_mm: float
    height_px: int
    width_px: int
    mirrored: bool = False

    def to_pixels(
        self, x_mm: Float[np.ndarray, "*points"], z_mm: Float[np.ndarray, "*points"]
    ) -> tuple[Float64[np.ndarray, "*points"], Float64[np.ndarray, "*points"]]:
        """Position in the probe's plane -> x and y in the frame; outside, the scale goes on."""
        x, z = np.asarray(x_mm, np.float64), np.asarray(z_mm, np.float64)
        across = self.right_mm - x if self.mirrored else x - self.left_mm
        return (
            np.asarray(self.left_px + across / self.mm_per_px),
            np.asarray(self.top_px + (z - self.top_mm) / self.mm_per_px),
        )

    def to_mm(
        self, x_px: Float[np.ndarray, "*points"], y_px: Float[np.ndarray, "*points"]
    ) -> tuple[Float64[np.ndarray, "*points"], Float64[np.ndarray, "*points"]]:
        """x and y in the frame -> position in the probe's plane; undoes `to_pixels`."""
        x, y = np.asarray(x_px, np.float64), np.asarray(y_px, np.float64)
        across = (x - self.left_px) * self.mm_per_px
        return (
            np.asarray(self.right_mm - across if self.mirrored else self.left_mm + across),
            np.asarray(self.top_mm + (y - self.top_px) * self.mm_per_px),
        )

    @property
    def rectangle_px(self) -> Region:
        """The pixels of the frame whose centres lie in the shown part."""
        right = self.left_px + (self.right_mm - self.left_mm) / self.mm_per_px
        bottom = self.top_px + (self.bottom_mm - self.top_mm) / self.mm_per_px
        x0, x1 = np.clip(np.ceil(np.array([self.left_px, right]) - 0.5), 0, self.width_px)
        y0, y1 = np.clip(np.ceil(np.array([self.top_px, bottom]) - 0.5), 0, self.height_px)
        return Region(int(x0), int(y0), int(x1), int(y1))

    def centres_mm(
        self,
    ) -> tuple[Float64[np.ndarray, "height width"], Float64[np.ndarray, "height width"]]:
        """Position of every pixel's centre in the probe's plane."""
        rows, columns = np.mgrid[: self.height_px, : self.width_px] + 0.5
        return self.to_mm(columns, rows)

    def mask(self, probe: Probe) -> Bool[np.ndarray, "height width"]:
        """The pixels whose centres show what the probe sees."""
        x0, y0, x1, y1 = self.rectangle_px
        inside = np.zeros((self.height_px, self.width_px), bool)
        x_mm, z_mm = self.centres_mm()
        inside[y0:y1, x0:x1] = probe.inside(x_mm, z_mm)[y0:y1, x0:x1]
        return inside


@dataclass(frozen=True)
class LayoutRanges:
    """How pictures may lie in the frame; pairs are the lowest and the highest value.

    Attributes:
        fill: share of the frame's limiting side that the picture takes.
        cover: probability that the picture is as large as the frame: it leaves nothing around it
            where this cuts off no more than a third of its width or depth, else fills one side.
        crop: probability that the scanner shows only a part (zoom).
        crop_bottom: the share of the depth that is then cut off.
        crop_sides: the share of the width that is then cut off, on both sides together.
    """

    fill: tuple[float, float]
    cover: float
    crop: float
    crop_bottom: tuple[float, float]
    crop_sides: tuple[float, float]


STANDARD = LayoutRanges((0.7, 1.0), 0.35, 0.2, (0.0, 0.25), (0.0, 0.2))
SHIFTED = LayoutRanges((0.6, 0.9), 0.1, 0.4, (0.1, 0.35), (0.1, 0.3))


def place(
    random: np.random.Generator,
    ranges: LayoutRanges,
    probe: Probe,
    height_px: int,
    width_px: int,
    mirrored: bool = False,
) -> Layout:
    """Draw where a probe's picture lies in a frame; its aspect is kept.

    Raises:
        InputError: the frame has no pixels.
    """
    if min(height_px, width_px) < 1:
        raise InputError(f"a frame of {height_px} x {width_px} pixels; both must be at least 1")
    covers, crops = random.random(2) < (ranges.cover, ranges.crop)
    fill = random.uniform(*ranges.fill)
    cut_bottom = random.uniform(*ranges.crop_bottom) * crops
    cut_left, cut_right = random.uniform(*ranges.crop_sides) * crops * random.dirichlet((2, 2))
    right_share, down_share = random.beta(2, 2), random.beta(1.5, 2.5)

    full_width, full_depth = 2 * probe.half_width_mm, probe.depth_mm - probe.top_mm
    left, right = full_width * (cut_left - 0.5), full_width * (0.5 - cut_right)
    top, bottom = probe.top_mm, probe.depth_mm - full_depth * cut_bottom
    scales = ((right - left) / width_px, (bottom - top) / height_px)
    if covers and min(scales) > 2 / 3 * max(scales):
        mm_per_px = min(scales)
        spare = (right - left) - width_px * mm_per_px
        left, right = left + spare * right_share, right - spare * (1 - right_share)
        bottom = top + height_px * mm_per_px
    else:
        mm_per_px = max(scales) / (1 if covers else fill)
    return Layout(
        float(mm_per_px),
        float((width_px - (right - left) / mm_per_px) * right_share),
        float((height_px - (bottom - top) / mm_per_px) * down_share),
        float(left),
        float(right),
        float(top),
        float(bottom),
        height_px,
        width_px,
        mirrored,
    )
