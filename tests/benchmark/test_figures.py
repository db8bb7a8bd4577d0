"""Figures of a benchmark from hand-made times: percentiles, load, shares, the Pareto front."""

import pytest

from sonodetr.benchmark.floor import CONVOLUTION, ELEMENTS, LAYOUT, PRODUCT, ROWS
from sonodetr.benchmark.measure import _better, processor_load, summary
from sonodetr.benchmark.plot import pareto_front, plot_pareto
from sonodetr.benchmark.profile import by_kind
from sonodetr.benchmark.tables import markdown, name_of


def test_percentiles():
    took = summary([index / 1000 for index in range(101)])  # 0 to 100 ms
    assert took == pytest.approx({"p50": 50, "p95": 95, "p99": 99, "mean": 50, "least": 0})
    assert summary([0.003, 0.001, 0.002])["p50"] == pytest.approx(2)


def test_processor_load():
    turns = [{"processor_s": 1.9, "wall_s": 1.0}, {"processor_s": 0.1, "wall_s": 3.0}]
    assert processor_load(turns) == pytest.approx(0.5)


def test_the_best_rate_of_all_turns():
    first = {"float32": 3.0, "memory": {"7": 5.0, "11": 2.0}}
    second = {"float32": 2.0, "memory": {"7": 7.0, "11": 1.0}}
    assert _better(first, second) == {"float32": 3.0, "memory": {"7": 7.0, "11": 2.0}}


FLOOR = {CONVOLUTION: 2.0, PRODUCT: 0.25, ROWS: 0.0, ELEMENTS: 0.0, LAYOUT: 0.0}
OPERATORS = {
    "Conv": {"seconds": 0.006, "count": 3.0},
    "FusedConv": {"seconds": 0.002, "count": 1.0},
    "Gemm": {"seconds": 0.001, "count": 2.0},
    "Relu": {"seconds": 0.0005, "count": 5.0},
}


def test_time_by_kind_of_operator():
    """9.5 ms in all operators; 10 ms without clocks, so half of one goes by between them."""
    rows = by_kind(OPERATORS, 10.0, FLOOR)
    kinds = [CONVOLUTION, PRODUCT, ELEMENTS, ROWS, LAYOUT, "between operators"]
    assert [row["kind"] for row in rows] == kinds
    assert [row["ms"] for row in rows] == pytest.approx([8, 1, 0.5, 0, 0, 0.5])
    assert rows[0] == {
        "kind": CONVOLUTION,
        "operators": 4,
        "ms": pytest.approx(8),
        "floor_ms": 2.0,
        "types_ms": pytest.approx({"Conv": 6.0, "FusedConv": 2.0}),
    }


def test_what_the_clocks_cost():
    """11 operators share what clocks added, but none can cost less than nothing."""
    rows = by_kind(OPERATORS, 9.06, FLOOR)  # 0.04 ms each
    assert [row["ms"] for row in rows] == pytest.approx([7.84, 0.92, 0.3, 0, 0, 0], abs=1e-9)
    rows = by_kind(OPERATORS, 7.8, FLOOR)  # 0.2 ms each of 6, and all 0.5 ms of the small ones
    assert [row["ms"] for row in rows] == pytest.approx([7.2, 0.6, 0, 0, 0, 0], abs=1e-9)


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(1.0, 0.5)], [0]),
        ([(3.0, 0.5), (2.0, 0.3), (1.0, 0.4)], [2, 0]),  # the second loses to the third twice
        ([(1.0, 0.2), (2.0, 0.3), (5.0, 0.1), (3.0, 0.7)], [0, 1, 3]),
        ([(1.0, 0.3), (1.0, 0.5)], [1]),  # as fast, but better
        ([(2.0, 0.5), (1.0, 0.5)], [1]),  # as good, but faster
        ([(1.0, 0.5), (1.0, 0.5)], [0]),
        ([], []),
    ],
)
def test_pareto_front(points, front):
    assert pareto_front(points) == front


def row(**changes):
    times = {"p50": 2.0, "p95": 3.0, "p99": 5.0, "mean": 2.5, "least": 1.0}
    return {
        "model": "runs/nano", "runtime": "onnx", "precision": "int8", "image_size": (160, 256),
        "threads": 2, "ap": 0.41234, "model_ms": times, "frame_ms": times | {"p50": 2.5},
        "frames_per_second": 400.0, "processor_load": 1.75, "peak_memory_mib": None,
        "cold_start_s": 0.25, "parameters": 550_000, "gflops": 0.225, "file_mb": 2.25,
        "floor_ms": 1.25, "times_floor": 1.6,
    } | changes  # fmt: skip


def result(*rows):
    return {
        "machine": {
            "processor": "A chip", "cores": 2, "instructions": ["avx2"],
            "versions": {"sonodetr": "0.1.0"},
        },
        "rates": {"2": {"float32": 100.4, "int8": 399.6, "memory": {"2048": 50.2}}},
        "notes": ["mind this"],
        "results": list(rows),
    }  # fmt: skip


def test_markdown():
    profile = [
        {"kind": "convolution", "operators": 3, "ms": 1.5, "floor_ms": 1.0,
         "types_ms": {"Conv": 1.25, "FusedConv": 0.25}},
    ]  # fmt: skip
    text = markdown(result(row(profile=profile), row(ap=None)))
    name = "nano, onnx int8, 160 x 256, 2 threads"
    assert name_of(row()) == name
    assert f"| {name} | 0.412 | 2.00 | 3.00 | 5.00 | 1.25 | 1.60 |" in text
    assert f"| {name} |  | 2.00 |" in text
    assert f"| {name} | 2.50 | 3.00 | 5.00 | 400 | 1.75 |" in text
    assert f"| {name} | 0.25 |  | 0.55 M | 0.225 | 2.2 MB |" in text
    assert "- threads 2: 100 GFLOP/s in float32, 400 Gop/s in int8, 50 GB/s in 2 MiB" in text
    assert "- mind this" in text
    assert "| convolution | 3 | 1.500 | 1.000 | Conv 1.25, FusedConv 0.25 |" in text


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "pareto.png"
    assert not plot_pareto(path, [row(ap=None)])
    assert not path.exists()
    assert plot_pareto(path, [row(), row(ap=0.2, runtime="torch")])
    assert path.read_bytes().startswith(b"\x89PNG")
