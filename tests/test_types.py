import json

import numpy as np
import pytest

from sonodetr.types import (
    Detections,
    Labels,
    Region,
    Spacing,
    Video,
    clip_indices,
    frames_of,
)


def detections(**changes):
    fields = {
        "boxes_xyxy_px": np.float32([[1, 2, 30.126, 40], [5, 6, 7, 8], [0, 0, 1, 1]]),
        "scores": np.float32([0.9, 0.5, 0.123456]),
        "classes": np.int64([1, 0, 1]),
        "class_names": ("nerve", "vessel"),
    }
    return Detections(**(fields | changes))


def video(times_s):
    return Video("a", np.zeros((len(times_s), 5, 7), np.uint8), np.array(times_s))


def test_labels_fill_in_what_is_unknown():
    labels = Labels.of([[1, 2, 3, 4], [5, 6, 7, 8]], [1, 0])
    assert labels.track_ids.tolist() == [-1, -1]
    assert np.isnan(labels.points_px).all()
    assert not labels.crowd.any()
    assert len(labels) == 2
    assert len(Labels.of([], [])) == 0


def test_video_refuses_another_number_of_times():
    with pytest.raises(ValueError, match="a: 3 frames but 2 times"):
        Video("a", np.zeros((3, 5, 7), np.uint8), np.zeros(2))


@pytest.mark.parametrize(
    ("times_s", "rate_hz"),
    [([0, 0.5, 1], 2), ([0], None), ([0, 0, 0], None), ([0, 0.1, 0.4], 5)],
)
def test_frame_rate(times_s, rate_hz):
    assert video(times_s).frame_rate_hz == (None if rate_hz is None else pytest.approx(rate_hz))


def test_frames_carry_what_the_recording_knows():
    frames = np.arange(2 * 5 * 7, dtype=np.uint8).reshape(2, 5, 7)
    source = Video(
        "a", frames, np.array([0, 0.5]), spacing_mm=Spacing(0.1, 0.2), region_px=Region(1, 1, 5, 4)
    )
    last = list(frames_of(source))[1]
    assert (last.index, last.time_s) == (1, 0.5)
    assert last.spacing_mm == (0.1, 0.2)
    assert last.region_px == (1, 1, 5, 4)
    np.testing.assert_array_equal(last.pixels, frames[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.float32([0.9, 0.5])}, "3 boxes, but other fields"),
        ({"track_ids": np.int64([1])}, "3 boxes, but other fields"),
        ({"classes": np.int64([0, 1, 2])}, "outside the 2 class names"),
        ({"classes": np.int64([0, -1, 1])}, "outside the 2 class names"),
    ],
)
def test_detections_that_do_not_fit_together(changes, message):
    # The test run's shape check speaks before the class's own.
    with pytest.raises(Exception, match=rf"{message}|Type-check"):
        detections(**changes)


def test_threshold_keeps_equal_scores():
    assert detections().above(0.5).scores.tolist() == pytest.approx([0.9, 0.5])
    assert len(detections().above(0.91)) == 0
    assert len(detections().above(0.0)) == 3


def test_select_takes_along_every_field():
    points = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    chosen = detections(points_px=points, track_ids=np.int64([3, 4, 5])).select(np.array([2, 0]))
    assert chosen.track_ids.tolist() == [5, 3]
    assert chosen.classes.tolist() == [1, 1]
    np.testing.assert_array_equal(chosen.points_px, points[[2, 0]])


def test_as_json():
    one = detections(frame_index=4, time_s=1 / 3).select(np.array([0]))
    assert json.loads(json.dumps(one.to_dict())) == {
        "frame": 4,
        "time_s": 0.333333,
        "detections": [{"class": "vessel", "score": 0.9, "box_xyxy_px": [1.0, 2.0, 30.13, 40.0]}],
    }


def test_points_and_tracks_as_json():
    points = np.float32([[[1, 2], [3, 4]]])
    one = detections().select(np.array([1]))
    one = Detections(one.boxes_xyxy_px, one.scores, one.classes, ("x",), points, np.int64([8]))
    (row,) = one.to_dict()["detections"]
    assert row["points_px"] == [[1, 2], [3, 4]]
    assert row["track_id"] == 8


def test_as_supervision():
    pytest.importorskip("supervision")
    other = detections(track_ids=np.int64([3, 4, 5])).to_supervision()
    assert other.data["class_name"].tolist() == ["vessel", "nerve", "vessel"]
    assert other.tracker_id.tolist() == [3, 4, 5]
    np.testing.assert_array_equal(other.xyxy, detections().boxes_xyxy_px)


def test_clips_never_look_ahead_and_repeat_the_first_frame():
    assert clip_indices(13, clip_frames=3, clip_step=5) == [3, 8, 13]
    assert clip_indices(3, clip_frames=4, clip_step=2) == [0, 0, 1, 3]
    assert clip_indices(7, clip_frames=1, clip_step=1) == [7]
