"""What a frozen teacher says of every training clip, stored once and read in every later epoch.

A cache is a folder (docs/distillation_cache.md): one `.npy` file a target, half precision, `[views,
samples, *shape]`; `done.npy`, which entries are there; and `cache.json`, what they depend on.
Data goes in through plain writes, never through the memory map: a full disk is then an error and
not a signal that ends the process.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError
from torch import Tensor

from sonodetr.distill.array_file import HEADER_BYTES, allocate, locked, map_array, write_entry
from sonodetr.files import InputError, read_json, write_text
from sonodetr.formats.picture_files import content_of, picture_files
from sonodetr.types import Video

_HALF, _BYTE = np.dtype("<f2"), np.dtype("u1")
Entry = tuple[int, int]  # view, sample
_FACTS, _DONE, _CREATING, _FILLING = "cache.json", "done", "creating.lock", "filling.lock"
# A flush waits for the disk: it is paid once for so many batches, which a killed process loses.
_WRITES_A_FLUSH = 16
_PICTURES_HASHED = 16
_MADE_WITH = {
    "data": "from other data, or another division of it",
    "augmentation": "with another augmentation",
    "teacher": "by another teacher",
    "reduction": "for other maps, layers, heads or grids",
}


class CacheKey(BaseModel):
    """What the targets depend on, each as a text (a hash) that changes when it does.

    Attributes:
        data: pictures and samples (see `data_fingerprint`).
        augmentation: its config.
        teacher: weights and all that changes its outputs.
        reduction: which maps, layers, heads and grids are kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    augmentation: str
    teacher: str
    reduction: str


