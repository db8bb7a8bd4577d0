"""The command line as a process: what it loads, signals, full disks, closed pipes."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sonodetr.sinks import overlay_video
from sonodetr.types import Detections, Frame

PYTHON = [sys.executable, "-m", "sonodetr"]


def start(words, prepare=lambda: None, **options):
    def begin():
        # Whoever runs the tests in the background has Ctrl-C ignored, and children inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        prepare()

    return subprocess.Popen(
        [*PYTHON, *map(str, words)],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # signals go to the whole group, as from a terminal
        preexec_fn=begin,
        **options,
    )


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["simulate", "-h"], ["predict"]])
def test_answers_at_once(words):
    """No torch, transformers, onnxruntime, numpy, cv2 or av for help and wrong words."""
    code = (
        "import sys; from sonodetr.cli import run; code = run(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'onnxruntime', 'numpy', 'cv2', 'av'};"
        "print(heavy & set(sys.modules), code)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    ).stdout
    assert out.endswith(f"set() {2 if words == ['predict'] else 0}\n")


def test_version_and_examples():
    version = subprocess.run([*PYTHON, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("sonodetr 0.")
    for verb in ("simulate", "train", "evaluate", "predict", "info"):
        shown = subprocess.run([*PYTHON, verb, "-h"], capture_output=True, text=True, check=True)
        assert f"  sonodetr {verb} " in shown.stdout


def interrupt(process, ready):
    """Ctrl-C once `ready()`; exit code, standard output and error."""
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_stopped_service_leaves_nothing(tmp_path):
    """SIGTERM, to the program alone, ends it as Ctrl-C does."""
    process = start(["export", "nano", tmp_path / "out"])
    deadline = time.monotonic() + 120
    while not list(tmp_path.iterdir()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in err) == (130, False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_place_where_nothing_can_be_made():
    place = "/proc/nowhere"
    found = subprocess.run(
        [*PYTHON, "benchmark", "nano", "--out", place], capture_output=True, text=True
    )
    assert found.returncode == 2
    assert found.stderr == (
        "sonodetr: error: /proc: cannot be written (No such file or directory); "
        "choose another folder\n"
    )


def test_ctrl_c_while_predicting(tiny_run, tiny_video, tmp_path):
    nothing = Detections(
        np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ()
    )
    with overlay_video(tmp_path / "long.mp4", 30.0) as write:
        for index in range(2000):
            write(Frame(np.full((64, 64), index % 200, np.uint8), index, index / 30), nothing)
    out = tmp_path / "out"
    process = start(["predict", tiny_run, tmp_path / "long.mp4", "--out", out])
    code, stdout, stderr = interrupt(process, lambda: list(out.glob(".*")))
    assert (code, stdout) == (130, "")
    assert stderr.strip().splitlines()[-1] == "sonodetr: stopped"
    assert "Traceback" not in stderr
    assert not out.exists()


def test_ctrl_c_while_training(tiny_training, tmp_path):
    """With data workers, which get the signal as well."""
    words = ["train", tiny_training, "train.epochs=1000", "train.workers=2", "--out", tmp_path]
    process = start([*words, "train.checkpoint_seconds=0"])
    run = tmp_path / "tiny"
    code, stdout, stderr = interrupt(process, (run / "checkpoint.safetensors").exists)
    assert (code, stdout) == (130, "")
    assert "Traceback" not in stderr
    assert "sonodetr: stopped; go on from the last checkpoint with --resume" in stderr
    assert not [path for path in run.rglob("*") if ".part" in path.name]


def test_ctrl_c_while_simulating(tmp_path):
    """Finished clips stay; its processes say nothing and leave nothing half-written."""
    out = tmp_path / "out"
    process = start(["simulate", out, "--clips", "500", "--size", "64", "--workers", "2"])
    code, stdout, stderr = interrupt(process, lambda: len(list(out.glob("clip-*"))) > 1)
    assert (code, stdout) == (130, "")
    assert stderr == "sonodetr: stopped; finished clips are kept; start it again to go on\n"
    assert all(len(list(clip.glob("*.png"))) == 8 for clip in out.glob("clip-*"))
    assert not list(out.glob(".*"))
    assert not (out / "coco.json").exists()


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))


def test_full_disk_while_predicting(tiny_run, tiny_video, tmp_path):
    words = ["predict", tiny_run, tiny_video, "--out", tmp_path / "out", "--threshold", "0"]
    for more in ([], ["--no-video"]):
        process = start([*words, *more], small_files)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (2, "")
        assert err.startswith("sonodetr: error: cannot write")
        assert "File too large; free some space" in err
        assert err.count("\n") == 1
        assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_standard_output():
    with open("/dev/full", "w") as full:
        process = start(["info", "--json", "-"], stdout=full)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert (
        err
        == "sonodetr: error: cannot write the output: No space left on device; free some space\n"
    )


def test_reader_that_has_gone():
    process = start(["--help"])
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(60) == 1
    assert err == ""


def test_ctrl_c_in_code_made_from_a_string(tmp_path):
    """As when a library makes a dataclass: `python -m` itself would end by the signal."""
    (tmp_path / "probe.py").write_text(
        "import atexit, sys, sonodetr.about, sonodetr.cli as cli\n"
        "sonodetr.about.installation = lambda: exec('raise KeyboardInterrupt')\n"
        "atexit.register(print, 'cleaned up')\n"
        "sys.argv = ['sonodetr', 'info']\n"
        "cli.main()\n"
    )
    words = [sys.executable, "-m", "probe"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (130, "cleaned up"), done.stderr
    assert done.stderr.strip() == "sonodetr: stopped"
