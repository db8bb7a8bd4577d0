import json
import os
import resource
import signal
import subprocess
import sys
import threading

import av
import numpy as np
import pytest
from live_parts import grey, predictor, recording

from sonodetr.files import InputError
from sonodetr.stream.flow import Result, Sink
from sonodetr.stream.pipeline import Pipeline
from sonodetr.stream.sinks import LinesFile, OverlayFile, fitted, open_sink
from sonodetr.stream.sources import Recording
from sonodetr.types import Detections, Frame


def result(index=0, size=(70, 98), points_px=None):
    found = Detections(
        np.float32([[3, 25, 40, 31]]),
        np.float32([0.5]),
        np.int64([0]),
        ("nerve",),
        points_px,
        frame_index=index,
        time_s=index / 10,
    )
    return Result(Frame(grey(99, size), index, index / 10), found, found, 1.0, 1.0)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_appended_one_by_one(tmp_path):
    path = tmp_path / "new" / "a.jsonl"
    for start in (0, 2):
        with LinesFile(path).open() as deliver:
            for index in range(start, start + 2):
                deliver(result(index))
                assert lines(path)[-1] == result(index).detections.to_dict()  # not when it closes
    assert [line["frame"] for line in lines(path)] == [0, 1, 2, 3]


@pytest.mark.parametrize("rest", ["", '{"fra', '{"frame": 3, "ti', '{"frame": 3' + "x" * 70_001])
@pytest.mark.parametrize("before", ["", '{"frame": 2}\n'])
def test_half_a_line_is_cut_off(tmp_path, before, rest):
    path = tmp_path / "a.jsonl"
    path.write_text(before + rest)
    with LinesFile(path).open() as deliver:
        deliver(result(5))
    assert path.read_text() == before + json.dumps(result(5).detections.to_dict()) + "\n"


@pytest.mark.parametrize("mine", ["my own words", '{"frame": 3}', "a\n" + "x" * 70_001])
def test_a_last_line_of_somebody_else_stays(tmp_path, mine):
    path = tmp_path / "a.jsonl"
    path.write_text(mine)
    with LinesFile(path).open() as deliver:
        deliver(result(5))
    assert path.read_text() == f"{mine}\n{json.dumps(result(5).detections.to_dict())}\n"


def test_killed_while_writing(tmp_path):
    """What was delivered is in the file, whatever becomes of the process."""
    path = tmp_path / "a.jsonl"
    code = (
        f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "from test_live_sinks import result, LinesFile\n"
        f"with LinesFile({str(path)!r}).open() as deliver:\n"
        "    for index in range(10**6):\n"
        "        deliver(result(index))\n"
        "        if index == 100: print('go', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"go\n"
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    process.stdout.close()
    written = path.read_text().split("\n")[:-1]
    assert [json.loads(line)["frame"] for line in written] == list(range(len(written)))
    assert len(written) > 100


def test_full_disk(tmp_path):
    """The lines before it stay whole, the others are counted; the error is raised at the end."""
    pipeline = Pipeline(
        predictor(),
        Recording(recording(43), fast=True),
        [LinesFile(tmp_path / "a.jsonl"), LinesFile(tmp_path / "b.jsonl")],
    )
    # Processes are limited, not threads: both files are, at the same place.
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*a\.jsonl: File too large; free"):
            pipeline.run(threading.Event())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    counts = pipeline.snapshot()
    for name in ("a.jsonl", "b.jsonl"):
        sink = counts["sinks"][str(tmp_path / name)]
        assert (tmp_path / name).read_text().endswith("\n")
        assert len(lines(tmp_path / name)) == sink["delivered"] == 1000 // 114
        assert sink["dropped"] == 43 - sink["delivered"]
        assert "File too large" in sink["error"]
    assert counts["found"] == 43


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("here")
    for name in ("a.jsonl", "a.mp4"):
        sink = open_sink(str(tmp_path / "file" / name))
        with pytest.raises(InputError, match=r"cannot write .*a\.(jsonl|mp4): "):
            sink.open().__enter__()


def test_video_of_frames_of_two_sizes(tmp_path):
    path = tmp_path / "a.mp4"
    sizes = [(70, 98), (70, 98), (35, 98), (140, 98)]
    with OverlayFile(path, 10.0).open() as deliver:
        for index, size in enumerate(sizes):
            deliver(result(index, size))
    with av.open(str(path)) as container:
        frames = [
            frame.to_ndarray(format="gray").astype(int) for frame in container.decode(video=0)
        ]
        assert container.streams.video[0].codec_context.name == "h264"
    assert [frame.shape for frame in frames] == [(70, 98)] * 4
    assert frames[1][60, 90] == pytest.approx(99, abs=4)
    assert frames[2][5, 60] == pytest.approx(0, abs=6)  # bars above and below
    assert frames[2][50, 90] == pytest.approx(99, abs=4)
    assert frames[3][35, 10] == pytest.approx(0, abs=6)  # bars left and right
    assert frames[3][10, 70] == pytest.approx(99, abs=4)


def test_video_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "a.mp4"
    with OverlayFile(path).open() as deliver:
        deliver(result())
        assert not path.exists()
    assert path.exists()


def test_fitted_keeps_what_fits():
    picture = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    assert fitted(picture, (5, 7)) is picture
    assert fitted(picture, (11, 7)).shape == (11, 7, 3)
    np.testing.assert_array_equal(fitted(picture, (11, 7))[3:8], picture)
    assert not fitted(picture, (11, 7))[:3].any()


def test_addresses(tmp_path):
    for name, kind in (("a.jsonl", LinesFile), ("B.MP4", OverlayFile)):
        sink = open_sink(str(tmp_path / name))
        assert isinstance(sink, kind)
        assert isinstance(sink, Sink)
        assert sink.every_frame
        assert sink.name == str(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    sink = open_sink("igtl://127.0.0.1:18944")
    assert sink.name == "igtl://127.0.0.1:18944"
    assert not getattr(sink, "every_frame", False)
    assert open_sink("igtl-listen://127.0.0.1:0").name == "igtl-listen://127.0.0.1:0"


@pytest.mark.parametrize("address", ["a.avi", "found", "http://a/b", ""])
def test_addresses_that_are_none(address):
    with pytest.raises(InputError, match=r"--sink .* is not allowed; give FILE.mp4, FILE.jsonl"):
        open_sink(address)
