"""Graphs in the files of a runtime: read, change, write."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx


def read_graph(path: Path) -> Any:
    """An `onnx.ModelProto` or an `openvino.Model`, as the file's ending says."""
    if path.suffix == ".onnx":
        return onnx.load(path)
    from sonodetr.engines.openvino import core

    return core().read_model(path)


def write_graph(graph: Any, path: Path) -> None:
    """Write what `read_graph` gives; an ONNX graph also as a file of OpenVINO.

    Raises:
        OSError: the file cannot be written.
    """
    if path.suffix == ".onnx":
        onnx.save(graph, path)
        return
    import openvino

    from sonodetr.engines.openvino import core

    try:
        if isinstance(graph, onnx.ModelProto):
            graph = core().read_model(graph.SerializeToString(), b"")
        # Not openvino.convert_model, which reports its use over the network.
        openvino.save_model(graph, path, compress_to_fp16=False)
    except RuntimeError as error:
        raise OSError(str(error).splitlines()[-1]) from error


def add_outputs(graph: Any, names: Sequence[str]) -> None:
    """Make the graph also give tensors that it computes on the way."""
    if not isinstance(graph, onnx.ModelProto):
        graph.add_outputs(list(names))
        return
    for name in names:
        graph.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )


def operators(graph: Any) -> list[tuple[str, str]]:
    """Name and kind of every operator, inputs before what reads them; kinds as the runtime calls
    them, but every convolution is a "Conv"."""
    if isinstance(graph, onnx.ModelProto):
        return [(node.name, node.op_type) for node in graph.graph.node]
    same = {"Convolution": "Conv", "GroupConvolution": "Conv"}
    return [
        (node.get_friendly_name(), same.get(node.get_type_name(), node.get_type_name()))
        for node in graph.get_ordered_ops()
    ]
