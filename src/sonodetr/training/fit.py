"""Training: one visible loop.

The same seed gives the same bits, also for a run that was killed and resumed: the data and every
random number of a step depend on the seed, the step and the process only.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

from sonodetr.config import Config
from sonodetr.data.clips import ClipDataset, EpochBatches, collate
from sonodetr.data.splits import Split, near_identical_across, split, to_json
from sonodetr.evaluation.matches import match
from sonodetr.evaluation.metrics import best_threshold, metrics_of
from sonodetr.files import InputError, write_json
from sonodetr.formats import read
from sonodetr.model.detr import DETR
from sonodetr.model.tensors import Batch
from sonodetr.model.weights import load_matching, read_weights
from sonodetr.training.average import WeightAverage
from sonodetr.training.checkpoint import load_checkpoint, save_checkpoint
from sonodetr.training.log import TrainingLog
from sonodetr.training.optimizer import build_optimizer, rate_factor
from sonodetr.training.pictures import draw_batch, draw_found, save_picture
from sonodetr.training.run import (
    WEIGHTS,
    RunInfo,
    provenance,
    save_info,
    save_weights,
    start_run,
)
from sonodetr.training.tasks import Detection, Task
from sonodetr.training.validate import predict_clips
from sonodetr.types import Video

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Data:
    """The recordings of a run and who may see which frames."""

    videos: list[Video]
    split: Split
    config: Config

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the class head."""
        return self.videos[0].classes

    def training(self) -> ClipDataset:
        """Augmented training clips."""
        return ClipDataset(
            self.videos, self.split.train, self.config.data, seed=self.config.seed, augment=True
        )

    def validation(self) -> ClipDataset:
        """Validation clips as they are."""
        return ClipDataset(self.videos, self.split.validation, self.config.data)


def train(config: Config, out: Path, *, resume: bool = False) -> Path:
    """Train a detector.

    Args:
        config: the whole run.
        out: folder of run folders; the run is `out / config.name`.
        resume: continue a run that was killed or interrupted, to the same bits.

    Returns:
        The run folder (see `training.run`).

    Raises:
        InputError: data or config cannot be used, the run exists, or the loss is not finite.
    """
    folder = out / config.name
    accelerator = Accelerator(mixed_precision=config.train.precision)
    data = open_data(config)
    if accelerator.is_main_process:
        start_run(folder, config, resume=resume)
        write_json(folder / "split.json", to_json(data.videos, data.split))
    accelerator.wait_for_everyone()
    set_seed(config.seed)
    model, notes = start_model(config, data.class_names)
    trainer = Trainer(config, data, model, folder, accelerator)
    trainer.run(notes)
    return folder


def open_data(config: Config) -> Data:
    """Read the data that a config names and divide it.

    Raises:
        InputError: the data cannot be read, has no classes, or cannot be divided as asked.
    """
    if not config.data.path:
        raise InputError(
            "data.path is empty; name a folder or annotation file, as in data.path=FOLDER"
        )
    if config.data.clip_frames != 1:
        raise InputError(
            f"data.clip_frames {config.data.clip_frames}: this model sees one frame; use 1"
        )
    videos = read(
        config.data.path, images=config.data.images, on_bad_label=config.data.on_bad_label
    )
    if not any(video.labels for video in videos):
        raise InputError(f"{config.data.path}: has pictures but no labels; training needs some")
    return Data(videos, split(videos, config.data.split, config.seed), config)


def start_model(config: Config, class_names: tuple[str, ...]) -> tuple[DETR, list[str]]:
    """A new model, or one that starts from other weights, and lines that say what was taken over.

    Raises:
        InputError: the weights cannot be read, or nothing of them fits.
    """
    model = DETR(config.model, len(class_names), config.data.channels)
    if not config.model.weights:
        return model, []
    taken = load_matching(model, read_weights(config.model.weights))
    return model, [f"{config.model.weights}: {taken}"]


