"""The benchmark: all configurations in turns, and what the machine can do in the same turns."""

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sonodetr.benchmark.artefacts import Artefact, ap_of, artefacts_of, check_runtimes
from sonodetr.benchmark.floor import Layer, floor_by_kind, layers_of, weights_of, working_set
from sonodetr.benchmark.machine import cores, describe
from sonodetr.benchmark.processes import Process
from sonodetr.benchmark.profile import by_kind
from sonodetr.data.region import find_region
from sonodetr.evaluation.evaluate import SplitName, evaluate
from sonodetr.files import InputError
from sonodetr.formats import open_source, read
from sonodetr.progress import progress_bar
from sonodetr.types import Region

ROUNDS = 5
COLD_STARTS = 3
MOST_FRAMES = 32
BEYOND_CACHES_KIB = 256 * 1024
# A process that is timed without a pause keeps one processor busy, if nobody else wants it.
UNDISTURBED = 0.9
_DISTURBED = (
    "something else used the processor meanwhile (a process that never waits got only {:.2f} of "
    "one): percentiles are too high; stop it and measure again"
)


@dataclass(frozen=True)
class Settings:
    """What is measured, and how long.

    Attributes:
        runtimes: for run folders, of `artefacts.RUNTIMES`.
        threads: numbers of processor threads.
        sizes: sides of the square input in pixels, for run folders; none: that of the training.
        source: the recording whose frames are looked at.
        seconds: for each configuration.
        profile: also say which operators the time goes to.
        data: labelled data to take the AP from; "" takes it from the run's own evaluation.
        split: part of the data.
    """

    runtimes: tuple[str, ...] = ("onnx", "openvino")
    threads: tuple[int, ...] = (1,)
    sizes: tuple[int, ...] = ()
    source: str = "simulator:1"
    seconds: float = 4.0
    profile: bool = False
    data: str = ""
    split: SplitName = "test"


@dataclass(frozen=True)
class _Case:
    """One artefact with its layers, at one number of threads."""

    artefact: Artefact
    layers: tuple[Layer, ...]
    threads: int

    @property
    def name(self) -> str:
        return f"{self.artefact.name}, threads {self.threads}"

    @property
    def memory_kib(self) -> int:
        """Its working set, to a power of 2, so that like cases share one measured rate."""
        return 1 << round(math.log2(working_set(self.layers) / 1024))


