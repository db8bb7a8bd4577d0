"""How soon an exported model answers, and what we add to each frame.

    python benchmarks/startup.py exports/nano-onnx exports/nano-openvino

Start: fresh processes, in turns, each timed from its first line. The floor imports OpenCV and the
runtime and opens the graphs, which whoever runs the model must do; `sonodetr` opens the folder and
finds what is in a first frame. Medians of `--rounds`. Then, in this process, microseconds a frame
of 480 x 640 pixels: the runtime alone, and all that `predict_frames` does around it, of which the
letterbox is the larger part. The last line is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path

import numpy as np

import sonodetr
from sonodetr.contract import read_contract
from sonodetr.engines import Engine
from sonodetr.types import Answer

START = "import time; started = time.perf_counter()\nimport sys\n"
END = "\nprint(time.perf_counter() - started)"
FLOOR = {
    "onnx": """
import cv2, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[1])
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
for path in sys.argv[2:]:
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
""",
    "openvino": """
import cv2, openvino
options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
options["ENABLE_CPU_PINNING"] = False
if int(sys.argv[1]):
    options["INFERENCE_NUM_THREADS"] = int(sys.argv[1])
core = openvino.Core()
for path in sys.argv[2:]:
    core.compile_model(core.read_model(path), "CPU", options)
""",
}
OURS = """
import numpy
import sonodetr
model = sonodetr.load(sys.argv[2], threads=int(sys.argv[1]))
next(model.predict([numpy.zeros((480, 640), numpy.uint8)], threshold=0.0))
"""


def seconds(code: str, *words: str) -> float:
    """Time of a fresh process from its first line to its last."""
    command = [sys.executable, "-c", START + code + END, *words]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def microseconds(run: Callable[[], object], frames: int) -> float:
    times = []
    for _ in range(frames):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return 1e6 * float(np.median(times[frames // 10 :]))


def start(folder: Path, rounds: int, threads: int) -> dict[str, float]:
    """Medians in ms of both kinds of process."""
    contract = read_contract(folder)
    graphs = [str(folder / name) for name in contract.graphs.values()]
    times: dict[str, list[float]] = {"floor": [], "sonodetr": []}
    for _ in range(rounds + 1):  # the first one fills the disk cache
        times["floor"].append(seconds(FLOOR[contract.runtime], str(threads), *graphs))
        times["sonodetr"].append(seconds(OURS, str(threads), str(folder)))
    floor, ours = (1e3 * float(np.median(values[1:])) for values in times.values())
    return {"floor_ms": floor, "first_detection_ms": ours, "ratio": ours / floor}


class Parrot:
    """A model that answers at once: what is left is our own time."""

    def __init__(self, engine: Engine, clip: list[np.ndarray]) -> None:
        self.kept, self.answer = clip[-1], engine.detect(clip)

    def see(self, picture: np.ndarray) -> np.ndarray:
        return self.kept

    def detect(self, clip: list[np.ndarray]) -> Answer:
        return self.answer


def overhead(folder: Path, frames: int, threads: int) -> dict[str, float]:
    """Microseconds a frame: in all, of the runtime alone, and what is around it."""
    model = sonodetr.load(folder, threads=threads)
    interface = model.interface
    random = np.random.default_rng(0)
    frame = sonodetr.Frame(random.integers(0, 255, (480, 640), np.uint8))
    picture = random.integers(0, 255, (*model.image_size, interface.channels), np.uint8)
    clip = [model.engine.see(picture)] * interface.clip_frames
    empty = sonodetr.Predictor(Parrot(model.engine, clip), interface)

    def runtime() -> None:
        model.engine.see(picture)
        model.engine.detect(clip)

    live, ours = (each.predict_frames(repeat(frame)) for each in (model, empty))
    return {
        "frame_us": microseconds(lambda: next(live), frames),
        "runtime_us": microseconds(runtime, frames),
        "around_us": microseconds(lambda: next(ours), frames),
        "letterbox_us": microseconds(lambda: empty.see(frame), frames),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="exported folder")
    parser.add_argument("--rounds", type=int, default=11, help="fresh processes of each kind")
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1, help="0: as the runtime chooses")
    options = parser.parse_args()
    result = {}
    for folder in options.folders:
        row = start(folder, options.rounds, options.threads)
        row |= overhead(folder, options.frames, options.threads)
        result[str(folder)] = {name: round(value, 3) for name, value in row.items()}
        print(
            f"{folder}: floor {row['floor_ms']:.0f} ms, first detection "
            f"{row['first_detection_ms']:.0f} ms, ratio {row['ratio']:.2f}; a frame "
            f"{row['frame_us']:.0f} us: the runtime {row['runtime_us']:.0f}, around it "
            f"{row['around_us']:.0f} (letterbox {row['letterbox_us']:.0f})"
        )
    facts = {"rounds": options.rounds, "threads": options.threads, "load": os.getloadavg()[0]}
    print(json.dumps(facts | {"folders": result}))


if __name__ == "__main__":
    main()
