import _thread
import signal
import threading
import time
from contextlib import contextmanager
from itertools import repeat

import numpy as np
import pytest
from live_parts import CLASSES, Kept, LiveSource, grey, predictor, recording, wait_until

from sonodetr.files import InputError
from sonodetr.stream import pipeline as pipeline_module
from sonodetr.stream.pipeline import Pipeline
from sonodetr.stream.sources import Recording
from sonodetr.types import Region


def run(*parts, watch=None, **options):
    return Pipeline(*parts, **options).run(threading.Event(), watch)


def adds_up(counts):
    assert counts["captured"] == counts["found"] + counts["dropped"]
    for sink in counts["sinks"].values():
        assert counts["found"] == sink["delivered"] + sink["dropped"]


def test_every_frame_of_a_recording():
    sink = Kept()
    counts = run(predictor(), Recording(recording(23), fast=True), [sink])
    assert sink.indices == list(range(23))
    assert [round(float(result.detections.scores[0]) * 255) for result in sink.results] == list(
        range(1, 24)
    )
    result = sink.results[4]
    np.testing.assert_allclose(result.detections.boxes_xyxy_px, [[3, 2, 9, 6]])
    assert result.detections.class_names == CLASSES
    assert (result.detections.frame_index, result.detections.time_s) == (4, 0.04)
    assert (counts["captured"], counts["found"], counts["dropped"]) == (23, 23, 0)
    assert counts["sinks"]["kept"]["delivered"] == 23
    assert counts["region"] == [0, 0, 12, 8]
    assert sink.closed


def test_a_recording_waits_for_files_and_for_nothing_else():
    def slow(result):
        time.sleep(0.004)

    file, viewer = Kept("file", slow, every_frame=True), Kept("viewer", slow)
    counts = run(predictor(), Recording(recording(97), fast=True), [file, viewer])
    assert file.indices == list(range(97))
    assert counts["sinks"]["file"]["dropped"] == 0
    adds_up(counts)
    held_up = threading.Event()
    stuck = Kept("viewer", lambda result: held_up.wait(20))
    file = Kept("file", lambda result: result.frame.index == 96 and held_up.set(), every_frame=True)
    counts = run(predictor(), Recording(recording(97), fast=True), [stuck, file])
    assert file.indices == list(range(97))
    held_up_sink = counts["sinks"]["viewer"]
    assert held_up_sink["delivered"] == 33  # one, and a full queue
    assert held_up_sink["dropped"] == 64
    assert stuck.indices == [0, *range(65, 97)]


def test_a_model_slower_than_the_stream_looks_at_the_newest():
    """Three frames come while the model looks at the first; two of them are lost."""
    coming, go_on = threading.Event(), threading.Event()

    def slow(clip):
        if clip == [1]:
            coming.set()
            assert go_on.wait(20)

    steps = [grey(1), lambda: coming.wait(20), grey(2), grey(3), grey(4), go_on.set]
    sink = Kept()
    counts = run(predictor(slow), LiveSource(steps), [sink])
    assert sink.indices == [0, 3]
    assert (counts["captured"], counts["found"], counts["dropped"]) == (4, 2, 2)
    adds_up(counts)


def test_slow_for_a_while():
    """The rate of the model, no backlog, and every drop counted."""
    sink = Kept()
    source = LiveSource([grey(1)] * 100, period_s=0.002, rate_hz=500.0)
    counts = run(predictor(lambda clip: time.sleep(0.02)), source, [sink])
    assert counts["captured"] == 100
    assert counts["dropped"] > 50
    assert counts["late"] == counts["found"]
    adds_up(counts)
    waits_s = [result.found_s - result.captured_s for result in sink.results]
    assert np.median(waits_s) < 0.2  # its own time, and at most that of the frame before
    assert sink.indices[-1] == 99


