import errno
import json
from contextlib import nullcontext
from fractions import Fraction
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

from sonodetr.files import InputError
from sonodetr.sinks import (
    json_lines,
    overlay_picture,
    overlay_video,
    picture_video,
    prediction_files,
)
from sonodetr.types import Detections, Frame, Video

FOUND = Detections(
    np.float32([[3, 25, 40, 31]]), np.float32([0.5]), np.int64([0]), ("nerve",), time_s=0.25
)


def write_video(path, times_s, size=(71, 99), rate_hz=17.0):
    with overlay_video(path, rate_hz) as write:
        for index, time_s in enumerate(times_s):
            write(Frame(np.full(size, 5 * index, np.uint8), index, time_s), FOUND)


def read_back(path):
    """Rate, length in seconds and codec of a video, and its frames."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        facts = (
            float(stream.guessed_rate),
            float(stream.duration * stream.time_base),
            stream.codec_context.name,
        )
        return facts, list(container.decode(video=0))


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(17), Fraction(15, 2)])
def test_video_keeps_frames_and_rate(tmp_path, rate):
    write_video(tmp_path / "a.mp4", [float(i / rate) for i in range(23)], rate_hz=float(rate))
    (rate_hz, length_s, _), frames = read_back(tmp_path / "a.mp4")
    assert len(frames) == 23
    assert rate_hz == pytest.approx(float(rate), rel=1e-3)
    assert length_s == pytest.approx(float(23 / rate), abs=1e-3)
    assert frames[11].to_ndarray(format="gray")[60, 60] == pytest.approx(55, abs=3)


@pytest.mark.parametrize("rate_hz", [1 / 4000, 1e9])
def test_video_of_odd_rates(tmp_path, rate_hz):
    write_video(tmp_path / "a.mp4", [0.0, 4000.0, 8000.0], rate_hz=rate_hz)
    _, frames = read_back(tmp_path / "a.mp4")
    assert [frame.time for frame in frames] == pytest.approx([0, 4000, 8000], abs=1e-3)


def test_video_plays_in_a_browser(tmp_path):
    """H.264, 4:2:0, even sides, index before the pictures."""
    write_video(tmp_path / "a.mp4", [0.0, 1 / 17])
    (_, _, codec), frames = read_back(tmp_path / "a.mp4")
    assert codec == "h264"
    assert frames[0].format.name == "yuv420p"
    assert (frames[0].height, frames[0].width) == (72, 100)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_video_keeps_uneven_times(tmp_path):
    times_s = [0.0, 0.1, 0.4, 0.5, 1.1]
    write_video(tmp_path / "a.mp4", times_s)
    _, frames = read_back(tmp_path / "a.mp4")
    assert [frame.time for frame in frames] == pytest.approx(times_s, abs=1e-3)


def test_unknown_times_are_spread_evenly(tmp_path):
    write_video(tmp_path / "a.mp4", [0.0, 0.0, 0.0], rate_hz=10.0)
    _, frames = read_back(tmp_path / "a.mp4")
    assert [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.2], abs=1e-3)


@pytest.mark.parametrize(
    ("times_s", "kept_s"),
    [
        ([0.0, 1.7e18, 1.7e18 + 1e9], [0, 0.1, 0.2]),
        ([0.0, 1e300, 2e300], [0, 0.1, 0.2]),
        ([0.0, 4e5, 4.1e5], [0, 0.1, 0.2]),
        ([1.7e9, 1.7e9 + 0.5, 1.7e9 + 0.75], [0, 0.5, 0.75]),
    ],
    ids=["nanoseconds", "absurd", "days", "since 1970"],
)
def test_times_that_no_file_can_hold(tmp_path, times_s, kept_s):
    write_video(tmp_path / "a.mp4", times_s, rate_hz=10.0)
    _, frames = read_back(tmp_path / "a.mp4")
    assert [frame.time for frame in frames] == pytest.approx(kept_s, abs=1e-3)


def test_pictures_that_no_coder_takes(tmp_path):
    with (
        pytest.raises(InputError, match="20000 x 4 pixels cannot be coded"),
        picture_video(tmp_path / "a.mp4", 10.0) as write,
    ):
        write(np.zeros((4, 20_000, 3), np.uint8), 0.0)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_not_blamed_on_the_pictures(tmp_path, monkeypatch):
    def encode(picture):
        av.error.err_check(-errno.ENOSPC)

    stream = SimpleNamespace(codec_context=SimpleNamespace(), encode=encode)
    container = SimpleNamespace(add_stream=lambda *given, **options: stream, mux=None)
    monkeypatch.setattr("sonodetr.sinks.av.open", lambda *given, **options: nullcontext(container))
    with (
        pytest.raises(InputError, match=r"cannot write .*a\.mp4: No space left on device"),
        picture_video(tmp_path / "a.mp4", 10.0) as write,
    ):
        write(np.zeros((4, 4, 3), np.uint8), 0.0)


def test_lines(tmp_path):
    with json_lines(tmp_path / "a.jsonl") as write:
        for index in range(2):
            write(Frame(np.zeros((5, 7), np.uint8), index), FOUND)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert lines == [FOUND.to_dict()] * 2


def test_picture_keeps_its_colours(tmp_path):
    red = np.full((53, 59, 3), (200, 10, 20), np.uint8)
    with overlay_picture(tmp_path / "a.png") as write:
        write(Frame(red), FOUND)
    assert cv2.imread(str(tmp_path / "a.png"))[50, 50].tolist() == [20, 10, 200]


@pytest.mark.parametrize(
    ("count", "overlay", "names"),
    [
        (3, True, {"detections.jsonl", "overlay.mp4"}),
        (3, False, {"detections.jsonl"}),
        (1, True, {"detections.jsonl", "overlay.png"}),
    ],
)
def test_files_of_a_prediction(tmp_path, count, overlay, names):
    video = Video("a", np.zeros((count, 22, 26), np.uint8), np.zeros(count))
    with prediction_files(tmp_path / "new", video, overlay=overlay) as (write, paths):
        for index in range(count):
            write(Frame(video.frames[index], index), FOUND)
    assert {path.name for path in paths} == names
    assert {path.name for path in (tmp_path / "new").iterdir()} == names


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError])
def test_what_fails_leaves_nothing(tmp_path, error):
    video = Video("a", np.zeros((2, 22, 26), np.uint8), np.zeros(2))

    def fail():
        with prediction_files(tmp_path, video) as (write, _):
            write(Frame(video.frames[0]), FOUND)
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []
