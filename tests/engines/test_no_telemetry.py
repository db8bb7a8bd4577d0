"""Nobody is told that a model is opened."""

import os
import subprocess
import sys

from exported import write_exported


def test_opening_a_graph_leaves_nothing_behind(tmp_path):
    """ONNX Runtime's telemetry writes an identity of the machine before it sends anything."""
    folder = write_exported(tmp_path / "exported", "onnx")
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    code = "import sys, time, sonodetr; sonodetr.load(sys.argv[1]); time.sleep(1)"
    places = {"HOME": str(home), "TMPDIR": str(scratch)}
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", code, str(folder)], env=kept | places, check=True)
    assert [*home.rglob("*"), *scratch.rglob("*")] == []