def test_a_slow_sink_costs_only_its_own_frames():
    go_on = threading.Event()
    slow, quick = Kept("slow", lambda result: go_on.wait(20)), Kept("quick")
    steps = [grey(1)] * 53
    # The next frame comes when the one before was found, the end when the quick sink has all.
    pacer = Kept("pacer")
    paced = [
        step
        for number in range(53)
        for step in (steps[number], lambda n=number: wait_until(lambda: len(pacer.results) > n))
    ]
    counts = run(predictor(), LiveSource([*paced, go_on.set]), [slow, quick, pacer])
    assert quick.indices == list(range(53))
    assert slow.indices == [0, *range(21, 53)]
    assert counts["sinks"]["slow"]["dropped"] == 20
    assert counts["dropped"] == 0
    adds_up(counts)


class Broken(RuntimeError):
    pass


def broken(*_):
    raise Broken("as it should")


@pytest.mark.parametrize("every_frame", [False, True])
def test_a_sink_that_raises_ends_alone(every_frame):
    def third(result):
        if result.frame.index == 2:
            raise Broken("no more")

    bad, good = Kept("bad", third, every_frame=every_frame), Kept("good", every_frame=True)
    pipeline = Pipeline(predictor(), Recording(recording(71), fast=True), [bad, good])
    with pytest.raises(Broken, match="no more"):
        pipeline.run(threading.Event())
    counts = pipeline.snapshot()
    assert good.indices == list(range(71))
    assert counts["sinks"]["bad"]["delivered"] == 2
    assert counts["sinks"]["bad"]["dropped"] == 69
    assert counts["sinks"]["bad"]["error"] == "Broken: no more"
    assert bad.closed
    adds_up(counts)


class Closed(Kept):
    @contextmanager
    def open(self):
        raise InputError("cannot write there")
        yield


def test_a_sink_that_cannot_be_opened_ends_all_before_the_first_frame():
    good = Kept()
    pipeline = Pipeline(predictor(), LiveSource([broken]), [good, Closed("bad")])
    with pytest.raises(InputError, match="cannot write there"):
        pipeline.run(threading.Event())
    assert pipeline.snapshot()["captured"] == 0
    assert good.closed


def test_a_sink_that_fails_to_close():
    class Open(Kept):
        @contextmanager
        def open(self):
            yield self.results.append
            raise InputError("the disk is full")

    sink = Open()
    with pytest.raises(InputError, match="the disk is full"):
        run(predictor(), Recording(recording(3), fast=True), [sink])
    assert sink.indices == [0, 1, 2]


def test_a_sink_that_never_returns_is_left(monkeypatch):
    monkeypatch.setattr(pipeline_module, "PATIENCE_S", 0.3)
    for_ever = threading.Event()
    sink, good = Kept("dead", lambda result: for_ever.wait(20)), Kept("good", every_frame=True)
    pipeline = Pipeline(predictor(), Recording(recording(5), fast=True), [sink, good])
    try:
        with pytest.raises(InputError, match="dead: takes no more frames, and was left"):
            pipeline.run(threading.Event())
        counts = pipeline.snapshot()
        assert counts["sinks"]["dead"]["dropped"] == 5
        assert good.indices == [0, 1, 2, 3, 4]
        adds_up(counts)
    finally:
        for_ever.set()


def test_a_source_that_never_answers_is_left(monkeypatch):
    monkeypatch.setattr(pipeline_module, "PATIENCE_S", 0.3)
    for_ever, stop = threading.Event(), threading.Event()
    source = LiveSource([grey(1), stop.set, lambda: for_ever.wait(20)])
    pipeline = Pipeline(predictor(), source, [Kept()])
    try:
        with pytest.raises(InputError, match="made up: does not answer"):
            pipeline.run(stop)
        adds_up(pipeline.snapshot())
    finally:
        for_ever.set()


