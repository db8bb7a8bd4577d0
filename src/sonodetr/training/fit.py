"""Training: one visible loop.

The same seed gives the same bits, also for a run that was killed and resumed: the data and every
random number of a step depend on the seed, the step and the process only.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, set_seed
from torch import Tensor

from sonodetr.config import Config
from sonodetr.data.splits import near_identical_across, to_json
from sonodetr.distill.targets import Targets
from sonodetr.distill.teachers import Teacher
from sonodetr.evaluation.matches import match
from sonodetr.evaluation.metrics import best_threshold, metrics_of
from sonodetr.files import InputError
from sonodetr.model.detr import DETR
from sonodetr.model.tensors import Batch
from sonodetr.training.attention_pictures import draw_attention
from sonodetr.training.average import WeightAverage
from sonodetr.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from sonodetr.training.data import Data, load_batches, open_data
from sonodetr.training.distillation import Distillation
from sonodetr.training.log import TrainingLog
from sonodetr.training.optimizer import build_optimizer, rate_factor
from sonodetr.training.pictures import draw_batch, draw_found, save_picture
from sonodetr.training.run import (
    WEIGHTS,
    RunInfo,
    check_run,
    check_teacher,
    provenance,
    save_info,
    save_weights,
    start_run,
)
from sonodetr.training.start import start_accelerator, start_model, start_task
from sonodetr.training.tasks import Detection
from sonodetr.training.teacher_targets import filled_cache, held_out_examples
from sonodetr.training.unseen import check_unseen, identities
from sonodetr.training.validate import predict_clips

CHECKPOINT = "checkpoint.safetensors"
TRAINING_ONLY = "training_only."  # how names of parameters begin that only training has


def train(
    config: Config, out: Path, *, resume: bool = False, teacher: Teacher | None = None
) -> Path:
    """Train a detector.

    Args:
        config: the whole run.
        out: folder of run folders; the run is `out / config.name`.
        resume: continue a run that was killed or interrupted, to the same bits.
        teacher: one of your own, which `config.distill.teacher` gives a name; else that is opened.

    Returns:
        The run folder (see `training.run`).

    Raises:
        InputError: data, weights or config cannot be used (then no folder is made), the run exists,
            the disk is full, or the loss is not finite.
    """
    folder = out / config.name
    check_run(folder, config, resume=resume)
    accelerator = start_accelerator(config.train.precision)
    data = open_data(config)
    if config.model.weights:
        check_unseen("model.weights", config.model.weights, config, data.videos, data.split)
    set_seed(config.seed)
    begun = (folder / CHECKPOINT).is_file()
    model, notes = start_model(config, data.class_names, resume=begun)
    task = start_task(config, data, model, accelerator, teacher)
    taught_by = None
    if isinstance(task, Distillation):
        taught_by = {"teacher": config.distill.teacher, "fingerprint": task.teacher.fingerprint}
        check_teacher(folder, taught_by)
        if config.distill.cache:
            with accelerator.main_process_first():
                task.cache = filled_cache(data, task)
    accelerator.wait_for_everyone()  # nobody looks at the folder any more
    if accelerator.is_main_process:
        division = to_json(data.videos, data.split)
        start_run(folder, config, division, identities(data.videos, data.split.train), taught_by)
    Trainer(config, data, model, folder, accelerator, task).run(notes)
    accelerator.wait_for_everyone()
    return folder


class Trainer:
    """State of a training and its loop; use `train`."""

    def __init__(
        self,
        config: Config,
        data: Data,
        model: DETR,
        folder: Path,
        accelerator: Accelerator,
        task: Detection | Distillation,
    ) -> None:
        self.config, self.data, self.folder, self.accelerator = config, data, folder, accelerator
        self.rank, self.processes = accelerator.process_index, accelerator.num_processes
        clips_a_step = config.train.batch_size * self.processes
        self.steps_an_epoch = math.ceil(len(data.split.train) / clips_a_step)
        self.total_steps = config.train.epochs * self.steps_an_epoch
        self.plain_model = model.to(accelerator.device)
        self.average = WeightAverage(self.plain_model, config.train.ema_decay)
        self.model, self.optimizer = accelerator.prepare(
            self.plain_model, build_optimizer(self.plain_model, config.train)
        )
        self.task = task
        self._clip = task.clip if isinstance(task, Distillation) else config.data
        self._held_out: list[tuple[Batch, Targets]] = []
        self.progress = Progress(processes=self.processes)

    def run(self, notes: list[str]) -> None:
        """Train to the end, from the checkpoint if there is one."""
        if (self.folder / CHECKPOINT).is_file():
            self._resume()
        progress, main = self.progress, self.accelerator.is_main_process
        epochs = self.config.train.epochs
        with TrainingLog(self.folder, self.total_steps, progress.step, active=main) as log:
            for line in [*notes, *self._introduction()] if main else []:
                log.say(line)
            saved = time.monotonic()
            for batch in self._training_batches():
                if progress.step == 0 and main:
                    picture = draw_batch(batch, self.data.class_names)
                    save_picture(self.folder / "batch.png", picture)
                self._count(self._step(batch.to(self.accelerator.device), progress.step))
                log.advance(progress.step, self._state())
                if progress.step % self.steps_an_epoch == 0:
                    log.write(progress.step, self._epoch_means())
                due = self._validation_due()
                if due:
                    figures = self._validate()
                    log.write(progress.step, figures)
                    epoch = progress.step // self.steps_an_epoch
                    ap = figures["validation/AP"] or 0.0
                    log.say(f"epoch {epoch} of {epochs}  AP {ap:.3f}  {self._state()}")
                if due or time.monotonic() - saved >= self.config.train.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
                if progress.stopped:
                    log.say(f"no better AP in {progress.waited} validations: stopped early")
                    break
            if main:
                save_weights(self.folder / "last.safetensors", self._weights())
                for line in self._conclusion():
                    log.say(line)

    def _resume(self) -> None:
        """Put back the state of the checkpoint.

        Raises:
            InputError: it is damaged, or was made by another number of processes.
        """
        path, optimizer = self.folder / CHECKPOINT, self.optimizer.optimizer
        self.progress = load_checkpoint(path, self.plain_model, self.average.state, optimizer)
        if self.progress.processes != self.processes:
            raise InputError(
                f"{self.folder}: was trained by {self.progress.processes} processes and can only "
                f"be continued by as many, not by {self.processes}"
            )
        if self.accelerator.scaler is not None and self.progress.scaler:
            self.accelerator.scaler.load_state_dict(self.progress.scaler)

    def _introduction(self) -> list[str]:
        parts, step = self.data.split, self.progress.step
        num_parameters = sum(
            parameter.numel()
            for name, parameter in self.plain_model.named_parameters()
            if not name.startswith(TRAINING_ONLY)
        )
        without = len(self.data.unlabelled)
        lines = [
            f"{self.folder}: {len(parts.train)} frames train, {len(parts.validation)} validate, "
            f"{len(parts.test)} are held out for the test"
            + (f"; the teacher alone is asked about {without} more" if without else ""),
            f"classes {', '.join(self.data.class_names)}; "
            f"{num_parameters / 1e6:.2f} M parameters; "
            f"{self.steps_an_epoch} steps an epoch on {self.accelerator.device}"
            + (f" in {self.processes} processes" if self.processes > 1 else ""),
        ]
        if self.progress.stopped or step == self.total_steps:
            lines.append(f"this run is complete: step {step} of {self.total_steps}")
        elif step:
            lines.append(f"goes on after step {step} of {self.total_steps}")
        else:
            similarity = self.config.data.split.similarity
            lines += near_identical_across(self.data.videos, parts, similarity)
        return lines

    def _conclusion(self) -> list[str]:
        data = self.config.data
        images = f" --images {data.images}" if data.images else ""
        return [
            f"{self.folder}: done; {WEIGHTS} has the best validation AP, {self.progress.best:.3f}",
            f"test it: sonodetr evaluate {self.folder} {data.path}{images} --split test",
        ]

    def _state(self) -> str:
        step, best = self.progress.step, self.progress.best
        done = step % self.steps_an_epoch or self.steps_an_epoch
        loss = self.progress.sums.get("loss", 0.0) / done
        return f"loss {loss:.3f}" + (f"  best AP {best:.3f}" if best >= 0 else "")

    def _training_batches(self) -> Iterator[Batch]:
        """All batches still to do, through one set of workers for the whole training."""
        if self.progress.stopped:
            return iter(())
        order = self.data.training_order(self.progress.step, self.rank, self.processes)
        return load_batches(self.data.training(self._clip), order, self.config.train.workers)

    def _step(self, batch: Batch, step: int) -> dict[str, float]:
        """One optimisation step; returns the named loss terms, averaged over the processes."""
        train = self.config.train
        # Dropout of this step does not depend on how the run came here.
        torch.manual_seed(hash((self.config.seed, step, self.rank)))
        self.model.train()
        if train.backbone_rate == 0:
            self.plain_model.backbone.eval()
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_rate"] * rate_factor(
                step, self.total_steps, train.warmup_steps
            )
        with self.accelerator.autocast():
            named = self.task(self.model, batch, step / self.total_steps)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(named["loss"])
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), train.gradient_clip)
        terms = self.accelerator.reduce(torch.stack(list(named.values())).detach(), "mean")
        values = dict(zip(named, terms.tolist(), strict=True))
        # With fp16 an infinite gradient is part of the scaling and that step is left out.
        bad_gradient = train.precision != "fp16" and not torch.isfinite(norm)
        if bad_gradient or not math.isfinite(values["loss"]):
            raise InputError(_not_finite(values, step, batch))
        self.optimizer.step()
        self.average.update(self.plain_model, step)
        return values

    def _count(self, values: dict[str, float]) -> None:
        progress = self.progress
        if progress.step % self.steps_an_epoch == 0:
            progress.sums, progress.counts = {}, {}
        for name, value in values.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value
            progress.counts[name] = progress.counts.get(name, 0) + 1
        progress.step += 1

    def _epoch_means(self) -> dict[str, float]:
        """Of the epoch that has just ended."""
        sums, counts = self.progress.sums, self.progress.counts
        means = {f"train/{name}": value / counts[name] for name, value in sums.items()}
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        return {"epoch": self.progress.step / self.steps_an_epoch, "rate": rate} | means

    def _validation_due(self) -> bool:
        epoch, rest = divmod(self.progress.step, self.steps_an_epoch)
        every = self.config.train.validate_epochs
        return rest == 0 and (epoch % every == 0 or epoch == self.config.train.epochs)

    def _validate(self) -> dict[str, Any]:
        """Measure the averaged weights on validation data and keep them if they are the best."""
        state = self.average.state
        # Each process has batch norm statistics of its own; those of the first are stored.
        broadcast([state[name] for name, _ in self.plain_model.named_buffers() if name in state])
        trained = {name: tensor.clone() for name, tensor in self.plain_model.state_dict().items()}
        self.plain_model.load_state_dict(state)
        order = self.data.validation_order(self.rank, self.processes)
        batches = load_batches(self.data.validation(), order, self.config.train.workers)
        detections = predict_clips(
            self.plain_model, batches, self.data.class_names, self.accelerator
        )
        distances = self._distances()
        self.plain_model.load_state_dict(trained)
        matches = match(self.data.videos, detections, self.data.split.validation)
        metrics, progress = metrics_of(matches), self.progress
        ap = metrics.ap or 0.0
        progress.waited = 0 if ap > progress.best else progress.waited + 1
        progress.stopped = 0 < self.config.train.patience <= progress.waited
        # Before anything is found all AP are 0: the newer model is as good, so keep it.
        if ap >= progress.best:
            progress.best = ap
            if self.accelerator.is_main_process:
                threshold = best_threshold(matches)
                threshold = 0.5 if threshold is None else threshold
                self._keep_best(metrics.to_dict(), threshold)
                shown = self.data.split.validation[:12]
                picture = draw_found(self.data.videos, shown, detections, threshold)
                save_picture(self.folder / "validation.png", picture)
        return {"validation/AP": metrics.ap, "validation/AP50": metrics.ap50} | distances

    def _distances(self) -> dict[str, float]:
        """How far the student is from its teacher on validation data, and a picture of it."""
        if not isinstance(self.task, Distillation) or not self.accelerator.is_main_process:
            return {}
        self._held_out = self._held_out or held_out_examples(self.data, self.task)
        drawn = draw_attention(self.task, self._held_out)
        if drawn is not None:
            save_picture(self.folder / "attention" / f"step-{self.progress.step:06}.png", drawn)
        return self.task.held_out(self._held_out)

    def _keep_best(self, figures: dict[str, Any], threshold: float) -> None:
        save_weights(self.folder / WEIGHTS, self._weights())
        save_info(
            self.folder,
            RunInfo(
                classes=self.data.class_names,
                threshold=threshold,
                step=self.progress.step,
                validation=figures,
                provenance=provenance(self.config.seed),
            ),
        )

    def _weights(self) -> dict[str, Tensor]:
        """The averaged weights of the detector alone."""
        state = self.average.state
        return {name: state[name] for name in state if not name.startswith(TRAINING_ONLY)}

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        scaler, optimizer = self.accelerator.scaler, self.optimizer.optimizer
        self.progress.scaler = None if scaler is None else scaler.state_dict()
        save_checkpoint(
            self.folder / CHECKPOINT,
            self.plain_model,
            self.average.state,
            optimizer,
            self.progress,
        )


def _not_finite(values: dict[str, float], step: int, batch: Batch) -> str:
    terms = ", ".join(f"{name} {value:g}" for name, value in values.items())
    frames = ", ".join(f"{source.key}:{source.frame_index}" for source in batch.sources)
    return (
        f"loss or gradient is not finite at step {step} ({terms}) on frames {frames}; "
        "look at these frames and their boxes, or lower train.learning_rate"
    )
