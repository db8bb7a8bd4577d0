"""COCO average precision and operating points of detections, over labelled frames only.

Detections are compared with the labels once (`match`, by hotcoco); every figure is then a count
over those `Matches`. A weight per frame (1, or how often a bootstrap drew it) goes into the same
counts, so a figure and its interval come from one implementation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from sonodetr.files import InputError
from sonodetr.types import Detections, Video

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0, 1, 101)
MOST_DETECTIONS = 100  # a frame, the best ones by score
AT_RECALL = (0.8, 0.9)


@dataclass(frozen=True)
class Matches:
    """Which detection found which object, for every IoU threshold 0.50:0.05:0.95.

    Attributes:
        class_names: the classes of the data.
        video: `[frames]` index of the recording each evaluated frame belongs to.
        objects: `[frames, classes]` number of labelled objects, without crowd regions.
        frame: `[N]` frame of each detection, best score first (ties in frame order).
        label: `[N]` class of each detection.
        scores: `[N]` never increasing.
        found: `[10, N]` the detection is the one that found an object.
        ignored: `[10, N]` the detection lies on a crowd region: neither right nor wrong.
        by_size: AP of objects under 32², up to 96² and over 96² pixels, and AR at 1, 10 and 100
            detections a class and frame, NaN where undefined.
    """

    class_names: tuple[str, ...]
    video: Int64[np.ndarray, " frames"]
    objects: Int64[np.ndarray, "frames classes"]
    frame: Int64[np.ndarray, " n"]
    label: Int64[np.ndarray, " n"]
    scores: Float64[np.ndarray, " n"]
    found: Bool[np.ndarray, "10 n"]
    ignored: Bool[np.ndarray, "10 n"]
    by_size: dict[str, float]


def labelled_frames(videos: Sequence[Video]) -> list[tuple[int, int]]:
    """(video index, frame index) of every labelled frame, in order."""
    return [(v, f) for v, video in enumerate(videos) for f in sorted(video.labels)]


def match(
    videos: Sequence[Video],
    detections: Mapping[tuple[str, int], Detections],
    frames: Sequence[tuple[int, int]] | None = None,
) -> Matches:
    """Compare detections with labels, as COCO does: greedily, best score first, class by class.

    Classes are paired by name; detections of a class the data does not name are left out.

    Args:
        videos: recordings with labels; all have the same classes.
        detections: (video key, frame index) -> detections; needed for every evaluated frame.
        frames: (video index, frame index) to evaluate; None is all labelled frames.

    Raises:
        InputError: there is no labelled frame.
        ValueError: a frame has no labels or no entry in `detections`, or a score or box is not
            finite.
    """
    frames = labelled_frames(videos) if frames is None else list(frames)
    if not frames:
        raise InputError("no labelled frame to evaluate on; check the data's labels and the split")
    class_names = videos[frames[0][0]].classes
    truth, found_rows = [], []
    for number, (video_index, frame_index) in enumerate(frames):
        video = videos[video_index]
        place = (video.key, frame_index)
        if frame_index not in video.labels or place not in detections:
            lacking = "labels" if frame_index not in video.labels else "detections"
            raise ValueError(f"{video.key}, frame {frame_index}: no {lacking}")
        labels = video.labels[frame_index]
        truth.append(_rows(number, labels.boxes_xyxy_px, labels.crowd, labels.classes))
        given = detections[place]
        index = {name: row for row, name in enumerate(class_names)}
        classes = np.array([index.get(name, -1) for name in given.class_names], np.int64)
        rows = _rows(number, given.boxes_xyxy_px, given.scores, classes[given.classes])
        found_rows.append(_best(rows[rows[:, 6] >= 0]))
    return _compare(
        class_names, [v for v, _ in frames], np.concatenate(truth), np.concatenate(found_rows)
    )


def _rows(number: int, boxes_xyxy_px: Any, value: Any, classes: Any) -> np.ndarray:
    """COCO's flat form: `[N, 7]` frame, left, top, width, height, score or crowd, class."""
    rows = np.empty((len(boxes_xyxy_px), 7))
    rows[:, 0], rows[:, 1:5], rows[:, 5], rows[:, 6] = number, boxes_xyxy_px, value, classes
    rows[:, 3:5] -= rows[:, 1:3]
    return rows


def _best(rows: np.ndarray) -> np.ndarray:
    if not np.isfinite(rows).all():
        raise ValueError("a detection's box or score is not finite; has the training diverged?")
    return rows[np.argsort(-rows[:, 5], kind="stable")[:MOST_DETECTIONS]]


