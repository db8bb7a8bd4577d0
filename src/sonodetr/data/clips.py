"""Labelled frames of recordings as clips for training: the data set, its batches and their order.

Every random number is a function of (seed, epoch, index) alone, so that a run that was killed and
continued sees the same bits, whatever the number of worker processes.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch.utils.data import Dataset

from sonodetr.config import DataConfig
from sonodetr.data.augment import change_intensity, random_geometry
from sonodetr.data.region import region_of
from sonodetr.data.warp import warp_frame, warp_labels
from sonodetr.geometry import Letterbox, cxcywh_from_xyxy
from sonodetr.model.tensors import Batch, Source, Target
from sonodetr.types import Labels, Region, Video, clip_indices

# First word of a random stream's seed: streams of different use never coincide.
_ORDER_STREAM, _AUGMENT_STREAM = 1, 2


@dataclass(frozen=True)
class Clip:
    """One training example; `collate` joins several to a `Batch`.

    Attributes:
        image: pictures, oldest first; bytes, so that it is cheap to hand between processes.
        target: what is in the last one; None where that is not to be known.
        source: where it came from.
    """

    image: UInt8[np.ndarray, "channels time height width"]
    target: Target | None
    source: Source


class ClipDataset(Dataset[Clip]):
    """Clips that end at labelled frames.

    `dataset[epoch, i]` is example `i` as seen in `epoch`; `dataset[i]` is `dataset[0, i]`. A clip
    has `config.clip_frames` frames, `config.clip_step` apart, the last one the labelled one and
    none later. Where a recording has not begun yet, its first frame is repeated.

    Crowd regions are neither object nor background; the set loss knows no third kind, so they are
    left out of the targets and count as background in training.

    Args:
        videos: the recordings.
        samples: index of the recording and of its labelled frame, for each example.
        config: size, channels, clip length, region and augmentation.
        seed: of the augmentation.
        augment: change every clip at random (`config.augment`), anew in every epoch.
        unlabelled: numbers of examples whose labels are not to be looked at.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        samples: Sequence[tuple[int, int]],
        config: DataConfig,
        *,
        seed: int = 0,
        augment: bool = False,
        unlabelled: Collection[int] = (),
    ) -> None:
        self.videos, self.samples, self.config = list(videos), list(samples), config
        self.unlabelled = frozenset(unlabelled)
        self.seed, self.augment = seed, augment
        self._regions: dict[int, Region] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> Clip:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        video_index, frame_index = self.samples[index]
        video, config = self.videos[video_index], self.config
        if video_index not in self._regions:
            self._regions[video_index] = region_of(video, config.region)
        region = self._regions[video_index]
        letterbox = Letterbox.fit(region, *config.image_size)
        matrix = letterbox.matrix()
        view, seed = epoch, self.seed
        if views := config.augment.views:  # the same in every run, so that runs can share targets
            view, seed = epoch % views, 0
        random = np.random.default_rng((_AUGMENT_STREAM, seed, view, index))
        if self.augment:
            matrix = random_geometry(config.augment, config.image_size, random) @ matrix
        indices = clip_indices(frame_index, config.clip_frames, config.clip_step)
        pictures = {
            i: warp_frame(video.frames[i], region, matrix, config.image_size, config.channels)
            for i in sorted(set(indices))  # forward, as videos decode fastest
        }
        image = np.ascontiguousarray(np.stack([pictures[i] for i in indices]).transpose(3, 0, 1, 2))
        if self.augment:
            image = change_intensity(image, config.augment, random)
        target = None
        if index not in self.unlabelled:
            labels = video.labels[frame_index]
            labels = warp_labels(labels, matrix, config.image_size, cropped=self.augment)
            target = target_of(labels, config.image_size)
        return Clip(image, target, Source(video.key, frame_index, letterbox, view, index))


def target_of(labels: Labels, size: tuple[int, int]) -> Target:
    """Labels in pixels of an input (`size`: height, width) as a target in 0..1, without crowd."""
    height, width = size
    keep = ~labels.crowd
    scale = np.array((width, height), np.float32)
    boxes = cxcywh_from_xyxy(labels.boxes_xyxy_px[keep] / np.tile(scale, 2))
    return Target(
        torch.from_numpy(boxes),
        torch.from_numpy(labels.classes[keep]),
        torch.from_numpy(labels.points_px[keep] / scale),
    )


def collate(clips: Sequence[Clip]) -> Batch:
    """Join clips of one size to a batch with images in 0..1; those without labels come last."""
    clips = sorted(clips, key=lambda clip: clip.target is None)
    images = torch.from_numpy(np.stack([clip.image for clip in clips]))
    return Batch(
        images.to(torch.float32).div_(255),
        _in_three_tensors([clip.target for clip in clips if clip.target is not None]),
        [clip.source for clip in clips],
    )


def _in_three_tensors(targets: list[Target]) -> list[Target]:
    """The same targets as views: a worker hands every tensor over as an open file, and those run
    out."""
    if not targets:
        return []
    counts = [len(target.classes) for target in targets]
    columns = zip(
        torch.cat([target.boxes_cxcywh for target in targets]).split(counts),
        torch.cat([target.classes for target in targets]).split(counts),
        torch.cat([target.points for target in targets]).split(counts),
        strict=True,
    )
    return [Target(*column) for column in columns]


class EpochBatches:
    """Order of one epoch, a batch sampler: yields lists of (epoch, index) for `ClipDataset`.

    The order depends on `seed` and `epoch` only. The last batch is filled up from the start of the
    same order, so that all steps have the same number of clips (and several processes the same
    number of steps); with fewer examples than `batch_size` they are repeated.

    Args:
        count: examples in the data set, at least 1.
        batch_size: clips a batch.
        seed: of the run.
        epoch: from 0.
        skip_batches: batches already done before an interruption; they are not loaded again.

    >>> [len(batch) for batch in EpochBatches(7, 3, seed=0, epoch=0, skip_batches=1)]
    [3, 3]
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, epoch: int, skip_batches: int = 0
    ) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.epoch, self.skip_batches = epoch, skip_batches

    def __len__(self) -> int:
        return max(0, -(-self.count // self.batch_size) - self.skip_batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((_ORDER_STREAM, self.seed, self.epoch)).permutation(
            self.count
        )
        steps = -(-self.count // self.batch_size)
        for batch in np.resize(order, (steps, self.batch_size))[self.skip_batches :]:
            yield [(self.epoch, int(index)) for index in batch]


def labelled_samples(videos: Sequence[Video]) -> list[tuple[int, int]]:
    """Index of recording and frame for every labelled frame, in order."""
    return [(index, frame) for index, video in enumerate(videos) for frame in sorted(video.labels)]
