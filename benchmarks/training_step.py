"""What loading the data adds to a training step: python benchmarks/training_step.py

Compares steps on batches as the loader brings them with steps on one batch over and over, in turns,
for configs/nerves.yaml (on synthetic stills of the same size where that data is absent). Batches
that were made ahead while the other kind ran are used up before the clock starts. The last line is
one JSON object.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from accelerate import Accelerator

from sonodetr.config import Config
from sonodetr.config_file import load_config
from sonodetr.model.tensors import Batch
from sonodetr.training.data import open_data
from sonodetr.training.fit import Trainer
from sonodetr.training.start import start_model, start_task

CONFIG = Path(__file__).parent.parent / "configs" / "nerves.yaml"
STILL = (632, 761)  # height, width
AHEAD = 2  # batches that each worker makes ahead


def synthetic_stills(folder: Path, count: int = 120) -> Path:
    """Speckle with one box a still, as PNG and COCO."""
    random = np.random.default_rng(0)
    images, labels = [], []
    height, width = STILL
    for number in range(count):
        picture = random.rayleigh(40, STILL).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), cv2.merge([picture] * 3))
        images.append(
            {"id": number, "file_name": f"{number}.png", "height": height, "width": width}
        )
        box = [int(v) for v in (*random.integers(0, 400, 2), *random.integers(40, 200, 2))]
        labels.append(
            {
                "id": number + 1,
                "image_id": number,
                "category_id": 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
        )
    path = folder / "coco.json"
    categories = [{"id": 1, "name": "nerve"}]
    document = {"images": images, "annotations": labels, "categories": categories}
    path.write_text(json.dumps(document))
    return path


def measure(config: Config, folder: Path, blocks: int, steps: int) -> dict[str, list[float]]:
    """Seconds of every step of both kinds."""
    data = open_data(config)
    model, _ = start_model(config, data.class_names, resume=False)
    accelerator = Accelerator(cpu=True)
    task = start_task(config, data, model, accelerator)
    trainer = Trainer(config, data, model, folder, accelerator, task)
    batches = trainer._training_batches()
    repeated = next(batches)
    done = 0

    def seconds(batch: Batch | None) -> float:
        nonlocal done
        start = time.perf_counter()
        trainer._step(next(batches) if batch is None else batch, done)
        done += 1
        return time.perf_counter() - start

    times: dict[str, list[float]] = {"repeated": [], "loaded": []}
    seconds(repeated)
    for _ in range(blocks):
        times["repeated"] += [seconds(repeated) for _ in range(steps)]
        for _ in range(AHEAD * max(1, config.train.workers)):
            seconds(None)
        times["loaded"] += [seconds(None) for _ in range(steps)]
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=5, help="of each kind")
    parser.add_argument("--steps", type=int, default=8, help="a block")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("overrides", nargs="*", help="as in train.workers=1")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = load_config(CONFIG, [*options.overrides, "train.epochs=1000"])
        synthetic = not Path(config.data.path).is_file()
        if synthetic:
            config = load_config(
                CONFIG,
                [*options.overrides, "train.epochs=1000", f"data.path={synthetic_stills(folder)}"],
            )
        times = measure(config, folder, options.blocks, options.steps)
    medians = {kind: float(np.median(values)) for kind, values in times.items()}
    print(f"| batch of {config.train.batch_size} | median s a step | 10th to 90th percentile |")
    print("|---|---|---|")
    for kind, values in times.items():
        low, high = np.percentile(values, (10, 90))
        print(f"| {kind} | {medians[kind]:.3f} | {low:.3f} to {high:.3f} |")
    result = {
        "ratio": round(medians["loaded"] / medians["repeated"], 3),
        "seconds": {kind: round(value, 4) for kind, value in medians.items()},
        "steps": len(times["loaded"]),
        "batch_size": config.train.batch_size,
        "image_size": config.data.image_size,
        "workers": config.train.workers,
        "threads": options.threads,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "synthetic": synthetic,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
