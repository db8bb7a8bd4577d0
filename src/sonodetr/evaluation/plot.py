"""The precision-recall plot."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sonodetr.evaluation.metrics import Curve, OperatingPoint
from sonodetr.files import InputError, whole_file

# Okabe and Ito's colours that stand out from white for any colour vision; black is for all classes.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LINES = ("-", "--", "-.", ":")


def plot_precision_recall(
    path: Path, curves: Mapping[str, Curve], used: OperatingPoint | None, title: str
) -> None:
    """Write precision over recall at IoU 0.5 as a PNG.

    Args:
        path: file to write, whole or not at all.
        curves: name -> curve, all classes pooled first; those without objects are left out.
        used: the model's own operating point on the first curve, or None.
        title: one line above the plot.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            "the precision-recall plot needs matplotlib; run: pip install 'sonodetr[train]'"
        ) from None
    figure = Figure(figsize=(6, 5), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row, (name, curve) in enumerate(curves.items()):
        if not curve.objects or not len(curve.thresholds):
            continue
        # The strictest threshold finds nothing yet at the precision of the first operating point.
        recall = np.concatenate([[0.0], curve.recall])
        precision = np.concatenate([curve.precision[:1], curve.precision])
        colour = "black" if row == 0 else _COLOURS[(row - 1) % len(_COLOURS)]
        line = "-" if row == 0 else _LINES[(row - 1) % len(_LINES)]
        label = f"{name} ({curve.objects} objects)"
        width = 2.2 if row == 0 else 1.5
        axes.plot(recall, precision, line, color=colour, linewidth=width, label=label)
    if used is not None:
        label = f"threshold {used.threshold:.2f}"
        axes.plot(used.recall, used.precision, "ko", markerfacecolor="white", label=label)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.01), xlabel="Recall", ylabel="Precision (IoU 0.5)")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
    with whole_file(path) as part:
        figure.savefig(part)
