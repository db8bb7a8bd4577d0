"""Every expected value is counted by hand: 3-4-5 triangles, and sequences of a few frames."""

from dataclasses import replace

import numpy as np
import pytest
from made_up import CLASSES, detected, video

from sonodetr.evaluation.instruments import compare, instrument_figures
from sonodetr.evaluation.statistics import bootstrap_intervals
from sonodetr.types import Detections, Labels, Spacing, Video

NEEDLE = CLASSES.index("needle")
UNKNOWN = (np.nan, np.nan)
LINE = ((100, 80), (20, 20))  # tip, entry: the diagonal of its box
NOTHING = Labels.of([], [])


def needles(*lines, tracks=None, label=NEEDLE):
    """Labels with the box round each line; a line whose tip is unknown has the box of `LINE`."""
    boxes = [box_of(line) for line in lines]
    return Labels.of(boxes, [label] * len(lines), tracks, lines)


def box_of(line):
    ends = np.array(LINE if np.isnan(line).any() else line, float)
    return [*ends.min(0), *ends.max(0)]


def found(*lines, scores=None, label=NEEDLE):
    scores = np.linspace(0.9, 0.8, len(lines)) if scores is None else scores
    one = detected([box_of(line) for line in lines], scores, [label] * len(lines))
    return replace(one, points_px=np.array(lines, np.float32).reshape(-1, 2, 2))


def moved(line, x, y):
    return tuple((px + x, py + y) for px, py in line)


def compared(*recordings, threshold=0.5):
    """Comparison of (recording, detections of each labelled frame)."""
    videos = [recording for recording, _ in recordings]
    frames = [(v, f) for v, one in enumerate(videos) for f in sorted(one.labels)]
    detections = {
        (one.key, frame): answer
        for one, answers in recordings
        for frame, answer in zip(sorted(one.labels), answers, strict=True)
    }
    return compare(videos, detections, frames, threshold)


def figures_of(*recordings, **arguments):
    comparison = compared(*recordings, **arguments)
    weights = np.ones((1, len(comparison.empty)), np.int64)
    return {name: value[0] for name, value in instrument_figures(comparison, weights).items()}


def spaced(recording: Video, y_mm=0.5, x_mm=0.2):
    return replace(recording, spacing_mm=Spacing(y_mm, x_mm))


def test_tip_error_is_in_mm_along_each_axis():
    # 15 px across are 3 mm, 8 px down are 4 mm.
    answers = [found(moved(LINE, 15, -8)), found(LINE), found(moved(LINE, 0, 4))]
    recording = spaced(video("a", {frame: needles(LINE) for frame in range(3)}))
    figures = figures_of((recording, answers))
    assert figures["tip_error_median_mm"] == pytest.approx(2)  # of 5, 0 and 2
    assert figures["tip_error_p95_mm"] == pytest.approx(np.percentile([5, 0, 2], 95))
    assert figures["tip_within_3_mm"] == pytest.approx(2 / 3)
    assert figures["angle_error_median_deg"] == pytest.approx(0, abs=1e-6)
    assert figures["detected"] == 1
    assert "tip_error_median_px" not in figures


def test_angle_error_is_that_of_the_lines_in_mm():
    level = ((60, 50), (20, 50))
    # 5 px back are 1 mm, 2 px up are 1 mm: 45 degrees in the body, though not in the picture.
    tilted = ((60, 50), (55, 48))
    figures = figures_of((spaced(video("a", {0: needles(level)})), [found(tilted)]))
    assert figures["angle_error_median_deg"] == pytest.approx(45)
    assert figures["tip_error_median_mm"] == 0
    turned_round = figures_of((spaced(video("a", {0: needles(level)})), [found(level[::-1])]))
    assert turned_round["angle_error_p95_deg"] == 0
    assert turned_round["tip_error_median_mm"] == pytest.approx(40 * 0.2)


