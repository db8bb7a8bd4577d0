import numpy as np
import pytest

from sonodetr.stream.track import GAP_S, Tracker
from sonodetr.types import Detections

RATE_HZ = 50.0


def found(index, *rows, points_px=None, rate_hz=RATE_HZ):
    """Detections of a frame; a row is score, class and box."""
    rows = sorted(rows, key=lambda row: -row[0])
    return Detections(
        np.float32([row[2] for row in rows]).reshape(-1, 4),
        np.float32([row[0] for row in rows]),
        np.int64([row[1] for row in rows]),
        ("needle", "nerve"),
        points_px,
        frame_index=index,
        time_s=index / rate_hz,
    )


def box(x, y=50.0, side=20.0):
    return (x, y, x + side, y + side)


def ids_of(detections):
    return detections.track_ids.tolist()


def test_numbers_stay():
    """Two objects of one class that move past each other, one below the other."""
    tracker = Tracker()
    for index in range(30):
        ids = ids_of(
            tracker.update(
                found(index, (0.9, 0, box(3.0 * index)), (0.8, 0, box(90 - 3.0 * index, 80))), 0.5
            )
        )
        assert ids == ([-1, -1] if index == 0 else [1, 2])


def test_a_flash_gets_no_number():
    tracker = Tracker()
    for index in range(9):
        rows = [(0.9, 1, box(10))] + ([(0.95, 0, box(70))] if index == 4 else [])
        result = tracker.update(found(index, *rows), 0.5)
        assert 2 not in ids_of(result)
    assert ids_of(result) == [1]


def test_what_flickers_round_the_threshold_stays():
    """A weak detection goes on with a track, and starts none."""
    tracker = Tracker()
    scores = [0.3, 0.3, 0.3, 0.6, 0.55, 0.3, 0.28, 0.51, 0.3, 0.2, 0.2]
    ids = [
        ids_of(tracker.update(found(index, (score, 0, box(10))), 0.5))[0]
        for index, score in enumerate(scores)
    ]
    assert ids == [-1, -1, -1, -1, 1, 1, 1, 1, 1, 1, 1]  # 0.2 is too weak, and is bridged
    assert len(result := tracker.update(found(11, (0.2, 0, box(10))), 0.5)) == 2
    assert ids_of(result) == [1, -1]


def test_short_gaps_are_bridged():
    tracker = Tracker()
    for index in range(5):
        tracker.update(found(index, (0.8, 1, box(10))), 0.5)
    for missing in range(1, 13):
        result = tracker.update(found(4 + missing), 0.5)
        assert ids_of(result) == [1]
        np.testing.assert_allclose(result.boxes_xyxy_px, [box(10)], atol=1e-4)
        assert result.scores[0] == pytest.approx(0.8 * (1 - missing / RATE_HZ / GAP_S), abs=1e-5)
        assert result.classes.tolist() == [1]
    assert GAP_S == 0.25
    assert len(tracker.update(found(17), 0.5)) == 0  # 0.26 s after it was last seen
    tracker.update(found(18, (0.8, 1, box(10))), 0.5)
    assert ids_of(tracker.update(found(19, (0.8, 1, box(10))), 0.5)) == [2]


def test_found_again_within_the_gap():
    tracker = Tracker()
    for index in (0, 1, 2, 9, 10):
        result = tracker.update(found(index, (0.8, 1, box(10 + index))), 0.5)
    assert ids_of(result) == [1]


def test_classes_are_not_mixed():
    tracker = Tracker()
    for index in range(4):
        tracker.update(found(index, (0.8, 0, box(10))), 0.5)
    result = tracker.update(found(4, (0.9, 1, box(10))), 0.5)
    assert dict(zip(result.classes.tolist(), ids_of(result), strict=True)) == {1: -1, 0: 1}


def test_flat_boxes_that_hardly_overlap():
    """A level needle, two pixels high, that moves four pixels down."""
    tracker = Tracker()
    for index in range(9):
        flat = (10.0, 40.0 + 4 * index, 110.0, 42.0 + 4 * index)
        result = tracker.update(found(index, (0.8, 0, flat)), 0.5)
    assert ids_of(result) == [1]


