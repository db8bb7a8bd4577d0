"""Asks a teacher ahead of the training: about all training clips, and about some of validation."""

import json
import sys
from pathlib import Path

import numpy as np

from sonodetr.data.clips import collate
from sonodetr.distill.cache import CacheKey, TargetCache, data_fingerprint, size_bytes
from sonodetr.distill.targets import Targets
from sonodetr.model.tensors import Batch
from sonodetr.progress import progress_bar
from sonodetr.training.data import Data, in_batches, load_batches
from sonodetr.training.distillation import Distillation, places_of

# Validation clips on which student and teacher are compared; more would only take longer.
_HELD_OUT = 64


def held_out_examples(data: Data, task: Distillation) -> list[tuple[Batch, Targets]]:
    """Validation clips, spread evenly, with what the teacher says about them."""
    count = len(data.split.validation)
    chosen = np.unique(np.linspace(0, count - 1, min(count, _HELD_OUT), dtype=int)).tolist()
    order = in_batches([(0, index) for index in chosen], data.config.train.batch_size)
    device = task.detection.accelerator.device
    batches = load_batches(data.validation(task.clip), order, 0)
    return [(batch, task.ask(batch)) for batch in (batch.to(device) for batch in batches)]


def filled_cache(data: Data, task: Distillation) -> TargetCache:
    """The cache of a run with the targets of all its clips; only those that are missing are made.

    Raises:
        InputError: the cache was made from something else, or the disk has no room.
    """
    config, clips = data.config, data.training(task.clip)
    views = config.data.augment.views
    probe = collate([clips[0, 0]]).to(task.detection.accelerator.device)
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in task.ask(probe).items()}
    samples = len(clips)
    videos = [*data.videos, *data.more]
    key = CacheKey(
        data=data_fingerprint(videos, clips.samples),
        augmentation=task.clip.model_dump_json(
            exclude={"path", "images", "on_bad_label", "split", "labelled", "unlabelled"}
        ),
        teacher=task.teacher.fingerprint,
        reduction=json.dumps(task.alignment.describe(), sort_keys=True),
    )
    folder = Path(config.distill.cache)
    if not folder.exists():
        print(
            f"{folder}: the teacher is asked about {samples} clips in {views} views; its answers "
            f"take {size_bytes(samples, views, shapes) / 1e9:.2f} GB",
            file=sys.stderr,
        )
    cache = TargetCache.open(folder, key, samples, views, shapes)
    if not cache.missing():
        return cache
    device = task.detection.accelerator.device
    with cache.filling():  # another run may have been first
        missing = cache.missing()
        order = in_batches(missing, config.train.batch_size)
        with progress_bar("ask the teacher", len(missing), "clips") as advance:
            for batch in load_batches(clips, order, config.train.workers):
                batch = batch.to(device)
                with task.detection.accelerator.autocast():  # as where the teacher runs along
                    targets = task.ask(batch)
                cache.write(places_of(batch), targets)
                for _ in batch.sources:
                    advance()
    return cache
