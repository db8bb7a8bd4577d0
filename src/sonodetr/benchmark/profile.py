"""Which operators the time of a graph goes to, by the runtimes' own clocks."""

import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sonodetr.benchmark.floor import KINDS, kind_of

Operators = dict[str, dict[str, float]]  # type -> `seconds` a detection, and `count`
Profiled = tuple[Callable[[np.ndarray], list[np.ndarray]], Callable[[], Operators]]


def by_kind(
    operators: Mapping[str, Mapping[str, float]], p50_ms: float, floor_ms: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Time by kind of operator beside its floor, the longest first.

    The runtimes' clocks slow them down and round to microseconds, so only the shares are taken from
    them, of the latency without them.

    Args:
        operators: type -> `seconds` a detection and `count`.
        p50_ms: median latency without profiling.
        floor_ms: by kind.
    """
    whole = sum(each["seconds"] for each in operators.values())
    rows = []
    for kind in KINDS:
        own = {name: each for name, each in operators.items() if kind_of(name) == kind}
        share = sum(each["seconds"] for each in own.values()) / whole
        rows.append(
            {
                "kind": kind,
                "operators": sum(round(each["count"]) for each in own.values()),
                "share": share,
                "ms": share * p50_ms,
                "floor_ms": floor_ms[kind],
                "types_ms": {
                    name: each["seconds"] / whole * p50_ms
                    for name, each in sorted(own.items(), key=lambda item: -item[1]["seconds"])
                },
            }
        )
    return sorted(rows, key=lambda row: -row["ms"])


def profile(
    graphs: Sequence[str],
    pictures: Sequence[np.ndarray],
    clip_frames: int,
    runtime: str,
    threads: int,
    seconds: float,
) -> Operators:
    """Run the graphs of a detection one after the other, with the clocks of their runtime.

    Args:
        graphs: files; the first takes pictures, a second one what the first gives of a clip.
        pictures: as the model sees them.
        clip_frames: that a clip has.
        runtime: "onnx" or "openvino".
        threads: processor threads.
        seconds: to run, at least 20 detections.
    """
    opened = [(_onnx if runtime == "onnx" else _openvino)(path, threads) for path in graphs]
    clip = np.stack([pictures[index % len(pictures)] for index in range(clip_frames)])
    end, count = time.perf_counter() + seconds, 0
    while count < 20 or time.perf_counter() < end:
        given = clip if len(opened) == 1 else clip[0]
        for run, _ in opened:
            (given, *_) = run(given)
            given = given if len(opened) == 1 else np.stack([given] * clip_frames)
        count += 1
    found: Operators = defaultdict(lambda: {"seconds": 0.0, "count": 0.0})
    for _, finish in opened:
        for name, own in finish().items():
            found[name]["seconds"] += own["seconds"] / count
            found[name]["count"] += own["count"] / count
    return dict(found)


def _onnx(path: str, threads: int) -> Profiled:
    import onnxruntime

    folder = tempfile.TemporaryDirectory(prefix="sonodetr-profile-")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_profiling = True
    options.profile_file_prefix = os.path.join(folder.name, "profile")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()

    def run(array: np.ndarray) -> list[np.ndarray]:
        return session.run(None, {taken.name: array})

    def finish() -> Operators:
        found: Operators = defaultdict(lambda: {"seconds": 0.0, "count": 0.0})
        with folder:
            events = json.loads(Path(session.end_profiling()).read_text())
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                found[event["args"]["op_name"]]["seconds"] += event["dur"] / 1e6
                found[event["args"]["op_name"]]["count"] += 1
        return found

    return run, finish


def _openvino(path: str, threads: int) -> Profiled:
    import openvino

    core = openvino.Core()
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    options |= {"ENABLE_CPU_PINNING": False, "INFERENCE_NUM_THREADS": threads, "PERF_COUNT": True}
    request = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()
    found: Operators = defaultdict(lambda: {"seconds": 0.0, "count": 0.0})

    def run(array: np.ndarray) -> list[np.ndarray]:
        answers = [*request.infer([array]).values()]
        for node in request.profiling_info:
            if node.status == openvino.ProfilingInfo.Status.EXECUTED:
                found[node.node_type]["seconds"] += node.real_time.total_seconds()
                found[node.node_type]["count"] += 1
        return answers

    return run, lambda: found
