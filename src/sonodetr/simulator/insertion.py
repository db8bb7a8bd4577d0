"""Draws how an instrument is led through the picture, and how probe and tissue move meanwhile."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sonodetr.simulator.instrument import Instrument
from sonodetr.simulator.motion import Motion
from sonodetr.simulator.probe import Probe

Range = tuple[float | int, float | int]
Kind = Literal["needle", "catheter", "guidewire"]
_FINE_HZ = 200.0  # speeds are integrated at this rate, whatever the frame rate
_DRAG_MM, _DRAG_SPEED_MM_S = 0.5, 8.0
_DIAMETERS_MM = {
    "needle": (0.41, 0.51, 0.64, 0.72, 0.82, 0.91, 1.27, 1.65),  # 27 to 16 gauge
    "catheter": (1.0, 1.33, 1.67, 2.0, 2.67),  # 3 to 8 French
    "guidewire": (0.36, 0.46, 0.64, 0.89, 0.97),  # 0.014 to 0.038 inch
}


@dataclass(frozen=True)
class InsertionRanges:
    """How instruments, probe and tissue may behave; pairs are lowest and highest.

    Attributes:
        level_db, law_deg, tip_db, reverberation_db, shadow_db: see `Instrument`.
        angle_deg: angle below the probe's face that an approach within the plane may have.
        out_of_plane: probability of an approach across the plane.
        misaligned_mm: standard deviation of entry and target off the plane.
        speed_mm_s: speed of insertion and retraction.
        slide_mm, lift_mm, elevation_mm: amplitudes of the probe's slow movement.
        tilt_deg, rock_deg: amplitudes of its slow turning.
        tremor_mm: amplitude of the hand's tremor.
        breath: amplitude of breathing at the bottom, as a share of the depth.
    """

    level_db: Range
    law_deg: Range
    tip_db: Range
    reverberation_db: Range
    shadow_db: Range
    angle_deg: Range
    out_of_plane: float
    misaligned_mm: float
    speed_mm_s: Range
    slide_mm: Range
    lift_mm: Range
    elevation_mm: Range
    tilt_deg: Range
    rock_deg: Range
    tremor_mm: Range
    breath: Range


STANDARD = InsertionRanges(
    level_db=(16, 40),
    law_deg=(14, 45),
    tip_db=(2, 9),
    reverberation_db=(-16, -6),
    shadow_db=(0, 8),
    angle_deg=(8, 65),
    out_of_plane=0.15,
    misaligned_mm=0.5,
    speed_mm_s=(2, 25),
    slide_mm=(0, 2.5),
    lift_mm=(0, 0.8),
    elevation_mm=(0, 0.8),
    tilt_deg=(0, 1.5),
    rock_deg=(0, 1.5),
    tremor_mm=(0, 0.15),
    breath=(0, 0.03),
)
SHIFTED = InsertionRanges(
    level_db=(16, 36),
    law_deg=(10, 25),
    tip_db=(0, 5),
    reverberation_db=(-12, -4),
    shadow_db=(4, 14),
    angle_deg=(20, 75),
    out_of_plane=0.3,
    misaligned_mm=0.8,
    speed_mm_s=(10, 45),
    slide_mm=(1, 5),
    lift_mm=(0.3, 1.5),
    elevation_mm=(0.3, 1.6),
    tilt_deg=(0.5, 3),
    rock_deg=(0.5, 3),
    tremor_mm=(0.1, 0.3),
    breath=(0.01, 0.06),
)


def draw_motion(
    random: np.random.Generator, probe: Probe, times_s: np.ndarray, ranges: InsertionRanges
) -> Motion:
    """Draw how the hand moves the probe and how the tissue breathes and pulses."""

    def sway(amplitude: Range, period_s: Range) -> np.ndarray:
        size, period = random.uniform(*amplitude), random.uniform(*period_s)
        return size * np.sin(2 * math.pi * (times_s / period + random.random()))

    slow: Range = (2.0, 8.0)
    tremor = [sway(ranges.tremor_mm, (0.1, 0.17)) for _ in range(3)]
    probe_mm = np.stack(
        (
            sway(ranges.slide_mm, slow) + tremor[0],
            sway(ranges.elevation_mm, slow) + tremor[1],
            sway(ranges.lift_mm, slow) + tremor[2],
        ),
        -1,
    )
    beat = (times_s * random.uniform(0.8, 1.8) + random.random()) % 1
    pairs = np.zeros((len(times_s), 2))
    return Motion(
        times_s,
        probe_mm,
        np.radians(sway(ranges.tilt_deg, slow)),
        np.radians(sway(ranges.rock_deg, slow)),
        probe.depth_mm * sway(ranges.breath, (2.5, 5.5)),
        probe.depth_mm,
        # A fast rise and a slow fall, as of the pressure in an artery.
        np.where(beat < 0.15, beat / 0.15, np.exp(-4 * (beat - 0.15))),
        pairs,
        pairs,
    )


def draw_instrument(
    random: np.random.Generator,
    probe: Probe,
    times_s: np.ndarray,
    kind: Kind,
    ranges: InsertionRanges,
) -> Instrument:
    """Draw an instrument, a target in the picture, a way to it and a hand that leads it there."""
    entry, target = _way(random, probe, ranges)
    way = target - entry
    reach = float(np.linalg.norm(way))
    needle = kind == "needle"
    level = random.uniform(*ranges.level_db) - (6 if kind == "catheter" else 0)
    return Instrument(
        kind,
        float(random.choice(_DIAMETERS_MM[kind])),
        entry,
        math.atan2(way[2], way[0]),
        math.asin(way[1] / reach),
        float(np.clip(random.normal(0, 1 / 900 if needle else 1 / 250), -1 / 120, 1 / 120)),
        0.0 if kind != "guidewire" else random.uniform(0.5, 2.6) * random.choice((-1, 1)),
        0.0 if kind != "guidewire" else random.uniform(3, 8),
        *_hand(random, times_s, reach, ranges),
        level,
        random.uniform(*ranges.law_deg) if needle else random.uniform(30, 60),
        random.uniform(*ranges.tip_db),
        random.uniform(*ranges.reverberation_db),
        random.uniform(*ranges.shadow_db),
        _texture(random),
    )


def drag_along(motion: Motion, instrument: Instrument) -> Motion:
    """The motion with the tissue that the instrument's tip pushes or pulls along."""
    if len(motion) < 2:
        return motion
    speed = np.gradient(instrument.length_mm, motion.times_s)
    angle = instrument.angle_rad + instrument.swing_rad
    ahead = np.stack((np.cos(angle), np.sin(angle)), -1)
    tip = instrument.entry_mm[::2] + instrument.length_mm[:, None] * ahead
    size = _DRAG_MM * np.tanh(speed / _DRAG_SPEED_MM_S)
    return replace(motion, drag_mm=size[:, None] * ahead, drag_at_mm=tip)