class _Facts(BaseModel):
    """What `cache.json` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    key: CacheKey
    samples: PositiveInt
    views: PositiveInt
    # Names become files, beside done.npy.
    shapes: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], tuple[PositiveInt, ...]]


class TargetCache:
    """Targets of `samples` clips in each of `views` augmented views, in a folder.

    Made by `TargetCache.open`. Any number of processes may read while one fills. Pickling hands
    over the folder, not its content.

    Attributes:
        folder: where it lies.
        done: uint8 `[views, samples]`, 1 for an entry that can be read.

    >>> import tempfile
    >>> key = CacheKey(data="d", augmentation="a", teacher="t", reduction="r")
    >>> folder = tempfile.TemporaryDirectory()
    >>> cache = TargetCache.open(Path(folder.name) / "cache", key, 3, 1, {"memory": (2,)})
    >>> with cache.filling():
    ...     cache.write([(0, 2)], {"memory": torch.tensor([[0.5, 0.25]])})
    >>> cache.missing(), cache.read([(0, 2)])
    ([(0, 0), (0, 1)], {'memory': tensor([[0.5000, 0.2500]])})
    """

    def __init__(self, folder: Path, facts: _Facts) -> None:
        self.folder, self._facts = folder, facts
        entries = (facts.views, facts.samples)
        self.done = _array(folder, _DONE, _BYTE, entries)
        self._arrays = {
            name: _array(folder, name, _HALF, (*entries, *shape))
            for name, shape in facts.shapes.items()
        }
        self._files: dict[str, FileIO] = {}
        self._unflushed = 0

    @staticmethod
    def open(
        folder: Path,
        key: CacheKey,
        samples: int,
        views: int,
        shapes: Mapping[str, tuple[int, ...]],
    ) -> "TargetCache":
        """The cache in `folder`, made anew, with its whole size taken, where there is none.

        Args:
            folder: its parents are made too. A folder with other files in it is refused.
            key: of what is to be stored.
            samples: clips of the training set, at least 1.
            views: augmented views of each, at least 1.
            shapes: name of each target (a-z, 0-9, `_`) and its shape for one clip.

        Raises:
            InputError: the folder holds other targets (which part differs is named), other files or
                a damaged cache; or the disk has too little space, or cannot be written.
            ValueError: a number, name or shape is not as said above.
        """
        if _DONE in shapes:
            raise ValueError(f"{_DONE!r} is not free as the name of a target")
        wanted = _Facts(key=key, samples=samples, views=views, shapes=dict(shapes))
        try:
            if not (folder / _FACTS).exists():
                _create(folder, wanted)
        except OSError as error:
            raise _cannot_write(folder, error) from error
        _check(folder, wanted)
        return TargetCache(folder, wanted)

    def __reduce__(self) -> tuple[Any, ...]:
        return TargetCache, (self.folder, self._facts)

    def missing(self) -> list[Entry]:
        """(view, sample) of every entry that still has to be written, in order of the file."""
        return [(view, sample) for view, sample in np.argwhere(self.done == 0).tolist()]

    @contextmanager
    def filling(self) -> Iterator[None]:
        """The block in which `write` may be called; one process at a time, others wait for its end.

        What is `missing` should be asked within: the process before may have filled it. Entries
        become readable for other processes after every few writes, and all of them at the end of
        the block, however it ends.

        Raises:
            InputError: the cache cannot be written.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / _FILLING))
                files = {
                    name: stack.enter_context(open(self.folder / f"{name}.npy", "r+b", buffering=0))
                    for name in (*self._arrays, _DONE)
                }
            except OSError as error:
                raise _cannot_write(self.folder, error) from error
            stored = self.done
            self.done = np.array(stored)  # runs ahead of the file until the next flush
            self._files = files
            try:
                yield
            finally:
                try:
                    self._flush()
                finally:
                    self.done = stored
                    self._files = {}

    def write(self, entries: Sequence[Entry], targets: Mapping[str, Tensor]) -> None:
        """Store the targets of a batch, in half precision. Entries that are there stay as they are.

        Half precision moves a value by at most 2^-11 of itself; probabilities under 6e-5 by at
        most 3e-8, to 0 below that.

        Args:
            entries: (view, sample) of each clip of the batch.
            targets: `[len(entries), *shape]` for every name, on any device.

        Raises:
            InputError: a value is NaN or beyond 65504, or the disk is full.
            ValueError: names or shapes are not those of the cache.
            RuntimeError: outside of `filling`.
            IndexError: there is no such view or sample.
        """
        if not self._files:
            raise RuntimeError("write to the cache inside of `with cache.filling():`")
        self._check_entries(entries)
        shapes = {name: (len(entries), *shape) for name, shape in self._facts.shapes.items()}
        given = {name: tuple(target.shape) for name, target in targets.items()}
        if given != shapes:
            raise ValueError(f"targets of shapes {given}, but the cache holds {shapes}")
        halves = {name: _half(self.folder, name, target) for name, target in targets.items()}
        try:
            for row, (view, sample) in enumerate(entries):
                if not self.done[view, sample]:
                    place = view * self._facts.samples + sample
                    for name, half in halves.items():
                        write_entry(self._files[name], place, half[row, ...])
                    self.done[view, sample] = 1
        except OSError as error:
            raise _cannot_write(self.folder, error) from error
        self._unflushed += 1
        if self._unflushed >= _WRITES_A_FLUSH:
            self._flush()

    def read(self, entries: Sequence[Entry]) -> dict[str, Tensor]:
        """The targets of a batch of (view, sample), float32 `[len(entries), *shape]` on the CPU.

        Raises:
            LookupError: an entry has not been written; there is no such view or sample.
        """
        self._check_entries(entries)
        places = tuple(np.array(entries, int).reshape(-1, 2).T)
        if not self.done[places].all():
            absent = [entry for entry in entries if not self.done[entry]]
            raise LookupError(f"entries {absent} (view, sample) have not been written yet")
        return {
            name: torch.from_numpy(array[places].astype(np.float32))
            for name, array in self._arrays.items()
        }

    def _check_entries(self, entries: Sequence[Entry]) -> None:
        views, count = self._facts.views, self._facts.samples
        if not all(0 <= view < views and 0 <= sample < count for view, sample in entries):
            raise IndexError(f"entries {list(entries)} (view, sample) outside {views} x {count}")

    def _flush(self) -> None:
        """Mark entries as done once their data is safe from a power cut."""
        try:
            for name in self._arrays:
                os.fsync(self._files[name].fileno())
            write_entry(self._files[_DONE], 0, self.done)
            os.fsync(self._files[_DONE].fileno())
        except OSError as error:
            raise _cannot_write(self.folder, error) from error
        self._unflushed = 0


