"""What was measured, as tables for the terminal and for `benchmark.md`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

Row = dict[str, Any]
_Columns = dict[str, Callable[[Row], str]]


def _percentiles(times: str) -> _Columns:
    return {
        "p50 ms": lambda row: f"{row[times]['p50']:.2f}",
        "p95": lambda row: f"{row[times]['p95']:.2f}",
        "p99": lambda row: f"{row[times]['p99']:.2f}",
    }


_TABLES: dict[str, _Columns] = {
    "the model alone": {
        "AP": lambda row: "" if row["ap"] is None else f"{row['ap']:.3f}",
        **_percentiles("model_ms"),
        "floor ms": lambda row: f"{row['floor_ms']:.2f}",
        "p50 / floor": lambda row: f"{row['times_floor']:.2f}",
    },
    "whole frames, from pixels to detections": {
        **_percentiles("frame_ms"),
        "a second": lambda row: f"{row['frames_per_second']:.0f}",
        "load": lambda row: f"{row['processor_load']:.2f}",
    },
    "what it costs": {
        "cold start s": lambda row: f"{row['cold_start_s']:.2f}",
        "peak MiB": lambda row: _whole(row["peak_memory_mib"]),
        "parameters": lambda row: f"{row['parameters'] / 1e6:.2f} M",
        "GFLOPs": lambda row: f"{row['gflops']:.3f}",
        "file": lambda row: f"{row['file_mb']:.1f} MB",
    },
}
_KINDS: _Columns = {
    "kind": lambda kind: kind["kind"],
    "operators": lambda kind: str(kind["operators"]),
    "ms": lambda kind: f"{kind['ms']:.3f}",
    "floor ms": lambda kind: f"{kind['floor_ms']:.3f}",
    "longest": lambda kind: ", ".join(
        f"{name} {ms:.2f}" for name, ms in [*kind["types_ms"].items()][:3]
    ),
}
_WORDS = ("model", "kind", "longest")


def name_of(row: Row) -> str:
    """A row's model, runtime, input and threads in a few words."""
    precision = "" if row["precision"] == "float32" else f" {row['precision']}"
    height, width = row["image_size"]
    threads = f"{row['threads']} thread{'s' * (row['threads'] > 1)}"
    runtime = f"{row['runtime']}{precision}"
    return f"{Path(row['model']).name}, {runtime}, {height} x {width}, {threads}"


def print_tables(result: dict[str, Any], console: Console) -> None:
    """Show what `measure.benchmark` returns."""
    for title, columns, rows in _tables(result):
        table = Table(title=escape(title), title_justify="left", box=box.SIMPLE)
        for heading in columns:
            words = heading in _WORDS
            table.add_column(heading, justify="left" if words else "right", no_wrap=not words)
        for row in rows:
            table.add_row(*(escape(text(row)) for text in columns.values()))
        console.print(table)
    for line in _lines(result):
        console.print(escape(line), highlight=False)


def markdown(result: dict[str, Any]) -> str:
    """The same for `benchmark.md`."""
    parts = ["# Benchmark", "", *(f"- {line}" for line in _lines(result)), ""]
    for title, columns, rows in _tables(result):
        cells = [[text(row) for text in columns.values()] for row in rows]
        parts += [f"## {title[0].upper()}{title[1:]}", "", *_grid([*columns], cells), ""]
    return "\n".join(parts)


def _tables(result: dict[str, Any]) -> list[tuple[str, _Columns, list[Row]]]:
    rows = result["results"]
    tables = [(title, {"model": name_of, **columns}, rows) for title, columns in _TABLES.items()]
    profiled = [row for row in rows if row.get("profile")]
    return tables + [
        (f"where the time goes: {name_of(row)}", _KINDS, row["profile"]) for row in profiled
    ]


def _lines(result: dict[str, Any]) -> list[str]:
    """Machine, versions and rates, and what a reader must know."""
    machine = result["machine"]
    with_versions = [f"{name} {number}" for name, number in machine["versions"].items()]
    processor = [machine["processor"], f"{machine['cores']} cores", *machine["instructions"]]
    lines = [", ".join(processor), ", ".join(with_versions)]
    for threads, rates in result["rates"].items():
        memory = [
            f"{rate:.0f} GB/s in {int(kib) / 1024:g} MiB" for kib, rate in rates["memory"].items()
        ]
        products = f"{rates['float32']:.0f} GFLOP/s in float32, {rates['int8']:.0f} Gop/s in int8"
        lines.append(f"threads {threads}: {products}, {', '.join(memory)}")
    return lines + result["notes"]


def _grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rules = ["---" if heading in _WORDS else "---:" for heading in headings]
    return [f"| {' | '.join(cells)} |" for cells in (headings, rules, *rows)]


def _whole(number: float | None) -> str:
    return "" if number is None else f"{number:.0f}"
