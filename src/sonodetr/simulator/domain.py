"""Which probes, anatomy, instruments and scanners a simulated data set draws from."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sonodetr.simulator import anatomy_ranges, insertion, layout, scanner, screen
from sonodetr.simulator.anatomy_ranges import AnatomyRanges
from sonodetr.simulator.insertion import InsertionRanges, Range
from sonodetr.simulator.layout import LayoutRanges
from sonodetr.simulator.probe import Probe
from sonodetr.simulator.scanner import ScannerRanges
from sonodetr.simulator.screen import ScreenRanges


@dataclass(frozen=True)
class ProbeRanges:
    """One family of transducers; pairs are lowest and highest, `weight` how often it is drawn."""

    kind: Literal["linear", "curvilinear", "phased"]
    weight: float
    frequency_mhz: Range
    depth_mm: Range
    aperture_mm: Range
    width_mm: Range = (0, 0)
    radius_mm: Range = (0, 0)
    sector_deg: Range = (0, 0)
    bandwidth: Range = (0.3, 0.6)
    slice_mm: Range = (1.2, 3.5)
    lines: tuple[int, ...] = (96, 128, 160)


@dataclass(frozen=True)
class Domain:
    """Everything that a data set is drawn from."""

    probes: tuple[ProbeRanges, ...]
    anatomy: AnatomyRanges
    insertion: InsertionRanges
    scanner: ScannerRanges
    layout: LayoutRanges
    screen: ScreenRanges


STANDARD = Domain(
    (
        ProbeRanges("linear", 0.65, (6, 14), (25, 60), (15, 25), width_mm=(25, 50)),
        ProbeRanges(
            "curvilinear",
            0.25,
            (3, 6),
            (60, 140),
            (20, 35),
            radius_mm=(40, 65),
            sector_deg=(50, 75),
        ),
        ProbeRanges(
            "phased", 0.1, (2.5, 4.5), (70, 140), (14, 20), radius_mm=(1, 3), sector_deg=(70, 90)
        ),
    ),
    anatomy_ranges.STANDARD,
    insertion.STANDARD,
    scanner.STANDARD,
    layout.STANDARD,
    screen.STANDARD,
)
SHIFTED = Domain(
    (
        ProbeRanges(
            "linear", 0.5, (4, 7), (50, 90), (20, 35), width_mm=(45, 60), bandwidth=(0.2, 0.35)
        ),
        ProbeRanges(
            "curvilinear",
            0.35,
            (5, 9),
            (40, 80),
            (8, 14),
            radius_mm=(10, 20),
            sector_deg=(70, 110),
            bandwidth=(0.2, 0.4),
        ),
        ProbeRanges(
            "phased", 0.15, (1.8, 3), (120, 180), (18, 24), radius_mm=(1, 3), sector_deg=(60, 75)
        ),
    ),
    anatomy_ranges.SHIFTED,
    insertion.SHIFTED,
    scanner.SHIFTED,
    layout.SHIFTED,
    screen.SHIFTED,
)
DOMAINS = {"standard": STANDARD, "shifted": SHIFTED}


def draw_probe(random: np.random.Generator, families: tuple[ProbeRanges, ...]) -> Probe:
    """Draw a transducer and its settings."""
    weights = np.array([family.weight for family in families])
    family = families[random.choice(len(families), p=weights / weights.sum())]
    # A high frequency goes with a small depth: one number moves both.
    shallow = random.random()
    low, high = family.depth_mm
    depth = high + (low - high) * np.clip(shallow + random.normal(0, 0.15), 0, 1)
    low, high = family.frequency_mhz
    frequency = low + (high - low) * np.clip(shallow + random.normal(0, 0.15), 0, 1)
    return Probe(
        family.kind,
        frequency_mhz=float(frequency),
        bandwidth=random.uniform(*family.bandwidth),
        aperture_mm=random.uniform(*family.aperture_mm),
        depth_mm=float(depth),
        focus_mm=float(depth * random.uniform(0.35, 0.75)),
        width_mm=random.uniform(*family.width_mm),
        radius_mm=random.uniform(*family.radius_mm),
        sector_deg=random.uniform(*family.sector_deg),
        f_number=random.uniform(1.5, 3.0),
        slice_mm=random.uniform(*family.slice_mm) * (1 if family.kind == "linear" else 1.8),
        lines=int(random.choice(family.lines)),
    )
