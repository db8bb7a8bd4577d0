"""Which operators the time of a graph goes to, by the runtimes' own clocks."""

import json
import math
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

    Reading the clock costs about the same for each operator, however small: where the sum is longer
    than the latency without clocks, the difference is taken off all of them alike, down to 0. Where
    it is shorter, what is missing goes by between operators, and is the last row.

    Args:
        operators: type -> `seconds` a detection and `count`.
        p50_ms: median latency without profiling.
        floor_ms: by kind.
    """
    clock_ms = _clock_ms(operators, p50_ms)
    ms = {name: _without_clock(each, clock_ms) for name, each in operators.items()}
    rows = []
    for kind in KINDS:
        own = {name: ms[name] for name in sorted(ms, key=lambda name: -ms[name])}
        own = {name: each for name, each in own.items() if kind_of(name) == kind}
        count = sum(round(operators[name]["count"]) for name in own)
        rows.append(_row(kind, count, math.fsum(own.values()), floor_ms[kind], own))
    rows.sort(key=lambda row: -row["ms"])
    return [*rows, _row("between operators", 0, max(0.0, p50_ms - sum(ms.values())), 0.0, {})]


def _row(
    kind: str, count: int, ms: float, floor_ms: float, types_ms: dict[str, float]
) -> dict[str, Any]:
    return {
        "kind": kind,
        "operators": count,
        "ms": ms,
        "floor_ms": floor_ms,
        "types_ms": types_ms,
    }


def _without_clock(operator: Mapping[str, float], clock_ms: float) -> float:
    return max(0.0, 1e3 * operator["seconds"] - operator["count"] * clock_ms)


def _clock_ms(operators: Mapping[str, Mapping[str, float]], p50_ms: float) -> float:
    """What the clock costs an operator, if all together take `p50_ms` without it; found by halving
    the interval in which it must lie."""
    low, high = 0.0, max(1e3 * each["seconds"] / each["count"] for each in operators.values())
    if sum(1e3 * each["seconds"] for each in operators.values()) <= p50_ms:
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        whole = sum(_without_clock(each, middle) for each in operators.values())
        low, high = (middle, high) if whole > p50_ms else (low, middle)
    return high


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
    from sonodetr.engines.onnx import open_session, session_options

    folder = tempfile.TemporaryDirectory(prefix="sonodetr-profile-")
    options = session_options(threads)
    options.enable_profiling = True
    options.profile_file_prefix = os.path.join(folder.name, "profile")
    session = open_session(path, options)
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
    from sonodetr.engines.openvino import compile_options, core

    options = compile_options(threads) | {"PERF_COUNT": True}
    model = core().compile_model(core().read_model(path), "CPU", options)
    request = model.create_infer_request()
    found: Operators = defaultdict(lambda: {"seconds": 0.0, "count": 0.0})

    def run(array: np.ndarray) -> list[np.ndarray]:
        answers = [*request.infer([array]).values()]
        for node in request.profiling_info:
            if node.status.name == "EXECUTED":
                found[node.node_type]["seconds"] += node.real_time.total_seconds()
                found[node.node_type]["count"] += 1
        return answers

    return run, lambda: found
