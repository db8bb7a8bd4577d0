"""Detectors are timed in turns, and the table says what was measured."""

from pathlib import Path

import latency
import numpy as np
import pytest

from sonodetr.contract import Contract, write_contract
from sonodetr.files import InputError


def test_turns_alternate_and_warm_up_is_not_counted():
    order: list[str] = []

    def detector(name: str) -> latency.Detector:
        def graph(tensor: np.ndarray) -> list[np.ndarray]:
            assert tensor.shape == (37, 37)
            order.append(name)
            return [tensor]

        return latency.Detector(lambda picture: picture, graph, len, {"title": name})

    rows = latency.in_turns([detector("a"), detector("b")], 37, 18)
    assert order == (["a"] * 10 + ["b"] * 10) * 3
    assert [row["title"] for row in rows] == ["a", "b"]
    for row in rows:
        assert 0 < row["least_ms"] <= row["p50_ms"] <= row["p95_ms"]
        assert row["graph_p50_ms"] < row["p50_ms"]


def test_table():
    quick = {"title": "quick", "parameters": 1_230_000, "gflops": 0.5, "after the graph": "none"}
    slow = {"title": "slow", "after the graph": "NMS"}
    times = {"p50_ms": 1.5, "p95_ms": 2.25}
    results = [
        {"side": 160, "runtime": "onnx", "threads": 1, "detectors": [quick | times, slow | times]},
        {"side": 160, "runtime": "openvino", "threads": 2, "detectors": [quick | times]},
        {"side": 256, "runtime": "onnx", "threads": 1, "detectors": [slow | times]},
    ]
    assert latency.table(results, 160).splitlines() == [
        "| detector | parameters, M | GFLOPs | after the graph | ONNX Runtime, 1 thread "
        "| OpenVINO, 2 threads |",
        "| --- | --- | --- | --- | --- | --- |",
        "| quick | 1.23 | 0.50 | none | 1.50 / 2.25 | 1.50 / 2.25 |",
        "| slow |  |  | NMS | 1.50 / 2.25 |  |",
    ]


def _contract(clip_frames: int) -> Contract:
    graphs = {"detect": "model.xml"}
    files = {"model.xml": "0", "model.bin": "0"}
    shape = {"image_size": (96, 96), "channels": 1, "clip_frames": clip_frames, "clip_step": 1}
    words = {"name": "tiny", "runtime": "openvino", "precision": "float32", "region": "auto"}
    words |= {"spacing": "", "input": "", "weights_sha256": ""}
    rest = {"classes": ("needle",), "threshold": 0.5, "points": False, "versions": {}}
    rest |= {"parity": {}, "provenance": {}, "graphs": graphs, "files_sha256": files}
    return Contract(**shape, **words, **rest)


def test_ours_is_left_out_where_it_does_not_fit(tmp_path: Path):
    write_contract(tmp_path, _contract(1))
    assert latency.ours(tmp_path, 160, "openvino", 1) is None
    assert latency.ours(tmp_path, 96, "onnx", 1) is None


def test_ours_must_see_single_frames(tmp_path: Path):
    write_contract(tmp_path, _contract(3))
    with pytest.raises(InputError, match="single frames"):
        latency.ours(tmp_path, 96, "openvino", 1)
