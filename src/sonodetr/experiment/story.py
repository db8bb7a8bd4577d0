"""What the results of an experiment say: its answer in words, and its tables."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from sonodetr.experiment.statistics import FEWEST_UNITS, LEVEL
from sonodetr.report import Cell, interval

Results = Mapping[str, Any]  # results.json
ResultRow = Mapping[str, Any]
_NO_BREAK = "\N{NO-BREAK SPACE}"
_RUNTIMES = {"torch": "PyTorch", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}
_KINDS = {"better": "good", "worse": "bad"}
_VERBS = {"better": "beats", "worse": "falls behind"}
_MOST_NAMED = 3  # clear comparisons in the answer, beside the headline


class Table(NamedTuple):
    """A table for HTML and Markdown alike."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str


def main_test(results: Results) -> str:
    """Name of the part that answers the question."""
    return results["tests"][0]["name"]


def find_row(results: Results, queries: str | None, method: str) -> ResultRow:
    """The row of a method; queries None for a teacher."""
    rows = (row for row in results["rows"] if (row["queries"], row["method"]) == (queries, method))
    return next(rows)


def compared_rows(results: Results, comparison: Mapping[str, Any]) -> tuple[ResultRow, ResultRow]:
    """The rows of a method and of what it is compared with."""
    method, against = (
        find_row(results, comparison["queries"], comparison[key]) for key in ("method", "against")
    )
    return method, against


def kinds_of_queries(results: Results) -> list[str]:
    """In the order of the rows, without teachers."""
    kinds = dict.fromkeys(row["queries"] for row in results["rows"])
    return [name for name in kinds if name is not None]


def several_queries(results: Results) -> bool:
    """Whether the methods were tried with more than one kind of queries."""
    return len(kinds_of_queries(results)) > 1


def name_of(results: Results, row: ResultRow) -> str:
    """Its method, and the queries where there are several kinds."""
    if row["queries"] is None:
        return f"teacher {row['method']}"
    return f"{row['method']} ({row['queries']})" if several_queries(results) else str(row["method"])


def headline(results: Results) -> Mapping[str, Any] | None:
    """The comparison with the baseline of the method that is best on validation data.

    It is chosen before the test part has a say, so that the best of many does not look better than
    it is. None where nothing is compared with the baseline.
    """
    compared = [
        (np.mean(compared_rows(results, each)[0]["validation_ap"]), each)
        for each in results["comparisons"][main_test(results)]
        if each["against"] == results["baseline"] and _equally_labelled(results, each)
    ]
    return max(compared, key=itemgetter(0), default=(None, None))[1]


def _equally_labelled(results: Results, comparison: Mapping[str, Any]) -> bool:
    row, reference = compared_rows(results, comparison)
    return bool(row["labels"] == reference["labels"])


def answer(results: Results) -> list[str]:
    """The answer in sentences, made from the comparisons and nothing else."""
    test, best = main_test(results), headline(results)
    if best is None:
        return ["Nothing was compared with the baseline."]
    pair = compared_rows(results, best)
    method, baseline = (name_of(results, row) for row in pair)
    ap, baseline_ap = (row["tests"][test]["figures"]["ap"]["mean"] for row in pair)
    telling = best["verdict"] in _KINDS
    sentences = [
        f"{capital(method)} reaches AP {ap:.3f} where {baseline} reaches {baseline_ap:.3f}: "
        f"{signed(best['difference']['value'])} "
        f"({_range(best['difference'], signed)}{_chance(best['p_corrected'])})"
        + ("." if telling else f", a difference that is {best['verdict']}.")
    ]
    closed = best["gap_closed"]
    if telling and closed is not None and closed["low"] is not None:
        sentences.append(
            f"That closes {_percent(closed['value'])} ({_range(closed, _percent)}) of its "
            "teacher's lead."
        )
    # That fewer labels are worse is no news.
    compared = [each for each in results["comparisons"][test] if _equally_labelled(results, each)]
    if len(compared) > 1 and best["p_corrected"] is not None:
        counts = Counter(each["verdict"] for each in compared)
        sentences.append(
            f"Comparisons that show a gain: {counts['better']} of {len(compared)}; a loss: "
            f"{counts['worse']}; nothing distinguishable from zero: "
            f"{counts['not distinguishable from zero']}."
        )
    clear = [each for each in compared if each["verdict"] in _KINDS and each is not best]
    clear.sort(key=lambda each: (each["p_corrected"], -abs(each["difference"]["value"])))
    for each in clear[:_MOST_NAMED]:
        method, against = (name_of(results, row) for row in compared_rows(results, each))
        sentences.append(
            f"{capital(method)} {_VERBS[each['verdict']]} {against}: "
            f"{signed(each['difference']['value'])} ({_range(each['difference'], signed)})."
        )
    return sentences


