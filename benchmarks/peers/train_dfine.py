"""Train D-FINE-N from scratch: its loss as transformers has it, its authors' recipe, a plain loop.

From dfine_hgnetv2_n_coco.yml: AdamW, 8e-4 (backbone 4e-4) at 128 pictures a step and by their rule
in proportion to the batch, weight decay 1e-4 but none for norms and biases, clipping at 0.1, linear
warm-up of 500 steps, a running mean of the weights (0.9999, reached over 1,000 steps), no decay of
the rate; photometric distortion, zoom out, crop by IoU and flip, all but the flip left out in the
last 12 of 160 parts. What differs: 16 pictures a step, warm-up of at most a tenth of so short a
run, and a backbone that starts from random weights.
"""

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import PEERS
from peer_data import Found, Parts, boxes_of, detections_of, judge, pictures_of
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from sonodetr.data.clips import ClipDataset
from sonodetr.evaluation.metrics import metrics_of
from sonodetr.files import whole_file
from sonodetr.geometry import cxcywh_from_xyxy
from sonodetr.types import Answer

BATCH = 16
RATE, BACKBONE_RATE = 8e-4 * BATCH / 128, 4e-4 * BATCH / 128
RECIPE = "D-FINE-N's yml: AdamW, rates in proportion to batch 16, its augmentation and EMA"
SAVE_S = 60.0


class Training:
    """Everything that changes while D-FINE-N is trained; `checkpoint.pt` holds all of it."""

    def __init__(self, side: int, steps: int, seed: int, rate: float) -> None:
        torch.manual_seed(seed)
        self.model = _fresh(side)
        self.mean = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.best = copy.deepcopy(self.mean.state_dict())
        self.best_ap, self.step, self.wall_s, self.processor_s = -1.0, 0, 0.0, 0.0
        self.side, self.steps, self.seed = side, steps, seed
        self.optimizer = torch.optim.AdamW(_groups(self.model, rate), weight_decay=1e-4)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    def update(self, images: Tensor, targets: list[dict[str, Tensor]]) -> None:
        """One step."""
        warm = min(500, max(1, self.steps // 10))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * min(1.0, (self.step + 1) / warm)
        loss = self.model(pixel_values=images, labels=targets).loss
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)
        self.optimizer.step()
        self.step += 1
        decay = 0.9999 * (1 - np.exp(-self.step / 1000))
        current = self.model.state_dict()
        for name, value in self.mean.state_dict().items():
            if value.dtype.is_floating_point:
                value.lerp_(current[name], 1 - decay)

    def save(self, path: Path) -> None:
        """Write all of it, whole or not at all."""
        state = {name: getattr(self, name) for name in _PLAIN}
        state |= {name: getattr(self, name).state_dict() for name in _STATEFUL}
        with whole_file(path) as part:
            torch.save(state | {"best": self.best, "random": torch.get_rng_state()}, part)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        for name in _PLAIN:
            setattr(self, name, state[name])
        for name in _STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        self.best = state["best"]
        torch.set_rng_state(state["random"])


_PLAIN = ("step", "best_ap", "wall_s", "processor_s")
_STATEFUL = ("model", "mean", "optimizer")


def _fresh(side: int) -> nn.Module:
    """The network as its authors start it.

    transformers draws every layer with a deviation of 0.01, being made for trained weights: layers
    start as torch draws them, then what transformers sets on purpose (heads, sampling points).
    """
    model: Any = PEERS["dfine-n"].build(1, side)
    model.config.initializer_bias_prior_prob = 0.01
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.reset_parameters()
    for module in model.modules():
        if next(module.children(), None) is not None:
            model._init_weights(module)
    fixed = {name for name, each in model.named_parameters() if not each.requires_grad}
    assert fixed == {"model.decoder.reg_scale", "model.decoder.up"}, fixed
    assert model.class_embed[0].bias.item() < -4
    assert not model.bbox_embed[0].layers[-1].weight.any()
    return model.train()


def _groups(model: nn.Module, rate: float) -> list[dict[str, Any]]:
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = parameter.ndim > 1  # no norm and no bias
        groups.setdefault(("backbone" in name, plain), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": rate * (BACKBONE_RATE if backbone else RATE),
            "weight_decay": 1e-4 if plain else 0.0,
        }
        for (backbone, plain), parameters in groups.items()
    ]


