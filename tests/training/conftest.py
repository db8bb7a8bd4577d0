"""A dozen small stills with bright boxes, a config that trains on them in seconds, a command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from sonodetr.config import parse_config

CLASSES = ("nerve", "vessel")
SIZE = (61, 67)
COMMAND = (
    "import sys; from pathlib import Path; from sonodetr.config import load_config; "
    "from sonodetr.training.fit import train; "
    "train(load_config(sys.argv[1]), Path(sys.argv[2]), resume='--resume' in sys.argv)"
)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "CUDA_VISIBLE_DEVICES": ""}


def write_stills(folder, classes=CLASSES, count=12):
    """PNG files and coco.json: noise with one or two bright boxes, one still without any."""
    random = np.random.default_rng(3)
    images, labels = [], []
    for number in range(count):
        picture = random.integers(0, 90, SIZE).astype(np.uint8)
        for row in range(0 if number == 5 else 1 + number % 2):
            x, y = (int(v) for v in random.integers(3, 37, 2))
            width, height = (int(v) for v in random.integers(11, 23, 2))
            picture[y : y + height, x : x + width] += np.uint8(110 + 40 * row)
            labels.append(
                {
                    "id": len(labels) + 1,
                    "image_id": number,
                    "category_id": row % len(classes) + 1,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
        cv2.imwrite(str(folder / f"still{number:02}.png"), picture)
        height, width = SIZE
        images.append(
            {"id": number, "file_name": f"still{number:02}.png", "height": height, "width": width}
        )
    categories = [{"id": row + 1, "name": name} for row, name in enumerate(classes)]
    path = folder / "coco.json"
    document = {"images": images, "annotations": labels, "categories": categories}
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(scope="session")
def stills(tmp_path_factory):
    return write_stills(tmp_path_factory.mktemp("stills"))


@pytest.fixture
def tiny(stills):
    """Makes a config; keywords change sections: tiny(train={"epochs": 2}, seed=3)."""

    def make(*, data=(), model=(), train=(), **top):
        values = {
            "name": "tiny",
            "data": {
                "path": str(stills),
                "image_size": [64, 64],
                "split": {"validation_fraction": 0.3, "similarity": 1.0},
                **dict(data),
            },
            "model": {
                "backbone": {"width": 8, "depths": [1, 1, 1, 1]},
                "hidden_dim": 16,
                "num_heads": 2,
                "encoder_layers": 1,
                "decoder_layers": 2,
                "feedforward_dim": 32,
                "dropout": 0.1,
                "num_queries": 5,
                "query_groups": 2,
                **dict(model),
            },
            "train": {
                "epochs": 3,
                "batch_size": 2,
                "learning_rate": 2e-3,
                "warmup_steps": 2,
                "validate_epochs": 1,
                "workers": 0,
                "checkpoint_seconds": 0,
                **dict(train),
            },
            **top,
        }
        return parse_config(values)

    return make


@pytest.fixture
def start(tmp_path):
    """Starts a training in a process of its own: start(config, out, resume=True)."""
    from sonodetr.config import dump_config

    processes = []

    def run(config, out, *, resume=False, code="", launcher=(), **environment):
        path = tmp_path / f"{len(processes)}.yaml"
        path.write_text(dump_config(config))
        script = tmp_path / f"{len(processes)}.py"
        guarded = f"if __name__ == '__main__':\n    {COMMAND}\n"
        script.write_text(code + guarded)
        words = [sys.executable, *launcher, str(script), str(path), str(out)]
        process = subprocess.Popen(
            [*words, "--resume"] if resume else words,
            env=os.environ | ONE_THREAD | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()


def finish(process) -> str:
    """What a process said; it must have succeeded."""
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return said


def contents(run: Path) -> dict[str, bytes]:
    """The files of a run that the seed decides."""
    names = ("model.safetensors", "last.safetensors", "checkpoint.safetensors", "metrics.jsonl")
    return {name: (run / name).read_bytes() for name in names}
