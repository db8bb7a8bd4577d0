"""Scenes that are so plain that what they look like is known beforehand."""

from typing import Any

import numpy as np

from sonodetr.simulator.formation import Echoes, Formation
from sonodetr.simulator.instrument import Instrument
from sonodetr.simulator.layout import Layout
from sonodetr.simulator.motion import Motion
from sonodetr.simulator.probe import Probe
from sonodetr.simulator.recording import Recording
from sonodetr.simulator.scanner import Scanner
from sonodetr.simulator.screen import Screen
from sonodetr.simulator.settings import SimulatorConfig
from sonodetr.simulator.tissue import Reflectors, Tissue

LINEAR = Probe("linear", 9.0, 0.5, 20.0, 40.0, 20.0, width_mm=38.0, lines=160)
CURVED = Probe("curvilinear", 4.0, 0.45, 28.0, 100.0, 55.0, radius_mm=55.0, sector_deg=65.0)
PHASED = Probe("phased", 3.0, 0.5, 18.0, 120.0, 60.0, radius_mm=2.0, sector_deg=80.0)
PROBES = {"linear": LINEAR, "curvilinear": CURVED, "phased": PHASED}
SILENT_DB = -300.0


def reflectors(
    x_mm: Any,
    z_mm: Any,
    step_mm: Any = 1.0,
    level_db: Any = 0.0,
    normal_deg: Any = 0.0,
    law_deg: Any = 20.0,
    phase_rad: Any = 0.0,
) -> Reflectors:
    """Points of surfaces; what is given once holds for all."""
    columns = np.broadcast_arrays(x_mm, z_mm, step_mm, level_db, normal_deg, law_deg, phase_rad)
    return Reflectors(*(np.array(column, np.float32).reshape(-1) for column in columns))


def even(
    probe: Probe,
    echo_db: float = 0.0,
    attenuation: float = 0.6,
    surfaces: Reflectors | None = None,
    **others: Any,
) -> Tissue:
    """The same tissue everywhere."""
    spacing, left, top = 0.5, -probe.half_width_mm - 9, probe.top_mm - 5
    shape = int((probe.depth_mm + 5 - top) / spacing) + 1, int(-2 * left / spacing) + 1
    return Tissue(
        spacing,
        left,
        top,
        np.full(shape, echo_db, np.float32),
        np.full(shape, attenuation, np.float32),
        surfaces or reflectors([], []),
        **others,
    )


def amplitude(
    probe: Probe,
    tissue: Tissue,
    motion: Motion | None = None,
    *,
    seed: int = 0,
    noise_db: float = -250.0,
    instrument: Echoes | None = None,
) -> np.ndarray:
    """`[frames, samples, lines]` envelope on the beam grid; 1 is the speckle of muscle."""
    motion = motion or Motion.still(1)
    formation = Formation(probe, tissue, motion, noise_db=noise_db, seed=(seed,))
    echoes = [instrument] * len(motion) if instrument else ()
    image_db = formation.image_db(slice(0, len(motion)), echoes)
    return np.asarray(10 ** (image_db.double().numpy() / 20))


def peaks_db(envelope: np.ndarray) -> np.ndarray:
    """`[lines]` level of the highest echo of every line, between the samples.

    A parabola through the three highest levels is exact for a Gaussian pulse.
    """
    level = 20 * np.log10(envelope)
    row, column = level.argmax(0).clip(1, len(level) - 2), np.arange(level.shape[1])
    before, top, after = (level[row + step, column] for step in (-1, 0, 1))
    return np.asarray(top + (after - before) ** 2 / (8 * (2 * top - before - after)))


def needle(**changes: Any) -> Instrument:
    """A straight smooth needle without echoes from within, 15 mm deep and level."""
    given: dict[str, Any] = {
        "kind": "needle",
        "diameter_mm": 0.7,
        "entry_mm": np.array([-30.0, 0.0, 15.0]),
        "angle_rad": 0.0,
        "out_of_plane_rad": 0.0,
        "bend_per_mm": 0.0,
        "hook_rad": 0.0,
        "hook_mm": 0.0,
        "length_mm": np.array([35.0]),
        "swing_rad": np.array([0.0]),
        "level_db": 30.0,
        "law_deg": 25.0,
        "tip_db": -80.0,
        "reverberation_db": -80.0,
        "shadow_db": 0.0,
        "texture_db": np.zeros(300),
    }
    return Instrument(**(given | changes))


def whole(probe: Probe, mm_per_px: float = 0.25, mirrored: bool = False) -> Layout:
    """The whole picture, at 3 and 5 pixels from the frame's left and top."""
    half, deep = probe.half_width_mm, probe.depth_mm
    return Layout(
        mm_per_px,
        3.0,
        5.0,
        -half,
        half,
        probe.top_mm,
        deep,
        int((deep - probe.top_mm) / mm_per_px) + 12,
        int(2 * half / mm_per_px) + 8,
        mirrored,
    )


def pictures(
    probe: Probe, tissue: Tissue, layout: Layout, instrument: Instrument | None = None
) -> np.ndarray:
    """What a plain scanner of 60 dB shows, `[frames, height, width]`."""
    size = layout.height_px, layout.width_px
    config = SimulatorConfig(clips=1, frames=1, image_size=size)
    motion, scanner = Motion.still(1), Scanner(noise_db=-250.0)
    return Recording(
        config, 0, probe, tissue, motion, instrument, scanner, layout, Screen()
    ).pictures()