def _compare(
    class_names: tuple[str, ...], video: list[int], truth: np.ndarray, detections: np.ndarray
) -> Matches:
    import hotcoco

    detections = detections[np.argsort(-detections[:, 5], kind="stable")]
    # Numbers start at 1: COCO reads a match with object 0 as none.
    images = [{"id": number + 1, "width": 0, "height": 0} for number in range(len(video))]
    categories = [{"id": row + 1, "name": name} for row, name in enumerate(class_names)]
    truth_frame, truth_label = truth[:, 0].astype(np.int64), truth[:, 6].astype(np.int64)
    crowd = truth[:, 5] > 0
    labels = hotcoco.COCO.from_arrays(
        images,
        categories,
        truth_frame + 1,
        truth_label + 1,
        np.ascontiguousarray(truth[:, 1:5]),
        area=truth[:, 3] * truth[:, 4],
        iscrowd=crowd,
    )
    found = np.zeros((len(IOU_THRESHOLDS), len(detections)), bool)
    ignored = np.zeros_like(found)
    from_one = np.array([1, 0, 0, 0, 0, 0, 1])
    coco = hotcoco.COCOeval(labels, labels.loadRes(detections + from_one), "bbox")
    coco.evaluate()
    coco.accumulate()
    coco.summary_lines()
    names = ("ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100")
    by_size = {
        n: float(v) if v >= 0 else np.nan for n, v in zip(names, coco.stats[3:9], strict=True)
    }
    # Again without the size classes: reading four times the matches would take four times as long.
    coco.params.areaRng, coco.params.areaRngLbl = [[0, 1e10]], ["all"]
    coco.evaluate()
    for pair in coco.eval_imgs:
        if pair is not None and pair["gtIds"] and pair["dtIds"]:
            rows = np.array(pair["dtIds"]) - 1
            ignored[:, rows] = pair["dtIgnore"]
            found[:, rows] = np.array(pair["dtMatched"], bool) & ~ignored[:, rows]
    objects = np.zeros((len(video), len(class_names)), np.int64)
    np.add.at(objects, (truth_frame[~crowd], truth_label[~crowd]), 1)
    return Matches(
        class_names,
        np.array(video, np.int64),
        objects,
        detections[:, 0].astype(np.int64),
        detections[:, 6].astype(np.int64),
        detections[:, 5],
        found,
        ignored,
        by_size,
    )


