"""Exported folders with graphs whose answers can be told by hand; no model is behind them.

Two objects: the mean grey of the last frame is the score of the first, half of it that of the
second; the mean grey of the oldest frame is where the first one's centre lies across.
"""

from pathlib import Path

import numpy as np
import onnx
import openvino
from onnx import TensorProto, helper, numpy_helper

from sonodetr.contract import Contract, sha256, write_contract

HEIGHT, WIDTH = 32, 48
CLASSES = ("nerve", "vessel")
POINTS = [[[0.25, 0.5], [0.75, 1.0]], [[0.0, 0.25], [1.0, 0.5]]]
SHAPES = {"scores": [2], "classes": [2], "boxes_cxcywh": [2, 4], "points": [2, 2, 2]}


def write_exported(
    folder: Path,
    runtime: str = "onnx",
    clip_frames: int = 1,
    *,
    two_graphs: bool = False,
    points: bool = True,
    extra_output: bool = False,
    **changes: object,
) -> Path:
    """An exported folder; `changes` are of its contract."""
    folder.mkdir(parents=True)
    size = [HEIGHT, WIDTH, 1]
    if two_graphs:
        graphs = {
            "frame": _model("picture", size, {"features": [1]}, _features()),
            "clip": _model(
                "features", [clip_frames, 1], _outputs(points), _answers("features", points)
            ),
        }
    else:
        outputs = _outputs(points) | ({"all_scores": [clip_frames]} if extra_output else {})
        mean = [_cast("pictures"), *_mean([1, 2, 3], "all_scores"), *_answers("all_scores", points)]
        graphs = {"detect": _model("pictures", [clip_frames, *size], outputs, mean)}
    for name, graph in graphs.items():
        path = folder / f"{name}.onnx"
        onnx.save(graph, path)
        if runtime == "openvino":
            openvino.save_model(openvino.Core().read_model(path), path.with_suffix(".xml"))
            path.unlink()
    ending = {"onnx": "onnx", "openvino": "xml"}[runtime]
    fields: dict = {
        **{"image_size": (HEIGHT, WIDTH), "channels": 1, "clip_frames": clip_frames},
        **{"clip_step": 1, "region": "full", "classes": CLASSES, "threshold": 0.25},
        **{"points": points, "name": "tiny", "runtime": runtime, "precision": "float32"},
        **{"graphs": {name: f"{name}.{ending}" for name in graphs}},
        **{"spacing": "none", "input": "uint8", "weights_sha256": "0" * 64},
        **{"files_sha256": {path.name: sha256(path) for path in folder.iterdir()}},
        **{"versions": {"onnx": onnx.__version__}, "parity": {"scores": 0.0}, "provenance": {}},
    }
    write_contract(folder, Contract(**(fields | changes)))
    return folder


def _model(
    name: str, shape: list[int], outputs: dict[str, list[int]], nodes: list
) -> onnx.ModelProto:
    picture = TensorProto.FLOAT if name == "features" else TensorProto.UINT8
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, picture, shape)],
        [
            helper.make_tensor_value_info(
                each, TensorProto.INT64 if each == "classes" else TensorProto.FLOAT, sizes
            )
            for each, sizes in outputs.items()
        ],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def _outputs(points: bool) -> dict[str, list[int]]:
    return {name: shape for name, shape in SHAPES.items() if points or name != "points"}


def _constant(name: str, value: object, dtype: type = np.float32) -> onnx.NodeProto:
    tensor = numpy_helper.from_array(np.array(value, dtype))
    return helper.make_node("Constant", [], [name], value=tensor)


def _cast(name: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], ["light"], to=TensorProto.FLOAT)


def _mean(axes: list[int], name: str) -> list[onnx.NodeProto]:
    """Mean of `light` over some axes, in 0..1."""
    return [
        _constant("axes", axes, np.int64),
        _constant("white", 255),
        helper.make_node("ReduceMean", ["light", "axes"], ["grey"], keepdims=0),
        helper.make_node("Div", ["grey", "white"], [name]),
    ]


def _features() -> list[onnx.NodeProto]:
    return [
        _cast("picture"),
        *_mean([0, 1, 2], "mean"),
        _constant("one", [1], np.int64),
        helper.make_node("Reshape", ["mean", "one"], ["features"]),
    ]


def _answers(features: str, points: bool) -> list[onnx.NodeProto]:
    nodes = [
        _constant("flat", [-1], np.int64),
        helper.make_node("Reshape", [features, "flat"], ["frames"]),
        _constant("minus_one", [-1], np.int64),
        _constant("zero", [0], np.int64),
        helper.make_node("Gather", ["frames", "minus_one"], ["last"]),
        helper.make_node("Gather", ["frames", "zero"], ["oldest"]),
        _constant("half", [0.5]),
        helper.make_node("Mul", ["last", "half"], ["less"]),
        helper.make_node("Concat", ["last", "less"], ["scores"], axis=0),
        _constant("rest", [0.5, 0.25, 0.5, 0.5, 0.5, 1.0, 1.0]),
        helper.make_node("Concat", ["oldest", "rest"], ["numbers"], axis=0),
        _constant("rows", [2, 4], np.int64),
        helper.make_node("Reshape", ["numbers", "rows"], ["boxes_cxcywh"]),
        _constant("classes", [1, 0], np.int64),
    ]
    return [*nodes, _constant("points", POINTS)] if points else nodes
