"""What a simulated frame costs on one core, step by step: python benchmarks/simulator.py

Times are CPU times of one thread, so that other work on the machine disturbs them little. The
floor is what the discrete Fourier transforms alone take, in the same run. The last line is one
JSON object.
"""

import argparse
import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import torch

from sonodetr.simulator import recording
from sonodetr.simulator.formation import Formation
from sonodetr.simulator.instrument import Instrument
from sonodetr.simulator.recording import draw_recording
from sonodetr.simulator.settings import SimulatorConfig

SETS = {"needle-small": (160, 8), "needle": (256, 16)}  # pixels, frames
# Row of the table -> where its work is done. Rows that begin with a dash are parts of the last one.
STEPS: dict[str, tuple[Any, str]] = {
    "draw clip": (recording, "draw_recording"),
    "- draw tissue": (recording, "draw_tissue"),
    "set up formation": (Formation, "__init__"),
    "form frame": (Formation, "image_db"),
    "- levels and losses": (Formation, "_levels"),
    "- scatterers onto grid": (Formation, "_speckle"),
    "- surfaces onto grid": (Formation, "_at_points"),
    "- pulse": (Formation, "_along"),
    "- noise": (Formation, "_noise"),
    "instrument's echoes": (Instrument, "echoes"),
    "scanner": (recording, "grey"),
    "scan conversion": (recording, "grid_sample"),
    "screen": (recording, "paint"),
}


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Add up the CPU time of every step while the block runs."""
    seconds: dict[str, float] = defaultdict(float)

    def wrap(row: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed_work(*given: Any, **named: Any) -> Any:
            start = time.process_time()
            result = work(*given, **named)
            seconds[row] += time.process_time() - start
            return result

        return timed_work

    plain = {row: getattr(owner, name) for row, (owner, name) in STEPS.items()}
    try:
        for row, (owner, name) in STEPS.items():
            setattr(owner, name, wrap(row, plain[row]))
        yield seconds
    finally:
        for row, (owner, name) in STEPS.items():
            setattr(owner, name, plain[row])


def fourier_seconds(shapes: list[tuple[int, int]], frames: int) -> float:
    """CPU time of the transforms over the lines, there and back, of all frames."""
    total = 0.0
    for shape in shapes:
        field = torch.zeros(1, *shape, dtype=torch.complex64)
        start = time.process_time()
        for _ in range(frames):
            torch.fft.ifft(torch.fft.fft(field))
        total += time.process_time() - start
    return total


def measure(size: int, frames: int, clips: int) -> dict[str, float]:
    """Milliseconds a frame by step, of clips with their labels."""
    config = SimulatorConfig(clips=clips + 1, frames=frames, image_size=(size, size))
    draw_recording(config, clips).pictures()
    shapes = []
    with timed() as seconds:
        start = time.process_time()
        for index in range(clips):
            clip = recording.draw_recording(config, index)
            clip.pictures()
            before = time.process_time()
            _ = clip.labels
            seconds["labels"] += time.process_time() - before
            lines = clip.probe.lines + 16
            shapes.append((clip.probe.samples, lines))
        seconds["all"] = time.process_time() - start
    seconds["Fourier transforms alone"] = fourier_seconds(shapes, frames)
    return {row: 1e3 * value / (clips * frames) for row, value in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    table = {name: measure(*shape, options.clips) for name, shape in SETS.items()}
    print("| ms a frame | " + " | ".join(f"{name}, {s} px" for name, (s, _) in SETS.items()) + " |")
    print("|---|" + "---|" * len(table))
    for row in (*STEPS, "labels", "all", "Fourier transforms alone"):
        print(f"| {row} | " + " | ".join(f"{ms[row]:.2f}" for ms in table.values()) + " |")
    rates = {name: round(1e3 / ms["all"], 1) for name, ms in table.items()}
    print("| **frames a second** | " + " | ".join(f"**{rate}**" for rate in rates.values()) + " |")
    rounded = {
        name: {row: round(value, 3) for row, value in ms.items()} for name, ms in table.items()
    }
    found = {"clips": options.clips, "torch": torch.__version__, "machine": platform.machine()}
    print(json.dumps({**found, "frames_a_second": rates, "ms": rounded}))


if __name__ == "__main__":
    main()
