"""The charts of an experiment's report, drawn from results.json alone."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sonodetr.benchmark.plot import pareto_front
from sonodetr.experiment.story import (
    ResultRow,
    Results,
    capital,
    compared_rows,
    headline,
    latency_ms,
    main_test,
    name_of,
    several_queries,
)
from sonodetr.report import INK, SERIES, chart, start_chart

_WIDTH_IN, _HEIGHT_IN = 5.0, 3.3  # two side by side on a wide page, one on a phone
_MARKERS = ("o", "s", "^", "D", "v", "P")


def ap_against_latency(results: Results) -> str | None:
    """AP of every row over the time of a frame; None where nothing was timed."""
    test = main_test(results)
    points = [
        (*timed, row["tests"][test]["figures"]["ap"], row)
        for row in results["rows"]
        if (row["queries"] is None or row["labels"] == _labels(results))
        and (timed := latency_ms(results, row))
    ]
    if not points:
        return None
    axes = start_chart(_WIDTH_IN, _HEIGHT_IN, "Median time of a frame (ms)", "AP")
    on_front = [points[at] for at in pareto_front([(p[0], p[2]["mean"]) for p in points])]
    front = [point[0] for point in on_front], [point[2]["mean"] for point in on_front]
    axes.step(*front, where="post", color=INK, linewidth=1)
    for latency, _, ap, row in points:
        kind = 2 if row["queries"] is None else 0 if row["teacher"] else 1
        axes.plot([latency] * 2, [ap["low"], ap["high"]], color=SERIES[kind], alpha=0.5)
        axes.plot([latency], [ap["mean"]], _MARKERS[kind], color=SERIES[kind], markersize=6)
    for kind, label in ((1, "student alone"), (0, "student with a teacher"), (2, "teacher")):
        axes.plot([], [], _MARKERS[kind], color=SERIES[kind], label=label)
    for latency, _, ap, row in on_front:
        place = {"textcoords": "offset points", "xytext": (7, 6)}
        axes.annotate(name_of(results, row), (latency, ap["mean"]), color=INK, fontsize=9, **place)
    _log_axis(axes)
    axes.margins(0.25, 0.1)
    _legend(axes)
    times = sorted({point[1] for point in points})
    return chart(
        axes,
        f"AP on the part {test!r} against the time of a frame ({'; '.join(times)}). The line joins "
        "what no other beats in both; bars are 95% intervals.",
    )


def curves(results: Results, queries: str) -> str | None:
    """Validation AP through the trainings, mean and range of the seeds."""
    return _through_training(
        results, queries, "curves", "AP on validation data", "Validation AP through the trainings"
    )


def attention_distances(results: Results, queries: str) -> str | None:
    """Divergence of the encoder attention from the teacher's, where it was to fall."""
    return _through_training(
        results,
        queries,
        "distances",
        "Divergence on validation clips",
        "How far encoder attention is from the teacher's on clips that are not trained on",
    )


def _through_training(
    results: Results, queries: str, of: str, label: str, caption: str
) -> str | None:
    # A method has the same colour in every such chart.
    rows = [(number, row) for number, row in enumerate(chosen(results, queries)) if any(row[of])]
    if not rows:
        return None
    axes = start_chart(_WIDTH_IN, _HEIGHT_IN, "Step", label)
    for number, row in rows:
        shortest = min(len(of_seed) for of_seed in row[of])  # early stopping
        steps = [step for step, _ in row[of][0][:shortest]]
        values = np.array([[value for _, value in of_seed[:shortest]] for of_seed in row[of]])
        bounds = values.mean(0), values.min(0), values.max(0)
        _band(axes, number, steps, *bounds, label=row["method"])
    _legend(axes)
    which = f", {queries} queries" if several_queries(results) else ""
    return chart(axes, f"{caption}{which}: mean over seeds, and from the lowest to the highest.")


def few_labels(results: Results) -> str | None:
    """AP over the share of labels, a line for each way of training; None without such rows."""
    families = label_families(results)
    if not families:
        return None
    test = main_test(results)
    axes = start_chart(_WIDTH_IN, _HEIGHT_IN, "Share of the recordings that are labelled", "AP")
    for number, (name, rows) in enumerate(list(families.items())[: len(SERIES)]):
        figures = [row["tests"][test]["figures"]["ap"] for row in rows]
        mean, low, high = ([of[key] for of in figures] for key in ("mean", "low", "high"))
        labels = [row["labels"] for row in rows]
        _band(axes, number, labels, mean, low, high, marker=_MARKERS[number], label=name)
    _log_axis(axes, lambda value: f"{100 * value:g}%")
    shares = sorted({row["labels"] for rows in families.values() for row in rows})
    axes.set_xticks(shares)
    axes.set_xticks([], minor=True)
    _legend(axes)
    return chart(axes, f"AP on the part {test!r} with few labels; bands are 95% intervals.")


