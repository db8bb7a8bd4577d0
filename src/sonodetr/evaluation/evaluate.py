"""Run a model over labelled data and say how good it is, and how sure that is."""

import os
import zlib
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sonodetr.bundled import model_folder
from sonodetr.contract import Interface
from sonodetr.data.clips import labelled_samples
from sonodetr.data.splits import select
from sonodetr.evaluation.instruments import Comparison, compare, instrument_figures
from sonodetr.evaluation.kept import Kept, write_kept
from sonodetr.evaluation.matches import Matches, match
from sonodetr.evaluation.metrics import (
    RECALL_THRESHOLDS,
    Curve,
    average_precisions,
    curve,
    figures,
    metrics_of,
)
from sonodetr.evaluation.plot import plot_precision_recall
from sonodetr.evaluation.statistics import CONFIDENCE, Weights, bootstrap_intervals
from sonodetr.files import InputError, write_json
from sonodetr.formats import read
from sonodetr.predictor import Predictor, Seen, load
from sonodetr.progress import progress_bar
from sonodetr.training.run import provenance, read_division
from sonodetr.types import Detections, Video, clip_indices, frame_at

RESAMPLES = 1000
FILES = ("evaluation.json", "precision_recall.png", "matches.npz")  # what it writes
SplitName = Literal["all", "train", "validation", "test"]
Place = tuple[int, int]  # index of the recording, index of the frame
Past = Literal["real", "frozen", "shuffled"]


