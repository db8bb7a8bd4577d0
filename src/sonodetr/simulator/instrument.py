"""Needles, catheters and guidewires: their path in 3D, their echoes and their exact labels."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64

from sonodetr.simulator.formation import Echoes
from sonodetr.simulator.motion import Motion
from sonodetr.simulator.probe import Probe
from sonodetr.simulator.tissue import Reflectors

CLASSES = ("needle", "catheter", "guidewire")
_STEP_MM = 0.1
# A sample of the shaft is in the slice where the slice's profile is above this (-12 dB).
_IN_SLICE = 0.25


@dataclass(frozen=True)
class Instrument:
    """A thin instrument that is pushed along its path.

    The path starts at `entry_mm` on the skin and leaves it along a straight line that bends
    sideways by `bend_per_mm * s^2 / 2` after s mm, as a bevelled needle does; the last `hook_mm`
    may curl (J-tipped guidewires). All in the frame of the tissue at rest.

    Attributes:
        kind: needle, catheter or guidewire.
        diameter_mm: outer diameter (22 gauge: 0.72, 18 gauge: 1.27).
        entry_mm: `[3]` where it goes through the skin.
        angle_rad: angle below the x axis within the plane; over pi/2 points to the left.
        out_of_plane_rad: angle out of the plane, 0 stays in it.
        bend_per_mm: curvature, in 1/mm.
        hook_rad: how far the last `hook_mm` turn.
        hook_mm: length of the curled end.
        length_mm: `[F]` inserted length in every frame.
        swing_rad: `[F]` turn about the entry point within the plane (re-direction).
        level_db: echo of the shaft at right angles, relative to the speckle of muscle.
        law_deg: angle off the right angle at which that has halved.
        tip_db: how much brighter the tip is.
        reverberation_db: level of the first echo from within, relative to the shaft; each further
            one is weaker by as much again.
        shadow_db: what a beam loses that crosses the shaft.
        texture_db: `[n]` slow variation of the shaft's level, for every 1 mm from the tip.
    """

    kind: Literal["needle", "catheter", "guidewire"]
    diameter_mm: float
    entry_mm: Float64[np.ndarray, " 3"]
    angle_rad: float
    out_of_plane_rad: float
    bend_per_mm: float
    hook_rad: float
    hook_mm: float
    length_mm: Float64[np.ndarray, " frames"]
    swing_rad: Float64[np.ndarray, " frames"]
    level_db: float
    law_deg: float
    tip_db: float
    reverberation_db: float
    shadow_db: float
    texture_db: Float64[np.ndarray, " n"]

    def shaft_mm(self, motion: Motion, frame: int) -> Float64[np.ndarray, "points 3"]:
        """The axis from the skin to the tip in the probe's frame, a point every 0.1 mm."""
        length = float(self.length_mm[frame])
        count = max(2, math.ceil(length / _STEP_MM) + 1)
        along = np.linspace(0, max(length, 0.0), count)
        # Direction angle at every point; its integral is the path. The entry's angle turns with
        # the swing, the curve and the hook are fixed to the needle's own end.
        turn = self.bend_per_mm * along
        if self.hook_mm > 0:
            turn = turn + self.hook_rad * np.clip(1 - (length - along) / self.hook_mm, 0, 1)
        angle = self.angle_rad + self.swing_rad[frame] + turn
        level = math.cos(self.out_of_plane_rad)
        slopes = np.stack(
            (
                level * np.cos(angle),
                np.full(count, math.sin(self.out_of_plane_rad)),
                level * np.sin(angle),
            ),
            -1,
        )
        middle = (slopes[1:] + slopes[:-1]) / 2
        steps = np.diff(along)[:, None] * middle
        path = np.concatenate((np.zeros((1, 3)), np.cumsum(steps, 0)))
        return motion.to_probe(path + self.entry_mm, frame)

    def echoes(self, probe: Probe, motion: Motion, frame: int) -> Echoes:
        """Walls, tip and reverberations in one frame, with the shadow they cast."""
        shaft = self.shaft_mm(motion, frame)
        profile = slice_profile(probe, shaft)
        profile_db = 20 * np.log10(np.maximum(profile, 1e-6))
        keep = profile_db > -60
        if not keep.any():
            return Echoes(_reflectors(np.zeros((6, 0))), np.zeros(0, np.float32))
        slope = np.gradient(shaft, axis=0)
        step = np.hypot(slope[:, 0], slope[:, 2])
        normal = normals_deg(slope)
        from_tip = (len(shaft) - 1 - np.arange(len(shaft))) * _STEP_MM
        texture = np.interp(from_tip, np.arange(len(self.texture_db)), self.texture_db)
        level = self.level_db + texture + profile_db
        beam = probe.beam_angle_rad(shaft[:, 0], shaft[:, 2])
        rows = []
        # Front wall, back wall, then echoes that ran to and fro inside, each later by a diameter.
        # Steel carries sound 3.7 times faster, but the lumen's fluid does not.
        for order in range(5):
            late = order * self.diameter_mm - self.diameter_mm / 2
            drop = self.reverberation_db * order
            law = self.law_deg / math.sqrt(1 + order)
            rows.append(
                np.stack(
                    (
                        shaft[:, 0] + late * np.sin(beam),
                        shaft[:, 2] + late * np.cos(beam),
                        step,
                        level + drop,
                        normal,
                        np.full(len(shaft), law),
                    )
                )[:, keep]
            )
        # The bevel is a rough facet: it shows at any angle.
        tip = from_tip < max(1.0, 1.5 * self.diameter_mm)
        bright = rows[0][:, tip[keep]].copy()
        bright[3] += self.tip_db
        bright[5] = 75.0
        # A phased probe's lines meet in a point; nearer to it than 1 mm they count as there.
        crossing = np.abs(slope[:, 0]) / probe.line_mm(np.maximum(shaft[:, 2], 1 - probe.radius_mm))
        loss = np.zeros(sum(part.shape[1] for part in (*rows, bright)), np.float32)
        loss[: int(keep.sum())] = (self.shadow_db * profile * crossing)[keep]
        return Echoes(_reflectors(np.concatenate((*rows, bright), 1)), loss)


def slice_profile(probe: Probe, points_mm: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, " n"]:
    """Sensitivity of the slice at every point, 1 in its middle, one half at its thickness."""
    half = probe.slice_at_mm(points_mm[:, 2]) / 2
    return np.exp(-math.log(2) * (points_mm[:, 1] / half) ** 2)


def normals_deg(slopes: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, " n"]:
    """Direction of a shaft's normal within the plane against the z axis, -90 to 90."""
    return (90 - np.degrees(np.arctan2(slopes[:, 2], slopes[:, 0]))) % 180 - 90


def in_picture(probe: Probe, points_mm: Float64[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
    """Which points of a shaft lie within the field of view and the slice."""
    inside = probe.inside(points_mm[:, 0], points_mm[:, 2])
    return inside & (slice_profile(probe, points_mm) >= _IN_SLICE)


def _reflectors(rows: np.ndarray) -> Reflectors:
    x, z, step, level, normal, law = rows.astype(np.float32)
    return Reflectors(x, z, step, level, normal, law, np.zeros(len(x), np.float32))