def test_what_stands_is_steadied():
    random = np.random.default_rng(3)
    tracker, raw, smooth = Tracker(), [], []
    for index in range(300):
        noisy = np.array(box(100.0)) + random.normal(0, 1.0, 4)
        points = (np.array([[100.0, 50], [120, 70]]) + random.normal(0, 1.0, (2, 2)))[None]
        detections = found(index, (0.9, 0, noisy), points_px=np.float32(points))
        result = tracker.update(detections, 0.5)
        if index > 50:
            raw.append([*noisy, *points.ravel()])
            smooth.append([*result.boxes_xyxy_px[0], *result.points_px.ravel()])
    assert np.std(raw, 0) == pytest.approx([1.0] * 8, rel=0.15)
    assert (np.std(smooth, 0) < 0.75).all()
    np.testing.assert_allclose(np.mean(smooth, 0), [*box(100.0), 100, 50, 120, 70], atol=0.2)


def test_what_moves_is_hardly_delayed():
    """At 3 box lengths a second the box lies less than a fifth of a box behind."""
    tracker = Tracker()
    for index in range(60):
        x = 60.0 * index / RATE_HZ
        result = tracker.update(found(index, (0.9, 0, box(x))), 0.5)
    behind = x - result.boxes_xyxy_px[0, 0]
    assert 0 < behind < 4.0


def test_steady_at_any_frame_rate():
    """After a step of one box length, a third of a second later nine tenths are made up for."""
    for rate_hz in (15.0, 30.0, 120.0):
        tracker = Tracker()
        for index in range(int(rate_hz)):
            tracker.update(found(index, (0.9, 0, box(10)), rate_hz=rate_hz), 0.5)
        for index in range(int(rate_hz), int(rate_hz * 4 / 3) + 1):
            result = tracker.update(found(index, (0.9, 0, box(30)), rate_hz=rate_hz), 0.5)
        assert ids_of(result) == [1]
        assert result.boxes_xyxy_px[0, 0] > 28


def test_unknown_points_stay_unknown_and_known_ones_come_at_once():
    tracker = Tracker()
    nothing = np.full((1, 2, 2), np.nan, np.float32)
    for index in range(3):
        result = tracker.update(found(index, (0.9, 0, box(10)), points_px=nothing), 0.5)
    assert np.isnan(result.points_px).all()
    known = np.float32([[[10, 50], [np.nan, np.nan]]])
    result = tracker.update(found(3, (0.9, 0, box(10)), points_px=known), 0.5)
    np.testing.assert_array_equal(result.points_px, known)


def test_nothing_at_all():
    tracker = Tracker()
    result = tracker.update(found(0), 0.5)
    assert len(result) == 0
    assert ids_of(result) == []
    empty = np.zeros((0, 2, 2), np.float32)
    assert tracker.update(found(1, points_px=empty), 0.5).points_px.shape == (0, 2, 2)


def test_best_first_and_nothing_lost():
    tracker = Tracker()
    rows = [(0.9, 0, box(10)), (0.6, 1, box(50)), (0.2, 0, box(100)), (0.06, 1, box(130))]
    for index in range(3):
        result = tracker.update(found(index, *rows), 0.5)
    assert result.scores.tolist() == pytest.approx([0.9, 0.6, 0.2, 0.06])
    assert ids_of(result) == [1, 2, -1, -1]


def test_a_new_part_begins_anew_with_new_numbers():
    tracker = Tracker()
    for index in range(3):
        tracker.update(found(index, (0.9, 0, box(10))), 0.5)
    tracker.reset()
    result = tracker.update(found(3, (0.9, 0, box(10))), 0.5)
    assert ids_of(result) == [-1]
    assert ids_of(tracker.update(found(4, (0.9, 0, box(10))), 0.5)) == [2]


def test_times_that_do_not_move_on():
    """As of a recording that names none: 10 frames a second, so a gap lasts 2 frames."""
    tracker = Tracker()
    for _ in range(3):
        result = tracker.update(found(0, (0.9, 0, box(10))), 0.5)
    assert ids_of(result) == [1]
    assert np.isfinite(result.boxes_xyxy_px).all()
    scores = [tracker.update(found(0), 0.5).scores.tolist() for _ in range(3)]
    assert scores == [pytest.approx([0.9 * 0.6]), pytest.approx([0.9 * 0.2]), []]
