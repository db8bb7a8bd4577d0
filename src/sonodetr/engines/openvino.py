"""Graphs in OpenVINO, on the CPU."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from sonodetr.engines import Graph
from sonodetr.files import InputError


@cache
def core() -> openvino.Core:
    """The one Core of this process, which is never given up.

    Each Core lends the thread a stack for signal handlers, and takes it away when it ends. Of two
    that overlap, the second one leaves the first one's, which is gone by then, and the process dies
    of the next signal that Python handles, such as Ctrl-C or the end of a child.
    """
    return openvino.Core()


def compile_options(threads: int) -> dict[str, Any]:
    """How graphs are run; 0 threads leave their number to OpenVINO."""
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # Without it, processors that have bfloat16 would answer differently.
        "INFERENCE_PRECISION_HINT": "f32",
        # A thread that is bound to a core waits for it, even while others are idle.
        "ENABLE_CPU_PINNING": False,
    }
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    return options


def open_graph(path: Path, threads: int) -> Graph:
    """Open a graph; 0 threads leave their number to OpenVINO.

    Raises:
        InputError: this version cannot run the graph.
    """
    try:
        model = core().compile_model(core().read_model(path), "CPU", compile_options(threads))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"{path}: OpenVINO {openvino.__version__} cannot run it ({reason}); "
            "install a newer openvino, or export the model again"
        ) from None
    request = model.create_infer_request()
    taken, given = model.inputs, model.outputs
    names = [each.any_name for each in given]

    def run(array: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, request.infer([array]).values(), strict=True))

    inputs, outputs = (
        {each.any_name: tuple(each.shape) for each in some} for some in (taken, given)
    )
    return Graph(inputs, outputs, run)
