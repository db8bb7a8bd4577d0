"""How fast a graph could be on this machine: the floor of its latency.

The floor is a sum over layers of `max(operations / rate, bytes / memory rate)`, at the rates that
the machine reaches in a large matrix product and in copying (`rates`). What counts:

- Convolutions and matrix products, those of attention too: 2 operations a multiply-add; the bytes
  of weights, inputs and output.
- Operators that must see a whole row before they write (softmax, layer normalisation, pooling,
  sorting): the bytes of inputs and output.
- Element-wise operators (bias, ReLU, residual sums, positions): nothing for the numbers that flow
  through, since the layer before or after can do them on its way; only the bytes of what else they
  read, as the shortcut of a residual block.
- Changes of layout (reshape, transpose, slices, upsampling): nothing; whoever reads can skip.
- What depends on constants alone: nothing.

So no order of operators and no fusion that keeps these layers apart can be faster than the floor,
unless a layer's output stays in the caches between two layers; the memory rate is therefore
measured in a working set of the model's own size. Fused attention (which never writes its
logits) can pass below its part of the floor, where that part is bound by memory.
"""

import math
import os
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

CONVOLUTION, PRODUCT = "convolution", "matrix product"
ROWS, ELEMENTS, LAYOUT = "rows", "element-wise", "layout"
KINDS = (CONVOLUTION, PRODUCT, ROWS, ELEMENTS, LAYOUT)
# Words in the names that runtimes give to operators -> kind; the first that fits. What is left is
# element-wise.
_WORDS = {
    ELEMENTS: ("convert",),
    CONVOLUTION: ("conv",),
    PRODUCT: ("matmul", "gemm", "fullyconnected", "dotproductattention", "multiheadattention"),
    ROWS: ("softmax", "normalization", "mvn", "reduce", "pool", "topk", "rms", "normalize"),
    LAYOUT: (
        *("reshape", "transpose", "squeeze", "split", "concat", "slice", "gather", "reorder"),
        *("expand", "broadcast", "tile", "resize", "interpolate", "upsample", "flatten", "pad"),
        *("shapeof", "identity", "memcpy"),
    ),
}


class Layer(NamedTuple):
    """What one operator of a graph has to do.

    Attributes:
        name: of the operator in the graph.
        kind: one of `KINDS`.
        operations: floating-point (or integer) operations; a multiply-add counts as 2.
        bytes: read and written.
        weights: numbers that it reads from the file, among them.
        int8: computed on 8-bit integers.
    """

    name: str
    kind: str
    operations: int
    bytes: int
    weights: int = 0
    int8: bool = False


def kind_of(operator: str) -> str:
    """The kind of an operator, from any runtime's name for it.

    >>> kind_of("FusedMatMul"), kind_of("SkipLayerNormalization"), kind_of("Relu")
    ('matrix product', 'rows', 'element-wise')
    """
    name = operator.lower()
    for kind, words in _WORDS.items():
        if any(word in name for word in words):
            return kind
    return ELEMENTS


def layers_of(path: str | os.PathLike[str]) -> list[Layer]:
    """The layers of an ONNX or OpenVINO graph of fixed shapes, in the order in which they run.

    Args:
        path: the `.onnx` or `.xml` file.
    """
    from sonodetr.engines.openvino import core

    layers = []
    constant: set[str] = set()
    for node in core().read_model(path).get_ordered_ops():
        operator, inputs = (
            node.get_type_name(),
            [port.get_source_output() for port in node.inputs()],
        )
        if operator in ("Parameter", "Result", "FakeQuantize"):
            continue
        known = operator == "ShapeOf"  # every shape is fixed
        if known or all(port.get_node().get_name() in constant for port in inputs):
            constant.add(node.get_name())
        else:
            layers.append(_layer(node, inputs, constant))
    return [layer for layer in layers if layer.operations or layer.bytes]


