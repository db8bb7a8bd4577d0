"""Layers and floors of graphs whose operations and bytes are counted by hand."""

import math

import numpy as np
import pytest

from sonodetr.benchmark.floor import (
    CONVOLUTION,
    ELEMENTS,
    KINDS,
    LAYOUT,
    PRODUCT,
    ROWS,
    Layer,
    floor_by_kind,
    kind_of,
    layers_of,
    seconds_of,
    weights_of,
    working_set,
)

onnx = pytest.importorskip("onnx")
pytest.importorskip("openvino")
FLOAT, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8


def write(path, nodes, inputs, outputs, constants):
    """An ONNX file of `nodes` (operator, inputs, output, attributes)."""
    made = [
        onnx.helper.make_node(operator, taken, [given], name=given, **attributes)
        for operator, taken, given, attributes in nodes
    ]
    graph = onnx.helper.make_graph(
        made,
        "graph",
        [onnx.helper.make_tensor_value_info(*each) for each in inputs],
        [onnx.helper.make_tensor_value_info(*each) for each in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


@pytest.fixture
def residual_block(tmp_path):
    """conv + bias + ReLU beside a shortcut: [1, 5, 7, 11], 5 channels out, 3x3."""
    nodes = [
        ("Conv", ["x", "weight", "bias"], "conv", {"pads": [1, 1, 1, 1]}),
        ("Relu", ["conv"], "relu", {}),
        ("Add", ["relu", "x"], "sum", {}),
        ("Mul", ["positions", "positions"], "constant", {}),
        ("Add", ["sum", "constant"], "y", {}),
    ]
    shape = [1, 5, 7, 11]
    constants = {
        "weight": np.ones((5, 5, 3, 3), np.float32),
        "bias": np.ones(5, np.float32),
        "positions": np.ones(shape, np.float32),
    }
    return write(
        tmp_path / "block.onnx", nodes, [("x", FLOAT, shape)], [("y", FLOAT, shape)], constants
    )


def test_a_convolution_and_what_comes_with_it(residual_block):
    layers = layers_of(residual_block)
    numbers, weights = 5 * 7 * 11, 5 * 5 * 9
    (convolution,) = (layer for layer in layers if layer.kind == CONVOLUTION)
    assert convolution.operations == 2 * numbers * 5 * 9
    assert convolution.bytes == 4 * (numbers + weights + numbers)
    assert convolution.weights == weights
    assert not convolution.int8
    # Bias and ReLU are free, the shortcut and positions are read.
    (shortcut,) = (layer for layer in layers if layer.kind == ELEMENTS)
    assert (shortcut.operations, shortcut.bytes) == (0, 4 * numbers)
    assert len(layers) == 2
    assert working_set(layers) == 4 * weights + convolution.bytes
    assert weights_of(residual_block) == weights + 5 + numbers


def test_attention(tmp_path):
    """3 heads, 5 queries of width 7, 11 keys."""
    nodes = [
        ("Transpose", ["keys"], "turned", {"perm": [0, 2, 1]}),
        ("MatMul", ["queries", "turned"], "logits", {}),
        ("Softmax", ["logits"], "attention", {"axis": -1}),
        ("MatMul", ["attention", "keys"], "mixed", {}),
        ("MatMul", ["mixed", "weight"], "y", {}),
    ]
    path = write(
        tmp_path / "attention.onnx",
        nodes,
        [("queries", FLOAT, [3, 5, 7]), ("keys", FLOAT, [3, 11, 7])],
        [("y", FLOAT, [3, 5, 13])],
        {"weight": np.ones((7, 13), np.float32)},
    )
    by_name = {layer.name: layer for layer in layers_of(path)}
    queries, keys, logits = 3 * 5 * 7, 3 * 11 * 7, 3 * 5 * 11
    assert by_name["logits"] == Layer(
        "logits", PRODUCT, 2 * logits * 7, 4 * (queries + keys + logits)
    )
    assert by_name["attention"] == Layer("attention", ROWS, 0, 4 * 2 * logits)
    assert by_name["mixed"].operations == 2 * queries * 11
    assert by_name["y"] == Layer(
        "y", PRODUCT, 2 * 3 * 5 * 13 * 7, 4 * (queries + 7 * 13 + 3 * 5 * 13), weights=7 * 13
    )
    assert set(by_name) == {"logits", "attention", "mixed", "y"}  # a transpose costs nothing


def test_a_depthwise_convolution(tmp_path):
    path = write(
        tmp_path / "depthwise.onnx",
        [("Conv", ["x", "weight"], "y", {"group": 5, "strides": [2, 2]})],
        [("x", FLOAT, [1, 5, 7, 11])],
        [("y", FLOAT, [1, 5, 3, 5])],
        {"weight": np.ones((5, 1, 3, 3), np.float32)},
    )
    (layer,) = layers_of(path)
    assert layer.operations == 2 * (5 * 3 * 5) * 9
    assert layer.bytes == 4 * (5 * 7 * 11 + 5 * 9 + 5 * 3 * 5)


def test_8_bits(tmp_path):
    """Quantised inputs and weights are read as bytes, and the sum is written as such."""
    nodes = [
        ("QuantizeLinear", ["x", "scale", "zero"], "bytes", {}),
        ("DequantizeLinear", ["bytes", "scale", "zero"], "back", {}),
        ("DequantizeLinear", ["weight", "scale"], "weight_back", {}),
        ("MatMul", ["back", "weight_back"], "y", {}),
        ("MatMul", ["y", "other"], "z", {}),
    ]
    path = write(
        tmp_path / "bytes.onnx",
        nodes,
        [("x", FLOAT, [5, 7])],
        [("z", FLOAT, [5, 3])],
        {
            "scale": np.float32(0.1),
            "zero": np.uint8(3),
            "weight": np.ones((7, 11), np.int8),
            "other": np.ones((11, 3), np.float32),
        },
    )
    first, second = layers_of(path)
    assert first == Layer("y", PRODUCT, 2 * 5 * 11 * 7, 5 * 7 + 7 * 11 + 5 * 11, 77, int8=True)
    assert second == Layer("z", PRODUCT, 2 * 5 * 3 * 11, 4 * (5 * 11 + 33 + 15), 33)
    assert working_set([first, second]) == 77 + 4 * 33 + second.bytes


def test_openvino_reads_the_same(residual_block, tmp_path):
    import openvino

    core = openvino.Core()
    path = tmp_path / "block.xml"
    openvino.save_model(core.read_model(residual_block), path, compress_to_fp16=False)
    assert [layer._replace(name="") for layer in layers_of(path)] == [
        layer._replace(name="") for layer in layers_of(residual_block)
    ]


def test_the_model_itself(tiny_run, tmp_path):
    """The same operations as counted in torch, but for the heads of layers that give no answer."""
    from sonodetr.export.convert import export_model
    from sonodetr.model.cost import count
    from sonodetr.training.run import load_run

    contract = export_model(tiny_run, tmp_path / "exported", format="onnx")
    layers = layers_of(tmp_path / "exported" / contract.graphs["detect"])
    operations = sum(layer.operations for layer in layers) / 1e9
    network, config, _ = load_run(tiny_run)
    cost = count(network, config.data.image_size, config.data.channels)
    assert operations == pytest.approx(cost.gflops, rel=0.01)


def test_the_slower_of_two_rates():
    rates = {"float32": 100.0, "int8": 400.0, "memory": 10.0}
    busy = Layer("", PRODUCT, operations=3_000_000, bytes=100)
    waiting = Layer("", CONVOLUTION, operations=100, bytes=50_000)
    assert seconds_of(busy, rates) == pytest.approx(3e-5)
    assert seconds_of(busy._replace(int8=True), rates) == pytest.approx(0.75e-5)
    assert seconds_of(waiting, rates) == pytest.approx(5e-6)
    floor = floor_by_kind([busy, busy, waiting], rates)
    assert floor == pytest.approx(
        {PRODUCT: 6e-5, CONVOLUTION: 5e-6, ROWS: 0, ELEMENTS: 0, LAYOUT: 0}
    )
    assert math.isclose(sum(floor.values()), 6.5e-5)


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("Convolution", CONVOLUTION), ("QLinearConv", CONVOLUTION), ("FusedConv", CONVOLUTION),
        ("FullyConnected", PRODUCT), ("Gemm", PRODUCT), ("MatMulInteger", PRODUCT),
        ("ScaledDotProductAttention", PRODUCT), ("MVN", ROWS), ("SkipLayerNormalization", ROWS),
        ("TopK", ROWS), ("Softmax", ROWS), ("ReorderOutput", LAYOUT), ("Unsqueeze", LAYOUT),
        ("Subgraph", ELEMENTS), ("Convert", ELEMENTS), ("Div", ELEMENTS),
    ],
)  # fmt: skip
def test_kinds(operator, kind):
    assert kind_of(operator) == kind
    assert kind in KINDS
