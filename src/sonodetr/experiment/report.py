"""The report of an experiment: an HTML page that needs nothing else, and its tables in Markdown."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import yaml

from sonodetr import report
from sonodetr.experiment import charts
from sonodetr.experiment.pictures import attention_parts, failure_parts
from sonodetr.experiment.story import (
    Results,
    answer,
    comparison_table,
    facts,
    headline,
    kinds_of_queries,
    main_test,
    markdown,
    result_table,
    run_table,
)
from sonodetr.files import InputError, write_text

PAGE, TEXT = "report.html", "report.md"


def write_report(results: Results, out: Path, more: Sequence[report.Section] = ()) -> Path:
    """Write `out / "report.html"` and `out / "report.md"`.

    Pictures need the runs, whose names are relative to `out`, and the data; they are left out where
    these are gone.

    Args:
        results: what `results.collect` made, or results.json holds.
        out: folder of results.json.
        more: sections at the end of the page.

    Returns:
        The page.

    Raises:
        InputError: the folder cannot be written.
    """
    sections = [
        report.Section("Results", _results(results)),
        report.Section("Comparisons", _comparisons(results)),
        report.Section("Where the gain is", _where(results)),
        report.Section("Attention", _pictures(attention_parts, results, out)),
        report.Section("Worst failures", _pictures(failure_parts, results, out)),
        report.Section("Run it again", _again(results)),
        *more,
    ]
    report.write_page(
        out / PAGE,
        results["question"] or f"What does {results['name']} show?",
        " ".join(answer(results)),
        sections,
        results["provenance"],
    )
    write_text(out / TEXT, as_markdown(results))
    return out / PAGE


def _beside(charts: Iterable[str | None]) -> str:
    """Those that there are, side by side."""
    return report.columns([chart for chart in charts if chart is not None])


def _results(results: Results) -> list[str]:
    drawn = [charts.ap_against_latency(results), charts.few_labels(results)]
    for queries in kinds_of_queries(results):
        drawn += charts.curves(results, queries), charts.attention_distances(results, queries)
    table = report.table(*result_table(results))
    return [table, *map(report.paragraph, facts(results)), _beside(drawn)]


def _comparisons(results: Results) -> list[str]:
    if not results["comparisons"][main_test(results)]:
        return [report.paragraph("Nothing is compared.")]
    return [report.table(*comparison_table(results, each["name"])) for each in results["tests"]]


def _where(results: Results) -> list[str]:
    best = headline(results)
    queries = best["queries"] if best else kinds_of_queries(results)[0]
    gains = charts.by_recording(results, best) if best else None
    return [_beside([gains, charts.tip_errors(results, queries)])]


def _pictures(
    make: Callable[[Results, Path], list[str]], results: Results, runs: Path
) -> list[str]:
    try:
        return make(results, runs)
    except InputError as error:
        return [report.paragraph(f"Left out: {error}")]


def _again(results: Results) -> list[str]:
    plan = yaml.safe_dump(results["plan"], sort_keys=False, allow_unicode=True)
    return [
        report.commands(results["again"]),
        report.details("Every training", [report.table(*run_table(results))]),
        report.details("The experiment's file", [report.commands(plan.splitlines())]),
    ]


def as_markdown(results: Results) -> str:
    """The tables of a report, which need nothing but the results."""
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
    made_by = results["provenance"]
    versions = made_by["versions"] | {"git revision": made_by["git_revision"]}
    blocks += [
        "## Every training",
        markdown(run_table(results)),
        "## Run it again",
        "```\n" + "\n".join(results["again"]) + "\n```",
        "; ".join(f"{name} {value}" for name, value in versions.items()),
    ]
    return "\n\n".join(block.strip() for block in blocks) + "\n"
