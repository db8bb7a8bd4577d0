"""Line-like instruments (needles) in labelled frames: where tip and line are, and since when.

The box of a needle says little: two needles that lie level a few pixels apart have boxes that do
not meet, and two that cross at a right angle may have the same box. What guides a hand is the tip,
the angle of the shaft, how soon both are found and how steadily they are shown.

As in `metrics`, labels and detections are compared once (`compare`); every figure is then a count
over the result, in which each frame has a weight. docs/evaluation.md defines the figures.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from sonodetr.evaluation.statistics import Weights, weighted_percentiles
from sonodetr.geometry import box_iou, line_angles_deg
from sonodetr.types import Detections, Labels, Video

TIP_WITHIN_MM = 3.0
# Boxes are taken at least this wide for their length, so that those of level needles can meet.
LEAST_ASPECT = 0.25


class Sightings(NamedTuple):
    """Labelled instruments, one row for each frame that shows it.

    Attributes:
        frame: number of the evaluated frame.
        label: index into `Comparison.class_names`.
        detected: a detection belongs to it.
        tip_known: its tip is labelled, lies in the picture, and can be measured in `tip_unit`.
        tip_error: distance of the tips; NaN where not detected or not known.
        angle_error_deg: angle between the lines, 0 to 90; NaN where not detected or not known.
    """

    frame: Int64[np.ndarray, " n"]
    label: Int64[np.ndarray, " n"]
    detected: Bool[np.ndarray, " n"]
    tip_known: Bool[np.ndarray, " n"]
    tip_error: Float64[np.ndarray, " n"]
    angle_error_deg: Float64[np.ndarray, " n"]


class Arrivals(NamedTuple):
    """Instruments, one row for each recording that shows it; stills are left out.

    Attributes:
        frame: number of the first evaluated frame that shows it.
        label: index into `Comparison.class_names`.
        delay_s: seconds from there to the first frame in which it is detected; infinite if it never
            is, NaN where the recording names no times.
    """

    frame: Int64[np.ndarray, " n"]
    label: Int64[np.ndarray, " n"]
    delay_s: Float64[np.ndarray, " n"]


class Steps(NamedTuple):
    """Pairs of neighbouring labelled frames, one row for each instrument that both show.

    Attributes:
        frame: number of the first of the two.
        label: index into `Comparison.class_names`.
        seconds: from the first to the second.
        changed: the instrument is detected in one of them only.
    """

    frame: Int64[np.ndarray, " n"]
    label: Int64[np.ndarray, " n"]
    seconds: Float64[np.ndarray, " n"]
    changed: Bool[np.ndarray, " n"]


@dataclass(frozen=True)
class Comparison:
    """Labelled instruments against detections.

    Attributes:
        class_names: the classes that are instruments: those with a labelled tip.
        tip_unit: "mm", or "px" where no recording with instruments has a pixel spacing.
        no_spacing: number of recordings with instruments, but without a pixel spacing.
        sightings, arrivals, steps: what is counted.
        empty: `[frames, classes]` the frame is labelled and shows nothing of the class.
        shown: `[frames, classes]` number of detections, right or wrong.
    """

    class_names: tuple[str, ...]
    tip_unit: str
    no_spacing: int
    sightings: Sightings
    arrivals: Arrivals
    steps: Steps
    empty: Bool[np.ndarray, "frames classes"]
    shown: Int64[np.ndarray, "frames classes"]

    def only(self, label: int) -> "Comparison":
        """The same for one of the classes."""
        return replace(
            self,
            class_names=(self.class_names[label],),
            sightings=_rows(self.sightings, label),
            arrivals=_rows(self.arrivals, label),
            steps=_rows(self.steps, label),
            empty=self.empty[:, [label]],
            shown=self.shown[:, [label]],
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: how much the figures rest on."""
        classes = {name: self.only(label).counts() for label, name in enumerate(self.class_names)}
        return {
            "tip_unit": self.tip_unit,
            "recordings_without_spacing": self.no_spacing,
            "all": self.counts(),
            "classes": classes,
        }

    def counts(self) -> dict[str, int]:
        """Number of the things that the figures are counted from."""
        return {
            "objects": len(self.sightings.frame),
            "tips": int(self.sightings.tip_known.sum()),
            "instruments": len(self.arrivals.frame),
            "never_detected": int(np.isinf(self.arrivals.delay_s).sum()),
            "pairs": len(self.steps.frame),
            "empty_frames": int(self.empty.all(1).sum()),
        }


Table = TypeVar("Table", Sightings, Arrivals, Steps)


def _rows(table: Table, label: int) -> Table:
    """The rows of one class, which becomes class 0."""
    columns = {name: column[table.label == label] for name, column in table._asdict().items()}
    return type(table)(**columns | {"label": np.zeros_like(columns["label"])})


