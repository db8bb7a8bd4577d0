"""Division of labelled frames into training, validation and test without leaks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sonodetr.config import SplitConfig
from sonodetr.data.similarity import near_identical, thumbnail
from sonodetr.files import InputError, closest
from sonodetr.types import PARTS, Video

# First word of the random stream's seed; clips.py uses 1 and 2.
_SPLIT_STREAM = 3
_SIMILARITY = SplitConfig().similarity


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
    With `config.by_folder` the recordings' keys name their parts instead (`train/clip-00012`), and
    with `config.test_frames` a single recording is divided by stretches of frames.

    Args:
        videos: some of them with labels.
        config: how to divide them.
        seed: of the run; it draws the division unless `config.seed` does.

    Raises:
        InputError: there are too few groups, or a part would be empty.
    """
    if config.by_folder:
        return _split_by_folder(videos)
    if config.test_frames:
        return _split_within(videos, config)
    groups = _groups(videos, config.similarity)
    if len(groups) < config.folds:
        raise _too_few(len(groups), config)
    counts = _counts(videos, groups)
    drawn_by = seed if config.seed is None else config.seed
    random = np.random.default_rng((_SPLIT_STREAM, drawn_by))
    folds = _deal(counts, np.full(config.folds, 1 / config.folds), random)
    rest = np.flatnonzero(folds != config.test_fold)
    if len(rest) < 2:
        raise _too_few(len(groups), config)
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


def _too_few(count: int, config: SplitConfig) -> InputError:
    return InputError(
        f"the data has {count} groups that must stay whole (patients, recordings, near-identical "
        f"stills), too few for data.split.folds={config.folds} with both training and validation "
        "beside the test; add recordings or lower folds, or hold out stretches of one recording "
        "with data.split.test_frames and validation_frames"
    )


def _split_by_folder(videos: Sequence[Video]) -> Split:
    """Recordings whose key begins with no part's name (`shifted/...`) are in no part."""
    samples: dict[str, list[tuple[int, int]]] = {name: [] for name in PARTS}
    for index, video in enumerate(videos):
        part, slash, _ = video.key.partition("/")
        if slash and part in samples:
            samples[part] += [(index, frame) for frame in sorted(video.labels)]
    for name in ("train", "validation"):
        if not samples[name]:
            raise InputError(
                f"data.split.by_folder: no labelled recording lies in {name}/ (the first one is "
                f"{videos[0].key}); give the folder that holds train/ and validation/, or leave "
                "by_folder out"
            )
    return Split(**samples)


def _groups(videos: Sequence[Video], similarity: float) -> list[list[int]]:
    """Indices of labelled recordings that must stay together."""
    labelled = [index for index, video in enumerate(videos) if video.labels]
    parent = {index: index for index in labelled}

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    first_of: dict[str, int] = {}
    for index in labelled:
        patient = videos[index].patient
        if patient is not None:
            parent[root(index)] = root(first_of.setdefault(patient, index))
    stills = [index for index in labelled if len(videos[index]) == 1]
    thumbnails = [thumbnail(videos[index].frames[0]) for index in stills]
    for first_still, second_still, _ in near_identical(thumbnails, similarity):
        parent[root(stills[first_still])] = root(stills[second_still])
    groups: dict[int, list[int]] = {}
    for index in labelled:
        groups.setdefault(root(index), []).append(index)
    return list(groups.values())


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
    labelled = [index for index, video in enumerate(videos) if video.labels]
    if len(labelled) != 1:
        raise InputError(
            f"data.split.test_frames divides one recording, but {len(labelled)} have labels; "
            "leave test_frames and validation_frames out to divide by recording"
        )
    index = labelled[0]
    frames = sorted(videos[index].labels)
    test, validation = config.test_frames, config.validation_frames
    border = config.border_frames
    in_test = [frame for frame in frames if _inside(frame, test, 0)]
    in_validation = [
        frame
        for frame in frames
        if _inside(frame, validation, 0) and not _inside(frame, test, border)
    ]
    in_train = [frame for frame in frames if not _inside(frame, (*test, *validation), border)]
    for name, part in (("train", in_train), ("validation", in_validation), ("test", in_test)):
        if not part:
            raise InputError(
                f"data.split leaves no labelled frame for {name}; {videos[index].key} has "
                f"{len(frames)} between {frames[0]} and {frames[-1]}, change test_frames, "
                "validation_frames or border_frames"
            )
    return Split(
        *([(index, frame) for frame in part] for part in (in_train, in_validation, in_test))
    )


def _inside(frame: int, stretches: Sequence[tuple[int, int]], border: int) -> bool:
    return any(first - border <= frame <= last + border for first, last in stretches)


def near_identical_across(
    videos: Sequence[Video],
    division: Split,
    similarity: float = _SIMILARITY,
    frames_a_video: int = 12,
) -> list[str]:
    """A line for each two recordings of different parts that have a near-identical frame.

    Such a pair lets a model be tested on what it has learnt by heart: the same recording under two
    names, patients whose key is missing, neighbouring stretches of one recording. Of every
    recording and part, `frames_a_video` labelled frames are compared, evenly spread.
    """
    shown: list[tuple[str, int, int]] = []
    for name in PARTS:
        by_video: dict[int, list[int]] = {}
        for video, frame in getattr(division, name):
            by_video.setdefault(video, []).append(frame)
        for video, frames in by_video.items():
            picks = np.linspace(0, len(frames) - 1, min(len(frames), frames_a_video))
            shown += [(name, video, frames[round(pick)]) for pick in picks]
    thumbnails = [thumbnail(videos[video].frames[frame]) for _, video, frame in shown]
    best: dict[tuple[str, int, str, int], tuple[float, int, int]] = {}
    for first, second, value in near_identical(thumbnails, similarity):
        part, video, frame = shown[first]
        other_part, other_video, other_frame = shown[second]
        key = (part, video, other_part, other_video)
        value = round(value, 2)
        if part != other_part and value > best.get(key, (-1.0, 0, 0))[0]:
            best[key] = (value, frame, other_frame)
    return [
        f"{part} {videos[video].key} frame {frame} and {other_part} {videos[other].key} frame "
        f"{other_frame} are near-identical (similarity {value:.2f})"
        for (part, video, other_part, other), (value, frame, other_frame) in best.items()
    ]


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
    if not isinstance(document[name], Mapping):
        raise InputError(
            f"the split {name!r} is not a stored division (a list of frames for each recording); "
            "give the split.json of a run folder"
        )
    places = {video.key: index for index, video in enumerate(videos)}
    samples = []
    for key, frames in document[name].items():
        if key not in places:
            raise InputError(
                f"the split {name!r} names the recording {key!r}, which the data does not have; "
                "give the data the run was trained on, or use split 'all'"
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
