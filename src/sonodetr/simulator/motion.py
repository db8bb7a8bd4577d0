"""How probe and tissue move: where a point of the tissue at rest lies in every frame."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

_DRAG_MM = 3.0  # how far a needle drags the tissue along


@dataclass(frozen=True)
class Motion:
    """Movement during a recording; the tissue at rest is the first frame's probe frame.

    Attributes:
        times_s: `[F]` time of every frame.
        probe_mm: `[F, 3]` the probe's place against the tissue: slide across (x), slide out of
            the plane (y), and lift or press (z).
        tilt_rad: `[F]` fanning out of the plane, about the face.
        rock_rad: `[F]` rotation within the plane, about the face.
        breath_mm: `[F]` descent of the tissue at `breath_depth_mm`, none at the face.
        breath_depth_mm: depth that `breath_mm` refers to.
        pulse: `[F]` 0..1, how far arteries are widened.
        drag_mm: `[F, 2]` shift (x, z) of the tissue around the instrument's tip.
        drag_at_mm: `[F, 2]` where that is, in the tissue at rest.
    """

    times_s: Float64[np.ndarray, " frames"]
    probe_mm: Float64[np.ndarray, "frames 3"]
    tilt_rad: Float64[np.ndarray, " frames"]
    rock_rad: Float64[np.ndarray, " frames"]
    breath_mm: Float64[np.ndarray, " frames"]
    breath_depth_mm: float
    pulse: Float64[np.ndarray, " frames"]
    drag_mm: Float64[np.ndarray, "frames 2"]
    drag_at_mm: Float64[np.ndarray, "frames 2"]

    def __len__(self) -> int:
        return len(self.times_s)

    @staticmethod
    def still(frames: int, frame_rate_hz: float = 20.0) -> "Motion":
        """Nothing moves.

        >>> len(Motion.still(5))
        5
        """
        none, pairs = np.zeros(frames), np.zeros((frames, 2))
        times = np.arange(frames) / frame_rate_hz
        return Motion(times, np.zeros((frames, 3)), none, none, none, 1.0, none, pairs, pairs)

    def to_probe(self, points_mm: np.ndarray, frame: int) -> np.ndarray:
        """`[..., 3]` rigid points of the tissue's frame, in the probe's frame."""
        x, y, z = np.moveaxis(points_mm - self.probe_mm[frame], -1, 0)
        cosine, sine = np.cos(self.rock_rad[frame]), np.sin(self.rock_rad[frame])
        y = y - np.tan(self.tilt_rad[frame]) * z
        return np.stack((cosine * x + sine * z, y, cosine * z - sine * x), -1)


@dataclass(frozen=True)
class Pose:
    """The same for some frames as `[F, 1]` tensors, so that they broadcast over points."""

    slide_x: Any
    slide_y: Any
    lift: Any
    tilt: Any
    cosine: Any
    sine: Any
    breath_per_mm: Any
    pulse: Any
    drag: Any
    drag_at: Any

    @staticmethod
    def of(motion: Motion, frames: slice, device: Any) -> "Pose":
        """Take `frames` of a motion to a device."""
        import torch

        def column(values: np.ndarray) -> Any:
            return torch.tensor(values[frames], dtype=torch.float32, device=device)[:, None]

        return Pose(
            slide_x=column(motion.probe_mm[:, 0]),
            slide_y=column(motion.probe_mm[:, 1]),
            lift=column(motion.probe_mm[:, 2]),
            tilt=column(np.tan(motion.tilt_rad)),
            cosine=column(np.cos(motion.rock_rad)),
            sine=column(np.sin(motion.rock_rad)),
            breath_per_mm=column(motion.breath_mm / motion.breath_depth_mm),
            pulse=column(motion.pulse),
            drag=[column(motion.drag_mm[:, axis]) for axis in range(2)],
            drag_at=[column(motion.drag_at_mm[:, axis]) for axis in range(2)],
        )

    def shift(self, tissue: Any, x: Any, z: Any) -> tuple[Any, Any]:
        """How far the tissue at rest positions x, z has been moved, in mm."""
        move_z = self.breath_per_mm * z
        move_x = 0 * move_z
        for artery in tissue.pulsators:
            # Incompressible: the ring of tissue around keeps its area, so the shift falls as 1/r.
            across, down = x - artery.x_mm, z - artery.z_mm
            squared = (across**2 + down**2).clamp_min(artery.radius_mm**2)
            widen = artery.stroke_mm * artery.radius_mm * self.pulse / squared
            move_x, move_z = move_x + widen * across, move_z + widen * down
        across, down = x - self.drag_at[0], z - self.drag_at[1]
        near = (-(across**2 + down**2) / (2 * _DRAG_MM**2)).exp()
        return move_x + near * self.drag[0], move_z + near * self.drag[1]

    def to_probe(self, tissue: Any, x: Any, z: Any) -> tuple[Any, Any, Any]:
        """Tissue at rest `[N]` -> x, y, z in the probe's frame, `[F, N]` each."""
        shift_x, shift_z = self.shift(tissue, x, z)
        x, z = x + shift_x - self.slide_x, z + shift_z - self.lift
        y = -self.slide_y - self.tilt * z
        shear_x, shear_z = tissue.shear
        x, z = x + shear_x * y, z + shear_z * y
        return self.cosine * x + self.sine * z, y, self.cosine * z - self.sine * x

    def to_tissue(self, tissue: Any, x: Any, z: Any) -> tuple[Any, Any]:
        """Places in the probe's plane `[N]` -> tissue at rest `[F, N]`; undoes `to_probe`."""
        x, z = self.cosine * x - self.sine * z, self.cosine * z + self.sine * x
        shear_x, shear_z = tissue.shear
        y = (-self.slide_y - self.tilt * z) / (1 - self.tilt * shear_z)
        x, z = x - shear_x * y + self.slide_x, z - shear_z * y + self.lift
        rest_x, rest_z = x, z
        for _ in range(4):  # the shift is known at rest only; it varies slowly, so this converges
            shift_x, shift_z = self.shift(tissue, rest_x, rest_z)
            rest_x, rest_z = x - shift_x, z - shift_z
        return rest_x, rest_z
