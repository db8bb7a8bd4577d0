"""Transducers: where their scan lines run, and how finely they must be sampled."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from sonodetr.files import InputError

SOUND_MM_PER_US = 1.54  # speed of sound in soft tissue
# Full width of a Gaussian at half its maximum, in standard deviations.
HALF_MAXIMUM_SIGMAS = 2 * math.sqrt(2 * math.log(2))


@dataclass(frozen=True)
class Probe:
    """A transducer with its settings for one recording.

    A linear probe's lines run straight down from a flat face. A curvilinear one has them fan out
    from a convex face of radius `radius_mm`; a phased one fans out from (nearly) a point.

    Attributes:
        kind: linear, curvilinear or phased.
        frequency_mhz: centre frequency, 1 to 20.
        bandwidth: two-way bandwidth at -6 dB as a share of the centre frequency, 0.1 to 1.2.
        aperture_mm: length of the face that takes part in one line, which sets the beam width.
        width_mm: linear: length of the face, which is the width of the picture.
        radius_mm: curvilinear, phased: radius of the face.
        sector_deg: curvilinear, phased: full angle of the fan, up to 120.
        depth_mm: depth of the picture from the face, 10 to 300.
        focus_mm: depth of the transmit focus.
        f_number: receive f-number kept while the aperture allows (dynamic aperture).
        slice_mm: thickness of the slice (elevation beam width, -6 dB) at the focus.
        lines: number of scan lines.

    Raises:
        InputError: a value that no transducer has; the message names it and the allowed range.
    """

    kind: Literal["linear", "curvilinear", "phased"]
    frequency_mhz: float
    bandwidth: float
    aperture_mm: float
    depth_mm: float
    focus_mm: float
    width_mm: float = 0.0
    radius_mm: float = 0.0
    sector_deg: float = 0.0
    f_number: float = 2.0
    slice_mm: float = 2.0
    lines: int = 128

    def __post_init__(self) -> None:
        flat = self.kind == "linear"
        ranges: dict[str, tuple[float, float]] = {
            "frequency_mhz": (1, 20),
            "bandwidth": (0.1, 1.2),
            "aperture_mm": (2, 80),
            "depth_mm": (10, 300),
            "focus_mm": (2, 300),
            "width_mm": (10, 120) if flat else (0, 0),
            "radius_mm": (0, 0) if flat else (1, 100),
            "sector_deg": (0, 0) if flat else (10, 120),
            "f_number": (0.5, 8),
            "slice_mm": (0.2, 20),
            "lines": (16, 1024),
        }
        if self.kind not in ("linear", "curvilinear", "phased"):
            raise InputError(f"unknown probe {self.kind!r}; choose linear, curvilinear or phased")
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not (low <= value <= high):
                raise InputError(
                    f"probe {self.kind}: {name} is {value}, but must be {low} to {high}"
                )

    @cached_property
    def wavelength_mm(self) -> float:
        """Wavelength at the centre frequency."""
        return SOUND_MM_PER_US / self.frequency_mhz

    @cached_property
    def pulse_mm(self) -> float:
        """Axial width of the echo of a point at half its amplitude, for a Gaussian spectrum.

        A Gaussian spectrum with full width B at half amplitude is a Gaussian pulse with full width
        4 ln 2 / (pi B) in time; the way is travelled twice (Szabo, "Diagnostic Ultrasound
        Imaging", 2nd ed., section 8.4).
        """
        duration_us = 4 * math.log(2) / (math.pi * self.bandwidth * self.frequency_mhz)
        return SOUND_MM_PER_US * duration_us / 2

    @cached_property
    def samples(self) -> int:
        """Samples a line: two a pulse width, which keep the spectrum down to -31 dB."""
        return 32 * math.ceil(self.depth_mm / (0.5 * self.pulse_mm) / 32)

    @cached_property
    def sample_mm(self) -> float:
        """Distance between two samples of a line."""
        return self.depth_mm / self.samples

    @cached_property
    def ranges_mm(self) -> Float[np.ndarray, " samples"]:
        """Distance of every sample from the probe's face along its line."""
        return (np.arange(self.samples) + 0.5) * self.sample_mm

    @cached_property
    def line_step(self) -> float:
        """Distance of neighbouring lines: mm for a linear probe, radians for the others."""
        extent = self.width_mm if self.kind == "linear" else math.radians(self.sector_deg)
        return extent / self.lines

    def line_mm(self, range_mm: Any) -> Any:
        """Distance of neighbouring lines at a distance from the probe's face."""
        if self.kind == "linear":
            return self.line_step + 0 * range_mm
        return (range_mm + self.radius_mm) * self.line_step

    @cached_property
    def half_width_mm(self) -> float:
        """Half the largest width of the picture."""
        if self.kind == "linear":
            return self.width_mm / 2
        return (self.radius_mm + self.depth_mm) * math.sin(math.radians(self.sector_deg / 2))

    @cached_property
    def top_mm(self) -> float:
        """Depth of the highest point of the picture, at most 0: the corners of a convex face."""
        if self.kind == "linear":
            return 0.0
        return self.radius_mm * (math.cos(math.radians(self.sector_deg / 2)) - 1)

    def slice_at_mm(self, z_mm: Any) -> Any:
        """Thickness of the slice at a depth: thinnest at the focus, as of a fixed acoustic lens."""
        return self.slice_mm * np.hypot(1, (z_mm - self.focus_mm) / (0.8 * self.focus_mm))

    def to_beam(self, x_mm: Any, z_mm: Any) -> tuple[Any, Any]:
        """Position in the picture -> sample and line, counted from 0 at the first one's centre.

        Takes NumPy arrays or tensors of one shape; positions outside the picture come out outside
        `0..samples-1` and `0..lines-1`.
        """
        if self.kind == "linear":
            return z_mm / self.sample_mm - 0.5, x_mm / self.line_step + (self.lines - 1) / 2
        arrays: Any = np
        if not isinstance(x_mm, (np.ndarray, float)):
            import torch

            arrays = torch
        below = z_mm + self.radius_mm
        depth = arrays.hypot(x_mm, below) - self.radius_mm
        angle = arrays.arctan2(x_mm, below)
        return depth / self.sample_mm - 0.5, angle / self.line_step + (self.lines - 1) / 2

    def to_picture(self, sample: Any, line: Any) -> tuple[Any, Any]:
        """Sample and line -> x and z in mm; undoes `to_beam`."""
        range_mm = (sample + 0.5) * self.sample_mm
        across = (line - (self.lines - 1) / 2) * self.line_step
        if self.kind == "linear":
            return across + 0 * range_mm, range_mm + 0 * across
        length = range_mm + self.radius_mm
        return length * np.sin(across), length * np.cos(across) - self.radius_mm

    def inside(self, x_mm: np.ndarray, z_mm: np.ndarray) -> np.ndarray:
        """Which positions lie in the picture."""
        sample, line = self.to_beam(x_mm, z_mm)
        return (
            (sample >= -0.5)
            & (sample <= self.samples - 0.5)
            & (line >= -0.5)
            & (line <= self.lines - 0.5)
        )

    def beam_angle_rad(self, x_mm: np.ndarray, z_mm: np.ndarray) -> np.ndarray:
        """Angle of the beam at a position against the z axis, positive to the right."""
        if self.kind == "linear":
            return np.zeros(np.broadcast(x_mm, z_mm).shape)
        return np.arctan2(x_mm, z_mm + self.radius_mm)