class Trainer:
    """State of a training and its loop; use `train`."""

    def __init__(
        self, config: Config, data: Data, model: DETR, folder: Path, accelerator: Accelerator
    ) -> None:
        self.config, self.data, self.folder, self.accelerator = config, data, folder, accelerator
        self.clips_a_step = config.train.batch_size * accelerator.num_processes
        self.steps_an_epoch = math.ceil(len(data.split.train) / self.clips_a_step)
        self.total_steps = config.train.epochs * self.steps_an_epoch
        self.plain_model = model.to(accelerator.device)
        self.average = WeightAverage(self.plain_model, config.train.ema_decay)
        self.model, self.optimizer = accelerator.prepare(
            self.plain_model, build_optimizer(self.plain_model, config.train)
        )
        self.task: Task = Detection(config.loss, config.model.classification, accelerator)
        self.progress: dict[str, Any] = {"step": 0, "best": -1.0, "waited": 0, "stopped": False}

    def run(self, notes: list[str]) -> None:
        """Train to the end, from the checkpoint if there is one."""
        checkpoint = self.folder / CHECKPOINT
        if checkpoint.is_file():
            self.progress = load_checkpoint(
                checkpoint, self.plain_model, self.average.state, self.optimizer.optimizer
            )
        main = self.accelerator.is_main_process
        step = self.progress["step"]
        with TrainingLog(self.folder, self.total_steps, step, active=main) as log:
            for line in [*notes, *self._introduction(step)]:
                log.console.print(line, highlight=False, soft_wrap=True)
            saved = time.monotonic()
            losses: dict[str, list[float]] = {}
            for batch in self._batches(step):
                if self.progress["stopped"]:
                    break
                if step == 0 and main:
                    picture = draw_batch(batch, self.data.class_names)
                    save_picture(self.folder / "batch.png", picture)
                named = self._step(batch.to(self.accelerator.device), step)
                step += 1
                self.progress["step"] = step
                for name, value in named.items():
                    losses.setdefault(name, []).append(value)
                log.advance(step, f"loss {named['loss']:.3f} best AP {self.progress['best']:.3f}")
                due = self._validation_due(step)
                if due or step % self.steps_an_epoch == 0:
                    means = {f"train/{name}": float(np.mean(v)) for name, v in losses.items()}
                    rate = self.optimizer.param_groups[0]["lr"]
                    log.write(step, {"epoch": step / self.steps_an_epoch, "rate": rate} | means)
                    losses = {}
                if due:
                    log.write(step, self._validate(step))
                if due or time.monotonic() - saved >= self.config.train.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
            if main:
                save_weights(self.folder / "last.safetensors", self.average.state)

    def _introduction(self, step: int) -> list[str]:
        parts = self.data.split
        lines = [
            f"{self.folder}: {len(parts.train)} frames train, {len(parts.validation)} validate, "
            f"{len(parts.test)} are held out; classes {', '.join(self.data.class_names)}; "
            f"{sum(p.numel() for p in self.plain_model.parameters()) / 1e6:.2f} M parameters"
        ]
        if step:
            lines.append(f"resumed after step {step} of {self.total_steps}")
        else:
            similarity = self.config.data.split.similarity
            lines += near_identical_across(self.data.videos, parts, similarity)
        return lines

    def _batches(self, first_step: int) -> Iterator[Batch]:
        """All batches from `first_step` on, through one set of workers for the whole training."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        size = self.config.train.batch_size
        first_epoch, skip = divmod(first_step, self.steps_an_epoch)
        order = [
            batch[rank * size : (rank + 1) * size]
            for epoch in range(first_epoch, self.config.train.epochs)
            for batch in EpochBatches(
                len(self.data.split.train),
                size * world,
                self.config.seed,
                epoch,
                skip if epoch == first_epoch else 0,
            )
        ]
        return iter(self._loader(self.data.training(), order))

    def _loader(self, dataset: ClipDataset, order: list[Any]) -> DataLoader:
        return DataLoader(
            dataset,
            batch_sampler=order,
            num_workers=self.config.train.workers,
            collate_fn=collate,
            worker_init_fn=_one_thread,
        )

    def _step(self, batch: Batch, step: int) -> dict[str, float]:
        """One optimisation step; returns the named loss terms."""
        train = self.config.train
        # Dropout of this step does not depend on how the run came here.
        torch.manual_seed(hash((self.config.seed, step, self.accelerator.process_index)))
        self.model.train()
        if train.backbone_rate == 0:
            self.plain_model.backbone.eval()
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_rate"] * rate_factor(
                step, self.total_steps, train.warmup_steps
            )
        with self.accelerator.autocast():
            named = self.task(self.model, batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(named["loss"])
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), train.gradient_clip)
        values = {name: float(value.detach()) for name, value in named.items()}
        # With fp16 an infinite gradient is part of the scaling and that step is left out.
        bad_gradient = train.precision != "fp16" and norm is not None and not torch.isfinite(norm)
        if bad_gradient or not math.isfinite(values["loss"]):
            raise InputError(_not_finite(values, step, batch))
        self.optimizer.step()
        self.average.update(self.plain_model, step)
        return values

    def _validation_due(self, step: int) -> bool:
        epoch, rest = divmod(step, self.steps_an_epoch)
        every = self.config.train.validate_epochs
        return rest == 0 and (epoch % every == 0 or epoch == self.config.train.epochs)

    def _validate(self, step: int) -> dict[str, Any]:
        """Measure the averaged weights on validation data and keep them if they are the best."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        dataset, size = self.data.validation(), self.config.train.batch_size
        mine = list(range(len(dataset)))[rank::world]
        order = [mine[start : start + size] for start in range(0, len(mine), size)]
        trained = {name: tensor.clone() for name, tensor in self.plain_model.state_dict().items()}
        self.plain_model.load_state_dict(self.average.state)
        detections = predict_clips(
            self.plain_model, self._loader(dataset, order), self.data.class_names, self.accelerator
        )
        self.plain_model.load_state_dict(trained)
        matches = match(self.data.videos, detections, self.data.split.validation)
        metrics = metrics_of(matches)
        # Before anything is found all AP are 0: the newer model is as good, so keep it.
        if (metrics.ap or 0.0) >= self.progress["best"]:
            self.progress |= {"best": metrics.ap or 0.0, "waited": 0}
            if self.accelerator.is_main_process:
                threshold = best_threshold(matches)
                threshold = 0.5 if threshold is None else threshold
                self._keep_best(step, metrics.to_dict(), threshold)
                shown = self.data.split.validation[:12]
                picture = draw_found(self.data.videos, shown, detections, threshold)
                save_picture(self.folder / "validation.png", picture)
        else:
            self.progress["waited"] += 1
            patience = self.config.train.patience
            self.progress["stopped"] = bool(patience) and self.progress["waited"] >= patience
        return {"validation/AP": metrics.ap, "validation/AP50": metrics.ap50}

    def _keep_best(self, step: int, figures: dict[str, Any], threshold: float) -> None:
        save_weights(self.folder / WEIGHTS, self.average.state)
        save_info(
            self.folder,
            RunInfo(
                classes=self.data.class_names,
                threshold=threshold,
                step=step,
                validation=figures,
                provenance=provenance(self.config.seed),
            ),
        )

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            save_checkpoint(
                self.folder / CHECKPOINT,
                self.plain_model,
                self.average.state,
                self.optimizer.optimizer,
                self.progress,
            )


def _one_thread(worker: int) -> None:
    """Workers leave the cores to the training."""
    cv2.setNumThreads(0)


def _not_finite(values: dict[str, float], step: int, batch: Batch) -> str:
    terms = ", ".join(f"{name} {value:g}" for name, value in values.items())
    frames = ", ".join(f"{source.key}:{source.frame_index}" for source in batch.sources)
    return (
        f"loss or gradient is not finite at step {step} ({terms}) on frames {frames}; "
        "look at these frames and their boxes, or lower train.learning_rate"
    )
