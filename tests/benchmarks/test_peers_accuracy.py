"""A model of ours is trained on the peers' pictures and compared with them by recording."""

import shutil
import sys
from pathlib import Path

import accuracy
import pytest

from sonodetr.files import read_json, write_json


def test_refused(monkeypatch, capsys):
    for words, said in (([], "name a detector"), (["nano", "--minutes", "3"], "takes --samples")):
        monkeypatch.setattr(sys, "argv", ["accuracy.py", *words])
        with pytest.raises(SystemExit) as end:
            accuracy.main()
        assert end.value.code == 2
        assert said in capsys.readouterr().err


def test_table_says_what_was_measured():
    def row(name, ap, **more):
        figure = {"value": ap, "low": ap - 0.1, "high": ap + 0.1}
        part = dict.fromkeys(("ap", "ap50", "ap75"), figure)
        facts = {"run": f"{name}-1", "name": name, "samples": 4800, "processor_s": 90, "rate": 1}
        facts |= {"side": 160}
        return facts | {"validation": part, "test": part} | more

    gain = {"ap": {"value": 0.2, "low": -0.05, "high": 0.4}}
    collected = {
        "results": [row("nano", 0.5), row("yolo11n", 0.3, rate=2, processor_s=600)],
        "differences": [{"ours": "nano-1", "peer": "yolo11n-1"} | gain],
    }
    timed = accuracy.table(collected, {("nano", 160): 0.67, ("yolo11n", 160): 2.853})
    assert [line.split(" | ")[-1] for line in timed.splitlines()[:4]] == [
        *("ms a picture |", "--- |", "0.67 |", "2.85 |")
    ]
    shown = accuracy.table(collected)
    assert "| nano | 4,800 | 2 | 0.500 | 0.500 (0.400 to 0.600) | 0.500 | 0.500 |" in shown
    assert "| yolo11n, rate x 2 | 4,800 | 10 | 0.300 |" in shown
    assert shown.endswith(
        "nano (4,800 pictures, 2 min) less yolo11n, rate x 2 (4,800 pictures, 10 min): "
        "AP +0.200 (-0.050 to +0.400)"
    )


def test_ours_is_trained_and_compared(three_parts: Path, tmp_path: Path, monkeypatch, capsys):
    out, file = tmp_path / "runs", tmp_path / "accuracy.json"
    words = ["nano", "--samples", "4", "--side", "64", "--test", "--data", str(three_parts)]
    words += ["--out", str(out), "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["accuracy.py", *words])
    accuracy.main()
    (result,) = read_json(file)["results"]
    assert (result["run"], result["samples"], result["epochs"]) == ("nano-64-4-0", 4, 2)
    assert result["processor_s"] > 0
    assert 0 <= result["test"]["ap"]["value"] <= 1
    # A peer that found just the same lies neither above nor below, in any draw.
    peer = out / "yolo11n-64-4-0"
    shutil.copytree(out / "nano-64-4-0", peer)
    write_json(peer / "result.json", result | {"name": "yolo11n"})
    stamp = (out / "nano-64-4-0" / "training" / "model.safetensors").stat().st_mtime_ns
    accuracy.main()  # trains nothing anew
    assert stamp == (out / "nano-64-4-0" / "training" / "model.safetensors").stat().st_mtime_ns
    (difference,) = read_json(file)["differences"]
    assert (difference["ours"], difference["peer"]) == ("nano-64-4-0", "yolo11n-64-4-0")
    assert difference["ap"]["value"] == 0
    assert "nano (4 pictures, 0 min) less yolo11n (4 pictures, 0 min): AP +0.000" in (
        capsys.readouterr().out
    )
    # What was measured where the runs no longer are stays in the file.
    shutil.rmtree(peer)
    before = read_json(file)
    accuracy.main()
    assert read_json(file)["results"] == before["results"]
    assert read_json(file)["differences"] == before["differences"]
