"""A light causal tracker: ids, steadier boxes and points, short gaps bridged. NumPy and SciPy."""

from dataclasses import dataclass, replace
from itertools import count

import numpy as np
from scipy.optimize import linear_sum_assignment

from sonodetr.geometry import box_iou
from sonodetr.shapes import Float32, Float64
from sonodetr.types import Detections

# A track that was seen goes on with detections that score this share of the threshold.
LOW_SHARE = 0.5
# A new object gets its number when it was found in this many frames, so that flashes get none.
CONFIRM_FRAMES = 2
# An object that was found is shown for so long after it was last seen.
GAP_S = 0.25
# So far apart are frames whose times do not move on, as those of a recording that names none.
UNKNOWN_STEP_S = 0.1
# Boxes are grown by this share of their longer side before they are compared: those of a flat
# needle hardly overlap from one frame to the next.
GROW_SHARE = 0.15
LEAST_IOU = 0.1
# One Euro filter: below this frequency nothing is smoothed away; it rises with the speed, in
# box lengths a second, times this slope.
CUTOFF_HZ = 1.5
CUTOFF_SLOPE = 3.0
_SPEED_CUTOFF_HZ = 1.0


@dataclass(eq=False)  # a track is itself alone
class _Track:
    """One object that is followed.

    Attributes:
        place_px: `[8]` smoothed box and points, NaN where unknown.
        speed_px_s: `[8]` how fast it moves, smoothed.
        seen_s: when it was last found.
        seen: in how many frames, up to the number that confirms it.
    """

    track_id: int
    class_index: int
    score: float
    place_px: Float64[np.ndarray, "8"]
    speed_px_s: Float64[np.ndarray, "8"]
    seen_s: float
    seen: int = 1


class Tracker:
    """Follows objects from frame to frame; looks at no future frame.

    A detection above the threshold starts a track, one above half of it can continue one: what
    flickers around the threshold stays. Tracks and detections of one class are matched so that the
    overlap of their grown boxes is largest in sum (Hungarian method). Boxes and points go through a
    One Euro filter (Casiez, Roussel and Vogel, CHI 2012), which smooths what stands and hardly
    delays what moves.
    """

    def __init__(self) -> None:
        self._ids = count(1)
        self.reset()

    def reset(self) -> None:
        """Forget all objects; numbers are not used again."""
        self._tracks: list[_Track] = []
        self._now_s = -np.inf

    def update(self, found: Detections, threshold: float) -> Detections:
        """What is in the next frame.

        Args:
            found: all detections of the frame down to a low score.
            threshold: score that starts a track.

        Returns:
            The same, best first, with `track_ids`: -1 for what is not followed (yet). Detections of
            a track have its smoothed box and points. An object that is not found for a moment is
            added where it was last, with a score that falls to 0 within `GAP_S`.
        """
        moves_on = found.time_s > self._now_s
        now_s = self._now_s = found.time_s if moves_on else self._now_s + UNKNOWN_STEP_S
        rows = np.flatnonzero(found.scores >= threshold * LOW_SHARE)
        matches = self._match(found, rows)
        places = _places_px(found)
        ids = np.full(len(found), -1, np.int64)
        for track, row in matches:
            _follow(track, places[row], now_s)
            track.score = float(found.scores[row])
            places[row] = track.place_px
            if track.seen >= CONFIRM_FRAMES:
                ids[row] = track.track_id
        taken = {row for _, row in matches}
        followed = [track for track, _ in matches]
        lost = [
            track
            for track in self._tracks
            if track not in followed and now_s - track.seen_s < GAP_S
        ]
        started = [
            _Track(
                next(self._ids),
                int(found.classes[row]),
                float(found.scores[row]),
                places[row].copy(),
                np.zeros(8),
                now_s,
            )
            for row in np.flatnonzero(found.scores >= threshold)
            if row not in taken
        ]
        self._tracks = [*followed, *lost, *started]
        bridged = [track for track in lost if track.seen >= CONFIRM_FRAMES]
        return _joined(found, places, ids, bridged, now_s)

    def _match(self, found: Detections, rows: np.ndarray) -> list[tuple[_Track, int]]:
        if not self._tracks or not len(rows):
            return []
        known = np.stack([track.place_px[:4] for track in self._tracks]).astype(np.float32)
        overlap = box_iou(_grown(known), _grown(found.boxes_xyxy_px[rows]))
        classes = np.array([track.class_index for track in self._tracks])
        overlap[classes[:, None] != found.classes[rows][None]] = 0
        # Where two detections overlap as much, the one that scores higher is followed.
        value = np.where(overlap >= LEAST_IOU, overlap + 0.01 * found.scores[rows], 0)
        pairs = zip(*linear_sum_assignment(value, maximize=True), strict=True)
        return [
            (self._tracks[first], int(rows[second]))
            for first, second in pairs
            if value[first, second] > 0
        ]


