"""What longer clips cost: python benchmarks/clip_length.py

Time of a training step and of inference, and the memory that each adds to the process, for clips of
1, 2, 4 and 8 frames and the three ways in which frames meet (docs/method.md): EfficientNet-Lite0
on pictures of 160 x 160 pixels, 4 clips a batch, synthetic targets. Every case has a process of its
own, since the peak of a process never falls. The last line is one JSON object.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from sonodetr.config import BackboneConfig, LossConfig, ModelConfig, TrainConfig
from sonodetr.dense_loss import dense_loss
from sonodetr.model.cost import count
from sonodetr.model.detr import DETR
from sonodetr.model.tensors import Target
from sonodetr.set_loss import set_loss
from sonodetr.training.optimizer import build_optimizer

TEMPORAL = ("none", "mixing", "factorised")
FRAMES = (1, 2, 4, 8)
SIDE_PX, BATCH = 160, 4


def measure(temporal: str, frames: int, repeats: int) -> dict[str, float]:
    """One case: seconds, and mebibytes that the process grew by at most."""
    torch.manual_seed(0)
    backbone = BackboneConfig(name="efficientnet_lite0", temporal=temporal)
    model = DETR(ModelConfig(backbone=backbone, points=True), num_classes=1)
    images = torch.rand(BATCH, 1, frames, SIDE_PX, SIDE_PX)
    box = torch.tensor([[0.5, 0.4, 0.3, 0.2]])
    target = Target(box, torch.zeros(1, dtype=torch.int64), torch.rand(1, 2, 2))
    optimizer, loss = build_optimizer(model, TrainConfig()), LossConfig()

    def infer() -> None:
        with torch.inference_mode():
            model.eval()(images)

    def step() -> None:
        outputs, targets = model.train()(images), [target] * BATCH
        total = set_loss(outputs, targets, loss, "focal", float(BATCH)).total
        total = total + dense_loss(outputs.dense, targets, loss)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()

    cost = count(model, (SIDE_PX, SIDE_PX), 1, frames)
    start = _peak_mib()
    inference_s = _least_s(infer, repeats)
    inference_mib = _peak_mib() - start
    training_s = _least_s(step, repeats)
    return {
        "training_s": training_s,
        "training_mib": _peak_mib() - start,
        "inference_s": inference_s,
        "inference_mib": inference_mib,
        "parameters": cost.parameters,
        "gflops": cost.gflops,
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB


def _least_s(run: Callable[[], None], repeats: int) -> float:
    """The least of several: whatever else runs on the machine only adds."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="steps of each kind a case")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", nargs=2, metavar=("TEMPORAL", "FRAMES"), help="only this one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.case:
        temporal, frames = options.case
        print(json.dumps(measure(temporal, int(frames), options.repeats)))
        return
    print("| frames meet | frames | step, s | step, MiB | inference, s | inference, MiB | GFLOPs |")
    print("|---|---|---|---|---|---|---|")
    cases: list[dict[str, Any]] = []
    for temporal in TEMPORAL:
        for frames in FRAMES:
            command = [sys.executable, __file__, "--case", temporal, str(frames)]
            command += ["--repeats", str(options.repeats), "--threads", str(options.threads)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            case = json.loads(output.splitlines()[-1])
            cases.append({"temporal": temporal, "frames": frames, **case})
            print(
                f"| {temporal} | {frames} | {case['training_s']:.2f} | {case['training_mib']:.0f} "
                f"| {case['inference_s']:.3f} | {case['inference_mib']:.0f} "
                f"| {case['gflops']:.2f} |",
                flush=True,
            )
    result = {"cases": cases, "threads": options.threads, "cores": os.cpu_count()}
    print(json.dumps(result | {"load": os.getloadavg()[0]}))


if __name__ == "__main__":
    main()