def average_precision(
    matches: Matches, weights: Shaped[np.ndarray, "resamples frames"] | None = None
) -> Float64[np.ndarray, "resamples classes 10"]:
    """COCO's 101-point interpolated average precision for each class and IoU threshold.

    AP = mean over r = 0, 0.01 ... 1 of the highest precision at any recall >= r (Lin et al.,
    "Microsoft COCO", 2014), NaN for a class without objects.

    Args:
        matches: what `match` returns.
        weights: how often each frame counts, one row a resample; None counts every frame once.
    """
    if weights is None:
        weights = np.ones((1, len(matches.video)), np.int64)
    result = np.full((len(weights), len(matches.class_names), len(IOU_THRESHOLDS)), np.nan)
    for label in range(len(matches.class_names)):
        rows = np.flatnonzero(matches.label == label)
        total = weights @ matches.objects[:, label]
        chunk = max(1, 4_000_000 // max(1, len(rows)))  # keeps the arrays below some 100 MB
        for start in range(0, len(weights), chunk):
            part = slice(start, start + chunk)
            counts = weights[part].T[matches.frame[rows]]
            seen = np.cumsum(counts, 0)
            for threshold in range(len(IOU_THRESHOLDS)):
                hits = np.flatnonzero(matches.found[threshold, rows])
                crowded = np.flatnonzero(matches.ignored[threshold, rows])
                ahead = np.cumsum(counts[crowded], 0)
                before = np.searchsorted(crowded, hits)
                judged = seen[hits]
                judged[before > 0] -= ahead[before[before > 0] - 1]
                right = np.cumsum(counts[hits], 0)
                result[part, label, threshold] = _interpolated(right, judged, total[part])
    return result


def _interpolated(right: np.ndarray, judged: np.ndarray, total: np.ndarray) -> np.ndarray:
    """101-point AP of each resample.

    Precision is highest where a detection has just found an object, so only those rows matter.

    Args:
        right: `[hits, resamples]` objects found up to and with each such detection.
        judged: `[hits, resamples]` detections up to it, right or wrong.
        total: `[resamples]` objects there are.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(judged > 0, right / judged, 0.0)
        recall = right / total
    best = np.maximum.accumulate(precision[::-1], 0)[::-1]
    # How many of the 101 recalls are reached up to each row, and so how many take its precision.
    reached = np.searchsorted(RECALL_THRESHOLDS, recall, side="right")
    steps = np.diff(reached, axis=0, prepend=0)
    return np.where(total > 0, (best * steps).sum(0) / len(RECALL_THRESHOLDS), np.nan)


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold gives at IoU 0.5: detections with `score >= threshold` are kept."""

    threshold: float
    precision: float
    recall: float
    false_positives_per_frame: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


@dataclass(frozen=True)
class Curve:
    """Every operating point at IoU 0.5, one a distinct score, from the strictest on.

    Attributes:
        thresholds: `[N]` falling scores.
        found: `[N]` objects found at `score >= threshold`.
        wrong: `[N]` false positives there.
        objects: number of objects there are.
        frames: number of frames.
    """

    thresholds: Float64[np.ndarray, " n"]
    found: Int64[np.ndarray, " n"]
    wrong: Int64[np.ndarray, " n"]
    objects: int
    frames: int

    @property
    def precision(self) -> Float64[np.ndarray, " n"]:
        """Share of the detections that found an object; 1 where there is no judged detection."""
        judged = self.found + self.wrong
        return np.where(judged > 0, self.found / np.maximum(judged, 1), 1.0)

    @property
    def recall(self) -> Float64[np.ndarray, " n"]:
        """Share of the objects that were found; NaN without objects."""
        return self.found / self.objects if self.objects else np.full(len(self.found), np.nan)

    def at_recall(self, recall: float) -> OperatingPoint | None:
        """The strictest threshold that reaches `recall`, or None if none does."""
        reached = np.flatnonzero(self.recall >= recall)
        return self._point(reached[0]) if len(reached) else None

    def at_threshold(self, threshold: float) -> OperatingPoint | None:
        """What `score >= threshold` gives; None without objects."""
        if not self.objects:
            return None
        kept = np.flatnonzero(self.thresholds >= threshold)
        if not len(kept):
            return OperatingPoint(threshold, 1.0, 0.0, 0.0)
        return replace(self._point(kept[-1]), threshold=threshold)

    def best_f1(self) -> OperatingPoint | None:
        """The point of highest F1, the strictest of equals; None if no object is ever found."""
        if not self.objects or not self.found.any():
            return None
        return self._point(np.argmax(2 * self.found / (self.found + self.wrong + self.objects)))

    def _point(self, row: Any) -> OperatingPoint:
        return OperatingPoint(
            float(self.thresholds[row]),
            float(self.precision[row]),
            float(self.recall[row]),
            float(self.wrong[row] / self.frames),
        )


def curve(matches: Matches, label: int | None = None) -> Curve:
    """Precision and recall over the threshold for one class, or for all classes pooled (None)."""
    rows = ~matches.ignored[0]
    if label is not None:
        rows &= matches.label == label
    scores, found = matches.scores[rows], matches.found[0, rows]
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # equal scores are kept or left together
    objects = matches.objects if label is None else matches.objects[:, label]
    return Curve(
        scores[last],
        np.cumsum(found)[last],
        np.cumsum(~found)[last],
        int(objects.sum()),
        len(matches.video),
    )


def best_threshold(matches: Matches) -> float | None:
    """The score with the best F1 at IoU 0.5, all classes pooled; for validation data only.

    None if no object is found at any score. Keep detections with `score >= threshold`.
    """
    point = curve(matches).best_f1()
    return None if point is None else point.threshold


@dataclass(frozen=True)
class ClassMetrics:
    """Figures of one class; NaN or None where it has no objects or a recall is not reached."""

    objects: int
    ap: float
    ap50: float
    at_recall: dict[float, OperatingPoint | None]
    best_f1: OperatingPoint | None


@dataclass(frozen=True)
class Metrics:
    """Figures of one set of detections; docs/evaluation.md says how each is counted.

    Attributes:
        frames: labelled frames, those known to be empty included.
        objects: labelled objects without crowd regions.
        ap, ap50, ap75: COCO AP at IoU 0.50:0.95, 0.50, 0.75, mean over the classes with objects.
        ar1, ar10, ar100: mean recall over IoU 0.50:0.95 with so many detections a class and frame.
        ap_small, ap_medium, ap_large: AP of objects under 32², up to 96² and over 96² pixels.
        at_recall: recall -> strictest operating point that reaches it, all classes pooled.
        best_f1: operating point of the highest F1, all classes pooled.
        classes: class name -> its own figures.
    """

    frames: int
    objects: int
    ap: float
    ap50: float
    ap75: float
    ar1: float
    ar10: float
    ar100: float
    ap_small: float
    ap_medium: float
    ap_large: float
    at_recall: dict[float, OperatingPoint | None]
    best_f1: OperatingPoint | None
    classes: dict[str, ClassMetrics]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is undefined is None."""
        return _plain(asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


def metrics_of(matches: Matches) -> Metrics:
    """All figures of `matches`, every frame counted once."""
    ap = average_precision(matches)[0]
    whole = curve(matches)
    classes = {}
    for label, name in enumerate(matches.class_names):
        own = curve(matches, label)
        classes[name] = ClassMetrics(
            own.objects,
            float(ap[label].mean()),
            float(ap[label, 0]),
            {recall: own.at_recall(recall) for recall in AT_RECALL},
            own.best_f1(),
        )
    mean = ap[~np.isnan(ap[:, 0])].mean(0) if whole.objects else np.full(10, np.nan)
    return Metrics(
        frames=whole.frames,
        objects=whole.objects,
        ap=float(mean.mean()),
        ap50=float(mean[0]),
        ap75=float(mean[5]),
        **matches.by_size,
        at_recall={recall: whole.at_recall(recall) for recall in AT_RECALL},
        best_f1=whole.best_f1(),
        classes=classes,
    )


def evaluate_detections(
    videos: Sequence[Video],
    detections: Mapping[tuple[str, int], Detections],
    frames: Sequence[tuple[int, int]] | None = None,
) -> Metrics:
    """COCO figures and operating points of `detections` (arguments and errors: see `match`)."""
    return metrics_of(match(videos, detections, frames))
