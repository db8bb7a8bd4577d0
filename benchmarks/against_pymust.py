"""The point-spread function and the speckle beside those of PyMUST: benchmarks/against_pymust.py

PyMUST solves the field of every element at every frequency (Garcia 2022, "SIMUS: an open-source
simulator for medical ultrasound imaging"); it is no dependency: `pip install pymust` first. One
linear probe of 7.6 MHz, focused at 20 mm, f/2 both ways. A line's neighbours see the scene shifted,
so that one beam is simulated and the scene moved under it. The last line is one JSON object.
"""

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
import torch

from sonodetr.simulator.formation import Formation
from sonodetr.simulator.motion import Motion
from sonodetr.simulator.probe import Probe
from sonodetr.simulator.tissue import Reflectors, Tissue

FOCUS_MM, F_NUMBER, PITCH_MM, LINE_MM = 20.0, 2.0, 0.3, 0.15
DEPTHS_MM = (12.0, 20.0, 28.0)
ATTENUATION = 0.6  # dB/cm/MHz, which time-gain compensation is reckoned with as well
# The transducer's 77% and the pulse of one cycle amount to this width of the echo's spectrum.
BANDWIDTH = 0.46
PROBE = Probe(
    "linear",
    7.6,
    BANDWIDTH,
    48 * PITCH_MM,
    32.0,
    FOCUS_MM,
    width_mm=38.4,
    f_number=F_NUMBER,
    lines=256,
)
PATCH_MM = (17.0, 23.0)  # depths of the homogeneous part


class OneBeam:
    """PyMUST's focused beam along the z axis."""

    def __init__(self, pymust: Any) -> None:
        self.pymust, self.settings = pymust, pymust.getparam("L11-5v")
        self.settings.Nelements, self.settings.fnumber = 48, F_NUMBER
        self.settings.attenuation, self.settings.fs = ATTENUATION, 4 * self.settings.fc
        self.element_mm = (np.arange(48) - 23.5) * PITCH_MM
        self.delays_s = pymust.txdelay(0.0, FOCUS_MM / 1e3, self.settings)
        self.delays_s[:, np.abs(self.element_mm) > FOCUS_MM / F_NUMBER / 2] = np.nan
        self.delays_s -= np.nanmin(self.delays_s)

    def line(
        self, x_mm: np.ndarray, z_mm: np.ndarray, size: np.ndarray, at_mm: np.ndarray
    ) -> np.ndarray:
        """`[depths]` echo of scatterers at `at_mm`, summed with receive delays for every depth."""
        settings = self.settings
        echo = self.pymust.simus(x_mm / 1e3, z_mm / 1e3, size, self.delays_s, settings)[0]
        base = self.pymust.rf2iq(echo, settings.fs, settings.fc)
        back_mm = np.hypot(at_mm[:, None], self.element_mm)
        time_s = (at_mm[:, None] + back_mm) / 1.54e6 + np.nanmax(self.delays_s)
        used = np.abs(self.element_mm) <= at_mm[:, None] / F_NUMBER / 2
        samples, total = np.arange(len(base)) / settings.fs, np.zeros(len(at_mm), complex)
        for element in range(len(self.element_mm)):
            value = np.interp(time_s[:, element], samples, base[:, element])
            turn = np.exp(2j * np.pi * settings.fc * time_s[:, element])
            total += used[:, element] * value * turn
        return total


def width(curve: np.ndarray, step: float) -> float:
    """Full width at half maximum."""
    fine = np.interp(np.arange(0, len(curve) - 1, 0.02), np.arange(len(curve)), curve)
    top = int(fine.argmax())
    below = np.flatnonzero(fine < fine[top] / 2)
    return float(below[below > top][0] - below[below < top][-1]) * 0.02 * step


