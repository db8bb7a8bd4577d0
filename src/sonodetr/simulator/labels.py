"""What is known of the instrument in a frame: exact, from its geometry and the expected echoes."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from sonodetr.simulator.beam import TYPICAL_ATTENUATION_DB_CM_MHZ, make_beam
from sonodetr.simulator.instrument import Instrument, in_picture, normals_deg, slice_profile
from sonodetr.simulator.layout import Layout
from sonodetr.simulator.motion import Motion
from sonodetr.simulator.probe import Probe
from sonodetr.simulator.tissue import Tissue, angle_law

# Shorter than this there is nothing to see; farther than this below its surround, behind bone or
# at a steep angle, an echo cannot be told from it even by its motion.
_SHORTEST_MM = 1.5
_LOST_DB = -6.0
_SURROUND_MM = 1.5
_EVERY = 5  # points of the shaft, so every 0.5 mm, at which levels are reckoned


@dataclass(frozen=True)
class InstrumentLabel:
    """The instrument in one frame.

    Attributes:
        box_xyxy_px: `[4]` box of the visible part, in pixels of the frame.
        tip_px, entry_px: `[2]` x, y of the tip and of the visible end nearest the skin, in pixels;
            the tip is NaN where it is not visible.
        tip_mm, entry_mm: `[2]` the same as x, z in the probe's frame.
        angle_deg: angle of the line from entry to tip in the picture, 0 to 90 against horizontal.
        visible_mm: length of the visible part.
        tip_contrast_db, shaft_contrast_db: expected echo of tip and (median) of the visible shaft
            over the expected level of tissue and noise around it, or over black; NaN for a tip
            that is not visible.
    """

    box_xyxy_px: Float64[np.ndarray, " 4"]
    tip_px: Float64[np.ndarray, " 2"]
    entry_px: Float64[np.ndarray, " 2"]
    tip_mm: Float64[np.ndarray, " 2"]
    entry_mm: Float64[np.ndarray, " 2"]
    angle_deg: float
    visible_mm: float
    tip_contrast_db: float
    shaft_contrast_db: float


class Labeller:
    """Labels the frames of one recording.

    Args:
        noise_db: electronic noise at the face relative to the speckle of muscle.
        black_db: level below which the screen is black; what is darker cannot be seen.
    """

    def __init__(
        self,
        probe: Probe,
        tissue: Tissue,
        motion: Motion,
        layout: Layout,
        *,
        noise_db: float,
        black_db: float = -math.inf,
    ) -> None:
        self.probe, self.tissue, self.motion, self.layout = probe, tissue, motion, layout
        self.noise_db, self.black_db = noise_db, black_db
        self.beam = make_beam(probe)

    def label(self, instrument: Instrument, frame: int) -> InstrumentLabel | None:
        """The label of one frame; None where no part of the instrument can be seen."""
        shaft = instrument.shaft_mm(self.motion, frame)
        every = np.unique(np.append(np.arange(0, len(shaft), _EVERY), len(shaft) - 1))
        contrast_db = self._contrast_db(instrument, shaft[every], frame)
        visible = in_picture(self.probe, shaft) & self._shown(shaft)
        visible &= np.interp(np.arange(len(shaft)), every, contrast_db) > _LOST_DB
        seen = np.flatnonzero(visible)
        if len(seen) == 0:
            return None
        steps = np.hypot(*np.diff(shaft[:, (0, 2)], axis=0).T)
        length = float(steps[visible[1:] & visible[:-1]].sum())
        if length < _SHORTEST_MM:
            return None
        tip_visible = bool(visible[-1])
        unknown = np.full(2, np.nan)
        end, entry = shaft[seen[-1], ::2], shaft[seen[0], ::2]
        return InstrumentLabel(
            self._box(instrument, shaft[visible]),
            self._pixels(end) if tip_visible else unknown,
            self._pixels(entry),
            end if tip_visible else unknown,
            entry,
            math.degrees(math.atan2(abs(end[1] - entry[1]), abs(end[0] - entry[0]))),
            length,
            float(contrast_db[-1] + instrument.tip_db) if tip_visible else math.nan,
            float(np.median(np.interp(seen, every, contrast_db))),
        )

    def _shown(self, shaft: np.ndarray) -> np.ndarray:
        """Which points lie in the part of the picture that the screen shows."""
        x, y = self.layout.to_pixels(shaft[:, 0], shaft[:, 2])
        region = self.layout.rectangle_px
        return (x >= region.x0) & (x <= region.x1) & (y >= region.y0) & (y <= region.y1)

    def _pixels(self, point_mm: np.ndarray) -> np.ndarray:
        return np.concatenate(self.layout.to_pixels(point_mm[:1], point_mm[1:]))

    def _box(self, instrument: Instrument, visible_mm: np.ndarray) -> np.ndarray:
        """Box of the visible part: its width is the instrument's and half an echo on each side."""
        sample, _ = self.probe.to_beam(visible_mm[:, 0], visible_mm[:, 2])
        sample = np.clip(sample, 0, self.probe.samples - 1).astype(int)
        radius = instrument.diameter_mm / 2
        across = radius + self.beam.sigma_across_mm[sample]
        along = radius + self.beam.sigma_along_mm
        x, z = visible_mm[:, 0], visible_mm[:, 2]
        corners = self.layout.to_pixels(
            np.array([np.min(x - across), np.max(x + across)]),
            np.array([np.min(z - along), np.max(z + along)]),
        )
        region = self.layout.rectangle_px
        x_px = np.clip(np.sort(corners[0]), region.x0, region.x1)
        y_px = np.clip(np.sort(corners[1]), region.y0, region.y1)
        return np.array([x_px[0], y_px[0], x_px[1], y_px[1]])

    def _contrast_db(self, instrument: Instrument, shaft: np.ndarray, frame: int) -> np.ndarray:
        """`[n]` expected echo of the shaft over the expected level around it."""
        off = normals_deg(np.gradient(shaft, axis=0))
        off = off - np.degrees(self.probe.beam_angle_rad(shaft[:, 0], shaft[:, 2]))
        profile = np.maximum(slice_profile(self.probe, shaft), 1e-6)
        echo_db = instrument.level_db + 20 * np.log10(profile * angle_law(off, instrument.law_deg))
        excess_db, around_db = self._levels(shaft, frame)
        return echo_db - excess_db - around_db

    def _levels(self, points: np.ndarray, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """`[n]` loss above every point over that of typical tissue, and the level around it."""
        x, z = points[:, 0], points[:, 2]
        reach = np.linspace(0, 1, 48)[:, None]
        beam = self.probe.beam_angle_rad(x, z)
        if self.probe.kind == "linear":
            path_x, path_z = x + 0 * reach, z * reach
        else:
            sample, _ = self.probe.to_beam(x, z)
            length = np.maximum((sample + 0.5) * self.probe.sample_mm, 0)
            path_x, path_z = (
                x - (1 - reach) * length * np.sin(beam),
                z - (1 - reach) * length * np.cos(beam),
            )
        depth = np.hypot(path_x - path_x[0], path_z - path_z[0])[-1]
        attenuation = self._map(self.tissue.attenuation_db_cm_mhz, path_x, path_z, frame).mean(0)
        per_db = 2 * self.probe.frequency_mhz * depth / 10
        typical_db = TYPICAL_ATTENUATION_DB_CM_MHZ * per_db
        excess_db = attenuation * per_db - typical_db
        turn = np.arange(8)[:, None] * (math.pi / 4)
        around = self._map(
            self.tissue.echo_db,
            x + _SURROUND_MM * np.cos(turn),
            z + _SURROUND_MM * np.sin(turn),
            frame,
        )
        speckle = np.mean(10 ** (around / 10), 0) * 10 ** (-excess_db / 10)
        noise = 10 ** ((self.noise_db + typical_db) / 10)
        black = 10 ** ((self.black_db - _LOST_DB) / 10)
        return excess_db, 10 * np.log10(speckle + noise + black)

    def _map(self, values: np.ndarray, x: np.ndarray, z: np.ndarray, frame: int) -> np.ndarray:
        """A map of the tissue at positions in the probe's frame, the nearest value.

        As `Pose.to_tissue` without pulse and drag, which move less than a map's cell or two.
        """
        motion, tissue = self.motion, self.tissue
        cosine, sine = math.cos(motion.rock_rad[frame]), math.sin(motion.rock_rad[frame])
        slide, off_plane, lift = motion.probe_mm[frame]
        x, z = cosine * x - sine * z, cosine * z + sine * x
        y = -off_plane - math.tan(motion.tilt_rad[frame]) * z
        x, z = x - tissue.shear[0] * y + slide, z - tissue.shear[1] * y + lift
        z = z / (1 + motion.breath_mm[frame] / motion.breath_depth_mm)
        column = (x - tissue.left_mm) / tissue.spacing_mm
        row = (z - tissue.top_mm) / tissue.spacing_mm
        height, width = values.shape
        return values[
            np.clip(row, 0, height - 1).astype(int), np.clip(column, 0, width - 1).astype(int)
        ].astype(float)
