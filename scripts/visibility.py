"""How visible the instrument is in a simulated data set: python scripts/visibility.py OUT.svg

Counts, over all frames of every part, where an instrument is and whether it can be told from its
surround, from the labels alone (docs/simulator.md, "Labels, and what visible means"). Prints the
table and draws the distribution of contrast. Takes a minute; no picture is formed.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from sonodetr.simulator.datasets import data_set
from sonodetr.simulator.labels import InstrumentLabel
from sonodetr.simulator.recording import draw_recording
from sonodetr.simulator.settings import SimulatorConfig

COLUMNS = (
    "part",
    "frames with an instrument",
    "labelled",
    "tip known",
    "tip below 0 dB",
    "tip contrast, dB",
    "shaft below 0 dB",
    "shaft contrast, dB",
)


def labels_of(config: SimulatorConfig) -> list[InstrumentLabel | None]:
    """One a frame, of the recordings that have an instrument."""
    recordings = (draw_recording(config, index) for index in range(config.clips))
    return [
        label
        for recording in recordings
        if recording.instrument is not None
        for label in recording.labels
    ]


def share(part: int | np.ndarray, whole: int) -> str:
    return f"{float(np.sum(part)) / whole:.0%}"


def spread(values: np.ndarray) -> str:
    low, middle, high = np.percentile(values, (5, 50, 95))
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="figure, .svg")
    parser.add_argument("--set", dest="named", default="needle-small")
    options = parser.parse_args()
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), sharex=True, sharey=True)
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for part in ("train", "validation", "test", "shifted"):
        labels = labels_of(data_set(options.named)[part])
        seen = [label for label in labels if label is not None]
        tip, shaft = (
            np.array([getattr(label, f"{which}_contrast_db") for label in seen])
            for which in ("tip", "shaft")
        )
        tip = tip[np.isfinite(tip)]
        row = (
            f"`{part}`",
            str(len(labels)),
            share(len(seen), len(labels)),
            share(len(tip), len(labels)),
            share(tip < 0, len(labels)),
            spread(tip),
            share(shaft < 0, len(labels)),
            spread(shaft),
        )
        print("| " + " | ".join(row) + " |", flush=True)
        if part in ("test", "shifted"):
            for axis, values in zip(axes, (tip, shaft), strict=True):
                axis.hist(values, np.arange(-10, 51, 2), histtype="step", density=True, label=part)
    for axis, name in zip(axes, ("tip", "shaft"), strict=True):
        axis.axvline(0, color="0.6", linewidth=0.8)
        axis.set_xlabel(f"contrast of the {name}, dB")
    axes[0].set_ylabel("share of labelled frames per dB")
    axes[1].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(options.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