def benchmark(models: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Time models; nothing else should run meanwhile.

    Returns:
        `machine`, `settings`, `rates` by threads, `notes` on what to be careful with, and a row for
        every configuration in `results` (docs/benchmark.md explains each figure).

    Raises:
        InputError: a model, runtime, size, source or number of threads cannot be used.
        ModuleNotFoundError: a runtime is not installed.
    """
    check_runtimes(settings.runtimes)
    if too_many := [number for number in settings.threads if not 1 <= number <= cores()]:
        raise InputError(
            f"{too_many[0]} threads are not possible; this process may use 1 to {cores()}"
        )
    if settings.data:
        read(settings.data)  # before minutes of work
    with tempfile.TemporaryDirectory(prefix="sonodetr-benchmark-") as temporary:
        frames, region = _frames(settings.source, Path(temporary))
        cases = _cases(models, settings, Path(temporary))
        aps = _aps(cases, settings, Path(temporary))
        task = {"work": "model", "frames": os.fspath(frames), "region": region}
        rates, rows = _in_turns(cases, task, settings)
    for row, case in zip(rows, cases, strict=True):
        row["ap"] = aps[case.artefact.model, case.artefact.image_size]
    least = min(row["processor_load"] for row in rows)
    return {
        "machine": describe(),
        "settings": asdict(settings) | {"rounds": ROUNDS, "cold_starts": COLD_STARTS},
        "rates": {str(number): own for number, own in rates.items()},
        "results": rows,
        "notes": [_DISTURBED.format(least)] if least < UNDISTURBED else [],
    }


def summary(took_s: Sequence[float]) -> dict[str, float]:
    """Percentiles of times, in milliseconds.

    >>> summary([0.001, 0.002, 0.003])["p50"]
    2.0
    """
    took_ms = 1e3 * np.asarray(took_s)
    values = {f"p{part}": float(np.percentile(took_ms, part)) for part in (50, 95, 99)}
    return values | {"mean": float(took_ms.mean()), "least": float(took_ms.min())}


def processor_load(turns: Sequence[Mapping[str, Any]]) -> float:
    """Processor seconds a second while frames are looked at without a pause.

    >>> processor_load([{"processor_s": 1.5, "wall_s": 1.0}, {"processor_s": 0.5, "wall_s": 1.0}])
    1.0
    """
    return sum(turn["processor_s"] for turn in turns) / sum(turn["wall_s"] for turn in turns)


def _in_turns(
    cases: Sequence[_Case], task: dict[str, Any], settings: Settings
) -> tuple[dict[int, dict[str, Any]], list[dict[str, Any]]]:
    """Rates by threads, and a row a case: a drifting machine hits all of them alike."""
    threads = settings.threads
    turns: list[list[dict[str, Any]]] = [[] for _ in cases]
    rates: dict[int, dict[str, Any]] = {}
    total = len(cases) + ROUNDS * (len(cases) + len(threads))
    each_s = settings.seconds / ROUNDS
    with ExitStack() as stack, progress_bar("benchmark", total, "turns") as advance:
        machines = [stack.enter_context(_machine(cases, number)) for number in threads]
        timed, cold = [], []
        for case in cases:
            process, seconds = _started(case, task)
            timed.append(stack.enter_context(process))
            cold.append(seconds)
            advance()
        for _ in range(ROUNDS):
            for number, machine in zip(threads, machines, strict=True):
                now = machine.ask(seconds=max(1.0, each_s))
                rates[number] = _better(rates.get(number, now), now)
                advance()
            for case_turns, process in zip(turns, timed, strict=True):
                case_turns.append(process.ask(seconds=each_s))
                advance()
        rows = [
            _row(*each, rates=rates[each[0].threads])
            for each in zip(cases, turns, cold, strict=True)
        ]
        if settings.profile:
            for row, case, process in zip(rows, cases, timed, strict=True):
                row["profile"] = _profile(case, row, process)
    return rates, rows


def _row(
    case: _Case, turns: Sequence[Mapping[str, Any]], cold_s: float, rates: Mapping[str, Any]
) -> dict[str, Any]:
    """What was measured of a case, as `benchmark.json` holds it."""
    artefact, layers = case.artefact, case.layers
    model, frame = (
        summary([each for turn in turns for each in turn[name]["took_s"]])
        for name in ("model", "frame")
    )
    memory = rates["memory"][str(case.memory_kib)]
    floor = floor_by_kind(layers, {**rates, "memory": memory})
    floor_ms = 1e3 * sum(floor.values())
    return {
        "model": artefact.model,
        "runtime": artefact.runtime,
        "precision": artefact.precision,
        "image_size": artefact.image_size,
        "threads": case.threads,
        "parameters": sum(map(weights_of, artefact.graphs)),
        "gflops": sum(layer.operations for layer in layers) / 1e9,
        "file_mb": artefact.file_bytes / 1e6,
        "model_ms": model,
        "frame_ms": frame,
        "frames_per_second": 1e3 / frame["mean"],
        "processor_load": processor_load([turn["frame"] for turn in turns]),
        "peak_memory_mib": turns[-1]["peak_memory_mib"],
        "cold_start_s": cold_s,
        "floor_ms": floor_ms,
        "floor_by_kind_ms": {kind: 1e3 * seconds for kind, seconds in floor.items()},
        "times_floor": model["p50"] / floor_ms,
    }


def _better(first: Any, second: Any) -> Any:
    """The better of all rates: what disturbs the machine for a while does not move the floor."""
    if isinstance(first, dict):
        return {name: _better(first[name], second[name]) for name in first}
    return max(first, second)


def _profile(case: _Case, row: Mapping[str, Any], process: Process) -> list[dict[str, Any]]:
    """Rows by type of operator, the longest first; nothing for torch, which runs no graph."""
    artefact = case.artefact
    if artefact.runtime == "torch":
        return []
    graphs = [os.fspath(path) for path in artefact.graphs]
    operators = process.ask(graphs=graphs, runtime=artefact.runtime, seconds=1.0)
    return by_kind(operators, row["model_ms"]["p50"], row["floor_by_kind_ms"])


def _machine(cases: Sequence[_Case], threads: int) -> Process:
    sizes = sorted({case.memory_kib for case in cases} | {BEYOND_CACHES_KIB})
    task = {"work": "machine", "working_sets_kib": sizes}
    return Process(task, threads, "the machine's own rates")


def _started(case: _Case, task: dict[str, Any]) -> tuple[Process, float]:
    """A process that is ready for its turns, and the median of cold starts."""
    task = task | {"folder": os.fspath(case.artefact.folder)}
    seconds = []
    for last in (False,) * (COLD_STARTS - 1) + (True,):
        process = Process(task, case.threads, case.name)
        seconds.append(process.first["cold_start_s"])
        if not last:
            process.close()
    return process, float(np.median(seconds))


def _cases(models: Sequence[str], settings: Settings, temporary: Path) -> list[_Case]:
    cases = []
    for number, model in enumerate(models):
        own = temporary / str(number)
        own.mkdir()
        for artefact in artefacts_of(model, settings.runtimes, settings.sizes, own):
            layers = tuple(layer for path in artefact.graphs for layer in layers_of(path))
            cases += [_Case(artefact, layers, threads) for threads in settings.threads]
    return cases


def _aps(
    cases: Sequence[_Case], settings: Settings, temporary: Path
) -> dict[tuple[str, tuple[int, int]], float | None]:
    """AP by model and input size: runtimes agree, which is checked at export."""
    found: dict[tuple[str, tuple[int, int]], float | None] = {}
    for artefact in (case.artefact for case in cases):
        key = artefact.model, artefact.image_size
        if key in found:
            continue
        if settings.data:
            result = evaluate(
                artefact.folder, settings.data, out=temporary / "ap", split=settings.split
            )
            found[key] = result["figures"]["ap"]
        else:
            found[key] = ap_of(*key)
    return found


def _frames(source: str, temporary: Path) -> tuple[Path, Region | None]:
    """Real frames, where every process can read them, and where the ultrasound picture lies."""
    video = open_source(source)
    count = min(len(video), MOST_FRAMES)
    path = temporary / "frames.npy"
    np.save(path, np.stack([video.frames[index] for index in range(count)]))
    region = video.region_px or find_region(video.frames)
    return path, region