def instrument_figures(
    found: Comparison, weights: Weights
) -> dict[str, Float64[np.ndarray, " resamples"]]:
    """Every figure for each row of frame weights; of all classes, and of each as `FIGURE/NAME`.

    NaN where undefined. The frames of a recording must have one weight.
    """
    result = _figures(found, weights)
    for label, name in enumerate(found.class_names):
        own = _figures(found.only(label), weights)
        result |= {f"{figure}/{name}": value for figure, value in own.items()}
    return result


def _figures(found: Comparison, weights: Weights) -> dict[str, Float64[np.ndarray, " resamples"]]:
    seen, arrivals, steps = found.sightings, found.arrivals, found.steps

    def total(frame: np.ndarray, amount: np.ndarray) -> np.ndarray:
        return weights @ np.bincount(frame, amount, minlength=weights.shape[1])

    def ratio(frame: np.ndarray, part: np.ndarray, whole: np.ndarray | None = None) -> np.ndarray:
        """Sum of `part` over that of `whole`, or over the number of rows."""
        below = total(frame, np.ones(len(frame)) if whole is None else whole)
        return np.where(below > 0, total(frame, part) / np.where(below > 0, below, 1), np.nan)

    def percentiles(frame: np.ndarray, values: np.ndarray) -> np.ndarray:
        return weighted_percentiles(values, frame, weights, (50.0, 95.0))

    unit = found.tip_unit
    tip = percentiles(seen.frame, seen.tip_error)
    angle = percentiles(seen.frame, seen.angle_error_deg)
    known = np.flatnonzero(seen.tip_known if unit == "mm" else [])
    empty = np.flatnonzero(found.empty.all(1))
    return {
        f"tip_error_median_{unit}": tip[0],
        f"tip_error_p95_{unit}": tip[1],
        # A tip that was not detected has no error, which is not below anything.
        "tip_within_3_mm": ratio(seen.frame[known], seen.tip_error[known] <= TIP_WITHIN_MM),
        "angle_error_median_deg": angle[0],
        "angle_error_p95_deg": angle[1],
        "detected": ratio(seen.frame, seen.detected),
        "first_detection_median_s": percentiles(arrivals.frame, arrivals.delay_s)[0],
        "never_detected": ratio(arrivals.frame, np.isinf(arrivals.delay_s)),
        "flicker_per_s": ratio(steps.frame, steps.changed, steps.seconds),
        "false_detections_per_empty_frame": ratio(empty, found.shown[empty].sum(1)),
    }


class _Instrument(NamedTuple):
    """Without track ids, the instruments of one class in a recording are taken as one."""

    video: int
    label: int
    track_id: int


class _Seen(NamedTuple):
    """An instrument in one frame, and the points of the detection that belongs to it, if any."""

    number: int
    instrument: _Instrument
    labelled_px: Float32[np.ndarray, "2 2"]
    detected_px: Float32[np.ndarray, "2 2"] | None


def compare(
    videos: Sequence[Video],
    detections: Mapping[tuple[str, int], Detections],
    frames: Sequence[tuple[int, int]],
    threshold: float,
) -> Comparison | None:
    """Find the detection of every labelled instrument.

    In a frame with k labelled instruments of a class, the k best detections of the class with
    `score >= threshold` are looked at, best first. Each belongs to the free instrument that its box
    overlaps most, or to none where there is no overlap; boxes are taken at least `LEAST_ASPECT` as
    wide as long. A crowd region is no instrument, but a frame with one is not empty either.

    Args:
        videos: recordings with labels; all have the same classes.
        detections: (video key, frame index) -> detections, for every frame to evaluate.
        frames: (video index, frame index) to evaluate.
        threshold: least score.

    Returns:
        None where there is nothing to compare: no labelled tip, or detections without points.
    """
    if any(detections[videos[video].key, frame].points_px is None for video, frame in frames):
        return None
    tips = {label for v, f in frames for label in _with_tips(videos[v].labels[f])}
    if not tips:
        return None
    classes = {videos[frames[0][0]].classes[label]: label for label in sorted(tips)}
    empty = np.zeros((len(frames), len(classes)), bool)
    shown = np.zeros((len(frames), len(classes)), np.int64)
    seen: list[_Seen] = []
    for number, (video, frame) in enumerate(frames):
        labels = videos[video].labels[frame]
        found = detections[videos[video].key, frame].above(threshold)
        for row, (name, label) in enumerate(classes.items()):
            index = found.class_names.index(name) if name in found.class_names else -1
            own = found.select(found.classes == index)
            empty[number, row] = not (labels.classes == label).any()
            shown[number, row] = len(own)
            seen += [
                _Seen(number, _Instrument(video, row, track_id), labelled_px, detected_px)
                for track_id, labelled_px, detected_px in _partners(labels, label, own)
            ]
    spacings = [videos[index].spacing_mm for index in {one.instrument.video for one in seen}]
    unit = "mm" if any(spacings) else "px"
    arrivals, steps = _follow(videos, frames, seen)
    return Comparison(
        class_names=tuple(classes),
        tip_unit=unit,
        no_spacing=spacings.count(None),
        sightings=_measure(videos, seen, unit),
        arrivals=arrivals,
        steps=steps,
        empty=empty,
        shown=shown,
    )


