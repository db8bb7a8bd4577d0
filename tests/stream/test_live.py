"""`sonodetr live`, in this process and as one of its own."""

import errno
import json
import os
import pty
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from exported import write_exported
from live_parts import wait_until

from sonodetr.sinks import overlay_video
from sonodetr.types import Detections, Frame

NOTHING = Detections(
    np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ()
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_exported(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def minutes(tmp_path_factory):
    """A recording of 2 minutes at 20 Hz."""
    path = tmp_path_factory.mktemp("videos") / "long.mp4"
    with overlay_video(path, 20.0) as write:
        for index in range(2400):
            write(Frame(np.full((32, 48), 100 + index % 90, np.uint8), index, index / 20), NOTHING)
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_says_of_a_recording_what_predict_says(model, tiny_video, tmp_path, answer):
    answer("predict", model, tiny_video, "--out", tmp_path, "--no-video")
    fast = ["--no-viewer", "--fast", "--sink", tmp_path / "live.jsonl"]
    result = answer("live", model, tiny_video, *fast, "--sink", tmp_path / "live.mp4")
    assert lines(tmp_path / "live.jsonl") == lines(tmp_path / "detections.jsonl")
    assert len(lines(tmp_path / "live.jsonl")) == 13
    assert (tmp_path / "live.mp4").stat().st_size > 1000
    assert (result["captured"], result["found"], result["dropped"]) == (13, 13, 0)
    assert result["sinks"][str(tmp_path / "live.mp4")]["delivered"] == 13
    assert (result["model"], result["source"]) == (str(model), str(tiny_video))
    assert result["latency_ms"]["p99"] >= result["latency_ms"]["p50"] > 0
    assert result["seconds"] > 0


def test_at_its_own_times(model, tiny_video, tmp_path, answer):
    result = answer("live", model, tiny_video, "--no-viewer")
    assert result["seconds"] > 12 / 17
    assert result["captured"] == result["found"] == 13
    assert result["sinks"] == {}


def test_summary(model, tiny_video, capsys):
    from sonodetr.cli import run

    assert run(["live", str(model), str(tiny_video), "--no-viewer", "--fast"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert "13 captured, 0 dropped" in out
    assert err == ""


def test_seconds(model, minutes, answer):
    result = answer("live", model, minutes, "--seconds", "0.7", "--port", "0", "--track")
    assert 3 <= result["captured"] <= 30
    assert result["captured"] == result["found"] + result["dropped"]
    assert list(result["sinks"]) == ["viewer"]
    assert result["sinks"]["viewer"]["error"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--threshold", "1.5"], "--threshold 1.5 is not allowed"),
        (["--seconds", "0"], "--seconds 0.0 is not allowed; give more than 0"),
        (["--seconds", "nan"], "--seconds nan is not allowed"),
        (["--region", "1,2"], "--region '1,2' is not allowed"),
        (["--region", "0,0,5000,5"], "region 0,0,5000,5 does not lie inside"),
        (["--sink", "a.avi"], "--sink a.avi is not allowed; give FILE.mp4, FILE.jsonl"),
        (["--sink", "a.jsonl", "--sink", "a.jsonl"], "sink a.jsonl: is given 2 times"),
        (["--sink", "/dev/null/a.jsonl"], "cannot write /dev/null/a.jsonl: "),
        (["--port", "70000"], "Invalid value for '--port'"),
        (["--host", "203.0.113.1"], "the viewer cannot listen on 203.0.113.1"),
        (["--sink", "igtl-listen://0.0.0.0:1"], "OpenIGTLink knows no passwords"),
    ],
)
def test_what_is_refused(model, tiny_video, refused, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    viewer = [] if "--host" in words else ["--no-viewer"]
    assert said in refused("live", model, tiny_video, "--fast", *viewer, *words)
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken(model, tiny_video, refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("live", model, tiny_video, "--port", port)
    assert f"the viewer cannot listen on 127.0.0.1:{port}" in said
    assert os.strerror(errno.EADDRINUSE) in said


def start(words, prepare=lambda: None, **options):
    def begin():
        # Whoever runs the tests in the background has Ctrl-C ignored, and children inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        prepare()

    return subprocess.Popen(
        [sys.executable, "-m", "sonodetr", "live", *map(str, words)],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options,
        start_new_session=True,  # signals go to the whole group, as from a terminal
        preexec_fn=begin,
    )


def interrupt(process, ready):
    """Ctrl-C once `ready()`; exit code, standard output and error."""

    def reached():
        assert process.poll() is None, process.communicate()
        return ready()

    wait_until(reached)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert "Traceback" not in err
    return process.returncode, out, err


def test_ctrl_c_while_frames_come(model, minutes, tmp_path):
    found, video = tmp_path / "a.jsonl", tmp_path / "a.mp4"
    words = [model, minutes, "--port", "0", "--sink", found, "--sink", video, "--json", "-"]
    process = start(words)
    code, out, err = interrupt(process, lambda: found.exists() and found.stat().st_size > 1000)
    assert code == 130
    counts = json.loads(out)
    assert counts["captured"] == counts["found"] + counts["dropped"]
    assert counts["sinks"][str(found)]["delivered"] == counts["found"] == len(lines(found))
    assert counts["sinks"][str(video)]["delivered"] == counts["found"]
    assert video.read_bytes()[4:8] == b"ftyp"  # closed whole
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    address, stopped = err.strip().splitlines()
    assert address.startswith("sonodetr: watch it at http://127.0.0.1:")
    assert stopped == "sonodetr: stopped"


def test_ctrl_c_while_nobody_sends(model, tmp_path):
    """Waiting for a server that is not there, which is said once."""
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]
    path = tmp_path / "a.jsonl"
    process = start([model, f"igtl://127.0.0.1:{port}", "--no-viewer", "--sink", path])
    code, out, err = interrupt(process, path.exists)
    assert (code, out) == (130, "")
    assert err.strip().splitlines()[-1] == "sonodetr: stopped"
    assert err.count("no connection yet") <= 1


def test_ctrl_c_at_its_end(model, tiny_video):
    """With a viewer it stays there, so that one can look at it."""
    process = start([model, tiny_video, "--port", "0"])
    url = process.stderr.readline().split()[4]

    def at_its_end():
        time.sleep(0.2)
        with urllib.request.urlopen(url) as page:
            assert page.status == 200
        return time.monotonic() > end_s

    end_s = time.monotonic() + 1.5
    code, out, _ = interrupt(process, at_its_end)
    assert code == 130
    assert "13 captured, 0 dropped" in out
    assert "viewer: 13 delivered, 0 dropped" in out


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
@pytest.mark.parametrize("package", ["numpy", "cv2", "onnxruntime", "av"])
def test_ctrl_c_while_it_starts(model, minutes, package):
    """As soon as the compiled part of a package is loaded, and has begun to set itself up."""
    process = start([model, minutes, "--no-viewer"])
    maps = Path(f"/proc/{process.pid}/maps")
    code, _, err = interrupt(process, lambda: f"/{package}/" in maps.read_text())
    assert code == 130, err
    assert err == "sonodetr: stopped\n"


def test_full_disk(model, tiny_video, tmp_path):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))

    words = [model, tiny_video, "--no-viewer", "--fast", "--threshold", "0"]
    for name in ("a.jsonl", "a.mp4"):
        process = start([*words, "--sink", tmp_path / name], small_files)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 2, err
        assert "13 captured, 0 dropped" in out
        error = err.splitlines()[-1]
        assert error.startswith(f"sonodetr: error: cannot write {tmp_path / name}: File too large")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    assert 0 < len(lines(tmp_path / "a.jsonl")) < 13


def test_the_line_on_a_terminal(model, tiny_video):
    main, terminal = pty.openpty()
    process = start([model, tiny_video, "--no-viewer"], stderr=terminal)
    os.close(terminal)
    said = b""
    try:
        while data := os.read(main, 4096):
            said += data
    except OSError:  # how Linux says that the other end was closed
        pass
    os.close(main)
    assert process.wait(20) == 0
    process.stdout.close()
    assert b"frames/s, latency p50 " in said
    assert said.endswith(b"\r\x1b[K")
    assert b"\n" not in said


def test_an_exported_model_is_live_without_torch(model, tiny_video, tmp_path):
    code = (
        "import sys; from sonodetr.cli import run\n"
        f"words = ['live', {str(model)!r}, {str(tiny_video)!r}, '--port', '0', '--seconds', '1',\n"
        f"         '--track', '--sink', {str(tmp_path / 'a.mp4')!r}]\n"
        "assert run(words) == 0\n"
        "from sonodetr.stream.sources import open_stream\n"
        "open_stream('igtl-listen://127.0.0.1:0')\n"
        "print({'torch', 'transformers', 'pydicom', 'scipy.stats'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_help():
    done = subprocess.run(
        [sys.executable, "-m", "sonodetr", "live", "-h"], capture_output=True, text=True, check=True
    )
    assert "  sonodetr live exported/nano igtl://scanner:18944" in done.stdout