def label_families(results: Results) -> dict[str, list[ResultRow]]:
    """Rows that differ in the share of labels alone, as their names say, fewest labels first.

    A method with all labels leads those whose name begins with its own: 'plain' leads
    'plain, 10% of labels'.
    """
    families: dict[str, list[ResultRow]] = {}
    students = [row for row in results["rows"] if row["queries"] is not None]
    whole = [row for row in students if row["labels"] == 1]
    for row in students:
        leads = [
            each
            for each in whole
            if each["queries"] == row["queries"] and row["method"].startswith(each["method"])
        ]
        if row["labels"] < 1 and leads:
            lead = max(leads, key=lambda each: len(each["method"]))
            families.setdefault(name_of(results, lead), [lead]).append(row)
    return {name: sorted(rows, key=lambda row: row["labels"]) for name, rows in families.items()}


def by_recording(results: Results, comparison: Mapping[str, Any]) -> str | None:
    """The gain in each recording, sorted; None where no recording has an AP."""
    values = np.array(sorted(recording_gains(results, comparison).values(), reverse=True))
    if not len(values):
        return None
    axes = start_chart(_WIDTH_IN, _HEIGHT_IN, "Recordings, sorted", "AP gained in a recording")
    colours = np.where(values > 0, SERIES[2], np.where(values < 0, SERIES[1], INK))
    axes.bar(range(len(values)), values, color=colours, width=0.85)
    axes.axhline(0, color=INK, linewidth=1)
    axes.set_xticks([])
    axes.grid(visible=False, axis="x")
    row, reference = compared_rows(results, comparison)
    better, worse = int((values > 0).sum()), int((values < 0).sum())
    return chart(
        axes,
        f"{capital(name_of(results, row))} against {reference['method']} in each recording with "
        f"objects of the part {main_test(results)!r}, mean over seeds: better in {better}, worse "
        f"in {worse}, the same in {len(values) - better - worse}.",
    )


def recording_gains(results: Results, comparison: Mapping[str, Any]) -> dict[str, float]:
    """Key of a recording -> mean AP gained in it, where it has objects."""
    test = results["tests"][0]
    pair = compared_rows(results, comparison)
    aps = (row["tests"][test["name"]]["recordings"] for row in pair)
    return {
        key: ap - other
        for key, ap, other in zip(test["recordings"], *aps, strict=True)
        if ap is not None and other is not None
    }


def tip_errors(results: Results, queries: str) -> str | None:
    """Share of the tips found within a distance, by distance; None without tips in mm."""
    test = results["tests"][0]
    teachers = [row for row in results["rows"] if row["queries"] is None]
    rows = [
        row
        for row in [*chosen(results, queries)[:4], *teachers[:2]]
        if all(tips is not None for tips in row["tests"][test["name"]]["tips"])
    ]
    if not rows:
        return None
    axes = start_chart(_WIDTH_IN, _HEIGHT_IN, "Tip error (mm)", "Share of the labelled tips")
    for number, row in enumerate(rows):
        shares = np.array(row["tests"][test["name"]]["tips"])
        student = row["queries"] is not None
        name, line = (row["method"], "-") if student else (name_of(results, row), "--")
        bounds = shares.mean(0), shares.min(0), shares.max(0)
        _band(axes, number, test["tip_within_mm"], *bounds, linestyle=line, label=name)
    axes.set(xlim=(0, test["tip_within_mm"][-1]), ylim=(0, 1))
    _legend(axes)
    return chart(
        axes,
        f"Tips found within a distance on the part {test['name']!r}, at each model's threshold; a "
        "missed needle is within none. Mean over seeds, and from the worst seed to the best.",
    )


def chosen(results: Results, queries: str) -> list[ResultRow]:
    """Rows for a chart with few lines: baseline, headline, strongest baseline, best others."""
    rows = [
        row
        for row in results["rows"]
        if row["queries"] == queries and row["labels"] == _labels(results)
    ]
    best = headline(results)
    first = [results["baseline"], best["method"] if best else "", results["strongest"].get(queries)]
    rows.sort(key=lambda row: -float(np.mean(row["validation_ap"])))
    rows.sort(key=lambda row: first.index(row["method"]) if row["method"] in first else len(first))
    return rows[: len(SERIES)]


def _labels(results: Results) -> float:
    """Share of the labels that the baseline has; others are not compared in one chart."""
    rows = (row for row in results["rows"] if row["method"] == results["baseline"])
    return float(next(row["labels"] for row in rows if row["queries"] is not None))


def _band(axes: Any, number: int, across: Any, mean: Any, low: Any, high: Any, **look: Any) -> None:
    """A line of the colour of its number, and what lies between two others."""
    axes.plot(across, mean, color=SERIES[number], **look)
    axes.fill_between(across, low, high, color=SERIES[number], alpha=0.15, linewidth=0)


def _log_axis(axes: Any, show: Callable[[float], str] = "{:g}".format) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(axes: Any) -> None:
    columns = 1 + (len(axes.get_legend_handles_labels()[0]) > 4)
    axes.legend(labelcolor=INK, framealpha=0, fontsize=9, loc="best", ncols=columns)
