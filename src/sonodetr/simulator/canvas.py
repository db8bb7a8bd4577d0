"""A sheet to draw tissue on: outlines are filled with speckle, lines become reflecting points."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32

from sonodetr.simulator.beam import TYPICAL_ATTENUATION_DB_CM_MHZ
from sonodetr.simulator.probe import Probe
from sonodetr.simulator.tissue import Pulsator, Reflectors, Tissue

Range = tuple[float, float]
# How far the probe may slide over the tissue before the maps end.
MARGIN_X_MM, MARGIN_Z_MM = 9.0, 5.0
DEEP_MM = 70.0  # pictures deeper than this show coarser and deeper structures
_STRAND_POINTS = 7_500  # strands leave off here, so that larger surfaces still find room
_POINTS = 15_000
_CELLS = 350  # along the longer side of the maps, which is about what a probe resolves
_COLUMNS = ("x_mm", "z_mm", "step_mm", "level_db", "normal_deg", "law_deg", "phase_rad")


@dataclass(frozen=True)
class Patch:
    """Part of the maps that an outline covers.

    Attributes:
        rows, columns: where it lies in the maps.
        weight: `[h, w]` 0 outside the outline to 1 inside.
        x_mm, z_mm: `[1, w]` and `[h, 1]` positions of its cells.
    """

    rows: slice
    columns: slice
    weight: Float32[np.ndarray, "h w"]
    x_mm: Float32[np.ndarray, "1 w"]
    z_mm: Float32[np.ndarray, "h 1"]


class Canvas:
    """The maps and reflectors of one scene while it is drawn, later things over earlier ones.

    Attributes:
        random: draws everything.
        probe: its picture and margins are what the maps cover.
        x_mm: `[K]` places across the maps at which interfaces between layers are given.
    """

    def __init__(self, random: np.random.Generator, probe: Probe) -> None:
        self.random, self.probe = random, probe
        half_mm = probe.half_width_mm + MARGIN_X_MM
        self.left_mm, self.top_mm = -half_mm, probe.top_mm - MARGIN_Z_MM
        self.bottom_mm = probe.depth_mm + MARGIN_Z_MM
        height_mm = self.bottom_mm - self.top_mm
        self.spacing_mm = max(0.12, max(2 * half_mm, height_mm) / _CELLS)
        shape = [math.ceil(size / self.spacing_mm) for size in (height_mm, 2 * half_mm)]
        self.echo_db = np.zeros(shape, np.float32)
        self.attenuation = np.full(shape, 0.6, np.float32)
        self.x_mm = np.linspace(-half_mm, half_mm, int(np.clip(2 * half_mm, 64, 160)))
        # Deep pictures are made with waves twice as long, or longer.
        self.step_mm = 0.1 if probe.depth_mm <= DEEP_MM else 0.2
        self.pulsators: list[Pulsator] = []
        self._points: list[np.ndarray] = []
        self._taken: list[tuple[float, float, float]] = []

    def uniform(self, limits: Range) -> float:
        """A number between two limits, whichever is the larger."""
        return limits[0] + (limits[1] - limits[0]) * float(self.random.random())

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return bool(self.random.random() < probability)

    def wave(self, along_mm: np.ndarray, scale_mm: float) -> np.ndarray:
        """Smooth noise along a line, mean 0 and standard deviation 1, over `scale_mm` and more."""
        lengths = scale_mm * np.array([2.0, 3.1, 4.7, 7.3]) * self.random.uniform(0.8, 1.25, 4)
        phases = self.random.uniform(0, 2 * math.pi, 4)
        terms = np.sin(2 * math.pi * along_mm[..., None] / lengths + phases)
        return np.asarray(terms @ np.array([0.5, 0.6, 0.7, 0.9]))

    def noise(
        self, scale_x_mm: float, scale_z_mm: float, patch: Patch | None = None
    ) -> Float32[np.ndarray, "h w"]:
        """Smooth noise over a patch (or the maps), about -2..2."""
        height, width = self.echo_db.shape if patch is None else patch.weight.shape
        knots = (
            max(2, round(height * self.spacing_mm / scale_z_mm) + 1),
            max(2, round(width * self.spacing_mm / scale_x_mm) + 1),
        )
        grid = self.random.standard_normal(knots, np.float32)
        return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)

    def fibres(
        self, patch: Patch, angle_deg: float, length_mm: float, thick_mm: float
    ) -> Float32[np.ndarray, "h w"]:
        """Noise drawn out along gently curved fibres, about -2..2; falls to the right if > 0."""
        angle = math.radians(angle_deg)
        tile = self.random.standard_normal((64, 64), np.float32)
        bend = thick_mm * self.wave(np.asarray(patch.x_mm), 12.0).astype(np.float32)
        along = patch.x_mm * (math.cos(angle) / length_mm) + patch.z_mm * (
            math.sin(angle) / length_mm
        )
        across = (bend - patch.x_mm * math.sin(angle)) / thick_mm + patch.z_mm * (
            math.cos(angle) / thick_mm
        )
        return cv2.remap(
            tile,
            along.astype(np.float32),
            across.astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )

    def interface(
        self, depth_mm: float, wave_mm: float, slope: float = 0.0, scale_mm: float = 8.0
    ) -> Float[np.ndarray, " k"]:
        """Depth of a boundary of layers at `x_mm`; near a convex face it follows the face."""
        z = depth_mm + slope * self.x_mm + wave_mm * self.wave(self.x_mm, scale_mm)
        if self.probe.kind == "linear":
            return z
        length = self.probe.radius_mm + max(depth_mm, 0.0)
        reach = length * math.sin(math.radians(self.probe.sector_deg / 2))
        sag = np.sqrt(length**2 - np.clip(self.x_mm, -reach, reach) ** 2) - length
        return z + sag * math.exp(-max(depth_mm, 0) / 40)

    def below(self, top_mm: np.ndarray, bottom_mm: np.ndarray | None = None) -> np.ndarray:
        """Outline `[n, 2]` of what lies between two interfaces, or beneath one."""
        floor = np.full_like(top_mm, self.bottom_mm + 5) if bottom_mm is None else bottom_mm
        there, back = np.stack([self.x_mm, top_mm], 1), np.stack([self.x_mm, floor], 1)[::-1]
        return np.concatenate([there, back])

    def blob(
        self, x_mm: float, z_mm: float, radii_mm: Range, tilt_deg: float, uneven: float
    ) -> np.ndarray:
        """Outline `[n, 2]` of an ellipse whose radius varies by about the share `uneven`."""
        angle = np.linspace(0, 2 * math.pi, 72, endpoint=False)
        orders = np.arange(2, 6)
        phases = self.random.uniform(0, 2 * math.pi, 4)
        sizes = self.random.normal(0, 1, 4) * uneven * 2 / orders
        radius = 1 + np.clip(np.cos(orders * angle[:, None] + phases) @ sizes, -0.6, 1.0)
        across, down = radii_mm[0] * radius * np.cos(angle), radii_mm[1] * radius * np.sin(angle)
        tilt = math.radians(tilt_deg)
        return np.stack(
            [
                x_mm + across * math.cos(tilt) - down * math.sin(tilt),
                z_mm + across * math.sin(tilt) + down * math.cos(tilt),
            ],
            1,
        )

    def patch(self, outline_mm: np.ndarray, soft_mm: float = 0.25) -> Patch | None:
        """The cells inside an outline `[n, 2]`, with a soft edge; None if it lies off the maps."""
        corner = (self.left_mm, self.top_mm)
        cells = (outline_mm - corner) / self.spacing_mm - 0.5
        sigma = max(0.5, soft_mm / self.spacing_mm)
        pad = math.ceil(3 * sigma) + 1
        size = np.array(self.echo_db.shape[::-1])
        low = np.clip(np.floor(cells.min(0)).astype(int) - pad, 0, size)
        high = np.clip(np.ceil(cells.max(0)).astype(int) + pad + 1, 0, size)
        if np.any(high - low < 2):
            return None
        (c0, r0), (c1, r1) = low.tolist(), high.tolist()
        mask = np.zeros((r1 - r0, c1 - c0), np.float32)
        corners = np.round(np.clip(cells - low, -2000, 4000) * 16).astype(np.int32)
        cv2.fillPoly(mask, [corners], 1.0, shift=4)
        mask = cv2.GaussianBlur(mask, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        rows, columns = np.arange(r0, r1) + 0.5, np.arange(c0, c1) + 0.5
        return Patch(
            slice(r0, r1),
            slice(c0, c1),
            mask,
            (self.left_mm + columns * self.spacing_mm).astype(np.float32)[None],
            (self.top_mm + rows * self.spacing_mm).astype(np.float32)[:, None],
        )

    def paint(
        self, patch: Patch | None, echo_db: float | np.ndarray, attenuation: float | None = None
    ) -> None:
        """Give a patch a level and an attenuation (dB/cm/MHz; None leaves it)."""
        if patch is None:
            return
        echo = self.echo_db[patch.rows, patch.columns]
        echo += patch.weight * (echo_db - echo)
        if attenuation is not None:
            loss = self.attenuation[patch.rows, patch.columns]
            loss += patch.weight * (attenuation - loss)

    def fill(
        self,
        outline_mm: np.ndarray,
        echo_db: float,
        attenuation: float | None = None,
        soft_mm: float = 0.25,
    ) -> None:
        """Fill an outline evenly."""
        self.paint(self.patch(outline_mm, soft_mm), echo_db, attenuation)

    def clear(self, outline_mm: np.ndarray) -> None:
        """Take away the surfaces inside an outline, before something else is drawn there."""
        patch = self.patch(outline_mm, 0.0)
        if patch is None or not self._points:
            return
        points = np.concatenate(self._points, 1)
        (left, top), (right, bottom) = outline_mm.min(0), outline_mm.max(0)
        near = (points[0] > left) & (points[0] < right) & (points[1] > top) & (points[1] < bottom)
        near = np.flatnonzero(near)
        x, z = points[:2, near]
        columns = ((x - self.left_mm) / self.spacing_mm).astype(int) - patch.columns.start
        rows = ((z - self.top_mm) / self.spacing_mm).astype(int) - patch.rows.start
        height, width = patch.weight.shape
        rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
        keep = np.ones(points.shape[1], bool)
        keep[near] = patch.weight[rows, columns] < 0.5
        self._points = [points[:, keep]]

    def line(
        self,
        x_mm: np.ndarray,
        z_mm: np.ndarray,
        level_db: float | np.ndarray,
        law_deg: float,
        rough: float = 0.0,
        thick_mm: float = 0.0,
    ) -> None:
        """A reflecting surface along a line; `rough` 0 (one phase) to 1 (any phase)."""
        along = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x_mm), np.diff(z_mm)))])
        count = math.ceil(along[-1] / self.step_mm) + 1
        if count < 2:
            return
        at = np.linspace(0, along[-1], count)
        x, z = np.interp(at, along, x_mm), np.interp(at, along, z_mm)
        level = np.broadcast_to(np.asarray(level_db, float), x_mm.shape)
        step = at[1]
        slope_x, slope_z = np.gradient(x), np.gradient(z)
        normal = np.degrees(np.arctan2(-slope_z, slope_x))
        phase = self.random.uniform(0, 2 * math.pi) + rough * self.random.uniform(
            -math.pi, math.pi, count
        )
        z = z + thick_mm * self.random.uniform(-0.5, 0.5, count)
        # Echoes of random phase cancel in part; a rough surface is not darker for it.
        shades = np.interp(at, along, level) + 6 * rough
        self._keep(x, z, step, shades, normal, law_deg, phase)

    def rim(
        self,
        outline_mm: np.ndarray,
        level_db: float,
        law_deg: float,
        rough: float = 0.0,
        thick_mm: float = 0.0,
        uneven_db: float = 2.0,
    ) -> None:
        """A reflecting surface all round an outline `[n, 2]`, its level uneven by some dB."""
        x, z = np.concatenate([outline_mm, outline_mm[:1]]).T
        along = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(z)))])
        level = level_db + uneven_db * self.wave(along, along[-1] / 15)
        self.line(x, z, level, law_deg, rough, thick_mm)

    def strands(
        self,
        x_mm: np.ndarray,
        z_mm: np.ndarray,
        angle_deg: np.ndarray,
        length_mm: np.ndarray,
        level_db: np.ndarray,
        law_deg: float = 20.0,
    ) -> None:
        """Many short, slightly curved lines `[n]` that fade at their ends, by their middles."""
        pieces = np.ceil(length_mm / self.step_mm).astype(int) + 1
        room = _STRAND_POINTS - sum(points.shape[1] for points in self._points)
        pieces[np.cumsum(pieces) > room] = 0
        which = np.repeat(np.arange(len(x_mm)), pieces)
        first = np.cumsum(pieces) - pieces
        part = (np.arange(len(which)) - first[which]) / np.maximum(pieces - 1, 1)[which] - 0.5
        along = part * length_mm[which]
        curve = (self.random.normal(0, 0.25, len(x_mm)) / np.maximum(length_mm, 1))[which]
        angle = np.radians(angle_deg)[which]
        thick = self.random.uniform(0.0, 2.0, len(x_mm)) * self.probe.pulse_mm
        across = curve * along**2
        spread = thick[which] * self.random.uniform(-0.5, 0.5, len(which))
        phase = self.random.uniform(0, 2 * math.pi, len(x_mm))[which]
        self._keep(
            x_mm[which] + along * np.cos(angle) - across * np.sin(angle),
            z_mm[which] + along * np.sin(angle) + across * np.cos(angle) + spread,
            (length_mm / np.maximum(pieces - 1, 1))[which],
            level_db[which] - 12 * (2 * part) ** 4,
            -np.degrees(angle + np.arctan(2 * curve * along)),
            law_deg,
            phase + self.random.normal(0, 0.4, len(which)),
        )

    def _keep(self, *columns: float | np.ndarray) -> None:
        """Add points, those that no motion can bring into the picture left out."""
        points = np.stack(np.broadcast_arrays(*columns)).astype(np.float32)
        points[4] = (points[4] + 90) % 180 - 90
        x = np.sign(points[0]) * np.maximum(np.abs(points[0]) - MARGIN_X_MM, 0)
        room = _POINTS - sum(kept.shape[1] for kept in self._points)
        seen = [self.probe.inside(x, points[1] + dz) for dz in (-MARGIN_Z_MM, 0, MARGIN_Z_MM)]
        self._points.append(points[:, seen[0] | seen[1] | seen[2]][:, : max(room, 0)])

    def deeper(
        self, x_mm: np.ndarray, z_mm: np.ndarray, factor: float = 1.0, more_mm: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places on the same scan lines at `factor` times the distance from the face and more."""
        if self.probe.kind == "linear":
            return x_mm, z_mm * factor + more_mm
        radius = self.probe.radius_mm
        length = np.maximum(np.hypot(x_mm, z_mm + radius), 1e-3)
        stretch = (radius + (length - radius) * factor + more_mm) / length
        return x_mm * stretch, (z_mm + radius) * stretch - radius

    def free(self, x_mm: float, z_mm: float, radius_mm: float) -> bool:
        """Whether nothing was placed there yet; if so, the place is taken."""
        for x, z, radius in self._taken:
            if math.hypot(x - x_mm, z - z_mm) < radius + radius_mm:
                return False
        self._taken.append((x_mm, z_mm, radius_mm))
        return True

    def evened(self, attenuation: float) -> float:
        """An attenuation no farther from typical tissue's than 20 dB at the bottom.

        Time-gain compensation is reckoned for typical tissue; before an even phantom or water
        people turn it down, which this stands for.
        """
        limit = 20 / (2 * self.probe.frequency_mhz * self.probe.depth_mm / 10)
        typical = TYPICAL_ATTENUATION_DB_CM_MHZ
        return float(np.clip(attenuation, max(0.0, typical - limit), typical + limit))

    def finish(self, shear: tuple[float, float]) -> Tissue:
        """The drawn tissue, no region of it uniformly grey."""
        size_mm = 2 * self.probe.half_width_mm
        for scale_mm, level_db in ((size_mm / 3, 2.0), (size_mm / 9, 1.6), (size_mm / 30, 1.0)):
            self.echo_db += level_db * self.noise(scale_mm, scale_mm)
        # Uneven losses streak a picture with brighter and darker columns.
        uneven = 0.12 * self.noise(size_mm / 6, self.probe.depth_mm / 3)
        self.attenuation *= np.clip(1 + uneven, 0.8, 1.25)
        points = np.concatenate([np.zeros((7, 0), np.float32), *self._points], 1)
        return Tissue(
            self.spacing_mm,
            self.left_mm,
            self.top_mm,
            self.echo_db,
            np.maximum(self.attenuation, 0.0),
            Reflectors(**dict(zip(_COLUMNS, points, strict=True))),
            tuple(self.pulsators),
            shear,
        )
