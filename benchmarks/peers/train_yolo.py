"""Train YOLO as ultralytics does by default, augmentation and choice of the best epoch included."""

import time
from pathlib import Path
from typing import Any

import models  # noqa: F401  (prepares the import of ultralytics)
import numpy as np
import torch
import torchvision
from peer_data import Found, detections_of, pictures_of
from ultralytics import YOLO
from ultralytics.utils.nms import TorchNMS

from sonodetr.data.clips import ClipDataset
from sonodetr.files import read_json, write_json
from sonodetr.geometry import cxcywh_from_xyxy
from sonodetr.types import Answer

# torchvision has no operators here (see models.py); ultralytics has this one for such a case.
torchvision.ops.nms = TorchNMS.nms
BATCH = 16
RATE = 0.002  # ultralytics' automatic choice for one class and short runs, with AdamW
RECIPE = "ultralytics 8.4 defaults: AdamW chosen automatically, mosaic, batch 16, EMA, best epoch"


def train(
    name: str, data: Path, folder: Path, side: int, samples: int, *, seed: int, rate: float
) -> dict[str, Any]:
    """Train, or go on after the last whole epoch of a killed run, or do nothing if it is done.

    Args:
        name: of ultralytics' yaml.
        data: data.yaml.
        folder: of the run.
        samples: pictures to see: whole epochs, or less than one.
        rate: times ultralytics' learning rate.

    Returns:
        Samples seen, epochs, and seconds of training: without validation and start.
    """
    clock = _Clock(folder / "seconds.json")
    total = len(list((data.parent / "images" / "train").iterdir()))
    epochs = max(1, round(samples / total))
    weights = folder / "training" / "weights"
    last, rows, done = weights / "last.pt", weights.parent / "results.csv", folder / "done.json"
    if not done.is_file():
        begun = last.is_file()
        peer = YOLO(last if begun else f"{name}.yaml")
        peer.add_callback("on_train_start", lambda trainer: torch.set_num_threads(1))
        peer.add_callback("on_train_epoch_start", clock.start)
        peer.add_callback("on_train_epoch_end", clock.stop)
        if begun:
            if _lines(rows) <= epochs:  # one of them names the columns
                peer.train(resume=True)
        else:
            settings = _settings(folder, data, side, seed) | {"epochs": epochs}
            settings |= {"fraction": samples} if samples < total else {}
            if rate != 1:
                settings |= {"optimizer": "AdamW", "lr0": RATE * rate, "momentum": 0.9}
                settings |= {"warmup_bias_lr": 0.0}
            peer.train(**settings)
        seen = _lines(rows) - 1  # ultralytics may stop early
        write_json(done, clock.total() | {"samples": seen * min(samples, total), "epochs": seen})
    facts: dict[str, Any] = read_json(done)
    return facts | {"batch": BATCH, "recipe": RECIPE}


def seconds_per_sample(name: str, data: Path, folder: Path, side: int) -> float:
    """Processor seconds that a picture takes in training, measured on ten batches."""
    times: list[float] = []
    peer = YOLO(f"{name}.yaml")
    peer.add_callback("on_train_start", lambda trainer: torch.set_num_threads(1))
    peer.add_callback("on_train_batch_end", lambda trainer: times.append(time.process_time()))
    probe = _settings(folder / "probe", data, side, 0) | {"epochs": 1, "fraction": 12 * BATCH}
    peer.train(**probe)
    return float(np.diff(times)[1:].mean()) / BATCH


def _settings(folder: Path, data: Path, side: int, seed: int) -> dict[str, Any]:
    """What is not ultralytics' default: where, how large, one thread, nothing drawn."""
    return {
        "data": str(data),
        "imgsz": side,
        "batch": BATCH,
        "seed": seed,
        "device": "cpu",
        "workers": 0,
        "pretrained": False,
        "plots": False,
        "verbose": False,
        "project": str(folder.resolve()),
        "name": "training",
        "exist_ok": True,
    }


def find(folder: Path, dataset: ClipDataset) -> Found:
    """What the best epoch's weights find in a part."""
    pictures = pictures_of(dataset)
    peer = YOLO(folder / "training" / "weights" / "best.pt")
    side = pictures.shape[-1]
    answers = []
    for picture in pictures:
        colour = np.repeat(picture[..., None], 3, -1)
        (found,) = peer.predict(
            colour, imgsz=side, conf=0.001, max_det=100, device="cpu", verbose=False
        )
        boxes = cxcywh_from_xyxy(found.boxes.xyxy.numpy().astype(np.float32) / np.float32(side))
        scores = found.boxes.conf.numpy().astype(np.float32)
        answers.append(Answer(scores, np.zeros(len(scores), np.int64), boxes))
    return detections_of(dataset, answers)


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())


class _Clock:
    """Wall and processor seconds of every whole epoch, kept on disk; one that is repeated after a
    kill replaces its first try."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = (0.0, 0.0)

    def start(self, trainer: Any) -> None:
        self.started = (time.perf_counter(), time.process_time())

    def stop(self, trainer: Any) -> None:
        now = (time.perf_counter(), time.process_time())
        took = [after - before for after, before in zip(now, self.started, strict=True)]
        write_json(self.path, self._read() | {str(trainer.epoch): took})

    def total(self) -> dict[str, float]:
        wall, processor = np.array(list(self._read().values())).sum(0)
        return {"wall_s": float(wall), "processor_s": float(processor)}

    def _read(self) -> dict[str, list[float]]:
        return read_json(self.path) if self.path.is_file() else {}