def test_without_spacing_tip_errors_are_in_pixels():
    recording = video("a", {0: needles(LINE)})
    comparison = compared((recording, [found(moved(LINE, 3, 4))]))
    assert (comparison.tip_unit, comparison.no_spacing) == ("px", 1)
    figures = figures_of((recording, [found(moved(LINE, 3, 4))]))
    assert figures["tip_error_median_px"] == 5
    assert np.isnan(figures["tip_within_3_mm"])


def test_recordings_without_spacing_are_left_out_of_mm():
    known, unknown = spaced(video("a", {0: needles(LINE)})), video("b", {0: needles(LINE)})
    level = ((100, 80), (20, 80))
    answers = ((known, [found(moved(LINE, 5, 0))]), (unknown, [found(level)]))
    figures = figures_of(*answers)
    assert figures["tip_error_p95_mm"] == pytest.approx(1)
    assert figures["tip_within_3_mm"] == 1
    assert compared(*answers).no_spacing == 1
    # There, pixels are taken as square for the angle: atan(60 / 80).
    assert figures["angle_error_p95_deg"] == pytest.approx(0.95 * np.degrees(np.arctan2(60, 80)))


def test_a_missed_needle_counts_as_a_tip_not_found():
    labels = {frame: needles(LINE) for frame in range(4)}
    answers = [found(LINE), found(), found(LINE, scores=[0.4]), found(moved(LINE, 200, 200))]
    figures = figures_of((spaced(video("a", labels)), answers))
    assert figures["detected"] == 0.25  # nothing, below the threshold, elsewhere
    assert figures["tip_within_3_mm"] == 0.25
    assert figures["tip_error_p95_mm"] == 0  # of those that were detected


def test_unknown_points_are_not_judged():
    outside = ((-7, 30), (60, 60))  # the tip has left the picture, the line is there
    labels = {0: needles(LINE), 1: needles((UNKNOWN, UNKNOWN)), 2: needles((LINE[0], UNKNOWN))}
    labels[3] = Labels.of([[0, 30, 60, 60]], [NEEDLE], None, [outside])
    far = moved(LINE, 30, 0)
    answers = [found(LINE), found(far), found(far), found(((0, 30), (60, 60)))]
    comparison = compared((spaced(video("a", labels)), answers))
    assert comparison.sightings.tip_known.tolist() == [True, False, True, False]
    np.testing.assert_allclose(comparison.sightings.tip_error, [0, np.nan, 6, np.nan])
    assert np.isnan(comparison.sightings.angle_error_deg).tolist() == [False, True, True, False]
    assert comparison.counts() | {"pairs": 3} == {
        "objects": 4, "tips": 2, "instruments": 1, "never_detected": 0, "pairs": 3,
        "empty_frames": 0,
    }  # fmt: skip
    figures = figures_of((spaced(video("a", labels)), answers))
    assert figures["tip_within_3_mm"] == 0.5


def test_the_best_detection_is_the_one_that_counts():
    recording = spaced(video("a", {0: needles(LINE)}))
    near, worse = moved(LINE, 5, 0), LINE
    figures = figures_of((recording, [found(near, worse)]))
    assert figures["tip_error_median_mm"] == pytest.approx(1)
    elsewhere = moved(LINE, 300, 300)
    assert figures_of((recording, [found(elsewhere, LINE)]))["detected"] == 0
    other_class = found(elsewhere, LINE)
    other_class = replace(other_class, classes=np.array([0, NEEDLE]))
    assert figures_of((recording, [other_class]))["detected"] == 1


def test_level_needles_meet_though_their_boxes_do_not():
    level = ((120, 50), (20, 50.5))
    recording = spaced(video("a", {0: needles(level)}))
    figures = figures_of((recording, [found(moved(level, 0, 10))]))
    assert figures["tip_error_median_mm"] == pytest.approx(5)
    assert figures_of((recording, [found(moved(level, 0, 26))]))["detected"] == 0  # 0.25 x 100 px


