"""A dozen small stills with bright boxes, a config that trains on them in seconds, a command."""

import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from contextlib import suppress

import cv2
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from sonodetr.config import parse_config
from sonodetr.files import InputError
from sonodetr.training.fit import train

CLASSES = ("nerve", "vessel")
SIZE = (61, 67)


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


class Run:
    """A training in a process of its own, forked so that torch need not be loaded again."""

    def __init__(self, said, *work):
        self._said = said
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=_child, args=(said, *work))
        self.process.start()

    def wait(self) -> int:
        """The exit code; -9 where it was killed."""
        give_up = time.monotonic() + 60
        while self.process.exitcode is None:  # join would also wait for orphaned workers
            assert time.monotonic() < give_up, "still running: " + self.said()
            time.sleep(0.02)
        return self.process.exitcode

    def said(self) -> str:
        """What it wrote to standard output and error so far."""
        return self._said.read_text()


def _child(said, config, out, resume, before, environment):
    os.setsid()
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    os.environ.update(environment, OMP_NUM_THREADS="1")  # accelerate heeds it too
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    code = 0
    try:
        before()
        train(config, out, resume=resume)
    except InputError as error:  # as the command line answers it
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@pytest.fixture
def start(tmp_path):
    """Starts a training: start(config, out, resume=True, before=a change made in its process)."""
    runs = []

    def begin(config, out, *, resume=False, before=lambda: None, **environment):
        said = tmp_path / f"said{len(runs)}.txt"
        runs.append(Run(said, config, out, resume, before, environment))
        return runs[-1]

    yield begin
    for begun in runs:
        with suppress(ProcessLookupError):
            os.killpg(begun.process.pid, signal.SIGKILL)  # with its workers


def contents(folder):
    """The files of a run that the seed decides."""
    names = ("model.safetensors", "last.safetensors", "checkpoint.safetensors", "metrics.jsonl")
    return {name: (folder / name).read_bytes() for name in names}
