"""The values that pass between the parts: Frames, Labels, Video, Detections. No torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from sonodetr.shapes import Bool, Float32, Float64, Int64, UInt8

# Parts of a data set, as folders, keys of recordings and splits name them.
PARTS = ("train", "validation", "test")
Pixels = UInt8[np.ndarray, "height width"] | UInt8[np.ndarray, "height width 3"]


@runtime_checkable
class Frames(Protocol):
    """Random access to the pictures of one recording, decoded when asked for.

    `frames[i]` is uint8, `[H, W]` (grey) or `[H, W, 3]` (RGB). Implementations pickle cheaply (a
    path, not pixels or open handles) so that data workers can open them, and keep at most a few
    frames in memory.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pixels: ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every frame in pixels, known without decoding a frame."""
        ...


class Spacing(NamedTuple):
    """Distance between pixel centres in mm, down (`y_mm`) and across (`x_mm`)."""

    y_mm: float
    x_mm: float


class Region(NamedTuple):
    """A rectangle of whole pixels: `x0 <= x < x1`, `y0 <= y < y1`."""

    x0: int
    y0: int
    x1: int
    y1: int


@dataclass(frozen=True)
class Labels:
    """What is known to be in one frame. No rows means: known to be empty.

    Attributes:
        boxes_xyxy_px: `[N, 4]` left, top, right, bottom in pixels of the original frame; a box that
            covers the whole frame is `0, 0, W, H`.
        classes: `[N]` index into `Video.classes`.
        track_ids: `[N]` identity through the recording, -1 where none is given.
        points_px: `[N, 2, 2]` x, y of tip and entry point (or of other keypoints, in file order);
            NaN where unknown.
        crowd: `[N]` regions that are neither object nor background (COCO `iscrowd`).
    """

    boxes_xyxy_px: Float32[np.ndarray, "n 4"]
    classes: Int64[np.ndarray, " n"]
    track_ids: Int64[np.ndarray, " n"]
    points_px: Float32[np.ndarray, "n 2 2"]
    crowd: Bool[np.ndarray, " n"]

    @staticmethod
    def of(
        boxes_xyxy_px: Any,
        classes: Any,
        track_ids: Any = None,
        points_px: Any = None,
        crowd: Any = None,
    ) -> "Labels":
        """Build from anything array-like; what is left out is filled with "unknown".

        >>> Labels.of([[0, 0, 4, 2]], [1]).track_ids
        array([-1])
        """
        boxes = np.asarray(boxes_xyxy_px, np.float32).reshape(-1, 4)
        count = len(boxes)
        return Labels(
            boxes,
            np.asarray(classes, np.int64).reshape(count),
            np.full(count, -1, np.int64) if track_ids is None else np.asarray(track_ids, np.int64),
            np.full((count, 2, 2), np.nan, np.float32)
            if points_px is None
            else np.asarray(points_px, np.float32).reshape(count, 2, 2),
            np.zeros(count, bool) if crowd is None else np.asarray(crowd, bool),
        )

    def __len__(self) -> int:
        return len(self.boxes_xyxy_px)


@dataclass(frozen=True)
class Video:
    """One recording, or one still image (a recording of one frame), with its labels.

    Attributes:
        key: name that is unique in the data set; splits and results refer to it.
        frames: the pictures, read lazily.
        times_s: `[len(frames)]` seconds from the first frame, never decreasing.
        classes: category names; the same tuple for all recordings of a data set.
        labels: frame index -> what is in it. A frame without an entry is *unlabelled*, which is
            not the same as empty, and is never used as background.
        patient: anonymous patient or subject key where the data names one; never split apart.
        spacing_mm: pixel spacing where the file has it.
        region_px: the ultrasound picture inside a scanner's screen, where the file names it.
    """

    key: str
    frames: Frames
    times_s: np.ndarray
    classes: tuple[str, ...] = ()
    labels: Mapping[int, Labels] = field(default_factory=dict)
    patient: str | None = None
    spacing_mm: Spacing | None = None
    region_px: Region | None = None

    def __post_init__(self) -> None:
        if len(self.times_s) != len(self.frames):
            raise ValueError(f"{self.key}: {len(self.frames)} frames but {len(self.times_s)} times")

    def __len__(self) -> int:
        return len(self.frames)

    @cached_property
    def frame_rate_hz(self) -> float | None:
        """Mean frame rate, None for a still or when the times are unknown (all zero)."""
        if len(self) < 2 or self.times_s[-1] <= self.times_s[0]:
            return None
        return float((len(self) - 1) / (self.times_s[-1] - self.times_s[0]))


@dataclass(frozen=True)
class Frame:
    """One picture on its way through the predictor.

    Attributes:
        pixels: uint8, `[H, W]` grey or `[H, W, 3]` RGB.
        index: position in its source, from 0.
        time_s: seconds since the source began.
        spacing_mm: pixel spacing where known.
        region_px: where the ultrasound picture lies; None means the whole frame.
        ijk_to_ras_mm: where the picture lies in the world, if known: column, row, 0, 1 of a pixel's
            centre -> mm towards the patient's right, front (anterior) and head (superior).
    """

    pixels: Pixels
    index: int = 0
    time_s: float = 0.0
    spacing_mm: Spacing | None = None
    region_px: Region | None = None
    ijk_to_ras_mm: Float64[np.ndarray, "4 4"] | None = None


def frame_at(video: Video, index: int) -> Frame:
    """One frame of a recording, with its time, spacing and region."""
    time_s = float(video.times_s[index])
    return Frame(video.frames[index], index, time_s, video.spacing_mm, video.region_px)


def frames_of(video: Video) -> Iterator[Frame]:
    """The frames of a recording in order."""
    return (frame_at(video, index) for index in range(len(video)))


def clip_indices(frame_index: int, clip_frames: int, clip_step: int) -> list[int]:
    """Frames of the clip that ends at `frame_index`, oldest first; the first frame is repeated.

    >>> clip_indices(3, clip_frames=4, clip_step=2)
    [0, 0, 1, 3]
    """
    steps = range(clip_frames - 1, -1, -1)
    return [max(0, frame_index - step * clip_step) for step in steps]


class Answer(NamedTuple):
    """What a model says of one clip, normalised to its input; `geometry` puts it into the frame.

    Attributes:
        scores: in 0..1, never increasing.
        classes: class numbers.
        boxes_cxcywh: centre and size in 0..1 of the input.
        points: x, y of tip and entry in 0..1 of the input; None for a model without points.
    """

    scores: Float32[np.ndarray, " n"]
    classes: Int64[np.ndarray, " n"]
    boxes_cxcywh: Float32[np.ndarray, "n 4"]
    points: Float32[np.ndarray, "n 2 2"] | None = None


@dataclass(frozen=True)
class Detections:
    """What a model found in one frame, best first.

    Attributes:
        boxes_xyxy_px: `[N, 4]` left, top, right, bottom in pixels of the original frame.
        scores: `[N]` confidence in 0..1, never increasing.
        classes: `[N]` index into `class_names`.
        class_names: names of all classes the model knows.
        points_px: `[N, 2, 2]` tip and entry in pixels, or None for a model without points.
        track_ids: `[N]`, or None where nothing was tracked.
        frame_index: position of the frame in its source.
        time_s: time of the frame in its source.
        spacing_mm: pixel spacing of the frame where known.

    Raises:
        ValueError: rows differ in number or a class is out of range.
    """

    boxes_xyxy_px: Float32[np.ndarray, "n 4"]
    scores: Float32[np.ndarray, " n"]
    classes: Int64[np.ndarray, " n"]
    class_names: tuple[str, ...]
    points_px: Float32[np.ndarray, "n 2 2"] | None = None
    track_ids: Int64[np.ndarray, " n"] | None = None
    frame_index: int = 0
    time_s: float = 0.0
    spacing_mm: Spacing | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes_xyxy_px)
        rows = (self.scores, self.classes, self.points_px, self.track_ids)
        if any(row is not None and len(row) != count for row in rows):
            raise ValueError(f"{count} boxes, but other fields have another number of rows")
        if count and not (self.classes.min() >= 0 and self.classes.max() < len(self.class_names)):
            raise ValueError(f"class index outside the {len(self.class_names)} class names")

    def __len__(self) -> int:
        return len(self.boxes_xyxy_px)

    def select(self, keep: np.ndarray) -> "Detections":
        """The rows that `keep` (indices or a mask) names, in its order."""
        return replace(
            self,
            boxes_xyxy_px=self.boxes_xyxy_px[keep],
            scores=self.scores[keep],
            classes=self.classes[keep],
            points_px=None if self.points_px is None else self.points_px[keep],
            track_ids=None if self.track_ids is None else self.track_ids[keep],
        )

    def above(self, threshold: float) -> "Detections":
        """Only the detections with a score of at least `threshold`."""
        return self.select(self.scores >= threshold)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for one line of `detections.jsonl` (see docs/cli.md)."""
        rows = []
        for row in range(len(self)):
            item: dict[str, Any] = {
                "class": self.class_names[self.classes[row]],
                "score": round(float(self.scores[row]), 5),
                "box_xyxy_px": [round(float(v), 2) for v in self.boxes_xyxy_px[row]],
            }
            if self.points_px is not None:
                item["points_px"] = [
                    [round(float(v), 2) for v in point] for point in self.points_px[row]
                ]
            if self.track_ids is not None:
                item["track_id"] = int(self.track_ids[row])
            rows.append(item)
        return {
            "frame": self.frame_index,
            "time_s": round(self.time_s, 6),
            "detections": rows,
        }

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`; needs the extra `supervision`."""
        import supervision

        return supervision.Detections(
            xyxy=self.boxes_xyxy_px,
            confidence=self.scores,
            class_id=self.classes,
            tracker_id=self.track_ids,
            data={"class_name": np.array(self.class_names, dtype=str)[self.classes]},
        )
