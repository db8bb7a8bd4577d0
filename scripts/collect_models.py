"""Collect what is known of trained models into one file, from which README's table is written:

    sonodetr evaluate RUN DATA --split test                                  # each of them
    sonodetr benchmark RUN... --runtime onnx openvino --size 256 --out speed
    python scripts/collect_models.py "teacher=runs/needle-small" "student=runs/nano" \\
        --latency speed/benchmark.json --out docs/results/models.json
    python scripts/write_tables.py
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bundle_model import check_weights

from sonodetr.files import InputError, read_json, write_json
from sonodetr.model.cost import count
from sonodetr.training.run import load_run, provenance

FIGURES = ("ap", "ap50", "ap75", "tip_error_median_mm")


def row(label: str, run: Path, times: dict[str, Any]) -> dict[str, Any]:
    """What a run folder and a benchmark know of a model.

    Args:
        label: what readers call it.
        run: evaluated on the test part.
        times: what `sonodetr benchmark --out` wrote, of it and others.

    Raises:
        InputError: it is not evaluated with these weights, or not timed.
    """
    model, config, info = load_run(run)
    data = config.data
    path = run / "evaluation-test" / "evaluation.json"
    if not path.is_file():
        raise InputError(f"{run}: not tested; run: sonodetr evaluate {run} DATA --split test")
    evaluation = read_json(path)
    check_weights(evaluation, path, run, info)
    timed = [each for each in times["results"] if each["model"] == str(run)]
    if not timed:
        raise InputError(f"{run}: is not timed; run: sonodetr benchmark {run} --out FOLDER")
    figures = evaluation["intervals"]["figures"]
    return {
        "label": label,
        "model": config.name,
        "parameters": count(model, data.image_size, data.channels, data.clip_frames).parameters,
        "pictures_seen": _last_step(run) * config.train.batch_size,
        "validation_ap": info.validation["ap"],
        "test": {name: figures[name] for name in FIGURES if name in figures},
        "times": [
            {key: each[key] for key in ("runtime", "image_size", "threads", "model_ms")}
            for each in timed
        ],
    }


def _last_step(run: Path) -> int:
    """The whole training counts, not what came before its best weights."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return int(json.loads(lines[-1])["step"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="LABEL=RUN")
    parser.add_argument("--latency", type=Path, required=True, help="benchmark.json")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    options = parser.parse_args()
    times = read_json(options.latency)
    rows = []
    for model in options.models:
        label, equals, run = model.rpartition("=")
        if not equals:
            raise InputError(f"{model}: give LABEL=RUN, as in teacher=runs/needle-small")
        rows.append(row(label, Path(run), times))
    write_json(
        options.out,
        {"models": rows, "machine": times["machine"], "provenance": provenance(0)},
    )


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