def test_after_ctrl_c_what_hangs_is_named_too(monkeypatch, caplog):
    monkeypatch.setattr(pipeline_module, "PATIENCE_S", 0.3)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    for_ever = threading.Event()
    steps = [grey(1), _thread.interrupt_main, lambda: for_ever.wait(20)]
    try:
        with pytest.raises(KeyboardInterrupt):
            run(predictor(), LiveSource(steps), [Kept()])
    finally:
        for_ever.set()
        signal.signal(signal.SIGINT, handler)
    assert caplog.messages == ["made up: does not answer, and was left; look at the device"]


def test_a_model_that_never_answers_is_left(monkeypatch):
    """Also where the source waits for it, which is not to blame."""
    monkeypatch.setattr(pipeline_module, "PATIENCE_S", 0.3)
    for_ever, stop = threading.Event(), threading.Event()

    def hang(clip):
        if clip == [3]:
            stop.set()
            for_ever.wait(20)

    pipeline = Pipeline(predictor(hang), Recording(recording(29), fast=True), [sink := Kept()])
    try:
        with pytest.raises(InputError, match=r"the model takes over 0.3 s for a frame"):
            pipeline.run(stop)
        assert sink.indices == [0, 1]
        adds_up(pipeline.snapshot())
    finally:
        for_ever.set()


def test_a_sink_that_cannot_be_opened_is_told_before_a_model_that_hangs(monkeypatch):
    monkeypatch.setattr(pipeline_module, "PATIENCE_S", 0.3)
    for_ever = threading.Event()
    try:
        with pytest.raises(InputError, match="cannot write there"):
            run(predictor(lambda clip: for_ever.wait(20)), LiveSource([]), [Closed("bad")])
    finally:
        for_ever.set()


def test_a_source_that_fails():
    sink = Kept()
    pipeline = Pipeline(predictor(), LiveSource([grey(1), broken, grey(2)]), [sink])
    with pytest.raises(Broken, match="as it should"):
        pipeline.run(threading.Event())
    assert sink.indices == [0]  # what was captured is still delivered
    assert sink.closed


@pytest.mark.parametrize("live", [False, True])
def test_a_model_that_fails(live):
    def from_five(clip):
        if clip[-1] >= 5:
            raise Broken("out of order")

    pictures = [grey(level) for level in range(1, 30)]
    source = LiveSource(pictures, 0.001) if live else Recording(recording(29), fast=True)
    sink = Kept(every_frame=True)
    pipeline = Pipeline(predictor(from_five), source, [sink])
    with pytest.raises(Broken, match="out of order"):
        pipeline.run(threading.Event())
    counts = pipeline.snapshot()
    if not live:
        assert sink.indices == [0, 1, 2, 3]
    assert counts["dropped"] >= 1  # the frame itself, and what had come after it
    assert sink.closed
    adds_up(counts)


def test_a_model_that_fails_at_once_reads_nothing():
    with pytest.raises(Broken):
        run(predictor(broken), LiveSource([grey(1)]), [Kept()])


def test_stopped_from_outside():
    stop, sink = threading.Event(), Kept()
    source = LiveSource(repeat(grey(1)), period_s=0.001)
    pipeline = Pipeline(predictor(), source, [sink])
    ended = threading.Timer(0.2, stop.set)
    ended.start()
    counts = pipeline.run(stop)
    ended.join()
    assert counts["captured"] > 5
    assert len(sink.results) == counts["found"]
    adds_up(counts)


def test_watched_while_it_runs():
    seen = []
    source = LiveSource([grey(1)] * 40, period_s=0.01)
    run(predictor(), source, [Kept()], watch=seen.append)
    assert len(seen) >= 3
    assert seen[0]["captured"] <= seen[-1]["captured"] <= 40
    assert set(seen[0]) == {
        *("captured", "dropped", "found", "late", "frames_per_second", "latency_ms", "sinks"),
        *("region", "connections_lost"),
    }


