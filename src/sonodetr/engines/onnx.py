"""Graphs in ONNX Runtime, on the CPU."""

import os
from pathlib import Path

# Without it, ONNX Runtime 1.32 tells its makers of every model that is opened, and leaves files in
# the home folder; its own switch for that does not stop it. It is read at the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from sonodetr.engines import Graph
from sonodetr.files import InputError


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """How graphs are run; 0 threads leave their number to ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait for the next frame must not burn the processor meanwhile.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def open_session(
    path: str | Path, options: onnxruntime.SessionOptions
) -> onnxruntime.InferenceSession:
    """A graph on the CPU, without the fusion that makes it slower."""
    # In ONNX Runtime 1.32 a sum and a normalisation in one kernel take four times as long as apart.
    slower = ["SkipLayerNormFusion"]
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(
        path, options, providers=providers, disabled_optimizers=slower
    )


def open_graph(path: Path, threads: int) -> Graph:
    """Open a graph; 0 threads leave their number to ONNX Runtime.

    Raises:
        InputError: this version cannot run the graph.
    """
    try:
        session = open_session(path, session_options(threads))
    except (  # they have no base of their own
        errors.Fail,
        errors.InvalidArgument,
        errors.InvalidGraph,
        errors.InvalidProtobuf,
        errors.NotImplemented,
        errors.RuntimeException,
    ) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: ONNX Runtime {onnxruntime.__version__} cannot run it ({reason}); "
            "install a newer onnxruntime, or export the model again"
        ) from None
    taken, given = session.get_inputs(), session.get_outputs()
    names = [each.name for each in given]

    def run(array: np.ndarray) -> dict[str, np.ndarray]:
        outputs = session.run(names, {taken[0].name: array})
        # It says "long long", which NumPy does not name int64 even where both are the same.
        outputs = [each.view(np.int64) if each.dtype == np.int64 else each for each in outputs]
        return dict(zip(names, outputs, strict=True))

    inputs, outputs = ({each.name: tuple(each.shape) for each in some} for some in (taken, given))
    return Graph(inputs, outputs, run)
