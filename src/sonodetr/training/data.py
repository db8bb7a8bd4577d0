"""The frames of a run: who may see which, in what order, and the processes that load them."""

import itertools
import math
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from sonodetr.config import Config, DataConfig
from sonodetr.data.clips import ClipDataset, EpochBatches, collate
from sonodetr.data.splits import Split, split
from sonodetr.files import InputError
from sonodetr.formats import read
from sonodetr.model.tensors import Batch
from sonodetr.training.unseen import check_apart
from sonodetr.types import Frames, Pixels, Video

# First word of the random stream's seed; clips.py uses 1 and 2, splits.py 3.
_LABELLED_STREAM = 4
Key = tuple[int, int]  # epoch, index in the data set
# Decoded pictures that each process remembers: about 550 grey stills of 760 x 630 pixels.
MEMORY_BYTES = 256 * 2**20


@dataclass
class Memory:
    """Decoded pictures of several recordings, until there is no more room."""

    room_bytes: int
    pictures: dict[tuple[int, int], Pixels] = field(default_factory=dict)


@dataclass(frozen=True)
class Remembered:
    """Frames that are decoded once: decoding is more than half of what a training clip costs."""

    number: int
    frames: Frames
    memory: Memory

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """As of `frames`."""
        return self.frames.size

    def __getitem__(self, index: int) -> Pixels:
        place, memory = (self.number, index), self.memory
        if place in memory.pictures:
            return memory.pictures[place]
        picture = self.frames[index]
        if picture.nbytes <= memory.room_bytes:
            memory.pictures[place] = picture
            memory.room_bytes -= picture.nbytes
        return picture