def weights_of(path: str | os.PathLike[str]) -> int:
    """Floating-point or 8-bit numbers that a graph holds: weights, biases, positions."""
    from sonodetr.engines.openvino import core

    return sum(
        math.prod(node.get_output_shape(0))
        for node in core().read_model(path).get_ops()
        if node.get_type_name() == "Constant"
        and str(node.get_output_element_type(0).get_type_name()) in ("f32", "f16", "i8", "u8")
    )


def working_set(layers: Sequence[Layer]) -> int:
    """Bytes that one detection goes through: all weights, and the largest layer's numbers."""
    of_weights = sum(layer.weights * (1 if layer.int8 else 4) for layer in layers)
    return of_weights + max(layer.bytes for layer in layers)


def seconds_of(layer: Layer, rates: Mapping[str, float]) -> float:
    """The least time of one layer.

    Args:
        rates: `float32` and `int8` in 10^9 operations a second, `memory` in 10^9 bytes.

    >>> rates = {"float32": 100.0, "int8": 400.0, "memory": 10.0}
    >>> seconds_of(Layer("", PRODUCT, operations=2_000_000, bytes=100_000), rates)
    2e-05
    """
    rate = rates["int8" if layer.int8 else "float32"]
    return max(layer.operations / rate, layer.bytes / rates["memory"]) / 1e9


def floor_by_kind(layers: Sequence[Layer], rates: Mapping[str, float]) -> dict[str, float]:
    """Least seconds of all layers, by kind; their sum is the floor."""
    return {
        kind: sum(seconds_of(layer, rates) for layer in layers if layer.kind == kind)
        for kind in KINDS
    }


def _layer(node: Any, inputs: Sequence[Any], constant: AbstractSet[str]) -> Layer:
    name, operator = node.get_friendly_name(), node.get_type_name()
    kind = kind_of(operator)
    counts = [math.prod(port.get_shape()) for port in inputs]
    widths = [_bytes_each(port, constant) for port in inputs]
    fixed = [port.get_node().get_name() in constant for port in inputs]
    read = [width * count for width, count in zip(widths, counts, strict=True)]
    moving = [size for size, known in zip(read, fixed, strict=True) if not known]
    written = sum(
        math.prod(port.get_shape()) * port.get_element_type().size for port in node.outputs()
    )
    if kind in (CONVOLUTION, PRODUCT):
        operations = 2 * math.prod(node.get_output_shape(0)) * _terms(node, operator, inputs)
        weights = sum(count for count, known in zip(counts, fixed, strict=True) if known)
        int8 = set(widths) == {1}
        if int8:  # what comes out is rounded to 8 bits before it is written
            written = math.prod(node.get_output_shape(0))
        return Layer(name, kind, operations, sum(read) + written, weights, int8)
    if kind == ROWS:
        return Layer(name, kind, 0, sum(moving) + written)
    if kind == ELEMENTS:
        return Layer(name, kind, 0, sum(moving) - max(moving))
    return Layer(name, kind, 0, 0)


def _terms(node: Any, operator: str, inputs: Sequence[Any]) -> int:
    """Products that are summed into one number of the output."""
    first, second = (tuple(port.get_shape()) for port in inputs[:2])
    if operator == "MatMul":
        return first[-2 if node.get_attributes()["transpose_a"] else -1]
    if operator == "Convolution":  # weights [outputs, inputs, height, width]
        return math.prod(second[1:])
    if operator == "GroupConvolution":  # weights [groups, outputs, inputs, height, width]
        return math.prod(second[2:])
    raise ValueError(f"{node.get_friendly_name()}: cannot count the operations of {operator}")


def _bytes_each(port: Any, constant: AbstractSet[str]) -> int:
    """Bytes of a number as a kernel reads it: 1 where it was quantised and is only scaled back."""
    node = port.get_node()
    while node.get_type_name() in ("Multiply", "Subtract", "Convert"):
        first, *others = (each.get_source_output().get_node() for each in node.inputs())
        if any(other.get_name() not in constant for other in others):
            break
        node = first
    if node.get_type_name() == "FakeQuantize":
        return 1
    size: int = port.get_element_type().size
    own: int = node.get_output_element_type(0).size
    return own if node.get_type_name() == "Constant" else size
