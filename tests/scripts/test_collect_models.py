"""README's table of models says what their run folders and a benchmark say."""

import json
import shutil
import sys

import collect_models
import pytest
import write_tables

import sonodetr
from sonodetr.files import InputError


@pytest.fixture
def run(tiny_run, tmp_path):
    """A run folder that is evaluated."""
    folder = tmp_path / "student"
    shutil.copytree(tiny_run, folder)
    facts = json.loads((folder / "run.json").read_text())
    facts["validation"] = {"ap": 0.375}
    (folder / "run.json").write_text(json.dumps(facts))
    interval = {"value": 0.5, "low": 0.25, "high": 0.625, "defined": 1.0}
    figures = {"ap": interval, "ap50": interval | {"value": 0.75}, "recall": interval}
    figures["tip_error_median_mm"] = interval | {"value": 1.125}
    result = {"threshold": facts["threshold"], "intervals": {"figures": figures}}
    (folder / "evaluation-test").mkdir()
    (folder / "evaluation-test" / "evaluation.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def speed(run, tmp_path):
    """A benchmark of it and of another model."""
    row = {"image_size": [64, 96], "threads": 1}
    rows = [
        row | {"model": str(run), "runtime": "onnx", "model_ms": {"p50": 2.5}},
        row | {"model": str(run), "runtime": "openvino", "model_ms": {"p50": 1.75}},
        row | {"model": "another", "runtime": "onnx", "model_ms": {"p50": 0.125}},
    ]
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps({"results": rows, "machine": {"processor": "Abacus 7"}}))
    return path


def test_collected_and_written(run, speed, tmp_path, monkeypatch):
    (run / "metrics.jsonl").write_text('{"step": 300}\n{"step": 600}\n')
    batch = sonodetr.load_config(run / "config.yaml").train.batch_size
    out = tmp_path / "models.json"
    words = ["collect_models.py", f"a = b={run}", "--latency", str(speed), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    collect_models.main()
    found = json.loads(out.read_text())
    assert found["machine"] == {"processor": "Abacus 7"}
    (model,) = found["models"]
    assert model["label"] == "a = b"
    assert model["pictures_seen"] == 600 * batch
    assert set(model["test"]) == {"ap", "ap50", "tip_error_median_mm"}
    model |= {"pictures_seen": 57_600, "parameters": 1_250_000}
    assert write_tables.models(found).splitlines()[2] == (
        "| a = b | 1.25 | 57,600 | 0.375 | 0.500 (0.250 to 0.625) | 0.750 | 1.12 | 1.75 |"
    )


def test_refused(run, speed, monkeypatch):
    (run / "metrics.jsonl").write_text('{"step": 300}\n')
    times = json.loads(speed.read_text())
    with pytest.raises(InputError, match="is not timed; run: sonodetr benchmark"):
        collect_models.row("x", run, {"results": []})
    path = run / "evaluation-test" / "evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threshold": 2}))
    with pytest.raises(InputError, match="is of other weights than"):
        collect_models.row("x", run, times)
    shutil.rmtree(path.parent)
    with pytest.raises(InputError, match="not tested; run: sonodetr evaluate"):
        collect_models.row("x", run, times)
    monkeypatch.setattr(sys, "argv", ["x", "nameless", "--latency", str(speed), "--out", "x.json"])
    with pytest.raises(InputError, match="nameless: give LABEL=RUN"):
        collect_models.main()