def test_two_needles_of_a_frame_have_a_detection_each():
    second = moved(LINE, 40, 0)
    recording = spaced(video("a", {0: needles(LINE, second, tracks=[3, 5])}))
    # The best one lies on the second needle; the next best overlaps it too, but it is taken.
    answer = found(moved(second, 5, 0), moved(second, -20, 0), LINE)
    comparison = compared((recording, [answer]))
    np.testing.assert_allclose(comparison.sightings.tip_error, [20 * 0.2, 1], rtol=1e-5)
    one = compared((recording, [found(second)]))
    assert one.sightings.detected.tolist() == [False, True]
    assert one.arrivals.delay_s.tolist() == []  # a still


def test_time_to_first_detection():
    def recording(key, hits, count=7):
        labels = {0: NOTHING} | {frame: needles(LINE) for frame in range(2, count)}
        answers = [found(), *(found(LINE) if hit else found() for hit in hits)]
        return spaced(video(key, labels)), answers  # 30 Hz

    late, at_once = recording("a", [0, 0, 1, 0, 0]), recording("b", [1, 0, 0, 0, 1])
    never = recording("c", [0] * 5)
    comparison = compared(late, at_once, never)
    np.testing.assert_allclose(comparison.arrivals.delay_s, [2 / 30, 0, np.inf])
    assert comparison.counts()["never_detected"] == 1
    figures = figures_of(late, at_once, never)
    assert figures["first_detection_median_s"] == pytest.approx(1 / 30)
    assert figures["never_detected"] == pytest.approx(1 / 3)
    # Without times nothing is known but that it was never found.
    timeless = [(replace(one, times_s=np.zeros(7)), answers) for one, answers in (late, never)]
    figures = figures_of(*timeless)
    assert np.isnan(figures["first_detection_median_s"])
    assert np.isnan(figures["flicker_per_s"])
    assert figures["never_detected"] == 0.5


def test_needles_are_followed_by_their_track():
    second = moved(LINE, 200, 0)
    both = needles(LINE, second, tracks=[3, 5])
    labels = {0: needles(LINE, tracks=[3]), 1: both, 2: both, 3: both}
    answers = [found(LINE), found(LINE), found(LINE), found(LINE, second)]
    comparison = compared((spaced(video("a", labels)), answers))
    np.testing.assert_allclose(comparison.arrivals.delay_s, [0, 2 / 30])
    assert comparison.steps.changed.sum() == 1
    labels = {f: replace(one, track_ids=np.full(len(one), -1)) for f, one in labels.items()}
    comparison = compared((spaced(video("a", labels)), answers))
    assert comparison.arrivals.delay_s.tolist() == [0]
    assert not comparison.steps.changed.any()


def test_flicker_counts_changes_between_neighbours_that_both_show_the_needle():
    labels = {frame: needles(LINE) for frame in (0, 3, 6, 12, 15)} | {9: NOTHING}
    hits = {0: 1, 3: 0, 6: 1, 9: 0, 12: 0, 15: 0}
    answers = [found(LINE) if hits[frame] else found() for frame in sorted(labels)]
    recording = spaced(video("a", labels))  # labelled at 10 Hz
    # Pairs 0-3 and 3-6 change, 12-15 does not; 6-9 and 9-12 do not both show it.
    comparison = compared((recording, answers))
    assert comparison.steps.changed.tolist() == [True, True, False]
    np.testing.assert_allclose(comparison.steps.seconds, 0.1)
    assert figures_of((recording, answers))["flicker_per_s"] == pytest.approx(2 / 0.3)
    # Frame 3 is labelled but not evaluated: 0 and 6 are no neighbours.
    some = [(0, 0), (0, 6), (0, 12), (0, 15)]
    detections = {("a", frame): found(LINE) for frame in labels}
    assert len(compare([recording], detections, some, 0.5).steps.frame) == 1