def evaluate(
    model: str | os.PathLike[str],
    data_path: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    split: SplitName = "all",
    past: Past = "real",
    images: str = "",
    on_bad_label: Literal["error", "skip"] = "error",
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluate a model on labelled data.

    Writes `evaluation.json`, `precision_recall.png` and `matches.npz`, which holds what all figures
    are counted from (`kept.read_kept`).

    Args:
        model: run folder or exported folder.
        data_path: folder or annotation file in any format that is read.
        out: folder for the files.
        split: "all" labelled frames, or only a part of the division stored with the model.
        past: what a model of clips is shown as the frames before the labelled one: those before it
            ("real"), the labelled one itself ("frozen"), or those before it in another order
            ("shuffled"); how much worse that is tells what the model makes of time.
        images: folder of the pictures, where not beside the annotations.
        on_bad_label: stop at a label that cannot be used, or leave it out.
        seed: of the bootstrap and of the order of shuffled frames.

    Returns:
        What `evaluation.json` holds (docs/evaluation.md explains every figure).

    Raises:
        InputError: the model or the data cannot be used, the data has classes that the model does
            not know, the model stores no such split, or sees too few frames for `past`.
    """
    videos = read(data_path, images=images, on_bad_label=on_bad_label)
    predictor = load(model)
    _check_past(past, predictor.interface.clip_frames)
    division = read_division(model_folder(model))
    if split != "all" and division is None:
        raise InputError(f"{model}: stores no division of data (split.json); use split 'all'")
    frames = labelled_samples(videos) if split == "all" else select(videos, division or {}, split)
    detections = detect(predictor, videos, frames, past=past, seed=seed)
    threshold = predictor.threshold
    matches = match(videos, detections, frames)
    instruments = compare(videos, detections, frames, threshold)
    whole = curve(matches)
    curves = {name: curve(matches, label) for label, name in enumerate(matches.class_names)}
    result = {
        "model": os.fspath(model),
        "data": os.fspath(data_path),
        "split": split,
        "past": past,
        "threshold": threshold,
        "notes": _notes(videos, frames, division, past),
        "figures": metrics_of(matches).to_dict(),
        "instruments": None if instruments is None else instruments.to_dict(),
        "intervals": _intervals(videos, matches, instruments, threshold, seed),
        "recordings": _by_recording(videos, matches, instruments),
        "curves": {
            "recall": RECALL_THRESHOLDS.round(2).tolist(),
            "all": _interpolated(whole),
            "classes": {name: _interpolated(own) for name, own in curves.items()},
        },
        "provenance": provenance(seed),
    }
    folder = Path(out)
    title = f"{Path(model).name} on {Path(data_path).name}, {split} ({len(frames)} frames)"
    figures_file, plot, kept = (folder / name for name in FILES)
    used = whole.at_threshold(threshold)
    plot_precision_recall(plot, {"all classes": whole} | curves, used, title)
    write_kept(kept, kept_of(videos, frames, matches, instruments, threshold))
    write_json(figures_file, result)
    return result


def kept_of(
    videos: Sequence[Video],
    frames: Sequence[Place],
    matches: Matches,
    instruments: Comparison | None,
    threshold: float,
) -> Kept:
    """What any figure of compared frames can be counted from, with what a bootstrap draws."""
    unit_name, unit_of_frame = units_of(videos, matches.video)
    recording = np.array([videos[video].key for video, _ in frames])
    # A unit goes by the name of its first recording: no patient's name is written.
    first = np.unique(unit_of_frame, return_index=True)[1]
    return Kept(
        recording,
        np.array([frame for _, frame in frames], np.int64),
        recording[first][unit_of_frame],
        unit_name,
        threshold,
        matches,
        instruments,
    )


def _intervals(
    videos: Sequence[Video],
    matches: Matches,
    instruments: Comparison | None,
    threshold: float,
    seed: int,
) -> dict[str, Any]:
    """Every figure that gets an interval, all on the same draws."""
    unit, unit_of_frame = units_of(videos, matches.video)
    num_units = int(unit_of_frame.max()) + 1

    def drawn(weights: Weights) -> Mapping[str, np.ndarray]:
        weights = weights[:, unit_of_frame]
        of_instruments = {} if instruments is None else instrument_figures(instruments, weights)
        return figures(matches, weights, threshold) | of_instruments

    intervals = bootstrap_intervals(drawn, num_units, resamples=RESAMPLES, seed=seed)
    return {
        "confidence": CONFIDENCE,
        "unit": unit,
        "units": num_units,
        "resamples": RESAMPLES,
        "figures": {name: interval.to_dict() for name, interval in intervals.items()},
    }


def _interpolated(own: Curve) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 5) for value in own.interpolated()]


def check_classes(videos: Sequence[Video], frames: Sequence[Place], known: Sequence[str]) -> None:
    """Check that a model knows every class that is labelled in the frames.

    Raises:
        InputError: it does not.
    """
    used = {
        videos[video].classes[label]
        for video, frame in frames
        for label in videos[video].labels[frame].classes
    }
    if unknown := sorted(used - set(known)):
        raise InputError(
            f"the data has objects of class {', '.join(unknown)}, which the model does not know "
            f"(it knows {', '.join(known)}); rename the classes in the data, or train a model on it"
        )


def detect(
    predictor: Predictor,
    videos: Sequence[Video],
    frames: Sequence[Place],
    *,
    past: Past = "real",
    seed: int = 0,
) -> dict[tuple[str, int], Detections]:
    """Run a model over labelled frames, with a progress bar; for `match`.

    Every frame ends a clip of its own recording, whether the frames before it are labelled or not.

    Args:
        past: see `evaluate`.
        seed: of the order of shuffled frames.

    Raises:
        InputError: the data has objects of a class that the model does not know.
    """
    check_classes(videos, frames, predictor.class_names)
    detections = {}
    with progress_bar("evaluate", len(frames), "frames") as advance:
        for index, places in groupby(frames, key=lambda place: place[0]):
            video = predictor.with_region(videos[index])
            seeds = (seed, zlib.crc32(video.key.encode()))
            seen: dict[int, Seen] = {}
            for _, frame in places:
                clip = _clip(frame, predictor.interface, past, seeds)
                # Clips overlap: what the next ones may need is kept.
                seen = {number: one for number, one in seen.items() if min(clip) <= number}
                for number in sorted(set(clip) - seen.keys()):
                    seen[number] = predictor.see(frame_at(video, number))
                # All detections, whatever their score: AP takes no threshold.
                detections[video.key, frame] = predictor.detect([seen[number] for number in clip])
                advance()
    return detections


def _clip(frame: int, interface: Interface, past: Past, seeds: tuple[int, ...]) -> list[int]:
    """Numbers of the frames to show, the labelled one last."""
    *before, now = clip_indices(frame, interface.clip_frames, interface.clip_step)
    if past == "frozen":
        before = [now] * len(before)
    elif past == "shuffled" and len(set(before)) > 1:
        random, real = np.random.default_rng((*seeds, frame)), before
        while before == real:
            before = random.permutation(real).tolist()
    return [*before, now]


def _check_past(past: Past, clip_frames: int) -> None:
    least = {"real": 1, "frozen": 2, "shuffled": 3}[past]
    if clip_frames < least:
        raise InputError(
            f"--past {past} needs a model of clips of at least {least} frames, but this one sees "
            f"{clip_frames}; use --past real"
        )


def units_of(videos: Sequence[Video], video_of_frame: np.ndarray) -> tuple[str, np.ndarray]:
    """What is drawn in the bootstrap, and its number for each frame.

    Recordings of one patient look alike, as frames of one recording do: they are drawn together.
    """
    used = [videos[index] for index in video_of_frame]
    names = [video.key if video.patient is None else f"patient {video.patient}" for video in used]
    if any(video.patient is not None for video in used):
        unit = "patient"
    else:
        unit = "image" if all(len(video) == 1 for video in used) else "recording"
    return unit, np.unique(names, return_inverse=True)[1]


def _by_recording(
    videos: Sequence[Video], matches: Matches, instruments: Comparison | None
) -> list[dict[str, Any]]:
    used = np.unique(matches.video)
    one_each = (matches.video == used[:, None]).astype(np.int64)
    of_instruments = {} if instruments is None else instrument_figures(instruments, one_each)
    rows = []
    for row, index in enumerate(used):
        part = matches.only(matches.video == index)
        ap = average_precisions(part)
        rows.append(
            {
                "key": videos[index].key,
                "frames": len(part.video),
                "objects": int(part.objects.sum()),
                "ap": _defined(ap["ap"][0]),
                "ap50": _defined(ap["ap50"][0]),
                **{name: _defined(values[row]) for name, values in of_instruments.items()},
            }
        )
    return rows


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _notes(
    videos: Sequence[Video],
    frames: Sequence[Place],
    division: dict[str, dict[str, list[int]]] | None,
    past: Past = "real",
) -> list[str]:
    """What a reader of the figures must know about the frames they were taken on."""
    notes = [] if past == "real" else [f"the past frames that the model was shown are {past}"]
    if division is None:
        return notes
    trained = division["train"]
    seen = sum(frame in trained.get(videos[video].key, ()) for video, frame in frames)
    beside = {videos[video].key for video, _ in frames} & set(trained)
    if seen:
        notes.append(
            f"{seen} of the {len(frames)} frames carry the names of frames the model was trained on"
        )
    elif beside:
        notes.append(
            "the model was trained on other frames of the same recordings: this is a within-video "
            "split and no test of generalisation to new recordings or patients"
        )
    return notes
