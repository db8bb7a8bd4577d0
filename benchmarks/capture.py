"""What it costs to return attention: python benchmarks/capture.py

A training step (forward and backward) and an inference of the student (configs/needle-student.yaml)
and of the teacher (configs/needle-small.yaml), with every layer fused, with one encoder layer and
with one cross-attention layer returned, in turns. Fused layers never form the matrix. The last line
is one JSON object.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from sonodetr.config_file import load_config
from sonodetr.model.detr import DETR, Capture
from sonodetr.model.tensors import Outputs
from sonodetr.training.run import untrained_model

CONFIGS = Path(__file__).parent.parent / "configs"
KINDS = {
    "fused": Capture(),
    "one encoder layer": Capture(encoder=(1,)),
    "one cross-attention layer": Capture(cross=(1,)),
}


def answer(outputs: Outputs) -> torch.Tensor:
    """Something that depends on all outputs, maps included, as losses do."""
    maps = (*outputs.attention.encoder.values(), *outputs.attention.cross.values())
    total = outputs.logits.sum() + outputs.boxes_cxcywh.sum()
    return total + sum(each.square().sum() for each in maps)


def step(model: DETR, images: torch.Tensor, capture: Capture) -> None:
    answer(model(images, capture)).backward()


@torch.inference_mode()
def infer(model: DETR, images: torch.Tensor, capture: Capture) -> None:
    model(images, capture)


def milliseconds(run: Callable[[Capture], None], rounds: int) -> dict[str, float]:
    """Median of each kind, in turns."""
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds + 2):
        for kind, capture in KINDS.items():
            start = time.perf_counter()
            run(capture)
            times[kind].append(time.perf_counter() - start)
    return {kind: 1e3 * float(np.median(values[2:])) for kind, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| model | " + " | ".join(KINDS) + " |\n|" + "---|" * (len(KINDS) + 1))
    result = {}
    for name in ("needle-student", "needle-small"):
        config = load_config(CONFIGS / f"{name}.yaml")
        model = untrained_model(config, 1)
        batch = torch.rand(config.train.batch_size, 1, 1, *config.data.image_size)
        rows = {
            f"{name}, step of {len(batch)}": milliseconds(
                partial(step, model.train(), batch), options.rounds
            ),
            f"{name}, one picture": milliseconds(
                partial(infer, model.eval(), batch[:1]), 5 * options.rounds
            ),
        }
        for row, values in rows.items():
            shown = [f"{values['fused']:.1f} ms"]
            shown += [f"{values[kind] / values['fused']:.3f}" for kind in KINDS if kind != "fused"]
            print(f"| {row} | {' | '.join(shown)} |")
        result |= rows
    facts = {"threads": options.threads, "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    print(json.dumps(facts | {"ms": result}))


if __name__ == "__main__":
    main()