def _way(
    random: np.random.Generator, probe: Probe, ranges: InsertionRanges
) -> tuple[np.ndarray, np.ndarray]:
    """Entry on the skin and target in the picture, `[3]` each in mm.

    Within the plane the needle must pass beside the probe, so it enters outside the face.
    """
    face = probe.half_width_mm if probe.kind == "linear" else probe.aperture_mm / 2
    sample, line = random.uniform(0.15, 0.9), random.uniform(0.15, 0.85)
    x, z = (
        float(place[0])
        for place in probe.to_picture(
            np.array([sample * probe.samples]), np.array([line * probe.lines])
        )
    )
    off = random.normal(0, ranges.misaligned_mm, 2)
    if random.random() < ranges.out_of_plane:
        away = random.uniform(0.3, 1.2) * (z - probe.top_mm) * random.choice((-1, 1))
        entry_x = x + random.normal(0, 3)
        return np.array([entry_x, away, probe.top_mm]), np.array([x, off[0], z])
    side = random.choice((-1, 1))
    below = z - probe.top_mm
    nearest, farthest = (below / math.tan(math.radians(angle)) for angle in ranges.angle_deg[::-1])
    gap = random.uniform(1, 15)
    distance = np.clip(face + gap + side * x, nearest, farthest)
    return np.array([x - side * distance, off[0], probe.top_mm]), np.array([x, off[1], z])


def _hand(
    random: np.random.Generator, times_s: np.ndarray, reach_mm: float, ranges: InsertionRanges
) -> tuple[np.ndarray, np.ndarray]:
    """`[F]` inserted length and swing: pushes, pulls, pauses, jiggles and re-directions in turn."""
    fine = np.arange(0, times_s[-1] + 2 / _FINE_HZ, 1 / _FINE_HZ)
    speed, turn = np.zeros(len(fine)), np.zeros(len(fine))
    start = 0
    while start < len(fine):
        stop = start + int(random.uniform(0.3, 2.0) * _FINE_HZ)
        pace = random.uniform(*ranges.speed_mm_s)
        part = fine[start:stop] - fine[start]
        match random.choice(5, p=(0.45, 0.15, 0.15, 0.15, 0.1)):
            case 0:
                speed[start:stop] = pace
            case 1:
                speed[start:stop] = -pace
            case 2:
                pass
            case 3:
                rate = random.uniform(1.5, 4.0)
                speed[start:stop] = pace * np.cos(2 * math.pi * rate * part)
            case _:
                speed[start:stop] = -pace / 2
                turn[start:stop] = math.radians(random.uniform(-6, 6))
        start = stop
    longest = reach_mm * random.uniform(1.0, 1.15)
    length = random.uniform(0.5, 1.0) * reach_mm + np.cumsum(speed) / _FINE_HZ
    # Folding back at either end turns what would be pushed too far into a retraction.
    length = longest - np.abs(length % (2 * longest) - longest)
    swing = np.cumsum(turn) / _FINE_HZ
    return np.interp(times_s, fine, length), np.interp(times_s, fine, swing)


def _texture(random: np.random.Generator) -> np.ndarray:
    """`[300]` dB, slow variation of the shaft's echo over 300 mm from its tip."""
    rough = np.convolve(random.normal(0, 1, 304), np.hanning(7)[1:-1], "valid")
    return rough * random.uniform(0.5, 2.0)
