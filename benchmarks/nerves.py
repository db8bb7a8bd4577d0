"""Nerve and vessel detection in three held-out splits, anchor queries beside DETR as published.

    python benchmarks/nerves.py configs/nerves.yaml --out runs/nerves-splits

Trains every variant on every split (finished runs are kept, killed ones resumed), evaluates each
model on the frames it was trained on and on those it never saw, and prints AP and AP50 with their
95% bootstrap intervals by image: the mean over the three splits, so that every image is held out
once. Writes `nerves.json` and `nerves.svg` (precision over recall) beside the runs and ends in one
JSON line.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sonodetr.config import Config
from sonodetr.config_file import load_config
from sonodetr.evaluation.evaluate import detect
from sonodetr.evaluation.matches import Matches, match
from sonodetr.evaluation.metrics import RECALL_THRESHOLDS, average_precisions, curve
from sonodetr.evaluation.statistics import bootstrap_intervals
from sonodetr.files import InputError, whole_file, write_json
from sonodetr.predictor import load
from sonodetr.training.fit import open_data, train
from sonodetr.training.run import provenance

VARIANTS = {
    "anchor queries": (),
    "learned queries (DETR as published)": (
        "model.queries=learned",
        "model.classification=softmax",
        "loss.classification=1",
    ),
}
CLASSES = ("nerve", "vessel")
FIGURES = ("ap", "ap50", "ap/nerve", "ap50/nerve", "ap/vessel", "ap50/vessel")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="YAML file, configs/nerves.yaml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to it")
    parser.add_argument("--out", type=Path, default=Path("runs/nerves-splits"), help="run folders")
    parser.add_argument("--results", type=Path, help="folder for nerves.json and nerves.svg")
    given = parser.parse_args(arguments)
    try:
        rows = [
            row
            for name, changes in VARIANTS.items()
            for row in compare(name, given.config, (*changes, *given.overrides), given.out)
        ]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_table(rows)
    config = load_config(given.config, given.overrides)
    result = {
        "config": config.model_dump(mode="json"),
        "rows": rows,
        "provenance": provenance(config.seed),
    }
    folder = given.results or given.out
    write_json(folder / "nerves.json", result)
    plot(folder / "nerves.svg", rows)
    print(json.dumps({row["model"] + ", " + row["frames"]: row["figures"] for row in rows}))
    return 0


def compare(name: str, path: str, changes: Sequence[str], out: Path) -> list[dict[str, Any]]:
    """Train a variant on every split; one row for trained-on frames, one for held-out frames."""
    matches: dict[str, list[Matches]] = {"trained on": [], "held out": []}
    folds = load_config(path, changes).data.split.folds
    for fold in range(folds):
        words = (*changes, f"data.split.test_fold={fold}", f"name={name.split()[0]}-{fold}")
        config = load_config(path, words)
        folder = finished(config, out)
        data = open_data(config)
        predictor = load(folder)
        for frames, part in (("trained on", data.split.train), ("held out", data.split.test)):
            found = detect(predictor, data.videos, part)
            matches[frames].append(match(data.videos, found, part))
    return [
        {
            "model": name,
            "frames": frames,
            "figures": intervals(parts),
            "precision_at_recall": {label: precision(parts, label) for label in CLASSES},
        }
        for frames, parts in matches.items()
    ]


def finished(config: Config, out: Path) -> Path:
    """The run folder of a config, trained to its end."""
    folder = out / config.name
    if (folder / "last.safetensors").is_file():
        return folder
    return train(config, out, resume=folder.is_dir())


def intervals(parts: Sequence[Matches]) -> dict[str, Any]:
    """Mean of each figure over the splits; images are drawn over all of them at once."""
    ends = np.cumsum([len(part.video) for part in parts])

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        pieces = np.split(weights, ends[:-1], axis=1)
        values = [
            average_precisions(part, piece) for part, piece in zip(parts, pieces, strict=True)
        ]
        return {key: np.mean([value[key] for value in values], 0) for key in FIGURES}

    found = bootstrap_intervals(figures, int(ends[-1]))
    return {key: interval.to_dict() for key, interval in found.items()}


def precision(parts: Sequence[Matches], label: str) -> list[float]:
    """Precision at recall 0, 0.01 ... 1 and IoU 0.5, the mean over the splits."""
    curves = [curve(part, part.class_names.index(label)).interpolated() for part in parts]
    return np.mean(curves, 0).round(5).tolist()


def plot(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Precision over recall for each class: held-out frames solid, trained-on frames dashed."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "sonodetr"  # the same file from the same figures
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(CLASSES), figsize=(9, 3.6), sharey=True)
    colours = dict(zip(VARIANTS, ("#0072b2", "#d55e00"), strict=True))
    for axis, label in zip(axes, CLASSES, strict=True):
        for row in rows:
            held_out = row["frames"] == "held out"
            ap50 = row["figures"][f"ap50/{label}"]["value"]
            axis.plot(
                RECALL_THRESHOLDS,
                row["precision_at_recall"][label],
                color=colours[row["model"]],
                linestyle="-" if held_out else ":",
                label=f"{row['model']}, {row['frames']}: AP50 {ap50:.2f}",
            )
        axis.set(title=label, xlabel="recall at IoU 0.5", xlim=(0, 1), ylim=(0, 1.02))
        axis.legend(fontsize=6.5, loc="lower left")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("precision")
    figure.tight_layout()
    with whole_file(path) as part:
        figure.savefig(part, metadata={"Date": None})
    pyplot.close(figure)


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """The rows as a Markdown table."""
    print("| model | frames | " + " | ".join(FIGURES) + " |")
    print("|---" * (2 + len(FIGURES)) + "|")
    for row in rows:
        cells = [
            "{value:.3f} ({low:.3f} to {high:.3f})".format(**row["figures"][key]) for key in FIGURES
        ]
        print(f"| {row['model']} | {row['frames']} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    sys.exit(main())