@pytest.mark.parametrize("stage", ["open", "model", "source", "frame", "deliver", "end", "close"])
def test_ctrl_c_at_every_stage(stage):
    """Sinks are closed, no thread is left, and the caller is told."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    pressed = []

    def press(at):
        if at == stage and not pressed:
            pressed.append(at)
            _thread.interrupt_main()

    class Pressing(Kept):
        @contextmanager
        def open(self):
            press("open")
            with super().open() as deliver:
                yield deliver
            press("close")
            time.sleep(0.3)
            self.whole = True

    def steps():
        press("source")
        yield grey(1)
        press("frame")
        for _ in range(2000 if stage in ("open", "model", "source", "frame", "deliver") else 7):
            yield grey(2)
        press("end")

    sink = Pressing(each=lambda result: press("deliver"), every_frame=True)
    model = predictor(lambda clip: press("model"))
    pipeline = Pipeline(model, LiveSource(steps(), period_s=0.005), [sink])
    started_s = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(threading.Event())
    finally:
        signal.signal(signal.SIGINT, handler)
    assert time.monotonic() - started_s < 5
    assert pressed == [stage]
    assert sink.closed
    assert sink.whole
    adds_up(pipeline.snapshot())


def test_a_second_ctrl_c_waits_for_nothing():
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    go_on = threading.Event()

    def press_and_hang(result):
        _thread.interrupt_main()
        time.sleep(0.3)
        _thread.interrupt_main()
        go_on.wait(20)

    try:
        with pytest.raises(KeyboardInterrupt):
            run(predictor(), LiveSource([grey(1)]), [Kept(each=press_and_hang, every_frame=True)])
    finally:
        go_on.set()
        signal.signal(signal.SIGINT, handler)


def test_clips_of_frames_that_follow_each_other():
    model = predictor(clip_frames=3, clip_step=2)
    run(model, Recording(recording(6), fast=True))
    assert model.engine.clips[1:] == [
        [1, 1, 1],
        [1, 1, 2],
        [1, 1, 3],
        [1, 2, 4],
        [1, 3, 5],
        [2, 4, 6],
    ]


def paced(pictures, sink):
    """Each picture when the one before was looked at."""
    count = 0
    for step in pictures:
        yield step
        if isinstance(step, np.ndarray):
            count += 1
            wait_until(lambda: len(sink.results) == count)  # noqa: B023


def test_a_clip_starts_anew_when_the_source_was_lost_or_the_size_changes():
    model, sink = predictor(clip_frames=2), Kept()
    large = grey(7, (16, 24))
    steps = [grey(1), grey(2), 1, grey(3), grey(4), large, large, grey(5)]
    counts = run(model, LiveSource(paced(steps, sink)), [sink])
    assert model.engine.clips[1:] == [[1, 1], [1, 2], [3, 3], [3, 4], [7, 7], [7, 7], [5, 5]]
    assert counts["dropped"] == 0
    np.testing.assert_allclose(sink.results[4].detections.boxes_xyxy_px, [[6, 4, 18, 12]])
    np.testing.assert_allclose(sink.results[6].detections.boxes_xyxy_px, [[3, 2, 9, 6]])


def screen(seed, size=(120, 160)):
    """A name burned in above, and a picture of changing speckle in columns 40 to 140 below."""
    pixels = np.zeros(size, np.uint8)
    pixels[4:8, 8:60] = 255
    random = np.random.default_rng(seed)
    pixels[30:110, 40:140] = random.integers(40, 200, (80, 100))
    return pixels


def test_what_lies_outside_the_region_is_black():
    sink = Kept()
    source = LiveSource(paced(map(screen, range(13)), sink), period_s=0.1)
    counts = run(predictor(region="auto"), source, [sink])
    x0, y0, x1, y1 = counts["region"]
    assert 30 <= x0 <= 40
    assert 20 <= y0 <= 30
    assert 140 <= x1 <= 150
    assert 110 <= y1 <= 120
    for seed, result in enumerate(sink.results):
        assert not result.frame.pixels[:10].any()  # from the first frame on
        np.testing.assert_array_equal(
            result.frame.pixels[40:100, 50:130], screen(seed)[40:100, 50:130]
        )
    assert sink.results[-1].frame.region_px == Region(*counts["region"])


def test_unless_asked():
    sink = Kept()
    run(predictor(region="auto"), LiveSource([screen(1)]), [sink], show_outside=True)
    np.testing.assert_array_equal(sink.results[0].frame.pixels, screen(1))


def test_nothing_is_shown_before_it_is_known_what_may_be():
    """Text alone: no ultrasound picture. After a second it is shown as it is, as files are."""
    text = np.zeros((120, 160), np.uint8)
    text[4:8, 8:60] = 255
    sink, states = Kept(), []
    pipeline = Pipeline(predictor(region="auto"), LiveSource(paced([text] * 9, sink), 0.1), [sink])
    pipeline.run(threading.Event(), lambda counts: states.append(counts["region"]))
    assert not any(result.frame.pixels.any() for result in sink.results[:7])
    assert sink.results[8].frame.pixels.any()
    assert states[0] == "searching"
    assert pipeline.snapshot()["region"] == "whole frame"


def test_the_region_is_looked_for_again():
    sink = Kept()
    first = [screen(seed) for seed in range(8)]
    second = [np.ascontiguousarray(screen(seed, (130, 160))[::-1]) for seed in range(8)]
    source = LiveSource(paced([*first, *second], sink), period_s=0.1)
    counts = run(predictor(region="auto"), source, [sink])
    assert sink.results[7].frame.region_px != sink.results[15].frame.region_px
    assert counts["region"] == list(sink.results[15].frame.region_px)
    assert counts["region"][1] < 20
    assert not any(result.frame.pixels[-10:].any() for result in sink.results[8:])


def test_a_given_region():
    sink = Kept()
    source = LiveSource([grey(9)])
    counts = run(predictor(), source, [sink], region=Region(2, 1, 5, 7))
    assert counts["region"] == [2, 1, 5, 7]
    assert sink.results[0].frame.pixels.sum() == 9 * 3 * 6
    with pytest.raises(InputError, match="region 2,1,50,7 does not lie inside the 12 x 8 pixels"):
        run(predictor(), LiveSource([grey(9)]), [Kept()], region=Region(2, 1, 50, 7))


def test_thresholds():
    sink = Kept()
    run(predictor(threshold=0.04), Recording(recording(26), fast=True), [sink])
    assert [len(result.detections) for result in sink.results] == [0] * 10 + [1] * 16
    assert [len(result.everything) for result in sink.results] == [0] * 10 + [1] * 16
    run(predictor(), Recording(recording(26), fast=True), [sink := Kept()], threshold=0.07)
    assert [len(result.detections) for result in sink.results] == [0] * 17 + [1] * 9
    assert [len(result.everything) for result in sink.results] == [0] * 12 + [1] * 14


@pytest.mark.parametrize(
    ("source", "late"),
    [
        (LiveSource([grey(1)], rate_hz=50.0), 1),
        (LiveSource([grey(1)], rate_hz=2.0), 0),
        (LiveSource([grey(1)]), 1),  # a thirtieth of a second
        (Recording(recording(1, rate_hz=50.0)), 1),
        (Recording(recording(1, rate_hz=50.0), fast=True), 0),  # is not due at any time
    ],
)
def test_late(source, late):
    counts = run(predictor(lambda clip: time.sleep(0.04)), source)
    assert (counts["found"], counts["late"]) == (1, late)


def test_two_sinks_of_one_name():
    with pytest.raises(InputError, match=r"sink a: is given 2 times; give it once"):
        Pipeline(predictor(), LiveSource([]), [Kept("a"), Kept("b"), Kept("a")])