@dataclass(frozen=True)
class Data:
    """The recordings of a run and who may see which frames.

    Attributes:
        videos: of `config.data.path`.
        split: frames whose labels are used, and those of validation and test.
        config: of the run.
        more: further recordings, numbered after `videos`.
        unlabelled: frames of both that only a teacher is asked about.
    """

    videos: list[Video]
    split: Split
    config: Config
    more: Sequence[Video] = ()
    unlabelled: Sequence[tuple[int, int]] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the class head."""
        return self.videos[0].classes

    @property
    def examples(self) -> list[tuple[int, int]]:
        """Recording and frame of every training example; the same whatever labels are used."""
        return sorted([*self.split.train, *self.unlabelled])

    def training(self, clip: DataConfig | None = None) -> ClipDataset:
        """Augmented training clips; `clip`: other than the config's."""
        memory = Memory(MEMORY_BYTES)
        videos = [  # by number: further recordings may have the names of others
            replace(video, frames=Remembered(number, video.frames, memory))
            for number, video in enumerate((*self.videos, *self.more))
        ]
        return ClipDataset(
            videos,
            self.examples,
            clip or self.config.data,
            seed=self.config.seed,
            augment=True,
            unlabelled=self._numbers(self.unlabelled),
        )

    def _numbers(self, samples: Sequence[tuple[int, int]]) -> list[int]:
        """Numbers of samples among all examples, in order."""
        wanted = set(samples)
        return [number for number, sample in enumerate(self.examples) if sample in wanted]

    def validation(self, clip: DataConfig | None = None) -> ClipDataset:
        """Validation clips as they are; `clip`: other than the config's."""
        return ClipDataset(self.videos, self.split.validation, clip or self.config.data)

    def training_order(self, first_step: int, rank: int, processes: int) -> Iterator[list[Key]]:
        """Keys of every batch of process `rank` from `first_step` to the last epoch's end."""
        config, known = self.config, self._numbers(self.split.train)
        steps = config.train.epochs * -(-len(known) // (config.train.batch_size * processes))
        parts = [(known, config.train.batch_size)]
        if self.unlabelled:
            parts.append((self._numbers(self.unlabelled), config.distill.unlabelled_batch))
        orders = [self._order(*part, first_step, rank, processes) for part in parts]
        for _ in range(first_step, steps):
            yield [key for order in orders for key in next(order)]

    def _order(
        self, numbers: list[int], size: int, first_step: int, rank: int, processes: int
    ) -> Iterator[list[Key]]:
        """Keys of `size` of these examples a step, for ever."""
        count = len(numbers)
        first_epoch, skip = divmod(first_step, -(-count // (size * processes)))
        for epoch in itertools.count(first_epoch):
            for keys in EpochBatches(count, size * processes, self.config.seed, epoch, skip):
                own = keys[rank * size : (rank + 1) * size]
                yield [(epoch, numbers[index]) for epoch, index in own]
            skip = 0

    def validation_order(self, rank: int, processes: int) -> Iterator[list[Key]]:
        """Keys of the validation batches of process `rank`: every clip once, in one of them."""
        size = self.config.train.batch_size
        keys = [(0, index) for index in range(rank, len(self.split.validation), processes)]
        yield from in_batches(keys, size)


def in_batches(keys: list[Key], size: int) -> list[list[Key]]:
    """The keys in order, `size` at a time; the last ones may be fewer."""
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def open_data(config: Config) -> Data:
    """Read the data that a config names and divide it.

    Raises:
        InputError: the data cannot be read, has no labels, no recording as long as a clip, more
            objects in a frame than the model can find, or cannot be divided as asked.
    """
    if not config.data.path:
        raise InputError(
            "data.path is empty; name a folder or annotation file, as in data.path=FOLDER"
        )
    videos = read(
        config.data.path, images=config.data.images, on_bad_label=config.data.on_bad_label
    )
    if not any(video.labels for video in videos):
        raise InputError(f"{config.data.path}: has pictures but no labels; training needs some")
    check_reach(config.data, max(len(video) for video in videos if video.labels))
    most, place = max(
        (int((~labels.crowd).sum()), f"frame {frame} of {video.key}")
        for video in videos
        for frame, labels in video.labels.items()
    )
    if most > config.model.num_queries:
        raise InputError(
            f"{config.data.path}: {place} has {most} objects, more than model.num_queries "
            f"{config.model.num_queries}; set model.num_queries={most} or more"
        )
    parts = split(videos, config.data.split, config.seed)
    known, unknown = _labelled(parts.train, config)
    if not config.distill.teacher:
        return Data(videos, replace(parts, train=known), config)
    more = []
    if config.data.unlabelled:
        more = read(config.data.unlabelled, on_bad_label="skip")  # none of them is used
        check_apart(more, videos, parts, config.data.unlabelled)
    unknown += [
        (len(videos) + index, frame)
        for index, video in enumerate(more)
        for frame in range(len(video))
    ]
    return Data(videos, replace(parts, train=known), config, more, unknown)


def check_reach(data: DataConfig, longest: int) -> None:
    """Recordings shorter than a clip are filled up with their first frame, but not all of them."""
    frames, step = data.clip_frames, data.clip_step
    reach = (frames - 1) * step
    if reach >= longest:
        raise InputError(
            f"data.clip_frames {frames} at data.clip_step {step} reach back {reach} frames, but "
            f"the longest recording in {data.path} has {longest}; set "
            f"data.clip_frames={(longest - 1) // step + 1} or less"
            + (", or a smaller data.clip_step" if step > 1 and longest > 1 else "")
        )


def _labelled(
    train: list[tuple[int, int]], config: Config
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Training frames whose labels are used, and the others; whole recordings.

    A smaller share is part of every larger one of the same seed.
    """
    recordings = sorted({video for video, _ in train})
    order = np.random.default_rng((_LABELLED_STREAM, config.seed)).permutation(len(recordings))
    count = math.ceil(round(config.data.labelled * len(recordings), 6))
    used = {recordings[row] for row in order[:count]}
    known = [sample for sample in train if sample[0] in used]
    return known, [sample for sample in train if sample[0] not in used]


class _Batches(Dataset[Batch | InputError]):
    """Whole batches by their keys. An error is returned, since torch would wrap a raised one."""

    def __init__(self, clips: ClipDataset) -> None:
        self.clips = clips

    def __getitem__(self, keys: list[Key]) -> Batch | InputError:
        try:
            return collate([self.clips[key] for key in keys])
        except InputError as error:
            return error


def load_batches(clips: ClipDataset, order: Iterable[list[Key]], workers: int) -> Iterator[Batch]:
    """The batches that `order` names, made ahead by `workers` processes (0: by this one).

    Raises:
        InputError: a picture cannot be read, or a worker process was killed.
    """
    loader: DataLoader[Batch | InputError] = DataLoader(
        _Batches(clips),
        batch_size=None,  # the data set makes them
        sampler=order,
        num_workers=workers,
        worker_init_fn=_begin_worker,
    )
    try:
        for batch in loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            "a process that loads data was killed, most often for lack of memory; "
            "lower train.workers (0 loads in the training process)"
        ) from error


def _begin_worker(worker: int) -> None:
    """Workers leave the cores to the training, and end with it without a word."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # how torch ends them; not as Ctrl-C
    sys.excepthook = _silent_when_alone


def _silent_when_alone(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Where Ctrl-C ends a training while it takes a batch over from a worker, the thread that hands
    it over finds nobody there. That is no fault; the traceback of any other error is printed."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
