"""Which detection found which object in labelled frames: what all figures are counted from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from sonodetr.files import InputError
from sonodetr.types import Detections, Video

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
MOST_DETECTIONS = 100  # a frame, the best ones by score


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
        coco: what hotcoco counts itself: AP of small, medium and large objects, AR at 1, 10 and 100
            detections; NaN where undefined.
    """

    class_names: tuple[str, ...]
    video: Int64[np.ndarray, " frames"]
    objects: Int64[np.ndarray, "frames classes"]
    frame: Int64[np.ndarray, " n"]
    label: Int64[np.ndarray, " n"]
    scores: Float64[np.ndarray, " n"]
    found: Bool[np.ndarray, "10 n"]
    ignored: Bool[np.ndarray, "10 n"]
    coco: dict[str, float]

    def only(self, frames: Bool[np.ndarray, " frames"]) -> "Matches":
        """The same for some of the frames; `coco` is left empty."""
        rows = frames[self.frame]
        return Matches(
            self.class_names,
            self.video[frames],
            self.objects[frames],
            (np.cumsum(frames) - 1)[self.frame[rows]],
            self.label[rows],
            self.scores[rows],
            self.found[:, rows],
            self.ignored[:, rows],
            {},
        )


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
        InputError: there is no labelled frame, or hotcoco is not installed.
        ValueError: a frame has no labels or no entry in `detections`, or a score or box is not
            finite.
    """
    if frames is None:
        frames = [(v, f) for v, video in enumerate(videos) for f in sorted(video.labels)]
    if not frames:
        raise InputError(
            "no labelled frame to evaluate on; name the file or folder that holds the labels, and "
            "a split that has some"
        )
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
    try:
        import hotcoco
    except ImportError:
        raise InputError("evaluation needs hotcoco; run: pip install 'sonodetr[train]'") from None
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
    evaluator = hotcoco.COCOeval(labels, labels.loadRes(detections + from_one), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summary_lines()
    names = ("ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100")
    figures = {
        n: float(v) if v >= 0 else np.nan for n, v in zip(names, evaluator.stats[3:9], strict=True)
    }
    # Again without the size classes: reading four times the matches would take four times as long.
    evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluator.evaluate()
    for pair in evaluator.eval_imgs:
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
        figures,
    )