def facts(results: Results) -> list[str]:
    """What a reader must know to judge the figures."""
    test = results["tests"][0]
    seeds = len(results["seeds"])
    tuned = "Nothing was tuned"
    if results["tried"]:
        tuned = f"{results['tried']} configurations were tried on validation data, first seed"
    lines = [
        f"{test['frames']} labelled frames with {test['objects']} objects in {test['units']} "
        f"{test['unit']}s that no training saw; {seeds} seed{'s' * (seeds > 1)} a method.",
        f"{tuned}; nothing was chosen by the test parts.",
        f"Intervals hold 95%, by bootstrap ({test['resamples']} draws): {test['unit']}s are drawn "
        "anew, the same for every run, and seeds within each method. Differences of AP are tested "
        "two-sidedly and corrected after Holm for all comparisons on a part together; other "
        "figures are described, not tested.",
    ]
    if seeds == 1:
        lines.append(
            "With one seed, intervals do not hold what another training would have made of it."
        )
    if test["units"] < FEWEST_UNITS:
        lines.append(
            f"With fewer than {FEWEST_UNITS} {test['unit']}s intervals are too narrow, and "
            "differences are not tested."
        )
    return lines


def result_table(results: Results) -> Table:
    """A row a method: AP on every part, difference to the first reference, and more of the main."""
    first, *others = (test["name"] for test in results["tests"])
    tips = any("tip_within_3_mm" in row["tests"][first]["figures"] for row in results["rows"])
    times = [latency_ms(results, row) for row in results["rows"]]
    rows = []
    for row, time in zip(results["rows"], times, strict=True):
        compared = _reference(results, row, first)
        cells = [
            Cell(row["method"]),
            _figure(row, first, "ap", spread=True),
            _difference_cell(compared, results["baseline"]),
            _closed_cell(compared),
            _figure(row, first, "ap50"),
            _figure(row, first, "ap75"),
        ]
        if tips:
            cells.append(_figure(row, first, "tip_within_3_mm", _percent))
            cells.append(_figure(row, first, "tip_error_median_mm", "{:.2f}".format))
        cells += [_figure(row, other, "ap") for other in others]
        if any(times):
            cells.append(Cell("" if time is None else f"{time[0]:.2f}"))
        rows.append((row["queries"], tuple(cells)))
    head = (
        *("method", "AP", "difference", "teacher's lead closed", "AP50", "AP75"),
        *(("tip within 3 mm", "tip error, mm") if tips else ()),
        *(f"AP, {other}" for other in others),
        *(("ms a frame",) if any(times) else ()),
    )
    measured_with = sorted({time[1] for time in times if time is not None})
    caption = (
        f"On the part {first!r}: mean over seeds ± their standard deviation, and the 95% interval "
        f"of the mean. Differences are to {results['baseline']!r} unless said otherwise, bold "
        "where they are distinguishable from zero after correction."
        + (f" Time of a frame: {'; '.join(measured_with)}." if measured_with else "")
    )
    return Table(head, _grouped(results, rows), caption)


def comparison_table(results: Results, test: str) -> Table:
    """A row for each comparison on a part, drawn and in figures."""
    compared = results["comparisons"][test]
    bounds = [abs(each["difference"][end]) for each in compared for end in ("low", "high")]
    reach = max(bounds, default=0) or 1.0  # of trainings too short to find anything all are zero
    rows = []
    for each in compared:
        gain, kind = each["difference"], _KINDS.get(each["verdict"], "")
        drawing = interval(gain["low"], gain["value"], gain["high"], reach, filled=bool(kind))
        # In a narrow column, two lines and not four.
        verdict = each["verdict"].replace("not ", f"not{_NO_BREAK}")
        verdict = verdict.replace("from ", f"from{_NO_BREAK}")
        p = Cell("")
        if each["p"] is not None:
            p = Cell(_p(each["p_corrected"]), f"before: {_p(each['p'])}")
        cells = (
            Cell(each["method"], f"against {each['against']}"),
            Cell("", "", kind, drawing),
            Cell(signed(gain["value"]), _range(gain, signed), kind),
            p,
            Cell(verdict),
            _closed_cell(each),
        )
        rows.append((each["queries"], cells))
    scale = f"\N{MINUS SIGN}{reach:.2f} to +{reach:.2f}"
    return Table(
        ("method", scale, "AP gained", "p", "verdict", "lead closed"),
        _grouped(results, rows, named=several_queries(results)),
        f"On the part {test!r}. The verdict is that of p after Holm's correction for "
        f"{len(compared)} comparison{'s' * (len(compared) > 1)}, at {LEVEL:g}; intervals are not "
        "corrected. Lead closed: the gain as a share of the teacher's lead; one that may be zero "
        "has no bounds.",
    )


def _grouped(
    results: Results, rows: Iterable[tuple[str | None, tuple[Cell, ...]]], *, named: bool = True
) -> tuple[tuple[Cell, ...], ...]:
    """Rows below headings: teachers, and each kind of queries."""
    grouped: list[tuple[Cell, ...]] = []
    for queries, group in groupby(rows, key=itemgetter(0)):
        name = f"{queries} queries" if several_queries(results) else "students"
        if named:
            grouped.append((Cell("teachers" if queries is None else name, "", "group"),))
        grouped += (cells for _, cells in group)
    return tuple(grouped)