class Loader:
    """Augmented batches; which pictures a step sees is a function of seed and step alone."""

    def __init__(self, dataset: ClipDataset, side: int, seed: int) -> None:
        self.pictures = pictures_of(dataset)
        self.boxes = [boxes_of(dataset, index) * side for index in range(len(dataset))]
        self.side, self.seed = side, seed
        strong = [v2.RandomPhotometricDistort(p=0.5), v2.RandomZoomOut(fill=0)]
        strong += [
            v2.RandomApply([v2.RandomIoUCrop()], p=0.8),
            v2.SanitizeBoundingBoxes(min_size=1),
        ]
        rest = [v2.RandomHorizontalFlip(), v2.Resize((side, side), antialias=True)]
        rest += [v2.SanitizeBoundingBoxes(min_size=1)]
        self.strong, self.plain = v2.Compose(strong + rest), v2.Compose(rest)

    def batch(self, step: int, *, strong: bool) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Images `[batch, 3, side, side]` in 0..1 and the targets that transformers asks for."""
        change = self.strong if strong else self.plain
        images, targets = [], []
        for index in self._indices(step):
            picture = torch.from_numpy(self.pictures[index]).expand(3, -1, -1)
            boxes: Any = tv_tensors.BoundingBoxes(
                self.boxes[index].reshape(-1, 4),
                format="XYXY",
                canvas_size=(self.side, self.side),
                dtype=torch.float32,
            )
            labels = torch.zeros(len(boxes), dtype=torch.int64)
            sample = {"image": tv_tensors.Image(picture), "boxes": boxes, "labels": labels}
            sample = change(sample)
            images.append(sample["image"].as_subclass(Tensor).float() / 255)
            corners = sample["boxes"].as_subclass(Tensor).numpy() / np.float32(self.side)
            found = torch.from_numpy(cxcywh_from_xyxy(corners))
            targets.append({"class_labels": sample["labels"], "boxes": found})
        return torch.stack(images), targets

    def _indices(self, step: int) -> Iterator[int]:
        count = len(self.pictures)
        for place in range(step * BATCH, (step + 1) * BATCH):
            epoch, row = divmod(place, count)
            yield int(np.random.default_rng((self.seed, epoch)).permutation(count)[row])


def train(
    parts: Parts, folder: Path, side: int, samples: int, *, seed: int, rate: float
) -> dict[str, Any]:
    """Train, or go on where a killed run stopped, or do nothing if it is done.

    Returns:
        Samples seen, epochs, and seconds of training: without validation and start.
    """
    steps = max(1, round(samples / BATCH))
    training, checkpoint = Training(side, steps, seed, rate), folder / "checkpoint.pt"
    if checkpoint.is_file():
        training.load(checkpoint)
    epoch = len(parts["train"]) // BATCH
    loader = Loader(parts["train"], side, seed) if training.step < steps else None
    validation = pictures_of(parts["validation"])
    saved = time.monotonic()
    while loader is not None and training.step < steps:
        start, processor = time.perf_counter(), time.process_time()
        strong = training.step < steps * 148 / 160
        training.update(*loader.batch(training.step, strong=strong))
        training.wall_s += time.perf_counter() - start
        training.processor_s += time.process_time() - processor
        if training.step % epoch == 0 or training.step == steps:
            found = detections_of(parts["validation"], _answers(training.mean, validation))
            ap = metrics_of(judge(parts["validation"], found).matches).ap or 0.0
            print(f"step {training.step} of {steps}: validation AP {ap:.3f}", flush=True)
            if ap >= training.best_ap:
                training.best_ap, training.best = ap, copy.deepcopy(training.mean.state_dict())
            saved = 0.0
        if time.monotonic() - saved > SAVE_S:
            training.save(checkpoint)
            saved = time.monotonic()
    return {
        "samples": steps * BATCH,
        "epochs": steps / epoch,
        "batch": BATCH,
        "recipe": RECIPE,
        "wall_s": training.wall_s,
        "processor_s": training.processor_s,
    }


def seconds_per_sample(parts: Parts, side: int) -> float:
    """Processor seconds that a picture takes in training, measured on ten batches."""
    training, loader = Training(side, 1000, 0, 1.0), Loader(parts["train"], side, 0)
    times = [0.0]
    for step in range(12):
        training.update(*loader.batch(step, strong=True))
        times.append(time.process_time())
    return float(np.diff(times[2:]).mean()) / BATCH


def find(folder: Path, dataset: ClipDataset) -> Found:
    """What the best weights find in a part."""
    pictures = pictures_of(dataset)
    model = PEERS["dfine-n"].build(1, pictures.shape[-1]).eval()
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    model.load_state_dict(state["best"])
    return detections_of(dataset, _answers(model, pictures))


@torch.inference_mode()
def _answers(model: nn.Module, pictures: np.ndarray) -> list[Answer]:
    answers = []
    for start in range(0, len(pictures), 32):
        part = torch.from_numpy(pictures[start : start + 32])[:, None].expand(-1, 3, -1, -1)
        found = model(pixel_values=part.float() / 255)
        scores, order = found.logits[..., 0].sigmoid().sort(descending=True)
        boxes = found.pred_boxes.gather(1, order[..., None].expand(-1, -1, 4))
        for score, box in zip(scores[:, :100], boxes[:, :100], strict=True):
            classes = np.zeros(len(score), np.int64)
            answers.append(Answer(score.numpy(), classes, box.numpy()))
    return answers