def _places_px(found: Detections) -> Float64[np.ndarray, "n 8"]:
    points = found.points_px
    if points is None:
        points = np.full((len(found), 2, 2), np.nan, np.float32)
    joined = np.concatenate((found.boxes_xyxy_px, points.reshape(-1, 4)), 1)
    return joined.astype(np.float64)


def _follow(track: _Track, place_px: Float64[np.ndarray, "8"], now_s: float) -> None:
    """Move a track to where it was found, through the filter."""
    step_s = max(now_s - track.seen_s, 1e-3)  # frames may come in bursts
    known = np.isfinite(track.place_px) & np.isfinite(place_px)
    size_px = max(1.0, float(max(place_px[2:4] - place_px[:2])))
    speed = np.where(known, (place_px - track.place_px) / step_s, 0.0)
    track.speed_px_s += _share(_SPEED_CUTOFF_HZ, step_s) * (speed - track.speed_px_s)
    cutoff_hz = CUTOFF_HZ + CUTOFF_SLOPE * abs(track.speed_px_s) / size_px
    smoothed = track.place_px + _share(cutoff_hz, step_s) * (place_px - track.place_px)
    track.place_px = np.where(known, smoothed, place_px)
    track.seen_s = now_s
    track.seen = min(track.seen + 1, CONFIRM_FRAMES)


def _share(cutoff_hz: float | np.ndarray, step_s: float) -> float | np.ndarray:
    """How much of the way a low pass of first order goes in one step: 1 / (1 + tau / step)."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff_hz * step_s))


def _grown(boxes_xyxy_px: Float32[np.ndarray, "n 4"]) -> Float32[np.ndarray, "n 4"]:
    margin = GROW_SHARE * (boxes_xyxy_px[:, 2:] - boxes_xyxy_px[:, :2]).max(1, keepdims=True)
    return np.concatenate((boxes_xyxy_px[:, :2] - margin, boxes_xyxy_px[:, 2:] + margin), 1)


def _joined(
    found: Detections,
    places_px: Float64[np.ndarray, "n 8"],
    ids: np.ndarray,
    bridged: list[_Track],
    now_s: float,
) -> Detections:
    """Detections with smoothed places and numbers, and the tracks that were not found."""
    places = [places_px, *(track.place_px[None] for track in bridged)]
    fading = [track.score * (1 - (now_s - track.seen_s) / GAP_S) for track in bridged]
    place = np.concatenate(places).astype(np.float32)
    scores = np.concatenate((found.scores, np.array(fading, np.float32)))
    order = np.argsort(-scores, kind="stable")
    joined = replace(
        found,
        boxes_xyxy_px=place[:, :4],
        scores=scores,
        classes=np.concatenate((found.classes, [track.class_index for track in bridged])).astype(
            np.int64
        ),
        points_px=None if found.points_px is None else place[:, 4:].reshape(-1, 2, 2),
        track_ids=np.concatenate((ids, [track.track_id for track in bridged])).astype(np.int64),
    )
    return joined.select(order)
