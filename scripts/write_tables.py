"""Write the tables of README.md, docs/ and the reports from the results that are committed.

A page holds `<!-- table docs/results/NAME/results.json -->`, the table, `<!-- end -->`. In place of
`table` stands `answer` for the answer of that experiment in sentences, `gains` for its methods by
share of labels beside what each is compared to, `progress` for their AP through the training,
`models` for a file that collect_models.py wrote, `latency` for one of benchmarks/peers/latency.py,
`accuracy` for one of accuracy.py there. Run it when they change.
"""

import re
import sys
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from textwrap import fill
from typing import Any

from sonodetr import report
from sonodetr.experiment.report import PAGE, TEXT, as_markdown
from sonodetr.experiment.story import answer, markdown, result_table, signed
from sonodetr.files import read_json, write_text

_TABLE = re.compile(r'<div class="scroll"><table>.*?</table></div>', re.DOTALL)
ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(
    r"(<!-- (table|answer|gains|progress|models|latency|accuracy) (\S+) -->\n)"
    r".*?(?<=\n)(<!-- end -->)",
    re.DOTALL,
)


def filled(text: str) -> str:
    """A page with its blocks as the results say.

    Raises:
        InputError: a file of results is missing.
    """

    def written(match: re.Match[str]) -> str:
        begin, what, path, end = match.groups()
        return f"{begin}{_WRITE[what](read_json(ROOT / path)).strip()}\n{end}"

    return _BLOCK.sub(written, text)


def models(results: dict[str, Any]) -> str:
    """A row a model, with the 95% interval of its AP and the fastest of its timed runtimes."""
    head = "|M parameters|pictures seen|AP on validation|AP on test|AP50|tip error, mm|ms"
    rows = [head.split("|"), ["---"] * 8]
    for model in results["models"]:
        test, ms = model["test"], [each["model_ms"]["p50"] for each in model["times"]]
        rows.append(
            [
                model["label"],
                f"{model['parameters'] / 1e6:.2f}",
                f"{model['pictures_seen']:,}",
                f"{model['validation_ap']:.3f}",
                "{value:.3f} ({low:.3f} to {high:.3f})".format(**test["ap"]),
                f"{test['ap50']['value']:.3f}",
                f"{test['tip_error_median_mm']['value']:.2f}",
                f"{min(ms):.2f}",
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def gains(results: dict[str, Any]) -> str:
    """A row for each method that is compared to one with as many labels, fewest labels first."""
    part = results["tests"][0]["name"]
    found = {row["method"]: row for row in results["rows"] if row["queries"] is not None}
    rows = []
    for each in results["comparisons"][part]:
        row, other = found[each["method"]], found[each["against"]]
        if row["labels"] == other["labels"]:
            ap = [_mean(of["tests"][part]["figures"]["ap"]) for of in (other, row)]
            name = re.sub(r", [\d.]+% of labels", "", row["method"])
            gain, share = each["difference"], row["labels"]
            bounds = f"{signed(gain['low'])} to {signed(gain['high'])}"
            p = max(each["p_corrected"], 0.001)
            cells = [f"{100 * share:g}%", name, *ap, f"{signed(gain['value'])} ({bounds})"]
            rows.append((share, [*cells, f"{'<' * (p == 0.001)}{p:.3f}"]))
    head = ["labels", "teacher's", "AP without", "AP with", "gain", "p, corrected"]
    lines = [head, ["---"] * len(head), *(cells for _, cells in sorted(rows, key=itemgetter(0)))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def progress(results: dict[str, Any]) -> str:
    """AP on validation data at quarters of the training, mean over seeds, a row a method."""
    quarters = (0.25, 0.5, 0.75, 1.0)
    lines = [["method", *(f"{share:.0%}" for share in quarters)], ["---"] * (1 + len(quarters))]
    for row in results["rows"]:
        if row["queries"] is not None:
            curves = [dict(curve) for curve in row["curves"]]
            found = [[curve[share * max(curve)] for curve in curves] for share in quarters]
            name = row["method"] + (f" ({row['queries']})" if row["queries"] else "")
            lines.append([name, *(f"{sum(each) / len(each):.3f}" for each in found)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean(ap: dict[str, Any]) -> str:
    return f"{ap['mean']:.3f} ± {ap['deviation']:.3f}"


def latency(results: dict[str, Any]) -> str:
    """A table an input size."""
    sys.path.append(str(ROOT / "benchmarks" / "peers"))
    from latency import table

    ways = results["results"]
    return "\n\n".join(
        f"{side} x {side} pixels:\n\n{table(ways, side)}"
        for side in sorted({way["side"] for way in ways})
    )


def accuracy(results: dict[str, Any]) -> str:
    """A row a training, with the time of a picture in its faster runtime, and by how much ours lie
    above the peers."""
    sys.path.append(str(ROOT / "benchmarks" / "peers"))
    from accuracy import table

    milliseconds: dict[tuple[str, int], float] = {}
    for way in read_json(ROOT / "docs" / "results" / "peers-latency.json")["results"]:
        for detector in way["detectors"]:
            key, taken = (detector["name"], way["side"]), detector["p50_ms"]
            milliseconds[key] = min(taken, milliseconds.get(key, taken))
    return table(results, milliseconds)


_WRITE: dict[str, Callable[[dict[str, Any]], str]] = {
    "table": lambda results: markdown(result_table(results)),
    "answer": lambda results: fill(" ".join(answer(results)), 110, break_on_hyphens=False),
    "gains": gains,
    "progress": progress,
    "models": models,
    "latency": latency,
    "accuracy": accuracy,
}


def due() -> Iterator[tuple[Path, str]]:
    """The pages that are not as the results say, and what they should hold.

    Of a report as a web page, whose pictures need runs and data, only the first table is written.
    """
    for page in PAGES:
        yield from _changed(page, filled)
    for path in sorted((ROOT / "docs" / "results").glob("*/results.json")):
        results = read_json(path)
        text, table = as_markdown(results), report.table(*result_table(results))
        yield from _changed(path.with_name(TEXT), lambda _, text=text: text)
        if path.with_name(PAGE).exists():
            yield from _changed(
                path.with_name(PAGE),
                lambda page, table=table: _TABLE.sub(lambda _: table, page, count=1),
            )


def _changed(path: Path, make: Callable[[str], str]) -> Iterator[tuple[Path, str]]:
    before = path.read_text(encoding="utf-8")
    if (after := make(before)) != before:
        yield path, after


def main() -> int:
    for path, text in due():
        write_text(path, text)
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
