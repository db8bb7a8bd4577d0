"""COCO average precision and operating points of detections, over labelled frames only.

Detections are compared with the labels once (`match`); every figure is then a count over those
`Matches`. A weight per frame (1, or how often a bootstrap drew it) goes into the same counts, so a
figure and its interval come from one implementation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from sonodetr.evaluation.matches import IOU_THRESHOLDS, Matches, match
from sonodetr.types import Detections, Video

RECALL_THRESHOLDS = np.linspace(0, 1, 101)
AT_RECALL = (0.8, 0.9)
# Name of a figure -> the IoU thresholds it is the mean of.
AVERAGE_PRECISIONS = {"ap": slice(0, 10), "ap50": slice(0, 1), "ap75": slice(5, 6)}


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

    def interpolated(self) -> Float64[np.ndarray, " 101"]:
        """Highest precision at recalls >= 0, 0.01 ... 1: 0 if not reached, NaN without objects."""
        if not self.objects:
            return np.full(len(RECALL_THRESHOLDS), np.nan)
        best = np.append(np.maximum.accumulate(self.precision[::-1])[::-1], 0.0)
        return best[np.searchsorted(self.recall, RECALL_THRESHOLDS)]

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


def curve(
    matches: Matches, label: int | None = None, weights: Int64[np.ndarray, " frames"] | None = None
) -> Curve:
    """Precision and recall over the threshold for one class, or for all classes pooled (None).

    `weights` says how often each frame counts; None counts every frame once.
    """
    if weights is None:
        weights = np.ones(len(matches.video), np.int64)
    rows = ~matches.ignored[0]
    if label is not None:
        rows &= matches.label == label
    scores, found, counts = (
        matches.scores[rows],
        matches.found[0, rows],
        weights[matches.frame[rows]],
    )
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # equal scores are kept or left together
    objects = matches.objects.sum(1) if label is None else matches.objects[:, label]
    return Curve(
        scores[last],
        np.cumsum(counts * found)[last],
        np.cumsum(counts * ~found)[last],
        int(weights @ objects),
        int(weights.sum()),
    )


def average_precisions(
    matches: Matches, weights: Shaped[np.ndarray, "resamples frames"] | None = None
) -> dict[str, Float64[np.ndarray, " resamples"]]:
    """`ap`, `ap50` and `ap75`, the mean over classes with objects, and of each class as `ap/NAME`.

    NaN where undefined; for `weights` see `average_precision`.
    """
    ap = average_precision(matches, weights)
    result = {}
    for figure, thresholds in AVERAGE_PRECISIONS.items():
        by_class = ap[:, :, thresholds].mean(2)
        result[figure] = _mean_defined(by_class)
        for label, name in enumerate(matches.class_names):
            result[f"{figure}/{name}"] = by_class[:, label]
    return result


def figures(
    matches: Matches, weights: Int64[np.ndarray, "resamples frames"], threshold: float | None = None
) -> dict[str, Float64[np.ndarray, " resamples"]]:
    """The figures that get an interval, for each row of frame weights; NaN where undefined.

    Besides `average_precisions`, for all classes pooled at IoU 0.5: `precision@0.8` and
    `false_positives_per_frame@0.8` at recall 0.8 (and 0.9) and, with a threshold, `recall`,
    `precision` and `false_positives_per_frame` there.
    """
    result = average_precisions(matches, weights)
    curves = [curve(matches, weights=row) for row in weights]
    points = {f"@{recall}": [c.at_recall(recall) for c in curves] for recall in AT_RECALL}
    if threshold is not None:
        points[""] = [c.at_threshold(threshold) for c in curves]
        result["recall"] = _column(points[""], "recall")
    for where, column in points.items():
        for figure in ("precision", "false_positives_per_frame"):
            result[figure + where] = _column(column, figure)
    return result


def _column(points: Sequence["OperatingPoint | None"], figure: str) -> np.ndarray:
    return np.array([np.nan if point is None else getattr(point, figure) for point in points])


def _mean_defined(by_class: Float64[np.ndarray, "resamples classes"]) -> np.ndarray:
    """Mean over the classes that have objects, NaN where none has."""
    defined = ~np.isnan(by_class)
    count = defined.sum(1)
    mean = np.where(defined, by_class, 0).sum(1) / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan)


def best_threshold(matches: Matches) -> float | None:
    """The score with the best F1 at IoU 0.5, all classes pooled; for validation data only.

    None if no object is found at any score. Keep detections with `score >= threshold`.
    """
    point = curve(matches).best_f1()
    return None if point is None else point.threshold


@dataclass(frozen=True)
class ClassMetrics:
    """Figures of one class; None where it has no objects or a recall is not reached."""

    objects: int
    ap: float | None
    ap50: float | None
    at_recall: dict[float, OperatingPoint | None]
    best_f1: OperatingPoint | None


@dataclass(frozen=True)
class Metrics:
    """Figures of one set of detections, None where undefined (docs/evaluation.md).

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
    ap: float | None
    ap50: float | None
    ap75: float | None
    ar1: float | None
    ar10: float | None
    ar100: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    at_recall: dict[float, OperatingPoint | None]
    best_f1: OperatingPoint | None
    classes: dict[str, ClassMetrics]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return _text_keys(asdict(self))


def _text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _text_keys(item) for key, item in value.items()}
    return value


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def metrics_of(matches: Matches) -> Metrics:
    """All figures of `matches`, every frame counted once."""
    ap = {name: _defined(value[0]) for name, value in average_precisions(matches).items()}
    whole = curve(matches)
    classes = {}
    for label, name in enumerate(matches.class_names):
        own = curve(matches, label)
        at_recall = {recall: own.at_recall(recall) for recall in AT_RECALL}
        classes[name] = ClassMetrics(
            own.objects, ap[f"ap/{name}"], ap[f"ap50/{name}"], at_recall, own.best_f1()
        )
    return Metrics(
        frames=whole.frames,
        objects=whole.objects,
        **{name: ap[name] for name in AVERAGE_PRECISIONS},
        **{name: _defined(value) for name, value in matches.coco.items()},
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