def run_table(results: Results) -> Table:
    """What was trained, with what was chosen on validation data."""
    rows = [
        (
            Cell(name_of(results, row)),
            Cell(", ".join(f"{key} {_plain(value)}" for key, value in row["tuned"].items())),
            Cell(_percent(row["labels"])),
            Cell(str(row["epochs"])),
            Cell(f"{row['parameters'] / 1e6:.2f} M"),
            Cell(", ".join(f"{ap:.3f}" for ap in row["validation_ap"])),
            Cell(", ".join(row["runs"])),
        )
        for row in results["rows"]
    ]
    head = ("method", "chosen", "labels", "epochs", "parameters", "validation AP", "runs")
    return Table(head, tuple(rows), "Every training; chosen numbers had the best validation AP.")


def _reference(results: Results, row: ResultRow, test: str) -> Mapping[str, Any] | None:
    """The comparison of a row that stands in the table of results."""
    key = row["queries"], row["method"]
    compared = results["comparisons"][test]
    return next((each for each in compared if (each["queries"], each["method"]) == key), None)


def latency_ms(results: Results, row: ResultRow) -> tuple[float, str] | None:
    """The shortest median time of a frame of a row's network, and with what."""
    number = list(results["rows"]).index(row)
    timed = [each for each in results["timed"]["latency"] if number in each["rows"]]
    if not timed:
        return None
    best = min(timed, key=lambda each: each["p50_ms"])
    threads = f"{best['threads']} thread{'s' * (best['threads'] > 1)}"
    precision = "" if best["precision"] == "float32" else f" {best['precision']}"
    return best["p50_ms"], f"{_RUNTIMES[best['runtime']]}{precision}, {threads}"


def _figure(
    row: ResultRow,
    test: str,
    figure: str,
    show: Callable[[float], str] = "{:.3f}".format,
    *,
    spread: bool = False,
) -> Cell:
    of = row["tests"][test]["figures"].get(figure)
    if of is None or of["mean"] is None:
        return Cell("undefined")
    text = show(of["mean"])
    if spread and of["deviation"] is not None:
        text += f"{_NO_BREAK}±{_NO_BREAK}{show(of['deviation'])}"
    return Cell(text, "" if of["low"] is None else _range(of, show))


def _difference_cell(compared: Mapping[str, Any] | None, baseline: str) -> Cell:
    if compared is None:
        return Cell("")
    note = _range(compared["difference"], signed)
    if compared["against"] != baseline:
        note += f"\nto {compared['against']}"
    kind = _KINDS.get(compared["verdict"], "")
    return Cell(signed(compared["difference"]["value"]), note, kind)


def _closed_cell(compared: Mapping[str, Any] | None) -> Cell:
    closed = None if compared is None else compared["gap_closed"]
    if closed is None:
        return Cell("")
    if closed["value"] is None:
        return Cell("no lead")
    note = "no bounds" if closed["low"] is None else _range(closed, _percent)
    return Cell(_percent(closed["value"]), note)


def capital(text: str) -> str:
    """As a sentence begins."""
    return text[:1].upper() + text[1:]


def signed(value: float) -> str:
    """A gain or loss of AP."""
    return f"{round(value, 3) + 0.0:+.3f}".replace("-", "\N{MINUS SIGN}")  # never -0.000


def _percent(value: float) -> str:
    return f"{round(100 * value) + 0:d}%".replace("-", "\N{MINUS SIGN}")


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _range(of: Mapping[str, Any], show: Callable[[float], str]) -> str:
    return f"{show(of['low'])} to {show(of['high'])}"


def _chance(p_corrected: float | None) -> str:
    if p_corrected is None:
        return ""
    return f"; p{_NO_BREAK}={_NO_BREAK}{_p(p_corrected)} after correction"


def _p(value: float) -> str:
    return f"{value:.4f}" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def markdown(table: Table) -> str:
    """The same table in Markdown; a note follows in brackets.

    >>> print(markdown(Table(("a", "b"), ((Cell("1"), Cell("2", "1 to 3")),), "Two.")))
    | a | b |
    |---|---|
    | 1 | 2 (1 to 3) |
    <BLANKLINE>
    Two.
    <BLANKLINE>
    """
    drawn = {place for row in table.rows for place, cell in enumerate(row) if cell.drawing}
    head = [text for place, text in enumerate(table.head) if place not in drawn]
    lines = [_line(head), "|" + "---|" * len(head)]
    for row in table.rows:
        cells = [cell for place, cell in enumerate(row) if place not in drawn]
        texts = [_strong(cell) + (f" ({cell.note})" if cell.note else "") for cell in cells]
        if row[0].kind == "group":
            texts = [f"**{row[0].text}**"] + [""] * (len(head) - 1)
        lines.append(_line(texts))
    return "\n".join([*lines, "", table.caption, ""])


def _strong(cell: Cell) -> str:
    return f"**{cell.text}**" if cell.kind in _KINDS.values() else cell.text


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', '/').replace(chr(10), ', ') for text in texts)} |"
