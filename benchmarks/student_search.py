"""Which student suits a CPU? Every candidate's latency, then what it learns.

    python benchmarks/student_search.py --latency     # a minute a candidate, nothing else running
    python benchmarks/student_search.py               # trains those that are fast enough
    python benchmarks/student_search.py --report docs/results/student-search.json

A candidate is a change to the model of configs/needle-student.yaml. All learn alike: without a
teacher, with one seed and the config's own budget, and are compared on validation data. Latency is
that of the model alone at 256 x 256 pixels on one thread (docs/benchmark.md). One whose fastest
runtime takes longer than the aim is not trained. Killed trainings go on, finished ones are kept.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sonodetr.benchmark.measure import Settings, benchmark
from sonodetr.config import Config
from sonodetr.config_file import dump_config, load_config
from sonodetr.files import InputError, read_json, write_json, write_text
from sonodetr.training.fit import train
from sonodetr.training.run import (
    RunInfo,
    provenance,
    read_info,
    save_info,
    save_weights,
    untrained_model,
)

CONFIG = "configs/needle-student.yaml"
SIDE = 256
AIM_MS = 3.0
ONE = "model.encoder_layers=1"
CANDIDATES = {
    "as it is": (),
    "1 encoder layer": (ONE,),
    "1 encoder, 1 decoder layer": (ONE, "model.decoder_layers=1"),
    "1 encoder layer, 32 wide": (
        ONE,
        "model.hidden_dim=32",
        "model.num_heads=2",
        "model.feedforward_dim=64",
    ),
    "1 encoder layer, a third stage of 2 blocks": (ONE, "model.backbone.depths=[1, 1, 2, 1]"),
    "1 encoder layer, backbone of 24": (ONE, "model.backbone.width=24"),
    "1 encoder layer, backbone of 32": (ONE, "model.backbone.width=32"),
    "backbone of 32": ("model.backbone.width=32",),
}


def config_of(name: str) -> Config:
    """The config of a candidate's training."""
    slug = name.replace(",", "").replace(" ", "-")
    return load_config(CONFIG, (*CANDIDATES[name], "distill.encoder.weight=0", f"name={slug}"))


def measure_latency(names: list[str]) -> dict[str, dict[str, Any]]:
    """Rows of `sonodetr benchmark` by candidate and runtime; weights do not matter for it."""
    with TemporaryDirectory() as scratch:
        folders = {str(_untrained(config_of(name), Path(scratch))): name for name in names}
        rows = benchmark(list(folders), Settings(sizes=(SIDE,)))["results"]
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for row in rows:
        found[folders[row["model"]]][row["runtime"]] = row
    return found


def _untrained(config: Config, out: Path) -> Path:
    folder = out / config.name
    folder.mkdir()
    write_text(folder / "config.yaml", dump_config(config))
    model = untrained_model(config, 1)
    save_weights(folder / "model.safetensors", model.state_dict())
    facts = RunInfo(
        classes=("needle",), threshold=0.5, step=0, validation={}, provenance=provenance(0)
    )
    save_info(folder, facts)
    return folder


def fast_enough(latency: dict[str, Any]) -> list[str]:
    """The candidates within the aim.

    Raises:
        InputError: one is not measured.
    """
    if missing := [name for name in CANDIDATES if name not in latency]:
        raise InputError(f"{missing[0]}: is not measured; run this script with --latency")
    return [
        name
        for name in CANDIDATES
        if min(row["model_ms"]["p50"] for row in latency[name].values()) <= AIM_MS
    ]


def learn(out: Path, latency: dict[str, Any]) -> None:
    """Train what is fast enough and not trained."""
    for name in fast_enough(latency):
        config = config_of(name)
        if not (out / config.name / "last.safetensors").is_file():
            train(config, out, resume=(out / config.name).is_dir())


def report(out: Path, latency: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a candidate, and the table."""
    rows, trained = [], fast_enough(latency)
    print("| candidate | parameters, M | GFLOPs | ONNX Runtime, ms | OpenVINO, ms | / floor | AP |")
    print("|" + "---|" * 7)
    for name in CANDIDATES:
        folder, ap = out / config_of(name).name, None
        if name in trained:
            if not (folder / "last.safetensors").is_file():
                raise InputError(f"{name}: is not trained; run this script without --report")
            ap = read_info(folder).validation["ap"]
        times = {runtime: row["model_ms"]["p50"] for runtime, row in latency[name].items()}
        row = latency[name]["openvino"]
        rows.append({"candidate": name, "changes": CANDIDATES[name], "ap": ap, "p50_ms": times}
                    | {key: row[key] for key in ("parameters", "gflops", "floor_ms")})  # fmt: skip
        cells = (
            name,
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['gflops']:.2f}",
            f"{times['onnx']:.2f}",
            f"{times['openvino']:.2f}",
            f"{row['times_floor']:.2f}",
            "not trained" if ap is None else f"{ap:.3f}",
        )
        print("| " + " | ".join(cells) + " |")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/student-search"))
    parser.add_argument("--latency", action="store_true", help="measure the latencies")
    parser.add_argument("--report", type=Path, metavar="FILE", help="where the record goes")
    options = parser.parse_args()
    kept = options.out / "latency.json"
    try:
        if options.latency:
            write_json(kept, measure_latency(list(CANDIDATES)))
            return 0
        latency = read_json(kept) if kept.is_file() else {}
        if options.report is None:
            learn(options.out, latency)
        else:
            rows = report(options.out, latency)
            write_json(options.report, {"candidates": rows, "provenance": provenance(0)})
            print(json.dumps({"candidates": rows}))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
