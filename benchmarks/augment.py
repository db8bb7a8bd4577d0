"""What one training frame costs on one core, step by step: python benchmarks/augment.py

The frame is synthetic speckle. The last line is one JSON object.
"""

import argparse
import json
import time
from collections.abc import Callable

import cv2
import numpy as np

from sonodetr.config import AugmentConfig
from sonodetr.data.augment import change_intensity, random_geometry
from sonodetr.data.region import find_region_in
from sonodetr.data.warp import warp_frame
from sonodetr.geometry import Letterbox
from sonodetr.types import Region


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """Median wall time of `work` in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frame", type=int, nargs=2, default=(632, 761), help="height, width")
    parser.add_argument("--input", type=int, nargs=2, default=(256, 256), help="height, width")
    parser.add_argument("--repeats", type=int, default=100)
    options = parser.parse_args()
    cv2.setNumThreads(1)

    random = np.random.default_rng(0)
    size, config = tuple(options.input), AugmentConfig(shadow=1)
    grey = random.rayleigh(40, options.frame).clip(0, 255).astype(np.uint8)
    colour = np.repeat(grey[..., None], 3, -1)
    region = Region(0, 0, grey.shape[1], grey.shape[0])
    plain = Letterbox.fit(region, *size).matrix()
    clip = warp_frame(grey, region, plain, size, 1).transpose(2, 0, 1)[:, None].copy()

    def whole() -> None:
        matrix = random_geometry(config, size, random) @ plain
        picture = warp_frame(grey, region, matrix, size, 1).transpose(2, 0, 1)[:, None].copy()
        change_intensity(picture, config, random)

    steps: dict[str, Callable[[], object]] = {
        "find the region": lambda: find_region_in([grey]),
        "letterbox, grey": lambda: warp_frame(grey, region, plain, size, 1),
        "letterbox, colour": lambda: warp_frame(colour, region, plain, size, 3),
        "intensity": lambda: change_intensity(clip, config, random),
        "augmented frame": whole,
    }
    times_ms = {name: round(median_ms(work, options.repeats), 3) for name, work in steps.items()}
    print(f"| {options.frame[0]} x {options.frame[1]} to {size[0]} x {size[1]} | ms a frame |")
    print("|---|---|")
    for name, value in times_ms.items():
        print(f"| {name} | {value:.2f} |")
    print(json.dumps({"frame": list(options.frame), "input": list(size), "ms": times_ms}))


if __name__ == "__main__":
    main()
