"""What the probe looks at, at rest: maps of the tissue and the surfaces that reflect."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True)
class Reflectors:
    """Points of surfaces that send back more than their surround: fascia, walls, bone, bubbles.

    A surface is a row of points no farther apart than 0.1 mm (0.2 mm in pictures deeper than 70 mm,
    where the waves are longer), so dense that their echoes add up to a line: of equal phase along
    a smooth surface, of random phase along a rough one, which then looks speckled.

    Attributes:
        x_mm, z_mm: `[N]` position at rest.
        step_mm: `[N]` length of the surface that the point stands for.
        level_db: `[N]` level of the smooth surface's echo where the beam meets it at right angles,
            relative to the speckle of muscle (0 dB).
        normal_deg: `[N]` direction of the surface's normal against the z axis, -90 to 90.
        law_deg: `[N]` angle off the normal at which the specular part has fallen to half; large
            values (over 60) are diffuse.
        phase_rad: `[N]`.
    """

    x_mm: Float32[np.ndarray, " n"]
    z_mm: Float32[np.ndarray, " n"]
    step_mm: Float32[np.ndarray, " n"]
    level_db: Float32[np.ndarray, " n"]
    normal_deg: Float32[np.ndarray, " n"]
    law_deg: Float32[np.ndarray, " n"]
    phase_rad: Float32[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.x_mm)


@dataclass(frozen=True)
class Pulsator:
    """An artery: its wall moves outward by up to `stroke_mm` with each pulse."""

    x_mm: float
    z_mm: float
    radius_mm: float
    stroke_mm: float


@dataclass(frozen=True)
class Tissue:
    """Tissue at rest, on a raster that covers the picture and what motion may bring into it.

    Row r, column c of a map is at `x = left_mm + (c + 0.5) * spacing_mm`,
    `z = top_mm + (r + 0.5) * spacing_mm`; outside, the border value goes on.

    Attributes:
        spacing_mm: raster of the maps.
        left_mm, top_mm: corner of the maps; top_mm is negative for a convex face.
        echo_db: `[H, W]` mean level of the speckle relative to muscle (0): fat about -8, blood
            under -35, water and shadowless fluid -60.
        attenuation_db_cm_mhz: `[H, W]` one-way attenuation: water 0.002, soft tissue 0.3 to 1.2,
            bone and gas 10 and more (they shadow).
        reflectors: surfaces, at rest.
        pulsators: arteries.
        shear: change of x and of z in mm for each mm of elevation: structures run through the
            plane obliquely, so that they wander when the probe slides.
    """

    spacing_mm: float
    left_mm: float
    top_mm: float
    echo_db: Float32[np.ndarray, "height width"]
    attenuation_db_cm_mhz: Float32[np.ndarray, "height width"]
    reflectors: Reflectors
    pulsators: tuple[Pulsator, ...] = ()
    shear: tuple[float, float] = (0.0, 0.0)


DIFFUSE = 0.05  # what even a mirror sends back at any angle, -26 dB


def angle_law(off_deg: Any, law_deg: Any) -> Any:
    """Amplitude of a surface's echo against the angle off its normal, 1 at 0, one half at law_deg.

    A Gaussian specular lobe over a diffuse floor of 0.05. A surface has no sides: 170 degrees off
    its normal are 10.

    >>> round(float(angle_law(20.0, 20.0)), 3)
    0.525
    """
    off_deg = (off_deg + 90) % 180 - 90
    lobe = np.exp(-math.log(2) * (off_deg / law_deg) ** 2)
    return DIFFUSE + (1 - DIFFUSE) * lobe
