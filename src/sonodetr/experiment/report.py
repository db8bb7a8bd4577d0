"""The report of an experiment: an HTML page that needs nothing else, and its tables in Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sonodetr import report
from sonodetr.experiment import charts
from sonodetr.experiment.pictures import attention_parts, failure_parts
from sonodetr.experiment.story import (
    Results,
    Table,
    answer,
    comparison_table,
    facts,
    headline,
    markdown,
    result_table,
    run_table,
)
from sonodetr.files import write_text

PAGE, TEXT = "report.html", "report.md"


def write_report(results: Results, out: Path, runs: Path | None = None) -> Path:
    """Write `out / "report.html"` and `out / "report.md"`.

    Args:
        results: what `results.collect` made, or results.json holds.
        out: folder of the report.
        runs: the experiment's folder, which the names of its runs are relative to; default is
            `out`. Pictures need the runs and the data, and are left out where they are gone.

    Returns:
        The page.

    Raises:
        InputError: the folder cannot be written.
    """
    sections = [
        report.Section("Results", _results(results)),
        report.Section("Comparisons", _comparisons(results)),
        report.Section("Where the gain is", _where(results)),
        report.Section("Attention", attention_parts(results, runs or out)),
        report.Section("Worst failures", failure_parts(results, runs or out)),
        report.Section("Run it again", _again(results)),
    ]
    report.write_page(
        out / PAGE,
        results["question"] or f"What does {results['name']} show?",
        " ".join(answer(results)),
        sections,
        results["provenance"],
    )
    write_text(out / TEXT, _markdown(results))
    return out / PAGE


def _table(table: Table) -> str:
    return report.table(table.head, table.rows, table.caption)


def _present(parts: Sequence[str | None]) -> list[str]:
    return [part for part in parts if part is not None]


def _results(results: Results) -> list[str]:
    parts = [_table(result_table(results)), *map(report.paragraph, facts(results))]
    kinds = charts.kinds_of_queries(results["rows"])
    drawn = [
        charts.ap_against_latency(results),
        charts.few_labels(results),
        *(charts.curves(results, queries) for queries in kinds),
    ]
    return [*parts, report.columns(_present(drawn))]


def _comparisons(results: Results) -> list[str]:
    names = [test["name"] for test in results["tests"]]
    if not results["comparisons"][names[0]]:
        return [report.paragraph("Nothing is compared.")]
    return [_table(comparison_table(results, name)) for name in names]


def _where(results: Results) -> list[str]:
    best = headline(results)
    kinds = charts.kinds_of_queries(results["rows"])
    queries = best["queries"] if best else kinds[0]
    drawn = _present(
        [
            charts.by_recording(results, best) if best else None,
            charts.tip_errors(results, queries),
        ]
    )
    return [report.columns(drawn)]


def _again(results: Results) -> list[str]:
    plan: dict[str, Any] = results["plan"]
    parts = [report.commands(results["again"])] if results["again"] else []
    parts.append(report.details("Every training", [_table(run_table(results))]))
    if plan:
        text = yaml.safe_dump(plan, sort_keys=False, allow_unicode=True)
        parts.append(report.details("The experiment's file", [report.commands(text.splitlines())]))
    return parts


def _markdown(results: Results) -> str:
    blocks = [
        f"# {results['question'] or results['name']}",
        " ".join(answer(results)),
        markdown(result_table(results)),
        *facts(results),
    ]
    for test in results["tests"]:
        if results["comparisons"][test["name"]]:
            blocks += [
                f"## Comparisons on the part {test['name']!r}",
                markdown(comparison_table(results, test["name"])),
            ]
    blocks += ["## Every training", markdown(run_table(results)), "## Run it again"]
    if results["again"]:
        blocks.append("```\n" + "\n".join(results["again"]) + "\n```")
    versions = results["provenance"]["versions"] | {
        "git revision": results["provenance"]["git_revision"]
    }
    blocks.append("; ".join(f"{name} {value}" for name, value in versions.items()))
    return "\n\n".join(block.strip() for block in blocks) + "\n"
