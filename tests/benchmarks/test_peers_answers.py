"""What a user of a peer must do after its graph, and what a graph costs."""

from pathlib import Path

import answers
import numpy as np
import pytest


def test_yolo_needs_suppression():
    # Two boxes of 20 x 10 at IoU 9/11, one elsewhere, one below the least score.
    cells = np.array([[30, 40, 20, 10], [32, 40, 20, 10], [90, 90, 7, 11], [5, 5, 3, 3]])
    rows = np.concatenate([cells, [[0.6], [0.8], [0.5], [0.1]]], 1, dtype=np.float32)
    found = answers.found_of("yolo", [rows.T[None]], 160, 0.25)
    np.testing.assert_allclose(found.scores, [0.8, 0.5])
    np.testing.assert_allclose(found.boxes_xyxy, [[22, 35, 42, 45], [86.5, 84.5, 93.5, 95.5]])


def test_nothing_found_by_yolo():
    found = answers.found_of("yolo", [np.zeros((1, 5, 13), np.float32)], 160, 0.25)
    assert found.boxes_xyxy.shape == (0, 4)
    assert len(found.scores) == 0


def test_end_to_end():
    rows = np.array([[1, 2, 3, 4, 0.3, 0], [5, 6, 7, 8, 0.9, 0], [0, 0, 0, 0, 0.1, 0]], np.float32)
    found = answers.found_of("end to end", [rows[None]], 160, 0.25)
    np.testing.assert_allclose(found.scores, [0.9, 0.3])
    np.testing.assert_allclose(found.boxes_xyxy[0], [5, 6, 7, 8])


@pytest.mark.parametrize(
    ("answer", "logits"),
    [
        ("sigmoid", [[np.log(0.25)], [np.log(3)]]),  # 0.2 and 0.75
        ("softmax", [[np.log(0.25), 0], [np.log(3), 0]]),  # the last class is "no object"
    ],
)
def test_queries(answer: str, logits: list[list[float]]):
    boxes = np.array([[[0.5, 0.5, 0.5, 0.25], [0.25, 0.5, 0.5, 1.0]]], np.float32)
    found = answers.found_of(answer, [np.array([logits], np.float32), boxes], 160, 0.1)
    np.testing.assert_allclose(found.scores, [0.75, 0.2], rtol=1e-6)
    np.testing.assert_allclose(found.boxes_xyxy, [[0, 0, 80, 160], [40, 60, 120, 100]])


def test_no_more_than_a_hundred_queries():
    logits, boxes = np.zeros((1, 307, 1), np.float32), np.zeros((1, 307, 4), np.float32)
    assert len(answers.found_of("sigmoid", [logits, boxes], 160, 0).scores) == 100


def test_network_input():
    picture = np.array([[0, 51], [255, 102]], np.uint8)
    tensor = answers.network_input(picture)
    assert tensor.shape == (1, 3, 2, 2)
    assert tensor.dtype == np.float32
    np.testing.assert_allclose(tensor[0, 2], [[0, 0.2], [1, 0.4]], rtol=1e-6)


def test_graph_cost(tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    constants = {"kernel": (5, 3, 3, 3), "weight": (7, 11)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "kernel"], ["map"], pads=[1, 1, 1, 1]),
            helper.make_node("MatMul", ["map", "weight"], ["answer"]),
        ],
        "two layers",
        [helper.make_tensor_value_info("images", real, [1, 3, 13, 7])],
        [helper.make_tensor_value_info("answer", real, [1, 5, 13, 11])],
        [
            onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name)
            for name, shape in constants.items()
        ],
    )
    path = tmp_path / "graph.onnx"
    onnx.save(helper.make_model(graph), path)
    cost = answers.graph_cost(path)
    assert cost.parameters == 5 * 3 * 9 + 7 * 11
    operations = 2 * (5 * 13 * 7) * 27 + 2 * (5 * 13 * 11) * 7
    assert cost.gflops == pytest.approx(operations / 1e9)
