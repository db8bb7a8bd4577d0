"""`sonodetr export` on the command line."""

import json

from sonodetr.cli import run


def test_one_line(ready, tmp_path, capsys):
    assert run(["export", str(ready), str(tmp_path / "out")]) == 0
    line = capsys.readouterr().out
    size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) / 1e6
    assert line.startswith(f"{tmp_path / 'out'}: onnx, float32, {size:.2f} MB; in float32 at most ")
    assert line.endswith(" from torch on 6 frames\n")


def test_json(ready, tmp_path, capsys):
    assert run(["export", str(ready), str(tmp_path / "out"), "--json", "-"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["files"] == ["detect.onnx", "split.json", "contract.json"]
    assert (result["runtime"], result["precision"]) == ("onnx", "float32")
    assert set(result["parity"]["largest_difference"]) == {"scores", "boxes_cxcywh", "points"}


def test_mistakes(ready, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert run(["export", str(ready), out, "--calibration", "data"]) == 2
    assert "--calibration is for --int8" in capsys.readouterr().err
    assert run(["export", str(ready), out, "--format", "tensorrt"]) == 2
    assert "tensorrt" in capsys.readouterr().err
    assert run(["export", str(ready), out, "--int8"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())
