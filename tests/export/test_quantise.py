"""8 bits: ranges from the training part, the cost from the rest."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from sonodetr.contract import read_contract
from sonodetr.evaluation.evaluate import evaluate
from sonodetr.export import convert, quantise
from sonodetr.export.convert import export_model
from sonodetr.export.files import operators, read_graph
from sonodetr.files import InputError, read_json, write_json
from sonodetr.formats import read
from sonodetr.predictor import load
from sonodetr.types import Detections


@pytest.fixture
def data(tiny_training: Path) -> Path:
    """13 stills with one nerve each."""
    return tiny_training.parent / "coco.json"


@pytest.fixture
def trained(exported, data, tmp_path, monkeypatch):
    """A run folder of a kind that was trained on these stills; its graphs are traced already."""

    def make(kind: str) -> Path:
        run, out = exported(kind)
        copied = tmp_path / "runs" / kind
        shutil.copytree(run, copied)
        keys = [video.key for video in read(data)]
        parts = {"train": keys[:7], "validation": keys[7:10], "test": keys[10:]}
        division = {part: {key: [0] for key in keys} for part, keys in parts.items()}
        write_json(copied / "split.json", division)
        graphs = read_contract(out).graphs

        def write(model, config, folder, format):
            for path in out.glob("[!cs]*") if "detect" in graphs else out.glob("*.onnx"):
                shutil.copyfile(path, folder / path.name)
            return graphs

        monkeypatch.setattr(convert, "_write_graphs", write)
        return copied

    return make


@pytest.mark.parametrize("kind", ["compact-openvino", "mixing"])
def test_eight_bits(trained, data, tmp_path, kind, capfd):
    run, out = trained(kind), tmp_path / "out"
    format = "openvino" if "openvino" in kind else "onnx"
    contract = export_model(run, out, format=format, int8=True, calibration=data)
    assert read_contract(out) == contract
    assert contract.precision == "int8"
    assert "nncf" in contract.versions
    assert contract.parity["frames"] == {"simulated": 6, "real": 13, "undecided": 0}
    cost = contract.parity["int8"]
    assert (cost["frames"], cost["unit"], cost["allowed"]) == (6, "image", 0.005)
    assert cost["before"] - cost["after"] == pytest.approx(cost["loss"]["value"])
    # Nearly what it was, and not the same: it is in 8 bits.
    frame = read(data)[0].frames[0]
    (ours,), (theirs,) = (list(load(each).predict([frame], threshold=0.0)) for each in (out, run))
    difference = np.abs(np.sort(ours.scores) - np.sort(theirs.scores)).mean()
    assert 1e-5 < difference < 0.1
    # nncf talks to nobody
    assert capfd.readouterr().out == ""
    assert sys.modules["openvino_telemetry"] is None
    found = evaluate(out, data, out=tmp_path / "evaluation", split="test")
    assert found["figures"]["frames"] == 3


@pytest.mark.parametrize("kind", ["compact-onnx", "compact-openvino"])
def test_the_transformer_and_what_comes_after_it_stay_in_float32(exported, kind):
    """The convolutions of proposals come after the encoder, which they must not draw in."""
    (path,) = exported(kind)[1].glob("detect.[ox][nm][nl]*")
    graph = read_graph(path)
    taken, kinds = "pictures", dict(operators(graph))
    kept = set(quantise._kept(graph, taken))
    convolutions = [name for name, each in kinds.items() if each == "Conv"]
    assert convolutions[0] in kept
    # The first of them reads the backbone: a runtime may put it in front.
    after = {"compact-onnx": 3, "compact-openvino": 2}[kind]
    assert [name for name in convolutions if name in kept] == [
        *convolutions[:1],
        *convolutions[len(convolutions) - after :],
    ]
    assert {"Softmax", "TopK"} <= {kinds[name] for name in kept}
    assert not {"Softmax", "TopK"} & {kinds[name] for name in kinds.keys() - kept}


def refused(run: Path, data: Path, **options) -> str:
    """The one line with which an export is refused, and nothing is left."""
    out = run.parent / "out"
    with pytest.raises(InputError) as error:
        export_model(run, out, int8=True, calibration=data, **options)
    assert not out.exists()
    assert sorted(path.name for path in run.parent.iterdir()) == [run.name]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_other_data(trained, data, tmp_path, tiny_video):
    run = trained("compact-onnx")
    document = json.loads(data.read_text())
    document["categories"][0]["name"] = "tendon"
    other = tmp_path / "other"
    shutil.copytree(data.parent, other)
    (other / "coco.json").write_text(json.dumps(document))
    message = refused(run, other / "coco.json")
    assert "objects of class tendon, which the model does not know" in message
    assert "no such file" in refused(run, tmp_path / "absent.json")
    division = read_json(run / "split.json")
    write_json(run / "split.json", division | {"train": {"elsewhere": [0]}})
    assert "'elsewhere', which the data does not have" in refused(run, data)
    write_json(run / "split.json", division | {"train": {}})
    assert "names no frames to train on" in refused(run, data)
    write_json(run / "split.json", [])
    assert "does not hold train, validation, test" in refused(run, data)


def perfect(videos, frames, *, above: int = 0):
    """Every object found, but none in the first `above` frames."""
    found = {}
    for number, (video, frame) in enumerate(frames):
        labels = videos[video].labels[frame]
        rows = slice(0, 0) if number < above else slice(None)
        found[videos[video].key, frame] = Detections(
            labels.boxes_xyxy_px[rows],
            np.full(len(labels.classes), 0.5, np.float32)[rows],
            labels.classes[rows],
            videos[video].classes,
        )
    return found


def test_what_it_costs(data, monkeypatch):
    videos = read(data)
    held_out = [(index, 0) for index in range(3, 13)]
    calibration = quantise.Calibration(videos, [(0, 0)], held_out)
    monkeypatch.setattr(quantise, "load", lambda folder: {"before": 0, "after": 2}[folder.name])
    monkeypatch.setattr(quantise, "detect", lambda missing, *given: perfect(*given, above=missing))
    folders = Path("before"), Path("after")
    with pytest.raises(
        InputError, match=r"loses 0\.1980 of average precision \(1\.0000 to 0\.8020"
    ):
        quantise.held_out_loss(*folders, calibration, 0.005)
    cost = quantise.held_out_loss(*folders, calibration, 0.2)
    # 8 of 10 found: precision 1 at the 81 recalls of 0 to 0.8, of 101.
    assert (cost["before"], cost["after"]) == pytest.approx((1, 81 / 101))
    assert cost["loss"]["low"] >= 0
    assert cost["loss"]["high"] <= 1
    assert quantise.held_out_loss(*folders[::-1], calibration, 0.0)["loss"]["value"] < 0
