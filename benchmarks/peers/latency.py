"""How fast the peers are beside ours: in turns, in one process, same input, runtime and threads.

    benchmarks/peers/.venv/bin/python benchmarks/peers/latency.py --ours nano tiny \
        --out docs/results/peers-latency.json

Weights are random: time does not depend on them. A detection is timed from a grey uint8 picture of
the input's size to boxes in an array; what a peer's graph leaves to the user is counted: grey to
float in three channels, sigmoid or softmax, the best 100, non-maximum suppression where the
detector needs it (random scores mean nothing, so the 20 best boxes go into it, about as many as a
trained one lets through). Every combination of size, runtime and threads that --out has already is
replaced, the others are kept.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from answers import found_of, graph_cost, network_input

from sonodetr.benchmark.artefacts import artefacts_of
from sonodetr.benchmark.machine import describe
from sonodetr.contract import read_contract
from sonodetr.files import InputError, read_json, write_json

RUNTIMES = ("onnx", "openvino")
TURN = 10  # calls before the next detector's turn; the first one finds other data in the caches
AFTER = {
    "yolo": "NMS",
    "end to end": "none",
    "sigmoid": "sigmoid, best 100",
    "softmax": "softmax, best 100",
    "": "none",
}
Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Detector:
    """One that is timed: three steps from a grey picture to boxes, and what it is."""

    prepare: Callable[[np.ndarray], np.ndarray]
    graph: Callable[[np.ndarray], Arrays]
    finish: Callable[[Arrays], Any]
    facts: dict[str, Any]

    def times_ms(self, picture: np.ndarray) -> tuple[float, float]:
        """One detection: all of it, and the graph alone."""
        start = time.perf_counter()
        tensor = self.prepare(picture)
        before = time.perf_counter()
        outputs = self.graph(tensor)
        after = time.perf_counter()
        self.finish(outputs)
        return (time.perf_counter() - start) * 1e3, (after - before) * 1e3


def open_graph(path: Path, runtime: str, threads: int) -> Callable[[np.ndarray], Arrays]:
    """A graph of one input, with the same settings for every detector."""
    if runtime == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda tensor: session.run(None, {name: tensor})
    import openvino

    hints = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
    compiled = openvino.Core().compile_model(path, "CPU", hints)
    return lambda tensor: list(compiled([tensor]).values())


def peer(name: str, side: int, runtime: str, threads: int, cache: Path) -> Detector:
    """A peer, exported first if it is not there yet."""
    from models import PEERS, export

    path = export(name, side, cache)
    graph, answer = open_graph(path, runtime, threads), PEERS[name].answer
    outputs = graph(network_input(np.zeros((side, side), np.uint8)))
    least = 0.0
    if answer == "yolo":
        least = float(np.sort(outputs[0][0, 4])[-20])
    cost = graph_cost(path)
    facts = {"name": name, "title": PEERS[name].title, "after the graph": AFTER[answer]}
    facts |= {"parameters": cost.parameters, "gflops": cost.gflops}
    return Detector(network_input, graph, partial(found_of, answer, side=side, least=least), facts)


def ours(folder: Path, side: int, runtime: str, threads: int) -> Detector | None:
    """An exported model of ours; None where it is for another size or runtime.

    Raises:
        InputError: it is not for single frames, or no exported folder.
    """
    contract = read_contract(folder)
    if "detect" not in contract.graphs or contract.clip_frames > 1:
        raise InputError(f"{folder}: is a model of clips; give one of single frames to --ours")
    if contract.image_size != (side, side) or contract.runtime != runtime:
        return None
    path = folder / contract.graphs["detect"]
    facts = {"name": contract.name, "title": f"SonoDETR {contract.name}", "after the graph": "none"}
    if contract.precision != "float32":
        facts["title"] += f", {contract.precision}"
    if contract.runtime == "onnx":
        cost = graph_cost(path)
        facts |= {"parameters": cost.parameters, "gflops": cost.gflops}
    shape = (1, side, side, contract.channels)

    def prepare(picture: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.broadcast_to(picture[None, :, :, None], shape))

    return Detector(prepare, open_graph(path, runtime, threads), lambda outputs: outputs, facts)


def in_turns(detectors: Sequence[Detector], side: int, calls: int) -> list[dict[str, Any]]:
    """Time all detectors so that whatever else the machine does meets all alike."""
    picture = np.random.default_rng(0).integers(0, 255, (side, side), np.uint8)
    times: list[list[tuple[float, float]]] = [[] for _ in detectors]
    for turn in range(-1, -(-calls // (TURN - 1))):  # the first one warms up
        for detector, kept in zip(detectors, times, strict=True):
            new = [detector.times_ms(picture) for _ in range(TURN)][1:]
            kept += new if turn >= 0 else []
    rows = []
    for detector, kept in zip(detectors, times, strict=True):
        whole, graph = np.array(kept).T
        figures = {"p50_ms": np.median(whole), "p95_ms": np.quantile(whole, 0.95)}
        figures |= {"least_ms": whole.min(), "graph_p50_ms": np.median(graph)}
        rows.append(detector.facts | {key: float(value) for key, value in figures.items()})
    return rows


def table(results: Sequence[dict[str, Any]], side: int) -> str:
    """Markdown of one input size: a row a detector, p50 / p95 in ms a runtime and threads."""
    ways = sorted({(each["runtime"], each["threads"]) for each in results if each["side"] == side})
    titles = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}
    head = ["detector", "parameters, M", "GFLOPs", "after the graph"]
    head += [
        f"{titles[runtime]}, {threads} thread{'s'[: threads > 1]}" for runtime, threads in ways
    ]
    cells: dict[str, dict[tuple[str, int], str]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for result in results:
        for row in result["detectors"] if result["side"] == side else ():
            way = (result["runtime"], result["threads"])
            cells.setdefault(row["title"], {})[way] = f"{row['p50_ms']:.2f} / {row['p95_ms']:.2f}"
            facts[row["title"]] = facts.get(row["title"], {}) | row
    lines = [head, ["---"] * len(head)]
    for title, fact in facts.items():
        size = ["", ""]
        if "parameters" in fact:
            size = [f"{fact['parameters'] / 1e6:.2f}", f"{fact['gflops']:.2f}"]
        times = [cells[title].get(way, "") for way in ways]
        lines.append([title, *size, fact["after the graph"], *times])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time all detectors in every combination asked for, each written as soon as it is done.

    Raises:
        InputError: a model cannot be used, or nothing can be written.
    """
    results = read_json(options.out)["results"] if options.out.is_file() else []
    ways = [(s, r, t) for s in options.sizes for r in options.runtimes for t in options.threads]
    with TemporaryDirectory() as scratch:
        folders = []
        for number, model in enumerate(options.ours):
            own = Path(scratch) / str(number)
            own.mkdir()
            made = artefacts_of(model, options.runtimes, options.sizes, own)
            folders += [each.folder for each in made]
        return _timed(options, folders, ways, results)