def speckle_facts(envelope: np.ndarray, step_mm: tuple[float, float]) -> dict[str, float]:
    """Ratio of mean and deviation, and widths at half of the intensity's autocorrelation.

    First the fall of the level with depth is taken out, as a straight line in dB.
    """
    rows = np.arange(len(envelope))
    slope, start = np.polyfit(rows, 0.5 * np.log(np.mean(envelope**2, 1)), 1)
    envelope = envelope / np.exp(start + slope * rows)[:, None]
    part = envelope**2 - np.mean(envelope**2)
    facts = {"speckle: mean / deviation": float(envelope.mean() / envelope.std())}
    for axis, name in enumerate(("along", "across")):
        count = part.shape[axis]
        lags = np.array(
            [
                np.mean(
                    np.take(part, range(lag, count), axis) * np.take(part, range(count - lag), axis)
                )
                for lag in range(count // 2)
            ]
        )
        first = int(np.argmax(lags < lags[0] / 2))  # linear between the lags about one half
        share = (lags[first - 1] - lags[0] / 2) / (lags[first - 1] - lags[first])
        facts[f"speckle {name}"] = 2 * (first - 1 + float(share)) * step_mm[axis]
    return facts


def of_pymust(beam: OneBeam, lines: int, per_mm2: float) -> dict[str, float]:
    """Everything measured on PyMUST's pictures."""
    facts = {}
    step_mm = 0.02
    for depth in DEPTHS_MM:
        at = np.arange(depth - 0.6, depth + 0.6, step_mm)
        offsets = np.arange(-1.2, 1.2001, 0.05)
        one = np.ones(1)
        picture = np.stack(
            [np.abs(beam.line(np.array([x]), np.array([depth]), one, at)) for x in offsets], 1
        )
        middle = np.unravel_index(picture.argmax(), picture.shape)
        facts[f"point along at {depth:.0f} mm"] = width(picture[:, middle[1]], step_mm)
        facts[f"point across at {depth:.0f} mm"] = width(picture[middle[0]], 0.05)
    random = np.random.default_rng(0)
    half = lines * LINE_MM / 2 + 3
    count = int(per_mm2 * 2 * half * (PATCH_MM[1] - PATCH_MM[0] + 2))
    x, z = (
        random.uniform(-half, half, count),
        random.uniform(PATCH_MM[0] - 1, PATCH_MM[1] + 1, count),
    )
    size = random.standard_normal(count)
    at = np.arange(*PATCH_MM, step_mm)
    picture = []
    for line in (np.arange(lines) - lines / 2) * LINE_MM:
        near = np.abs(x - line) < 3
        picture.append(np.abs(beam.line(x[near] - line, z[near], size[near], at)))
    return facts | speckle_facts(np.stack(picture, 1), (step_mm, LINE_MM))


def tissue_of(echo_db: float, points: Reflectors) -> Tissue:
    """Even tissue with some points."""
    echo = np.full((80, 100), echo_db, np.float32)
    return Tissue(0.5, -25.0, -4.0, echo, np.full_like(echo, ATTENUATION), points)


def envelope(tissue: Tissue, seed: int) -> np.ndarray:
    """`[samples, lines]` of our picture."""
    formation = Formation(PROBE, tissue, Motion.still(1), noise_db=-250.0, seed=(seed,))
    return np.asarray(10 ** (formation.image_db(slice(0, 1))[0].double().numpy() / 20))


def of_ours() -> dict[str, float]:
    """Everything measured on our pictures, point widths averaged over places between cells."""
    facts: dict[str, float] = {}
    for depth in DEPTHS_MM:
        along, across = [], []
        for down in np.linspace(-0.5, 0.5, 4, endpoint=False):
            for right in np.linspace(-0.5, 0.5, 4, endpoint=False):
                x, z = right * PROBE.line_step, depth + down * PROBE.sample_mm
                columns = (np.full(1, value, np.float32) for value in (x, z, 1, 0, 0, 1e4, 0))
                picture = envelope(tissue_of(-300.0, Reflectors(*columns)), 0)
                top = np.unravel_index(picture.argmax(), picture.shape)
                along.append(width(picture[:, top[1]], PROBE.sample_mm))
                across.append(width(picture[top[0]], PROBE.line_step))
        facts[f"point along at {depth:.0f} mm"] = float(np.mean(along))
        facts[f"point across at {depth:.0f} mm"] = float(np.mean(across))
    nothing = Reflectors(*[np.zeros(0, np.float32)] * 7)
    rows = slice(*(int(depth / PROBE.sample_mm) for depth in PATCH_MM))
    pictures = [envelope(tissue_of(0.0, nothing), seed)[rows] for seed in range(9)]
    steps = PROBE.sample_mm, PROBE.line_step
    every = [speckle_facts(picture, steps) for picture in pictures]
    return facts | {name: float(np.mean([one[name] for one in every])) for name in every[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=128, help="of PyMUST's speckle")
    parser.add_argument("--per-mm2", type=float, default=100.0, help="scatterers in it")
    options = parser.parse_args()
    try:
        import pymust
    except ImportError:
        sys.exit("PyMUST is not installed, nothing to compare with: pip install pymust")
    torch.set_num_threads(1)
    start = time.perf_counter()
    theirs = of_pymust(OneBeam(pymust), options.lines, options.per_mm2)
    middle = time.perf_counter()
    ours = of_ours()
    seconds = {"PyMUST": middle - start, "SonoDETR": time.perf_counter() - middle}
    print("| | PyMUST | SonoDETR | ratio |\n|---|---|---|---|")
    for name, value in theirs.items():
        print(f"| {name} | {value:.3f} | {ours[name]:.3f} | {ours[name] / value:.2f} |")
    rounded = {
        whose: {name: round(value, 4) for name, value in facts.items()}
        for whose, facts in (("pymust", theirs), ("sonodetr", ours))
    }
    print(json.dumps({**rounded, "seconds": {n: round(s, 1) for n, s in seconds.items()}}))


if __name__ == "__main__":
    main()
