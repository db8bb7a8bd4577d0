"""AP against latency, with the models that no other beats in both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sonodetr.benchmark.tables import name_of
from sonodetr.files import InputError, whole_file

# Okabe and Ito's colours that stand out from white for any colour vision, and a shape for each.
_LOOKS = (
    *(("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v")),
    *(("#56B4E9", "P"), ("#000000", "X")),
)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which (latency, AP) no other point beats: none is as fast and better, or faster and as good.

    Returns:
        Their places in `points`, the fastest first.

    >>> pareto_front([(2.0, 0.3), (1.0, 0.2), (3.0, 0.3)])
    [1, 0]
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    front: list[int] = []
    for index in order:
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def plot_pareto(path: Path, rows: Sequence[dict[str, Any]]) -> bool:
    """Write AP over the median latency of a frame as a PNG.

    Args:
        path: file to write, whole or not at all.
        rows: `results` of `measure.benchmark`.

    Returns:
        False, and no file, where no row has an AP.

    Raises:
        InputError: matplotlib is not installed.
    """
    rows = [row for row in rows if row["ap"] is not None]
    if not rows:
        return False
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter
    except ImportError:
        raise InputError(
            "the plot of AP against latency needs matplotlib; run: pip install 'sonodetr[train]'"
        ) from None
    figure = Figure(figsize=(7, 5), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    points = [(row["frame_ms"]["p50"], row["ap"]) for row in rows]
    front = [points[index] for index in pareto_front(points)]
    latencies, aps = zip(*front, strict=True)
    axes.step(latencies, aps, where="post", color="0.6", zorder=1, label="Pareto front")
    names = list(dict.fromkeys(name_of(row) for row in rows))
    for place, name in enumerate(names):
        colour, marker = _LOOKS[place % len(_LOOKS)]
        own = [point for row, point in zip(rows, points, strict=True) if name_of(row) == name]
        axes.plot(*zip(*own, strict=True), marker, color=colour, label=name, zorder=2)
    axes.set_xscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_formatter(plain)
    axes.xaxis.set_minor_formatter(plain)
    axes.margins(0.1, 0.25)
    axes.set(xlabel="Median latency of a frame (ms)", ylabel="AP, IoU 0.50:0.95")
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    with whole_file(path) as part:
        figure.savefig(part)
    return True