def _with_tips(labels: Labels) -> list[int]:
    """Classes of the objects whose tip is labelled."""
    known = np.isfinite(labels.points_px[:, 0]).all(-1) & ~labels.crowd
    return np.unique(labels.classes[known]).tolist()


def _partners(
    labels: Labels, label: int, found: Detections
) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """Track id and points of each labelled instrument of a class, and the points found for it."""
    rows = np.flatnonzero((labels.classes == label) & ~labels.crowd)
    best = min(len(rows), len(found))
    overlap = box_iou(_thick(found.boxes_xyxy_px[:best]), _thick(labels.boxes_xyxy_px[rows]))
    partner: dict[int, int] = {}
    for row in range(best):
        free = int(overlap[row].argmax())
        if overlap[row, free] > 0:
            partner[free] = row
            overlap[:, free] = 0
    assert found.points_px is not None
    for place, object_row in enumerate(rows):
        points_px = found.points_px[partner[place]] if place in partner else None
        yield int(labels.track_ids[object_row]), labels.points_px[object_row], points_px


def _thick(boxes_xyxy_px: Float32[np.ndarray, "n 4"]) -> Float32[np.ndarray, "n 4"]:
    """The boxes, none thinner than `LEAST_ASPECT` of its length."""
    low, high = boxes_xyxy_px[:, :2], boxes_xyxy_px[:, 2:]
    least = LEAST_ASPECT * (high - low).max(1, keepdims=True)
    more = np.maximum(least - (high - low), 0) / 2
    return np.concatenate((low - more, high + more), 1).astype(np.float32)


def _measure(videos: Sequence[Video], seen: Sequence[_Seen], unit: str) -> Sightings:
    unknown = np.full((2, 2), np.nan)
    labelled = np.stack([one.labelled_px for one in seen]).astype(np.float64)
    given = np.stack([unknown if one.detected_px is None else one.detected_px for one in seen])
    shown = [videos[one.instrument.video] for one in seen]
    # What lies outside the picture cannot be found; a line that goes on there still has its angle.
    size = np.array([video.frames.size[::-1] for video in shown])
    inside = (labelled[:, 0] >= 0).all(-1) & (labelled[:, 0] <= size).all(-1)
    mm = np.full((len(seen), 2), np.nan)
    for row, video in enumerate(shown):
        if video.spacing_mm is not None:
            mm[row] = video.spacing_mm.x_mm, video.spacing_mm.y_mm
    scale = np.ones_like(mm) if unit == "px" else mm
    # A tip that is NaN is not inside either.
    tip_known = np.asarray(np.isfinite(scale).all(-1) & inside)
    tip_error = np.linalg.norm((given[:, 0] - labelled[:, 0]) * scale, axis=-1)
    square = np.where(np.isnan(mm), 1.0, mm)[:, None]
    return Sightings(
        np.array([one.number for one in seen]),
        np.array([one.instrument.label for one in seen]),
        np.array([one.detected_px is not None for one in seen]),
        tip_known,
        np.where(tip_known, tip_error, np.nan),
        line_angles_deg(given * square, labelled * square),
    )


def _follow(
    videos: Sequence[Video], frames: Sequence[tuple[int, int]], seen: Sequence[_Seen]
) -> tuple[Arrivals, Steps]:
    """When each instrument is first detected, and where its detection comes and goes."""
    # Instrument -> index of the frame -> number of the frame, and whether it is detected there.
    tracks: dict[_Instrument, dict[int, tuple[int, bool]]] = defaultdict(dict)
    for one in seen:
        track, frame = tracks[one.instrument], frames[one.number][1]
        before = frame in track and track[frame][1]
        track[frame] = one.number, before or one.detected_px is not None
    arrivals: list[tuple[int, int, float]] = []
    steps: list[tuple[int, int, float, bool]] = []
    for (index, label, _), track in tracks.items():
        video = videos[index]
        if len(video) == 1:
            continue
        hits = [frame for frame, (_, detected) in track.items() if detected]
        delay_s = video.times_s[min(hits)] - video.times_s[min(track)] if hits else np.inf
        timed = video.frame_rate_hz is not None
        arrivals.append((track[min(track)][0], label, delay_s if timed or not hits else np.nan))
        for first, second in pairwise(sorted(video.labels) if timed else ()):
            if first in track and second in track:
                seconds = video.times_s[second] - video.times_s[first]
                changed = track[first][1] != track[second][1]
                steps.append((track[first][0], label, seconds, changed))
    return (
        Arrivals(*_columns(arrivals, (np.int64, np.int64, np.float64))),
        Steps(*_columns(steps, (np.int64, np.int64, np.float64, np.bool_))),
    )


def _columns(rows: Sequence[tuple], types: Sequence[type]) -> list[np.ndarray]:
    return [np.array([row[k] for row in rows], kind) for k, kind in enumerate(types)]