def _timed(
    options: argparse.Namespace,
    folders: Sequence[Path],
    ways: Sequence[tuple[int, str, int]],
    results: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    for side, runtime, threads in ways:
        found = [ours(folder, side, runtime, threads) for folder in folders]
        detectors = [detector for detector in found if detector is not None]
        detectors += [peer(name, side, runtime, threads, options.cache) for name in options.peers]
        way = {"side": side, "runtime": runtime, "threads": threads}
        rows = in_turns(detectors, side, options.calls)
        results = [each for each in results if not way.items() <= each.items()]
        results.append(way | {"detectors": rows, "calls": options.calls, "machine": describe()})
        write_json(options.out, {"results": results})
    return results


def main() -> None:
    from models import PEERS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", nargs="*", default=[], help="run or exported folders, or names")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[160, 256], help="multiples of 32")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--calls", type=int, default=100, help="timed calls a detector")
    parser.add_argument("--cache", type=Path, default=Path("runs/peers/onnx"))
    parser.add_argument("--out", type=Path, default=Path("runs/peers/latency.json"))
    options = parser.parse_args()
    if wrong := [side for side in options.sizes if side % 32]:
        parser.error(f"--sizes {wrong[0]}: the peers' inputs are multiples of 32 pixels")
    try:
        results = measure(options)
    except InputError as error:
        parser.exit(2, f"{error}\n")
    for side in sorted({each["side"] for each in results}):
        print(f"\n{side} x {side} pixels, one picture, p50 / p95 in ms\n\n{table(results, side)}")


if __name__ == "__main__":
    main()
