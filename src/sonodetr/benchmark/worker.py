"""The process that times one configuration, or the machine: `python -m sonodetr.benchmark.worker`.

Every configuration has a process of its own, so that neither its memory nor its threads are those
of another runtime, and lives through the whole benchmark, so that all can be timed in turns. It
takes one task as its argument, and orders, one JSON object a line, on standard input; it answers
each with one on standard output. Between orders it waits and costs nothing.
"""

import gc
import itertools
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from sonodetr.benchmark.machine import peak_memory_mib
from sonodetr.files import InputError

if TYPE_CHECKING:
    import numpy as np

    from sonodetr.predictor import Predictor
    from sonodetr.types import Frame

Answers = Iterator[dict[str, Any]]
WARM_UP = 5  # calls at the start of every turn: the caches hold what the others left


def main() -> None:
    """Answer until standard input ends."""
    task = json.loads(sys.argv[1])
    with _only_ours() as answers:
        try:
            work = _machine(task) if task["work"] == "machine" else _model(task)
            for answer in work:
                print(json.dumps(answer), file=answers, flush=True)
        except (InputError, ModuleNotFoundError) as error:
            missing = getattr(error, "name", None)
            print(json.dumps({"error": str(error), "missing": missing}), file=answers, flush=True)


def _only_ours() -> TextIO:
    """Standard output for the answers alone; what libraries print there goes to the errors."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _orders() -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in sys.stdin)


def _machine(task: dict[str, Any]) -> Answers:
    from sonodetr.benchmark.rates import measure

    yield {}
    for order in _orders():
        yield measure(task["working_sets_kib"], task["threads"], order["seconds"])


def _model(task: dict[str, Any]) -> Answers:
    import cv2

    from sonodetr.predictor import load

    cv2.setNumThreads(task["threads"])
    predictor = load(task["folder"], threads=task["threads"])
    frames = _frames(task, predictor)
    found = predictor.predict_frames(itertools.cycle(frames))
    next(found)
    yield {"cold_start_s": time.monotonic() - task["started"]}
    calls = {"model": _on_pictures(predictor, frames), "frame": lambda: next(found)}
    for order in _orders():
        if "graphs" in order:
            from sonodetr.benchmark.profile import profile

            pictures, length = _pictures(predictor, frames), predictor.interface.clip_frames
            order = {name: order[name] for name in ("graphs", "runtime", "seconds")}
            yield profile(pictures=pictures, clip_frames=length, threads=task["threads"], **order)
        else:
            turns = {name: _turn(call, order["seconds"] / 2) for name, call in calls.items()}
            yield turns | {"peak_memory_mib": peak_memory_mib()}


def _frames(task: dict[str, Any], predictor: "Predictor") -> "list[Frame]":
    import numpy as np

    from sonodetr.types import Frame, Region

    region = Region(*task["region"]) if task["region"] else None
    if predictor.interface.region == "full":
        region = None
    pixels = np.load(task["frames"], mmap_mode="r")
    return [Frame(np.asarray(each), index, 0.0, None, region) for index, each in enumerate(pixels)]


def _pictures(predictor: "Predictor", frames: "list[Frame]") -> "list[np.ndarray]":
    """The frames as the model sees them."""
    from sonodetr.predictor import Predictor

    eye = Predictor(_Eye(), predictor.interface)  # type: ignore[arg-type]
    return [eye.see(frame).kept for frame in frames]


class _Eye:
    """An engine that keeps pictures as they are."""

    def see(self, picture: "np.ndarray") -> "np.ndarray":
        return picture


def _on_pictures(predictor: "Predictor", frames: "list[Frame]") -> Callable[[], object]:
    """One call is what the engine does for one more picture of a recording."""
    engine, pictures = predictor.engine, itertools.cycle(_pictures(predictor, frames))
    length, step = predictor.interface.clip_frames, predictor.interface.clip_step
    kept: deque[np.ndarray] = deque(maxlen=(length - 1) * step + 1)
    while len(kept) < (length - 1) * step:
        kept.append(engine.see(next(pictures)))

    def call() -> object:
        kept.append(engine.see(next(pictures)))
        return engine.detect([*kept][::step])

    return call


def _turn(call: Callable[[], object], seconds: float) -> dict[str, Any]:
    """Time calls one after the other, at least 3: seconds of each, and of the processor in all."""
    for _ in range(WARM_UP):
        call()
    gc.collect()
    gc.disable()
    took_s: list[float] = []
    began, busy, end = time.perf_counter(), time.process_time(), time.perf_counter() + seconds
    while len(took_s) < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        took_s.append(time.perf_counter() - started)
    wall_s, processor_s = time.perf_counter() - began, time.process_time() - busy
    gc.enable()
    return {"took_s": took_s, "wall_s": wall_s, "processor_s": processor_s}


if __name__ == "__main__":
    main()
