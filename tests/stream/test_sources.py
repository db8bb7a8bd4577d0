import socket
import threading
import time

import cv2
import numpy as np
import pytest
from live_parts import Kept, grey, predictor, recording, wait_until

from sonodetr.files import InputError
from sonodetr.formats.openigtlink import image_content, pack
from sonodetr.stream import sources
from sonodetr.stream.pipeline import Pipeline
from sonodetr.stream.sources import Camera, Recording, open_stream
from sonodetr.types import Video


def test_a_recording_as_fast_as_possible():
    source = Recording(recording(7, rate_hz=0.01), fast=True)
    captured = list(source.frames(threading.Event()))
    assert [each.frame.index for each in captured] == list(range(7))
    assert [each.frame.time_s for each in captured] == [100.0 * index for index in range(7)]
    assert captured[3].frame.pixels[0, 0] == 4
    assert captured[3].captured_s <= time.monotonic()
    assert (source.name, source.live, source.playback) == ("made-up.mp4", False, None)
    assert source.rate_hz == pytest.approx(0.01)


def test_a_recording_at_its_own_times():
    source = Recording(recording(6, rate_hz=50.0))
    captured = list(source.frames(threading.Event()))
    after_s = np.array([each.captured_s for each in captured]) - captured[0].captured_s
    assert (after_s >= np.arange(6) / 50 - 1e-3).all()
    assert [each.part for each in captured] == [0] * 6
    assert source.playback.position == 5


def test_a_recording_without_times_is_played_at_ten_a_second():
    still = recording(4)
    source = Recording(Video("a", still.frames, np.zeros(4)))
    assert source.rate_hz is None
    captured = list(source.frames(threading.Event()))
    assert captured[3].captured_s - captured[0].captured_s >= 0.299
    assert captured[3].frame.time_s == 0.0


def test_stopped_at_once():
    stop = threading.Event()
    stop.set()
    assert list(Recording(recording(4)).frames(stop)) == []
    assert list(Recording(recording(4), fast=True).frames(stop)) == []


class Device:
    """What `cv2.VideoCapture` gives: some pictures, then nothing more."""

    def __init__(self, pictures, rate_hz=25.0):
        self.pictures, self.rate_hz = list(pictures), rate_hz
        self.opened = self.released = False

    def isOpened(self):
        self.opened = True
        return bool(self.pictures)

    def get(self, what):
        return {cv2.CAP_PROP_FPS: self.rate_hz}[what]

    def set(self, what, value):
        assert (what, value) == (cv2.CAP_PROP_BUFFERSIZE, 1)

    def read(self):
        return (True, self.pictures.pop(0)) if self.pictures else (False, None)

    def release(self):
        self.released = True


def blue(level):
    return np.full((8, 12, 3), (level, 0, 0), np.uint8)


@pytest.fixture
def plugged(monkeypatch):
    """Cameras as they are opened, one after the other; None where there is none."""

    def plug(*devices):
        waiting = list(devices)
        monkeypatch.setattr(sources, "RETRY_S", 0.01)
        monkeypatch.setattr(
            cv2, "VideoCapture", lambda number: waiting.pop(0) if waiting else Device([])
        )

    return plug


def test_a_camera_that_goes_and_comes_back(plugged):
    first, second = Device(map(blue, (1, 2, 3))), Device(map(blue, (5, 7)))
    plugged(first, Device([]), Device([]), second)
    camera, stop, captured = Camera(0), threading.Event(), []
    for each in camera.frames(stop):
        captured.append(each)
        if len(captured) == 5:
            stop.set()
    assert [each.frame.pixels[0, 0].tolist() for each in captured] == [
        [0, 0, level] for level in (1, 2, 3, 5, 7)
    ]
    assert [each.frame.index for each in captured] == [0, 1, 2, 3, 4]
    assert [each.part for each in captured] == [0, 0, 0, 1, 1]
    assert captured[0].frame.time_s == 0.0
    assert (camera.name, camera.live, camera.rate_hz) == ("camera:0", True, 25.0)
    assert camera.lost == 1
    assert first.released
    assert second.released


def test_a_camera_in_the_pipeline(plugged):
    """Lost for ever: the pipeline goes on waiting, and ends when it is told to."""
    plugged(Device(map(blue, (100, 200))))
    stop, sink = threading.Event(), Kept()
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    counts = Pipeline(predictor(), open_stream("camera:3"), [sink]).run(stop)
    timer.join()
    assert counts["captured"] == counts["found"] + counts["dropped"] == 2
    assert sink.indices[-1] == 1
    assert counts["connections_lost"] == 1


def test_a_camera_that_names_no_rate(plugged):
    plugged(Device([blue(1)], rate_hz=0.0))
    assert Camera(0).rate_hz is None


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("camera:7", "camera:7: cannot be opened; plug it in"),
        ("camera:front", "camera:front: not the name of a camera; give camera:0"),
        ("igtl://", "not an OpenIGTLink address"),
        ("nowhere.mp4", "nowhere.mp4: no such file"),
    ],
)
def test_what_cannot_be_opened(plugged, address, words):
    plugged()
    with pytest.raises(InputError, match=words) as caught:
        open_stream(address)
    assert "\n" not in str(caught.value)


def test_only_recordings_are_fast(plugged):
    plugged(device := Device([blue(1)]))
    for address in ("camera:0", "igtl://scanner"):
        with pytest.raises(InputError, match=f"{address}: --fast is for recordings"):
            open_stream(address, fast=True)
    assert not device.opened  # nor held on to


def test_addresses(tiny_video):
    assert open_stream(str(tiny_video)).name == "tiny.mp4"
    source = open_stream("igtl://127.0.0.1:18945")
    assert (source.name, source.live) == ("igtl://127.0.0.1:18945", True)
    source = open_stream("igtl-listen://127.0.0.1:0")
    assert (source.name, source.live) == ("igtl-listen://127.0.0.1:0", True)


def test_openigtlink_goes_and_comes_back_with_another_size():
    """Through real sockets: every frame is looked at, and clips start anew."""
    source, stop, sink = open_stream("igtl-listen://127.0.0.1:0"), threading.Event(), Kept()
    model = predictor(clip_frames=2)
    pipeline = Pipeline(model, source, [sink])

    def push():
        wait_until(lambda: source.port != 0)
        for levels, size in (((1, 2, 3), (8, 12)), ((4, 5), (16, 24))):
            with socket.create_connection(("127.0.0.1", source.port)) as peer:
                for level in levels:
                    before = len(sink.results)
                    content = image_content(grey(level, size), np.eye(4))
                    peer.sendall(pack("IMAGE", "Image", *content))
                    wait_until(lambda: len(sink.results) > before)  # noqa: B023
        wait_until(lambda: source.lost == 2)
        stop.set()

    sender = threading.Thread(target=push)
    sender.start()
    counts = pipeline.run(stop)
    sender.join(10)
    assert sink.indices == [0, 1, 2, 3, 4]
    assert sink.results[4].frame.pixels.shape == (16, 24)
    assert model.engine.clips[1:] == [[1, 1], [1, 2], [2, 3], [4, 4], [4, 5]]
    assert (counts["captured"], counts["dropped"], counts["connections_lost"]) == (5, 0, 2)
