"""Division of labelled frames into training, validation and test without leaks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from sonodetr.config import SplitConfig
from sonodetr.files import InputError, closest
from sonodetr.types import Video

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Labelled frames of each part as (index of the recording, index of the frame), in order."""

    train: list[tuple[int, int]]
    validation: list[tuple[int, int]]
    test: list[tuple[int, int]]


def split(videos: Sequence[Video], config: SplitConfig, seed: int) -> Split:
    """Divide the labelled frames of a data set.

    Patients stay whole, then recordings, then groups of near-identical stills. The groups are dealt
    into `config.folds` parts of about equal numbers of frames and of boxes of every class; part
    `config.test_fold` is the test, and of the rest about `config.validation_fraction` validates.
    With `config.test_frames` a single recording is divided by stretches of frames instead.

    Raises:
        InputError: there are too few groups, or a part would be empty.
    """
    if config.test_frames:
        return _split_within(videos, config)
    groups = _groups(videos, config.similarity)
    if len(groups) < config.folds + 1:
        raise InputError(
            f"data has {len(groups)} groups that must stay whole (patients, recordings, "
            f"near-identical stills), but data.split.folds is {config.folds} and validation needs "
            "one more; lower folds, add recordings, or set data.split.test_frames and "
            "validation_frames to hold out stretches of one recording"
        )
    counts = _counts(videos, groups)
    random = np.random.default_rng((3, seed))
    folds = _deal(counts, np.full(config.folds, 1 / config.folds), random)
    rest = np.flatnonzero(folds != config.test_fold)
    share = config.validation_fraction
    validation = rest[_deal(counts[rest], np.array([1 - share, share]), random) == 1]
    part = np.zeros(len(groups), int)
    part[validation], part[folds == config.test_fold] = 1, 2
    samples: list[list[tuple[int, int]]] = [
        sorted(
            (video, frame)
            for group in np.flatnonzero(part == number)
            for video in groups[group]
            for frame in videos[video].labels
        )
        for number in range(3)
    ]
    return Split(*samples)


def _groups(videos: Sequence[Video], similarity: float) -> list[list[int]]:
    """Indices of labelled recordings that must stay together."""
    labelled = [index for index, video in enumerate(videos) if video.labels]
    parent = {index: index for index in labelled}

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    first: dict[str, int] = {}
    for index in labelled:
        patient = videos[index].patient
        if patient is not None:
            parent[root(index)] = root(first.setdefault(patient, index))
    stills = [index for index in labelled if len(videos[index]) == 1]
    for a, b in _near_identical([videos[index] for index in stills], similarity):
        parent[root(stills[a])] = root(stills[b])
    groups: dict[int, list[int]] = {}
    for index in labelled:
        groups.setdefault(root(index), []).append(index)
    return list(groups.values())


def _near_identical(stills: Sequence[Video], similarity: float) -> list[tuple[int, int]]:
    if len(stills) < 2:
        return []
    thumbs = np.stack([_thumbnail(still.frames[0]).ravel() for still in stills])
    thumbs -= thumbs.mean(1, keepdims=True)
    thumbs /= np.maximum(np.linalg.norm(thumbs, axis=1, keepdims=True), 1e-9)
    first, second = np.nonzero(np.triu(thumbs @ thumbs.T >= similarity, 1))
    return list(zip(first.tolist(), second.tolist(), strict=True))


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)


def _counts(videos: Sequence[Video], groups: Sequence[Sequence[int]]) -> np.ndarray:
    """`[groups, 1 + classes]`: frames, then boxes of every class, each as a share of all."""
    classes = max((len(video.classes) for video in videos), default=0)
    counts = np.zeros((len(groups), 1 + classes))
    for row, group in enumerate(groups):
        for video in group:
            for labels in videos[video].labels.values():
                counts[row, 0] += 1
                counts[row, 1:] += np.bincount(labels.classes[~labels.crowd], minlength=classes)
    return counts / np.maximum(counts.sum(0), 1)


def _deal(counts: np.ndarray, shares: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Part of each group: the largest first, each to where the squared error ends smallest."""
    order = random.permutation(len(counts))
    order = order[np.argsort(-counts[order].max(1), kind="stable")]
    goal = shares[:, None] * counts.sum(0)
    held = np.zeros_like(goal)
    part = np.zeros(len(counts), int)
    for group in order:
        gain = ((goal - held) * counts[group]).sum(1) / shares
        part[group] = int(gain.argmax())
        held[part[group]] += counts[group]
    return part


def _split_within(videos: Sequence[Video], config: SplitConfig) -> Split:
    parts: dict[str, list[tuple[int, int]]] = {name: [] for name in PARTS}
    held = (*config.test_frames, *config.validation_frames)
    for index, video in enumerate(videos):
        for frame in sorted(video.labels):
            if _inside(frame, config.test_frames, 0):
                parts["test"].append((index, frame))
            elif _inside(frame, config.validation_frames, 0):
                parts["validation"].append((index, frame))
            elif not _inside(frame, held, config.border_frames):
                parts["train"].append((index, frame))
    return Split(**parts)


def _inside(frame: int, stretches: Sequence[tuple[int, int]], border: int) -> bool:
    return any(first - border <= frame <= last + border for first, last in stretches)


def to_json(videos: Sequence[Video], division: Split) -> dict[str, dict[str, list[int]]]:
    """The division by key of the recording: `{"train": {"clip1": [0, 7]}, ...}`."""
    document: dict[str, dict[str, list[int]]] = {}
    for name in PARTS:
        frames = document[name] = {}
        for video, frame in getattr(division, name):
            frames.setdefault(videos[video].key, []).append(frame)
    return document


def select(
    videos: Sequence[Video], document: Mapping[str, Any], name: str
) -> list[tuple[int, int]]:
    """The frames that a stored division calls `name`, found again in `videos`.

    Raises:
        InputError: there is no such part, or a frame of it is not in the data or not labelled.
    """
    if name not in document:
        raise InputError(f"there is no split {name!r}; {closest(name, document)}")
    places = {video.key: index for index, video in enumerate(videos)}
    samples = []
    for key, frames in document[name].items():
        if key not in places:
            raise InputError(
                f"the split {name!r} names the recording {key!r}, which the data does not have; "
                "give the data the run was trained on"
            )
        labels = videos[places[key]].labels
        for frame in frames:
            if frame not in labels:
                raise InputError(
                    f"the split {name!r} names frame {frame} of {key!r}, which has no labels; "
                    "give the data the run was trained on"
                )
            samples.append((places[key], frame))
    return sorted(samples)
