"""What the results of an experiment say: its answer in words, and its tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sonodetr.experiment.statistics import LEVEL
from sonodetr.report import Cell, interval

Results = Mapping[str, Any]  # results.json
ResultRow = Mapping[str, Any]
_NO_BREAK = "\N{NO-BREAK SPACE}"
_RUNTIMES = {"torch": "PyTorch", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}
_KINDS = {"better": "good", "worse": "bad"}


@dataclass(frozen=True)
class Table:
    """A table for HTML and Markdown alike."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""

    def without_drawings(self) -> "Table":
        """The columns that say something in words."""
        kept = [
            place
            for place in range(len(self.head))
            if not any(len(row) > place and row[place].drawing for row in self.rows)
        ]
        rows = tuple(row if len(row) == 1 else tuple(row[p] for p in kept) for row in self.rows)
        return Table(tuple(self.head[place] for place in kept), rows, self.caption)


def main_test(results: Results) -> str:
    """Name of the part that answers the question."""
    return results["tests"][0]["name"]


def find_row(results: Results, queries: str | None, method: str) -> ResultRow:
    """The row of a method; queries None for a teacher."""
    rows = (row for row in results["rows"] if (row["queries"], row["method"]) == (queries, method))
    return next(rows)


def _group(results: Results, queries: str | None) -> str:
    """Heading of the rows of one kind of queries, or of the teachers."""
    if queries is None:
        return "teachers"
    return f"{queries} queries" if several_queries(results) else "students"


def several_queries(results: Results) -> bool:
    """Whether the methods were tried with more than one kind of queries."""
    return len({row["queries"] for row in results["rows"]} - {None}) > 1


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
        each
        for each in results["comparisons"][main_test(results)]
        if each["against"] == results["baseline"]
        and find_row(results, each["queries"], each["method"])["labels"]
        == find_row(results, each["queries"], each["against"])["labels"]
    ]

    def validation(comparison: Mapping[str, Any]) -> float:
        row = find_row(results, comparison["queries"], comparison["method"])
        return sum(row["validation_ap"]) / len(row["validation_ap"])

    return max(compared, key=validation, default=None)


def answer(results: Results) -> list[str]:
    """The answer in sentences, made from the comparisons and nothing else."""
    test, best = main_test(results), headline(results)
    compared = results["comparisons"][test]
    if best is None:
        return ["Nothing was compared with the baseline."]
    pair = [find_row(results, best["queries"], best[key]) for key in ("method", "against")]
    method, baseline = (name_of(results, row) for row in pair)
    ap, baseline_ap = (row["tests"][test]["figures"]["ap"]["mean"] for row in pair)
    telling = best["verdict"] in _KINDS
    sentences = [
        f"{capital(method)} reaches AP {ap:.3f} where {baseline} reaches {baseline_ap:.3f}: "
        f"{signed(best['difference']['value'])} "
        f"({_range(best['difference'], signed)}; "
        f"p{_NO_BREAK}={_NO_BREAK}{_p(best['p_corrected'])} after correction)"
        + ("." if telling else f", a difference that is {best['verdict']}.")
    ]
    closed = best["gap_closed"]
    if telling and closed is not None and closed["low"] is not None:
        sentences.append(
            f"That closes {_percent(closed['value'])} ({_range(closed, _percent)}) of its "
            "teacher's lead."
        )
    counts = {
        verdict: sum(each["verdict"] == verdict for each in compared)
        for verdict in ("better", "worse", "not distinguishable from zero")
    }
    if len(compared) > 1:
        sentences.append(
            f"Of {len(compared)} comparisons {counts['better']} are a gain, {counts['worse']} a "
            f"loss, and {counts['not distinguishable from zero']} are not distinguishable from "
            "zero."
        )
    return sentences


def facts(results: Results) -> list[str]:
    """What a reader must know to judge the figures."""
    test = results["tests"][0]
    seeds = len(results["seeds"])
    lines = [
        f"{test['frames']} labelled frames with {test['objects']} objects in {test['units']} "
        f"{test['unit']}s that no training saw; {seeds} seed{'s' * (seeds > 1)} a method.",
        f"{results['tried']} configurations were tried on validation data with the first seed; the "
        "test parts were looked at once, when everything was trained.",
        f"Intervals hold 95%, by bootstrap ({test['resamples']} draws): {test['unit']}s are drawn "
        "anew, the same for every run, and seeds within each method. Differences of AP are tested "
        "two-sidedly and corrected after Holm for all comparisons on a part together; other "
        "figures are described, not tested.",
    ]
    if seeds == 1:
        lines.append(
            "With one seed, intervals do not hold what another training would have made of it."
        )
    return lines


