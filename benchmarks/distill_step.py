"""What a teacher adds to a training step: python benchmarks/distill_step.py

Steps of the needle-small student (configs/needle-student.yaml) at its batch size, loader included:
plain, with the teacher running along, and with the teacher's targets from the cache, which holds
many times more than one batch. The three take turns. Weights do not change how long a step takes,
so without --teacher the teacher is one of configs/needle-small.yaml (or needle-3d.yaml) that never
learnt anything. The last line is one JSON object.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from sonodetr.config import Config
from sonodetr.config_file import dump_config, load_config
from sonodetr.model.tensors import Batch
from sonodetr.training.data import open_data
from sonodetr.training.distillation import Distillation
from sonodetr.training.fit import Trainer
from sonodetr.training.run import (
    RunInfo,
    provenance,
    save_info,
    save_weights,
    untrained_model,
)
from sonodetr.training.start import start_model, start_task
from sonodetr.training.teacher_targets import filled_cache

CONFIGS = Path(__file__).parent.parent / "configs"
KINDS = ("plain", "teacher", "cached")


def untrained_teacher(config: Config, folder: Path) -> Path:
    """A run folder of a teacher that never learnt anything."""
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_config(config))
    save_weights(folder / "model.safetensors", untrained_model(config, 1).state_dict())
    facts = {"step": 0, "validation": {}, "provenance": provenance(0)}
    save_info(folder, RunInfo(classes=("needle",), threshold=0.5, **facts))
    return folder


def trainer_of(kind: str, words: list[str], teacher: Path, folder: Path) -> Trainer:
    """A training of one kind, ready for its first step."""
    words = [*words, "train.epochs=1000", "data.labelled=0.1"]
    if kind != "plain":
        words.append(f"distill.teacher={teacher}")
    if kind == "cached":
        words += [f"distill.cache={folder}/cache", "data.augment.views=2"]
    config = load_config(CONFIGS / "needle-student.yaml", words)
    data = open_data(config)
    # All labels are used: those left out by data.labelled only keep the cache quick to fill.
    data = type(data)(data.videos, data.split, config)
    accelerator = Accelerator(cpu=True)
    model, _ = start_model(config, data.class_names, resume=False)
    task = start_task(config, data, model, accelerator)
    if isinstance(task, Distillation) and config.distill.cache:
        task.cache = filled_cache(data, task)
    return Trainer(config, data, model, folder, accelerator, task)


def measure(trainers: dict[str, Trainer], blocks: int, steps: int) -> dict[str, list[float]]:
    """Seconds of every step, loading included."""
    batches = {kind: trainer._training_batches() for kind, trainer in trainers.items()}
    done = dict.fromkeys(trainers, 0)

    def seconds(kind: str, source: Iterator[Batch]) -> float:
        start = time.perf_counter()
        trainers[kind]._step(next(source), done[kind])
        done[kind] += 1
        return time.perf_counter() - start

    times: dict[str, list[float]] = {kind: [] for kind in trainers}
    for kind, source in batches.items():
        seconds(kind, source)
    for _ in range(blocks):
        for kind, source in batches.items():
            # Batches that were made ahead while the others ran.
            for _ in range(2 * trainers[kind].config.train.workers):
                seconds(kind, source)
            times[kind] += [seconds(kind, source) for _ in range(steps)]
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, help="run folder")
    parser.add_argument("--clips", type=int, default=1, help="frames that a made teacher sees")
    parser.add_argument("--blocks", type=int, default=5, help="of each kind")
    parser.add_argument("--steps", type=int, default=8, help="a block")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("overrides", nargs="*", help="as in distill.memory.weight=1")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    words = list(options.overrides)
    if not Path(load_config(CONFIGS / "needle-student.yaml", words).data.path).is_dir():
        words.append("data.path=simulator:needle-small")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = "needle-small.yaml" if options.clips == 1 else "needle-3d.yaml"
        frames = [] if options.clips == 1 else [f"data.clip_frames={options.clips}"]
        teacher = options.teacher or untrained_teacher(
            load_config(CONFIGS / made, frames), folder / "teacher"
        )
        trainers = {kind: trainer_of(kind, words, teacher, folder) for kind in KINDS}
        times = measure(trainers, options.blocks, options.steps)
        cache = trainers["cached"].task.cache
        assert cache is not None
        entries = int(cache.done.size)
    medians = {kind: 1e3 * float(np.median(values)) for kind, values in times.items()}
    batch_size = trainers["plain"].config.train.batch_size
    print(f"| batch of {batch_size} | median ms a step | 10th to 90th percentile | over plain |")
    print("|---|---|---|---|")
    for kind, values in times.items():
        low, high = 1e3 * np.percentile(values, (10, 90))
        ratio = medians[kind] / medians["plain"]
        print(f"| {kind} | {medians[kind]:.0f} | {low:.0f} to {high:.0f} | {ratio:.2f} |")
    result = {f"{kind}_ms": round(value, 2) for kind, value in medians.items()} | {
        "cached_ratio": round(medians["cached"] / medians["plain"], 3),
        "batch_size": batch_size,
        "steps": options.blocks * options.steps,
        "cached_clips": entries,
        "teacher_frames": trainers["cached"].task.clip.clip_frames,
        "threads": options.threads,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