def test_false_detections_are_those_in_frames_without_the_needle():
    nerve = Labels.of([[5, 5, 50, 50]], [0])
    crowd = Labels.of([[5, 5, 50, 50]], [NEEDLE], crowd=[True])
    labels = {0: needles(LINE), 1: NOTHING, 2: nerve, 3: crowd, 4: NOTHING}
    twice = found(LINE, moved(LINE, 200, 0))
    answers = [twice, found(LINE), twice, twice, found(LINE, scores=[0.4])]
    recording = spaced(video("a", labels))
    assert compared((recording, answers)).counts()["empty_frames"] == 3
    figures = figures_of((recording, answers))
    assert figures["false_detections_per_empty_frame"] == pytest.approx((1 + 2 + 0) / 3)
    full = spaced(video("b", {0: needles(LINE)}))
    assert np.isnan(figures_of((full, [twice]))["false_detections_per_empty_frame"])


def test_each_class_has_its_own_figures():
    vessel_line = ((300, 300), (200, 290))
    both = needles(LINE)
    other = needles(vessel_line, label=1)
    labels = {0: both, 1: other, 2: Labels.of([[0, 0, 9, 9]], [0])}  # nerves have no points
    answers = [found(moved(LINE, 10, 0)), found(label=1), found(LINE)]
    recording = spaced(video("a", labels))
    comparison = compared((recording, answers))
    assert comparison.class_names == ("vessel", "needle")
    facts = comparison.to_dict()
    assert [facts[key] for key in ("tip_unit", "recordings_without_spacing")] == ["mm", 0]
    assert facts["classes"]["needle"]["tips"] == 1
    assert (facts["all"]["empty_frames"], facts["classes"]["vessel"]["empty_frames"]) == (1, 2)
    figures = figures_of((recording, answers))
    assert figures["tip_error_median_mm/needle"] == pytest.approx(2)
    assert np.isnan(figures["tip_error_median_mm/vessel"])
    assert figures["detected/vessel"] == 0
    assert figures["detected"] == 0.5
    assert figures["false_detections_per_empty_frame/needle"] == 0.5
    assert figures["false_detections_per_empty_frame"] == 1


def test_nothing_to_compare():
    recording = video("a", {0: needles(LINE), 1: NOTHING})
    plain = Detections(*(getattr(found(), f) for f in ("boxes_xyxy_px", "scores", "classes")), ())
    assert compared((recording, [plain, plain])) is None
    nameless = video("b", {0: needles((UNKNOWN, LINE[1]))})
    assert compared((nameless, [found(LINE)])) is None


def made_up(num_videos=5):
    random = np.random.default_rng(1)
    recordings = []
    for number in range(num_videos):
        labels = {f: needles(LINE) if random.random() < 0.8 else NOTHING for f in range(11)}
        shifts = random.normal(0, 9, (11, 2))
        hits = random.random(11) < 0.7
        answers = [
            found(moved(LINE, *shift)) if hit else found()
            for shift, hit in zip(shifts, hits, strict=True)
        ]
        recordings.append((spaced(video(f"v{number}", labels)), answers))
    return recordings


def test_weights_equal_copies():
    recordings, weights = made_up(), [2, 0, 1, 3, 1]
    copies = [
        (replace(one, key=f"{one.key}-{copy}"), answers)
        for (one, answers), weight in zip(recordings, weights, strict=True)
        for copy in range(weight)
    ]
    comparison = compared(*recordings)
    weighted = instrument_figures(comparison, np.repeat([weights, [1] * 5], 11, axis=1))
    for expected, row in ((figures_of(*copies), 0), (figures_of(*recordings), 1)):
        assert set(weighted) == set(expected)
        for name, value in expected.items():
            assert weighted[name][row] == pytest.approx(value, nan_ok=True), name


def test_intervals_over_recordings():
    comparison = compared(*made_up())
    unit = np.repeat(np.arange(5), 11)
    intervals = bootstrap_intervals(lambda w: instrument_figures(comparison, w[:, unit]), 5)
    for name in ("tip_error_median_mm", "tip_within_3_mm", "flicker_per_s/needle"):
        assert intervals[name].low < intervals[name].value < intervals[name].high, name