def size_bytes(samples: int, views: int, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes that the arrays of a cache take, known before anything is written.

    >>> size_bytes(1000, 5, {"encoder": (4, 100, 100)})
    400005256
    """
    values = sum(2 * math.prod(shape) for shape in shapes.values())
    return views * samples * (values + 1) + HEADER_BYTES * (len(shapes) + 1)


def data_fingerprint(videos: Sequence[Video], samples: Sequence[tuple[int, int]]) -> str:
    """SHA-256 of the recordings and samples (recording, frame) that clips are made of.

    Over the keys, numbers of frames, sizes and regions of the recordings, every byte of the files
    that hold their pictures, the list of samples, and the pixels of 16 of its frames, spread
    evenly, which also tell recordings that lie in no file.

    Raises:
        InputError: a file cannot be read.
    """
    facts = [[v.key, len(v), v.frames.size, v.region_px] for v in videos]
    digest = hashlib.sha256(json.dumps([facts, [list(sample) for sample in samples]]).encode())
    digest.update(content_of(picture_files(videos)).encode())
    count = min(_PICTURES_HASHED, len(samples))
    for place in np.linspace(0, len(samples) - 1, count).round().astype(int):
        video, frame = samples[place]
        pixels = videos[video].frames[frame]
        digest.update(f"{pixels.shape}".encode() + pixels.tobytes())
    return digest.hexdigest()


def _create(folder: Path, facts: _Facts) -> None:
    """Take the space of all arrays; `cache.json` comes last and makes the folder a cache."""
    # One look: in two, another process may begin between them.
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names and _CREATING not in names:
        raise InputError(f"{folder}: holds other files, not a target cache; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / _CREATING):
        if (folder / _FACTS).exists():  # made by another process in the meantime
            return
        for left_behind in folder.glob("*.npy"):  # by a process that was killed here
            left_behind.unlink()
        need = size_bytes(facts.samples, facts.views, facts.shapes)
        free = shutil.disk_usage(folder).free
        if need > free:
            raise InputError(
                f"{folder}: the cache takes {_human(need)}, but {_human(free)} are free; "
                "lower data.augment.views, or choose another folder"
            )
        try:
            for name, shape in facts.shapes.items():
                allocate(folder / f"{name}.npy", _HALF, (facts.views, facts.samples, *shape))
            allocate(folder / f"{_DONE}.npy", _BYTE, (facts.views, facts.samples))
            write_text(folder / _FACTS, facts.model_dump_json(indent=1) + "\n")
        except BaseException:
            for path in folder.glob("*.npy"):
                path.unlink()
            raise


def _check(folder: Path, wanted: _Facts) -> None:
    """Refuse a cache of anything else than `wanted`, and say what differs."""
    path = folder / _FACTS
    try:
        stored = _Facts.model_validate(read_json(path))
    except (InputError, ValidationError):
        raise _damaged(folder, path, "is damaged, or of another version of sonodetr") from None
    if stored == wanted:
        return
    parts = [how for part, how in _MADE_WITH.items() if _differs(stored.key, wanted.key, part)]
    parts += [
        f"for {getattr(stored, axis)} {axis}, not {getattr(wanted, axis)}"
        for axis in ("samples", "views")
        if _differs(stored, wanted, axis)
    ]
    how = " and ".join(parts or ["for targets of other names or shapes"])
    raise InputError(f"{folder}: was made {how}; delete the folder, or choose another")


def _differs(first: BaseModel, second: BaseModel, name: str) -> bool:
    return bool(getattr(first, name) != getattr(second, name))


def _array(folder: Path, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    path = folder / f"{name}.npy"
    try:
        return map_array(path, dtype, shape)
    except ValueError as error:
        raise _damaged(folder, path, str(error)) from None


def _half(folder: Path, name: str, target: Tensor) -> np.ndarray:
    """On the CPU in half precision; `folder` is for the message."""
    half = target.detach().to(torch.float16)
    if not torch.isfinite(half).all():
        raise InputError(
            f"{folder}: target {name!r} is NaN or beyond 65504, which half precision cannot hold; "
            "check the teacher, or train without the cache (distill.cache=)"
        )
    return half.cpu().numpy()


def _damaged(folder: Path, path: Path, why: str) -> InputError:
    return InputError(f"{path}: {why}; delete the folder {folder} to make the cache anew")


def _cannot_write(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write {folder}: {error.strerror or error}; "
        "free some space, or choose another folder"
    )


def _human(size: int) -> str:
    """A size in the unit that keeps it short.

    >>> _human(12_345_678_901)
    '12.3 GB'
    """
    power = min(int(math.log(max(size, 1), 1000)), 4)
    return f"{size / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"
