"""What is bundled opens by its name, names no place, and says what was measured."""

import json
import re
import shutil
import sys

import bundle_model
import pytest

import sonodetr
from sonodetr import bundled
from sonodetr.files import InputError

CLEAN = "0123456789abcdef0123456789abcdef01234567"


def edit(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def evaluation(run, part, ap):
    """What `evaluate` leaves, as far as the card needs it."""
    interval = {"value": ap, "low": ap - 0.125, "high": ap + 0.25, "defined": 1.0}
    figures = {"ap": interval, "recall": interval | {"low": None, "high": None}}
    test = part == "test"
    result = {
        "data": "simulated/needle-small" if test else f"simulated/needle-small/{part}",
        "split": "test" if test else "all",
        **{"past": "real", "threshold": 0.01, "figures": {"frames": 41}},
        "intervals": {"confidence": 0.95, "unit": "recording", "units": 7, "figures": figures},
    }
    folder = run / f"evaluation-{part}"
    folder.mkdir()
    (folder / "evaluation.json").write_text(json.dumps(result))


@pytest.fixture
def run(tiny_run, tmp_path, monkeypatch):
    """A distilled run of a clean commit, evaluated on all that is asked for."""
    monkeypatch.setattr(bundled, "MODELS", tmp_path / "models")
    folder = tmp_path / "runs" / "student"
    shutil.copytree(tiny_run, folder)
    text = (folder / "config.yaml").read_text()
    text = text.replace("path: ''", "path: /home/someone/simulated/needle-small", 1)
    text = text.replace("teacher: ''", "teacher: /home/someone/runs/wise")
    (folder / "config.yaml").write_text(text.replace("cache: ''", "cache: /home/someone/targets"))

    def made(facts):
        facts["provenance"]["git_revision"] = CLEAN
        facts["validation"] = {"ap": 0.375}

    edit(folder / "run.json", made)
    teacher = {"teacher": "/home/someone/runs/wise", "fingerprint": "fedcba"}
    (folder / "teacher.json").write_text(json.dumps(teacher))
    (folder / "split.json").write_text('{"train": {"clip": [0]}}')
    (folder / "recordings.json").write_text('{"clip": "1"}')
    evaluation(folder, "test", 0.5)
    evaluation(folder, "shifted", 0.25)
    return folder


def test_bundled(run, tmp_path, monkeypatch):
    words = ["bundle_model.py", str(run), "wee"]
    monkeypatch.setattr(sys, "argv", words)
    bundle_model.main()
    folder = tmp_path / "models" / "wee"
    names = {"README.md", "config.yaml", "model.safetensors", "run.json"}
    names |= {"recordings.json", "split.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert bundled.model_names() == ["wee"]
    assert sonodetr.load("wee").class_names == ("nerve", "vessel")
    assert (folder / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()

    config = sonodetr.load_config(folder / "config.yaml")
    assert (config.name, config.data.path) == ("wee", "needle-small")
    assert (config.distill.teacher, config.distill.cache) == ("wise", "")
    for name in ("README.md", "config.yaml", "run.json"):
        assert not re.search("someone|linux", (folder / name).read_text(), re.I), name


def test_the_card(run, tmp_path):
    times = {"p50": 3.14159, "p99": 5.0}
    row = {"runtime": "onnx", "precision": "float32", "image_size": [64, 96], "threads": 1}
    rows = [row | {"model": str(run), "frame_ms": times, "file_mb": 2.5}]
    rows += [row | {"model": "another", "frame_ms": times, "file_mb": 77}]
    speed = {"results": rows, "machine": {"processor": "Abacus 7"}, "notes": ["it was disturbed"]}
    (tmp_path / "benchmark.json").write_text(json.dumps(speed))
    card = (bundle_model.bundle(run, "wee", tmp_path / "benchmark.json") / "README.md").read_text()
    for text in (
        "# wee\n",
        "nerve, vessel, in single frames",
        "64 x 96 pixels",
        "Not a medical device",
        "Apache-2.0",
        "sonodetr train configs/wise.yaml data.path=needle-small\n",
        "sonodetr distill src/sonodetr/models/wee/config.yaml --teacher runs/wise\n",
        "sonodetr simulate needle-small --set needle-small\n",
        f"git revision {CLEAN}\n",
        "best validation AP (0.375) at step 0\n",
        "fingerprint of the teacher, wise: fedcba\n",
        "| figure | test (41 frames, 7 recordings) | shifted (41 frames, 7 recordings) |",
        "| AP, IoU 0.50:0.95 | 0.500 (0.375 to 0.750) | 0.250 (0.125 to 0.500) |",
        "| recall | 0.500 | 0.250 |",
        "| onnx, float32 | 64 x 96 | 1 | 3.14 | 5.00 | 2.50 |",
        "Abacus 7",
        "Note: it was disturbed",
    ):
        assert text in card, text
    assert "77" not in card.partition("## Time")[2]
    assert "tip error" not in card  # was not measured


def test_again_replaces_it(run, tmp_path):
    folder = bundle_model.bundle(run, "wee")
    (folder / "old.txt").write_text("old")
    assert bundle_model.bundle(run, "wee") == folder
    assert not (folder / "old.txt").exists()


def test_refused(run, tmp_path):
    def refuses(said, name="wee", latency=None):
        with pytest.raises(InputError, match=said) as error:
            bundle_model.bundle(run, name, latency)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "models" / "wee").exists()

    (tmp_path / "benchmark.json").write_text('{"results": [{"model": "another"}]}')
    refuses("does not time .*; run: sonodetr benchmark", latency=tmp_path / "benchmark.json")
    refuses("'../wee' is no name for a model", name="../wee")
    edit(run / "evaluation-shifted" / "evaluation.json", lambda it: it.update(threshold=0.5))
    refuses("is of other weights")
    shutil.rmtree(run / "evaluation-shifted")
    refuses("not evaluated on the shifted part of its data; run: sonodetr evaluate .* DATA/shift")
    shutil.rmtree(run / "evaluation-test")
    refuses("not evaluated on the test part of its data; run: sonodetr evaluate .* --split test")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("unlabelled: ''", "unlabelled: more"))
    refuses("began with other data or weights")
    (run / "config.yaml").write_text(text.replace("simulated/needle-small", "patients"))
    refuses("learns from simulated data; 'patients' is no simulated data set")
    for revision in (f"{CLEAN}-dirty", None):
        edit(run / "run.json", lambda it, to=revision: it["provenance"].update(git_revision=to))
        refuses(f"source that no commit holds .git_revision {revision}")