def result_table(results: Results) -> Table:
    """A row a method: AP on every part, difference to the first reference, and more of the main."""
    first, *others = (test["name"] for test in results["tests"])
    figures = results["rows"][0]["tests"][first]["figures"]
    columns: dict[str, Callable[[ResultRow], Cell]] = {
        "AP": lambda row: _figure(row, first, "ap", spread=True),
        "difference": lambda row: _difference_cell(results, row, first),
        "teacher's lead closed": lambda row: _closed_cell(results, row, first),
        "AP50": lambda row: _figure(row, first, "ap50"),
    }
    if "tip_within_3_mm" in figures:
        columns["tip within 3 mm"] = lambda row: _figure(row, first, "tip_within_3_mm", _percent)
        columns["tip error, mm"] = lambda row: _figure(
            row, first, "tip_error_median_mm", "{:.2f}".format
        )
    for other in others:
        columns[f"AP, {other}"] = lambda row, other=other: _figure(row, other, "ap")  # type: ignore[misc]
    if results["timed"]["latency"]:
        columns["ms a frame"] = lambda row: _latency_cell(results, row)
    rows: list[tuple[Cell, ...]] = []
    last = ""
    for row in results["rows"]:
        if (group := _group(results, row["queries"])) != last:
            rows.append((Cell(group, "", "group"),))
            last = group
        rows.append((Cell(row["method"]), *(make(row) for make in columns.values())))
    fastest = {timed[1] for row in results["rows"] if (timed := latency_ms(results, row))}
    caption = (
        f"On the part {first!r}: mean over seeds ± their standard deviation, and the 95% interval "
        f"of the mean. Differences are to {results['baseline']!r} unless said otherwise, green or "
        "orange where they are distinguishable from zero after correction."
        + (f" Time of a frame: {'; '.join(sorted(fastest))}." if fastest else "")
    )
    return Table(("method", *columns), tuple(rows), caption)


def comparison_table(results: Results, test: str) -> Table:
    """A row for each comparison on a part, drawn and in figures."""
    compared = results["comparisons"][test]
    reach = max(
        (abs(each["difference"][e]) for each in compared for e in ("low", "high")), default=1
    )
    rows: list[tuple[Cell, ...]] = []
    last = _group(results, "")  # one group needs no heading
    for each in compared:
        if (group := _group(results, each["queries"])) != last:
            rows.append((Cell(group, "", "group"),))
            last = group
        gain, kind = each["difference"], _KINDS.get(each["verdict"], "")
        drawing = interval(gain["low"], gain["value"], gain["high"], reach, filled=bool(kind))
        rows.append(
            (
                Cell(each["method"], f"against {each['against']}"),
                Cell("", "", kind, drawing),
                Cell(signed(gain["value"]), _range(gain, signed), kind),
                Cell(_p(each["p_corrected"]), f"before: {_p(each['p'])}"),
                Cell(_in_two_lines(each["verdict"])),
                Cell("") if each["gap_closed"] is None else _share_cell(each["gap_closed"]),
            )
        )
    return Table(
        (
            "method",
            f"\N{MINUS SIGN}{reach:.2f} to +{reach:.2f}",
            "AP gained",
            "p",
            "verdict",
            "lead closed",
        ),
        tuple(rows),
        f"On the part {test!r}. The verdict is that of p after Holm's correction for "
        f"{len(compared)} comparison{'s' * (len(compared) > 1)}, at {LEVEL:g}; intervals are not "
        "corrected. Lead closed: the gain as a share of the teacher's lead; one that may be zero "
        "has no bounds.",
    )


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


def comparisons_of(results: Results, row: ResultRow, test: str) -> list[Mapping[str, Any]]:
    """Those of one row, the reference of its table row first."""
    return [
        each
        for each in results["comparisons"][test]
        if (each["queries"], each["method"]) == (row["queries"], row["method"])
    ]


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


def _difference_cell(results: Results, row: ResultRow, test: str) -> Cell:
    for each in comparisons_of(results, row, test)[:1]:
        note = _range(each["difference"], signed)
        if each["against"] != results["baseline"]:
            note += f"\nto {each['against']}"
        return Cell(signed(each["difference"]["value"]), note, _KINDS.get(each["verdict"], ""))
    return Cell("")


def _closed_cell(results: Results, row: ResultRow, test: str) -> Cell:
    for each in comparisons_of(results, row, test)[:1]:
        if each["gap_closed"] is not None:
            return _share_cell(each["gap_closed"])
    return Cell("")


def _share_cell(closed: Mapping[str, Any]) -> Cell:
    if closed["value"] is None:
        return Cell("no lead")
    note = "no bounds" if closed["low"] is None else _range(closed, _percent)
    return Cell(_percent(closed["value"]), note)


def _latency_cell(results: Results, row: ResultRow) -> Cell:
    timed = latency_ms(results, row)
    return Cell("") if timed is None else Cell(f"{timed[0]:.2f}")


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


def _in_two_lines(verdict: str) -> str:
    """At most: a narrow column would make four of it."""
    if len(words := verdict.split()) < 4:
        return verdict
    return f"{_NO_BREAK.join(words[:2])} {_NO_BREAK.join(words[2:])}"


def _p(value: float) -> str:
    return f"{value:.4f}" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def markdown(table: Table) -> str:
    """The same table in Markdown; a note follows in brackets.

    >>> print(markdown(Table(("a", "b"), ((Cell("1"), Cell("2", "1 to 3")),))))
    | a | b |
    |---|---|
    | 1 | 2 (1 to 3) |
    <BLANKLINE>
    """
    table = table.without_drawings()
    lines = [_line(table.head), "|" + "---|" * len(table.head)]
    for row in table.rows:
        cells = [f"{cell.text} ({cell.note})" if cell.note else cell.text for cell in row]
        if row[0].kind == "group":
            cells = [f"**{row[0].text}**"] + [""] * (len(table.head) - 1)
        lines.append(_line(cells))
    return "\n".join([*lines, *(["", table.caption] if table.caption else []), ""])


def _line(cells: Sequence[str]) -> str:
    cells = [cell.replace("|", "/").replace("\n", ", ") for cell in cells]
    return f"| {' | '.join(cells)} |"
