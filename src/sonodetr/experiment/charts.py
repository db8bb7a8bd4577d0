"""The charts of an experiment's report, drawn from results.json alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sonodetr.benchmark.plot import pareto_front
from sonodetr.experiment.story import (
    ResultRow,
    Results,
    capital,
    find_row,
    headline,
    latency_ms,
    main_test,
    name_of,
    several_queries,
)
from sonodetr.report import INK, SERIES, chart, start_chart

_WIDTH_IN, _HEIGHT_IN = 5.0, 3.3  # two side by side on a wide page, one on a phone
_MOST_LINES = len(SERIES)
_MARKERS = ("o", "s", "^", "D", "v", "P")


def ap_against_latency(results: Results) -> str | None:
    """AP of every row over the time of a frame; None where nothing was timed."""
    test = main_test(results)
    points = []
    for row in results["rows"]:
        timed, ap = latency_ms(results, row), row["tests"][test]["figures"]["ap"]
        if timed is not None and row["labels"] == 1:
            points.append((timed[0], ap["mean"], row, ap))
    if not points:
        return None
    axes = start_chart(_WIDTH_IN, _HEIGHT_IN, "Median time of a frame (ms)", "AP")
    front = pareto_front([(point[0], point[1]) for point in points])
    on_front = [points[number] for number in front]
    axes.step(
        *zip(*((p[0], p[1]) for p in on_front), strict=True), where="post", color=INK, linewidth=1
    )
    for latency, ap, row, bounds in points:
        kind = 2 if row["queries"] is None else 0 if row["teacher"] else 1
        axes.plot([latency] * 2, [bounds["low"], bounds["high"]], color=SERIES[kind], alpha=0.5)
        axes.plot([latency], [ap], _MARKERS[kind], color=SERIES[kind], markersize=6)
    for number, label in ((1, "student alone"), (0, "student with a teacher"), (2, "teacher")):
        axes.plot([], [], _MARKERS[number], color=SERIES[number], label=label)
    for latency, ap, row, _ in on_front:
        place = {"textcoords": "offset points", "xytext": (7, 6)}
        axes.annotate(name_of(results, row), (latency, ap), color=INK, fontsize=9, **place)
    _log_axis(axes.xaxis, axes.set_xscale)
    axes.margins(0.25, 0.1)
    _legend(axes)
    times = sorted({latency_ms(results, point[2])[1] for point in points})  # type: ignore[index]
    return chart(
        axes,
        f"AP on the part {test!r} against the time of a frame ({'; '.join(times)}). The line joins "
        "what no other beats in both; bars are 95% intervals.",
    )


def curves(results: Results, queries: str) -> str | None:
    """Validation AP through the trainings, mean and range of the seeds."""
    rows = [row for row in chosen(results, queries) if any(row["curves"])]
    if not rows:
        return None
    axes = start_chart(_WIDTH_IN, _HEIGHT_IN, "Step", "AP on validation data")
    for number, row in enumerate(rows):
        shortest = min(len(of_seed) for of_seed in row["curves"])  # early stopping
        steps = [step for step, _ in row["curves"][0][:shortest]]
        aps = np.array([[ap for _, ap in of_seed[:shortest]] for of_seed in row["curves"]])
        colour = SERIES[number]
        axes.plot(steps, aps.mean(0), color=colour, label=row["method"], linewidth=1.8)
        axes.fill_between(steps, aps.min(0), aps.max(0), color=colour, alpha=0.15, linewidth=0)
    _legend(axes)
    which = f" with {queries} queries" if several_queries(results) else ""
    return chart(axes, f"Training{which}: mean over seeds, and from the worst seed to the best.")


def few_labels(results: Results) -> str | None:
    """AP over the share of labels, a line for each way of training; None without such rows."""
    families = label_families(results)
    if not families:
        return None
    test = main_test(results)
    axes = start_chart(_WIDTH_IN, _HEIGHT_IN, "Share of the recordings that are labelled", "AP")
    for number, (name, rows) in enumerate(list(families.items())[:_MOST_LINES]):
        figures = [row["tests"][test]["figures"]["ap"] for row in rows]
        labels = np.array([row["labels"] for row in rows])
        mean, low, high = (np.array([of[key] for of in figures]) for key in ("mean", "low", "high"))
        colour = SERIES[number]
        axes.plot(labels, mean, color=colour, marker=_MARKERS[number], label=name)
        axes.fill_between(labels, low, high, color=colour, alpha=0.15, linewidth=0)
    _log_axis(axes.xaxis, axes.set_xscale, lambda value: f"{100 * value:g}%")
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
    test = main_test(results)
    first, second = (
        find_row(results, comparison["queries"], comparison[key]) for key in ("method", "against")
    )
    gains = recording_gains(results, comparison)
    if not gains:
        return None
    values = np.array(sorted(gains.values(), reverse=True))
    axes = start_chart(_WIDTH_IN, _HEIGHT_IN, "Recordings, sorted", "AP gained in a recording")
    colours = np.where(values > 0, SERIES[2], np.where(values < 0, SERIES[1], INK))
    axes.bar(range(len(values)), values, color=colours, width=0.85)
    axes.axhline(0, color=INK, linewidth=1)
    axes.set_xticks([])
    axes.grid(visible=False, axis="x")
    better, worse = int((values > 0).sum()), int((values < 0).sum())
    return chart(
        axes,
        f"{capital(name_of(results, first))} against {second['method']} in each recording with "
        f"objects of the part {test!r}, mean over seeds: better in {better}, worse in {worse}, the "
        f"same in {len(values) - better - worse}.",
    )


def recording_gains(results: Results, comparison: Mapping[str, Any]) -> dict[str, float]:
    """Key of a recording -> mean AP gained in it, where it has objects."""
    test = results["tests"][0]
    first, second = (
        find_row(results, comparison["queries"], comparison[key])["tests"][test["name"]][
            "recordings"
        ]
        for key in ("method", "against")
    )
    return {
        key: ap - other
        for key, ap, other in zip(test["recordings"], first, second, strict=True)
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
        shares, colour = np.array(row["tests"][test["name"]]["tips"]), SERIES[number]
        name = row["method"] if row["queries"] is not None else name_of(results, row)
        line = "-" if row["queries"] is not None else "--"
        axes.plot(test["tip_within_mm"], shares.mean(0), line, color=colour, label=name)
        axes.fill_between(
            test["tip_within_mm"], shares.min(0), shares.max(0), color=colour, alpha=0.15, lw=0
        )
    axes.set(xlim=(0, test["tip_within_mm"][-1]), ylim=(0, 1))
    _legend(axes)
    return chart(
        axes,
        f"Tips found within a distance on the part {test['name']!r}, at each model's threshold; a "
        "missed needle is within none. Mean over seeds, and from the worst seed to the best.",
    )


def chosen(results: Results, queries: str) -> list[ResultRow]:
    """Rows for a chart with few lines: baseline, headline, strongest baseline, best others."""
    rows = [row for row in results["rows"] if row["queries"] == queries and row["labels"] == 1]
    best = headline(results)
    first = [results["baseline"], best["method"] if best else "", results["strongest"].get(queries)]
    rows.sort(key=lambda row: -float(np.mean(row["validation_ap"])))
    rows.sort(key=lambda row: first.index(row["method"]) if row["method"] in first else len(first))
    return rows[:_MOST_LINES]


def _log_axis(axis: Any, set_scale: Any, show: Any = lambda value: f"{value:g}") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))
    axis.set_minor_formatter(NullFormatter())


def _legend(axes: Any) -> None:
    columns = 1 + (len(axes.get_legend_handles_labels()[0]) > 4)
    axes.legend(labelcolor=INK, framealpha=0, fontsize=9, loc="best", ncols=columns)


def kinds_of_queries(rows: Sequence[ResultRow]) -> list[str]:
    """In the order of the rows, without teachers."""
    return [name for name in dict.fromkeys(row["queries"] for row in rows) if name is not None]
